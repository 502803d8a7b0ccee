//! How tasks wait: deadlines, grants that are not taken up, cancels, snapshots.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Pool};
use fairpool_testing::stub::{Gate, Manager, Server, WATCHDOG, builder, eventually};
use fairpool_tokio::Interact;

use crate::support::{Alone, TAKE_UP_LIMIT, await_waiting, joined, ms, poll, runtime};

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
    let gates = [Gate::new(), Gate::new()];
    for gate in gates.clone() {
        runtime.spawn(async move { drop(gate.pass()) });
    }
    gates.iter().for_each(|gate| gate.await_entered(1));
    let wait = ms(100);
    let mut work = pool.request().timeout(wait).interact(|_| ());
    {
        let _inside = runtime.enter();
        assert!(poll(&mut work).is_pending());
    }
    // From here on nobody polls it, and there is no timer.
    eventually("it has timed out", || pool.stats().timeouts == 1);
    assert_eq!(pool.stats().waiting, 0);
    drop(held);
    assert!(pool.try_get().is_some(), "a connection that comes now is anybody's");

    gates.iter().for_each(Gate::open);
    let error = runtime.block_on(work).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(error.get_error().is_some_and(|error| error.waited() >= wait), "{error}");
}

#[test]
fn p2_a_grant_that_is_not_taken_up_goes_to_a_thread_and_the_task_keeps_its_place() {
    // A machine that stops for as long as a grant lasts hides what is to be seen.
    let seen = (0..50).any(|_| lose_a_grant());
    assert!(seen, "not one attempt of fifty without a stop");
}

/// A blocked task is granted a connection, a thread gets it, and then it is the task's turn.
/// Returns `false` if the machine stopped for too long.
fn lose_a_grant() -> bool {
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

    let returned = Instant::now();
    drop(held);
    let holders = pool.holders();
    let in_time = returned.elapsed() < TAKE_UP_LIMIT;
    if in_time {
        let holder = &holders[0];
        assert!(holder.is_granted_not_polled(), "{holder}");
        assert!(holder.to_string().ends_with("(granted, not polled)"), "{holder}");
        assert_eq!(holder.label(), Some("late"));
    }
    first.recv_timeout(WATCHDOG).expect("the thread is served");
    assert!(returned.elapsed() >= TAKE_UP_LIMIT, "taken from the task too early");
    assert!(!pool.holders()[0].is_granted_not_polled());
    assert_eq!(pool.waiters()[0].label(), Some("late"), "the task waits again");

    // The task came before the second thread, and is polled now.
    let (second, return_second) = thread_that_gets(&pool);
    await_waiting(&pool, 2);
    blocked.open();
    joined(runtime.spawn(async {})); // the runtime has polled what it had to
    return_first.open();
    let mut overtaken = false;
    eventually("one of them is served", || {
        overtaken = second.try_recv().is_ok();
        overtaken || has_got.try_recv().is_ok()
    });
    return_second.open();
    done.open();
    joined(task);
    eventually("all is back", || pool.stats().idle == 1);
    // A grant that is not taken up counts, as in the feed of events: there was one.
    let is_alone = pool.stats().gets == 5;
    assert!(!(is_alone && overtaken), "the second thread has overtaken the task");
    in_time && is_alone
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
    assert_eq!(pool.stats().opened, 1);
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
