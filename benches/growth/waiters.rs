//! A get and its return while many callers wait.
//!
//! The queue must stay as it is while other callers get and return connections. So its
//! waiters have the least important priority and ageing is slow: callers with the most
//! important priority are always served before them.
//!
//! - *Past the queue*: one thread uses the pool's only connection, with a fairness bound
//!   that is never reached. Its get pops the connection from the stack. Its return wakes
//!   the first waiter, which usually comes too late and waits again; if it is quicker, it
//!   gets the connection and returns it at once. The median over short batches is the
//!   cost of gets without such interruptions; the mean includes them.
//! - *Handed over*: four threads share the connection, with strict fairness. Each return
//!   hands it to one of them, before all waiters in the queue. Most of the cost is the
//!   switch of threads.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::Fairness;

use crate::measure::{Probe, Scale, StubGuard, StubPool, builder, get, median, rounds};
use fairpool_bench::growth::{Growth, PAST_A_QUEUE};
use fairpool_bench::stub::Stub;

/// Small, because there may be ten thousand threads.
const STACK: usize = 64 * 1024;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ACTIVE: u32 = 4;
const BATCH: u32 = 16;

pub fn measure(scale: &Scale) -> Vec<Growth> {
    let mut rows = Vec::new();
    {
        let crowds = Crowd::of_each(scale, Fairness::Bounded(DAY));
        let past = |summary: fn(Vec<f64>) -> f64| {
            let probe = move |crowd| -> Probe { Box::new(move || past(crowd, scale, summary)) };
            crowds.iter().map(move |crowd| (crowd.size, probe(crowd)))
        };
        rows.extend(rounds(scale, PAST_A_QUEUE, past(median)));
        rows.extend(rounds(scale, "the same, mean of all", past(mean)));
    }
    let crowds = Crowd::of_each(scale, Fairness::Strict);
    let probe = |crowd| -> Probe { Box::new(move || handed_over(crowd, scale.length)) };
    let probes = crowds.iter().map(|crowd| (crowd.size, probe(crowd)));
    rows.extend(rounds(scale, "get handed over before a queue", probes));
    rows
}

/// A pool of one connection, and its waiters.
struct Crowd {
    size: u32,
    pool: StubPool,
    /// The connection, between measurements.
    held: RefCell<Option<StubGuard>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn of_each(scale: &Scale, fairness: Fairness) -> Vec<Crowd> {
        scale.waiters.iter().map(|&size| Crowd::gather(size, fairness)).collect()
    }

    fn gather(size: u32, fairness: Fairness) -> Crowd {
        let builder = builder(1).fairness(fairness).priority_ageing(DAY);
        let pool = builder.build(Stub).expect("the stub never fails");
        let held = Some(get(&pool)).into();
        let threads = (0..size).map(|_| start(wait_again_and_again(pool.clone()))).collect();
        while pool.stats().waiting < size {
            thread::sleep(Duration::from_millis(1));
        }
        Crowd { size, pool, held, threads }
    }

    /// Runs `work` while the connection is in the pool.
    fn with_connection<R>(&self, work: impl FnOnce() -> R) -> R {
        drop(self.held.take());
        let result = work();
        self.held.replace(Some(first_class(&self.pool)));
        result
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.held.take();
        // Ends the waits; the connection may stay.
        let _ = self.pool.close(Instant::now());
        self.threads.drain(..).for_each(|thread| thread.join().expect("a waiter panicked"));
    }
}

pub fn start<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    let builder = thread::Builder::new().name("waiter".into()).stack_size(STACK);
    builder.spawn(work).expect("room for the threads")
}

/// Returns each connection that it gets; ends when the pool closes.
fn wait_again_and_again(pool: StubPool) -> impl FnOnce() + Send + 'static {
    move || while pool.request().priority(u8::MAX).timeout(DAY).get().is_ok() {}
}

fn first_class(pool: &StubPool) -> StubGuard {
    pool.request().priority(0).get().expect("it comes back")
}

fn past(crowd: &Crowd, scale: &Scale, summary: fn(Vec<f64>) -> f64) -> f64 {
    crowd.with_connection(|| {
        let (start, mut batches) = (Instant::now(), Vec::new());
        while start.elapsed() < scale.length {
            let start = Instant::now();
            (0..BATCH).for_each(|_| drop(first_class(&crowd.pool)));
            batches.push(start.elapsed().as_nanos() as f64 / f64::from(BATCH));
        }
        summary(batches)
    })
}

fn mean(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn handed_over(crowd: &Crowd, length: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    let pool = &crowd.pool;
    let work = || {
        let mut gets = 0u64;
        while !stop.load(Ordering::Relaxed) {
            drop(first_class(pool));
            gets += 1;
        }
        gets
    };
    crowd.with_connection(|| {
        let start = Instant::now();
        let gets: u64 = thread::scope(|scope| {
            let active: Vec<_> = (0..ACTIVE).map(|_| scope.spawn(work)).collect();
            thread::sleep(length);
            stop.store(true, Ordering::Relaxed);
            active.into_iter().map(|thread| thread.join().expect("a thread panicked")).sum()
        });
        start.elapsed().as_nanos() as f64 / gets as f64
    })
}
