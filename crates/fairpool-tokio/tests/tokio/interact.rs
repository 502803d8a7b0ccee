//! What `interact` does with its closure.

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use fairpool::event::EventKind;
use fairpool::snapshot::CallSite;
use fairpool::{ErrorKind, HandleUse, Pool, PooledConnection, UseContext};
use fairpool_testing::stub::{
    Conn, Manager, Op, Server, StubError, WATCHDOG, builder, silent_panic,
};
use fairpool_tokio::{Error, Interact};
use tokio::runtime::Builder;

use crate::support::{Alone, await_waiting, joined, runtime};

#[test]
fn the_closure_runs_on_a_thread_for_blocking_and_its_result_comes_back() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    let here = thread::current().id();
    let result = runtime.block_on(pool.interact(|conn| (conn.id, thread::current().id())));
    let (id, there) = result.unwrap();
    assert_eq!(id, 1);
    assert_ne!(here, there);
}

#[test]
fn when_the_result_is_there_the_connection_is_back() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    for _ in 0..200 {
        runtime.block_on(pool.interact(|conn| conn.touch())).unwrap();
        assert_eq!(pool.stats().in_use, 0);
    }
    assert_eq!(pool.stats().opened, 1);
}

#[test]
fn both_errors_pass_through_two_question_marks() {
    async fn answer(pool: &Pool<Manager>) -> Result<usize, Box<dyn std::error::Error>> {
        pool.interact(|conn| conn.query()).await??;
        Ok(pool.interact(|conn| conn.query().map(|()| conn.id)).await??)
    }
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let runtime = runtime();
    assert_eq!(runtime.block_on(answer(&pool)).unwrap(), 1);

    server.kill_all();
    let error = runtime.block_on(answer(&pool)).unwrap_err();
    assert_eq!(error.downcast_ref::<StubError>(), Some(&StubError::Query));

    assert!(pool.close(std::time::Instant::now() + WATCHDOG).is_complete());
    let error = runtime.block_on(answer(&pool)).unwrap_err();
    let error = error.downcast_ref::<Error>().expect("the get's");
    assert!(error.get_error().is_some_and(fairpool::Error::is_closed), "{error}");
}

#[test]
fn the_closure_gets_the_guard_and_may_mark_the_connection_as_broken() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    let discard = |conn: &mut PooledConnection<Manager>| {
        PooledConnection::mark_broken(conn);
        conn.id
    };
    assert_eq!(runtime.block_on(pool.interact(discard)).unwrap(), 1);
    assert_eq!(runtime.block_on(pool.interact(|conn| conn.id)).unwrap(), 2);
}

#[test]
fn a_fatal_error_in_run_marks_the_connection_as_broken() {
    let server = Server::new();
    server.on(Op::IsFatal, fairpool_testing::stub::Does::Fail);
    let pool = builder(1).build(server.manager()).unwrap();
    let runtime = runtime();
    runtime.block_on(pool.interact(|conn| conn.touch())).unwrap();
    server.kill_all();
    let query =
        |conn: &mut PooledConnection<Manager>| PooledConnection::run(conn, |conn| conn.query());
    assert_eq!(runtime.block_on(pool.interact(query)).unwrap(), Err(StubError::Query));
    assert_eq!(runtime.block_on(pool.interact(query)).unwrap(), Ok(()), "another connection");
    assert_eq!(pool.stats().closed.broken, 1);
}

#[test]
fn p9_holders_waiters_errors_and_events_show_the_line_and_the_label_of_the_call() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let events = pool.subscribe(64).unwrap();
    let runtime = runtime();

    let there = pool.clone();
    let (result, line) = (runtime.block_on(pool.interact(move |_| there.holders())), line!());
    let holders = result.unwrap();
    let site = holders[0].call_site();
    assert_eq!((site.location().line(), site.location().file()), (line, file!()));
    assert_eq!(site.label(), None);
    assert!(site.to_string().starts_with("task at "), "{site}");

    let there = pool.clone();
    let request = pool.request().label("orders").priority(1);
    let (work, line) = (request.interact(move |_| there.holders()), line!());
    let holders = runtime.block_on(work).unwrap();
    let site = holders[0].call_site();
    assert_eq!((site.location().line(), site.label(), site.priority()), (line, Some("orders"), 1));

    // The error of another has the line of the holder; a waiter has its own.
    let held = pool.get().unwrap();
    let there = pool.clone();
    let waits = runtime.spawn(async move {
        let result = there.request().label("report").timeout(WATCHDOG).interact(|_| ());
        (line!() - 1, result.await)
    });
    await_waiting(&pool, 1);
    let waiter = &pool.waiters()[0];
    drop(held);
    let (line, result) = joined(waits);
    result.unwrap();
    assert_eq!((waiter.location().line(), waiter.label()), (line, Some("report")));

    // Events come with the next delivery.
    let is_its = |site: &CallSite| site.label() == Some("report");
    let enqueued = events.iter().find_map(|event| match event.kind {
        EventKind::Enqueued { call_site, .. } => Some(call_site).filter(is_its),
        _ => None,
    });
    assert_eq!(enqueued.expect("the pool is open").location().line(), line);
}

