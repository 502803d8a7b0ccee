//! How many connects there are, and when: slow ones, those that hang, after an outage; and who
//! does not wait for them.

use std::error::Error as _;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::health::HealthLevel;
use fairpool::{Error, Pool, PooledConnection};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, StubError, WATCHDOG, builder, eventually,
};

use crate::support::{ms, served, start_waiter, waiter};

/// Has connected once, so that it knows how long that takes.
fn warm(server: &Server, max_size: u32) -> Pool<Manager> {
    let pool = builder(max_size).build(server.manager()).unwrap();
    PooledConnection::discard(pool.get().unwrap());
    eventually("it is closed", || server.live() == 0);
    pool
}

#[test]
fn p1_a_connect_that_is_only_slow_is_made_once_for_each_caller() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pools: Vec<_> = (0..20).map(|_| builder(8).build(server.manager()).unwrap()).collect();
    let callers: Vec<_> = pools.iter().map(|pool| waiter(pool, ms(60_000))).collect();
    thread::sleep(ms(1100));
    gate.open();
    callers.iter().for_each(|caller| drop(served(caller)));
    let calls = server.calls(Op::Connect);
    println!("figure: connects for 20 callers of 20 pools, of 1.1 s each: {calls}");
    assert_eq!(calls, 20);
}

#[test]
fn p1_on_a_server_that_becomes_slow_a_pool_makes_few_connects_and_learns() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = warm(&server, 8);
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let caller = waiter(&pool, ms(60_000));
    thread::sleep(ms(1100));
    gate.open();
    drop(served(&caller));
    let calls = server.calls(Op::Connect) - 1;
    println!("figure: connects for one caller of a pool that knew a fast server: {calls}");
    assert!(calls <= 3, "{calls} connects");
}

/// Six connects hang for ever; the others succeed.
fn assert_served_beside_six_that_hang(server: &Server, pool: &Pool<Manager>) {
    let gate = Gate::new();
    server.limit(8);
    (0..6).for_each(|_| server.next(Op::Connect, Does::Hang(gate.clone())));
    // Each returns its connection, so that two are enough for all.
    let (sender, served) = mpsc::channel();
    for _ in 0..7 {
        let (pool, sender) = (pool.clone(), sender.clone());
        thread::spawn(move || sender.send(pool.get_timeout(ms(60_000)).map(drop)));
    }
    (0..7).for_each(|_| served.recv_timeout(WATCHDOG).expect("all are served").unwrap());
    // Another one needs no connect.
    drop(pool.get().unwrap());
    gate.await_entered(6);
    assert!(pool.stats().opening >= 6, "nothing was abandoned");
    gate.open();
    eventually("they are taken in", || pool.stats().opening == 0);
    server.check();
}

#[test]
fn p1_six_connects_that_hang_for_ever_do_not_hold_up_the_others() {
    let server = Server::new();
    assert_served_beside_six_that_hang(&server, &warm(&server, 8));
}

#[test]
fn p1_six_connects_that_hang_before_any_succeeded_do_not_hold_up_the_others() {
    let server = Server::new();
    let pool = builder(8).build(server.manager()).unwrap();
    assert_served_beside_six_that_hang(&server, &pool);
}

/// A service starts beside its database: one connect is refused, the next six hang.
#[test]
fn p1_six_connects_that_hang_after_a_failure_do_not_hold_up_the_others() {
    let server = Server::new();
    server.next(Op::Connect, Does::Fail);
    let unset = Pool::builder().max_size(8).min_idle(Some(0)).max_opening(8);
    let unset = unset.open_timeout(WATCHDOG);
    let pool = unset.build(server.manager()).unwrap();
    assert!(pool.get_timeout(ms(20)).is_err());
    let begun = Instant::now();
    assert_served_beside_six_that_hang(&server, &pool);
    println!("figure: served beside six that hang after a failure: {:.2?}", begun.elapsed());
    assert!(begun.elapsed() < ms(8000), "2 s for each would be 12 s");
    assert!(server.calls(Op::Connect) <= 9, "one for each caller: {}", server.calls(Op::Connect));
}

#[test]
fn one_cold_get_is_no_alarm() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let caller = waiter(&pool, ms(60_000));
    thread::sleep(ms(600));
    let health = pool.health();
    assert_eq!((health.waiting, health.level), (1, HealthLevel::Healthy), "{health}");
    gate.open();
    drop(served(&caller));
}

