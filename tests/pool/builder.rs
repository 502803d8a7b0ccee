//! The builder: what each setting does, and what it refuses.

use std::cell::Cell;
use std::error::Error as _;
use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fairpool::diagnosis::Diagnosis;
use fairpool::event::{
    AcquireEvent, CheckinEvent, CheckoutEvent, Event, ReleaseEvent, Subscription, TimeoutEvent,
};
use fairpool::health::Health;
use fairpool::snapshot::{Holder, Snapshot};
use fairpool::stats::{ClosedBy, Stats};
use fairpool::{
    Builder, CancelToken, CloseReport, ConnectionInfo, Error, ErrorKind, Extensions, Fairness,
    ManageConnection, Pool, PooledConnection, Request, SelfDeadlock, State, WeakPool,
};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, StubError, WATCHDOG, builder, eventually, watched,
};

use crate::support::ms;

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
fn a_builder_shows_what_was_set() {
    let builder = Pool::<Manager>::builder().max_size(7).lifetime_jitter(0.5);
    let shown = format!("{builder:?}");
    assert!(
        shown.contains("max_size: 7,") && shown.contains("lifetime_jitter_permille: 500,"),
        "{shown}"
    );
}

#[test]
fn public_types_can_be_sent_and_shared() {
    fn everywhere<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn shared<T: Send + Sync>() {}
    fn caught<T: UnwindSafe + RefUnwindSafe>() {}
    caught::<Subscription>();
    caught::<Error>();
    caught::<Pool<Manager>>();
    caught::<Pool<SendOnlyManager>>();
    caught::<WeakPool>();
    caught::<CancelToken>();
    caught::<Request<'_, Manager>>();
    caught::<CloseReport>();
    caught::<Snapshot>();
    caught::<Stats>();
    caught::<Diagnosis>();
    caught::<Health>();
    caught::<Event>();
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
    // `?` converts the error into the usual boxes.
    let boxed: Result<(), Box<dyn std::error::Error + Send + Sync>> =
        (|| Ok(Pool::builder().max_opening(0).build(Server::new().manager()).map(drop)?))();
    assert!(boxed.is_err());
}

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
    refused(builder(1).open_timeout(zero), &["open_timeout", "0ns"]);
    refused(builder(1).validation_timeout(zero), &["validation_timeout", "0ns"]);
    refused(builder(1).reset_timeout(zero), &["reset_timeout", "0ns"]);
    refused(builder(1).close_timeout(zero), &["close_timeout", "0ns"]);
    refused(builder(1).priority_ageing(zero), &["priority_ageing", "0ns"]);
    refused(builder(1).keepalive(Some(zero)), &["keepalive", "0ns"]);
    refused(builder(1).max_opening(0), &["max_opening", "0"]);
    refused(builder(1).max_closers(0), &["max_closers", "0"]);
    refused(builder(1).max_abandoned(0), &["max_abandoned", "0"]);
    refused(builder(1).max_waiters(Some(0)), &["max_waiters", "0"]);
    for jitter in [-0.1, 0.91, f64::NAN, f64::INFINITY] {
        refused(builder(1).lifetime_jitter(jitter), &["lifetime_jitter", &jitter.to_string()]);
    }
    refused(builder(1).connect_backoff(ms(9), ms(3)), &["connect_backoff", "9ms", "3ms"]);
    refused(builder(1).connect_backoff(zero, ms(3)), &["connect_backoff", "0ns"]);
    refused(builder(1).connect_patience(ms(9), ms(3)), &["connect_patience", "9ms", "3ms"]);
    refused(builder(1).connect_patience(zero, ms(3)), &["connect_patience", "0ns"]);
    refused(builder(4).min_idle(Some(3)).max_idle(Some(2)), &["min_idle (3)", "max_idle (2)"]);
    refused(builder(1).leak_threshold(Some(zero)), &["leak_threshold", "0ns"]);
    refused(builder(1).name("a\0b"), &["name", "a\\0b"]);
}

/// Times beyond a century and sizes beyond any server are no mistake of the unit: no limit.
#[test]
fn no_time_and_no_size_is_too_large() {
    for long in [Duration::from_secs(101 * 365 * 24 * 3600), Duration::MAX] {
        let pool = builder(1)
            .max_size(u32::MAX)
            .min_idle(Some(1))
            .max_idle(Some(u32::MAX))
            .max_waiters(Some(u32::MAX))
            .max_opening(u32::MAX)
            .max_closers(u32::MAX)
            .max_abandoned(u32::MAX)
            .fairness(Fairness::Bounded(long))
            .priority_ageing(long)
            .skip_check_within(long)
            .max_lifetime(Some(long))
            .lifetime_jitter(0.9)
            .idle_timeout(Some(long))
            .keepalive(Some(long))
            .connection_timeout(long)
            .open_timeout(long)
            .validation_timeout(long)
            .reset_timeout(long)
            .close_timeout(long)
            .drop_timeout(long)
            .connect_backoff(long, long)
            .connect_patience(long, long)
            .fail_fast_after(Some(long))
            .leak_threshold(Some(long))
            .slow_get_threshold(Some(long))
            .on_self_deadlock(SelfDeadlock::Fail(long))
            .build_unchecked(Server::new().manager());
        drop(pool.get().unwrap());
        let held = pool.get_timeout(long).unwrap();
        let other = pool.request().timeout(long).priority(255).get().unwrap();
        assert_eq!((pool.max_size(), pool.max_lifetime()), (u32::MAX, Some(long)));
        pool.set_max_size(2_000_000).unwrap();
        drop((held, other));
        pool.refresh();
        drop(pool.get().unwrap());
        assert!(pool.stats().open < 10, "{:?}", pool.stats());
    }
}

/// Without a smaller `min_idle` such a pool would fill itself.
#[test]
fn a_huge_pool_reserves_no_memory() {
    let (before, builder) = (resident_kib(), builder(u32::MAX).min_idle(Some(0)));
    let pool = builder.build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB for one connection");
}

/// The memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[track_caller]
fn panics(build: impl FnOnce() + std::panic::UnwindSafe, part: &str) {
    let payload = catch_unwind(build).expect_err("as r2d2 documents, it panics");
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
