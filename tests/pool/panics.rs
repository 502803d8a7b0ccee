//! P10: panics are contained.

use std::error::Error as _;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{
    CustomizeConnection, HandleError, HandleEvent, ManageConnection, Pool, PooledConnection,
};
use fairpool_testing::stub::{
    Conn, Does, Manager, Op, Server, StubError, WATCHDOG, builder, eventually, lock, silent_panic,
    watched,
};

use crate::support::{assert_whole, ms};

/// Panics in the hook with this number, and only there.
#[derive(Debug, Default)]
struct Bomb(AtomicUsize);

const HOOKS: usize = 9;

impl Bomb {
    fn at(&self, hook: usize) {
        if self.0.load(Ordering::SeqCst) == hook {
            silent_panic();
        }
    }
}

#[derive(Debug, Clone)]
struct Bombs(Arc<Bomb>);

impl HandleEvent for Bombs {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.0.at(1);
    }
    fn handle_release(&self, _: ReleaseEvent) {
        self.0.at(2);
    }
    fn handle_checkout(&self, _: CheckoutEvent) {
        self.0.at(3);
    }
    fn handle_timeout(&self, _: TimeoutEvent) {
        self.0.at(4);
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        self.0.at(5);
    }
}

impl HandleError<StubError> for Bombs {
    fn inspect_error(&self, _: &StubError) -> bool {
        self.0.at(6);
        false
    }
    fn handle_error(&self, _: StubError) {
        self.0.at(7);
    }
}

impl CustomizeConnection<Conn, StubError> for Bombs {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), StubError> {
        // Only once, or no caller could ever be served.
        if self.0.0.compare_exchange(8, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            silent_panic();
        }
        Ok(())
    }
    fn on_release(&self, conn: Conn) {
        self.0.at(9);
        drop(conn);
    }
}

#[test]
fn p10_a_panic_in_any_hook_costs_nobody_anything() {
    let server = Server::new();
    server.limit(2);
    let bombs = Bombs(Arc::default());
    let pool = builder(2)
        .name("p10-hook")
        .event_handler(Box::new(bombs.clone()))
        .error_handler(Box::new(bombs.clone()))
        .connection_customizer(Box::new(bombs.clone()))
        .build(server.manager())
        .unwrap();
    for hook in 1..=HOOKS {
        bombs.0.0.store(hook, Ordering::SeqCst);
        for _ in 0..3 {
            server.next(Op::Connect, Does::Fail);
            let both = [pool.get().unwrap(), pool.get().unwrap()];
            assert!(pool.get_timeout(ms(1)).unwrap_err().is_timeout());
            both.into_iter().for_each(PooledConnection::discard);
        }
        assert_whole(&pool, &server);
    }
    bombs.0.0.store(0, Ordering::SeqCst);
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
    assert_eq!(server.live(), 0);
    server.check();
}

#[test]
fn p10_a_panic_in_any_driver_call_costs_nobody_anything() {
    let ops = [
        Op::Connect,
        Op::IsValid,
        Op::Reset,
        Op::HasBroken,
        Op::NeedsReset,
        Op::IsPermanent,
        Op::Close,
    ];
    let server = Server::new();
    server.limit(1);
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    for op in ops {
        for _ in 0..3 {
            match op {
                Op::Reset => server.next(Op::NeedsReset, Does::Fail),
                Op::IsPermanent => server.next(Op::Connect, Does::Fail),
                _ => {}
            }
            server.next(op, Does::Panic);
            let start = Instant::now();
            drop(pool.get().unwrap_or_else(|e| panic!("{op:?}: {e}")));
            PooledConnection::discard(pool.get().unwrap_or_else(|e| panic!("{op:?}: {e}")));
            drop(pool.get().unwrap_or_else(|e| panic!("{op:?}: {e}")));
            assert!(start.elapsed() < WATCHDOG, "{op:?}");
        }
        assert_whole(&pool, &server);
    }
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
    assert_eq!(server.live(), 0);
}

