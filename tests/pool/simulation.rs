//! Pools in virtual time, against what queueing theory says and against themselves.

use std::collections::HashMap;
use std::time::Duration;

use fairpool::simulation::{Arrival, Driver, Ended, simulate};
use fairpool::stats::Stats;
use fairpool::{Builder, ErrorKind, Fairness, Pool};
use fairpool_testing::StubManager;

use fairpool_testing::dice::Dice;

/// A driver that takes no time, so that only the queue matters.
const NOTHING: Driver = Driver::instant();

fn pool(size: u32) -> Builder<StubManager> {
    let pool = Pool::builder().max_size(size).fairness(Fairness::Strict);
    pool.test_on_check_out(false).max_lifetime(None).idle_timeout(None)
}

/// An exponentially distributed duration.
fn exponential(dice: &mut Dice, mean: Duration) -> Duration {
    let fraction: f64 = (dice.roll() >> 11) as f64 / (1u64 << 53) as f64;
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
        Arrival::new(at, hold)
    })
}

/// The probability that a caller has to wait in M/M/c (A. K. Erlang, 1917), by the
/// recursion for Erlang B.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let b = (1..=servers).fold(1.0, |b, n| offered * b / (f64::from(n) + offered * b));
    let load = offered / f64::from(servers);
    b / (1.0 - load + load * b)
}

