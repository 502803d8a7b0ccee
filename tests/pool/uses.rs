//! The use handler: no caller gets a connection without its own use, whatever fails, hangs or leaves.

use std::collections::{HashMap, VecDeque};
use std::error::Error as _;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{
    Builder, CancelToken, Error, ErrorKind, HandleUse, Pool, PooledConnection, UseContext,
};
use fairpool_testing::stub::{
    Conn, Does, Gate, Manager, Op, Server, StubError, WATCHDOG, builder, eventually, lock,
    silent_panic, watched,
};

use crate::support::{allowed_overshoot, assert_whole, await_waiting, ms, rounds};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenant(u32);

/// Sets the tenant of each connection; does what the script says instead, if it says anything.
#[derive(Clone, Default)]
struct Tenants(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// By connection.
    tenants: HashMap<usize, Option<Tenant>>,
    begins: VecDeque<Does>,
    ends: VecDeque<Does>,
    /// Whose uses began and ended.
    begun: Vec<Option<Tenant>>,
    ended: Vec<Option<Tenant>>,
    threads: Vec<String>,
    sites: Vec<String>,
    has_no_end: bool,
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tenants")
    }
}

fn obey(does: Option<Does>) -> Result<(), StubError> {
    let does = match does {
        Some(Does::Hang(gate)) => gate.pass(),
        other => other.unwrap_or(Does::Succeed),
    };
    match does {
        Does::Fail | Does::FailForGood => Err(StubError::Query),
        Does::Panic => silent_panic(),
        Does::Take(time) => {
            thread::sleep(time);
            Ok(())
        }
        _ => Ok(()),
    }
}

impl HandleUse<Conn, StubError> for Tenants {
    fn begin(&self, conn: &mut Conn, context: &UseContext) -> Result<(), StubError> {
        conn.touch();
        let tenant = context.get::<Tenant>().copied();
        assert_eq!(context.get::<String>(), None, "of another type");
        let does = {
            let mut inner = lock(&self.0);
            inner.begun.push(tenant);
            inner.threads.push(thread::current().name().unwrap_or_default().to_string());
            inner.sites.push(context.call_site().to_string());
            inner.begins.pop_front()
        };
        obey(does)?;
        lock(&self.0).tenants.insert(conn.id, tenant);
        Ok(())
    }

    fn end(&self, conn: &mut Conn, context: &UseContext) -> Result<(), StubError> {
        conn.touch();
        let tenant = context.get::<Tenant>().copied();
        let does = {
            let mut inner = lock(&self.0);
            inner.ended.push(tenant);
            assert_eq!(inner.tenants.remove(&conn.id), Some(tenant), "the use of another ends");
            inner.ends.pop_front()
        };
        obey(does)
    }

    fn has_end(&self) -> bool {
        !lock(&self.0).has_no_end
    }
}

impl Tenants {
    fn without_end() -> Tenants {
        let tenants = Tenants::default();
        lock(&tenants.0).has_no_end = true;
        tenants
    }

    fn of(&self, conn: &Conn) -> Option<Tenant> {
        lock(&self.0).tenants.get(&conn.id).copied().flatten()
    }

    fn next_begin(&self, does: Does) {
        lock(&self.0).begins.push_back(does);
    }

    fn next_end(&self, does: Does) {
        lock(&self.0).ends.push_back(does);
    }

    fn begun(&self) -> Vec<Option<Tenant>> {
        lock(&self.0).begun.clone()
    }

    fn ended(&self) -> Vec<Option<Tenant>> {
        lock(&self.0).ended.clone()
    }
}

fn with(tenants: &Tenants, max_size: u32) -> Builder<Manager> {
    builder(max_size).use_handler(Box::new(tenants.clone()))
}

type Guard = PooledConnection<Manager>;

fn get(pool: &Pool<Manager>, tenant: u32) -> Guard {
    pool.request().context(Tenant(tenant)).get().unwrap_or_else(|error| panic!("{error:#}"))
}

