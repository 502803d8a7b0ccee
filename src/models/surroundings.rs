//! What surrounds a crowd of callers: chance, time, and an executor.

use super::{Bench, Driver, Plain, ms};
use crate::runtime::shared::Shared;
use crate::sync::checker::rand::{Rng, thread_rng};
use crate::sync::checker::thread::{self, JoinHandle};
use crate::sync::{Arc, AtomicU64, Ordering, advance};

// ---- chance ----

pub(super) fn one_in(n: u32) -> bool {
    thread_rng().gen_ratio(1, n)
}

pub(super) fn below(n: u64) -> u64 {
    thread_rng().gen_range(0..n)
}

pub(super) fn pick<T: Copy>(from: &[T]) -> T {
    from[below(from.len() as u64) as usize]
}

/// Lets other threads run first, for a while.
pub(super) fn let_others_run() {
    for _ in 0..below(4) {
        thread::yield_now();
    }
}

// ---- time ----

/// The clock gives up after this many turns without progress of a caller: a thread that can
/// run would have been drawn long before.
const TOO_LONG: u64 = 5_000;

/// Spawns the thread that advances time until this many callers have ended. It panics if
/// no caller makes progress for long.
pub(super) fn clock(
    bench: &Bench,
    outcomes: &Arc<Plain<Vec<String>>>,
    gone: &Arc<AtomicU64>,
    callers: u64,
) -> JoinHandle<()> {
    let shared = Arc::clone(&bench.shared);
    let (outcomes, gone) = (Arc::clone(outcomes), Arc::clone(gone));
    thread::spawn(move || {
        let (mut before, mut looks) = (0, 0);
        while gone.load(Ordering::Relaxed) < callers {
            thread::yield_now();
            if one_in(8) {
                advance(ms(1));
            }
            let now = outcomes.lock().expect("no caller panics here").len();
            looks = if now > before { 0 } else { looks + 1 };
            before = now;
            assert!(looks < TOO_LONG, "no caller makes progress: {:?}", shared.gauges());
        }
    })
}

// ---- the executor ----

/// Spawns the reaper and two workers, which end with the pool.
pub(super) fn start_executor(shared: &Arc<Shared<Driver>>) -> JoinHandle<()> {
    let executor = Arc::clone(&shared.executor.inner);
    assert!(executor.claim_reaper());
    let worker = || {
        let executor = Arc::clone(&executor);
        thread::spawn(move || {
            // A worker that ends after its idle time is replaced, as the real executor would do for a new job.
            loop {
                {
                    let mut scheduler = executor.scheduler.lock();
                    if scheduler.is_empty() {
                        return;
                    }
                    scheduler.threads.workers += 1;
                }
                executor.run_worker(None);
            }
        })
    };
    let workers = [worker(), worker()];
    thread::spawn(move || {
        executor.run_reaper();
        workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
    })
}
