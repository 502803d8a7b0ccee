//! P17: the pool is never empty by its own hand, and makes no caller wait for a connect that
//! could have been made before.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use fairpool_testing::stub::{Does, Gate, Op, Server, builder, eventually, lock};

use crate::support::{assert_whole, ms};

#[test]
fn p17_idle_time_leaves_min_idle_connections() {
    let server = Server::new();
    let pool = builder(5)
        .min_idle(Some(2))
        .max_opening(5)
        .idle_timeout(Some(ms(30)))
        .build(server.manager())
        .unwrap();
    drop((0..5).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    let fewest = Arc::new(AtomicUsize::new(usize::MAX));
    server.spy({
        let (fewest, server) = (fewest.clone(), server.clone());
        move |_| {
            fewest.fetch_min(server.live(), Ordering::Relaxed);
        }
    });
    eventually("the others are closed", || server.live() == 2);
    thread::sleep(ms(150)); // five idle times
    assert_eq!(server.live(), 2);
    assert!(fewest.load(Ordering::Relaxed) >= 2);
    let stats = pool.stats();
    assert_eq!((stats.closed.idle_too_long, stats.closed.total()), (3, 3), "{stats:?}");
    pool.set_min_idle(Some(0)).unwrap();
    eventually("none is kept any more", || server.live() == 0);
}

/// The order of connects and closes, as the server sees them begin and end.
fn order_of_calls(server: &Server) -> Arc<Mutex<Vec<Op>>> {
    let calls: Arc<Mutex<Vec<Op>>> = Arc::default();
    server.spy({
        let calls = calls.clone();
        move |op| {
            if matches!(op, Op::Connect | Op::Close) {
                lock(&calls).push(op);
            }
        }
    });
    calls
}

#[test]
fn p17_each_successor_is_opened_before_its_predecessor_is_closed() {
    let server = Server::new();
    let pool = builder(4).min_idle(Some(3)).build(server.manager()).unwrap();
    eventually("three are idle", || pool.state().idle_connections == 3);
    let calls = order_of_calls(&server);
    server.limit(4);
    pool.refresh();
    eventually("all are replaced", || pool.stats().outdated == 0 && server.live() == 3);
    assert_eq!(*lock(&calls), [Op::Connect, Op::Close].repeat(3), "one at a time");
    assert_eq!(pool.stats().closed.stale, 3);
    server.check();
}

#[test]
fn p17_a_full_pool_of_idle_connections_is_short_of_one_at_the_most() {
    let server = Server::new();
    let pool = builder(4).min_idle(None).build(server.manager()).unwrap();
    eventually("it is full", || pool.state().idle_connections == 4);
    let (fewest, gate) = (Arc::new(AtomicUsize::new(usize::MAX)), Gate::new());
    server.spy({
        let (fewest, server) = (fewest.clone(), server.clone());
        move |_| {
            fewest.fetch_min(server.live(), Ordering::Relaxed);
        }
    });
    server.limit(4);
    server.on(Op::Connect, Does::Hang(gate.clone()));
    pool.refresh();
    gate.await_entered(1);
    let held: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    assert_eq!(pool.stats().outdated, 3, "they serve until their successors are there");
    drop(held);
    assert_eq!(pool.state().idle_connections, 3);
    gate.open();
    eventually("all are replaced", || pool.stats().outdated == 0 && server.live() == 4);
    // While it is closed, a connection still counts.
    assert!(fewest.load(Ordering::Relaxed) >= 3, "{fewest:?}");
    assert_eq!(pool.stats().closed.stale, 4);
    assert_whole(&pool, &server);
}

#[test]
fn p17_while_connects_fail_old_connections_serve_and_are_replaced_later() {
    let server = Server::new();
    let pool = builder(3)
        .min_idle(Some(2))
        .max_lifetime(Some(ms(40)))
        .lifetime_jitter(0.0)
        .build(server.manager())
        .unwrap();
    server.on(Op::Connect, Does::Fail);
    eventually("it tries to replace them", || pool.stats().outdated >= 2);
    let (closed, before) = (pool.stats().closed.total(), server.calls(Op::Connect));
    eventually("again and again", || server.calls(Op::Connect) > before + 3);
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    assert_eq!(pool.stats().closed.total(), closed, "{}", pool.stats());
    server.on(Op::Connect, Does::Succeed);
    eventually("they are replaced", || pool.stats().closed.expired >= closed + 2);
}

/// Callers that never let a connection rest: each is replaced at its return.
#[test]
fn p17_a_saturated_pool_is_refreshed_one_by_one() {
    let server = Server::new();
    server.limit(2);
    let pool = builder(2).build(server.manager()).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    pool.get().unwrap().touch();
                }
            });
        }
        eventually("it is full", || pool.stats().open == 2);
        pool.refresh();
        eventually("all are replaced", || pool.stats().closed.stale == 2);
        eventually("and are there again", || pool.stats().open == 2);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(pool.stats().outdated, 0);
    server.check();
}

/// What a caller would have to wait for has been done before.
#[test]
fn p17_the_successor_of_a_connection_in_use_is_there_when_it_comes_back() {
    let server = Server::new();
    let pool =
        builder(2).max_lifetime(Some(ms(30))).lifetime_jitter(0.0).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let old = held.id;
    eventually("its successor is idle", || pool.state().idle_connections == 1);
    drop(held);
    let connects = server.calls(Op::Connect);
    assert_ne!(pool.get().unwrap().id, old);
    assert_eq!(server.calls(Op::Connect), connects, "no connect for the caller");
}

