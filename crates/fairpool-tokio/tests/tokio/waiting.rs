//! How tasks wait: deadlines, grants that are not taken up, cancels, snapshots.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Pool};
use fairpool_testing::stub::{Gate, Manager, Server, WATCHDOG, builder, eventually};
use fairpool_tokio::Interact;

use crate::support::{Alone, await_waiting, joined, ms, poll, runtime};

/// A thread that gets a connection, says so, and holds it until it is told to return it.
fn thread_that_gets(pool: &Pool<Manager>) -> (mpsc::Receiver<Duration>, Gate) {
    let (got, has_got) = mpsc::channel();
    let (pool, gate) = (pool.clone(), Gate::new());
    let end = gate.clone();
    thread::spawn(move || {
        let start = Instant::now();
        let conn = pool.get().expect("a connection");
        let _ = got.send(start.elapsed());
        end.pass();
        drop(conn);
    });
    (has_got, gate)
}

#[test]
fn p1_the_pool_keeps_the_deadline_of_a_task_while_all_workers_are_blocked() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let runtime = runtime();
    let there = pool.clone();
    let wait = ms(300);
    let work = runtime.spawn(async move { there.request().timeout(wait).interact(|_| ()).await });
    await_waiting(&pool, 1);
    let gates = [Gate::new(), Gate::new()];
    for gate in gates.clone() {
        runtime.spawn(async move { drop(gate.pass()) });
    }
    gates.iter().for_each(|gate| gate.await_entered(1));

    eventually("it has timed out", || pool.stats().timeouts == 1);
    assert_eq!(pool.stats().waiting, 0);
    assert!(!work.is_finished(), "nobody has polled it");
    // Its connection, had it one now, would be anybody's.
    drop(held);
    assert!(pool.try_get().is_some());

    gates.iter().for_each(Gate::open);
    let error = joined(work).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(error.get_error().is_some_and(|error| error.waited() >= wait), "{error}");
}

#[test]
fn p2_a_grant_that_is_not_taken_up_goes_to_a_thread_and_the_task_keeps_its_place() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let runtime = Alone::new();
    let (there, done) = (pool.clone(), Gate::new());
    let hold = done.clone();
    let (got, has_got) = mpsc::channel();
    let task = runtime.spawn(async move {
        let conn = there.request().label("late").get_async().await.expect("a connection");
        got.send(()).expect("the test listens");
        // Blocks the runtime, which has nothing else to do.
        hold.pass();
        drop(conn);
    });
    await_waiting(&pool, 1);
    let blocked = runtime.block();

    let (first, return_first) = thread_that_gets(&pool);
    await_waiting(&pool, 2);
    let granted = Instant::now();
    drop(held);
    // Both are read under one lock, so one of them is true until the thread has it.
    let holder = &pool.holders()[0];
    if granted.elapsed() < ms(50) {
        assert!(holder.is_granted_not_polled(), "{holder}");
        assert!(holder.to_string().ends_with("(granted, not polled)"), "{holder}");
        assert_eq!(holder.label(), Some("late"));
    }
    first.recv_timeout(WATCHDOG).expect("the thread is served");
    assert!(granted.elapsed() >= ms(50), "taken from the task too early");
    let holder = &pool.holders()[0];
    assert!(!holder.is_granted_not_polled(), "{holder}");
    assert_eq!(pool.waiters()[0].label(), Some("late"), "the task waits again");

    // The task came before the second thread, and is polled now.
    let (second, return_second) = thread_that_gets(&pool);
    await_waiting(&pool, 2);
    blocked.open();
    joined(runtime.spawn(async {})); // the runtime has polled what it had to
    return_first.open();
    has_got.recv_timeout(WATCHDOG).expect("the task is served");
    assert!(second.try_recv().is_err(), "the thread has overtaken the task");
    done.open();
    second.recv_timeout(WATCHDOG).expect("then the thread");
    return_second.open();
    joined(task);
    eventually("all is back", || pool.stats().idle == 1);
    // The grant that was not taken up counts, as it does in the feed of events.
    assert_eq!((pool.stats().gets, pool.stats().opened), (5, 1));
}

#[test]
fn p2_a_task_that_is_polled_in_time_takes_up_what_it_was_granted() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    for _ in 0..100 {
        let held = pool.get().unwrap();
        let there = pool.clone();
        let task = runtime.spawn(async move { there.get_async().await.map(drop) });
        await_waiting(&pool, 1);
        drop(held);
        joined(task).expect("a connection");
    }
    eventually("all is back", || pool.stats().idle == 1);
    assert_eq!((pool.stats().gets, pool.stats().opened), (200, 1));
}

#[test]
fn p4_a_cancel_token_ends_the_wait_of_a_task_before_that_is_polled() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let runtime = Alone::new();
    let token = CancelToken::new();
    let (there, with) = (pool.clone(), token.clone());
    let work = runtime.spawn(async move { there.request().cancel(&with).interact(|_| ()).await });
    await_waiting(&pool, 1);
    let blocked = runtime.block();
    token.cancel();
    assert_eq!((pool.stats().waiting, pool.stats().cancelled), (0, 1), "gone at once");
    blocked.open();
    let error = joined(work).unwrap_err();
    assert!(error.get_error().is_some_and(fairpool::Error::is_cancelled), "{error}");
    drop(held);

    let error = runtime_get_cancelled(&pool, &token);
    assert!(error.is_cancelled(), "{error}");
}

/// A get with a token that is cancelled already.
fn runtime_get_cancelled(pool: &Pool<Manager>, token: &CancelToken) -> fairpool::Error {
    let get = pool.request().cancel(token).get_async();
    runtime().block_on(get).map(drop).unwrap_err()
}

#[test]
fn p9_waiting_tasks_are_in_snapshots_with_their_lines_labels_and_priorities() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let _held = pool.get().unwrap();
    let mut gets = [
        (pool.request().label("a report").priority(9).get_async(), line!()),
        (pool.request().label(format!("GET /{}", 1)).get_async(), line!()),
        (pool.get_async(), line!()),
    ];
    for (get, _) in &mut gets {
        assert!(poll(get).is_pending());
    }
    let snapshot = pool.snapshot();
    let waiters = &snapshot.waiters;
    let seen: Vec<_> = waiters
        .iter()
        .map(|waiter| (waiter.location().line(), waiter.label(), waiter.priority()))
        .collect();
    let expected =
        [(gets[1].1, Some("GET /1"), 5), (gets[2].1, None, 5), (gets[0].1, Some("a report"), 9)];
    assert_eq!(seen, expected);
    for waiter in waiters {
        assert_eq!((waiter.thread(), waiter.call_site().thread_id()), ("task", 0));
        assert!(waiter.to_string().starts_with("task at "), "{waiter}");
    }
}

#[test]
fn p8_a_full_queue_refuses_a_task() {
    let pool = builder(1).max_waiters(Some(1)).build(Server::new().manager()).unwrap();
    let _held = pool.get().unwrap();
    let mut first = pool.get_async();
    assert!(poll(&mut first).is_pending());
    let error = runtime().block_on(pool.interact(|_| ())).unwrap_err();
    assert!(error.get_error().is_some_and(fairpool::Error::is_queue_full), "{error}");
}

#[test]
fn guards_of_tasks_count_for_no_thread() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    let conn = runtime.block_on(pool.get_async()).expect("a connection");
    conn.touch();
    // On the same thread, which holds it: no deadlock, since another may return it.
    let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
    assert!(error.is_timeout() && error.nested_gets().is_empty(), "{error}");
    assert_eq!(pool.stats().self_deadlocks, 0);
}
