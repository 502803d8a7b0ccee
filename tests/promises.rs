//! The promises of the README, each as tests that carry its number.
//!
//! `FAIRPOOL_ROUNDS=1000` makes the ones that go in rounds thorough.

#[allow(dead_code)]
#[path = "support/stub.rs"]
mod stub;

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{
    CancelToken, CustomizeConnection, Error, ErrorKind, Fairness, HandleError, HandleEvent,
    ManageConnection, Pool, PooledConnection,
};
use stub::{
    Conn, Does, Gate, Manager, Op, Server, StubError, WATCHDOG, builder, eventually, lock,
    silent_panic, threads_named, watched,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn rounds(default: usize) -> usize {
    std::env::var("FAIRPOOL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The promise is 10 ms on an idle machine; a busy one only gets a watchdog.
fn allowed_overshoot() -> Duration {
    let set = std::env::var("FAIRPOOL_OVERSHOOT_MS").ok().and_then(|n| n.parse().ok());
    ms(set.unwrap_or(2000))
}

fn await_waiting(pool: &Pool<Manager>, waiting: u32) {
    eventually("so many callers wait", || pool.stats().waiting == waiting);
}

/// All of the pool's connections can still be had at once, and no call is left.
#[track_caller]
fn assert_whole(pool: &Pool<Manager>, server: &Server) {
    let pool = pool.clone();
    let size = pool.max_size();
    let conns: Vec<_> =
        (0..size).map(|n| pool.get().unwrap_or_else(|e| panic!("number {n}: {e}"))).collect();
    conns.iter().for_each(|conn| conn.touch());
    drop(conns);
    server.check();
}

/// A waiter on a thread of its own. What it got, and what it was told.
fn waiter(
    pool: &Pool<Manager>,
    timeout: Duration,
) -> mpsc::Receiver<Result<PooledConnection<Manager>, Error>> {
    let before = pool.stats().waiting;
    let (tell, told) = mpsc::channel();
    let here = pool.clone();
    thread::spawn(move || {
        let _ = tell.send(here.get_timeout(timeout));
    });
    await_waiting(pool, before + 1);
    told
}

#[track_caller]
fn served(
    told: &mpsc::Receiver<Result<PooledConnection<Manager>, Error>>,
) -> PooledConnection<Manager> {
    match told.recv_timeout(WATCHDOG) {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => panic!("refused: {error}"),
        Err(_) => panic!("nobody serves it"),
    }
}

// ---------------------------------------------------------------------------
// P1: bounded wait

/// Times `get_timeout(100 ms)` beside something that hangs for ever.
#[track_caller]
fn assert_deadline_kept(what: &str, pool: &Pool<Manager>) {
    let limit = ms(100);
    let mut worst = Duration::ZERO;
    for _ in 0..3 {
        let there = pool.clone();
        let (took, error) = watched(what, move || {
            let start = Instant::now();
            let error = there.get_timeout(limit).map(drop).unwrap_err();
            (start.elapsed(), error)
        });
        assert!(error.is_timeout(), "{error}");
        assert!(took >= limit, "{what}: left after {took:?}, too early");
        worst = worst.max(took - limit);
    }
    println!("overshoot while {what} hangs: {worst:?}");
    assert!(worst < allowed_overshoot(), "{what}: overshoot {worst:?}");
}

#[test]
fn p1_the_deadline_holds_while_connect_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(2).build(server.manager()).unwrap();
    assert_deadline_kept("connect", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_validation_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Hang(gate.clone()));
    assert_deadline_kept("validation", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_reset_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    server.on(Op::NeedsReset, Does::Fail);
    server.on(Op::Reset, Does::Hang(gate.clone()));
    let start = Instant::now();
    drop(conn);
    assert!(start.elapsed() < allowed_overshoot(), "the return waited for the reset");
    assert_deadline_kept("reset", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_close_hangs_for_ever() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Close, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    watched("a return", move || PooledConnection::discard(conn));
    assert_deadline_kept("close", &pool);
    gate.open();
}

#[test]
fn p1_the_deadline_holds_while_connecting_fails_over_and_over() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(2).build(server.manager()).unwrap();
    assert_deadline_kept("failing connect", &pool);
    assert!(server.calls(Op::Connect) > 3, "it retried within the wait");
}

#[test]
fn p1_the_deadline_holds_while_every_connection_fails_validation() {
    let server = Server::new();
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Take(ms(40)));
    server.next(Op::IsValid, Does::Fail);
    server.on(Op::Connect, Does::Take(ms(400)));
    assert_deadline_kept("check, then slow connect,", &pool);
}

#[test]
fn p1_zero_takes_what_is_there_and_leaves_at_once_otherwise() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).build(server.manager()).unwrap();
    let conn = pool.get().unwrap();
    drop(conn);
    let conn = pool.get_timeout(Duration::ZERO).expect("one is idle");
    server.on(Op::Close, Does::Hang(gate.clone()));
    PooledConnection::discard(conn);
    let start = Instant::now();
    assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_timeout());
    assert!(start.elapsed() < allowed_overshoot());
    assert_eq!(pool.stats().waiting, 0);
    gate.open();
}

#[test]
fn p1_the_longest_durations_wait_until_served() {
    for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(u64::MAX / 2)]
    {
        let server = Server::new();
        let pool = builder(1).build(server.manager()).unwrap();
        let held = pool.get().unwrap();
        let told = waiter(&pool, timeout);
        thread::sleep(ms(20));
        assert!(told.try_recv().is_err(), "{timeout:?} ended early");
        drop(held);
        served(&told);
    }
}

#[test]
fn p1_a_deadline_centuries_away_is_not_taken_for_a_near_one() {
    // One turn of a 64-bit count of nanoseconds, and 30 ms.
    let centuries = Duration::from_nanos(u64::MAX) + ms(30);
    let Some(deadline) = Instant::now().checked_add(centuries) else { return };
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let (tell, told) = mpsc::channel();
    let here = pool.clone();
    thread::spawn(move || {
        let _ = tell.send(here.request().deadline(deadline).get());
    });
    await_waiting(&pool, 1);
    thread::sleep(ms(100));
    drop(held);
    served(&told);
}

// ---------------------------------------------------------------------------
// P2: first in, first out

fn assert_served_in_arrival_order(fairness: Fairness, rounds: usize) {
    const WAITERS: usize = 8;
    let server = Server::new();
    let pool = builder(1).fairness(fairness).build(server.manager()).unwrap();
    for round in 0..rounds {
        let held = pool.get().unwrap();
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..WAITERS {
                let (pool, order) = (&pool, &order);
                scope.spawn(move || {
                    let conn = pool.get().expect("served");
                    lock(order).push(number);
                    drop(conn);
                });
                await_waiting(pool, number as u32 + 1);
                thread::sleep(ms(10)); // well apart
            }
            drop(held);
        });
        let order = order.into_inner().unwrap();
        assert!(order.is_sorted(), "{fairness:?}, round {round}: {order:?}");
    }
    println!("{fairness:?}: {rounds} rounds of {WAITERS} waiters in order");
    server.check();
}

#[test]
fn p2_waiters_are_served_in_the_order_of_their_arrival() {
    assert_served_in_arrival_order(Fairness::default(), rounds(20));
}

#[test]
fn p2_strict_waiters_are_served_in_the_order_of_their_arrival() {
    assert_served_in_arrival_order(Fairness::Strict, rounds(20));
}

#[test]
fn p2_no_newcomer_overtakes_a_waiter_past_the_bound() {
    let bound = ms(5);
    let server = Server::new();
    let pool = builder(1).fairness(Fairness::Bounded(bound)).build(server.manager()).unwrap();
    for _ in 0..rounds(50) {
        let held = pool.get().unwrap();
        let told = waiter(&pool, WATCHDOG);
        thread::sleep(bound);
        drop(held);
        assert!(pool.get_timeout(Duration::ZERO).is_err(), "a newcomer took the waiter's");
        assert!(pool.try_get().is_none(), "a newcomer took the waiter's");
        drop(served(&told));
    }
}

