//! The public API: each setting and each method does what its documentation
//! says.

#[allow(dead_code)]
#[path = "support/stub.rs"]
mod stub;

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{Builder, CancelToken, CloseReport, ConnectionInfo, CustomizeConnection, Error, ErrorKind, Extensions, Fairness, HandleError, HandleEvent, ManageConnection, Pool, PooledConnection, Request, SelfDeadlock, State};
use fairpool::snapshot::Holder;
use fairpool::stats::{ClosedBy, Stats};
use stub::{
    Conn, Does, Gate, Manager, Op, Server, StubError, WATCHDOG, builder, eventually, lock, watched,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn await_waiting(pool: &Pool<Manager>, waiting: u32) {
    eventually("so many callers wait", || pool.stats().waiting == waiting);
}

// ---------------------------------------------------------------------------
// Types

struct SendOnly(#[allow(dead_code)] Cell<u8>);
struct SendOnlyManager;

impl ManageConnection for SendOnlyManager {
    type Connection = SendOnly;
    type Error = StubError;

    fn connect(&self) -> Result<SendOnly, StubError> {
        Ok(SendOnly(Cell::new(0)))
    }
    fn is_valid(&self, _: &mut SendOnly) -> Result<(), StubError> {
        Ok(())
    }
    fn has_broken(&self, _: &mut SendOnly) -> bool {
        false
    }
}

#[test]
fn public_types_can_be_sent_and_shared() {
    fn everywhere<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn shared<T: Send + Sync>() {}
    everywhere::<Pool<Manager>>();
    everywhere::<Pool<SendOnlyManager>>();
    everywhere::<PooledConnection<Manager>>();
    sent::<PooledConnection<SendOnlyManager>>();
    sent::<Builder<Manager>>();
    shared::<Request<'_, Manager>>();
    everywhere::<CancelToken>();
    everywhere::<Error>();
    everywhere::<ErrorKind>();
    everywhere::<Extensions>();
    everywhere::<Holder>();
    everywhere::<CloseReport>();
    everywhere::<Stats>();
    everywhere::<ClosedBy>();
    everywhere::<State>();
    everywhere::<ConnectionInfo>();
    everywhere::<Fairness>();
    everywhere::<AcquireEvent>();
    everywhere::<ReleaseEvent>();
    everywhere::<CheckoutEvent>();
    everywhere::<CheckinEvent>();
    everywhere::<TimeoutEvent>();
    // An error goes through `?` into the usual boxes.
    let boxed: Result<(), Box<dyn std::error::Error + Send + Sync>> =
        (|| Ok(Pool::builder().max_opening(0).build(Server::new().manager()).map(drop)?))();
    assert!(boxed.is_err());
}

// ---------------------------------------------------------------------------
// The builder

#[track_caller]
fn refused(builder: Builder<Manager>, parts: &[&str]) {
    let error = builder.build(Server::new().manager()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert_eq!(error.waited(), Duration::ZERO);
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
}

#[test]
fn bad_settings_are_refused_by_name_and_value() {
    let zero = Duration::ZERO;
    let age = Duration::from_secs(101 * 365 * 24 * 3600);
    refused(builder(1).open_timeout(zero), &["open_timeout", "0ns"]);
    refused(builder(1).validation_timeout(zero), &["validation_timeout", "0ns"]);
    refused(builder(1).reset_timeout(zero), &["reset_timeout", "0ns"]);
    refused(builder(1).close_timeout(zero), &["close_timeout", "0ns"]);
    refused(builder(1).priority_ageing(zero), &["priority_ageing", "0ns"]);
    refused(builder(1).keepalive(Some(zero)), &["keepalive", "0ns"]);
    refused(builder(1).open_timeout(age), &["open_timeout", "3185136000s"]);
    refused(builder(1).keepalive(Some(age)), &["keepalive", "3185136000s"]);
    refused(builder(1).max_lifetime(Some(age)), &["max_lifetime", "3185136000s"]);
    refused(builder(1).idle_timeout(Some(age)), &["idle_timeout", "3185136000s"]);
    refused(builder(1).connection_timeout(age), &["connection_timeout", "3185136000s"]);
    refused(builder(1).skip_check_within(age), &["skip_check_within", "3185136000s"]);
    refused(builder(1).fairness(Fairness::Bounded(age)), &["fairness", "3185136000s"]);
    refused(builder(1).max_opening(0), &["max_opening", "0"]);
    refused(builder(1).max_closers(0), &["max_closers", "0"]);
    refused(builder(1).max_abandoned(0), &["max_abandoned", "0"]);
    refused(builder(1).max_waiters(Some(0)), &["max_waiters", "0"]);
    for jitter in [-0.1, 0.91, f64::NAN, f64::INFINITY] {
        refused(builder(1).lifetime_jitter(jitter), &["lifetime_jitter", &jitter.to_string()]);
    }
    refused(builder(1).connect_backoff(ms(9), ms(3)), &["connect_backoff", "9ms", "3ms"]);
    refused(builder(1).connect_backoff(zero, ms(3)), &["connect_backoff", "0ns"]);
    refused(builder(4).min_idle(Some(3)).max_idle(Some(2)), &["min_idle (3)", "max_idle (2)"]);
    refused(builder(1).leak_threshold(Some(zero)), &["leak_threshold", "0ns"]);
    refused(builder(1).leak_threshold(Some(age)), &["leak_threshold", "3185136000s"]);
    let fail = SelfDeadlock::Fail(age);
    refused(builder(1).on_self_deadlock(fail), &["on_self_deadlock", "3185136000s"]);
    refused(builder(1).name("a\0b"), &["name", "a\\0b"]);
}

#[track_caller]
fn panics(build: impl FnOnce() + std::panic::UnwindSafe, part: &str) {
    let payload = std::panic::catch_unwind(build).expect_err("as r2d2 documents, it panics");
    let text = payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_default();
    assert!(text.contains(part), "no '{part}' in: {text}");
}

#[test]
fn what_r2d2_panics_at_panics() {
    panics(|| drop(builder(1).max_size(0)), "max_size");
    panics(|| drop(builder(1).max_lifetime(Some(Duration::ZERO))), "max_lifetime");
    panics(|| drop(builder(1).idle_timeout(Some(Duration::ZERO))), "idle_timeout");
    panics(|| drop(builder(1).connection_timeout(Duration::ZERO)), "connection_timeout");
    panics(|| drop(builder(2).min_idle(Some(3)).build(Server::new().manager())), "min_idle (3)");
    panics(
        || drop(builder(2).min_idle(Some(3)).build_unchecked(Server::new().manager())),
        "min_idle (3)",
    );
    panics(
        || drop(builder(2).max_opening(0).build_unchecked(Server::new().manager())),
        "max_opening",
    );
}

#[test]
fn the_defaults_are_those_of_r2d2() {
    let server = Server::new();
    let pool = Pool::new(server.manager()).unwrap();
    assert_eq!(pool.max_size(), 10);
    assert_eq!(pool.min_idle(), None);
    assert_eq!(pool.max_lifetime(), Some(Duration::from_secs(30 * 60)));
    assert_eq!(pool.idle_timeout(), Some(Duration::from_secs(10 * 60)));
    assert_eq!(pool.connection_timeout(), Duration::from_secs(30));
    assert!(pool.test_on_check_out());
    assert_eq!(pool.name(), "fairpool");
    let state = pool.state();
    assert_eq!((state.connections, state.idle_connections), (10, 10));
    assert_eq!(server.live(), 10);
}

#[test]
fn getters_tell_what_was_set() {
    let pool = builder(7)
        .name("seven")
        .min_idle(Some(2))
        .test_on_check_out(false)
        .max_lifetime(Some(Duration::from_secs(5)))
        .idle_timeout(Some(Duration::from_secs(6)))
        .connection_timeout(Duration::from_secs(3))
        .build(Server::new().manager())
        .unwrap();
    assert_eq!((pool.max_size(), pool.min_idle(), pool.name()), (7, Some(2), "seven"));
    assert!(!pool.test_on_check_out());
    assert_eq!(pool.max_lifetime(), Some(Duration::from_secs(5)));
    assert_eq!(pool.idle_timeout(), Some(Duration::from_secs(6)));
    assert_eq!(pool.connection_timeout(), Duration::from_secs(3));
    pool.set_max_size(9).unwrap();
    pool.set_min_idle(None).unwrap();
    assert_eq!((pool.max_size(), pool.min_idle()), (9, None));
    let text = format!("{pool:?}");
    assert!(text.contains("seven") && text.contains("max_size: 9"), "{text}");
}

#[test]
fn build_waits_for_min_idle_and_says_why_it_cannot_have_it() {
    let server = Server::new();
    let pool = builder(5).min_idle(Some(3)).build(server.manager()).unwrap();
    assert_eq!((pool.state().idle_connections, server.live()), (3, 3));

    server.on(Op::Connect, Does::Fail);
    let start = Instant::now();
    let error = builder(2)
        .min_idle(None)
        .connection_timeout(ms(60))
        .build(server.manager())
        .map(drop)
        .unwrap_err();
    assert!(start.elapsed() >= ms(60));
    assert!(error.is_timeout(), "{error}");
    assert!(error.source().unwrap().is::<StubError>(), "{error:?}");

    server.on(Op::Connect, Does::FailForGood);
    let error = builder(2).min_idle(None).build(server.manager()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert!(error.waited() < WATCHDOG, "it is known at once");
    let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
    assert_eq!(cause, Some(&StubError::WrongPassword));
}

#[test]
fn build_unchecked_does_not_wait() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let manager = server.manager();
    let pool =
        watched("build_unchecked", move || builder(2).min_idle(None).build_unchecked(manager));
    gate.await_entered(2);
    assert_eq!(pool.state().connections, 0);
    gate.open();
    eventually("they come in the background", || pool.state().idle_connections == 2);
}

// ---------------------------------------------------------------------------
// Requests

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
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for (number, token) in [&mine, &other, &mine].into_iter().enumerate() {
            let (pool, tell) = (&pool, tell.clone());
            scope.spawn(move || {
                let result = pool.request().timeout(Duration::MAX).cancel(token).get().map(drop);
                tell.send((number, result)).unwrap();
            });
            await_waiting(pool, number as u32 + 1);
        }
        mine.cancel();
        assert_eq!(pool.stats().waiting, 1, "when cancel returns they have left");
        for _ in 0..2 {
            let (number, result) = told.recv_timeout(WATCHDOG).unwrap();
            assert_ne!(number, 1);
            assert!(result.unwrap_err().is_cancelled());
        }
        drop(held);
        let (number, result) = told.recv_timeout(WATCHDOG).unwrap();
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

// ---------------------------------------------------------------------------
// The owner's controls

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
        assert!(idle <= 1, "{idle} are idle, and nobody waits: {}", pool.stats());
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

// ---------------------------------------------------------------------------
// Ages and checks

#[test]
fn max_lifetime_is_enforced_at_return() {
    let server = Server::new();
    let pool =
        builder(1).max_lifetime(Some(ms(40))).lifetime_jitter(0.0).build(server.manager()).unwrap();
    let start = Instant::now();
    let conn = pool.get().unwrap();
    let id = conn.id;
    drop(conn);
    let young = pool.get().unwrap();
    if start.elapsed() < ms(40) {
        assert_eq!(young.id, id, "it was closed before its time");
    }
    thread::sleep(ms(45));
    young.touch(); // it outlives its time in the hands of its holder
    drop(young);
    assert_eq!(pool.stats().closed.expired, 1);
    assert_ne!(pool.get().unwrap().id, id);
    server.check();
}

#[test]
fn max_lifetime_ends_idle_connections_too() {
    let server = Server::new();
    let pool = builder(2).max_lifetime(Some(ms(20))).build(server.manager()).unwrap();
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    eventually("both are gone", || server.live() == 0);
    assert_eq!(pool.stats().closed.expired, 2);
}

/// Ages at which connections of one pool were closed.
#[derive(Debug, Default)]
struct Ages(Mutex<Vec<Duration>>);

#[derive(Debug)]
struct RecordAges(Arc<Ages>);

impl HandleEvent for RecordAges {
    fn handle_release(&self, event: ReleaseEvent) {
        lock(&self.0.0).push(event.age());
    }
}

#[test]
fn lifetime_jitter_is_drawn_once_and_only_shortens() {
    const LIFE: Duration = Duration::from_millis(400);
    const COUNT: usize = 40;
    let ages = Arc::new(Ages::default());
    let server = Server::new();
    let pool = builder(COUNT as u32)
        .max_opening(COUNT as u32)
        .max_closers(COUNT as u32)
        .max_lifetime(Some(LIFE))
        .lifetime_jitter(0.5)
        // The reaper looks often: a jitter that is drawn at each look would
        // let nearly all end at half their time.
        .keepalive(Some(ms(5)))
        .event_handler(Box::new(RecordAges(ages.clone())))
        .build(server.manager())
        .unwrap();
    drop((0..COUNT).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    eventually("all are gone", || lock(&ages.0).len() == COUNT);
    let ages = std::mem::take(&mut *lock(&ages.0));
    let late = LIFE + ms(300); // what a busy machine may take to close them
    assert!(ages.iter().all(|&age| age >= LIFE / 2 && age < late), "{ages:?}");
    let old = ages.iter().filter(|&&age| age > LIFE * 3 / 4).count();
    assert!(old > COUNT / 5, "{old} of {COUNT} lived for three quarters: {ages:?}");
    let young = ages.iter().filter(|&&age| age < LIFE * 9 / 10).count();
    assert!(young > COUNT / 5, "{young} of {COUNT} were shortened: {ages:?}");
}

#[test]
fn idle_timeout_trims_and_a_use_starts_it_anew() {
    let server = Server::new();
    let pool = builder(1).idle_timeout(Some(ms(150))).build(server.manager()).unwrap();
    let id = pool.get().unwrap().id;
    let start = Instant::now();
    let mut last = start;
    while start.elapsed() < ms(250) {
        thread::sleep(ms(20));
        let used = pool.get().unwrap().id;
        if last.elapsed() < ms(140) {
            assert_eq!(used, id, "used within its idle time");
        }
        last = Instant::now();
    }
    eventually("it is trimmed", || server.live() == 0);
    // The pool notes by a clock that ticks when it came back: a little too early.
    assert!(last.elapsed() >= ms(130));
    assert_eq!(pool.stats().closed.idle_too_long, 1);
}

#[test]
fn keepalive_checks_idle_connections_and_does_not_prolong_idle_timeout() {
    let server = Server::new();
    let pool = builder(2)
        .keepalive(Some(ms(15)))
        .idle_timeout(Some(ms(150)))
        .build(server.manager())
        .unwrap();
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    let start = Instant::now();
    eventually("both were trimmed", || server.live() == 0);
    assert!(start.elapsed() >= ms(130), "too early: {:?}", start.elapsed());
    let checks = server.calls(Op::IsValid);
    assert!(checks >= 4, "{checks} checks");
    assert_eq!(pool.stats().closed.idle_too_long, 2, "{:?}", pool.stats());
    server.check();
}

#[test]
fn keepalive_replaces_a_dead_connection_before_it_is_needed() {
    let server = Server::new();
    let pool =
        builder(1).min_idle(Some(1)).keepalive(Some(ms(10))).build(server.manager()).unwrap();
    server.next(Op::IsValid, Does::Fail);
    eventually("it was replaced", || {
        pool.stats().closed.invalid == 1 && pool.state().idle_connections == 1
    });
    assert_eq!(pool.get().unwrap().id, 2);
}

#[test]
fn test_on_check_out_true_checks_each_time_and_false_never() {
    for (test, expected) in [(true, 5), (false, 0)] {
        let server = Server::new();
        let pool = builder(1)
            .test_on_check_out(test)
            .skip_check_within(Duration::ZERO) // means nothing if that is set
            .build(server.manager())
            .unwrap();
        for _ in 0..6 {
            drop(pool.get().unwrap()); // the first time it is new
        }
        assert_eq!(server.calls(Op::IsValid), expected, "test_on_check_out({test})");
    }
}

fn unset(max_size: u32) -> Builder<Manager> {
    Pool::builder()
        .max_size(max_size)
        .min_idle(Some(0))
        .connection_timeout(WATCHDOG)
        .error_handler(Box::new(fairpool::NopErrorHandler))
}

#[test]
fn connections_used_just_now_are_not_checked() {
    let server = Server::new();
    let pool =
        unset(1).skip_check_within(Duration::from_secs(600)).build(server.manager()).unwrap();
    (0..20).for_each(|_| drop(pool.get().unwrap()));
    assert_eq!(server.calls(Op::IsValid), 0);

    let server = Server::new();
    let pool = unset(1).skip_check_within(ms(20)).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    thread::sleep(ms(60)); // by far: the clock ticks
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), 1);

    let server = Server::new();
    let pool = unset(1).skip_check_within(Duration::ZERO).build(server.manager()).unwrap();
    (0..4).for_each(|_| drop(pool.get().unwrap()));
    assert_eq!(server.calls(Op::IsValid), 3);
}

#[test]
fn a_reset_runs_only_when_it_is_needed_and_before_the_next_use() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    assert_eq!((server.calls(Op::NeedsReset), server.calls(Op::Reset)), (1, 0));
    server.next(Op::NeedsReset, Does::Fail);
    server.next(Op::Reset, Does::Hang(gate.clone()));
    drop(pool.get().unwrap());
    gate.await_entered(1);
    assert!(pool.get_timeout(ms(20)).is_err(), "it is not clean yet");
    let stats = pool.stats();
    assert_eq!((stats.checking, stats.in_use, stats.idle), (1, 1, 0), "{stats:?}");
    gate.open();
    assert_eq!(pool.get().unwrap().id, 1);

    server.next(Op::NeedsReset, Does::Fail);
    server.next(Op::Reset, Does::Fail);
    drop(pool.get().unwrap());
    assert_eq!(pool.get().unwrap().id, 2);
    assert_eq!(pool.stats().closed.broken, 1);
}

// ---------------------------------------------------------------------------
// Guards

#[test]
fn a_guard_can_be_discarded_marked_and_detached() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    PooledConnection::discard(pool.get().unwrap());
    let mut conn = pool.get().unwrap();
    assert_eq!(conn.id, 2);
    PooledConnection::mark_broken(&mut conn);
    conn.touch();
    drop(conn);
    let conn = pool.get().unwrap();
    assert_eq!(conn.id, 3);
    let own = PooledConnection::detach(conn);
    assert_eq!(pool.state().connections, 0);
    let next = pool.get().expect("the pool opens another");
    assert_eq!((own.id, next.id), (3, 4));
    own.touch();
    drop(next);
    drop(pool);
    own.touch(); // the pool's end is none of its business
    eventually("the pool's is closed", || server.live() == 1);
    drop(own);
    assert_eq!(server.live(), 0);
    server.check();
}

