//! P12: the counters are always on, and exact.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::stats::DriverCount;
use fairpool::{Fairness, ManageConnection, Pool, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Op, Server, WATCHDOG, builder, eventually};

use crate::support::{ms, served, waiter};

#[test]
fn p12_the_counters_add_up_after_a_hammering() {
    const SIZE: u32 = 3;
    let server = Server::new();
    let pool = builder(SIZE)
        .max_waiters(Some(6))
        .max_idle(Some(2))
        .max_lifetime(Some(ms(60)))
        .build(server.manager())
        .unwrap();
    let [got, timed_out, refused, detached] = [const { AtomicU64::new(0) }; 4];
    let end = Instant::now() + ms(1200);
    thread::scope(|scope| {
        for number in 0..12usize {
            let (pool, server) = (&pool, &server);
            let (got, timed_out, refused, detached) = (&got, &timed_out, &refused, &detached);
            scope.spawn(move || {
                let mut round = number;
                while Instant::now() < end {
                    round += 1;
                    match pool.get_timeout(Duration::from_micros(round as u64 % 1000)) {
                        Ok(conn) => {
                            let count = got.fetch_add(1, Ordering::Relaxed);
                            if count.is_multiple_of(50) {
                                server.next(Op::Connect, Does::Fail);
                                server.next(Op::HasBroken, Does::Fail);
                            }
                            if count.is_multiple_of(70) {
                                pool.refresh();
                            }
                            if count.is_multiple_of(30) {
                                detached.fetch_add(1, Ordering::Relaxed);
                                drop(PooledConnection::detach(conn));
                            } else if count.is_multiple_of(3) {
                                thread::sleep(Duration::from_micros(100));
                            }
                        }
                        Err(error) if error.is_timeout() => {
                            timed_out.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.is_queue_full(), "{error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_micros(100));
                        }
                    }
                }
            });
        }
    });
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    eventually("it is at rest", || {
        let stats = pool.stats();
        stats.opening + stats.closing + stats.in_use == 0
    });
    let stats = pool.stats();
    println!("{stats:?}");
    assert_eq!(stats.gets, load(&got));
    assert_eq!(stats.timeouts, load(&timed_out));
    assert_eq!(stats.refused, load(&refused));
    assert_eq!(stats.closed.detached, load(&detached));
    assert!(stats.gets_waited <= stats.gets);
    assert!(stats.time_waited > Duration::ZERO);
    assert_eq!(stats.opened + stats.open_failures, server.calls(Op::Connect) as u64);
    assert_eq!(stats.opened, stats.closed.total() + u64::from(stats.open), "{stats:?}");
    assert_eq!(server.calls(Op::Close) as u64, stats.closed.total());
    assert_eq!(server.live() as u32, stats.open);
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    let stats = pool.stats();
    assert_eq!(stats.opened, stats.closed.total(), "{stats:?}");
}

#[test]
fn p12_the_counters_add_up_after_late_connects() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).open_timeout(ms(20)).build(server.manager()).unwrap();
    let held = pool.get().expect("the second attempt succeeds");
    gate.open();
    eventually("the late one is closed", || {
        pool.stats().abandoned == 0 && server.calls(Op::Close) == 1
    });
    let stats = pool.stats();
    assert_eq!(stats.opened, stats.closed.total() + u64::from(stats.open), "{stats:?}");
    drop(held);
}

#[test]
fn p12_the_counters_add_up_after_late_validations() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1)
        .test_on_check_out(true)
        .validation_timeout(ms(20))
        .build(server.manager())
        .unwrap();
    drop(pool.get().unwrap());
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    assert!(pool.get_timeout(ms(1)).is_err());
    eventually("it is abandoned", || pool.stats().abandoned == 1);
    gate.open(); // its check succeeds late, and there is room
    eventually("it is taken in", || pool.stats().abandoned == 0);
    eventually("nothing is under way", || {
        let stats = pool.stats();
        stats.opening + stats.closing + stats.checking == 0
    });
    let stats = pool.stats();
    assert_eq!(stats.opened, stats.closed.total() + u64::from(stats.open), "{stats:?}");
}

#[test]
fn p12_waits_are_counted_whatever_comes_of_them() {
    // A hand-off, and a get after a wake-up: both waited.
    for fairness in [Fairness::Strict, Fairness::Bounded(Duration::from_secs(60))] {
        let server = Server::new();
        let pool = builder(1).fairness(fairness).build(server.manager()).unwrap();
        let held = pool.get().unwrap();
        let before = pool.stats().time_waited;
        assert!(pool.get_timeout(ms(30)).is_err());
        let after = pool.stats();
        assert!(after.time_waited - before >= ms(30), "{after:?}");
        let outcome = waiter(&pool, Duration::MAX);
        drop(held);
        drop(served(&outcome));
        assert_eq!(pool.stats().gets_waited, after.gets_waited + 1, "{fairness:?}");
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().gets_waited, after.gets_waited + 1, "it did not wait");
    }
}

/// A driver that counts, or fails to.
struct Counting {
    panics: bool,
}

impl ManageConnection for Counting {
    type Connection = ();
    type Error = std::convert::Infallible;

    fn connect(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn is_valid(&self, _: &mut ()) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut ()) -> bool {
        false
    }

    fn counts(&self) -> Vec<DriverCount> {
        assert!(!self.panics, "a driver that fails to count");
        vec![DriverCount { name: "statement_hits", total: 7 }]
    }
}

#[test]
fn what_the_driver_counts_is_in_statistics_and_snapshot() {
    let pool = Pool::builder().max_size(1).build(Counting { panics: false }).unwrap();
    assert_eq!(pool.stats().driver, [DriverCount { name: "statement_hits", total: 7 }]);
    assert_eq!(pool.reading().stats.driver.len(), 1);
    let snapshot = pool.snapshot().to_string();
    assert!(snapshot.contains("\n  driver: statement_hits 7\n"), "{snapshot}");
}

#[test]
fn p10_a_driver_that_panics_while_it_counts_costs_its_counts() {
    let pool = Pool::builder().max_size(1).build(Counting { panics: true }).unwrap();
    assert!(pool.stats().driver.is_empty());
    assert!(!pool.snapshot().to_string().contains("driver:"));
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().gets, 1);
}
