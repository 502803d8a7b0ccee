//! The measuring loop: threads that get a connection, use it and give it back,
//! for a set time.
//!
//! It is compiled once for each contestant, so that no contestant pays for a
//! call that another has inlined.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::cell::{Cell, Hold};
use crate::waits::{self, OfThread, Waits};

/// Enough for a get; a thousand threads with the default of 2 MiB would not be
/// what anybody runs.
const STACK_BYTES: usize = 256 * 1024;
/// How many operations without a hold go between two looks at the stop flag.
const BATCH: u64 = 64;

/// A way to get a connection. Dropping it gives it back.
pub trait Source: Sync {
    type Conn<'a>
    where
        Self: 'a;

    fn get(&self) -> Self::Conn<'_>;

    /// What a holder does with it.
    fn work(&self, conn: &mut Self::Conn<'_>, hold: Hold);
}

/// What one contestant did in one pass.
pub struct Pass {
    pub elapsed: Duration,
    /// Of each thread.
    pub operations: Vec<u64>,
    /// Empty if the pass was not timed.
    pub waits: Waits,
    pub voluntary_switches: u64,
}

struct OfOne {
    operations: u64,
    waits: OfThread,
    voluntary_switches: u64,
}

impl Pass {
    pub fn total(&self) -> u64 {
        self.operations.iter().sum()
    }

    pub fn operations_per_second(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64()
    }

    /// Jain's index: 1 if all threads got the same, 1/n if one got everything.
    pub fn jain(&self) -> f64 {
        let sum = self.total() as f64;
        let squares: f64 = self.operations.iter().map(|&own| (own as f64).powi(2)).sum();
        sum * sum / (self.operations.len() as f64 * squares.max(1.0))
    }

    pub fn switches_per_operation(&self) -> f64 {
        self.voluntary_switches as f64 / self.total().max(1) as f64
    }
}

/// Runs a cell's threads for `length`. A timed pass reads the clock around each
/// get, which without a hold costs more than the pool itself.
pub fn run<S: Source>(source: &S, cell: &Cell, length: Duration, timed: bool) -> Pass {
    let barrier = Barrier::new(cell.threads + 1);
    // On cache lines of its own: every thread reads it all the time.
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

fn collect(workers: Vec<ScopedJoinHandle<'_, OfOne>>, start: Instant) -> Pass {
    let finished = workers.into_iter().map(|worker| worker.join().expect("a worker panicked"));
    let all: Vec<OfOne> = finished.collect();
    // To the end of the last operation: each that was begun is counted.
    let elapsed = start.elapsed();
    let mut waits = waits::histogram();
    for one in &all {
        waits::merge(&mut waits, &one.waits);
    }
    Pass {
        elapsed,
        operations: all.iter().map(|one| one.operations).collect(),
        waits,
        voluntary_switches: all.iter().map(|one| one.voluntary_switches).sum(),
    }
}

fn one<S: Source>(
    source: &S,
    hold: Hold,
    timed: bool,
    barrier: &Barrier,
    stop: &AtomicBool,
) -> OfOne {
    let mut waits = waits::histogram();
    barrier.wait();
    let before = voluntary_switches();
    let operations = match (timed, hold) {
        (false, Hold::None) => untimed(source, stop),
        (true, Hold::None) => timed_without_hold(source, stop, &mut waits),
        _ => timed_with_hold(source, hold, stop, &mut waits),
    };
    OfOne { operations, waits, voluntary_switches: voluntary_switches() - before }
}

fn untimed<S: Source>(source: &S, stop: &AtomicBool) -> u64 {
    let mut operations = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let mut conn = source.get();
            source.work(&mut conn, Hold::None);
        }
        operations += BATCH;
    }
    operations
}

fn timed_without_hold<S: Source>(source: &S, stop: &AtomicBool, waits: &mut OfThread) -> u64 {
    let mut operations = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let mut conn = timed_get(source, waits);
            source.work(&mut conn, Hold::None);
        }
        operations += BATCH;
    }
    operations
}

fn timed_with_hold<S: Source>(
    source: &S,
    hold: Hold,
    stop: &AtomicBool,
    waits: &mut OfThread,
) -> u64 {
    let mut operations = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut conn = timed_get(source, waits);
        source.work(&mut conn, hold);
        operations += 1;
    }
    operations
}

#[inline]
fn timed_get<'a, S: Source>(source: &'a S, waits: &mut OfThread) -> S::Conn<'a> {
    let start = Instant::now();
    let conn = source.get();
    waits.saturating_record(start.elapsed().as_nanos() as u64);
    conn
}

/// How often this thread has gone to sleep of itself.
fn voluntary_switches() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
