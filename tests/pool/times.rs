//! Durations of waits, uses and driver calls: each is counted, with its true length.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::stats::{Quantiles, Times};
use fairpool::{CancelToken, Fairness, Pool, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually};

use crate::support::ms;

fn pool(size: u32) -> (Pool<Manager>, Server) {
    let server = Server::new();
    (builder(size).build(server.manager()).unwrap(), server)
}

fn times(pool: &Pool<Manager>) -> Times {
    pool.stats().times
}

#[track_caller]
fn assert_ordered(times: &Times) {
    for it in [times.wait, times.in_use, times.connect, times.validate, times.close] {
        let Quantiles { mean, p50, p90, p99, p999, max, .. } = it;
        assert!([p50, p90, p99, p999, max].is_sorted() && mean <= max, "{it:?}");
        assert_eq!(it.count == 0, it == Quantiles::default(), "{it:?}");
    }
}

/// The sum of all durations.
fn sum(of: &Quantiles) -> Duration {
    of.mean * u32::try_from(of.count).unwrap()
}

// ---------------------------------------------------------------------------
// Waits

#[test]
fn gets_that_need_not_wait_count_as_nothing() {
    let (pool, _) = pool(1);
    drop(pool.get().unwrap()); // waits for the connect
    (0..999).for_each(|_| drop(pool.get().unwrap()));
    let wait = times(&pool).wait;
    assert_eq!(wait.count, 1000);
    assert_eq!((wait.p50, wait.p99), (Duration::ZERO, Duration::ZERO));
    assert!(wait.max > Duration::ZERO && wait.mean > Duration::ZERO, "{wait:?}");
}

#[test]
fn a_wait_is_as_long_as_it_took() {
    let (pool, _) = pool(1);
    let held = pool.get().unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        let waits: Vec<_> = (0..3).map(|_| scope.spawn(|| drop(pool.get().unwrap()))).collect();
        eventually("all wait", || pool.stats().waiting == 3);
        thread::sleep(ms(50));
        drop(held);
        waits.into_iter().for_each(|waits| waits.join().unwrap());
    });
    let took = start.elapsed();
    let wait = times(&pool).wait;
    assert_eq!(wait.count, 4);
    for it in [wait.p50, wait.p99, wait.p999, wait.max] {
        assert!(it >= ms(50), "{wait:?}");
        // The histogram rounds by a hundredth.
        assert!(it <= took + took / 100, "{wait:?} in {took:?}");
    }
    assert_ordered(&times(&pool));
}

#[test]
fn waits_in_vain_count_too_and_refusals_do_not() {
    let server = Server::new();
    let pool = builder(1).max_waiters(Some(1)).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    assert!(pool.get_timeout(ms(30)).unwrap_err().is_timeout());
    assert_eq!(times(&pool).wait.count, 2);
    assert!(times(&pool).wait.max >= ms(30));

    let token = CancelToken::new();
    thread::scope(|scope| {
        let waits = scope.spawn(|| pool.request().cancel(&token).get().map(drop).unwrap_err());
        eventually("it waits", || pool.stats().waiting == 1);
        assert!(pool.get().unwrap_err().is_queue_full());
        token.cancel();
        assert!(waits.join().unwrap().is_cancelled());
    });
    assert_eq!(times(&pool).wait.count, 3);
    pool.get_timeout(Duration::ZERO).unwrap_err();
    assert!(pool.try_get().is_none());
    assert_eq!(times(&pool).wait.count, 3, "it got none and did not wait");
    drop(held);
}

/// Callers with and without time share a pool that is too small for them. Each get counts
/// once, also those that time out.
#[test]
fn every_get_counts_once_under_load() {
    let server = Server::new();
    for fairness in [Fairness::Strict, Fairness::default()] {
        let pool = builder(2).fairness(fairness).build(server.manager()).unwrap();
        thread::scope(|scope| {
            for thread in 0..6 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let timeout = match (thread + round) % 3 {
                            0 => Duration::ZERO,
                            1 => Duration::from_micros(100),
                            _ => WATCHDOG,
                        };
                        drop(pool.get_timeout(timeout));
                    }
                });
            }
        });
        let stats = pool.stats();
        let count = stats.times.wait.count;
        // Gets that timed out have waited, except those with no time.
        assert!(count >= stats.gets && count <= stats.gets + stats.timeouts, "{count}: {stats}");
        assert!(stats.gets_waited > 0);
        assert_ordered(&stats.times);
    }
}

// ---------------------------------------------------------------------------
// Uses

/// What was not recorded yet of a connection is recorded when it ends.
fn times_at_the_end(pool: &Pool<Manager>) -> Times {
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    times(pool)
}

#[test]
fn each_long_use_counts_once_and_short_ones_are_estimated() {
    let (pool, _) = pool(1);
    drop(pool.get().unwrap());
    let start = Instant::now();
    let mut short = 0;
    for round in 0..10 {
        // A burst of short uses, most of them shorter than a tick …
        for _ in 0..1000 + round {
            drop(pool.get().unwrap());
            short += 1;
        }
        // … and right after it, mostly within the same tick, a long one.
        let held = pool.get().unwrap();
        thread::sleep(ms(30));
        drop(held);
    }
    let took = start.elapsed();
    let all = times_at_the_end(&pool);
    let in_use = all.in_use;
    assert_eq!(in_use.count, 1 + short + 10);
    assert!(in_use.max >= ms(30), "{in_use:?}");
    assert!(sum(&in_use) >= 10 * ms(30), "{in_use:?}");
    // A short use stands for the others. If a long one did, the sum would be many times as
    // large.
    assert!(sum(&in_use) <= 10 * took, "{:?} in {took:?}", sum(&in_use));
    assert_ordered(&all);
}

