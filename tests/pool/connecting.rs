//! How many connects there are, and when: slow ones, those that hang, after an outage.

use std::thread;

use fairpool::health::HealthLevel;
use fairpool::{Pool, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, builder, eventually};

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
    let callers: Vec<_> = (0..7).map(|_| start_waiter(pool, ms(60_000))).collect();
    callers.iter().for_each(|caller| drop(served(caller)));
    // Another one needs no connect.
    drop(pool.get().unwrap());
    assert_eq!(gate.entered(), 6);
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
