//! Pools in virtual time, against what queueing theory says and against themselves.
#![cfg(feature = "simulation")]

use std::collections::HashMap;
use std::time::Duration;

use fairpool::doc::StubManager;
use fairpool::event::GetEnd;
use fairpool::simulation::{Arrival, Driver, Ended, simulate};
use fairpool::{Builder, Fairness, Pool};

#[path = "support/dice.rs"]
mod dice;
use dice::Dice;

/// What takes no time at all, so that only the queue is left.
const NOTHING: Driver = Driver {
    connect: Duration::ZERO,
    check: Duration::ZERO,
    close: Duration::ZERO,
    wake_up: Duration::ZERO,
};

fn pool(size: u32) -> Builder<StubManager> {
    let pool = Pool::builder().max_size(size).fairness(Fairness::Strict);
    pool.test_on_check_out(false).max_lifetime(None).idle_timeout(None)
}

/// An exponentially distributed span.
fn exponential(dice: &mut Dice, mean: Duration) -> Duration {
    let fraction: f64 = (dice.next() >> 11) as f64 / (1u64 << 53) as f64;
    mean.mul_f64(-(1.0 - fraction).ln())
}

/// Poisson arrivals, exponential holds.
fn arrivals(
    seed: u64,
    count: u64,
    every: Duration,
    hold: Duration,
) -> impl Iterator<Item = Arrival> {
    let mut dice = Dice::of(seed, &[]);
    let mut at = Duration::ZERO;
    (0..count).map(move |_| {
        at += exponential(&mut dice, every);
        let hold = exponential(&mut dice, hold);
        Arrival { at, hold, timeout: Duration::MAX, priority: 5 }
    })
}

/// The probability that a caller has to wait in M/M/c (A. K. Erlang, 1917), by the
/// recursion for Erlang B.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let b = (1..=servers).fold(1.0, |b, n| offered * b / (f64::from(n) + offered * b));
    let load = offered / f64::from(servers);
    b / (1.0 - load + load * b)
}

#[test]
fn waits_are_those_of_m_m_c() {
    let hold = Duration::from_millis(10);
    for (servers, load) in [(1, 0.5), (4, 0.8), (8, 0.8), (32, 0.9)] {
        let offered = f64::from(servers) * load;
        let every = hold.div_f64(offered);
        let (mut waited, mut sum, mut gets) = (0u64, Duration::ZERO, 0u64);
        simulate(pool(servers), NOTHING, arrivals(7, 300_000, every, hold), |get: Ended| {
            assert_eq!(get.end, None);
            gets += 1;
            waited += u64::from(get.waited > Duration::ZERO);
            sum += get.waited;
        })
        .expect("legal settings");
        let expected = erlang_c(servers, offered);
        let share = waited as f64 / gets as f64;
        let mean = sum.as_secs_f64() / gets as f64;
        let expected_mean = expected * hold.as_secs_f64() / (f64::from(servers) * (1.0 - load));
        println!(
            "M/M/{servers} at {load}: waits {share:.4} (Erlang C {expected:.4}), mean {:.3} ms \
             ({:.3} ms)",
            mean * 1e3,
            expected_mean * 1e3
        );
        assert!((share / expected - 1.0).abs() < 0.05, "{servers}: {share} {expected}");
        assert!((mean / expected_mean - 1.0).abs() < 0.05, "{servers}: {mean} {expected_mean}");
    }
}