/// A broken return: the next that need a connection wait for one check each, side by side, and
/// those after them for nothing.
#[test]
fn p13_doubt_costs_each_connection_one_check() {
    let (driver, ms) = (Driver::default(), Duration::from_millis);
    let burst = |at| (0..8).map(move |_| Arrival::new(ms(at), ms(1)));
    let first = Arrival::new(ms(1), ms(1)).breaks();
    // At 100 ms the broken one has been replaced.
    let arrivals = burst(0).chain([first]).chain(burst(100)).chain(burst(200)).collect::<Vec<_>>();
    let mut waits: HashMap<Duration, Vec<Duration>> = HashMap::new();
    let stats = simulate(pool(8), driver, arrivals, |get: Ended| {
        assert_eq!(get.end, None);
        waits.entry(get.arrival.at).or_default().push(get.waited);
    });
    assert_eq!(stats.unwrap().closed.broken, 1);
    let zero = Duration::ZERO;
    assert_eq!((&waits[&ms(0)], &waits[&ms(200)]), (&vec![zero; 8], &vec![zero; 8]));
    let doubted: Vec<_> = waits[&ms(100)].iter().filter(|wait| **wait > zero).collect();
    assert_eq!(doubted, vec![&(driver.check + driver.wake_up); 7], "one was opened since");
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

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A caller that holds for 10 ms and has no deadline.
fn caller(at: u64) -> Arrival {
    Arrival::new(ms(at), ms(10))
}

/// All gets in the order in which they end, and the pool's counts.
fn run(
    pool: Builder<StubManager>,
    driver: Driver,
    arrivals: impl IntoIterator<Item = Arrival>,
) -> (Vec<Ended>, Stats) {
    let mut gets = Vec::new();
    let stats = simulate(pool, driver, arrivals, |get| gets.push(get)).expect("legal input");
    (gets, stats)
}

/// More callers of all kinds than the pool can serve. Each has its own hold time as a name.
fn crowd(seed: u64) -> Vec<Arrival> {
    let mut dice = Dice::of(seed, &[1]);
    let mut at = Duration::ZERO;
    let one = |number| {
        at += dice.millis(0, 2);
        let hold = ms(dice.between(1, 9)) + Duration::from_nanos(number);
        let timeout = dice.maybe(|dice| dice.millis(0, 60)).unwrap_or(Duration::MAX);
        Arrival::new(at, hold).timeout(timeout).priority(dice.between(1, 10) as u8)
    };
    (0..2_000).map(one).collect()
}

/// Connections that are opened late, expire and are checked.
fn restless_pool() -> Builder<StubManager> {
    let pool = Pool::builder().max_size(3).min_idle(Some(0)).max_waiters(Some(12));
    pool.max_lifetime(Some(ms(50))).priority_ageing(ms(5)).skip_check_within(Duration::ZERO)
}

#[test]
fn whoever_is_not_served_in_time_leaves_at_the_deadline() {
    let hasty = caller(1).timeout(ms(9));
    let patient = caller(2).timeout(ms(30));
    let (gets, stats) = run(pool(1), NOTHING, [caller(0), hasty, patient, caller(3)]);
    let ended = |arrival: Arrival, waited, end| (arrival, ms(waited), end);
    assert_eq!(
        gets.iter().map(|get| (get.arrival, get.waited, get.end)).collect::<Vec<_>>(),
        [
            ended(caller(0), 0, None),
            // Its deadline is at 10 ms, as is the return: the return comes first.
            ended(hasty, 9, None),
            ended(patient, 18, None),
            ended(caller(3), 27, None),
        ]
    );
    assert_eq!(stats.timeouts, 0);

    let hasty = caller(1).timeout(ms(8));
    let (gets, stats) = run(pool(1), NOTHING, [caller(0), hasty, caller(3)]);
    assert_eq!((gets[1].arrival, gets[1].waited), (hasty, ms(8)));
    assert_eq!(gets[1].end, Some(ErrorKind::Timeout));
    // It has left the queue, so the next one is served.
    assert_eq!((gets[2].arrival, gets[2].waited, gets[2].end), (caller(3), ms(7), None));
    assert_eq!((stats.gets, stats.timeouts), (2, 1));
}

#[test]
fn whoever_may_not_wait_gets_what_is_idle_or_nothing() {
    let now_or_never = |at| caller(at).timeout(Duration::ZERO);
    let (gets, _) = run(pool(1), NOTHING, [now_or_never(0), now_or_never(5), now_or_never(20)]);
    let ends: Vec<_> = gets.iter().map(|get| (get.waited, get.end)).collect();
    let nothing = Duration::ZERO;
    assert_eq!(ends, [(nothing, None), (nothing, Some(ErrorKind::Timeout)), (nothing, None)]);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let pool = pool(1).max_waiters(Some(2));
    let (gets, stats) = run(pool, NOTHING, [0, 1, 2, 3, 11].map(caller));
    let refused: Vec<_> = gets.iter().filter(|get| get.end.is_some()).collect();
    assert_eq!(refused.len(), 1, "{gets:?}");
    // The third waiter is refused; the caller at 11 ms finds room again.
    assert_eq!((refused[0].arrival, refused[0].end), (caller(3), Some(ErrorKind::QueueFull)));
    assert_eq!(refused[0].waited, Duration::ZERO);
    assert_eq!((stats.gets, stats.refused), (4, 1));
}

#[test]
fn a_smaller_priority_goes_first_but_only_by_the_ageing_steps() {
    let pool = || pool(1).priority_ageing(ms(2));
    let of = |at, priority| caller(at).priority(priority);
    let order = |arrivals: &[Arrival]| {
        let (gets, _) = run(pool(), NOTHING, arrivals.iter().copied());
        gets.iter()
            .map(|get| (get.arrival.at.as_millis(), get.arrival.priority))
            .collect::<Vec<_>>()
    };
    // Four levels are 8 ms: callers of priority 1 that arrive up to 9 ms overtake the caller of
    // priority 5 that arrived at 1 ms; later ones do not.
    let arrivals = [of(0, 5), of(1, 5), of(2, 1), of(9, 1), of(10, 1), of(11, 1)];
    assert_eq!(order(&arrivals), [(0, 5), (2, 1), (9, 1), (1, 5), (10, 1), (11, 1)]);
    // Among equals: first come, first served.
    let arrivals = [of(0, 5), of(1, 9), of(2, 9), of(3, 9)];
    assert_eq!(order(&arrivals), [(0, 5), (1, 9), (2, 9), (3, 9)]);
}

#[test]
fn an_unimportant_caller_is_served_beside_an_endless_stream_of_important_ones() {
    // The stream uses the whole capacity: one caller each 10 ms, which holds for 10 ms.
    let important = (0..2_000).map(|n| caller(10 * n).priority(1));
    let unimportant = caller(55).priority(9);
    let mut arrivals: Vec<_> = important.chain([unimportant]).collect();
    // One more at the start, so that one always waits.
    arrivals.push(caller(0).priority(1));
    arrivals.sort_by_key(|arrival| arrival.at);
    let waited = |ageing| {
        let (gets, _) = run(pool(1).priority_ageing(ageing), NOTHING, arrivals.clone());
        gets.iter().find(|get| get.arrival.priority == 9).expect("it is reported").waited
    };
    // Eight levels of 20 ms, and then those that arrived before it.
    let aged = waited(ms(20));
    assert!((ms(160)..ms(190)).contains(&aged), "{aged:?}");
    // Without ageing it waits until the stream ends.
    assert!(waited(Duration::from_secs(3600)) > Duration::from_secs(19));
}

#[test]
fn a_first_caller_waits_for_the_connection_to_open_and_its_thread_to_wake() {
    let mut driver = NOTHING;
    (driver.connect, driver.wake_up) = (ms(7), ms(1));
    let (gets, stats) = run(pool(1).min_idle(Some(0)), driver, [caller(0), caller(30)]);
    assert_eq!(gets[0].waited, ms(8));
    assert_eq!(gets[1].waited, Duration::ZERO, "by then it is open");
    assert_eq!((stats.gets, stats.opened, stats.open_failures), (2, 1, 0));
    // Connections of `min_idle` are open from the start.
    let (gets, _) = run(pool(1), driver, [caller(0)]);
    assert_eq!(gets[0].waited, Duration::ZERO);
}

#[test]
fn every_caller_is_told_of_once() {
    for seed in 0..8 {
        let arrivals = crowd(seed);
        let mut ends = HashMap::new();
        let (gets, stats) = run(restless_pool(), Driver::default(), arrivals.clone());
        for get in gets {
            assert_eq!(ends.insert(get.arrival.hold, get.end), None, "seed {seed}: {get:?} twice");
            assert!(
                get.waited <= get.arrival.timeout.saturating_add(Driver::default().wake_up),
                "{get:?}"
            );
        }
        assert!(arrivals.iter().all(|arrival| ends.contains_key(&arrival.hold)), "seed {seed}");
        assert_eq!(ends.len(), arrivals.len());
        let count = |end| ends.values().filter(|other| **other == end).count() as u64;
        assert_eq!(stats.gets, count(None));
        assert_eq!(stats.timeouts, count(Some(ErrorKind::Timeout)));
        assert_eq!(stats.refused, count(Some(ErrorKind::QueueFull)));
        assert_eq!(stats.gets + stats.timeouts + stats.refused, arrivals.len() as u64);
        assert_eq!(stats.waiting, 0);
        // Everything must have happened, or this proves little.
        assert!(stats.timeouts > 100 && stats.refused > 100 && stats.opened > 50, "{stats:?}");
    }
}

#[test]
fn the_same_input_has_the_same_outcome() {
    let outcome = |seed| run(restless_pool(), Driver::default(), crowd(seed));
    let (gets, stats) = outcome(3);
    let (again, stats_again) = outcome(3);
    assert_eq!(gets, again);
    assert_eq!(format!("{stats:?}"), format!("{stats_again:?}"));
    assert_ne!(gets, outcome(4).0);
}

#[test]
fn callers_out_of_order_are_an_error_that_says_so() {
    let mut gets = 0;
    let error = simulate(pool(1), NOTHING, [caller(5), caller(3)], |_| gets += 1)
        .expect_err("the second comes before the first");
    assert!(error.kind() == fairpool::ErrorKind::Config, "{error:?}");
    let text = error.to_string();
    assert!(text.contains("3ms") && text.contains("5ms") && text.contains("order"), "{text}");
    assert_eq!(gets, 1, "only the first was reported");
    // Arrivals at the same time are in order.
    assert_eq!(run(pool(1), NOTHING, [caller(5), caller(5)]).1.gets, 2);
}

#[test]
fn settings_are_checked_as_for_a_real_pool() {
    let hasty = pool(1).open_timeout(Duration::ZERO);
    let error = simulate(hasty, NOTHING, [caller(0)], |_| ()).expect_err("no time");
    assert!(error.to_string().contains("open_timeout"), "{error}");
    assert_eq!(run(pool(1), NOTHING, []).1.gets, 0, "no arrivals");
}
