//! Single cases of connects: how long they are counted on, how many there are at once, and
//! who fails fast.

use std::time::Duration;

use super::cases::{SECOND, acquire, at, fx, opens, waiter};
use super::toy::{Toy, policy};
use crate::core::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn after(millis: u64) -> Time {
    Time::START.after(ms(millis))
}

/// The patience of a pool by default.
fn patient(max_size: u32) -> Policy {
    Policy { patience_min: ms(250), patience_max: ms(2000), max_opening: 4, ..policy(max_size) }
}

/// A pool and its connects under way, in the order in which they began.
struct Pool {
    core: Core<Toy>,
    connects: Vec<Permit>,
    answers: Vec<(u8, Answer<Toy>)>,
    opened: u32,
}

impl Pool {
    fn new(policy: Policy) -> Pool {
        let core = Core::new(policy);
        Pool { core, connects: Vec::new(), answers: Vec::new(), opened: 0 }
    }

    /// Makes a transition. Returns how many connects it started.
    fn step<R>(
        &mut self,
        now: Time,
        step: impl FnOnce(&mut Core<Toy>, &mut Effects<Toy>) -> R,
    ) -> usize {
        let mut fx = fx(now);
        step(&mut self.core, &mut fx);
        let started = opens(&fx);
        self.connects.extend(fx.jobs.into_iter().filter_map(|job| match job {
            Job::Connect(permit) => Some(permit),
            _ => None,
        }));
        self.answers.extend(fx.answers);
        started
    }

    fn join(&mut self, now: Time, client: u8) -> usize {
        self.step(now, |core, fx| core.join(waiter(now, client), fx).expect("room to wait"))
    }

    fn tick(&mut self, now: Time) -> usize {
        self.step(now, |core, fx| core.tick(fx))
    }

    /// The reaper runs whenever it planned to, until then. Returns when connects began.
    fn run_until(&mut self, end: Time) -> Vec<u64> {
        let mut began = Vec::new();
        while self.core.wake_at <= end {
            let now = self.core.wake_at;
            began.extend(vec![now.0 / 1_000_000; self.tick(now)]);
        }
        began
    }

    fn succeed(&mut self, now: Time, place: usize) -> usize {
        let permit = self.connects.remove(place);
        self.opened += 1;
        let lease = Leased::new(permit, self.opened);
        self.step(now, |core, fx| core.connect_finished(lease, fx))
    }

    fn fail(&mut self, now: Time, place: usize) -> usize {
        let permit = self.connects.remove(place);
        self.step(now, |core, fx| core.connect_failed(permit, 7, false, fx))
    }

    /// A get of a connection that takes this long, and is kept.
    fn connect_in(&mut self, now: Time, took: Duration) {
        self.join(now, 0);
        self.succeed(now.after(took), 0);
    }
}

#[test]
fn p1_patience_follows_the_connect_times_and_one_that_hung_changes_little() {
    let mut pool = Pool::new(patient(99));
    let mut learns = |took: u64| {
        pool.connect_in(at(0), ms(took));
        pool.core.pace.patience
    };
    assert_eq!(learns(100), Some(ms(300)), "the first: three times its time");
    assert_eq!(learns(5), Some(ms(250)), "not shorter");
    assert_eq!(learns(5000), Some(ms(500)));
    assert_eq!(learns(5), Some(ms(250)), "forgotten");
    assert_eq!([1100; 4].map(&mut learns), [500, 1000, 2000, 2000].map(|time| Some(ms(time))));
}

#[test]
fn p1_where_nothing_is_known_a_connect_of_a_second_is_made_once() {
    let mut pool = Pool::new(patient(8));
    assert_eq!(pool.join(at(0), 0), 1);
    assert_eq!(pool.run_until(after(1999)), []);
    assert_eq!(pool.run_until(after(5000)), [2000, 2900, 3800, 4700]);
}

#[test]
fn p1_a_caller_whose_connects_hang_gets_another_within_a_second() {
    let mut pool = Pool::new(patient(99));
    pool.connect_in(at(0), ms(5));
    pool.join(at(1), 0);
    assert_eq!(pool.run_until(at(5)), [1250, 2150, 3050, 3950, 4850]);
}

#[test]
fn p1_where_connects_hang_one_more_is_tried_every_quarter_of_a_second_for_who_has_none() {
    for knows in [false, true] {
        let mut pool = Pool::new(patient(9));
        if knows {
            pool.connect_in(at(0), ms(5));
        }
        let started: usize = (0..7).map(|client| pool.join(at(1), client)).sum();
        assert_eq!(started, 4, "max_opening");
        // If those are known to be late, the pool has slowed down, and as many again start.
        let others: &[u64] = if knows { &[1250; 4] } else { &[1250, 1500, 1750] };
        assert_eq!(pool.run_until(after(1999)), others, "knows: {knows}");
        // Beside those that are late, one success after the other allows more.
        assert_eq!(pool.core.counters().open_failures, 0);
    }
}