/// A get on a thread of its own.
fn start(pool: &Pool<Manager>, tenant: u32, timeout: Duration) -> mpsc::Receiver<Got> {
    let (sender, got) = mpsc::channel();
    let pool = pool.clone();
    thread::spawn(move || {
        let _ = sender.send(pool.request().context(Tenant(tenant)).timeout(timeout).get());
    });
    got
}

type Got = Result<Guard, Error>;

fn outcome(got: &mpsc::Receiver<Got>) -> Got {
    got.recv_timeout(WATCHDOG).expect("no answer in time")
}

/// It is idle again: the use has ended, and so has what follows.
fn await_idle(pool: &Pool<Manager>, idle: u32) {
    eventually("they are idle", || pool.state().idle_connections == idle);
}

#[test]
fn no_way_to_a_connection_goes_past_the_use_handler() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();

    let conn = get(&pool, 1); // a new connection
    assert_eq!(tenants.of(&conn), Some(Tenant(1)));
    let waits = start(&pool, 2, WATCHDOG); // handed over
    await_waiting(&pool, 1);
    drop(conn);
    let conn = outcome(&waits).unwrap();
    assert_eq!(tenants.of(&conn), Some(Tenant(2)));
    drop(conn);

    await_idle(&pool, 1);
    let conn = get(&pool, 3); // an idle one
    assert_eq!(tenants.of(&conn), Some(Tenant(3)));
    drop(conn);

    await_idle(&pool, 1);
    let conn = pool.try_get().expect("it is idle"); // without a context
    assert_eq!(tenants.of(&conn), None);
    drop(conn);

    await_idle(&pool, 1);
    let conn = pool.get().unwrap();
    assert_eq!(tenants.of(&conn), None);
    drop(conn);

    await_idle(&pool, 1);
    let mut task = pin!(pool.request().context(Tenant(4)).get_async());
    let mut context = Context::from_waker(Waker::noop());
    let mut conn = None;
    eventually("the task is served", || match task.as_mut().poll(&mut context) {
        Poll::Ready(got) => {
            conn = Some(got.unwrap());
            true
        }
        Poll::Pending => false,
    });
    let conn = conn.unwrap();
    assert_eq!(tenants.of(&conn), Some(Tenant(4)));
    drop(conn);

    await_idle(&pool, 1);
    let begun = [Some(1), Some(2), Some(3), None, None, Some(4)].map(|t| t.map(Tenant));
    assert_eq!(tenants.begun(), begun);
    assert_eq!(tenants.ended(), begun, "each use ends");
    assert!(lock(&tenants.0).threads.iter().all(|name| name.starts_with("fairpool-worker")));
    let stats = pool.stats();
    assert_eq!((stats.gets, stats.gets_waited, stats.check_failures), (6, 6, 0));
    server.check();
}

#[test]
fn a_connection_that_is_due_for_a_check_is_checked_before_its_use_begins() {
    let (server, tenants) = (Server::new(), Tenants::without_end());
    let pool = with(&tenants, 1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(get(&pool, 1));
    server.kill_all();
    let conn = get(&pool, 2);
    assert_eq!((conn.id, server.calls(Op::IsValid)), (2, 1));
    assert_eq!(tenants.begun(), [Some(Tenant(1)), Some(Tenant(2))], "none on the dead one");
    drop(conn);
    server.check();
}

#[test]
fn the_handler_knows_who_asks() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    let line = line!() + 1;
    let conn = pool.request().label("an order").get().unwrap();
    let site = lock(&tenants.0).sites[0].clone();
    let thread = thread::current().name().unwrap().chars().take(10).collect::<String>();
    assert!(site.contains(&format!("uses.rs:{line}")), "{site}");
    assert!(site.contains(&thread) && site.contains("an order"), "{site}");
    drop(conn);
}

