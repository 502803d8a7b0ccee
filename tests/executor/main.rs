//! One executor serves all pools of a process. These tests count the threads and the memory of
//! the process, so they have one for themselves and run one after another.
#![cfg(target_os = "linux")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool_children::alone;
use fairpool_testing::StubManager;
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, threads_named,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

mod ends;

const POOLS: usize = 500;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Every thread of this process, with how often it has gone to sleep.
fn sleeps() -> BTreeMap<String, u64> {
    let tasks = fs::read_dir("/proc/self/task").expect("a Linux kernel");
    tasks
        .filter_map(|task| {
            let path = task.ok()?.path();
            let status = fs::read_to_string(path.join("status")).ok()?;
            let line = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"))?;
            let id = path.file_name()?.to_string_lossy().into_owned();
            Some((id, line.trim().parse().ok()?))
        })
        .collect()
}

fn threads() -> usize {
    sleeps().len()
}

/// How often those threads that lived all the time have gone to sleep meanwhile, without the
/// calling one and the test harness's.
fn wake_ups(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    let of_pools = |id: &str| {
        let comm = fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
        comm.contains("-reaper") || comm.contains("-worker")
    };
    let woken = after.iter().filter(|(id, _)| of_pools(id));
    woken.map(|(id, sleeps)| sleeps - before.get(id).unwrap_or(&0)).sum()
}

/// Each of them is complete.
fn close_all<M: fairpool::ManageConnection>(pools: Vec<Pool<M>>) {
    for pool in pools {
        let report = pool.close(Instant::now() + WATCHDOG);
        assert!(report.is_complete(), "{report}");
    }
}

#[test]
fn pools_at_rest_take_few_threads_and_little_memory_and_wake_nobody() {
    let _alone = alone();
    // What the process allocates once is none of theirs.
    close_all(vec![Pool::builder().max_size(1).build(StubManager).expect("a stub")]);
    let before = threads();
    let region = Region::new(ALLOCATOR);
    let pools: Vec<_> = (0..POOLS)
        .map(|_| Pool::builder().max_size(1).build(StubManager).expect("a stub"))
        .collect();
    let at_most = threads() - before;
    let mut at_rest = sleeps();
    eventually("the workers have ended", || {
        at_rest = sleeps();
        at_rest.len() <= before + 6
    });
    thread::sleep(ms(2500));
    let change = region.change();
    let bytes = change.bytes_allocated.saturating_sub(change.bytes_deallocated) / POOLS;
    let rest = threads() - before;
    let (first, start) = (sleeps(), Instant::now());
    thread::sleep(ms(3000));
    let woken = wake_ups(&first, &sleeps());
    println!(
        "figure: {POOLS} pools of one connection: {bytes} bytes each; threads: {at_most} when \
         built, {rest} at rest; {woken} wake-ups in {:.1?}",
        start.elapsed()
    );
    assert!(rest <= 6, "{rest} threads");
    assert!(bytes <= 8192, "{bytes} bytes each");
    // One may come from the end of the build.
    assert!(woken <= 2, "{woken} wake-ups");
    close_all(pools);
}

#[test]
fn a_refresh_of_500_pools_takes_few_threads() {
    let _alone = alone();
    let before = threads();
    let pools: Vec<_> = (0..POOLS)
        .map(|_| Pool::builder().max_size(2).build(StubManager).expect("a stub"))
        .collect();
    let most = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(threads().saturating_sub(before + 1), Ordering::Relaxed);
            }
        });
        pools.iter().for_each(Pool::refresh);
        let renewed = |pool: &Pool<StubManager>| {
            let stats = pool.stats();
            (stats.opened, stats.idle, stats.closing) == (4, 2, 0)
        };
        eventually("all have new connections", || pools.iter().all(renewed));
        done.store(true, Ordering::Relaxed);
    });
    let most = most.into_inner();
    println!("figure: refresh of {POOLS} pools: {most} threads at most");
    assert!(most <= 200, "{most} threads");
    close_all(pools);
}

/// The longest that a get was late, and how many gets failed, of threads that go round over
/// these pools for a while. Every tenth get makes the pool open another connection.
fn go_round(pools: &[Pool<Manager>], span: Duration) -> (Duration, u64, u64) {
    let users: u64 = 4;
    let end = Instant::now() + span;
    let go = |user: u64| {
        let (mut longest, mut gets, mut failed) = (Duration::ZERO, 0, 0);
        for (number, pool) in pools.iter().cycle().skip(user as usize * 7).enumerate() {
            let start = Instant::now();
            if start >= end {
                break;
            }
            let got = pool.get_timeout(ms(2000));
            longest = longest.max(start.elapsed());
            gets += 1;
            match got {
                Ok(conn) if number % 10 == 0 => fairpool::PooledConnection::discard(conn),
                Ok(conn) => drop(conn),
                Err(_) => failed += 1,
            }
        }
        (longest, gets, failed)
    };
    thread::scope(|scope| {
        let users: Vec<_> = (0..users).map(|user| scope.spawn(move || go(user))).collect();
        users
            .into_iter()
            .map(|user| user.join().expect("a user"))
            .fold((Duration::ZERO, 0, 0), |all, one| {
                (all.0.max(one.0), all.1 + one.1, all.2 + one.2)
            })
    })
}

#[test]
fn p1_a_pool_that_hangs_harms_none_of_499_others() {
    let _alone = alone();
    let server = Server::new();
    let pools: Vec<_> = (1..POOLS)
        .map(|_| builder(2).min_idle(Some(1)).build(server.manager()).expect("a server"))
        .collect();
    let span = ms(2000);
    let (longest, gets, failed) = go_round(&pools, span);
    println!("figure: 499 pools: {gets} gets, {failed} failed, the longest {longest:.1?}");
    assert_eq!(failed, 0);

    let (hung, gate) = (Server::new(), Gate::new());
    let hanging = builder(8).open_timeout(ms(20)).close_timeout(ms(20)).max_abandoned(1000);
    let hanging = hanging.max_opening(50).build(hung.manager()).expect("a server");
    for op in [Op::Connect, Op::IsValid, Op::Reset, Op::Close] {
        hung.on(op, Does::Hang(gate.clone()));
    }
    let (stop, late) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    assert!(hanging.get_timeout(ms(30)).is_err(), "its connects hang");
                    let over = start.elapsed().saturating_sub(ms(30));
                    late.fetch_max(over.as_micros() as usize, Ordering::Relaxed);
                }
            });
        }
        eventually("its connects hang", || gate.entered() > 50);
        let (longest, gets, failed) = go_round(&pools, span);
        stop.store(true, Ordering::Relaxed);
        let stats = hanging.stats();
        println!(
            "figure: beside one that hangs ({} calls): {gets} gets, {failed} failed, the longest \
             {longest:.1?}; the hanging pool's own gets were late by {} µs at most",
            stats.abandoned + stats.opening,
            late.load(Ordering::Relaxed)
        );
        assert_eq!(failed, 0, "beside one that hangs");
    });
    gate.open();
    close_all(pools);
    close_all(vec![hanging]);
    eventually("the executor has ended", || threads_named("fairpool-") == 0);
}
