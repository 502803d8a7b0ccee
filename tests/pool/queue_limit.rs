//! P8: the queue is bounded.

use std::time::{Duration, Instant};

use fairpool::ErrorKind;
use fairpool_testing::stub::{Does, Gate, Op, Server, WATCHDOG, builder};

use crate::support::{allowed_overshoot, ms, served, start_waiter, waiter};

#[test]
fn p8_one_waiter_too_many_is_refused_at_once() {
    let server = Server::new();
    let pool = builder(1).max_waiters(Some(2)).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let outcomes = [waiter(&pool, Duration::MAX), waiter(&pool, Duration::MAX)];
    let start = Instant::now();
    let error = pool.get_timeout(WATCHDOG).map(drop).unwrap_err();
    assert!(error.is_queue_full(), "{error}");
    assert_eq!(error.kind(), ErrorKind::QueueFull);
    assert!(start.elapsed() < allowed_overshoot());
    assert!(error.to_string().contains("2 other callers wait"), "{error}");
    assert_eq!(pool.stats().refused, 1);
    drop(held);
    outcomes.iter().for_each(|outcome| drop(served(outcome)));
    assert!(pool.get().is_ok(), "the queue has room again");
}

#[test]
fn p8_callers_are_not_refused_beside_idle_connections() {
    // All connections are due for a check, as after half a second without use.
    let (server, gate) = (Server::new(), Gate::new());
    let pool =
        builder(4).test_on_check_out(true).max_waiters(Some(1)).build(server.manager()).unwrap();
    let all: Vec<_> = (0..4).map(|_| pool.get().expect("there is room")).collect();
    drop(all);
    server.on(Op::IsValid, Does::Hang(gate.clone()));
    let outcome = waiter(&pool, Duration::MAX);
    gate.await_entered(1);
    // Three connections are idle; one caller waits for a check.
    let second = start_waiter(&pool, Duration::MAX);
    let refused = second.recv_timeout(ms(200));
    gate.open();
    if let Ok(Err(error)) = refused {
        panic!("refused beside idle connections: {error}");
    }
    drop(served(&outcome));
}