#[test]
fn p2_strict_lets_no_newcomer_overtake_ever() {
    let server = Server::new();
    let pool = builder(1).fairness(Fairness::Strict).build(server.manager()).unwrap();
    for _ in 0..rounds(200) {
        let held = pool.get().unwrap();
        let told = waiter(&pool, WATCHDOG);
        drop(held);
        assert!(pool.get_timeout(Duration::ZERO).is_err(), "a newcomer took the waiter's");
        drop(served(&told));
    }
}

#[test]
fn p2_a_bound_of_zero_is_strict() {
    let server = Server::new();
    let pool =
        builder(1).fairness(Fairness::Bounded(Duration::ZERO)).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let told = waiter(&pool, WATCHDOG);
    drop(held);
    assert!(pool.try_get().is_none(), "a newcomer took the waiter's");
    served(&told);
}

#[test]
fn p2_a_newcomer_may_take_an_idle_connection_before_the_bound() {
    // With a waiter that cannot take it yet, since the pool is told of its
    // wait only: it is asleep. Some of many newcomers are quicker than it.
    let server = Server::new();
    let pool = builder(1)
        .fairness(Fairness::Bounded(Duration::from_secs(60)))
        .build(server.manager())
        .unwrap();
    let mut overtaken = 0;
    for _ in 0..200 {
        let held = pool.get().unwrap();
        let told = waiter(&pool, WATCHDOG);
        drop(held);
        overtaken += u32::from(pool.try_get().is_some());
        served(&told);
    }
    assert!(overtaken > 0, "no newcomer of 200 was let past: the bound means nothing");
}

#[test]
fn p2_smaller_priorities_are_served_first_and_each_in_order() {
    let server = Server::new();
    let pool = builder(1)
        .fairness(Fairness::Strict)
        .priority_ageing(Duration::from_secs(60))
        .build(server.manager())
        .unwrap();
    let held = pool.get().unwrap();
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (number, priority) in [5, 9, 0, 5, 255, 0, 9].into_iter().enumerate() {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let conn = pool.request().priority(priority).get().expect("served");
                lock(order).push((priority, number));
                drop(conn);
            });
            await_waiting(pool, number as u32 + 1);
        }
        drop(held);
    });
    let order = order.into_inner().unwrap();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn p2_ageing_bounds_how_long_a_low_priority_is_passed_over() {
    let server = Server::new();
    let pool = builder(1)
        .fairness(Fairness::Strict)
        .priority_ageing(ms(5))
        .build(server.manager())
        .unwrap();
    let held = pool.get().unwrap();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for (number, priority) in [(0, 9), (1, 1)] {
            let (pool, tell) = (&pool, tell.clone());
            scope.spawn(move || {
                let conn = pool.request().priority(priority).get().expect("served");
                tell.send(number).unwrap();
                drop(conn);
            });
            await_waiting(pool, number + 1);
            thread::sleep(ms(8 * 5 + 5)); // eight levels, and some
        }
        drop(held);
        assert_eq!(told.recv_timeout(WATCHDOG), Ok(0), "it had waited long enough");
    });
}

// ---------------------------------------------------------------------------
// P3: no lost wake-up

/// One connection is held and one caller waits; then something happens to the
/// held one, and the waiter must be served.
fn assert_waiter_served_when(
    what: &str,
    pool: &Pool<Manager>,
    act: impl FnOnce(PooledConnection<Manager>),
) {
    let held = pool.get().unwrap();
    let told = waiter(pool, Duration::MAX);
    act(held);
    match told.recv_timeout(WATCHDOG) {
        Ok(Ok(conn)) => conn.touch(),
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: the waiter sleeps on; {}", pool.stats()),
    }
}

#[test]
fn p3_a_broken_connection_that_comes_back_serves_the_waiter_by_opening() {
    for min_idle in [Some(0), Some(1), None] {
        let server = Server::new();
        server.limit(1);
        let pool = builder(1).min_idle(min_idle).build(server.manager()).unwrap();
        server.next(Op::HasBroken, Does::Fail);
        assert_waiter_served_when("broken", &pool, drop);
        server.check();
    }
}

#[test]
fn p3_whatever_ends_a_connection_serves_the_waiter_by_opening() {
    let server = Server::new();
    server.limit(1);
    let pool = builder(1).build(server.manager()).unwrap();
    assert_waiter_served_when("kept", &pool, drop);
    assert_waiter_served_when("discarded", &pool, PooledConnection::discard);
    let refresh = |conn| {
        pool.refresh();
        drop(conn);
    };
    assert_waiter_served_when("stale", &pool, refresh);
    server.next(Op::HasBroken, Does::Panic);
    assert_waiter_served_when("has_broken panicked", &pool, drop);
    server.next(Op::NeedsReset, Does::Panic);
    assert_waiter_served_when("needs_reset panicked", &pool, drop);
    for reset in [Does::Succeed, Does::Fail, Does::Panic] {
        server.next(Op::NeedsReset, Does::Fail);
        server.next(Op::Reset, reset);
        assert_waiter_served_when("reset", &pool, drop);
    }
    server.next(Op::Close, Does::Panic);
    assert_waiter_served_when("close panicked", &pool, PooledConnection::discard);
    server.check();
    let mut detached = None;
    server.limit(2);
    assert_waiter_served_when("detached", &pool, |conn| {
        detached = Some(PooledConnection::detach(conn));
    });
    server.check();
}

#[test]
fn p3_a_connection_that_expired_in_use_serves_the_waiter_by_opening() {
    let server = Server::new();
    server.limit(1);
    let pool =
        builder(1).max_lifetime(Some(ms(30))).lifetime_jitter(0.0).build(server.manager()).unwrap();
    assert_waiter_served_when("expired", &pool, |conn| {
        thread::sleep(ms(40));
        drop(conn);
    });
    assert_eq!(pool.stats().closed.expired, 1, "{:?}", pool.stats());
    server.check();
}

#[test]
fn p3_an_open_that_fails_is_tried_again_for_the_waiter() {
    for failure in [Does::Fail, Does::Panic] {
        let server = Server::new();
        for _ in 0..5 {
            server.next(Op::Connect, failure.clone());
        }
        let pool = builder(1).build(server.manager()).unwrap();
        drop(pool.get().expect("the sixth attempt succeeds"));
        assert_eq!(server.calls(Op::Connect), 6);
    }
}

#[test]
fn p3_growth_serves_the_waiters() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let told: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    pool.set_max_size(4).unwrap();
    let conns: Vec<_> = told.iter().map(served).collect();
    assert_eq!(pool.stats().in_use, 4);
    drop((held, conns));
}

#[test]
fn p3_a_connection_that_fails_validation_is_replaced_for_the_waiter() {
    for failure in [Does::Fail, Does::Panic] {
        let server = Server::new();
        server.limit(2);
        let pool = builder(2).test_on_check_out(true).build(server.manager()).unwrap();
        let both = (pool.get().unwrap(), pool.get().unwrap());
        drop(both);
        server.next(Op::IsValid, failure.clone());
        server.next(Op::IsValid, failure);
        drop(pool.get().expect("both are dead, a third is opened"));
        server.check();
    }
}

#[test]
fn p3_a_returned_connection_serves_those_whose_open_hangs() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(2).max_opening(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let told = waiter(&pool, Duration::MAX);
    gate.await_entered(1);
    drop(held);
    drop(served(&told));
    gate.open();
}

