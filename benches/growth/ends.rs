//! Many waits that end at one instant, by their deadline or by the cancel of one token:
//! the time until the last of them has returned.
//!
//! For comparison, the lower limit for every pool: the same number of threads whose bare
//! timed waits end together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::CancelToken;
use parking_lot::{Condvar, Mutex};

use crate::measure::{Probe, Scale, StubPool, builder, get, rounds};
use crate::waiters::start;
use fairpool_bench::growth::{Growth, MASS_CANCEL, MASS_TIMEOUT};
use fairpool_bench::stub::Stub;

pub fn measure(scale: &Scale) -> Vec<Growth> {
    let pool = builder(1).build(Stub).expect("the stub never fails");
    let _held = get(&pool);
    let gathering = scale.gathering;
    let each = |probe: fn(&StubPool, u32, Duration) -> f64| {
        let pool = &pool;
        let probe = move |size| -> Probe { Box::new(move || probe(pool, size, gathering)) };
        scale.masses.iter().map(move |&size| (size, probe(size)))
    };
    let mut rows = rounds(scale, "bare timed waits end together", each(bare));
    rows.extend(rounds(scale, MASS_TIMEOUT, each(timeouts)));
    rows.extend(rounds(scale, MASS_CANCEL, each(cancels)));
    rows
}

/// Threads that wait. None of them exits before all have returned from their waits,
/// because ten thousand threads take longer to exit than to return.
struct Mass {
    threads: Vec<JoinHandle<Instant>>,
    back: Arc<AtomicUsize>,
}

impl Mass {
    /// Runs `measured`, which returns the instant at which the waits end. Returns the
    /// nanoseconds from then until the last thread has returned.
    fn measure<W: FnOnce() + Send + 'static>(
        size: u32,
        wait: impl Fn() -> W,
        measured: impl FnOnce(&Mass) -> Instant,
    ) -> f64 {
        let (door, back) = (Arc::new(RwLock::new(())), Arc::new(AtomicUsize::new(0)));
        let closed = door.write().expect("BUG: poisoned");
        let one = |_| {
            let (wait, door, back) = (wait(), Arc::clone(&door), Arc::clone(&back));
            start(move || {
                wait();
                let now = Instant::now();
                back.fetch_add(1, Ordering::Relaxed);
                drop(door.read());
                now
            })
        };
        let mass = Mass { threads: (0..size).map(one).collect(), back };
        let end = measured(&mass);
        while mass.back.load(Ordering::Relaxed) < size as usize {
            thread::sleep(Duration::from_millis(1));
        }
        drop(closed);
        let back = mass.threads.into_iter().map(|one| one.join().expect("a waiter panicked"));
        let last = back.max().expect("a thread waited");
        last.saturating_duration_since(end).as_nanos() as f64
    }

    /// Waits until all are in the pool's queue. `false` if `until` came first.
    fn gathers(&self, pool: &StubPool, until: Option<Instant>) -> bool {
        while (pool.stats().waiting as usize) < self.threads.len() {
            if until.is_some_and(|until| Instant::now() > until) {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // The last ones are in the queue, but may not sleep yet.
        thread::sleep(Duration::from_millis(20));
        true
    }
}

fn bare(_: &StubPool, size: u32, gathering: Duration) -> f64 {
    let end = Instant::now() + gathering;
    let wait = move || {
        let (lock, condvar) = (Mutex::new(()), Condvar::new());
        let mut guard = lock.lock();
        while !condvar.wait_until(&mut guard, end).timed_out() {}
    };
    Mass::measure(size, || wait, |_| end)
}

/// Tries again with more time if not all were in the queue in time.
fn timeouts(pool: &StubPool, size: u32, gathering: Duration) -> f64 {
    let end = Instant::now() + gathering;
    let wait = || {
        let pool = pool.clone();
        move || {
            let refused = pool.request().deadline(end).get();
            assert!(refused.is_err_and(|error| error.is_timeout()), "the connection was held");
        }
    };
    let mut in_time = true;
    let last = Mass::measure(size, wait, |mass| {
        in_time = mass.gathers(pool, end.checked_sub(Duration::from_millis(50)));
        end
    });
    if in_time { last } else { timeouts(pool, size, 2 * gathering) }
}

fn cancels(pool: &StubPool, size: u32, _: Duration) -> f64 {
    let token = CancelToken::new();
    let wait = || {
        let (pool, token) = (pool.clone(), token.clone());
        move || {
            let refused = pool.request().timeout(Duration::MAX).cancel(&token).get();
            assert!(refused.is_err_and(|error| error.is_cancelled()), "the connection was held");
        }
    };
    Mass::measure(size, wait, |mass| {
        mass.gathers(pool, None);
        let end = Instant::now();
        token.cancel();
        end
    })
}
