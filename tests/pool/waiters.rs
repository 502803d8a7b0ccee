//! P4: no waiter is stranded and no connection is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Fairness, PooledConnection};
use fairpool_testing::stub::{Server, WATCHDOG, builder, eventually};

use crate::support::{assert_whole, await_waiting, ms, rounds, served, waiter};

#[test]
fn p4_a_live_waiter_behind_thousands_that_left_is_served_at_once() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let token = CancelToken::new();
    thread::scope(|scope| {
        for _ in 0..1000 {
            let (pool, token) = (&pool, &token);
            let wait = move || {
                let error = pool.request().timeout(Duration::MAX).cancel(token).get().map(drop);
                assert!(error.unwrap_err().is_cancelled());
            };
            thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, wait).unwrap();
        }
        await_waiting(&pool, 1000);
        let outcome = waiter(&pool, Duration::MAX);
        let start = Instant::now();
        token.cancel();
        println!("1000 waiters cancelled in {:?}", start.elapsed());
        assert_eq!(pool.stats().waiting, 1, "cancel returns when they are out");
        drop(held);
        drop(served(&outcome));
    });
    assert_eq!(pool.stats().cancelled, 1000);
}

#[test]
fn p4_grants_that_race_with_timeouts_and_cancels_lose_no_connection() {
    const SIZE: u32 = 3;
    for fairness in [Fairness::Strict, Fairness::default()] {
        let server = Server::new();
        server.limit(SIZE);
        let pool = builder(SIZE).fairness(fairness).build(server.manager()).unwrap();
        let [got, timed_out, cancelled] = [const { AtomicU64::new(0) }; 3];
        let end = Instant::now() + ms(100) * rounds(8).min(100) as u32;
        thread::scope(|scope| {
            for number in 0..16u64 {
                let (pool, got, timed_out, cancelled) = (&pool, &got, &timed_out, &cancelled);
                scope.spawn(move || {
                    let mut random = number + 1;
                    while Instant::now() < end {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let timeout = Duration::from_micros(random % 300);
                        let token = CancelToken::new();
                        let request = pool.request().timeout(timeout).cancel(&token);
                        let result = if random & 1024 == 0 {
                            thread::scope(|inner| {
                                inner.spawn(|| token.cancel());
                                request.get()
                            })
                        } else {
                            request.get()
                        };
                        match result {
                            Ok(mut conn) => {
                                got.fetch_add(1, Ordering::Relaxed);
                                conn.touch();
                                if random & 0xf000 == 0 {
                                    PooledConnection::mark_broken(&mut conn);
                                }
                                if random & 0x30000 == 0 {
                                    thread::sleep(Duration::from_micros(random % 200));
                                }
                            }
                            Err(error) if error.is_timeout() => {
                                timed_out.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                assert!(error.is_cancelled(), "{error}");
                                cancelled.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        // A check may be under way for one that has left.
        eventually("no check is under way", || pool.stats().checking == 0);
        let stats = pool.stats();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        println!("{fairness:?}: {stats}");
        assert!(load(&got) > 0 && load(&timed_out) > 0 && load(&cancelled) > 0, "{stats:?}");
        assert_eq!(stats.gets, load(&got), "P12");
        assert_eq!(stats.timeouts, load(&timed_out), "P12");
        assert_eq!(stats.cancelled, load(&cancelled), "P12");
        assert_eq!((stats.in_use, stats.waiting), (0, 0), "{stats:?}");
        assert_whole(&pool, &server);
        let report = pool.close(Instant::now() + WATCHDOG);
        assert!(report.is_complete(), "{report}");
        assert_eq!(server.live(), 0);
        assert_eq!(pool.stats().opened, pool.stats().closed.total(), "P12");
    }
}

#[test]
fn p4_waiters_of_a_pool_that_closes_leave_at_once() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let outcomes: Vec<_> = (0..20).map(|_| waiter(&pool, Duration::MAX)).collect();
    let _ = pool.close(Instant::now());
    for outcome in outcomes {
        let error = outcome.recv_timeout(WATCHDOG).expect("woken").map(drop).unwrap_err();
        assert!(error.is_closed(), "{error}");
    }
    assert_eq!(pool.stats().waiting, 0);
    drop(held);
}