/// Neither value is shown, for it may be a secret.
#[test]
fn what_a_context_holds_is_shown_nowhere() {
    #[derive(Debug)]
    struct Shows(Arc<Mutex<String>>);
    impl HandleUse<Conn, StubError> for Shows {
        fn begin(&self, _: &mut Conn, context: &UseContext) -> Result<(), StubError> {
            *lock(&self.0) = format!("{context:?}");
            Ok(())
        }
    }
    let (server, text) = (Server::new(), Arc::default());
    let shows = Box::new(Shows(Arc::clone(&text)));
    let pool = builder(1).use_handler(shows).build(server.manager()).unwrap();
    let request = pool.request().context("hunter2");
    assert!(!format!("{request:?}").contains("hunter2"));
    let _conn = request.get().unwrap();
    let text = lock(&text).clone();
    assert!(text.contains("uses.rs") && text.contains("given"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn p1_a_use_handler_that_hangs_keeps_no_caller_past_its_deadline() {
    let (server, tenants, gate) = (Server::new(), Tenants::default(), Gate::new());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    tenants.next_begin(Does::Hang(gate.clone()));
    let started = Instant::now();
    let error = pool.request().context(Tenant(1)).timeout(ms(30)).get().unwrap_err();
    assert!(error.is_timeout(), "{error:#}");
    assert!(started.elapsed() < ms(30) + allowed_overshoot());
    assert!(pool.try_get().is_none(), "it is not idle");

    // Its use has begun after all, and nobody has it: it is ended, and reset.
    let next = start(&pool, 2, WATCHDOG);
    await_waiting(&pool, 1);
    assert_eq!(server.calls(Op::Reset), 0);
    gate.open();
    let conn = outcome(&next).unwrap();
    assert_eq!((conn.id, tenants.of(&conn)), (1, Some(Tenant(2))));
    assert_eq!(tenants.ended(), [Some(Tenant(1))]);
    assert_eq!(server.calls(Op::Reset), 1);
    drop(conn);
    assert_whole(&pool, &server);
}

#[test]
fn p5_uses_that_overrun_their_limit_are_abandoned_and_cost_no_capacity() {
    let (server, tenants, gate) = (Server::new(), Tenants::default(), Gate::new());
    let pool = with(&tenants, 2).validation_timeout(ms(20)).build(server.manager()).unwrap();
    tenants.next_begin(Does::Hang(gate.clone()));
    let conn = get(&pool, 1); // with another connection
    assert_eq!((conn.id != 1, tenants.of(&conn)), (true, Some(Tenant(1))));
    let stats = pool.stats();
    // On a busy machine others may overrun their limit too.
    assert!(stats.abandoned_calls >= 1 && stats.timeouts == 0, "{stats}");
    let other = get(&pool, 2); // both of `max_size`
    drop((conn, other));
    gate.open();
    eventually("it is closed", || pool.stats().closed.use_handler >= 1);
    eventually("the call is over", || pool.stats().abandoned == 0);
    assert_whole(&pool, &server);
    assert!(!tenants.ended().is_empty());
}

#[test]
fn p5_no_more_uses_that_hang_are_abandoned_than_may_be() {
    let (server, tenants, gate) = (Server::new(), Tenants::default(), Gate::new());
    let pool = with(&tenants, 2)
        .validation_timeout(ms(10))
        .max_abandoned(1)
        .build(server.manager())
        .unwrap();
    for _ in 0..3 {
        tenants.next_begin(Does::Hang(gate.clone()));
    }
    let callers: Vec<_> = (0..4).map(|tenant| start(&pool, tenant, ms(1500))).collect();
    for caller in &callers {
        assert!(outcome(caller).unwrap_err().is_timeout());
    }
    assert_eq!((gate.entered(), pool.stats().abandoned), (3, 1));
    gate.open();
    eventually("the call is over", || pool.stats().abandoned == 0);
    assert_whole(&pool, &server);
}

#[test]
fn p2_a_dead_connection_sends_its_caller_back_to_its_old_place() {
    let (server, tenants, gate) = (Server::new(), Tenants::default(), Gate::new());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    server.on(Op::IsFatal, Does::Fail);
    tenants.next_begin(Does::Hang(gate.clone()));
    let first = start(&pool, 1, WATCHDOG);
    gate.await_entered(1);
    let second = start(&pool, 2, WATCHDOG);
    await_waiting(&pool, 2);
    gate.open_with(Does::Fail);
    let conn = outcome(&first).unwrap();
    assert_eq!((conn.id, tenants.of(&conn)), (2, Some(Tenant(1))));
    assert!(second.try_recv().is_err(), "P2: the later one is served first");
    let stats = pool.stats();
    assert_eq!((stats.closed.broken, stats.check_failures, stats.failed), (1, 1, 0));
    drop(conn);
    drop(outcome(&second).unwrap());
    assert_whole(&pool, &server);
}

/// The role of the tenant does not exist: every connection would fail alike.
#[test]
fn who_is_refused_gets_the_handlers_error_at_once() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 2).min_idle(Some(2)).build(server.manager()).unwrap();
    tenants.next_begin(Does::Fail);
    let error = pool.request().context(Tenant(1)).label("orders").get().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UseHandler);
    let source = error.source().expect("the handler's").downcast_ref::<StubError>();
    assert_eq!(source, Some(&StubError::Query));
    let text = format!("{error:#}");
    assert!(text.contains("use handler") && text.contains("orders"), "{text}");
    assert!(text.contains("the query failed"), "{text}");
    eventually("it is closed", || pool.stats().closed.use_handler == 1);
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.timeouts, stats.check_failures), (1, 0, 1));
    assert_whole(&pool, &server);
    assert_eq!(server.calls(Op::IsValid), 0, "it says nothing of the others");
    // Nobody else hears of it.
    let held = [get(&pool, 2), get(&pool, 3)];
    let error = pool.get_timeout(ms(1)).unwrap_err();
    assert!(error.is_timeout() && error.source().is_none(), "{error:#}");
    assert!(!format!("{error:#}").contains("the query failed"), "{error:#}");
    drop(held);
}

