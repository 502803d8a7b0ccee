//! P17: the pool is never empty by its own hand.

use std::time::Duration;

use fairpool::simulation::{Arrival, Driver, Ended, simulate};
use fairpool::stats::Stats;
use fairpool::{Builder, Pool};
use fairpool_testing::StubManager;

use crate::support::ms;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// In virtual time, with connects of 300 ms.
fn run(
    pool: Builder<StubManager>,
    arrivals: impl IntoIterator<Item = Arrival>,
) -> (Vec<Duration>, Stats) {
    let mut driver = Driver::instant();
    driver.connect = ms(300);
    let mut waits = Vec::new();
    let served = |get: Ended| {
        assert_eq!(get.end, None, "it waits for ever");
        waits.push(get.waited);
    };
    let stats = simulate(pool, driver, arrivals, served).expect("legal input");
    waits.sort_unstable();
    (waits, stats)
}

/// A caller at the beginning, and one a day later: what the pool did meanwhile.
fn quiet_day(pool: Builder<StubManager>) -> Stats {
    let caller = |at| Arrival::new(at, ms(1));
    run(pool, [caller(Duration::ZERO), caller(DAY)]).1
}

#[test]
fn p17_a_quiet_pool_connects_only_for_lifetimes() {
    let unset = || Pool::<StubManager>::builder().max_size(10);
    let forever = quiet_day(unset().max_lifetime(None));
    let usual = quiet_day(unset());
    println!(
        "figure: connects of a quiet pool of 10 in a day: {} by default, {} with connections that live for ever",
        usual.opened, forever.opened
    );
    let two = quiet_day(
        unset().min_idle(Some(2)).max_lifetime(None).idle_timeout(Some(Duration::from_secs(1))),
    );
    println!("min_idle 2: {}", two.opened);
}

/// Four callers all the time, in turn.
fn four_in_use() -> impl Iterator<Item = Arrival> {
    (0..48_000).map(|n| Arrival::new(ms(5 * n), Duration::from_micros(19_900)))
}

fn percentile(waits: &[Duration], permille: usize) -> Duration {
    waits[waits.len() * permille / 1000]
}

#[test]
fn p17_expiry_under_a_steady_load_is_not_noticed() {
    let pool = || Pool::builder().max_size(8).min_idle(Some(2));
    let (without, _) = run(pool().max_lifetime(None), four_in_use());
    let (with, stats) = run(pool().max_lifetime(Some(ms(4000))), four_in_use());
    let figures = |waits: &[Duration]| [990, 999].map(|permille| percentile(waits, permille));
    let (without, with) = (figures(&without), figures(&with));
    println!(
        "figure: p99 and p99.9 of a get: {with:?} with expiry, {without:?} without; {}, {:?}",
        stats.opened, stats.closed
    );
}