#[test]
fn p3_a_hung_check_does_not_keep_the_other_connections_from_newcomers() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(3).test_on_check_out(true).build(server.manager()).unwrap();
    let all: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    drop(all);
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    let stuck = waiter(&pool, Duration::MAX);
    gate.await_entered(1);
    // Two are left, for two callers. Nobody else comes, and nobody returns one.
    let second = waiter_or_served(&pool);
    let first = served(&stuck);
    let Ok(second) = second.recv_timeout(Duration::from_secs(3)) else {
        panic!("it sleeps beside an idle connection: {}", pool.stats());
    };
    drop((first, second.unwrap()));
    gate.open();
}

fn waiter_or_served(
    pool: &Pool<Manager>,
) -> mpsc::Receiver<Result<PooledConnection<Manager>, Error>> {
    let (tell, told) = mpsc::channel();
    let here = pool.clone();
    thread::spawn(move || {
        let _ = tell.send(here.get_timeout(Duration::MAX));
    });
    told
}

#[test]
fn p3_trimmed_connections_are_opened_again_for_those_who_come_later() {
    let server = Server::new();
    server.limit(2);
    let pool = builder(2).idle_timeout(Some(ms(20))).build(server.manager()).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    eventually("both were trimmed", || server.live() == 0);
    assert_whole(&pool, &server);
    assert!(pool.stats().closed.idle_too_long >= 2);
}

#[test]
fn p3_resume_serves_all_who_came_while_paused() {
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    pool.pause();
    let told: Vec<_> = (0..2).map(|_| waiter(&pool, Duration::MAX)).collect();
    pool.resume();
    let conns: Vec<_> = told.iter().map(served).collect();
    drop(conns);
}

#[test]
fn p3_several_returns_at_once_serve_several_waiters() {
    for fairness in [Fairness::Strict, Fairness::Bounded(Duration::from_secs(60))] {
        let server = Server::new();
        let pool = builder(4).fairness(fairness).build(server.manager()).unwrap();
        for _ in 0..rounds(50) {
            let held: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
            let told: Vec<_> = (0..4).map(|_| waiter(&pool, Duration::MAX)).collect();
            drop(held);
            // Nobody returns: each return has to have woken one.
            let conns: Vec<_> = told.iter().map(served).collect();
            drop(conns);
        }
    }
}

// ---------------------------------------------------------------------------
// P4: no stranded waiter, no lost connection

#[test]
fn p4_ten_thousand_waiters_that_time_out_together_are_gone_at_once() {
    const WAITERS: usize = 10_000;
    let server = Server::new();
    server.limit(1);
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    // Chosen when all threads run, however long it took to start them.
    let start = Gate::new();
    // The end of 10,000 threads takes the machine longer than their timeouts do;
    // it has to wait until all are measured.
    let (end, out) = (Arc::new(RwLock::new(())), Arc::new(AtomicUsize::new(0)));
    let not_yet = end.write().unwrap();
    let deadline = Arc::new(OnceLock::new());
    let overshoot = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for _ in 0..WAITERS {
        let (pool, overshoot) = (pool.clone(), overshoot.clone());
        let (start, deadline) = (start.clone(), deadline.clone());
        let (end, out) = (end.clone(), out.clone());
        let wait = move || {
            start.pass();
            let deadline = *deadline.get().unwrap();
            let error = pool.request().deadline(deadline).get().map(drop).unwrap_err();
            let late = Instant::now().saturating_duration_since(deadline);
            assert!(error.is_timeout(), "{error}");
            overshoot.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            out.fetch_add(1, Ordering::Relaxed);
            drop(end.read());
        };
        match thread::Builder::new().stack_size(128 << 10).spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(_) => break, // as many as the machine lets us have
        }
    }
    let waiters = threads.len();
    assert!(waiters >= 1000, "only {waiters} threads");
    eventually("all threads run", || start.entered() == waiters);
    let deadline = *deadline.get_or_init(|| Instant::now() + Duration::from_secs(3));
    start.open();
    let mut together = 0;
    while Instant::now() < deadline {
        together = together.max(pool.stats().waiting);
        thread::sleep(ms(5));
    }
    assert!(together as usize > waiters / 2, "only {together} of {waiters} waited together");
    eventually("the queue is empty", || Instant::now() > deadline && pool.stats().waiting == 0);
    let emptied = Instant::now().saturating_duration_since(deadline);
    eventually("all are out", || out.load(Ordering::Relaxed) == waiters);
    drop(not_yet);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let worst = Duration::from_micros(overshoot.load(Ordering::Relaxed));
    println!(
        "{waiters} waiters ({together} of them in the queue at once): queue empty {emptied:?} \
         and last one out {worst:?} after the deadline"
    );
    assert!(worst < ms(10) * (waiters as u32 / 1000) + allowed_overshoot(), "{worst:?}");
    assert_eq!(pool.stats().timeouts, waiters as u64);
    drop(held);
    pool.get_timeout(Duration::ZERO).expect("idle again").touch();
    assert_whole(&pool, &server);
}

#[test]
fn p4_a_live_waiter_behind_thousands_that_left_is_served_at_once() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let token = CancelToken::new();
    thread::scope(|scope| {
        for _ in 0..1000 {
            let (pool, token) = (&pool, &token);
            let wait = move || {
                let error = pool.request().timeout(Duration::MAX).cancel(token).get().map(drop);
                assert!(error.unwrap_err().is_cancelled());
            };
            thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, wait).unwrap();
        }
        await_waiting(&pool, 1000);
        let told = waiter(&pool, Duration::MAX);
        let start = Instant::now();
        token.cancel();
        println!("1000 waiters cancelled in {:?}", start.elapsed());
        assert_eq!(pool.stats().waiting, 1, "cancel returns when they are out");
        drop(held);
        drop(served(&told));
    });
    assert_eq!(pool.stats().cancelled, 1000);
}

