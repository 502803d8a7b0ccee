//! What the owner of a pool can change and read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Op, Server, builder, eventually};

use crate::support::{await_waiting, ms};

#[test]
fn a_paused_pool_serves_nobody_and_keeps_deadlines() {
    let pool = builder(2).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    drop(pool.get().unwrap());
    pool.pause();
    assert!(pool.try_get().is_none());
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    let start = Instant::now();
    let error = pool.get_timeout(ms(30)).map(drop).unwrap_err();
    assert!(error.is_timeout() && start.elapsed() >= ms(30));
    assert!(error.to_string().contains("paused"), "{error}");
    held.touch();
    drop(held);
    assert_eq!(pool.state().idle_connections, 2, "returns go on");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get_timeout(Duration::MAX).map(drop));
        await_waiting(&pool, 1);
        pool.resume();
        waiter.join().unwrap().unwrap();
    });
    assert!(pool.try_get().is_some());
}

#[test]
fn refresh_replaces_idle_connections_now_and_used_ones_at_their_return() {
    let server = Server::new();
    let pool = builder(2).min_idle(Some(2)).build(server.manager()).unwrap();
    let used = pool.get().unwrap();
    let old = used.id;
    pool.refresh();
    eventually("the idle one was replaced", || {
        server.calls(Op::Close) == 1 && pool.state().idle_connections == 1
    });
    used.touch();
    drop(used);
    eventually("the used one was, too", || {
        server.calls(Op::Close) == 2 && pool.state().idle_connections == 2
    });
    assert_eq!(pool.stats().closed.stale, 2);
    let both = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(both.iter().all(|conn| conn.id != old && conn.id > 2), "{both:?}");
    server.check();
}

#[test]
fn refresh_replaces_a_connection_that_is_being_opened() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().map(|conn| conn.id));
        gate.await_entered(1);
        pool.refresh();
        gate.open();
        assert_eq!(waiter.join().unwrap().unwrap(), 2, "the first was of the old kind");
    });
}

#[test]
fn max_size_can_be_changed_both_ways() {
    let server = Server::new();
    let pool = builder(4).build(server.manager()).unwrap();
    let mut all: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    drop(all.pop());
    pool.set_max_size(2).unwrap();
    eventually("the idle one is closed now", || server.live() == 3);
    drop(all.pop());
    eventually("another when it comes back", || server.live() == 2);
    drop(all);
    assert_eq!((pool.state().idle_connections, server.live()), (2, 2));
    assert_eq!(pool.stats().closed.excess, 2);
    let both = [pool.get().unwrap(), pool.get().unwrap()];
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    pool.set_max_size(3).unwrap();
    drop(pool.get().expect("grown"));
    drop(both);

    let error = pool.set_max_size(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("max_size must be at least 1, but is 0"), "{error}");
    pool.set_min_idle(Some(3)).unwrap();
    let error = pool.set_max_size(2).unwrap_err();
    assert!(error.to_string().contains("min_idle (3)"), "{error}");
    assert_eq!(pool.max_size(), 3, "nothing was changed");
    let error = pool.set_min_idle(Some(4)).unwrap_err();
    assert!(error.to_string().contains("min_idle (4)"), "{error}");
    assert_eq!(pool.min_idle(), Some(3));
    eventually("it is full", || pool.state().idle_connections == 3);
}

#[test]
fn min_idle_is_kept_beside_those_in_use() {
    let server = Server::new();
    server.limit(4);
    let pool = builder(4).min_idle(Some(1)).build(server.manager()).unwrap();
    assert_eq!(server.live(), 1);
    let first = pool.get().unwrap();
    eventually("one is idle again", || pool.state().idle_connections == 1);
    pool.set_min_idle(Some(2)).unwrap();
    eventually("two are idle", || pool.state().idle_connections == 2);
    PooledConnection::discard(first);
    eventually("the broken one is not missed", || pool.state().idle_connections == 2);
    pool.set_min_idle(None).unwrap();
    eventually("all are", || pool.state().idle_connections == 4);
    server.check();
}