/// Fails once in `on_acquire`, in the given way.
#[derive(Debug)]
struct FailsOnAcquire(Mutex<Option<Does>>);

impl CustomizeConnection<Conn, StubError> for FailsOnAcquire {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), StubError> {
        match lock(&self.0).take() {
            Some(Does::Fail) => Err(StubError::Query),
            Some(_) => silent_panic(),
            None => Ok(()),
        }
    }
}

#[test]
fn p10_a_destructor_that_panics_after_on_acquire_did_ends_no_process() {
    for (way, said) in [(Does::Panic, "on_acquire panicked"), (Does::Fail, "the query failed")] {
        let server = Server::new();
        server.limit(1);
        let customizer = Box::new(FailsOnAcquire(Mutex::new(Some(way))));
        let pool = builder(1)
            .connection_customizer(customizer)
            .connect_backoff(ms(200), ms(200))
            .build(server.manager())
            .unwrap();
        // A panic during a panic would abort the process.
        server.next(Op::Close, Does::Panic);
        let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
        let cause = error.source().expect("why it could not be opened").to_string();
        assert!(cause.contains(said), "{cause}");
        assert_whole(&pool, &server);
    }
}

#[test]
fn p10_a_connection_whose_return_panics_is_not_used_again() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    for op in [Op::HasBroken, Op::NeedsReset] {
        let conn = pool.get().unwrap();
        let id = conn.id;
        server.next(op, Does::Panic);
        drop(conn);
        assert_ne!(pool.get().unwrap().id, id, "{op:?}: its state is unknown");
    }
    server.check();
}

#[test]
fn p10_a_panic_in_is_fatal_is_caught_and_counts_as_fatal() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let id = {
        let mut conn = pool.get().unwrap();
        server.next(Op::IsFatal, Does::Panic);
        let run = || PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
        let caught = catch_unwind(AssertUnwindSafe(run));
        assert!(caught.is_ok(), "manage.rs: a panic in any of them is caught");
        conn.id
    };
    assert_ne!(pool.get().unwrap().id, id, "a failure: not to be used again");
}

fn panic_holding(conn: PooledConnection<Manager>) {
    let held = move || {
        let _conn = conn;
        silent_panic();
    };
    assert!(thread::spawn(held).join().is_err());
}

#[test]
fn p10_the_connection_of_a_holder_that_panicked_is_checked_before_its_reuse() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    let id = conn.id;
    panic_holding(conn);
    let conn = pool.get().unwrap();
    assert_eq!((conn.id, server.calls(Op::IsValid)), (id, 1));

    server.next(Op::IsValid, Does::Fail);
    panic_holding(conn);
    let conn = pool.get().unwrap();
    assert_ne!(conn.id, id, "it failed the check");

    drop(conn);

    // While one panic unwinds, the driver panics as well.
    for op in [Op::HasBroken, Op::NeedsReset, Op::IsValid] {
        server.next(op, Does::Panic);
        let conn = pool.get().unwrap();
        let id = conn.id;
        panic_holding(conn);
        assert_ne!(pool.get().unwrap().id, id, "{op:?} panicked");
    }
    server.check();
}

/// Dropped with a connection's extensions.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        silent_panic();
    }
}

#[test]
fn p10_a_panic_in_the_destructor_of_an_extension_costs_no_slot() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    let others = [Arc::new(1u8), Arc::new(2u8)];
    let extensions = PooledConnection::extensions_mut(&mut conn);
    extensions.insert(Grenade);
    extensions.insert(Arc::clone(&others[0]));
    extensions.insert((0, Arc::clone(&others[1])));
    PooledConnection::discard(conn);
    eventually("the others are dropped", || {
        others.iter().all(|other| Arc::strong_count(other) == 1)
    });
    let mut conn = pool.get().expect("after a close");
    PooledConnection::extensions_mut(&mut conn).insert(Grenade);
    let detach = AssertUnwindSafe(|| PooledConnection::detach(conn));
    let detached = catch_unwind(detach);
    assert!(detached.is_ok(), "the panic reaches the caller of detach");
    let again = pool.get_timeout(ms(500));
    assert!(again.is_ok(), "after a detach: {}", pool.stats());
}

