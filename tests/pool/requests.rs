//! Requests, and the ways to cancel one.

use std::panic::Location;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::EventKind;
use fairpool::{CancelToken, ErrorKind, Label};
use fairpool_testing::stub::{Does, Gate, Op, Server, WATCHDOG, builder, eventually, watched};

use crate::support::{await_waiting, ms};

#[test]
fn a_request_keeps_its_timeout_and_shows_its_label() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.request().label("the holder").get().unwrap();
    let start = Instant::now();
    let request = pool.request().timeout(ms(30)).label("the waiter");
    assert!(format!("{request:?}").contains("the waiter"));
    let error = request.get().map(drop).unwrap_err();
    assert!(start.elapsed() >= ms(30));
    let text = error.to_string();
    assert!(text.contains("(the waiter)") && text.contains("(the holder)"), "{text}");
    assert_eq!(error.longest_holder().unwrap().label(), Some("the holder"));
    drop(held);
}

#[test]
fn a_label_may_be_any_string() {
    const TEXT: &str = "GET /orders/17";
    let labels: [fn() -> Label; 3] =
        [|| TEXT.into(), || String::from(TEXT).into(), || Arc::<str>::from(TEXT).into()];
    for label in labels {
        let pool = builder(1).build(Server::new().manager()).unwrap();
        let events = pool.subscribe(100).unwrap();
        let held = pool.request().label(label()).get().unwrap();
        let error = pool.request().label(label()).timeout(ms(5)).get().map(drop).unwrap_err();
        assert_eq!(error.to_string().matches("(GET /orders/17)").count(), 2, "{error}");
        assert_eq!(error.longest_holder().unwrap().label(), Some(TEXT));
        assert_eq!(pool.snapshot().holders[0].call_site().label(), Some(TEXT));
        drop(held);
        drop(pool.get().unwrap());
        let (mut seen, mut before) = (0, None);
        while before.is_none() {
            let call_site = match events.recv_timeout(WATCHDOG).unwrap().kind {
                EventKind::CheckedOut { from: Some(from), .. } => before.insert(from).clone(),
                EventKind::Enqueued { call_site, .. }
                | EventKind::CheckedOut { call_site, .. }
                | EventKind::GetFailed { call_site, .. } => call_site,
                _ => continue,
            };
            assert_eq!(call_site.label(), Some(TEXT));
            seen += 1;
        }
        assert!(seen >= 4, "got, waited, failed, gave it back: {seen}");
    }
}

#[test]
fn an_empty_label_is_none() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.request().label(String::new()).get().unwrap();
    assert_eq!(pool.holders()[0].label(), None);
    assert!(!pool.holders()[0].to_string().contains("()"));
    drop(held);
}

/// A helper that is not `#[track_caller]`, whose get runs on another thread.
#[test]
fn a_get_shows_the_line_that_it_was_given() {
    #[track_caller]
    fn somewhere() -> &'static Location<'static> {
        Location::caller()
    }
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let events = pool.subscribe(100).unwrap();
    let (at, from) = (somewhere(), somewhere());
    let get = || pool.request().location(at).get().unwrap();
    let held = thread::scope(|scope| scope.spawn(get).join().unwrap());
    assert_eq!(pool.holders()[0].location(), at);
    let seen = loop {
        match events.recv_timeout(WATCHDOG).unwrap().kind {
            EventKind::Enqueued { call_site, .. } | EventKind::CheckedOut { call_site, .. } => {
                break call_site;
            }
            _ => {}
        }
    };
    assert_eq!(seen.location(), at);
    thread::scope(|scope| {
        scope.spawn(|| pool.request().location(from).timeout(WATCHDOG).get().map(drop).unwrap());
        await_waiting(&pool, 1);
        assert_eq!(pool.snapshot().waiters[0].location(), from);
        drop(held);
    });
    let (held, line) = (pool.request().get().unwrap(), line!());
    assert_eq!(pool.holders()[0].location().line(), line, "by default, that of the get");
    drop(held);
}

