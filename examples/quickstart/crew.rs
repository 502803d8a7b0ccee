//! All workers together: started, watched, stopped and counted.

use std::panic;
use std::process;
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::bank::{Bank, Pools};
use crate::interrupt::Interrupt;
use crate::options::Options;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::report;
use crate::worker::{Board, Tally, Worker};

/// How often the main thread updates the progress.
const TICK: Duration = Duration::from_millis(50);
/// How long after the end a worker may still be in a driver call: until the user is warned, and
/// until the program gives up.
const PATIENCE: Duration = Duration::from_secs(5);
const LAST_PATIENCE: Duration = Duration::from_secs(30);

/// What the workers have done.
pub struct Outcome {
    /// From the first thread's start to the last one's end.
    pub elapsed: Duration,
    pub tallies: Vec<Tally>,
}

pub fn run<B: Bank>(
    pools: &B::Pools,
    bank: &B,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Outcome, Problem> {
    let board = Board::default();
    let started = Instant::now();
    let tallies = thread::scope(|scope| {
        let mut workers = Vec::new();
        for id in 0..options.threads {
            let worker = Worker::new(id, pools, bank, &board, options.timeout);
            match thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn_scoped(scope, || worker.work())
            {
                Ok(handle) => workers.push(handle),
                Err(e) => {
                    board.stop.store(true, Ordering::Relaxed);
                    return Err(Problem::setting(
                        "--threads",
                        format!("only {id} could be started: {e}"),
                    ));
                }
            }
        }
        watch::<B>(pools, &board, started, options, interrupt);
        board.stop.store(true, Ordering::Relaxed);
        Ok(collect(workers))
    })?;
    Ok(Outcome { elapsed: started.elapsed(), tallies })
}

/// Shows the progress until the time is over or the user interrupts.
fn watch<B: Bank>(
    pools: &B::Pools,
    board: &Board,
    started: Instant,
    options: &Options,
    interrupt: &Interrupt,
) {
    let mut progress = Progress::new(started, options.duration);
    while !interrupt.raised() {
        let left = options.duration.saturating_sub(started.elapsed());
        thread::sleep(left.min(TICK));
        progress.show(board.operations.load(Ordering::Relaxed), || pools.stats());
        if left <= TICK {
            break;
        }
    }
    progress.finish();
    if interrupt.raised() {
        report::say("interrupted; once more to leave without cleaning up");
    }
}

fn collect(workers: Vec<ScopedJoinHandle<'_, Tally>>) -> Vec<Tally> {
    wait_for(&workers);
    workers
        .into_iter()
        .map(|worker| worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
        .collect()
}

/// The pool limits the wait for a connection, but nothing limits a query on a server that no
/// longer answers.
fn wait_for(workers: &[ScopedJoinHandle<'_, Tally>]) {
    let stopped = Instant::now();
    let mut warned = false;
    while workers.iter().any(|worker| !worker.is_finished()) {
        if stopped.elapsed() > PATIENCE && !warned {
            report::complain("the database does not answer; Ctrl-C twice to leave at once");
            warned = true;
        }
        if stopped.elapsed() > LAST_PATIENCE {
            // Without cleaning up, which needs the server.
            report::complain("error: the database does not answer, so there is no result");
            process::exit(1);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
