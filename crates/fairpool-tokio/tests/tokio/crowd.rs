//! P18: many tasks, few threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use fairpool_testing::stub::{Server, WATCHDOG, builder, eventually, threads_named};
use fairpool_tokio::Interact;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::support::{await_waiting, runtime};

const TASKS: u32 = 10_000;

#[test]
fn p18_ten_thousand_tasks_wait_without_a_thread_and_all_are_served() {
    let server = Server::new();
    server.limit(8);
    let pool = builder(8).connection_timeout(12 * WATCHDOG).build(server.manager()).unwrap();
    let held: Vec<_> = (0..8).map(|_| pool.get().unwrap()).collect();
    let runtime =
        Builder::new_multi_thread().worker_threads(2).thread_name("p18-crowd").build().unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let there = pool.clone();
        tasks.spawn_on(async move { there.interact(|conn| conn.touch()).await }, runtime.handle());
    }
    await_waiting(&pool, TASKS);
    if cfg!(target_os = "linux") {
        assert_eq!(threads_named("p18-crowd"), 2, "only the workers");
    }
    drop(held);
    let served = runtime.block_on(async {
        let mut served = 0;
        while let Some(result) = tasks.join_next().await {
            result.expect("no panic").expect("a connection");
            served += 1;
        }
        served
    });
    assert_eq!(served, TASKS);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.in_use, stats.waiting, stats.timeouts), (8, 0, 0, 0));
    server.check();
}

#[test]
fn p4_ten_thousand_tasks_dropped_at_once_lose_nothing() {
    let server = Server::new();
    let pool = builder(8).build(server.manager()).unwrap();
    for round in 0..3 {
        let held: Vec<_> = (0..8).map(|_| pool.get().unwrap()).collect();
        let runtime = runtime();
        for number in 0..TASKS {
            let there = pool.clone();
            match number % 2 {
                0 => drop(runtime.spawn(async move { drop(there.get_async().await) })),
                _ => drop(runtime.spawn(async move { there.interact(|conn| conn.touch()).await })),
            }
        }
        await_waiting(&pool, TASKS);
        // Some are granted connections, and take them up, meanwhile.
        let returned = thread::spawn(move || drop(held));
        drop(runtime);
        returned.join().unwrap();
        eventually("all connections are idle", || pool.stats().idle == 8);
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.waiting), (0, 0), "round {round}");
    }
    let all: Vec<_> = (0..8).map(|_| pool.try_get().expect("idle")).collect();
    assert!(pool.try_get().is_none());
    drop(all);
    assert_eq!(pool.stats().opened, 8);
    server.check();
}

#[test]
fn p3_grants_against_drops_on_other_threads_lose_nothing() {
    let server = Server::new();
    server.limit(2);
    let pool = builder(2).build(server.manager()).unwrap();
    let runtime = runtime();
    let (end, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let users: Vec<_> = (0..4)
        .map(|_| {
            let (pool, end, served) = (pool.clone(), Arc::clone(&end), Arc::clone(&served));
            runtime.spawn(async move {
                while !end.load(Ordering::Relaxed) {
                    pool.interact(|conn| conn.touch()).await.expect("a connection");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..2000 {
        let there = pool.clone();
        let task = runtime.spawn(async move { there.interact(|conn| conn.touch()).await });
        thread::yield_now();
        task.abort();
    }
    let before = served.load(Ordering::Relaxed);
    eventually("the others are still served", || served.load(Ordering::Relaxed) > before + 100);
    end.store(true, Ordering::Relaxed);
    users.into_iter().for_each(crate::support::joined);
    eventually("all is back", || pool.stats().in_use == 0 && pool.stats().waiting == 0);
    server.check();
}

/// What frameworks' examples do: a get in one closure, the use in another. With gets that block,
/// those that wait have all threads, and those that have connections never get one.
#[test]
fn p18_a_get_by_the_task_and_a_use_on_a_thread_serve_everybody() {
    let server = Server::new();
    server.limit(4);
    let pool = builder(4).build(server.manager()).unwrap();
    let runtime =
        Builder::new_multi_thread().worker_threads(2).max_blocking_threads(16).build().unwrap();
    let served = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..200 {
            let pool = pool.clone();
            tasks.spawn(async move {
                let conn = pool.get_async().await?;
                tokio::task::spawn_blocking(move || conn.touch()).await.expect("no panic");
                Ok::<(), fairpool::Error>(())
            });
        }
        tasks.join_all().await.into_iter().filter(Result::is_ok).count()
    });
    assert_eq!(served, 200);
    server.check();
}