/// Long and short uses in turns, each measured by its thread: what the pool reports must be
/// near to that.
#[test]
fn uses_in_turns_are_reported_as_the_threads_measured_them() {
    for (short, long) in [(Duration::from_micros(200), ms(6)), (Duration::from_micros(100), ms(9))]
    {
        let (pool, _) = pool(4);
        drop((0..4).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
        let mut measured = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let use_for = |span| {
                            let held = pool.get().unwrap();
                            let start = Instant::now();
                            thread::sleep(span);
                            // The most that the return may take on top of it.
                            let least = start.elapsed();
                            drop(held);
                            least
                        };
                        (0..60).flat_map(|_| [short, long].map(use_for)).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        measured.sort_unstable();
        let all = times_at_the_end(&pool);
        let in_use = all.in_use;
        assert_eq!(in_use.count, 4 + measured.len() as u64);
        let true_sum: Duration = measured.iter().sum();
        println!("figure: {short:?}, {long:?}: mean {:?}, {in_use:?}", true_sum / 480);
        // A thread that is not scheduled between its own measurement and the pool's is no
        // fault of the pool.
        assert!(sum(&in_use) >= true_sum * 95 / 100, "{:?} of {true_sum:?}", sum(&in_use));
        assert!(sum(&in_use) <= true_sum * 3 / 2, "{:?} of {true_sum:?}", sum(&in_use));
        // Half are long; the first four, before the threads began, are not measured.
        assert!(in_use.p90 >= measured[measured.len() * 88 / 100] * 95 / 100, "{in_use:?}");
        assert!(in_use.mean >= long / 2 * 95 / 100, "{in_use:?}");
        assert_ordered(&all);
    }
}

#[test]
fn uses_are_timed_whatever_becomes_of_the_connection() {
    let (pool, _) = pool(1);
    for _ in 0..5 {
        let held = pool.get().unwrap();
        thread::sleep(ms(30));
        PooledConnection::discard(held);
    }
    let in_use = times(&pool).in_use;
    assert_eq!(in_use.count, 5);
    assert!(in_use.p50 >= ms(30), "each is the first of its connection: {in_use:?}");
}

#[test]
fn no_use_is_lost_whatever_ends_the_connection() {
    let (pool, _) = pool(1);
    let mut detached = Vec::new();
    for round in 0..20 {
        // So many quick ones that only some of them are timed.
        (0..20_000).for_each(|_| drop(pool.get().unwrap()));
        let held = pool.get().unwrap();
        match round % 4 {
            0 => PooledConnection::discard(held),
            1 => detached.push(PooledConnection::detach(held)),
            2 => {
                pool.refresh();
                drop(held);
            }
            _ => {
                drop(held);
                pool.refresh();
            }
        }
    }
    assert_eq!(times_at_the_end(&pool).in_use.count, 20 * 20_001);
}

#[test]
fn with_a_subscriber_uses_are_counted_as_without() {
    let (pool, _) = pool(1);
    drop(pool.get().unwrap());
    let events = pool.subscribe(1 << 16).unwrap();
    for _ in 0..2000 {
        drop(pool.get().unwrap());
    }
    drop(events);
    let times = times_at_the_end(&pool);
    assert_eq!((times.in_use.count, times.wait.count), (2001, 2001));
}

// ---------------------------------------------------------------------------
// Driver calls

#[test]
fn driver_calls_take_at_least_what_they_take() {
    let server = Server::new();
    for op in [Op::Connect, Op::IsValid, Op::Close] {
        server.on(op, Does::Take(ms(20)));
    }
    let pool = builder(2).test_on_check_out(true).build(server.manager()).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    drop((pool.get().unwrap(), pool.get().unwrap())); // each is validated
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    let times = times(&pool);
    for it in [times.connect, times.validate, times.close] {
        assert_eq!(it.count, 2, "{times}");
        assert!(it.p50 >= ms(20) && it.mean >= ms(20), "{times}");
        assert!(it.max <= 2 * WATCHDOG, "{times}");
    }
    assert_ordered(&times);
}

#[test]
fn a_connect_counts_when_it_succeeds_and_a_check_in_any_case() {
    let server = Server::new();
    server.next(Op::Connect, Does::Fail);
    server.next(Op::Connect, Does::Panic);
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    assert_eq!((times(&pool).connect.count, pool.stats().open_failures), (1, 2));
    server.next(Op::IsValid, Does::Fail);
    drop(pool.get().unwrap());
    assert_eq!(times(&pool).validate.count, 1);
    assert_eq!(times(&pool).connect.count, 2);
    // A call that overran its limit counts when it returns.
    let gate = Gate::new();
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    thread::scope(|scope| {
        let get = scope.spawn(|| drop(pool.get().unwrap()));
        gate.await_entered(1);
        assert_eq!(times(&pool).validate.count, 1);
        gate.open();
        get.join().unwrap();
    });
    assert_eq!(times(&pool).validate.count, 2);
}