#[test]
fn p10_a_use_handler_that_panics_costs_its_connection_alone() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    tenants.next_begin(Does::Panic);
    let error = pool.get().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UseHandler);
    assert!(format!("{error:#}").contains("begin panicked"), "{error:#}");
    tenants.next_end(Does::Panic);
    drop(get(&pool, 1));
    tenants.next_end(Does::Fail);
    drop(get(&pool, 2));
    eventually("all three are closed", || pool.stats().closed.use_handler == 3);
    assert_eq!(pool.stats().check_failures, 3);
    assert_whole(&pool, &server);
}

/// Its destructor panics, wherever the pool drops it.
struct PanicsAtItsEnd;

impl Drop for PanicsAtItsEnd {
    fn drop(&mut self) {
        silent_panic();
    }
}

#[test]
fn p10_a_context_whose_destructor_panics_costs_nothing() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    drop(pool.request().context(PanicsAtItsEnd).get().unwrap());
    await_idle(&pool, 1);
    assert_eq!(pool.stats().closed.total(), 0);
    PooledConnection::discard(pool.request().context(PanicsAtItsEnd).get().unwrap());
    eventually("it is closed", || server.live() == 0);
    assert_whole(&pool, &server);
}

#[test]
fn p6_a_return_does_not_wait_for_the_end_of_its_use() {
    let (server, tenants, gate) = (Server::new(), Tenants::default(), Gate::new());
    let pool = with(&tenants, 1)
        .validation_timeout(ms(20))
        .reset_timeout(ms(20))
        .build(server.manager())
        .unwrap();
    tenants.next_end(Does::Hang(gate.clone()));
    let conn = get(&pool, 1);
    watched("a return", move || drop(conn));
    gate.await_entered(1);
    let conn = get(&pool, 2); // when that was abandoned
    assert_ne!(conn.id, 1);
    drop(conn);
    gate.open();
    eventually("the call is over", || pool.stats().abandoned == 0);
    assert_whole(&pool, &server);
}