#[test]
fn run_marks_a_connection_broken_after_a_fatal_error_only() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    assert_eq!(PooledConnection::run(&mut conn, |conn| Ok(conn.id)), Ok(1));
    let failed = PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
    assert_eq!(failed, Err(StubError::Query));
    drop(conn);
    let mut conn = pool.get().unwrap();
    assert_eq!(conn.id, 1, "it survived the error");
    server.next(Op::IsFatal, Does::Fail);
    let _ = PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
    assert_eq!(PooledConnection::run(&mut conn, |_| Ok(())), Ok(()), "a success cures nothing");
    drop(conn);
    assert_eq!(pool.get().unwrap().id, 2);
}

#[test]
fn info_and_extensions_travel_with_the_connection() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let mut conn = pool.get().unwrap();
    let first = PooledConnection::info(&conn);
    assert_eq!(first.times_used, 1);
    assert_eq!(PooledConnection::extensions_mut(&mut conn).insert(String::from("a")), None);
    PooledConnection::extensions_mut(&mut conn).insert(7u8);
    assert!(format!("{conn:?}").contains(&format!("id: {}", first.id)), "{conn:?}");
    drop(conn);
    thread::sleep(ms(2));
    let mut conn = pool.get().unwrap();
    let second = PooledConnection::info(&conn);
    assert_eq!((second.id, second.times_used), (first.id, 2));
    assert!(second.age >= first.age + ms(2));
    let extensions = PooledConnection::extensions_mut(&mut conn);
    assert_eq!(extensions.get::<String>().map(String::as_str), Some("a"));
    *extensions.get_mut::<u8>().unwrap() += 1;
    assert_eq!(extensions.remove::<u8>(), Some(8));
    assert_eq!(extensions.remove::<u8>(), None);
    extensions.clear();
    assert_eq!(extensions.get::<String>(), None);
    PooledConnection::extensions_mut(&mut conn).insert(9u8);
    PooledConnection::discard(conn);
    let conn = pool.get().unwrap();
    let third = PooledConnection::info(&conn);
    assert!(third.id > second.id);
    assert_eq!(third.times_used, 1);
    assert_eq!(PooledConnection::extensions(&conn).get::<u8>(), None);
}

