//! P6 and P7: closing a connection blocks no caller, and happens once.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::PooledConnection;
use fairpool_testing::stub::{Does, Gate, Op, Server, WATCHDOG, builder, eventually, watched};

use crate::support::ms;

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
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    for op in [Op::Connect, Op::IsValid, Op::Reset, Op::Close] {
        let threads = server.threads(op);
        assert!(!threads.is_empty(), "{op:?} was never called");
        for thread in threads {
            assert!(thread.starts_with("fairpool-worker-"), "{op:?} on '{thread}'");
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