#[test]
fn p9_a_timeout_names_the_interaction_that_holds_the_connection() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    let gate = fairpool_testing::stub::Gate::new();
    let (there, inside) = (pool.clone(), gate.clone());
    let work = runtime.spawn(async move {
        let work = there.request().label("slow").interact(move |_| drop(inside.pass()));
        (line!() - 1, work.await)
    });
    gate.await_entered(1);
    let request = pool.request().label("quick").timeout(std::time::Duration::ZERO);
    let error = runtime.block_on(request.interact(|_| ())).unwrap_err();
    assert!(error.is_timeout());
    let text = error.to_string();
    gate.open();
    let (line, result) = joined(work);
    result.unwrap();
    assert!(text.contains(&format!("{}:{line}:", file!())), "{text}");
    assert!(text.contains("(slow)") && text.contains("(quick)"), "{text}");
}

#[test]
fn p10_a_panic_goes_on_in_the_caller_and_the_connection_is_reset_and_validated() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let runtime = runtime();
    let work = pool.interact(|_| -> () { silent_panic() });
    let panic = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(work))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a scripted panic"));

    assert_eq!(runtime.block_on(pool.interact(|conn| conn.id)).unwrap(), 1);
    assert_eq!((server.calls(Op::Reset), server.calls(Op::IsValid)), (1, 1));
    server.check();
}

#[test]
fn it_runs_in_a_current_thread_runtime_beside_other_tasks() {
    let runtime = Alone::new();
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let (there, ran) = (pool.clone(), Arc::new(AtomicBool::new(false)));
    let (run, seen) = (Arc::clone(&ran), ran);
    let gate = fairpool_testing::stub::Gate::new();
    let inside = gate.clone();
    let work = runtime.spawn(async move { there.interact(move |_| drop(inside.pass())).await });
    gate.await_entered(1);
    joined(runtime.spawn(async move { run.store(true, Ordering::SeqCst) }));
    assert!(seen.load(Ordering::SeqCst), "the closure does not block the runtime");
    gate.open();
    joined(work).unwrap();
}

#[test]
fn futures_are_send_and_unpin_and_errors_fit_into_any_box() {
    fn is_send_and_unpin(_: &(impl Send + Unpin)) {}
    fn is_error<E: std::error::Error + Send + Sync + Unpin + 'static>() {}
    let pool = builder(1).build(Server::new().manager()).unwrap();
    is_send_and_unpin(&pool.get_async());
    is_send_and_unpin(&pool.interact(|conn| conn.id));
    is_send_and_unpin(&pool.request().interact(|conn| conn.id));
    is_error::<Error>();
}

#[test]
fn nothing_happens_before_the_first_poll() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let work = pool.interact(|_| ());
    assert_eq!(format!("{work:?}"), r#"Interaction { state: "not polled", .. }"#);
    drop(work);
    assert_eq!((pool.stats().gets, pool.stats().cancelled, pool.stats().open), (0, 0, 0));
}

/// Keeps the context of each use, by connection.
#[derive(Clone, Debug, Default)]
struct Tenants(Arc<Mutex<BTreeMap<usize, u32>>>);

impl HandleUse<Conn, StubError> for Tenants {
    fn begin(&self, conn: &mut Conn, context: &UseContext) -> Result<(), StubError> {
        let tenant = context.get::<u32>().ok_or(StubError::Query)?;
        self.0.lock().unwrap().insert(conn.id, *tenant);
        Ok(())
    }

    fn end(&self, conn: &mut Conn, context: &UseContext) -> Result<(), StubError> {
        assert_eq!(self.0.lock().unwrap().remove(&conn.id).as_ref(), context.get::<u32>());
        Ok(())
    }
}

#[test]
fn p18_closures_have_the_tenant_of_their_request_and_no_other() {
    let tenants = Tenants::default();
    let handler = Box::new(tenants.clone());
    let pool = builder(2).use_handler(handler).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    let tasks: Vec<_> = (0..200)
        .map(|tenant: u32| {
            let (pool, tenants) = (pool.clone(), tenants.clone());
            runtime.spawn(async move {
                let request = pool.request().context(tenant);
                let seen = request.interact(move |conn| tenants.0.lock().unwrap()[&conn.id]).await;
                assert_eq!(seen.unwrap(), tenant);
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
    let error = runtime.block_on(pool.interact(|conn| conn.touch())).unwrap_err();
    let error = error.get_error().expect("the get's");
    assert_eq!(error.kind(), ErrorKind::UseHandler);
}
