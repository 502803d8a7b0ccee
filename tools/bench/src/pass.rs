//! The measuring loop: threads get a connection, use it and return it, for a set time.
//!
//! The loop is generic, so that the compiler can inline every contestant's calls alike.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::cell::{Cell, Hold};
use crate::waits::{self, ThreadWaits, Waits};

/// Enough for a get. The default of 2 MiB is too much for a thousand threads.
const STACK_BYTES: usize = 256 * 1024;
/// Operations without a hold between two reads of the stop flag.
const BATCH: u64 = 64;

/// A pool in this process.
pub trait Source: Sync {
    /// A connection. Dropping it returns it.
    type Conn<'a>
    where
        Self: 'a;

    /// Gets a connection; waits until one is free.
    fn get(&self) -> Self::Conn<'_>;

    /// Uses a connection.
    fn work(&self, conn: &mut Self::Conn<'_>, hold: Hold);
}

/// The figures of one contestant in one pass.
pub struct Pass {
    pub(crate) elapsed: Duration,
    /// Of each thread.
    pub(crate) operations: Vec<u64>,
    /// Empty if the pass was not timed.
    pub(crate) waits: Waits,
    /// Of a get, the work and the return; empty unless the work is a driver's.
    pub(crate) wholes: Waits,
    pub(crate) voluntary_switches: u64,
}

/// What one thread or one task did in a pass.
pub struct Tally {
    operations: u64,
    waits: ThreadWaits,
    wholes: Option<ThreadWaits>,
}

impl Tally {
    /// Nothing yet. Without a driver an operation is a wait and a hold that is known, so that
    /// wholes would only take memory.
    pub fn new(hold: Hold) -> Tally {
        let wholes = (hold == Hold::Driver).then(waits::histogram);
        Tally { operations: 0, waits: waits::histogram(), wholes }
    }

    /// Counts a connection that came after this wait.
    #[inline]
    pub fn got(&mut self, wait: Duration) {
        self.operations += 1;
        self.waits.saturating_record(wait.as_nanos() as u64);
    }

    /// Counts the time of an operation from before the get to after the return.
    #[inline]
    pub fn returned(&mut self, whole: Duration) {
        if let Some(wholes) = &mut self.wholes {
            wholes.saturating_record(whole.as_nanos() as u64);
        }
    }
}

impl Pass {
    /// A pass of these threads or tasks.
    pub fn of(elapsed: Duration, tallies: &[Tally], voluntary_switches: u64) -> Pass {
        let (mut waits, mut wholes) = (waits::histogram(), waits::histogram());
        for tally in tallies {
            waits::merge(&mut waits, &tally.waits);
            tally.wholes.iter().for_each(|own| waits::merge(&mut wholes, own));
        }
        let operations = tallies.iter().map(|tally| tally.operations).collect();
        Pass { elapsed, operations, waits, wholes, voluntary_switches }
    }

    /// A pass in which every caller got one connection, after these waits.
    pub fn of_crowd(elapsed: Duration, waited: impl IntoIterator<Item = Duration>) -> Pass {
        let (mut waits, mut operations) = (waits::histogram(), Vec::new());
        for wait in waited {
            waits.saturating_record(wait.as_nanos() as u64);
            operations.push(1);
        }
        Pass { elapsed, operations, waits, wholes: waits::histogram(), voluntary_switches: 0 }
    }

    /// The operations of all threads.
    pub fn total(&self) -> u64 {
        self.operations.iter().sum()
    }

    pub(crate) fn operations_per_second(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64()
    }

    /// Jain's index: 1 if all threads did the same number, 1/n if one of n did all.
    pub(crate) fn jain(&self) -> f64 {
        let sum = self.total() as f64;
        let squares: f64 = self.operations.iter().map(|&own| (own as f64).powi(2)).sum();
        sum * sum / (self.operations.len() as f64 * squares.max(1.0))
    }

    pub(crate) fn switches_per_operation(&self) -> f64 {
        self.voluntary_switches as f64 / self.total().max(1) as f64
    }
}

/// Runs a cell's threads for `length`. A timed pass reads the clock around each get,
/// which costs more than the get itself if there is no hold.
pub(crate) fn run<S: Source>(source: &S, cell: &Cell, length: Duration, timed: bool) -> Pass {
    let barrier = Barrier::new(cell.threads + 1);
    // Its own cache line, because every thread reads it all the time.
    let stop = CachePadded::new(AtomicBool::new(false));
    let work = || one(source, cell.hold, timed, &barrier, &stop);
    thread::scope(|scope| {
        let spawn = |_| {
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work).expect("a thread")
        };
        let workers: Vec<_> = (0..cell.threads).map(spawn).collect();
        barrier.wait();
        let start = Instant::now();
        thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        collect(workers, start)
    })
}

fn collect(workers: Vec<ScopedJoinHandle<'_, (Tally, u64)>>, start: Instant) -> Pass {
    let finished = workers.into_iter().map(|worker| worker.join().expect("a worker panicked"));
    let (tallies, switches): (Vec<Tally>, Vec<u64>) = finished.unzip();
    // Until the last operation ends, because each one that began is counted.
    Pass::of(start.elapsed(), &tallies, switches.iter().sum())
}

/// What one thread did, and how often it went to sleep.
fn one<S: Source>(
    source: &S,
    hold: Hold,
    timed: bool,
    barrier: &Barrier,
    stop: &AtomicBool,
) -> (Tally, u64) {
    let mut tally = Tally::new(hold);
    barrier.wait();
    let before = own_switches();
    match (timed, hold) {
        (false, Hold::None) => untimed(source, stop, &mut tally),
        (true, Hold::None) => timed_without_hold(source, stop, &mut tally),
        (_, Hold::Driver) => timed_whole(source, stop, &mut tally),
        _ => timed_with_hold(source, hold, stop, &mut tally),
    }
    (tally, own_switches() - before)
}

fn untimed<S: Source>(source: &S, stop: &AtomicBool, tally: &mut Tally) {
    let mut operations = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let mut conn = source.get();
            source.work(&mut conn, Hold::None);
        }
        operations += BATCH;
    }
    tally.operations = operations;
}

fn timed_without_hold<S: Source>(source: &S, stop: &AtomicBool, tally: &mut Tally) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let mut conn = timed_get(source, tally);
            source.work(&mut conn, Hold::None);
        }
    }
}

fn timed_with_hold<S: Source>(source: &S, hold: Hold, stop: &AtomicBool, tally: &mut Tally) {
    while !stop.load(Ordering::Relaxed) {
        let mut conn = timed_get(source, tally);
        source.work(&mut conn, hold);
    }
}

fn timed_whole<S: Source>(source: &S, stop: &AtomicBool, tally: &mut Tally) {
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut conn = source.get();
        tally.got(start.elapsed());
        source.work(&mut conn, Hold::Driver);
        drop(conn);
        tally.returned(start.elapsed());
    }
}

#[inline]
fn timed_get<'a, S: Source>(source: &'a S, tally: &mut Tally) -> S::Conn<'a> {
    let start = Instant::now();
    let conn = source.get();
    tally.got(start.elapsed());
    conn
}

fn own_switches() -> u64 {
    voluntary_switches(Path::new("/proc/thread-self"))
}

/// How often a thread has gone to sleep by itself, by the kernel's count; from its folder in
/// `/proc`.
pub fn voluntary_switches(thread: &Path) -> u64 {
    let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
