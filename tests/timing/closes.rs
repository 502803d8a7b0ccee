//! P6 measured: closes that hang while others get and return.
//!
//! `FAIRPOOL_ROUNDS` sets how often it is measured.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Pool, PooledConnection};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, from_env,
};

use crate::alone;

const THREADS: usize = 16;
/// How many connections are in use, and how many are being closed.
const EACH: u32 = 8;
/// How long one measurement takes; the closes hang as long.
const SPAN: Duration = Duration::from_secs(3);
/// How long a connection is held.
const HOLD: Duration = Duration::from_micros(500);

/// Gets and returns on all threads for a while. Returns the 99th percentile of gets and of
/// returns.
fn load(pool: &Pool<Manager>) -> (Duration, Duration) {
    let end = Instant::now() + SPAN;
    let work = || {
        let mut times = Vec::new();
        while Instant::now() < end {
            let asked = Instant::now();
            let conn = pool.get_timeout(WATCHDOG).expect("a connection");
            let got = asked.elapsed();
            conn.touch();
            thread::sleep(HOLD);
            let done = Instant::now();
            drop(conn);
            times.push((got, done.elapsed()));
        }
        times
    };
    let (mut gets, mut returns): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a load")).unzip()
    });
    let percentile_99 = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    (percentile_99(&mut gets), percentile_99(&mut returns))
}

/// The same number of connections is in use with and without: those whose close hangs
/// count until it ends.
#[test]
fn p6_closes_that_hang_delay_neither_gets_nor_returns() {
    let rounds: usize = from_env("FAIRPOOL_ROUNDS").unwrap_or(1);
    alone((2 * SPAN + WATCHDOG) * rounds as u32, move || compare(rounds));
}

fn compare(rounds: usize) {
    let server = Server::new();
    let pool = builder(EACH).max_closers(EACH).build(server.manager()).unwrap();
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let without = load(&pool);

        let gate = Gate::new();
        pool.set_max_size(2 * EACH).unwrap();
        let mut conns: Vec<_> = (0..2 * EACH).map(|_| pool.get().unwrap()).collect();
        for conn in conns.drain(..EACH as usize) {
            server.next(Op::Close, Does::Hang(gate.clone()));
            PooledConnection::discard(conn);
        }
        drop(conns);
        gate.await_entered(EACH as usize);
        let with = load(&pool);
        let stats = pool.stats();
        assert_eq!((stats.open, stats.closing), (EACH, EACH), "they hang: {stats}");
        gate.open();

        println!(
            "p99 of get {:.2?} without, {:.2?} with 8 hung closes; of return {:.2?} and {:.2?}",
            without.0, with.0, without.1, with.1
        );
        // This fails if a caller waits for a close; the ratio is for `docs/reliability.md`.
        assert!(with.0 < SPAN / 3 && with.1 < SPAN / 3, "a caller waits for a close");
        ratios.push(with.0.as_secs_f64() / without.0.as_secs_f64());
        eventually("the closes end", || pool.stats().closing == 0);
        pool.set_max_size(EACH).unwrap();
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!(
        "figure: 8 closes hang for 3 s: p99 of get {:.2} times that without (median of {rounds}, \
         {:.2} to {:.2})",
        ratios[rounds / 2],
        ratios[0],
        ratios[rounds - 1],
    );
    server.check();
}