#[test]
fn p4_grants_that_race_with_timeouts_and_cancels_lose_no_connection() {
    const SIZE: u32 = 3;
    for fairness in [Fairness::Strict, Fairness::default()] {
        let server = Server::new();
        server.limit(SIZE);
        let pool = builder(SIZE).fairness(fairness).build(server.manager()).unwrap();
        let [got, timed_out, cancelled] = [const { AtomicU64::new(0) }; 3];
        let end = Instant::now() + ms(100) * rounds(8).min(100) as u32;
        thread::scope(|scope| {
            for number in 0..16u64 {
                let (pool, got, timed_out, cancelled) = (&pool, &got, &timed_out, &cancelled);
                scope.spawn(move || {
                    let mut random = number + 1;
                    while Instant::now() < end {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let timeout = Duration::from_micros(random % 300);
                        let token = CancelToken::new();
                        let request = pool.request().timeout(timeout).cancel(&token);
                        let result = if random & 1024 == 0 {
                            thread::scope(|inner| {
                                inner.spawn(|| token.cancel());
                                request.get()
                            })
                        } else {
                            request.get()
                        };
                        match result {
                            Ok(mut conn) => {
                                got.fetch_add(1, Ordering::Relaxed);
                                conn.touch();
                                if random & 0xf000 == 0 {
                                    PooledConnection::mark_broken(&mut conn);
                                }
                                if random & 0x30000 == 0 {
                                    thread::sleep(Duration::from_micros(random % 200));
                                }
                            }
                            Err(error) if error.is_timeout() => {
                                timed_out.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                assert!(error.is_cancelled(), "{error}");
                                cancelled.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let stats = pool.stats();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        println!("{fairness:?}: {stats}");
        assert!(load(&got) > 0 && load(&timed_out) > 0 && load(&cancelled) > 0, "{stats:?}");
        assert_eq!(stats.gets, load(&got), "P12");
        assert_eq!(stats.timeouts, load(&timed_out), "P12");
        assert_eq!(stats.cancelled, load(&cancelled), "P12");
        assert_eq!((stats.in_use, stats.waiting), (0, 0), "{stats:?}");
        assert_whole(&pool, &server);
        let report = pool.close(Instant::now() + WATCHDOG);
        assert!(report.is_complete(), "{report}");
        assert_eq!(server.live(), 0);
        assert_eq!(pool.stats().opened, pool.stats().closed.total(), "P12");
    }
}

#[test]
fn p4_waiters_of_a_pool_that_closes_leave_at_once() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let told: Vec<_> = (0..20).map(|_| waiter(&pool, Duration::MAX)).collect();
    pool.close(Instant::now());
    for told in told {
        let error = told.recv_timeout(WATCHDOG).expect("woken").map(drop).unwrap_err();
        assert!(error.is_closed(), "{error}");
    }
    assert_eq!(pool.stats().waiting, 0);
    drop(held);
}

// ---------------------------------------------------------------------------
// P5: capacity is conserved

#[test]
fn p5_a_pool_whose_every_connect_hangs_serves_when_the_server_does() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(3).open_timeout(ms(20)).build(server.manager()).unwrap();
    let told: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    gate.await_entered(5);
    eventually("hung calls are listed", || pool.stats().abandoned >= 3);
    server.on(Op::Connect, Does::Succeed); // new attempts succeed; the old ones hang on
    let conns: Vec<_> = told.iter().map(served).collect();
    let hung = pool.stats().abandoned;
    assert!(hung >= 3, "{hung}");
    gate.open(); // late results find no room
    eventually("nothing is left of them", || pool.stats().abandoned == 0 && server.live() == 3);
    drop(conns);
    server.limit(3);
    assert_whole(&pool, &server);
}

#[test]
fn p5_a_late_connection_is_taken_in_if_there_is_room() {
    let (server, late, never) = (Server::new(), Gate::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(late.clone()));
    server.on(Op::Connect, Does::Hang(never.clone()));
    let pool = builder(2).open_timeout(ms(30)).max_abandoned(1).build(server.manager()).unwrap();
    let told = waiter(&pool, Duration::MAX);
    eventually("it is abandoned", || pool.stats().abandoned == 1);
    late.open();
    drop(served(&told));
    assert_eq!(server.live(), 1);
    never.open();
}

#[test]
fn p5_a_late_validation_gives_its_connection_back_or_closes_it() {
    for outcome in [Does::Succeed, Does::Fail, Does::Panic] {
        let (server, gate) = (Server::new(), Gate::new());
        let pool = builder(1)
            .test_on_check_out(true)
            .validation_timeout(ms(30))
            .build(server.manager())
            .unwrap();
        drop(pool.get().unwrap());
        server.next(Op::IsValid, Does::Hang(gate.clone()));
        let conn = pool.get().expect("another is opened in its place");
        assert_eq!(pool.stats().abandoned, 1);
        gate.open_with(outcome.clone());
        eventually("it is closed, since its place is taken", || {
            pool.stats().abandoned == 0 && server.live() == 1
        });
        drop(conn);
        server.limit(1);
        assert_whole(&pool, &server);
    }
}

#[test]
fn p5_a_pool_whose_every_close_hangs_serves_on() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Close, Does::Hang(gate.clone()));
    let pool = builder(2).close_timeout(ms(20)).build(server.manager()).unwrap();
    for _ in 0..4 {
        let both = (pool.get().expect("served"), pool.get().expect("served"));
        PooledConnection::discard(both.0);
        PooledConnection::discard(both.1);
    }
    eventually("all are listed", || pool.stats().abandoned == 8);
    gate.open();
    eventually("all are gone", || pool.stats().abandoned == 0 && server.live() == 0);
    server.limit(2);
    server.on(Op::Close, Does::Succeed);
    assert_whole(&pool, &server);
}

#[test]
fn p5_a_reset_that_hangs_is_abandoned() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).reset_timeout(ms(30)).build(server.manager()).unwrap();
    server.next(Op::NeedsReset, Does::Fail);
    server.next(Op::Reset, Does::Hang(gate.clone()));
    drop(pool.get().unwrap());
    drop(pool.get().expect("another is opened in its place"));
    gate.open();
    eventually("nothing hangs", || pool.stats().abandoned == 0);
    server.limit(1);
    eventually("one is left", || server.live() == 1);
    assert_whole(&pool, &server);
}

#[test]
fn p5_past_the_cap_of_abandoned_calls_a_hung_connect_costs_its_slot_only() {
    let (server, gate) = (Server::new(), Gate::new());
    // Two attempts hang for ever; the server is well again after that.
    server.next(Op::Connect, Does::Hang(gate.clone()));
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(4).max_abandoned(1).open_timeout(ms(20)).build(server.manager()).unwrap();
    let told = waiter(&pool, Duration::MAX);
    gate.await_entered(2);
    thread::sleep(ms(30));
    // One is abandoned, the other overran and counts: three places are free.
    match told.recv_timeout(Duration::from_secs(3)) {
        Ok(conn) => drop(conn.expect("served")),
        Err(_) => panic!("the last opener is lost to the driver: {}", pool.stats()),
    }
    gate.open();
}

#[test]
fn p5_abandoned_calls_are_capped() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Close, Does::Hang(gate.clone()));
    let pool = builder(2).close_timeout(ms(5)).max_abandoned(3).build(server.manager()).unwrap();
    for _ in 0..5 {
        PooledConnection::discard(pool.get().expect("served"));
    }
    gate.await_entered(5);
    thread::sleep(ms(30));
    let stats = pool.stats();
    assert_eq!((stats.abandoned, stats.closing), (3, 2), "{stats:?}");
    assert!(pool.get_timeout(ms(10)).is_err(), "the server has five");
    gate.open();
    server.on(Op::Close, Does::Succeed);
    assert_whole(&pool, &server);
}

#[test]
fn p5_no_failure_loses_a_slot_or_opens_one_too_many() {
    const SIZE: u32 = 3;
    let server = Server::new();
    server.limit(SIZE);
    let pool = builder(SIZE).test_on_check_out(true).build(server.manager()).unwrap();
    let end = Instant::now() + ms(1500);
    thread::scope(|scope| {
        scope.spawn(|| {
            let faults = [Does::Fail, Does::Panic, Does::Take(ms(1))];
            let ops = [Op::Connect, Op::IsValid, Op::Reset, Op::HasBroken, Op::NeedsReset];
            let mut round = 0;
            while Instant::now() < end {
                let fault = faults[round % faults.len()].clone();
                server.next(ops[round % ops.len()], fault.clone());
                if !matches!(fault, Does::Fail) {
                    server.next(Op::Close, fault);
                }
                server.next(Op::NeedsReset, Does::Fail);
                round += 1;
                thread::sleep(Duration::from_micros(300));
            }
        });
        for _ in 0..6 {
            scope.spawn(|| {
                while Instant::now() < end {
                    pool.get().expect("served in time").touch();
                }
            });
        }
    });
    println!("{:?}", pool.stats());
    assert_whole(&pool, &server);
    assert_eq!(server.peak(), SIZE as usize);
}

#[test]
fn p5_shrinking_and_growing_under_load_keeps_to_the_larger_size() {
    let server = Server::new();
    server.limit(6);
    let pool = builder(6).build(server.manager()).unwrap();
    let end = Instant::now() + ms(800);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut size = 0;
            while Instant::now() < end {
                size = size % 6 + 1;
                pool.set_max_size(size).unwrap();
                thread::sleep(ms(1));
            }
        });
        for _ in 0..8 {
            scope.spawn(|| {
                while Instant::now() < end {
                    pool.get().expect("served in time").touch();
                }
            });
        }
    });
    pool.set_max_size(2).unwrap();
    eventually("it has shrunk", || server.live() <= 2);
    server.limit(2);
    assert_whole(&pool, &server);
}

// ---------------------------------------------------------------------------
// P6: closing blocks nobody

