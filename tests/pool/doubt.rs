//! P13: once a connection has proved dead, nobody gets a sibling that was not proved since.
//!
//! The builder of these tests never checks by age: `test_on_check_out(false)`.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fairpool::{Builder, Pool, PooledConnection};
use fairpool_testing::stub::{Conn, Does, Gate, Manager, Op, Server, builder, eventually, watched};

use crate::support::{ms, served, start_waiter, waiter};

/// A server for whose driver each error of a query is fatal.
fn server() -> Server {
    let server = Server::new();
    server.on(Op::IsFatal, Does::Fail);
    server
}

/// A pool of these settings with all its connections idle.
fn full_of_idle(builder: Builder<Manager>, server: &Server) -> Pool<Manager> {
    let pool = builder.build(server.manager()).unwrap();
    drop(all_of(&pool));
    pool
}

fn all_of(pool: &Pool<Manager>) -> Vec<PooledConnection<Manager>> {
    (0..pool.max_size()).map(|_| pool.get().unwrap()).collect()
}

/// Makes one query as a user does; returns whether it failed.
fn query_fails(conn: &mut PooledConnection<Manager>) -> bool {
    PooledConnection::run(conn, |conn: &mut Conn| conn.query()).is_err()
}

fn errors_of(pool: &Pool<Manager>, users: usize) -> usize {
    (0..users).filter(|_| query_fails(&mut pool.get().unwrap())).count()
}

/// One connection is discarded; all others that are idle are in doubt.
fn cast_doubt(pool: &Pool<Manager>) {
    PooledConnection::discard(pool.get().unwrap());
}

#[test]
fn p13_eight_dead_idle_connections_cost_one_error() {
    for within in [ms(500), Duration::MAX] {
        let server = server();
        let unset = Pool::builder().max_size(8).skip_check_within(within);
        let pool = full_of_idle(unset, &server);
        server.kill_all();
        assert_eq!(errors_of(&pool, 32), 1, "skip_check_within: {within:?}");
        server.check();
    }
    let server = server();
    let pool = full_of_idle(builder(8), &server);
    server.kill_all();
    assert_eq!(errors_of(&pool, 32), 1, "never checked by age");
}

/// A user that tries again with another connection, and drops the first at the end.
#[test]
fn p13_doubt_is_cast_when_a_connection_proves_dead_and_not_when_it_comes_back() {
    let server = server();
    let pool = full_of_idle(builder(8), &server);
    server.kill_all();
    let mut kept = all_of(&pool).into_iter();
    let mut dead = kept.next().unwrap();
    drop(kept);
    assert!(query_fails(&mut dead));
    let checks = server.calls(Op::IsValid);
    // One of the others is checked, fails, and is replaced.
    assert_eq!(errors_of(&pool, 8), 0);
    assert!(server.calls(Op::IsValid) > checks);
    let checks = server.calls(Op::IsValid);
    drop(dead);
    eventually("it is closed", || pool.stats().closed.broken == 1);
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), checks, "what was proved since is not in doubt");
    server.check();
}

/// Seven of the eight that hold a connection do not use it after it died. What they return is
/// dead, and nobody gets it.
#[test]
fn p13_nobody_gets_what_came_back_without_a_word_from_a_busy_pool() {
    let server = server();
    let pool = builder(8).build(server.manager()).unwrap();
    let mut all = all_of(&pool);
    let waiting: Vec<_> = (0..8).map(|_| waiter(&pool, ms(60_000))).collect();
    server.kill_all();
    assert!(query_fails(&mut all[0]), "the first error");
    drop(all.remove(0));
    drop(all);
    let mut got: Vec<_> = waiting.iter().map(served).collect();
    let errors = got.iter_mut().filter_map(|conn| query_fails(conn).then_some(())).count();
    assert_eq!(errors, 0, "after the first");
    server.check();
}