#[test]
fn a_guard_may_be_dropped_on_another_thread_and_by_a_thread_that_ends() {
    thread_local! {
        static KEPT: RefCell<Option<PooledConnection<Manager>>> = const { RefCell::new(None) };
    }
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let conn = pool.get().unwrap();
    thread::spawn(move || drop(conn)).join().unwrap();
    assert_eq!(pool.state().idle_connections, 1);
    let there = pool.clone();
    thread::spawn(move || {
        KEPT.with(|kept| *kept.borrow_mut() = Some(there.get().unwrap()));
    })
    .join()
    .unwrap();
    eventually("it came back", || pool.state().idle_connections == 1);
}

#[test]
fn a_guard_outlives_its_pool() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    drop(pool);
    conn.touch();
    let _ = PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
    assert_eq!(PooledConnection::info(&conn).times_used, 1);
    drop(conn);
    eventually("it is closed", || server.live() == 0);
    server.check();
}

// ---------------------------------------------------------------------------
// Hooks

#[derive(Debug, Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, entry: impl Into<String>) {
        lock(&self.0).push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

impl HandleEvent for Diary {
    fn handle_acquire(&self, event: AcquireEvent) {
        self.note(format!("acquire {}", event.connection_id()));
    }
    fn handle_release(&self, event: ReleaseEvent) {
        assert!(event.age() >= ms(10));
        self.note(format!("release {}", event.connection_id()));
    }
    fn handle_checkout(&self, event: CheckoutEvent) {
        assert!(event.duration() < WATCHDOG);
        self.note(format!("checkout {}", event.connection_id()));
    }
    fn handle_timeout(&self, event: TimeoutEvent) {
        self.note(format!("timeout {:?}", event.timeout()));
    }
    fn handle_checkin(&self, event: CheckinEvent) {
        assert!(event.duration() >= ms(10), "{:?}", event.duration());
        self.note(format!("checkin {}", event.connection_id()));
    }
}