#[test]
fn p6_many_slow_closes_go_side_by_side_and_nobody_waits_for_them() {
    const CLOSES: u32 = 20;
    const EACH: Duration = ms(50);
    let server = Server::new();
    let pool = builder(CLOSES + 1).max_closers(4).build(server.manager()).unwrap();
    let kept = pool.get().unwrap();
    let doomed: Vec<_> = (0..CLOSES).map(|_| pool.get().unwrap()).collect();
    let gate = Gate::new();
    server.on(Op::Close, Does::Hang(gate.clone()));
    let start = Instant::now();
    doomed.into_iter().for_each(PooledConnection::discard);
    let returned = start.elapsed();
    drop(kept);
    gate.await_entered(4);
    (0..100).for_each(|_| drop(pool.get().unwrap()));
    assert_eq!((gate.entered(), pool.stats().closing), (4, CLOSES), "as many as asked for");
    let start = Instant::now();
    gate.open_with(Does::Take(EACH));
    let mut slowest = Duration::ZERO;
    while pool.stats().closing > 0 {
        let step = Instant::now();
        drop(pool.get().unwrap());
        slowest = slowest.max(step.elapsed());
        assert!(start.elapsed() < WATCHDOG);
    }
    let took = start.elapsed();
    println!(
        "{CLOSES} closes of {EACH:?} by 4 closers: {took:?} (ideal {:?}); returning all took \
         {returned:?}; slowest get and return meanwhile {slowest:?}",
        EACH * CLOSES / 4
    );
    for thread in server.threads(Op::Close) {
        assert!(thread.contains("-worker-"), "closed on '{thread}'");
    }
}

#[test]
fn p6_no_driver_call_but_has_broken_runs_on_a_callers_thread() {
    let server = Server::new();
    let pool = builder(2)
        .name("p6-off")
        .test_on_check_out(true)
        .idle_timeout(Some(ms(20)))
        .build(server.manager())
        .unwrap();
    server.next(Op::NeedsReset, Does::Fail);
    for _ in 0..3 {
        drop(pool.get().unwrap());
    }
    PooledConnection::discard(pool.get().unwrap());
    drop(pool.get().unwrap());
    eventually("the idle one is trimmed", || server.live() == 0);
    drop(pool.get().unwrap());
    pool.close(Instant::now() + WATCHDOG);
    for op in [Op::Connect, Op::IsValid, Op::Reset, Op::Close] {
        let threads = server.threads(op);
        assert!(!threads.is_empty(), "{op:?} was never called");
        for thread in threads {
            assert!(thread.starts_with("p6-off-worker-"), "{op:?} on '{thread}'");
        }
    }
    server.check();
}

#[test]
fn p6_a_hung_close_delays_neither_returns_nor_other_closes() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(4).max_closers(2).build(server.manager()).unwrap();
    let all: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    server.next(Op::Close, Does::Hang(gate.clone()));
    let first = gate.clone();
    watched("the returns", move || {
        let mut all = all.into_iter();
        PooledConnection::discard(all.next().unwrap());
        first.await_entered(1);
        all.for_each(PooledConnection::discard);
    });
    eventually("the others are closed", || server.live() == 1);
    drop(pool.get().expect("there is room for three"));
    gate.open();
}

// ---------------------------------------------------------------------------
// P7: closed once

#[test]
fn p7_every_connection_is_closed_exactly_once_whatever_ends_it() {
    let server = Server::new();
    let pool = builder(4).max_idle(Some(2)).build(server.manager()).unwrap();
    for _ in 0..20 {
        let all: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
        let refresher = {
            let pool = pool.clone();
            thread::spawn(move || pool.refresh())
        };
        for (number, mut conn) in all.into_iter().enumerate() {
            if number % 2 == 0 {
                PooledConnection::mark_broken(&mut conn);
            }
            drop(conn);
        }
        refresher.join().unwrap();
    }
    let closers: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || pool.close(Instant::now() + WATCHDOG))
        })
        .collect();
    for closer in closers {
        let report = closer.join().unwrap();
        assert!(report.is_complete(), "{report}");
    }
    assert_eq!(server.live(), 0);
    assert_eq!(server.calls(Op::Close), server.calls(Op::Connect));
    server.check();
}

// ---------------------------------------------------------------------------
// P8: a bounded queue

#[test]
fn p8_one_waiter_too_many_is_refused_at_once() {
    let server = Server::new();
    let pool = builder(1).max_waiters(Some(2)).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let told = [waiter(&pool, Duration::MAX), waiter(&pool, Duration::MAX)];
    let start = Instant::now();
    let error = pool.get_timeout(WATCHDOG).map(drop).unwrap_err();
    assert!(error.is_queue_full(), "{error}");
    assert_eq!(error.kind(), ErrorKind::QueueFull);
    assert!(start.elapsed() < allowed_overshoot());
    assert!(error.to_string().contains("2 other callers wait"), "{error}");
    assert_eq!(pool.stats().refused, 1);
    drop(held);
    told.iter().for_each(|told| drop(served(told)));
    assert!(pool.get().is_ok(), "the queue has room again");
}

#[test]
fn p8_callers_are_not_refused_beside_idle_connections() {
    // All connections are due for a check, as after half a second of quiet.
    let (server, gate) = (Server::new(), Gate::new());
    let pool =
        builder(4).test_on_check_out(true).max_waiters(Some(1)).build(server.manager()).unwrap();
    let all: Vec<_> =
        (0..4).map(|_| pool.get().expect("a pool that is not full refuses nobody")).collect();
    drop(all);
    server.on(Op::IsValid, Does::Hang(gate.clone()));
    let told = waiter(&pool, Duration::MAX);
    gate.await_entered(1);
    // Three are idle; one caller waits, and not for want of a connection.
    let second = waiter_or_served(&pool);
    let refused = second.recv_timeout(ms(200));
    gate.open();
    if let Ok(Err(error)) = refused {
        panic!("refused beside idle connections: {error}");
    }
    drop(served(&told));
}

// ---------------------------------------------------------------------------
// P9: errors explain

#[test]
fn p9_every_waiter_gets_the_typed_connect_error() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(2).build(server.manager()).unwrap();
    let told: Vec<_> = (0..6).map(|_| waiter(&pool, ms(150))).collect();
    for told in told {
        let error = told.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert!(error.is_timeout());
        assert!(error.waited() >= ms(150));
        let source = error.source().unwrap_or_else(|| panic!("no cause: {error}"));
        let cause = source.downcast_ref::<StubError>().expect("the manager's own type");
        assert!(matches!(cause, StubError::Refused(_)), "{cause}");
        assert!(error.to_string().contains(&cause.to_string()), "{error}");
    }
}

#[test]
fn p9_a_permanent_connect_error_ends_every_wait_at_once() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let told: Vec<_> = (0..4).map(|_| waiter(&pool, Duration::MAX)).collect();
    gate.open_with(Does::FailForGood);
    for told in told {
        let error = told.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
        assert_eq!(cause, Some(&StubError::WrongPassword));
    }
    eventually("a later attempt succeeds", || pool.get().is_ok());
}

#[test]
fn p9_between_attempts_a_permanent_connect_error_is_told_at_once() {
    let server = Server::new();
    server.on(Op::Connect, Does::FailForGood);
    let backoff = Duration::from_secs(600);
    let pool = builder(1).connect_backoff(backoff, backoff).build(server.manager()).unwrap();
    for limit in [WATCHDOG, WATCHDOG, ms(20), Duration::ZERO] {
        let error = pool.get_timeout(limit).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
        assert_eq!(cause, Some(&StubError::WrongPassword), "{error}");
    }
    assert_eq!(server.calls(Op::Connect), 1, "the others did not wait for an attempt");
}