/// 32 threads use eight connections without a pause. All die at once, five times: in some hands,
/// and while others hand them on.
#[test]
fn p13_who_comes_after_the_first_error_of_a_busy_pool_sees_none() {
    let server = server();
    let pool = builder(8).build(server.manager()).unwrap();
    let (errors, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (broken, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let user = || {
            while !stop.load(Ordering::Relaxed) {
                let round = broken.load(Ordering::Relaxed);
                let known = pool.stats().closed.broken > round;
                let mut conn = pool.get().unwrap();
                thread::yield_now();
                if query_fails(&mut conn) {
                    errors.fetch_add(1, Ordering::Relaxed);
                    let late_now = known && broken.load(Ordering::Relaxed) == round;
                    late.fetch_add(usize::from(late_now), Ordering::Relaxed);
                }
                thread::yield_now();
            }
        };
        (0..32).for_each(|_| drop(scope.spawn(user)));
        for round in 1..=5 {
            let gets = pool.stats().gets;
            eventually("all are in use", || pool.stats().gets > gets + 1000);
            broken.store(pool.stats().closed.broken, Ordering::Relaxed);
            server.kill_all();
            eventually("all are found", || {
                let closed = pool.stats().closed;
                closed.broken + closed.invalid == 8 * round
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (errors, late) = (errors.into_inner(), late.into_inner());
    println!("{errors} errors of 5 times 8 connections, {late} of them late");
    assert!(errors <= 40 && late == 0, "{errors} errors, {late} late");
    server.check();
}

#[test]
fn p13_a_connection_discarded_or_marked_by_hand_casts_doubt() {
    type End = fn(PooledConnection<Manager>);
    let by_hand: [(&str, End); 2] = [
        ("discard", PooledConnection::discard),
        ("mark_broken", |mut conn| PooledConnection::mark_broken(&mut conn)),
    ];
    for (how, end) in by_hand {
        let server = server();
        let pool = full_of_idle(builder(2), &server);
        end(pool.get().unwrap());
        let before = server.calls(Op::IsValid);
        drop(pool.get().unwrap());
        assert_eq!(server.calls(Op::IsValid) - before, 1, "{how}");
    }
}

#[test]
fn p13_one_proof_is_enough() {
    let server = server();
    let pool = full_of_idle(builder(4), &server);
    cast_doubt(&pool);
    drop(all_of(&pool)); // three checks and a connect
    assert_eq!(server.calls(Op::IsValid), 3);
    for _ in 0..5 {
        drop(all_of(&pool));
    }
    assert_eq!(server.calls(Op::IsValid), 3, "what is proved is not checked again");
    assert_eq!(server.calls(Op::Connect), 5);
}

#[test]
fn p13_checks_come_one_by_one_as_callers_need_connections() {
    let server = server();
    // The connections that the pool keeps idle are opened, not checked.
    let pool = full_of_idle(builder(8).min_idle(Some(8)), &server);
    cast_doubt(&pool);
    eventually("another is opened", || pool.stats().idle == 8);
    thread::sleep(ms(50));
    assert_eq!(server.calls(Op::IsValid), 0, "nobody needs one");
    for gets in 1..=5 {
        drop(pool.get().unwrap());
        // The one that was opened since, or has been checked, is on top.
        assert!(server.calls(Op::IsValid) <= 1, "{gets} gets, one after another");
    }
    let both = [pool.get().unwrap(), pool.get().unwrap(), pool.get().unwrap()];
    assert!(server.calls(Op::IsValid) <= 2, "three at once, one of them new");
    drop(both);
    server.check();
}

/// The errors of one restart come back one after another. Each may cast doubt on what was
/// proved since the one before, but on nothing twice.
#[test]
fn p13_a_burst_of_errors_is_no_storm_of_checks() {
    let server = server();
    let pool = builder(8).build(server.manager()).unwrap();
    let mut all = all_of(&pool);
    server.kill_all();
    let mut gets = 0;
    while let Some(mut dead) = all.pop() {
        assert!(query_fails(&mut dead));
        drop(dead);
        assert_eq!(errors_of(&pool, 10), 0);
        gets += 10;
    }
    let checks = server.calls(Op::IsValid);
    assert!(checks <= 8, "{checks} checks of {gets} gets, after 8 errors");
}

#[test]
fn p13_a_connect_that_began_before_the_doubt_is_checked() {
    let server = server();
    let pool = builder(2).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let waiting = waiter(&pool, ms(60_000));
    gate.await_entered(1);
    // It goes to the other place; the pool may open another for the waiter, but hangs too.
    let second = Gate::new();
    server.on(Op::Connect, Does::Hang(second.clone()));
    PooledConnection::discard(held);
    gate.open();
    let conn = served(&waiting);
    assert_eq!((conn.id, server.calls(Op::IsValid)), (2, 1));
    second.open();
}

#[test]
fn p13_a_check_that_began_before_the_doubt_proves_nothing() {
    let server = server();
    let pool = full_of_idle(builder(2).keepalive(Some(ms(20))), &server);
    let held = pool.get().unwrap();
    let gate = Gate::new();
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    gate.await_entered(1); // a keepalive of the other
    server.on(Op::Connect, Does::Fail); // so that there is no other
    PooledConnection::discard(held);
    let waiting = waiter(&pool, ms(60_000));
    let before = server.calls(Op::IsValid);
    gate.open();
    drop(served(&waiting));
    assert!(server.calls(Op::IsValid) > before, "it was lent by the old check");
}

#[test]
fn p13_a_failed_check_casts_doubt() {
    let server = server();
    let pool = full_of_idle(builder(3).keepalive(Some(ms(2000))), &server);
    // Two are used while the keepalive of the third is due.
    let (mut others, gate) = (vec![pool.get().unwrap(), pool.get().unwrap()], Gate::new());
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    gate.await_entered(1);
    others.clear();
    server.kill_all();
    gate.open_with(Does::Fail);
    eventually("it is retired", || pool.stats().closed.invalid == 1);
    assert_eq!(errors_of(&pool, 8), 0, "the failed check was enough");
}

#[test]
fn p13_a_check_that_overruns_its_limit_casts_doubt() {
    let server = server();
    let pool =
        full_of_idle(builder(3).keepalive(Some(ms(2000))).validation_timeout(ms(50)), &server);
    let (mut others, gate) = (vec![pool.get().unwrap(), pool.get().unwrap()], Gate::new());
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    gate.await_entered(1);
    others.clear();
    server.kill_all();
    eventually("it is abandoned", || pool.stats().abandoned == 1);
    assert_eq!(errors_of(&pool, 8), 0, "a check that hangs was enough");
    gate.open_with(Does::Fail);
    eventually("it has ended", || pool.stats().abandoned == 0);
}

#[test]
fn p13_a_reset_alone_proves_nothing() {
    let server = server();
    let pool = builder(2).build(server.manager()).unwrap();
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    server.kill_all();
    PooledConnection::discard(first);
    server.next(Op::NeedsReset, Does::Fail);
    drop(second);
    eventually("it was reset and checked", || server.calls(Op::IsValid) == 1);
    assert_eq!(server.calls(Op::Reset), 1);
    assert_eq!(errors_of(&pool, 2), 0);
}

#[test]
fn p13_who_only_tries_gets_what_is_alive_or_nothing() {
    let server = server();
    let pool = full_of_idle(builder(4), &server);
    cast_doubt(&pool);
    assert!(pool.try_get().is_some_and(|mut conn| !query_fails(&mut conn)), "they are alive");
    server.kill_all();
    cast_doubt(&pool);
    let there = pool.clone();
    let got = watched("try_get", move || there.try_get().map(|conn| conn.id));
    assert_eq!(got, None, "all were dead");
    assert_eq!(server.calls(Op::Connect), 4);
}

/// Without time no check can be waited for; but it is started, to the benefit of the next.
#[test]
fn p13_a_get_without_time_gets_nothing_that_is_in_doubt() {
    let server = server();
    let pool = full_of_idle(builder(2), &server);
    cast_doubt(&pool);
    assert!(pool.get_timeout(Duration::ZERO).is_err());
    eventually("the check has ended", || pool.stats().idle == 1);
    assert!(pool.get_timeout(Duration::ZERO).is_ok());
}

#[test]
fn p13_doubt_outlives_a_pause() {
    let server = server();
    let pool = full_of_idle(builder(4), &server);
    let held = pool.get().unwrap();
    pool.pause();
    server.kill_all();
    PooledConnection::discard(held);
    pool.resume();
    assert_eq!(errors_of(&pool, 8), 0);
}

/// A check that always fails makes the pool open what it needs, and no more.
#[test]
fn p13_where_every_check_fails_users_are_served_all_the_same() {
    let server = server();
    server.on(Op::IsValid, Does::Fail);
    server.on(Op::Connect, Does::Take(ms(1)));
    let pool = full_of_idle(builder(8), &server);
    for _ in 0..20 {
        cast_doubt(&pool);
        let waiting: Vec<_> = (0..8).map(|_| start_waiter(&pool, ms(60_000))).collect();
        drop(waiting.iter().map(served).collect::<Vec<_>>());
    }
    let (connects, checks) = (server.calls(Op::Connect), server.calls(Op::IsValid));
    assert!(checks <= 20 * 8 * 2, "{checks} checks");
    assert!(connects <= 8 + 20 * 8 * 2, "{connects} connects");
    server.check();
}