/// Connects hang at gates of their own until the test lets them through.
fn gates(server: &Server, count: usize) -> Vec<Gate> {
    let gates: Vec<Gate> = (0..count).map(|_| Gate::new()).collect();
    gates.iter().for_each(|gate| server.next(Op::Connect, Does::Hang(gate.clone())));
    gates
}

#[test]
fn after_an_outage_connects_ramp_up_by_success_and_one_is_tried_after_a_failure() {
    let server = Server::new();
    (0..8).for_each(|_| server.next(Op::Connect, Does::Fail));
    let gates = gates(&server, 15);
    let patient = builder(16).connect_patience(Duration::MAX, Duration::MAX);
    let pool = patient.max_opening(8).min_idle(None).build_unchecked(server.manager());
    let mut passed = 0;
    for round in [1, 2, 4] {
        eventually("a round starts", || pool.stats().opening == round);
        let here = &gates[passed..][..round as usize];
        here.iter().for_each(|gate| gate.await_entered(1));
        assert_eq!(gates[passed + round as usize].entered(), 0, "{round} at a time");
        here.iter().for_each(Gate::open);
        passed += round as usize;
    }
    eventually("max_opening", || pool.stats().opening == 8);
    let failures = pool.stats().open_failures;
    gates[7].open_with(Does::Fail);
    eventually("it failed", || pool.stats().open_failures > failures);
    gates[8..14].iter().for_each(Gate::open);
    eventually("one is left", || pool.stats().opening == 1);
    gates[14].open();
    eventually("it is full", || pool.state().idle_connections == 16);
    server.check();
}

fn fails_fast(server: &Server, after: Duration) -> Pool<Manager> {
    builder(2).fail_fast_after(Some(after)).build(server.manager()).unwrap()
}

#[track_caller]
fn assert_fails_fast(error: &Error) {
    assert!(error.is_connect(), "{error}");
    let source = error.source().and_then(|source| source.downcast_ref::<StubError>());
    assert!(matches!(source, Some(StubError::Refused(_))), "{error:?}");
    let after = error.retry_after().expect("it is tried again");
    assert!(after >= ms(1) && after <= ms(4), "{after:?}, with a backoff of 1 to 4 ms");
    assert!(error.to_string().starts_with("connecting has failed for "), "{error}");
}

#[test]
fn p9_fail_fast_tells_those_who_wait_and_those_who_come_the_typed_cause() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = fails_fast(&server, ms(200));
    let begun = Instant::now();
    let waiters: Vec<_> = (0..4).map(|_| start_waiter(&pool, Duration::MAX)).collect();
    for waiter in waiters {
        let error = waiter.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert_fails_fast(&error);
        assert!(begun.elapsed() >= ms(200), "too early");
    }
    let error = pool.get_timeout(Duration::MAX).map(drop).unwrap_err();
    assert_fails_fast(&error);
    assert_eq!(error.waited().as_secs(), 0);
    assert_eq!(pool.stats().waiting, 0);
}

#[test]
fn p9_who_fails_fast_need_not_ask_for_the_pool_to_find_the_server_again() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = fails_fast(&server, Duration::ZERO);
    assert_fails_fast(&pool.get().map(drop).unwrap_err());
    let calls = server.calls(Op::Connect);
    eventually("it tries, though nobody waits", || server.calls(Op::Connect) > calls + 3);
    server.on(Op::Connect, Does::Succeed);
    eventually("it is open", || pool.state().idle_connections == 1);
    drop(pool.get_timeout(Duration::ZERO).unwrap());
}

#[test]
fn p9_nobody_fails_fast_who_can_be_served_by_a_return() {
    let server = Server::new();
    let pool = fails_fast(&server, Duration::ZERO);
    let held = pool.get().unwrap();
    server.on(Op::Connect, Does::Fail);
    let outcome = waiter(&pool, Duration::MAX);
    let calls = server.calls(Op::Connect);
    eventually("it failed twice", || server.calls(Op::Connect) > calls + 2);
    assert!(outcome.try_recv().is_err());
    drop(held);
    drop(served(&outcome));
}

#[test]
fn p9_without_fail_fast_callers_wait_until_their_deadlines() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(2).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.retry_after(), None);
}
