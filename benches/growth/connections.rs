//! Pools of many connections: the cost of a get, of the stats, and of a refused get with
//! its report.
//!
//! A report names the longest holder. Every connection of the pool is lent: once with the
//! same longest holder each time, and once with a longest holder that returns its
//! connection before each refusal, so that another one must be found.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool, PooledConnection};
use parking_lot::{Condvar, Mutex};

use crate::measure::{
    Probe, Scale, StubGuard, StubPool, builder, get, median, nanos_per_call, rounds,
};
use fairpool_bench::growth::{ALL_IDLE, ALL_LENT, Growth};
use fairpool_bench::stub::Stub;

const BATCH: u32 = 16;

pub fn measure(scale: &Scale) -> Vec<Growth> {
    let pools: Vec<Lent> = scale.pools.iter().map(|&size| Lent::new(size)).collect();
    let each = |probe: fn(&Lent, Duration) -> f64| {
        let probe = move |pool| -> Probe { Box::new(move || probe(pool, scale.length)) };
        pools.iter().map(move |pool| (pool.size, probe(pool)))
    };
    let mut rows = Vec::new();
    rows.extend(rounds(scale, ALL_IDLE, each(get_and_return)));
    rows.extend(rounds(scale, "stats()", each(stats)));
    for pool in &pools {
        pool.lend_all_but(1);
    }
    rows.extend(rounds(scale, ALL_LENT, each(get_and_return)));
    for pool in &pools {
        pool.lend_all_but(0);
    }
    rows.extend(rounds(scale, "refused, the same longest holder", each(refused)));
    rows.extend(rounds(scale, "refused, another longest holder", each(refused_anew)));
    drop(pools);
    rows.extend(beside_a_hung_connect(scale));
    rows.extend(beside_a_hoarder(scale));
    rows
}

/// A pool and its guards, in the order of their gets.
struct Lent {
    size: u32,
    pool: StubPool,
    guards: RefCell<VecDeque<StubGuard>>,
}

impl Lent {
    fn new(size: u32) -> Lent {
        let pool = builder(size).build(Stub).expect("the stub never fails");
        Lent { size, pool, guards: RefCell::default() }
    }

    fn lend_all_but(&self, rest: u32) {
        let mut guards = self.guards.borrow_mut();
        while guards.len() < (self.size - rest) as usize {
            guards.push_back(get(&self.pool));
        }
    }
}

fn get_and_return(lent: &Lent, length: Duration) -> f64 {
    nanos_per_call(length, BATCH, || drop(get(&lent.pool)))
}

fn stats(lent: &Lent, length: Duration) -> f64 {
    nanos_per_call(length, BATCH, || {
        black_box(lent.pool.stats());
    })
}

fn refuse<M: ManageConnection>(pool: &Pool<M>) {
    let refused = pool.get_timeout(Duration::ZERO);
    assert!(refused.is_err_and(|error| error.is_timeout()), "every connection is lent");
}

fn refused(lent: &Lent, length: Duration) -> f64 {
    nanos_per_call(length, 1, || refuse(&lent.pool))
}

/// The time of the refusals, without the change of holders between them.
fn refused_anew(lent: &Lent, length: Duration) -> f64 {
    let (begin, mut nanos) = (Instant::now(), Vec::new());
    let mut guards = lent.guards.borrow_mut();
    while begin.elapsed() < length {
        drop(guards.pop_front());
        guards.push_back(get(&lent.pool));
        let start = Instant::now();
        refuse(&lent.pool);
        nanos.push(start.elapsed().as_nanos() as f64);
    }
    median(nanos)
}

/// A driver with room for some connections. The next connect hangs.
#[derive(Clone)]
struct Full {
    room: Arc<AtomicU32>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl ManageConnection for Full {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        let take = |room: u32| room.checked_sub(1);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            let mut open = self.gate.0.lock();
            self.gate.1.wait_while(&mut open, |open| !*open);
        }
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// A pool whose connections are lent but for one, whose connect hangs. Each report
/// mentions it.
struct Hung {
    size: u32,
    pool: Pool<Full>,
    driver: Full,
    _guards: Vec<PooledConnection<Full>>,
}

impl Hung {
    fn new(size: u32) -> Hung {
        let room = Arc::new(AtomicU32::new(size - 1));
        let driver = Full { room, gate: Arc::default() };
        let builder = builder(size).min_idle(Some(size - 1)).open_timeout(Duration::from_secs(600));
        let pool = builder.build(driver.clone()).expect("there is room");
        let get = |_| pool.get().expect("it was opened");
        let guards = (1..size).map(get).collect();
        Hung { size, pool, driver, _guards: guards }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        *self.driver.gate.0.lock() = true;
        self.driver.gate.1.notify_all();
    }
}

fn beside_a_hung_connect(scale: &Scale) -> Vec<Growth> {
    let pools: Vec<Hung> = scale.pools.iter().map(|&size| Hung::new(size)).collect();
    for hung in &pools {
        refuse(&hung.pool); // Starts the connect that hangs.
    }
    // A connect counts as slow after a quarter of a second.
    thread::sleep(Duration::from_millis(300));
    let probe = |hung: &'_ Hung| -> f64 { nanos_per_call(scale.length, 1, || refuse(&hung.pool)) };
    let probe = |hung| -> Probe { Box::new(move || probe(hung)) };
    let probes = pools.iter().map(|hung| (hung.size, probe(hung)));
    rounds(scale, "refused beside a hung connect", probes)
}

/// One thread holds all connections but one and waits for that one. So the pool checks at
/// each change whether every holder waits.
fn beside_a_hoarder(scale: &Scale) -> Vec<Growth> {
    let pools: Vec<Lent> = scale.pools.iter().map(|&size| Lent::new(size)).collect();
    thread::scope(|scope| {
        for lent in &pools {
            lent.guards.borrow_mut().push_back(get(&lent.pool));
            let (pool, size) = (lent.pool.clone(), lent.size);
            scope.spawn(move || {
                let _hoard: Vec<StubGuard> = (1..size).map(|_| get(&pool)).collect();
                assert!(pool.get_timeout(Duration::MAX).is_err(), "the pool closes");
            });
            while lent.pool.stats().waiting == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let probe = |lent| -> Probe { Box::new(move || refused(lent, scale.length)) };
        let probes = pools.iter().map(|lent| (lent.size, probe(lent)));
        let rows = rounds(scale, "refused beside a hoarder who waits", probes);
        for lent in &pools {
            // Ends the wait of the hoarder; the connections may stay.
            let _ = lent.pool.close(Instant::now());
        }
        rows
    })
}