#[test]
fn p4_who_leaves_while_its_use_begins_leaves_the_connection_to_the_next() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();

    let (gate, token) = (Gate::new(), CancelToken::new());
    tenants.next_begin(Does::Hang(gate.clone()));
    let error = thread::scope(|scope| {
        let cancelled = scope.spawn(|| pool.request().context(Tenant(1)).cancel(&token).get());
        gate.await_entered(1);
        token.cancel();
        cancelled.join().unwrap().unwrap_err()
    });
    assert!(error.is_cancelled(), "{error:#}");
    gate.open();
    let conn = get(&pool, 2);
    assert_eq!((conn.id, tenants.of(&conn)), (1, Some(Tenant(2))));
    drop(conn);
    await_idle(&pool, 1);

    let gate = Gate::new();
    tenants.next_begin(Does::Hang(gate.clone()));
    let mut task = Box::pin(pool.request().context(Tenant(3)).get_async());
    assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    gate.await_entered(1);
    drop(task);
    gate.open();
    let conn = get(&pool, 4);
    assert_eq!((conn.id, tenants.of(&conn)), (1, Some(Tenant(4))));
    drop(conn);

    // One that is not polled when its use has begun.
    await_idle(&pool, 1);
    let gate = Gate::new();
    tenants.next_begin(Does::Hang(gate.clone()));
    let mut task = Box::pin(pool.request().context(Tenant(5)).get_async());
    assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    gate.await_entered(1);
    gate.open();
    let conn = get(&pool, 6);
    assert_eq!((conn.id, tenants.of(&conn)), (1, Some(Tenant(6))));
    drop(conn);
    drop(task);
    assert_whole(&pool, &server);
    let (mut begun, mut ended) = (tenants.begun(), tenants.ended());
    eventually("the last one has ended", || {
        (begun, ended) = (tenants.begun(), tenants.ended());
        begun == ended
    });
}

#[test]
fn p11_a_pool_closes_while_uses_begin_and_end() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 2).build(server.manager()).unwrap();
    let (begins, ends) = (Gate::new(), Gate::new());
    tenants.next_end(Does::Hang(ends.clone()));
    drop(get(&pool, 1));
    ends.await_entered(1);
    tenants.next_begin(Does::Hang(begins.clone()));
    let waits = start(&pool, 2, WATCHDOG);
    begins.await_entered(1);
    let report = pool.close(Instant::now());
    assert!(!report.is_complete(), "{report:?}");
    assert!(outcome(&waits).unwrap_err().is_closed());
    begins.open();
    ends.open();
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(server.live(), 0);
    server.check();
}

#[test]
fn a_get_without_time_fails_at_once_and_begins_nothing() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).min_idle(Some(1)).build(server.manager()).unwrap();
    let error = pool.get_timeout(Duration::ZERO).unwrap_err();
    assert!(error.is_timeout(), "{error:#}");
    assert_eq!((tenants.begun().len(), pool.stats().timeouts), (0, 1));
    assert_whole(&pool, &server);
}

#[test]
fn p8_who_finds_an_idle_connection_is_not_refused_while_other_uses_begin() {
    let (server, tenants, gate) = (Server::new(), Tenants::default(), Gate::new());
    let pool =
        with(&tenants, 3).min_idle(Some(3)).max_waiters(Some(1)).build(server.manager()).unwrap();
    tenants.next_begin(Does::Hang(gate.clone()));
    tenants.next_begin(Does::Hang(gate.clone()));
    let first = [start(&pool, 1, WATCHDOG), start(&pool, 2, WATCHDOG)];
    gate.await_entered(2);
    let third = get(&pool, 3);
    let waits = start(&pool, 4, WATCHDOG);
    await_waiting(&pool, 3);
    assert_eq!(pool.get().unwrap_err().kind(), ErrorKind::QueueFull);
    gate.open();
    drop(third);
    let conns: Vec<_> = first.iter().map(|got| outcome(got).unwrap()).collect();
    drop(outcome(&waits).unwrap());
    drop(conns);
    assert_whole(&pool, &server);
}