impl CustomizeConnection<Conn, StubError> for Diary {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), StubError> {
        conn.touch();
        self.note("on_acquire");
        Ok(())
    }
    fn on_release(&self, conn: Conn) {
        conn.touch();
        self.note("on_release");
    }
}

#[test]
fn events_come_in_order_and_name_the_connection() {
    let (server, diary) = (Server::new(), Diary::default());
    let pool = builder(1)
        .event_handler(Box::new(diary.clone()))
        .connection_customizer(Box::new(diary.clone()))
        .build(server.manager())
        .unwrap();
    let conn = pool.get().unwrap();
    let id = PooledConnection::info(&conn).id;
    assert!(pool.get_timeout(ms(10)).is_err());
    PooledConnection::discard(conn);
    eventually("it is closed", || server.live() == 0);
    let expected = [
        "on_acquire".to_string(),
        format!("acquire {id}"),
        format!("checkout {id}"),
        "timeout 10ms".to_string(),
        format!("checkin {id}"),
        format!("release {id}"),
        "on_release".to_string(),
    ];
    assert_eq!(diary.entries(), expected);
    server.check();
}

/// Refuses the first connection.
#[derive(Debug, Default)]
struct Picky(AtomicBool);

impl CustomizeConnection<Conn, StubError> for Picky {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), StubError> {
        if self.0.swap(true, Ordering::SeqCst) { Ok(()) } else { Err(StubError::Query) }
    }
}