#[test]
fn p9_a_permanent_connect_error_leaves_alone_who_can_be_served_by_a_return() {
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    server.on(Op::Connect, Does::FailForGood);
    let told = waiter(&pool, Duration::MAX);
    eventually("it failed twice", || server.calls(Op::Connect) > 2);
    assert!(told.try_recv().is_err());
    drop(held);
    drop(served(&told));
}

#[test]
fn p9_a_timeout_says_where_all_connections_are_and_who_holds_one_longest() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(5).name("orders").max_opening(1).build(server.manager()).unwrap();
    let line = Arc::new(AtomicUsize::new(0));
    let (tell, told) = mpsc::channel();
    let holder = {
        let (pool, line) = (pool.clone(), line.clone());
        thread::Builder::new().name("the-hoarder".into()).spawn(move || {
            line.store(line!() as usize + 1, Ordering::SeqCst);
            tell.send(pool.request().label("report").get()).unwrap();
        })
    };
    let hoarded = told.recv_timeout(WATCHDOG).unwrap().unwrap();
    holder.unwrap().join().unwrap();
    thread::sleep(ms(5));
    let later = pool.get().unwrap();
    let doomed = pool.get().unwrap();
    server.on(Op::Close, Does::Hang(gate.clone()));
    server.on(Op::Connect, Does::Hang(gate.clone()));
    PooledConnection::discard(doomed);
    gate.await_entered(1);
    let other = waiter(&pool, Duration::MAX);
    gate.await_entered(2);
    let error = pool.get_timeout(ms(20)).map(drop).unwrap_err();
    let text = error.to_string();
    println!("{text}");
    assert!(error.waited() >= ms(20), "{text}");
    let waited = format!("timed out after {:.1?}", error.waited());
    for part in [
        waited.as_str(),
        "pool 'orders' of at most 5",
        "0 idle",
        "2 in use",
        "1 opening",
        "1 closing",
        "1 other caller waits",
        "thread 'the-hoarder'",
        "promises.rs",
        "report",
    ] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    let longest = error.longest_holder().expect("two hold connections");
    assert_eq!(longest.thread(), "the-hoarder");
    assert_eq!(longest.label(), Some("report"));
    assert_eq!(longest.location().line() as usize, line.load(Ordering::SeqCst));
    assert!(longest.held_for() >= ms(25), "{longest}");
    assert!(error.source().is_none(), "nothing failed: {text}");
    gate.open();
    drop((hoarded, later));
    drop(served(&other));
}

#[test]
fn p9_a_stale_cause_is_not_shown() {
    let server = Server::new();
    server.next(Op::Connect, Does::Fail);
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().expect("the second attempt succeeds");
    let error = pool.get_timeout(ms(20)).map(drop).unwrap_err();
    assert!(error.source().is_none(), "the failure was cured: {error:?}");

    // Not cured, but before this wait: what it is waiting for is a return.
    let doomed = held;
    pool.set_max_size(2).unwrap();
    server.on(Op::Connect, Does::Fail);
    let error = pool.get_timeout(ms(30)).map(drop).unwrap_err();
    assert!(error.source().is_some(), "{error:?}");
    pool.set_max_size(1).unwrap();
    eventually("no attempt is under way", || pool.stats().opening == 0);
    let error = pool.get_timeout(ms(30)).map(drop).unwrap_err();
    assert!(error.source().is_none(), "of an earlier wait: {error:?}");
    drop(doomed);
}

#[test]
fn p9_a_timeout_says_for_how_long_a_call_has_been_slow() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(20)).map(drop).unwrap_err();
    assert!(!error.to_string().contains("so far"), "not slow yet: {error}");
    let error = pool.get_timeout(ms(400)).map(drop).unwrap_err();
    assert!(error.to_string().contains(", connecting for "), "{error}");
    gate.open();

    let gate = Gate::new();
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    let error = pool.get_timeout(ms(400)).map(drop).unwrap_err();
    assert!(error.to_string().contains(", a check runs for "), "{error}");
    gate.open();
}

#[test]
fn p9_a_failed_check_is_a_typed_cause_until_a_connect_succeeds() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.next(Op::IsValid, Does::Fail);
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let error = pool.get_timeout(ms(100)).map(drop).unwrap_err();
    let cause = error.source().and_then(|source| source.downcast_ref::<StubError>());
    assert_eq!(cause, Some(&StubError::Invalid), "{error}");
    gate.open();
}

#[test]
fn p9_a_panic_in_connect_is_the_cause_that_waiters_see() {
    let server = Server::new();
    server.on(Op::Connect, Does::Panic);
    let pool = builder(1).build(server.manager()).unwrap();
    let error = pool.get_timeout(ms(50)).map(drop).unwrap_err();
    assert!(error.to_string().contains("a scripted panic"), "{error}");
    let error = builder(1)
        .min_idle(None)
        .connection_timeout(ms(50))
        .build(server.manager())
        .map(drop)
        .unwrap_err();
    assert!(error.is_timeout());
    assert!(error.to_string().contains("a scripted panic"), "{error}");
}

// ---------------------------------------------------------------------------
// P10: panics are contained

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
        // Only once, else nobody could ever be served.
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

/// Fails in `on_acquire`, once, in the way given.
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
        // Two panics one inside the other would end the process.
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
        assert_ne!(pool.get().unwrap().id, id, "{op:?}: nobody knows in what state it is");
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
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
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
    let detach = std::panic::AssertUnwindSafe(|| PooledConnection::detach(conn));
    let detached = std::panic::catch_unwind(detach);
    assert!(detached.is_ok(), "the panic reaches whoever detaches");
    let again = pool.get_timeout(ms(500));
    assert!(again.is_ok(), "after a detach: {}", pool.stats());
}

/// An error whose destructor panics, or asks the pool.
struct Touchy {
    on_drop: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Touchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Touchy")
    }
}

impl std::fmt::Display for Touchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

// ---------------------------------------------------------------------------
// P11: shutdown ends

#[test]
fn p11_close_wakes_waiters_waits_for_holders_and_ends_the_threads() {
    let server = Server::new();
    let pool = builder(2).name("p11-all").build(server.manager()).unwrap();
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    let told: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    assert!(threads_named("p11-all") > 0);
    let closing = {
        let pool = pool.clone();
        thread::spawn(move || pool.close(Instant::now() + WATCHDOG))
    };
    for told in told {
        let error = told.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert!(error.is_closed(), "{error}");
    }
    let error = pool.get().map(drop).unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(pool.try_get().is_none());
    held.iter().for_each(|conn| conn.touch());
    assert!(!closing.is_finished(), "two are still out");
    drop(held);
    let report = closing.join().unwrap();
    assert!(report.is_complete(), "{report}");
    assert!(report.elapsed < WATCHDOG, "{report}");
    assert_eq!(server.live(), 0);
    // A thread that was joined may be listed for a moment longer.
    eventually("no thread is left", || threads_named("p11-all") == 0);
    let again = pool.close(Instant::now());
    assert!(again.is_complete(), "{again}");
    server.check();
}

/// Left alone, a free worker ends by itself after two seconds.
#[test]
fn p11_idle_threads_end_at_once_when_the_pool_is_closed() {
    let soon = (0..5).any(|_| {
        let server = Server::new();
        let pool = builder(2).build(server.manager()).unwrap();
        drop(pool.get().unwrap());
        let report = pool.close(Instant::now() + WATCHDOG);
        assert!(report.is_complete(), "{report}");
        report.elapsed < ms(1000)
    });
    assert!(soon, "five pools at rest took a second each to close");
}

