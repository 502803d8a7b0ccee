//! P3: no wake-up is lost.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Fairness, Pool, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually};

use crate::support::{assert_whole, ms, rounds, served, start_waiter, waiter};

/// One connection is in use and one caller waits; `act` ends the use, and the waiter must be
/// served.
fn assert_waiter_served_when(
    what: &str,
    pool: &Pool<Manager>,
    act: impl FnOnce(PooledConnection<Manager>),
) {
    let held = pool.get().unwrap();
    let outcome = waiter(pool, Duration::MAX);
    act(held);
    match outcome.recv_timeout(WATCHDOG) {
        Ok(Ok(conn)) => conn.touch(),
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: the waiter sleeps on; {}", pool.stats()),
    }
}

#[test]
fn p3_a_broken_connection_that_comes_back_serves_the_waiter_by_opening() {
    for min_idle in [Some(0), Some(1), None] {
        let server = Server::new();
        server.limit(1);
        let pool = builder(1).min_idle(min_idle).build(server.manager()).unwrap();
        server.next(Op::HasBroken, Does::Fail);
        assert_waiter_served_when("broken", &pool, drop);
        server.check();
    }
}

#[test]
fn p3_whatever_ends_a_connection_serves_the_waiter_by_opening() {
    let server = Server::new();
    server.limit(1);
    let pool = builder(1).build(server.manager()).unwrap();
    assert_waiter_served_when("kept", &pool, drop);
    assert_waiter_served_when("discarded", &pool, PooledConnection::discard);
    let refresh = |conn| {
        pool.refresh();
        drop(conn);
    };
    assert_waiter_served_when("stale", &pool, refresh);
    server.next(Op::HasBroken, Does::Panic);
    assert_waiter_served_when("has_broken panicked", &pool, drop);
    server.next(Op::NeedsReset, Does::Panic);
    assert_waiter_served_when("needs_reset panicked", &pool, drop);
    for reset in [Does::Succeed, Does::Fail, Does::Panic] {
        server.next(Op::NeedsReset, Does::Fail);
        server.next(Op::Reset, reset);
        assert_waiter_served_when("reset", &pool, drop);
    }
    server.next(Op::Close, Does::Panic);
    assert_waiter_served_when("close panicked", &pool, PooledConnection::discard);
    server.check();
    let mut detached = None;
    server.limit(2);
    assert_waiter_served_when("detached", &pool, |conn| {
        detached = Some(PooledConnection::detach(conn));
    });
    server.check();
}

#[test]
fn p3_a_connection_that_expired_in_use_serves_the_waiter_by_opening() {
    let server = Server::new();
    server.limit(1);
    let pool =
        builder(1).max_lifetime(Some(ms(30))).lifetime_jitter(0.0).build(server.manager()).unwrap();
    assert_waiter_served_when("expired", &pool, |conn| {
        thread::sleep(ms(40));
        drop(conn);
    });
    assert_eq!(pool.stats().closed.expired, 1, "{:?}", pool.stats());
    server.check();
}

#[test]
fn p3_an_open_that_fails_is_tried_again_for_the_waiter() {
    for failure in [Does::Fail, Does::Panic] {
        let server = Server::new();
        for _ in 0..5 {
            server.next(Op::Connect, failure.clone());
        }
        let pool = builder(1).build(server.manager()).unwrap();
        drop(pool.get().expect("the sixth attempt succeeds"));
        assert_eq!(server.calls(Op::Connect), 6);
    }
}

#[test]
fn p3_growth_serves_the_waiters() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let outcomes: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    pool.set_max_size(4).unwrap();
    let conns: Vec<_> = outcomes.iter().map(served).collect();
    assert_eq!(pool.stats().in_use, 4);
    drop((held, conns));
}

#[test]
fn p3_a_connection_that_fails_validation_is_replaced_for_the_waiter() {
    for failure in [Does::Fail, Does::Panic] {
        let server = Server::new();
        server.limit(2);
        let pool = builder(2).test_on_check_out(true).build(server.manager()).unwrap();
        let both = (pool.get().unwrap(), pool.get().unwrap());
        drop(both);
        server.next(Op::IsValid, failure.clone());
        server.next(Op::IsValid, failure);
        drop(pool.get().expect("both are dead, a third is opened"));
        server.check();
    }
}

#[test]
fn p3_a_returned_connection_serves_those_whose_open_hangs() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(2).max_opening(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let outcome = waiter(&pool, Duration::MAX);
    gate.await_entered(1);
    drop(held);
    drop(served(&outcome));
    gate.open();
}

#[test]
fn p3_a_hung_check_does_not_keep_the_other_connections_from_newcomers() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(3).test_on_check_out(true).build(server.manager()).unwrap();
    let all: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    drop(all);
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    let stuck = waiter(&pool, Duration::MAX);
    gate.await_entered(1);
    // Two connections are left for two callers, without another get or return.
    let second = start_waiter(&pool, Duration::MAX);
    let first = served(&stuck);
    let Ok(second) = second.recv_timeout(Duration::from_secs(3)) else {
        panic!("it sleeps beside an idle connection: {}", pool.stats());
    };
    drop((first, second.unwrap()));
    gate.open();
}

#[test]
fn p3_trimmed_connections_are_opened_again_for_those_who_come_later() {
    let server = Server::new();
    server.limit(2);
    let pool = builder(2).idle_timeout(Some(ms(20))).build(server.manager()).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    eventually("both were trimmed", || server.live() == 0);
    assert_whole(&pool, &server);
    assert!(pool.stats().closed.idle_too_long >= 2);
}

#[test]
fn p3_resume_serves_all_who_came_while_paused() {
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    pool.pause();
    let outcomes: Vec<_> = (0..2).map(|_| waiter(&pool, Duration::MAX)).collect();
    pool.resume();
    let conns: Vec<_> = outcomes.iter().map(served).collect();
    drop(conns);
}

#[test]
fn p3_several_returns_at_once_serve_several_waiters() {
    for fairness in [Fairness::Strict, Fairness::Bounded(Duration::from_secs(60))] {
        let server = Server::new();
        let pool = builder(4).fairness(fairness).build(server.manager()).unwrap();
        for _ in 0..rounds(50) {
            let held: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
            let outcomes: Vec<_> = (0..4).map(|_| waiter(&pool, Duration::MAX)).collect();
            drop(held);
            // No more returns: each of the four must have woken one waiter.
            let conns: Vec<_> = outcomes.iter().map(served).collect();
            drop(conns);
        }
    }
}

#[test]
fn p3_a_connect_that_hangs_costs_the_next_caller_little() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(4).min_idle(Some(0)).build(server.manager()).unwrap();
    let start = Instant::now();
    drop(pool.get_timeout(WATCHDOG).expect("another is opened beside the one that hangs"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    gate.open();
}
