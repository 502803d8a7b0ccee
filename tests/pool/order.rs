//! P2: first in, first out, within a priority.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use fairpool::Fairness;
use fairpool_testing::stub::{Server, WATCHDOG, builder, lock};

use crate::support::{await_waiting, ms, rounds, served, waiter};

fn assert_served_in_arrival_order(fairness: Fairness, rounds: usize) {
    const WAITERS: usize = 8;
    let server = Server::new();
    let pool = builder(1).fairness(fairness).build(server.manager()).unwrap();
    for round in 0..rounds {
        let held = pool.get().unwrap();
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..WAITERS {
                let (pool, order) = (&pool, &order);
                scope.spawn(move || {
                    let conn = pool.get().expect("served");
                    lock(order).push(number);
                    drop(conn);
                });
                await_waiting(pool, number as u32 + 1);
                thread::sleep(ms(10)); // well apart
            }
            drop(held);
        });
        let order = order.into_inner().unwrap();
        assert!(order.is_sorted(), "{fairness:?}, round {round}: {order:?}");
    }
    println!("{fairness:?}: {rounds} rounds of {WAITERS} waiters in order");
    server.check();
}

#[test]
fn p2_waiters_are_served_in_the_order_of_their_arrival() {
    assert_served_in_arrival_order(Fairness::default(), rounds(20));
}

#[test]
fn p2_strict_waiters_are_served_in_the_order_of_their_arrival() {
    assert_served_in_arrival_order(Fairness::Strict, rounds(20));
}

#[test]
fn p2_no_newcomer_overtakes_a_waiter_past_the_bound() {
    let bound = ms(5);
    let server = Server::new();
    let pool = builder(1).fairness(Fairness::Bounded(bound)).build(server.manager()).unwrap();
    for _ in 0..rounds(50) {
        let held = pool.get().unwrap();
        let outcome = waiter(&pool, WATCHDOG);
        thread::sleep(bound);
        drop(held);
        assert!(pool.get_timeout(Duration::ZERO).is_err(), "a newcomer took the waiter's");
        assert!(pool.try_get().is_none(), "a newcomer took the waiter's");
        drop(served(&outcome));
    }
}

#[test]
fn p2_strict_lets_no_newcomer_overtake_ever() {
    let server = Server::new();
    let pool = builder(1).fairness(Fairness::Strict).build(server.manager()).unwrap();
    for _ in 0..rounds(200) {
        let held = pool.get().unwrap();
        let outcome = waiter(&pool, WATCHDOG);
        drop(held);
        assert!(pool.get_timeout(Duration::ZERO).is_err(), "a newcomer took the waiter's");
        drop(served(&outcome));
    }
}

#[test]
fn p2_a_bound_of_zero_is_strict() {
    let server = Server::new();
    let pool =
        builder(1).fairness(Fairness::Bounded(Duration::ZERO)).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let outcome = waiter(&pool, WATCHDOG);
    drop(held);
    assert!(pool.try_get().is_none(), "a newcomer took the waiter's");
    served(&outcome);
}

#[test]
fn p2_a_newcomer_may_take_an_idle_connection_before_the_bound() {
    // The waiter sleeps and needs a moment to wake up: some of many newcomers are faster.
    let server = Server::new();
    let pool = builder(1)
        .fairness(Fairness::Bounded(Duration::from_secs(60)))
        .build(server.manager())
        .unwrap();
    let mut overtaken = 0;
    for _ in 0..200 {
        let held = pool.get().unwrap();
        let outcome = waiter(&pool, WATCHDOG);
        drop(held);
        overtaken += u32::from(pool.try_get().is_some());
        served(&outcome);
    }
    assert!(overtaken > 0, "no newcomer of 200 was let past: the bound means nothing");
}

#[test]
fn p2_smaller_priorities_are_served_first_and_each_in_order() {
    let server = Server::new();
    let pool = builder(1)
        .fairness(Fairness::Strict)
        .priority_ageing(Duration::from_secs(60))
        .build(server.manager())
        .unwrap();
    let held = pool.get().unwrap();
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (number, priority) in [5, 9, 0, 5, 255, 0, 9].into_iter().enumerate() {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let conn = pool.request().priority(priority).get().expect("served");
                lock(order).push((priority, number));
                drop(conn);
            });
            await_waiting(pool, number as u32 + 1);
        }
        drop(held);
    });
    let order = order.into_inner().unwrap();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn p2_ageing_bounds_how_long_a_low_priority_is_passed_over() {
    let server = Server::new();
    let pool = builder(1)
        .fairness(Fairness::Strict)
        .priority_ageing(ms(5))
        .build(server.manager())
        .unwrap();
    let held = pool.get().unwrap();
    let (sender, outcome) = mpsc::channel();
    thread::scope(|scope| {
        for (number, priority) in [(0, 9), (1, 1)] {
            let (pool, sender) = (&pool, sender.clone());
            scope.spawn(move || {
                let conn = pool.request().priority(priority).get().expect("served");
                sender.send(number).unwrap();
                drop(conn);
            });
            await_waiting(pool, number + 1);
            thread::sleep(ms(8 * 5 + 5)); // eight levels, and a margin
        }
        drop(held);
        assert_eq!(outcome.recv_timeout(WATCHDOG), Ok(0), "it had waited long enough");
    });
}
