//! P9: errors explain.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use fairpool::{ErrorKind, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Op, Server, StubError, WATCHDOG, builder, eventually};

use crate::support::{ms, served, waiter};

#[test]
fn p9_every_waiter_gets_the_typed_connect_error() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(2).build(server.manager()).unwrap();
    let outcomes: Vec<_> = (0..6).map(|_| waiter(&pool, ms(150))).collect();
    for outcome in outcomes {
        let error = outcome.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert!(error.is_timeout());
        assert!(error.waited() >= ms(150));
        let source = error.source().unwrap_or_else(|| panic!("no cause: {error}"));
        let cause = source.downcast_ref::<StubError>().expect("the manager's own type");
        assert!(matches!(cause, StubError::Refused(_)), "{cause}");
        // Who prints the chain prints the cause once; who prints only this error asks for it.
        assert!(!error.to_string().contains(&cause.to_string()), "{error}");
        assert!(format!("{error:#}").ends_with(&format!("; last error: {cause}")), "{error:#}");
        assert!(format!("{error:?}").contains("cause: Some(Refused("), "{error:?}");
    }
}

#[test]
fn p9_a_permanent_connect_error_ends_every_wait_at_once() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let outcomes: Vec<_> = (0..4).map(|_| waiter(&pool, Duration::MAX)).collect();
    gate.open_with(Does::FailForGood);
    for outcome in outcomes {
        let error = outcome.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
        assert_eq!(cause, Some(&StubError::WrongPassword));
    }
    eventually("a later attempt succeeds", || pool.get().is_ok());
}

#[test]
fn p9_between_attempts_a_permanent_connect_error_is_told_at_once() {
    let server = Server::new();
    server.on(Op::Connect, Does::FailForGood);
    let backoff = Duration::from_secs(600);
    let pool = builder(1).connect_backoff(backoff, backoff).build(server.manager()).unwrap();
    for limit in [WATCHDOG, WATCHDOG, ms(20), Duration::ZERO] {
        let error = pool.get_timeout(limit).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
        assert_eq!(cause, Some(&StubError::WrongPassword), "{error}");
    }
    assert_eq!(server.calls(Op::Connect), 1, "the others did not wait for an attempt");
}

/// A configuration that has worked is not wrong: what the driver takes for permanent passes.
#[test]
fn p9_after_a_success_no_connect_error_ends_a_wait() {
    let server = Server::new();
    let pool = builder(1).connect_backoff(ms(1), ms(1)).build(server.manager()).unwrap();
    PooledConnection::discard(pool.get().unwrap());
    server.on(Op::Connect, Does::FailForGood);
    let waiters: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    let before = server.calls(Op::Connect);
    eventually("it failed three times", || server.calls(Op::Connect) > before + 3);
    eventually("the cause is told", || {
        let error = pool.get_timeout(ms(5)).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        error.source().is_some_and(|source| source.is::<StubError>())
    });
    assert!(waiters.iter().all(|waiter| waiter.try_recv().is_err()));
    server.on(Op::Connect, Does::Succeed);
    for waiter in waiters {
        drop(served(&waiter));
    }
}

#[test]
fn p9_a_permanent_connect_error_leaves_alone_who_can_be_served_by_a_return() {
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    server.on(Op::Connect, Does::FailForGood);
    let outcome = waiter(&pool, Duration::MAX);
    eventually("it failed twice", || server.calls(Op::Connect) > 2);
    assert!(outcome.try_recv().is_err());
    drop(held);
    drop(served(&outcome));
}