#[test]
fn p11_close_names_the_holders_that_never_return() {
    let server = Server::new();
    let pool = builder(3).name("p11-held").build(server.manager()).unwrap();
    let hoard = {
        let pool = pool.clone();
        let get = move || pool.request().label("nightly").get().unwrap();
        thread::Builder::new().name("hoarder".into()).spawn(get).unwrap().join().unwrap()
    };
    thread::sleep(ms(5));
    let line = line!() + 1;
    let mine = pool.get().unwrap();
    let start = Instant::now();
    let report = pool.close(Instant::now() + ms(50));
    let took = start.elapsed();
    assert!(took >= ms(50) && took < ms(50) + allowed_overshoot(), "{took:?}");
    assert!(!report.is_complete());
    let holders: Vec<_> = report.holders.iter().map(|h| (h.thread(), h.label())).collect();
    assert_eq!(holders.len(), 2, "{report}");
    assert_eq!(holders[0], ("hoarder", Some("nightly")), "longest first");
    assert_eq!(report.holders[1].location().line(), line);
    let text = report.to_string();
    assert!(text.contains("hoarder") && text.contains("promises.rs"), "{text}");
    drop((hoard, mine));
    eventually("it ends in the background", || {
        server.live() == 0 && threads_named("p11-held") == 0
    });
}

#[test]
fn p11_close_ends_at_its_deadline_beside_a_driver_that_hangs() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(3)
        .name("p11-hung")
        .close_timeout(ms(10))
        .open_timeout(ms(10))
        .build(server.manager())
        .unwrap();
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    server.on(Op::Close, Does::Hang(gate.clone()));
    server.on(Op::Connect, Does::Hang(gate.clone()));
    assert!(pool.get_timeout(ms(1)).is_err());
    gate.await_entered(1);
    drop(held);
    let there = pool.clone();
    let (report, took) = watched("close", move || {
        let start = Instant::now();
        (there.close(start + ms(60)), start.elapsed())
    });
    assert!(took < ms(60) + allowed_overshoot(), "{took:?}");
    assert!(!report.is_complete());
    assert_eq!(report.abandoned, 3, "{report}");
    assert_eq!(report.threads, 3, "{report}");
    gate.open();
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
    assert_eq!(server.live(), 0);
    eventually("no thread is left", || threads_named("p11-hung") == 0);
    server.check();
}

/// Its destructor runs when a thread of the pool has done its work and ends.
struct SlowToLeave;

impl Drop for SlowToLeave {
    fn drop(&mut self) {
        thread::sleep(Duration::from_secs(3));
    }
}

struct ThreadLocalManager;

impl ManageConnection for ThreadLocalManager {
    type Connection = ();
    type Error = std::convert::Infallible;

    fn connect(&self) -> Result<(), Self::Error> {
        thread_local! {
            static LOCAL: SlowToLeave = const { SlowToLeave };
        }
        LOCAL.with(|_| ());
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

#[test]
fn p11_close_does_not_wait_past_its_deadline_for_a_thread_to_end() {
    let pool = Pool::builder().max_size(1).build(ThreadLocalManager).unwrap();
    let start = Instant::now();
    let report = pool.close(start + ms(100));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}: {report}", start.elapsed());
    assert!(!report.is_complete() && report.threads == 1, "{report}");
}

#[test]
fn p3_a_connect_that_hangs_costs_the_next_caller_little() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(4).min_idle(Some(0)).build(server.manager()).unwrap();
    let start = Instant::now();
    drop(pool.get_timeout(WATCHDOG).expect("another is opened beside the one that hangs"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    gate.open();
}

#[test]
fn p10_a_use_that_panicked_is_checked_once() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    let panics = || PooledConnection::run(&mut conn, |_| -> Result<(), _> { silent_panic() });
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    drop(conn); // Not unwinding any more: the guard itself survived.
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), 1, "it was in the middle of something");
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), 1, "only once");
}

#[test]
fn p11_dropping_the_last_handle_closes_in_the_background_without_blocking() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(3).name("p11-drop").build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    drop(pool.get().unwrap());
    server.on(Op::Close, Does::Hang(gate.clone()));
    let clone = pool.clone();
    drop(pool);
    assert!(clone.get_timeout(Duration::ZERO).is_ok(), "a handle is left");
    watched("drop of the last handle", move || drop(clone));
    gate.await_entered(1); // the idle one is being closed
    held.touch();
    watched("a return to a pool that is gone", move || drop(held));
    gate.await_entered(2);
    gate.open();
    eventually("all is gone", || server.live() == 0 && threads_named("p11-drop") == 0);
    server.check();
}

#[test]
fn p11_a_pool_that_could_not_be_built_leaves_nothing_behind() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    server.next(Op::Connect, Does::Succeed);
    let error = builder(2)
        .name("p11-unbuilt")
        .min_idle(None)
        .connection_timeout(ms(50))
        .build(server.manager())
        .map(drop)
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
    eventually("all is gone", || server.live() == 0 && threads_named("p11-unbuilt") == 0);
}

/// Closes the pool from every hook, or drops a last handle there.
#[derive(Clone)]
struct FromInside {
    pool: Arc<Mutex<Option<Pool<Manager>>>>,
    on: &'static str,
    close: bool,
}

impl std::fmt::Debug for FromInside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FromInside")
    }
}

impl FromInside {
    fn act(&self, on: &'static str) {
        if self.on != on {
            return;
        }
        let Some(pool) = lock(&self.pool).take() else { return };
        if self.close {
            let report = pool.close(Instant::now() + ms(30));
            assert!(report.elapsed < WATCHDOG);
        }
        drop(pool);
    }
}

impl HandleEvent for FromInside {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.act("acquire");
    }
    fn handle_release(&self, _: ReleaseEvent) {
        self.act("release");
    }
    fn handle_checkout(&self, _: CheckoutEvent) {
        self.act("checkout");
    }
    fn handle_timeout(&self, _: TimeoutEvent) {
        self.act("timeout");
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        self.act("checkin");
    }
}

#[test]
fn p11_a_pool_can_be_closed_or_dropped_from_inside_its_hooks() {
    for close in [false, true] {
        for on in ["acquire", "release", "checkout", "timeout", "checkin"] {
            let server = Server::new();
            let hook = FromInside { pool: Arc::default(), on, close };
            let pool = builder(1)
                .name("p11-in")
                .event_handler(Box::new(hook.clone()))
                .build(server.manager())
                .unwrap();
            *lock(&hook.pool) = Some(pool.clone());
            watched(on, move || {
                if let Ok(conn) = pool.get() {
                    let timed_out = pool.get_timeout(ms(1));
                    assert!(timed_out.is_err());
                    PooledConnection::discard(conn);
                }
            });
            eventually("all is gone", || server.live() == 0 && threads_named("p11-in") == 0);
            assert!(lock(&hook.pool).is_none(), "{on} was not called");
            server.check();
        }
    }
}

#[test]
fn p11_a_pool_at_rest_has_one_thread_at_most() {
    let server = Server::new();
    let pool = builder(4).name("p11-rest").min_idle(Some(4)).build(server.manager()).unwrap();
    let held: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    held.into_iter().for_each(PooledConnection::discard);
    eventually("the workers have ended", || threads_named("p11-rest") <= 1);
    assert_eq!(server.live(), 4);
}

// ---------------------------------------------------------------------------
// P12: always on