#[test]
fn p17_no_successor_is_opened_for_what_nobody_uses() {
    let server = Server::new();
    let pool =
        builder(4).min_idle(Some(3)).max_lifetime(Some(ms(400))).build(server.manager()).unwrap();
    pool.set_min_idle(Some(1)).unwrap();
    eventually("two are closed", || pool.stats().closed.expired >= 2);
    let stats = pool.stats();
    assert!(stats.open <= 2, "only the one that it keeps: {stats:?}");
}

#[test]
fn p17_refresh_ends_in_due_time() {
    let server = Server::new();
    server.on(Op::Connect, Does::Take(ms(5)));
    let pool = builder(8).min_idle(None).max_opening(8).build(server.manager()).unwrap();
    eventually("it is full", || pool.state().idle_connections == 8);
    let start = Instant::now();
    pool.refresh();
    eventually("all are replaced", || pool.stats().closed.stale == 8 && pool.stats().open == 8);
    println!("figure: refresh of 8 idle connections, connects of 5 ms: {:?}", start.elapsed());
    assert!(start.elapsed() >= ms(8 * 5), "one after another");
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::time::Duration;

    use super::*;
    use fairpool::simulation::{Arrival, Driver, Ended, simulate};
    use fairpool::stats::Stats;
    use fairpool::{Builder, Pool};
    use fairpool_testing::StubManager;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// In virtual time, with connects of 300 ms. Returns the waits, shortest first.
    fn run(
        pool: Builder<StubManager>,
        arrivals: impl IntoIterator<Item = Arrival>,
    ) -> (Vec<Duration>, Stats) {
        let mut driver = Driver::instant();
        driver.connect = ms(300);
        let mut waits = Vec::new();
        let served = |get: Ended| {
            assert_eq!(get.end, None, "it waits for ever");
            waits.push(get.waited);
        };
        let stats = simulate(pool, driver, arrivals, served).expect("legal input");
        waits.sort_unstable();
        (waits, stats)
    }

    /// A caller at the beginning, and one a day later: what the pool did meanwhile.
    fn quiet_day(pool: Builder<StubManager>) -> Stats {
        let caller = |at| Arrival::new(at, ms(1));
        run(pool, [caller(Duration::ZERO), caller(DAY)]).1
    }

    #[test]
    fn p17_a_quiet_pool_connects_only_for_lifetimes() {
        let unset = || Pool::<StubManager>::builder().max_size(10);
        let usual = quiet_day(unset());
        let forever = quiet_day(unset().max_lifetime(None));
        let short = unset().max_lifetime(None).idle_timeout(Some(ms(1000)));
        let short = quiet_day(short.min_idle(Some(2)));
        println!(
            "figure: connects of a quiet pool in a day: {} by default, {} without lifetimes, {} \
             with min_idle 2 and idle_timeout 1 s",
            usual.opened, forever.opened, short.opened
        );
        assert_eq!((forever.opened, forever.closed.total()), (10, 0));
        assert_eq!(short.opened, 2 + 1, "one more when one was in use");
        let (lives, closed) = (usual.opened - 10, usual.closed);
        assert_eq!(closed.total(), closed.expired, "{closed:?}");
        assert!((480..=540).contains(&lives), "{lives}: ten of 27 to 30 minutes each");
    }

    /// Four callers all the time, in turn, for four minutes.
    fn four_in_use() -> impl Iterator<Item = Arrival> {
        (0..48_000).map(|n| Arrival::new(ms(5 * n), Duration::from_micros(19_900)))
    }

    #[test]
    fn p17_expiry_under_a_steady_load_is_not_noticed() {
        let pool = || Pool::builder().max_size(8).min_idle(Some(2));
        let (without, _) = run(pool().max_lifetime(None), four_in_use());
        let (with, stats) = run(pool().max_lifetime(Some(ms(4000))), four_in_use());
        let figures = |waits: &[Duration]| [990, 999].map(|part| waits[waits.len() * part / 1000]);
        let (without, with) = (figures(&without), figures(&with));
        println!(
            "figure: p99 and p99.9 of a get: {with:?} with lifetimes of 4 s, {without:?} without; \
             {} connections expired",
            stats.closed.expired
        );
        assert!(stats.closed.expired > 300, "{stats:?}");
        for (with, without) in with.into_iter().zip(without) {
            assert!(with <= without.mul_f64(1.1), "{with:?}, and {without:?} without expiry");
        }
    }

    /// The pool is full, and all of it is used now and then.
    #[test]
    fn p17_a_full_pool_that_expires_is_short_of_one() {
        let pool = |size| Pool::builder().max_size(size).min_idle(None);
        let dice = &mut fairpool_testing::dice::Dice::of(3, &[]);
        let mut at = Duration::ZERO;
        let load: Vec<_> = (0..60_000)
            .map(|_| {
                at += dice.millis(0, 10);
                Arrival::new(at, dice.millis(1, 39))
            })
            .collect();
        let p99 = |(waits, _): (Vec<Duration>, Stats)| waits[waits.len() * 99 / 100];
        let expiring = p99(run(pool(8).max_lifetime(Some(ms(60_000))), load.clone()));
        let whole = p99(run(pool(8).max_lifetime(None), load.clone()));
        let smaller = p99(run(pool(7).max_lifetime(None), load));
        println!("figure: p99 of 8 that expire: {expiring:?}; 8: {whole:?}; 7: {smaller:?}");
        assert!(expiring <= smaller.max(whole), "worse than with one connection fewer");
    }
}