#[test]
fn a_deadline_in_the_past_takes_what_is_there() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    let conn = pool.request().deadline(past).get().expect("one is idle");
    let long_past = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or(past);
    let there = pool.clone();
    let error = watched("a deadline in the past", move || {
        there.request().deadline(long_past).get().map(drop).unwrap_err()
    });
    assert!(error.is_timeout(), "{error}");
    drop(conn);
}

#[test]
fn cancelling_before_fails_at_once_even_beside_an_idle_connection() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    let token = CancelToken::new();
    assert!(!token.is_cancelled());
    token.clone().cancel();
    token.cancel(); // again does nothing
    assert!(token.is_cancelled());
    let error = pool.request().cancel(&token).get().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(pool.stats().cancelled, 1);
    assert!(pool.request().get().is_ok(), "it concerns its own requests only");
}

#[test]
fn cancelling_ends_exactly_the_waits_of_its_token() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let (mine, other) = (CancelToken::new(), CancelToken::new());
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for (number, token) in [&mine, &other, &mine].into_iter().enumerate() {
            let (pool, sender) = (&pool, sender.clone());
            scope.spawn(move || {
                let result = pool.request().timeout(Duration::MAX).cancel(token).get().map(drop);
                sender.send((number, result)).unwrap();
            });
            await_waiting(pool, number as u32 + 1);
        }
        mine.cancel();
        assert_eq!(pool.stats().waiting, 1, "when cancel returns they have left");
        for _ in 0..2 {
            let (number, result) = receiver.recv_timeout(WATCHDOG).unwrap();
            assert_ne!(number, 1);
            assert!(result.unwrap_err().is_cancelled());
        }
        drop(held);
        let (number, result) = receiver.recv_timeout(WATCHDOG).unwrap();
        assert_eq!(number, 1);
        result.unwrap();
    });
}

#[test]
fn cancelling_after_leaves_the_connection_to_its_holder() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let token = CancelToken::new();
    let conn = pool.request().cancel(&token).get().unwrap();
    token.cancel();
    conn.touch();
    drop(conn);
    assert_eq!(pool.state().idle_connections, 1);
    assert_eq!(pool.stats().cancelled, 0);
}

#[test]
fn a_token_does_not_keep_a_pool_alive() {
    let server = Server::new();
    let token = CancelToken::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.request().cancel(&token).get().unwrap();
    assert!(pool.request().timeout(ms(5)).cancel(&token).get().is_err());
    drop(held);
    drop(pool);
    eventually("it was closed", || server.live() == 0);
    token.cancel();
}

#[test]
fn try_get_takes_an_idle_connection_and_waits_for_none() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(2).build(server.manager()).unwrap();
    let there = pool.clone();
    assert!(watched("try_get on an empty pool", move || there.try_get().is_none()));
    let conn = pool.get().unwrap();
    eventually("nothing is being opened", || pool.stats().opening == 0);
    drop(conn);
    let conn = pool.try_get().expect("one is idle");
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let rest: Vec<_> = std::iter::from_fn(|| pool.try_get()).collect();
    assert!(rest.len() <= 1);
    let there = pool.clone();
    assert!(watched("try_get on an exhausted pool", move || there.try_get().is_none()));
    drop((conn, rest));
    gate.open();
}

#[test]
fn try_get_waits_for_the_check_of_an_idle_connection() {
    let server = Server::new();
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Take(ms(20)));
    assert!(pool.try_get().is_some());
}

#[test]
fn try_get_does_not_wait_for_an_open_after_a_failed_check() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1)
        .test_on_check_out(true)
        .validation_timeout(Duration::from_secs(2))
        .build(server.manager())
        .unwrap();
    drop(pool.get().unwrap());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    server.next(Op::IsValid, Does::Fail);
    let start = Instant::now();
    assert!(pool.try_get().is_none(), "its connection is dead");
    let took = start.elapsed();
    gate.open();
    assert!(took < Duration::from_secs(1), "it waited {took:?} for an open");
}
