//! Many waits that end at one instant, because their time is up or their one
//! token is cancelled: how long until the last of them is back.
//!
//! Beside them stands what no pool can undercut: as many threads whose bare
//! timed waits end together.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::CancelToken;
use parking_lot::{Condvar, Mutex};

use crate::measure::{Probe, Scale, StubPool, builder, get, rounds};
use crate::support::growth::{Growth, MASS_CANCEL, MASS_TIMEOUT};
use crate::support::stub::Stub;
use crate::waiters::start;

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

/// When the last thread was back, counted from the instant at which all were to end.
fn last_back(threads: Vec<JoinHandle<Instant>>, end: Instant) -> f64 {
    let back = threads.into_iter().map(|thread| thread.join().expect("a waiter panicked"));
    let last = back.max().expect("somebody waited");
    last.saturating_duration_since(end).as_nanos() as f64
}

fn bare(_: &StubPool, size: u32, gathering: Duration) -> f64 {
    let end = Instant::now() + gathering;
    let wait = move || {
        let (lock, condvar) = (Mutex::new(()), Condvar::new());
        let mut guard = lock.lock();
        while !condvar.wait_until(&mut guard, end).timed_out() {}
        Instant::now()
    };
    last_back((0..size).map(|_| start(wait)).collect(), end)
}

/// Takes more time to gather them if not all were there in time.
fn timeouts(pool: &StubPool, size: u32, gathering: Duration) -> f64 {
    let end = Instant::now() + gathering;
    let wait = |pool: StubPool| {
        move || {
            let refused = pool.request().deadline(end).get();
            let back = Instant::now();
            assert!(refused.is_err_and(|error| error.is_timeout()), "the connection was held");
            back
        }
    };
    let threads: Vec<_> = (0..size).map(|_| start(wait(pool.clone()))).collect();
    let gathered = gathered(pool, size, end);
    let last = last_back(threads, end);
    if gathered { last } else { timeouts(pool, size, 2 * gathering) }
}

/// Whether all wait a little before the end.
fn gathered(pool: &StubPool, size: u32, end: Instant) -> bool {
    while pool.stats().waiting < size {
        if Instant::now() + Duration::from_millis(20) > end {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

fn cancels(pool: &StubPool, size: u32, _: Duration) -> f64 {
    let token = CancelToken::new();
    let wait = |pool: StubPool, token: CancelToken| {
        move || {
            let refused = pool.request().timeout(Duration::MAX).cancel(&token).get();
            let back = Instant::now();
            assert!(refused.is_err_and(|error| error.is_cancelled()), "the connection was held");
            back
        }
    };
    let start = || start(wait(pool.clone(), token.clone()));
    let threads: Vec<_> = (0..size).map(|_| start()).collect();
    while pool.stats().waiting < size {
        thread::sleep(Duration::from_millis(1));
    }
    // Those that came last have joined, but may not be asleep yet.
    thread::sleep(Duration::from_millis(20));
    let end = Instant::now();
    token.cancel();
    last_back(threads, end)
}
