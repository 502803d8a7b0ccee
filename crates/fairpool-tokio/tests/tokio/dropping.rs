//! An interaction that is dropped, at each of its stages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use fairpool::snapshot::Holder;
use fairpool_testing::stub::{Gate, Manager, Server, builder, eventually};
use fairpool_tokio::Interact;

use crate::support::{
    await_waiting, joined, occupy, poll, runtime, with_one_blocking_thread, within_a_grant,
};

#[test]
fn p4_dropped_while_it_waits_it_cancels_the_get() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    let held = pool.get().unwrap();
    let there = pool.clone();
    let work = runtime.spawn(async move { there.interact(|_| ()).await });
    await_waiting(&pool, 1);
    work.abort();
    await_waiting(&pool, 0);
    drop(held);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.in_use, stats.cancelled), (1, 0, 1));
}

#[test]
fn p4_dropped_with_a_connection_it_runs_nothing_and_that_is_back_before_a_thread_is_free() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = with_one_blocking_thread();
    let gate = occupy(&runtime);
    let ran = Arc::new(AtomicBool::new(false));
    let run = Arc::clone(&ran);

    let _inside = runtime.enter();
    let mut work = pool.interact(move |_| run.store(true, Ordering::SeqCst));
    eventually("the connection is opened", || {
        assert!(poll(&mut work).is_pending());
        format!("{work:?}").contains("works")
    });
    assert_eq!(pool.stats().in_use, 1, "the closure is queued, and has the connection");
    drop(work);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.in_use), (1, 0), "it is back at once");
    assert_eq!(Arc::strong_count(&ran), 1, "and so is what the closure owns");

    // No thread was free so far.
    gate.open();
    joined(runtime.spawn_blocking(|| ()));
    assert!(!ran.load(Ordering::SeqCst), "it ran after all");
}

#[test]
fn p4_dropped_while_the_closure_runs_that_goes_on_and_the_connection_comes_back_at_its_end() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let runtime = runtime();
    let (gate, ran) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (there, inside, run) = (pool.clone(), gate.clone(), Arc::clone(&ran));
    let work = runtime.spawn(async move {
        let closure = move |conn: &mut fairpool::PooledConnection<Manager>| {
            inside.pass();
            conn.touch();
            run.store(true, Ordering::SeqCst);
        };
        there.interact(closure).await
    });
    gate.await_entered(1);
    work.abort();
    eventually("the task is gone", || work.is_finished());
    assert_eq!(pool.stats().in_use, 1, "it still has the connection");
    gate.open();
    eventually("the connection is back", || pool.stats().idle == 1);
    assert!(ran.load(Ordering::SeqCst));
    server.check();
}

#[test]
fn p4_a_get_dropped_with_its_grant_passes_that_on() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let seen = within_a_grant(|| {
        let held = pool.get().unwrap();
        let mut get = pool.get_async();
        assert!(poll(&mut get).is_pending());
        drop(held);
        let is_granted = pool.holders().iter().any(Holder::is_granted_not_polled);
        let mut next = pool.get_async();
        let waits = poll(&mut next).is_pending();
        drop(get);
        (is_granted, waits, matches!(poll(&mut next), Poll::Ready(Ok(_))))
    });
    assert_eq!(seen, (true, true, true), "granted, the next waits, the next is served");
}