#[test]
fn p12_the_counters_add_up_after_a_hammering() {
    const SIZE: u32 = 3;
    let server = Server::new();
    let pool = builder(SIZE)
        .max_waiters(Some(6))
        .max_idle(Some(2))
        .max_lifetime(Some(ms(60)))
        .build(server.manager())
        .unwrap();
    let [got, timed_out, refused, detached] = [const { AtomicU64::new(0) }; 4];
    let end = Instant::now() + ms(1200);
    thread::scope(|scope| {
        for number in 0..12usize {
            let (pool, server) = (&pool, &server);
            let (got, timed_out, refused, detached) = (&got, &timed_out, &refused, &detached);
            scope.spawn(move || {
                let mut round = number;
                while Instant::now() < end {
                    round += 1;
                    match pool.get_timeout(Duration::from_micros(round as u64 % 1000)) {
                        Ok(conn) => {
                            let count = got.fetch_add(1, Ordering::Relaxed);
                            if count.is_multiple_of(50) {
                                server.next(Op::Connect, Does::Fail);
                                server.next(Op::HasBroken, Does::Fail);
                            }
                            if count.is_multiple_of(70) {
                                pool.refresh();
                            }
                            if count.is_multiple_of(30) {
                                detached.fetch_add(1, Ordering::Relaxed);
                                drop(PooledConnection::detach(conn));
                            } else if count.is_multiple_of(3) {
                                thread::sleep(Duration::from_micros(100));
                            }
                        }
                        Err(error) if error.is_timeout() => {
                            timed_out.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert!(error.is_queue_full(), "{error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_micros(100));
                        }
                    }
                }
            });
        }
    });
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    eventually("it is at rest", || {
        let stats = pool.stats();
        stats.opening + stats.closing + stats.in_use == 0
    });
    let stats = pool.stats();
    println!("{stats:?}");
    assert_eq!(stats.gets, load(&got));
    assert_eq!(stats.timeouts, load(&timed_out));
    assert_eq!(stats.refused, load(&refused));
    assert_eq!(stats.closed.detached, load(&detached));
    assert!(stats.gets_waited <= stats.gets);
    assert!(stats.time_waited > Duration::ZERO);
    assert_eq!(stats.opened + stats.open_failures, server.calls(Op::Connect) as u64);
    assert_eq!(stats.opened, stats.closed.total() + u64::from(stats.open), "{stats:?}");
    assert_eq!(server.calls(Op::Close) as u64, stats.closed.total());
    assert_eq!(server.live() as u32, stats.open);
    pool.close(Instant::now() + WATCHDOG);
    let stats = pool.stats();
    assert_eq!(stats.opened, stats.closed.total(), "{stats:?}");
}

#[test]
fn p12_the_counters_add_up_after_late_connects() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).open_timeout(ms(20)).build(server.manager()).unwrap();
    let held = pool.get().expect("the second attempt succeeds");
    gate.open();
    eventually("the late one is closed", || {
        pool.stats().abandoned == 0 && server.calls(Op::Close) == 1
    });
    let stats = pool.stats();
    assert_eq!(stats.opened, stats.closed.total() + u64::from(stats.open), "{stats:?}");
    drop(held);
}

#[test]
fn p12_the_counters_add_up_after_late_validations() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1)
        .test_on_check_out(true)
        .validation_timeout(ms(20))
        .build(server.manager())
        .unwrap();
    drop(pool.get().unwrap());
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    assert!(pool.get_timeout(ms(1)).is_err());
    eventually("it is abandoned", || pool.stats().abandoned == 1);
    gate.open(); // valid after all, and there is room
    eventually("it is taken in", || pool.stats().abandoned == 0);
    eventually("nothing is under way", || {
        let stats = pool.stats();
        stats.opening + stats.closing + stats.checking == 0
    });
    let stats = pool.stats();
    assert_eq!(stats.opened, stats.closed.total() + u64::from(stats.open), "{stats:?}");
}

#[test]
fn p12_waits_are_counted_whatever_comes_of_them() {
    // A grant, and a claim after a nudge: both are gets that waited.
    for fairness in [Fairness::Strict, Fairness::Bounded(Duration::from_secs(60))] {
        let server = Server::new();
        let pool = builder(1).fairness(fairness).build(server.manager()).unwrap();
        let held = pool.get().unwrap();
        let before = pool.stats().time_waited;
        assert!(pool.get_timeout(ms(30)).is_err());
        let after = pool.stats();
        assert!(after.time_waited - before >= ms(30), "{after:?}");
        let told = waiter(&pool, Duration::MAX);
        drop(held);
        drop(served(&told));
        assert_eq!(pool.stats().gets_waited, after.gets_waited + 1, "{fairness:?}");
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().gets_waited, after.gets_waited + 1, "it did not wait");
    }
}

// ---------------------------------------------------------------------------
// Rule 2 of the house: nothing foreign runs under the lock

#[derive(Clone, Default)]
struct Nosy(Arc<Mutex<Option<Pool<Manager>>>>, Arc<AtomicUsize>);

impl std::fmt::Debug for Nosy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nosy")
    }
}

impl Nosy {
    fn ask(&self) {
        let pool = lock(&self.0).clone();
        if let Some(pool) = pool {
            let _ = (pool.stats(), pool.state(), pool.max_size());
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.ask();
    }
}

impl HandleEvent for Nosy {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.ask();
    }
    fn handle_release(&self, _: ReleaseEvent) {
        self.ask();
    }
    fn handle_checkout(&self, _: CheckoutEvent) {
        self.ask();
    }
    fn handle_timeout(&self, _: TimeoutEvent) {
        self.ask();
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        self.ask();
    }
}

impl HandleError<StubError> for Nosy {
    fn inspect_error(&self, _: &StubError) -> bool {
        self.ask();
        false
    }
    fn handle_error(&self, _: StubError) {
        self.ask();
    }
}

impl CustomizeConnection<Conn, StubError> for Nosy {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), StubError> {
        self.ask();
        Ok(())
    }
    fn on_release(&self, conn: Conn) {
        self.ask();
        drop(conn);
    }
}

#[test]
fn p6_no_driver_call_hook_or_destructor_runs_under_the_lock() {
    let server = Server::new();
    let nosy = Nosy::default();
    let seen: Arc<Mutex<Vec<Op>>> = Arc::default();
    let pool = builder(3)
        .test_on_check_out(true)
        .keepalive(Some(ms(5)))
        .idle_timeout(Some(ms(50)))
        .max_lifetime(Some(ms(80)))
        .event_handler(Box::new(nosy.clone()))
        .error_handler(Box::new(nosy.clone()))
        .connection_customizer(Box::new(nosy.clone()))
        .build(server.manager())
        .unwrap();
    *lock(&nosy.0) = Some(pool.clone());
    server.spy({
        let (nosy, seen) = (nosy.clone(), seen.clone());
        move |op| {
            lock(&seen).push(op);
            nosy.ask();
        }
    });
    let (there, script, marks) = (pool.clone(), server.clone(), nosy.clone());
    watched("a pool whose every callback asks it", move || {
        for round in 0..40 {
            script.next(Op::NeedsReset, Does::Fail);
            if round % 5 == 0 {
                script.next(Op::Connect, Does::Fail);
                script.next(Op::IsValid, Does::Fail);
                script.next(Op::Reset, Does::Fail);
                script.next(Op::HasBroken, Does::Fail);
                there.refresh();
            }
            let mut all: Vec<_> = (0..3).map(|_| there.get().unwrap()).collect();
            assert!(there.get_timeout(ms(1)).is_err());
            PooledConnection::extensions_mut(&mut all[0]).insert(marks.clone());
            PooledConnection::discard(all.remove(0));
            drop(PooledConnection::detach(all.remove(0)));
            let _ = PooledConnection::run(&mut all[0], |_| Err::<(), _>(StubError::Query));
            drop(all);
            there.set_max_size(2).unwrap();
            there.set_max_size(3).unwrap();
            thread::sleep(ms(2));
        }
        there.close(Instant::now() + WATCHDOG)
    });
    let seen = std::mem::take(&mut *lock(&seen));
    for op in [
        Op::Connect,
        Op::IsValid,
        Op::Reset,
        Op::HasBroken,
        Op::NeedsReset,
        Op::IsPermanent,
        Op::IsFatal,
        Op::Close,
    ] {
        assert!(seen.contains(&op), "{op:?} was never called");
    }
    assert!(nosy.1.load(Ordering::SeqCst) > 500);
    lock(&nosy.0).take();
    server.no_spy();
    server.check();
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
                        let caught: thread::Result<()> =
                            std::panic::catch_unwind(std::panic::AssertUnwindSafe(hold));
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