#[test]
fn p9_a_timeout_says_where_all_connections_are_and_who_holds_one_longest() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(5).name("orders").max_opening(1).build(server.manager()).unwrap();
    let line = Arc::new(AtomicUsize::new(0));
    let (sender, outcome) = mpsc::channel();
    let holder = {
        let (pool, line) = (pool.clone(), line.clone());
        thread::Builder::new().name("the-hoarder".into()).spawn(move || {
            line.store(line!() as usize + 1, Ordering::SeqCst);
            sender.send(pool.request().label("report").get()).unwrap();
        })
    };
    let hoarded = outcome.recv_timeout(WATCHDOG).unwrap().unwrap();
    holder.unwrap().join().unwrap();
    thread::sleep(ms(5));
    let later = pool.get().unwrap();
    let doomed = pool.get().unwrap();
    server.on(Op::Close, Does::Hang(gate.clone()));
    server.on(Op::Connect, Does::Hang(gate.clone()));
    PooledConnection::discard(doomed);
    gate.await_entered(1);
    let other = waiter(&pool, Duration::MAX);
    gate.await_entered(2);
    let error = pool.get_timeout(ms(20)).map(drop).unwrap_err();
    let text = error.to_string();
    println!("{text}");
    assert!(error.waited() >= ms(20), "{text}");
    let waited = format!("timed out after {:.1?}", error.waited());
    for part in [
        waited.as_str(),
        "pool 'orders' of at most 5",
        "0 idle",
        "2 in use",
        "1 opening",
        "1 closing",
        "1 other caller waits",
        "thread 'the-hoarder'",
        file!(),
        "report",
    ] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    let longest = error.longest_holder().expect("two hold connections");
    assert_eq!(longest.thread(), "the-hoarder");
    assert_eq!(longest.label(), Some("report"));
    assert_eq!(longest.location().line() as usize, line.load(Ordering::SeqCst));
    assert!(longest.held_for() >= ms(25), "{longest}");
    assert!(error.source().is_none(), "nothing failed: {text}");
    gate.open();
    drop((hoarded, later));
    drop(served(&other));
}

#[test]
fn p9_a_stale_cause_is_not_shown() {
    let server = Server::new();
    server.next(Op::Connect, Does::Fail);
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().expect("the second attempt succeeds");
    let error = pool.get_timeout(ms(20)).map(drop).unwrap_err();
    assert!(error.source().is_none(), "the failure was cured: {error:?}");

    // A failure before this wait is no cause of it: this one waits for a return.
    let doomed = held;
    pool.set_max_size(2).unwrap();
    server.on(Op::Connect, Does::Fail);
    let error = pool.get_timeout(ms(30)).map(drop).unwrap_err();
    assert!(error.source().is_some(), "{error:?}");
    pool.set_max_size(1).unwrap();
    eventually("no attempt is under way", || pool.stats().opening == 0);
    let error = pool.get_timeout(ms(30)).map(drop).unwrap_err();
    assert!(error.source().is_none(), "of an earlier wait: {error:?}");
    drop(doomed);
}

#[test]
fn p9_a_timeout_says_for_how_long_a_call_has_been_slow() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(20)).map(drop).unwrap_err();
    assert!(!error.to_string().contains("so far"), "not slow yet: {error}");
    let error = pool.get_timeout(ms(400)).map(drop).unwrap_err();
    assert!(error.to_string().contains(", connecting for "), "{error}");
    gate.open();

    let gate = Gate::new();
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    let error = pool.get_timeout(ms(400)).map(drop).unwrap_err();
    assert!(error.to_string().contains(", a check runs for "), "{error}");
    gate.open();
}

#[test]
fn p9_a_failed_check_is_a_typed_cause_until_a_connect_succeeds() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.next(Op::IsValid, Does::Fail);
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let error = pool.get_timeout(ms(100)).map(drop).unwrap_err();
    let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
    assert_eq!(cause, Some(&StubError::Invalid), "{error}");
    gate.open();
}

#[test]
fn p9_a_panic_in_connect_is_the_cause_that_waiters_see() {
    let server = Server::new();
    server.on(Op::Connect, Does::Panic);
    let pool = builder(1).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("a scripted panic"), "{error:#}");
    let error = builder(1)
        .min_idle(None)
        .connection_timeout(ms(50))
        .build(server.manager())
        .map(drop)
        .unwrap_err();
    assert!(error.is_timeout());
    assert!(format!("{error:#}").contains("a scripted panic"), "{error:#}");
}
