//! P5: no failure costs a slot for good.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::PooledConnection;
use fairpool_testing::stub::{Does, Gate, Op, Server, builder, eventually};

use crate::support::{assert_whole, ms, served, waiter};

#[test]
fn p5_a_pool_whose_every_connect_hangs_serves_when_the_server_does() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(3).open_timeout(ms(20)).build(server.manager()).unwrap();
    let outcomes: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    gate.await_entered(5);
    eventually("hung calls are listed", || pool.stats().abandoned >= 3);
    server.on(Op::Connect, Does::Succeed); // new attempts succeed; the old ones still hang
    let conns: Vec<_> = outcomes.iter().map(served).collect();
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
    let outcome = waiter(&pool, Duration::MAX);
    eventually("it is abandoned", || pool.stats().abandoned == 1);
    late.open();
    drop(served(&outcome));
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
    // Two attempts hang for ever; later ones succeed.
    server.next(Op::Connect, Does::Hang(gate.clone()));
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(4).max_abandoned(1).open_timeout(ms(20)).build(server.manager()).unwrap();
    let outcome = waiter(&pool, Duration::MAX);
    gate.await_entered(2);
    thread::sleep(ms(30));
    // One is abandoned, the other overran and counts: three places are free.
    match outcome.recv_timeout(Duration::from_secs(3)) {
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