#[test]
fn a_connection_that_on_acquire_refuses_is_closed_and_another_opened() {
    let server = Server::new();
    server.limit(1);
    let pool = builder(1)
        .connection_customizer(Box::new(Picky::default()))
        .build(server.manager())
        .unwrap();
    let conn = pool.get().unwrap();
    assert_eq!((conn.id, server.live()), (2, 1));
    assert_eq!(pool.stats().open_failures, 1);
    server.check();
}

#[derive(Debug, Clone, Default)]
struct Taker(Arc<Mutex<Vec<StubError>>>);

impl HandleError<StubError> for Taker {
    fn handle_error(&self, error: StubError) {
        lock(&self.0).push(error);
    }
}

#[derive(Debug, Clone, Default)]
struct Inspector(Arc<AtomicUsize>);

impl HandleError<StubError> for Inspector {
    fn handle_error(&self, _: StubError) {
        panic!("inspecting was enough");
    }
    fn inspect_error(&self, _: &StubError) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        true
    }
}

#[test]
fn a_handler_that_takes_the_error_leaves_its_text_and_one_that_inspects_its_type() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let (taker, inspector) = (Taker::default(), Inspector::default());
    let pool = builder(1).error_handler(Box::new(taker.clone())).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
    let source = error.source().expect("its text");
    assert!(!source.is::<StubError>());
    assert!(source.to_string().contains("was refused"), "{source}");
    assert!(matches!(lock(&taker.0)[0], StubError::Refused(_)));
    drop(pool);

    let pool =
        builder(1).error_handler(Box::new(inspector.clone())).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
    assert!(error.source().expect("the error itself").is::<StubError>());
    assert!(inspector.0.load(Ordering::SeqCst) > 0);
}

#[test]
fn check_and_reset_errors_reach_the_handler() {
    let (server, taker) = (Server::new(), Taker::default());
    let pool = builder(1)
        .test_on_check_out(true)
        .error_handler(Box::new(taker.clone()))
        .build(server.manager())
        .unwrap();
    drop(pool.get().unwrap());
    server.next(Op::IsValid, Does::Fail);
    server.next(Op::NeedsReset, Does::Fail);
    server.next(Op::Reset, Does::Fail);
    drop(pool.get().unwrap());
    drop(pool.get().unwrap());
    assert_eq!(*lock(&taker.0), [StubError::Invalid, StubError::ResetFailed]);
}

// ---------------------------------------------------------------------------
// Numbers

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
    assert!(server.calls(Op::Connect) <= calls + 1, "nobody needs a connection any more");
}