/// The pool that has slowed down begins with one connect. Six that hang then, one after the
/// other, would take six times as long as one.
#[test]
fn p1_after_a_failure_six_connects_that_hang_hold_up_the_seventh_for_less_than_a_second() {
    for knows in [false, true] {
        let mut pool = Pool::new(patient(20));
        if knows {
            pool.connect_in(at(0), ms(5));
        }
        pool.join(at(1), 0);
        pool.fail(at(1), 0);
        (1..9).for_each(|client| {
            assert_eq!(pool.join(at(2), client), u64::from(client == 1) as usize)
        });
        let began = pool.run_until(after(2999));
        assert_eq!(began[..6], [2250, 2500, 2500, 2750, 2750, 2750], "knows: {knows}");
    }
}

/// One connect hangs, others fail: who has none waits for the backoff, not for the one that hangs.
#[test]
fn in_an_outage_nothing_starts_before_the_backoff_is_over_whatever_hangs() {
    let second = ms(1000);
    let mut pool = Pool::new(Policy { backoff_min: second, backoff_max: second, ..patient(9) });
    (0..2).for_each(|client| assert_eq!(pool.join(at(0), client), 1));
    assert_eq!(pool.fail(after(10), 0), 0);
    let began = pool.run_until(after(1010));
    // The backoff is shortened at random by up to a half.
    assert!(matches!(began[..], [510..=1010]), "{began:?}");
}

#[test]
fn p1_the_first_success_tells_that_the_others_are_late() {
    let mut pool = Pool::new(patient(9));
    for client in 0..5 {
        pool.join(at(0), client);
    }
    assert_eq!(pool.run_until(after(254)), [250]);
    assert_eq!(pool.succeed(after(255), 4), 0);
    // The other four are late by now; one at a time is tried beside them.
    assert_eq!(pool.run_until(after(255)), [255]);
    assert_eq!(pool.succeed(after(260), 4), 2, "it succeeds: two");
}

#[test]
fn after_an_outage_there_are_1_2_4_connects_at_a_time_and_one_after_a_failure() {
    let mut pool = Pool::new(Policy { max_opening: 8, min_idle: Some(40), ..policy(40) });
    assert_eq!(pool.tick(at(0)), 8, "all at once while nothing is known to fail");
    for _ in 0..8 {
        pool.fail(at(1), 0);
    }
    assert_eq!(pool.tick(at(2)), 1);
    for round in [1, 2, 4] {
        assert_eq!(pool.connects.len(), round);
        (0..round).for_each(|_| assert_eq!(pool.succeed(at(3), 0), 2));
    }
    assert_eq!(pool.connects.len(), 8);
    (0..8).for_each(|_| assert_eq!(pool.succeed(at(3), 0), 1, "max_opening"));
    pool.fail(at(4), 0);
    assert_eq!(pool.succeed(at(5), 0), 0, "7 are under way, and 2 may be");
    assert_eq!(pool.connects.len(), 6);
}

#[test]
fn after_an_outage_a_slow_server_gets_no_more_connects_because_it_is_slow() {
    let mut pool = Pool::new(Policy { min_idle: Some(8), ..patient(8) });
    pool.tick(at(0));
    for _ in 0..4 {
        pool.fail(at(1), 0);
    }
    pool.run_until(at(2));
    pool.succeed(at(3), 0);
    assert_eq!(pool.connects.len(), 2);
    for client in 0..8 {
        pool.join(at(3), client);
    }
    assert_eq!(pool.run_until(after(4900)), [], "they are not late");
}

fn fails_fast(after: u64) -> Policy {
    let (backoff_min, backoff_max) = (SECOND, SECOND);
    let fail_fast_after = Some(SECOND * after as u32);
    Policy { fail_fast_after, backoff_min, backoff_max, ..policy(2) }
}

/// The clients that were told so, with the driver's error.
fn failed(pool: &mut Pool) -> Vec<u8> {
    let told = pool.answers.drain(..).map(|(client, answer)| match answer {
        Answer::Failed(ErrorKind::Connect, Some(7)) => client,
        _ => panic!("another answer"),
    });
    told.collect()
}

fn refusal(pool: &mut Pool, now: Time) -> Option<ErrorKind> {
    pool.core.join(waiter(now, 9), &mut fx(now)).err()
}