#[test]
fn a_handler_without_an_end_costs_a_return_nothing() {
    let (server, tenants) = (Server::new(), Tenants::without_end());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    drop(get(&pool, 1));
    assert_eq!(pool.state().idle_connections, 1, "at once");
    let conn = get(&pool, 2);
    assert_eq!(tenants.of(&conn), Some(Tenant(2)));
    drop(conn);
    assert_eq!((tenants.ended().len(), server.calls(Op::Reset)), (0, 0));
    server.check();
}

#[test]
fn a_use_ends_before_the_reset_and_not_if_its_connection_is_closed_anyway() {
    let (server, tenants) = (Server::new(), Tenants::default());
    let pool = with(&tenants, 1).build(server.manager()).unwrap();
    // What `end` itself leaves is reset too.
    server.next(Op::NeedsReset, Does::Succeed);
    server.next(Op::NeedsReset, Does::Fail);
    let conn = get(&pool, 1);
    let seen = tenants.clone();
    let ended = Arc::new(AtomicU32::new(u32::MAX));
    let ended_at_reset = Arc::clone(&ended);
    server.spy(move |op| {
        if op == Op::Reset {
            ended_at_reset.store(seen.ended().len() as u32, Ordering::SeqCst);
        }
    });
    drop(conn);
    await_idle(&pool, 1);
    assert_eq!((server.calls(Op::Reset), ended.load(Ordering::SeqCst)), (1, 1));
    PooledConnection::discard(get(&pool, 2));
    drop(PooledConnection::detach(get(&pool, 3)));
    eventually("both are closed", || server.live() == 0);
    assert_eq!(tenants.ended(), [Some(Tenant(1))]);
    server.no_spy();
    assert_whole(&pool, &server);
}

/// Threads with tenants, a handler that fails, hangs and panics, and users that do too.
#[test]
fn the_next_caller_never_has_the_last_ones_tenant() {
    const THREADS: u32 = 8;
    for has_end in [true, false] {
        let server = Server::new();
        let tenants = if has_end { Tenants::default() } else { Tenants::without_end() };
        let pool = with(&tenants, 3).validation_timeout(ms(5)).build(server.manager()).unwrap();
        server.limit(3 + 32);
        let served = AtomicU32::new(0);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (pool, tenants, served, server) = (&pool, &tenants, &served, &server);
                scope.spawn(move || {
                    for round in 0..rounds(120) as u32 {
                        let tenant = Tenant(thread * 1_000_000 + round);
                        match (thread + 3 * round) % 29 {
                            0 => tenants.next_begin(Does::Fail),
                            1 => tenants.next_begin(Does::Panic),
                            2 => tenants.next_begin(Does::Take(ms(8))),
                            3 => tenants.next_begin(Does::Take(ms(2))),
                            4 => tenants.next_end(Does::Fail),
                            5 => tenants.next_end(Does::Take(ms(8))),
                            6 => server.next(Op::IsFatal, Does::Fail),
                            7 => server.next(Op::NeedsReset, Does::Fail),
                            _ => {}
                        }
                        let timeout = if round % 7 == 0 { ms(1) } else { ms(500) };
                        let request = pool.request().context(tenant).timeout(timeout);
                        let Ok(conn) = request.get() else { continue };
                        served.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(tenants.of(&conn), Some(tenant));
                        if round % 5 == 0 {
                            thread::yield_now();
                        }
                        assert_eq!(tenants.of(&conn), Some(tenant));
                        if round % 11 == 0 {
                            let panics = AssertUnwindSafe(|| {
                                let _conn = conn;
                                silent_panic();
                            });
                            assert!(catch_unwind(panics).is_err());
                        }
                    }
                });
            }
        });
        assert!(served.load(Ordering::Relaxed) > THREADS * rounds(120) as u32 / 4);
        lock(&tenants.0).begins.clear();
        lock(&tenants.0).ends.clear();
        eventually("no call is abandoned", || pool.stats().abandoned == 0);
        assert_whole(&pool, &server);
    }
}