/// An error whose destructor panics or uses the pool.
struct Touchy {
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Touchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Touchy")
    }
}

impl fmt::Display for Touchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("touchy")
    }
}

impl std::error::Error for Touchy {}

impl Drop for Touchy {
    fn drop(&mut self) {
        (self.on_drop)();
    }
}

/// Fails the first few times.
struct TouchyManager {
    failures: AtomicUsize,
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

impl ManageConnection for TouchyManager {
    type Connection = ();
    type Error = Touchy;

    fn connect(&self) -> Result<(), Touchy> {
        let left = self.failures.load(Ordering::SeqCst);
        if left == 0 {
            return Ok(());
        }
        self.failures.store(left - 1, Ordering::SeqCst);
        Err(Touchy { on_drop: self.on_drop.clone() })
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Touchy> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

#[test]
fn p10_an_error_whose_destructor_panics_kills_no_pool_thread() {
    let manager =
        TouchyManager { failures: AtomicUsize::new(3), on_drop: Arc::new(|| silent_panic()) };
    let pool = Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .connect_backoff(ms(1), ms(2))
        .error_handler(Box::new(fairpool::NopErrorHandler))
        .build(manager)
        .unwrap();
    drop(pool.get().expect("the fourth attempt succeeds"));
    let report = pool.close(Instant::now() + Duration::from_secs(3));
    assert!(report.is_complete(), "{report}");
}

#[test]
fn p10_errors_are_dropped_outside_the_lock() {
    let asks: Arc<Mutex<Option<Pool<TouchyManager>>>> = Arc::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let on_drop = {
        let (asks, asked) = (asks.clone(), asked.clone());
        Arc::new(move || {
            if let Some(pool) = &*lock(&asks) {
                let _ = pool.stats();
                asked.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let manager = TouchyManager { failures: AtomicUsize::new(4), on_drop };
    let pool = Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .connect_backoff(ms(1), ms(2))
        .error_handler(Box::new(fairpool::NopErrorHandler))
        .build(manager)
        .unwrap();
    *lock(&asks) = Some(pool.clone());
    let there = pool.clone();
    watched("a get beside errors that ask the pool", move || drop(there.get().unwrap()));
    assert!(asked.load(Ordering::SeqCst) > 0);
    lock(&asks).take();
}

#[test]
fn p10_a_use_that_panicked_is_checked_once() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    let panics = || PooledConnection::run(&mut conn, |_| -> Result<(), _> { silent_panic() });
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    drop(conn); // Not unwinding any more: the guard itself survived.
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), 1, "it was in the middle of something");
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), 1, "only once");
}

#[test]
fn p10_threads_that_race_to_panic_with_connections_lose_none() {
    let server = Server::new();
    server.limit(2);
    let pool = builder(2).build(server.manager()).unwrap();
    let (barrier, stop) = (Barrier::new(8), AtomicBool::new(false));
    thread::scope(|scope| {
        let holders: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..20 {
                        let hold = || {
                            let conn = pool.get().expect("served");
                            conn.touch();
                            silent_panic();
                        };
                        let caught: thread::Result<()> = catch_unwind(AssertUnwindSafe(hold));
                        assert!(caught.is_err());
                        assert!(!stop.load(Ordering::Relaxed));
                    }
                })
            })
            .collect();
        holders.into_iter().for_each(|holder| holder.join().unwrap());
    });
    assert_whole(&pool, &server);
    assert_eq!(pool.stats().gets, 160 + 2);
}