#[test]
fn p9_fail_fast_ends_waits_at_its_time_and_newcomers_fail_at_once() {
    let mut pool = Pool::new(fails_fast(5));
    pool.join(at(0), 0);
    pool.fail(at(1), 0);
    assert!(pool.join(at(2), 1) <= 1);
    while pool.core.wake_at < at(6) {
        let now = pool.core.wake_at;
        pool.tick(now);
        if !pool.connects.is_empty() {
            pool.fail(now, 0);
        }
    }
    assert_eq!(failed(&mut pool), []);
    assert_eq!(pool.core.wake_at, at(6), "five seconds after the first failure");
    pool.tick(at(6));
    assert_eq!(failed(&mut pool), [0, 1]);
    assert_eq!(refusal(&mut pool, at(6)), Some(ErrorKind::Connect));
}

#[test]
fn p9_who_fails_fast_does_not_wait_for_an_attempt_and_the_first_success_ends_it() {
    let mut pool = Pool::new(fails_fast(0));
    pool.join(at(0), 0);
    assert_eq!(pool.fail(at(1), 0), 0);
    assert_eq!(failed(&mut pool), [0]);
    let due = pool.core.wake_at;
    assert!(due > at(1) && due <= at(2), "it is tried again, though nobody waits");
    assert_eq!(pool.core.retry_after(at(1)), SECOND, "not shorter than the shortest backoff");
    assert_eq!(pool.tick(due), 1);
    assert_eq!(refusal(&mut pool, at(9)), Some(ErrorKind::Connect), "beside an attempt");
    assert_eq!(pool.core.retry_after(at(9)), SECOND);
    pool.succeed(at(9), 0);
    assert_eq!(pool.core.retry_after(at(9)), Duration::ZERO);
    assert!(acquire(&mut pool.core, 9, &mut fx(at(9))).is_some());
}

#[test]
fn p9_nobody_fails_fast_while_a_connection_is_left_or_the_pool_is_paused() {
    let mut pool = Pool::new(fails_fast(0));
    pool.join(at(0), 0);
    pool.succeed(at(0), 0);
    let Some((0, Answer::Granted(lease))) = pool.answers.pop() else { panic!("granted") };
    pool.join(at(1), 1);
    pool.fail(at(1), 0);
    assert_eq!(failed(&mut pool), [], "the other may be returned");
    pool.core.pause();
    pool.step(at(2), |core, fx| core.checkin(lease, Verdict::Broken, fx));
    assert_eq!(failed(&mut pool), [], "paused");
    pool.step(at(3), |core, fx| core.resume(fx));
    assert_eq!(failed(&mut pool), [1]);
}

/// A pool with one idle connection, which was used and is old. Its successor is being opened.
fn with_a_successor(policy: Policy) -> Pool {
    let mut pool = Pool::new(policy);
    pool.connect_in(at(0), ms(5));
    let Some((0, Answer::Granted(lease))) = pool.answers.pop() else { panic!("granted") };
    pool.step(after(5), |core, fx| core.checkin(lease, Verdict::Keep, fx));
    assert_eq!(pool.step(at(1), |core, fx| core.refresh(fx)), 1);
    pool
}

#[test]
fn p17_beside_a_successor_whose_connect_hangs_another_is_tried_only_for_callers() {
    let mut pool = with_a_successor(patient(8));
    assert_eq!(pool.run_until(at(60)), [], "the old connection serves");
    let lease = acquire(&mut pool.core, 9, &mut fx(at(60)));
    assert!(lease.is_some() && pool.core.old == 1);
    assert_eq!(pool.join(at(60), 1), 1, "for the caller");
}

#[test]
fn p17_the_attempt_that_ends_an_outage_is_a_successor() {
    for fail_fast_after in [None, Some(Duration::ZERO)] {
        let mut pool = with_a_successor(Policy { fail_fast_after, ..fails_fast(0) });
        assert_eq!(pool.fail(at(1), 0), 0);
        assert_eq!((pool.core.old, pool.core.open_count()), (1, 1), "the old one goes on");
        assert_eq!(pool.run_until(at(2)).len(), 1, "one attempt after the backoff");
        assert_eq!(pool.succeed(at(3), 0), 0, "{fail_fast_after:?}: no other is opened");
        assert_eq!((pool.core.old, pool.core.open_count()), (0, 1), "it took its place");
    }
}

/// While the pool is full nothing is tried, for an hour. Then the last connection dies.
#[test]
fn p9_an_outage_that_nobody_could_see_end_is_tried_again_before_callers_fail_fast() {
    let mut pool = Pool::new(fails_fast(5));
    pool.join(at(0), 0);
    pool.succeed(at(0), 0);
    let Some((0, Answer::Granted(lease))) = pool.answers.pop() else { panic!("granted") };
    pool.join(at(1), 1);
    pool.fail(at(1), 0);
    pool.step(at(1), |core, fx| core.set_max_size(1, fx));
    assert_eq!(pool.run_until(at(3600)), [], "no room");
    pool.step(at(3600), |core, fx| core.checkin(lease, Verdict::Broken, fx));
    assert_eq!((failed(&mut pool), pool.connects.len()), (vec![], 0), "it is being closed");
}
