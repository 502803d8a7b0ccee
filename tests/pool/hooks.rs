//! The customizer, the error handler and the event handler.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fairpool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{
    CustomizeConnection, HandleError, HandleEvent, ManageConnection, Pool, PooledConnection,
};
use fairpool_testing::stub::{
    Conn, Does, Op, Server, StubError, WATCHDOG, builder, eventually, lock,
};

use crate::support::ms;

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
    ];
    eventually("it is released", || diary.entries().len() == expected.len() + 2);
    let mut entries = diary.entries();
    // The returning thread tells of the release while a worker closes.
    let mut end = entries.split_off(expected.len());
    end.sort();
    assert_eq!(entries, expected);
    assert_eq!(end, ["on_release".to_string(), format!("release {id}")]);
    server.check();
}

/// Its connections are the calls that they have seen.
struct Noting;

impl ManageConnection for Noting {
    type Connection = Vec<&'static str>;
    type Error = StubError;

    fn connect(&self) -> Result<Self::Connection, StubError> {
        Ok(vec!["connect"])
    }
    fn customized(&self, conn: &mut Self::Connection) {
        conn.push("customized");
        assert_ne!(conn.len(), 2, "without on_acquire");
    }
    fn is_valid(&self, _: &mut Self::Connection) -> Result<(), StubError> {
        Ok(())
    }
    fn has_broken(&self, _: &mut Self::Connection) -> bool {
        false
    }
}

impl CustomizeConnection<Vec<&'static str>, StubError> for Diary {
    fn on_acquire(&self, conn: &mut Vec<&'static str>) -> Result<(), StubError> {
        conn.push("on_acquire");
        Ok(())
    }
}

#[test]
fn customized_is_called_once_after_the_customizer_and_before_its_first_holder() {
    let customizer = Box::new(Diary::default());
    let pool = Pool::builder().max_size(1).connection_customizer(customizer).build(Noting);
    let pool = pool.unwrap();
    drop(pool.get().unwrap());
    assert_eq!(*pool.get().unwrap(), ["connect", "on_acquire", "customized"]);
}

/// Refuses the first connection.
#[derive(Debug, Default)]
struct Picky(AtomicBool);

impl CustomizeConnection<Conn, StubError> for Picky {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), StubError> {
        if self.0.swap(true, Ordering::SeqCst) { Ok(()) } else { Err(StubError::Query) }
    }
}

/// Notes each release with its thread. It may get a connection there, or panic.
#[derive(Debug, Clone, Default)]
struct Releases {
    told: Arc<Mutex<Vec<(u64, String)>>>,
    pool: Arc<Mutex<Option<fairpool::Pool<fairpool_testing::stub::Manager>>>>,
    /// How many connections it got.
    got: Arc<AtomicUsize>,
    panics: Arc<AtomicBool>,
}

impl Releases {
    /// The releases of this connection: the names of their threads.
    fn of(&self, id: u64) -> Vec<String> {
        let told = lock(&self.told);
        told.iter().filter(|(other, _)| *other == id).map(|(_, thread)| thread.clone()).collect()
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_string()
    }
}

impl HandleEvent for Releases {
    fn handle_release(&self, event: ReleaseEvent) {
        lock(&self.told).push((event.connection_id(), Releases::thread()));
        let pool = lock(&self.pool).take();
        // Served in time, because the broken connection is given back already.
        if pool.is_some_and(|pool| pool.get_timeout(WATCHDOG / 2).is_ok()) {
            self.got.fetch_add(1, Ordering::Relaxed);
        }
        if self.panics.load(Ordering::Relaxed) {
            fairpool_testing::stub::silent_panic();
        }
    }
}

#[test]
fn the_release_of_a_broken_connection_is_told_before_its_guards_drop_returns() {
    let (server, releases) = (Server::new(), Releases::default());
    let handler = Box::new(releases.clone());
    let pool = builder(1).event_handler(handler).build(server.manager()).unwrap();
    let this_thread = vec![Releases::thread()];
    let discard = || {
        let conn = pool.get().unwrap();
        let id = PooledConnection::info(&conn).id;
        PooledConnection::discard(conn);
        assert_eq!(releases.of(id), this_thread, "{id}");
        id
    };
    let mut all = vec![discard()];
    // The driver says so.
    server.next(Op::HasBroken, Does::Fail);
    let conn = pool.get().unwrap();
    all.push(PooledConnection::info(&conn).id);
    drop(conn);
    assert_eq!(releases.of(all[1]), this_thread);
    // The handler gets the next connection of a pool of one.
    *lock(&releases.pool) = Some(pool.clone());
    all.push(discard());
    assert_eq!(releases.got.load(Ordering::Relaxed), 1);
    // It panics, also while the thread does.
    releases.panics.store(true, Ordering::Relaxed);
    all.push(discard());
    let mut conn = pool.get().unwrap();
    let id = PooledConnection::info(&conn).id;
    PooledConnection::mark_broken(&mut conn);
    let panics = move || {
        let _conn = conn;
        fairpool_testing::stub::silent_panic()
    };
    assert!(
        std::thread::Builder::new().name("panics".into()).spawn(panics).unwrap().join().is_err()
    );
    assert_eq!(releases.of(id), ["panics"]);
    all.push(id);
    releases.panics.store(false, Ordering::Relaxed);
    eventually("all are closed", || pool.stats().closing == 0);
    let ids: Vec<u64> = lock(&releases.told).iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, all, "each once");
    for thread in server.threads(Op::Close) {
        assert!(thread.contains("-worker-"), "closed on '{thread}'");
    }
}

#[test]
fn the_release_of_any_other_connection_is_told_once_by_its_closer() {
    let (server, releases) = (Server::new(), Releases::default());
    let handler = Box::new(releases.clone());
    let pool = builder(3).min_idle(Some(3)).event_handler(handler).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    pool.refresh();
    drop(held);
    PooledConnection::detach(pool.get().unwrap());
    eventually("no connect is under way", || pool.stats().idle == 3);
    drop(pool);
    eventually("all are closed", || server.live() == 0);
    let mut told = lock(&releases.told).clone();
    assert!(told.iter().all(|(_, thread)| thread.contains("-worker-")), "{told:?}");
    let all = told.len();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), all, "each once");
    assert_eq!(all + 1, server.calls(Op::Connect), "all but the detached one");
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
