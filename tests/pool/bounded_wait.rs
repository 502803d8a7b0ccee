//! P1: a get returns in time, whatever the driver does.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Pool, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, builder, watched};

use crate::support::{allowed_overshoot, await_waiting, ms, served, waiter};

/// Measures `get_timeout(100 ms)` while `what` hangs for ever.
#[track_caller]
fn assert_deadline_kept(what: &str, pool: &Pool<Manager>) {
    let limit = ms(100);
    let mut worst = Duration::ZERO;
    for _ in 0..3 {
        let there = pool.clone();
        let (took, error) = watched(what, move || {
            let start = Instant::now();
            let error = there.get_timeout(limit).map(drop).unwrap_err();
            (start.elapsed(), error)
        });
        assert!(error.is_timeout(), "{error}");
        assert!(took >= limit, "{what}: left after {took:?}, too early");
        worst = worst.max(took - limit);
    }
    println!("overshoot while {what} hangs: {worst:?}");
    assert!(worst < allowed_overshoot(), "{what}: overshoot {worst:?}");
}

#[test]
fn p1_the_deadline_holds_while_connect_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(2).build(server.manager()).unwrap();
    assert_deadline_kept("connect", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_validation_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Hang(gate.clone()));
    assert_deadline_kept("validation", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_reset_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    server.on(Op::NeedsReset, Does::Fail);
    server.on(Op::Reset, Does::Hang(gate.clone()));
    let start = Instant::now();
    drop(conn);
    assert!(start.elapsed() < allowed_overshoot(), "the return waited for the reset");
    assert_deadline_kept("reset", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_close_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Close, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    watched("a return", move || PooledConnection::discard(conn));
    assert_deadline_kept("close", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_connecting_fails_over_and_over() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(2).build(server.manager()).unwrap();
    assert_deadline_kept("failing connect", &pool);
    assert!(server.calls(Op::Connect) > 3, "it retried within the wait");
}

#[test]
fn p1_the_deadline_holds_while_every_connection_fails_validation() {
    let server = Server::new();
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Take(ms(40)));
    server.next(Op::IsValid, Does::Fail);
    server.on(Op::Connect, Does::Take(ms(400)));
    assert_deadline_kept("check, then slow connect,", &pool);
}

#[test]
fn p1_zero_takes_what_is_there_and_leaves_at_once_otherwise() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    drop(conn);
    let conn = pool.get_timeout(Duration::ZERO).expect("one is idle");
    server.on(Op::Close, Does::Hang(gate.clone()));
    PooledConnection::discard(conn);
    let start = Instant::now();
    assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_timeout());
    assert!(start.elapsed() < allowed_overshoot());
    assert_eq!(pool.stats().waiting, 0);
    gate.open();
}

#[test]
fn p1_the_longest_durations_wait_until_served() {
    for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(u64::MAX / 2)]
    {
        let server = Server::new();
        let pool = builder(1).build(server.manager()).unwrap();
        let held = pool.get().unwrap();
        let outcome = waiter(&pool, timeout);
        thread::sleep(ms(20));
        assert!(outcome.try_recv().is_err(), "{timeout:?} ended early");
        drop(held);
        served(&outcome);
    }
}

#[test]
fn p1_a_deadline_centuries_away_is_not_taken_for_a_near_one() {
    // One turn of a 64-bit count of nanoseconds, and 30 ms.
    let centuries = Duration::from_nanos(u64::MAX) + ms(30);
    let Some(deadline) = Instant::now().checked_add(centuries) else { return };
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let (sender, outcome) = mpsc::channel();
    let here = pool.clone();
    thread::spawn(move || {
        let _ = sender.send(here.request().deadline(deadline).get());
    });
    await_waiting(&pool, 1);
    thread::sleep(ms(100));
    drop(held);
    served(&outcome);
}