#[test]
fn a_connection_that_comes_back_to_max_idle_others_is_closed() {
    let server = Server::new();
    let pool = builder(4).max_idle(Some(1)).build(server.manager()).unwrap();
    let all: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    drop(all);
    eventually("three are closed", || server.live() == 1);
    assert_eq!(pool.stats().closed.excess, 3);
    assert_eq!(pool.state().idle_connections, 1);
    let none = builder(2).max_idle(Some(0)).build(server.manager()).unwrap();
    drop(none.get().unwrap());
    eventually("none is kept", || none.state().connections == 0);
}

#[test]
fn max_idle_holds_after_several_came_back_while_somebody_waited() {
    let server = Server::new();
    let pool = builder(4).max_idle(Some(1)).build(server.manager()).unwrap();
    let all: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    pool.pause();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get_timeout(Duration::MAX).unwrap());
        await_waiting(&pool, 1);
        drop(all);
        pool.resume();
        let _conn = waiter.join().unwrap();
        thread::sleep(ms(100));
        let idle = pool.state().idle_connections;
        assert!(idle <= 1, "{idle} are idle without a waiter: {}", pool.stats());
    });
}

#[test]
fn the_connection_returned_last_is_handed_out_first() {
    let pool = builder(3).build(Server::new().manager()).unwrap();
    let all: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    let ids: Vec<_> = all.iter().map(|conn| conn.id).collect();
    all.into_iter().for_each(drop);
    let again: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    assert!(again.iter().rev().map(|conn| conn.id).eq(ids));
}

#[test]
fn state_and_stats_are_consistent_at_every_moment() {
    const SIZE: u32 = 4;
    let server = Server::new();
    let pool = builder(SIZE).test_on_check_out(true).build(server.manager()).unwrap();
    let stop = AtomicBool::new(false);
    let end = Instant::now() + ms(600);
    let mut before = pool.stats();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut round = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    match pool.get_timeout(Duration::from_micros(u64::from(round % 200))) {
                        Ok(conn) if round.is_multiple_of(20) => PooledConnection::discard(conn),
                        got => drop(got),
                    }
                }
            });
        }
        while Instant::now() < end {
            let now = pool.stats();
            assert_eq!(now.open, now.idle + now.in_use, "{now:?}");
            assert!(now.checking <= now.in_use, "{now:?}");
            assert!(now.open + now.opening + now.closing <= SIZE, "{now:?}");
            assert!(now.gets >= before.gets && now.timeouts >= before.timeouts, "{now:?}");
            assert!(now.gets_waited <= now.gets, "{now:?}");
            assert!(now.opened >= before.opened, "{now:?}");
            assert_eq!(now.opened, now.closed.total() + u64::from(now.open), "{now:?}");
            let state = pool.state();
            assert!(state.idle_connections <= state.connections && state.connections <= SIZE);
            before = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(before.gets > 0 && before.closed.broken > 0, "{before:?}");
    let text = before.to_string();
    assert!(text.contains("of 4 connections open") && text.contains("gets"), "{text}");
}

#[test]
fn opening_is_limited_to_max_opening_at_once() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(8).min_idle(None).max_opening(3).build_unchecked(server.manager());
    gate.await_entered(3);
    thread::sleep(ms(20));
    assert_eq!((gate.entered(), pool.stats().opening), (3, 3));
    gate.open();
    eventually("all are open", || pool.state().idle_connections == 8);
}

#[test]
fn failed_connects_are_retried_with_growing_delays() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(4).connect_backoff(ms(20), ms(80)).build(server.manager()).unwrap();
    assert!(pool.get_timeout(ms(400)).is_err());
    // Delays of 10..20, 20..40, 40..80, 40..80, …: at most 2 + 330 / 40.
    let calls = server.calls(Op::Connect);
    assert!((4..=12).contains(&calls), "{calls} attempts");
    thread::sleep(ms(200));
    assert!(server.calls(Op::Connect) <= calls + 1, "no more connections are needed");
}
