//! Single cases that the exploration cannot tell apart: both outcomes keep the invariants.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::toy::{Toy, policy};
use crate::core::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn at(seconds: u64) -> Time {
    Time::START.after(SECOND * seconds as u32)
}

pub(super) fn fx(now: Time) -> Effects<Toy> {
    Effects::at(now)
}

/// A core with all its connections, idle since the start.
fn filled(policy: Policy) -> Core<Toy> {
    let mut core = Core::new(Policy { min_idle: Some(policy.max_size), ..policy });
    let mut fx = fx(Time::START);
    core.tick(&mut fx);
    while let Some(job) = fx.jobs.pop() {
        let Job::Connect(permit) = job else { panic!("only opens") };
        core.connect_finished(Leased::new(permit, 0), &mut fx);
    }
    core
}

/// A newcomer takes an idle connection.
pub(super) fn acquire(
    core: &mut Core<Toy>,
    caller: u8,
    fx: &mut Effects<Toy>,
) -> Option<Lease<u32>> {
    let arrival = core.arrive(fx.now);
    core.acquire(arrival, 5, &caller, fx)
}

pub(super) fn waiter(since: Time, client: u8) -> Waiter<Toy> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let get_id = NEXT.fetch_add(1, Ordering::Relaxed);
    let (caller, cell) = (client, client);
    Waiter {
        get_id,
        since,
        priority: 5,
        caller,
        cell,
        only_idle: false,
        nested: false,
        task: None,
        context: (),
    }
}

pub(super) fn opens(fx: &Effects<Toy>) -> usize {
    fx.jobs.iter().filter(|job| matches!(job, Job::Connect(_))).count()
}

fn checks(fx: &Effects<Toy>) -> usize {
    fx.jobs.iter().filter(|job| matches!(job, Job::Check(..))).count()
}

#[test]
fn p1_a_check_that_hangs_does_not_hold_up_the_next_caller() {
    let mut core = filled(Policy { fresh_for: SECOND, ..policy(2) });
    let mut first = fx(at(2));
    let id = core.join(waiter(at(2), 0), &mut first).expect("room to wait");
    assert_eq!(checks(&first), 1);
    assert!(core.leave(id, ErrorKind::Timeout, &mut fx(at(3))));
    // The check of the first caller is still under way.
    let mut second = fx(at(3));
    core.join(waiter(at(3), 1), &mut second).expect("room to wait");
    assert_eq!(checks(&second), 1, "the other idle connection is checked for the second caller");
}

/// A core with all its connections lent; returns the leases too.
fn exhausted(policy: Policy) -> (Core<Toy>, Vec<Lease<u32>>) {
    let size = policy.max_size;
    let mut core = filled(policy);
    let take = |_| acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    let leases = (0..size).map(take).collect();
    (core, leases)
}

#[test]
fn p3_a_waiter_does_not_leave_beside_an_idle_connection() {
    let (mut core, leases) = exhausted(Policy { fairness_bound: SECOND, ..policy(2) });
    let first = core.join(waiter(at(10), 0), &mut fx(at(10))).expect("room to wait");
    let second = core.join(waiter(at(10), 1), &mut fx(at(10))).expect("room to wait");
    for lease in leases {
        core.checkin(lease, Verdict::Keep, &mut fx(at(10)));
    }
    // The first was nudged, but its thread is not scheduled.
    assert_eq!((core.nudged, core.gauges().idle), (Some(first), 2));
    let mut late = fx(at(20));
    assert!(core.claim(second, &mut late).is_some(), "what the first does not need");
    assert!(matches!(late.answers[..], [(0, Answer::Granted(_))]), "the first comes first");
}

#[test]
fn p8_a_newcomer_is_not_refused_because_the_nudged_one_is_slow() {
    let bounded = Policy { fairness_bound: SECOND, max_waiters: Some(1), ..policy(3) };
    let (mut core, leases) = exhausted(bounded);
    core.join(waiter(at(10), 0), &mut fx(at(10))).expect("room to wait");
    for lease in leases {
        core.checkin(lease, Verdict::Keep, &mut fx(at(10)));
    }
    let mut later = fx(at(12));
    assert!(acquire(&mut core, 7, &mut later).is_some());
    assert!(matches!(later.answers[..], [(0, Answer::Granted(_))]), "the first comes first");
}

#[test]
fn p3_an_open_that_hangs_is_not_counted_on() {
    let patience = Policy {
        patience_min: SECOND,
        patience_max: SECOND,
        open_limit: SECOND * 5,
        max_opening: 3,
        ..policy(3)
    };
    let mut core: Core<Toy> = Core::new(patience);
    let mut asked = fx(at(0));
    let id = core.join(waiter(at(0), 0), &mut asked).expect("room to wait");
    assert_eq!(opens(&asked), 1);
    let mut later = fx(at(1));
    assert_eq!(core.tick(&mut later), at(2), "when the second is slow too");
    assert_eq!(opens(&later), 1, "another for the same waiter");
    assert!(core.leave(id, ErrorKind::Timeout, &mut fx(at(1))));
    core.tick(&mut fx(at(2)));
    let mut next = fx(at(2));
    core.join(waiter(at(2), 1), &mut next).expect("room to wait");
    assert_eq!(opens(&next), 1, "two hang, the third is for the next caller");
}

#[test]
fn a_lifetime_that_ends_after_a_return_is_planned() {
    let life = Policy { max_lifetime: Some(SECOND * 10), ..policy(1) };
    let (mut core, mut leases) = exhausted(life);
    assert_eq!(core.tick(&mut fx(at(9))), at(10), "a plan stands, though it is in use");
    assert!(core.checkin_fast(at(9), leases.pop().expect("one")).is_ok());

    // One that has never been idle.
    let mut core: Core<Toy> = Core::new(Policy { max_lifetime: Some(SECOND * 10), ..policy(1) });
    let mut asked = fx(at(0));
    core.join(waiter(at(0), 0), &mut asked).expect("room to wait");
    let Some(Job::Connect(permit)) = asked.jobs.pop() else { panic!("an open") };
    let mut opened = fx(at(0));
    core.connect_finished(Leased::new(permit, 0), &mut opened);
    let Some((_, Answer::Granted(lease))) = opened.answers.pop() else { panic!("granted") };
    assert!(opened.wake_reaper);
    assert_eq!(core.tick(&mut fx(at(8))), at(10), "though it is in use");
    assert!(core.checkin_fast(at(9), lease).is_ok());
}

#[test]
fn a_plan_stands_though_its_connection_is_in_use_when_the_reaper_looks() {
    let long = Some(SECOND * 100);
    for settings in [
        Policy { max_lifetime: long, ..policy(1) },
        Policy { idle_timeout: long, ..policy(1) },
        Policy { keepalive: long, ..policy(1) },
        Policy { leak_threshold: long, ..policy(1) },
    ] {
        let mut core = filled(settings);
        let first = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
        core.checkin(first, Verdict::Keep, &mut fx(at(0)));
        for second in 1..5 {
            assert_eq!(core.tick(&mut fx(at(second))), at(100));
            let lease = core.acquire_fast(at(second), &9).expect("there is a plan");
            assert_eq!(core.tick(&mut fx(at(second))), at(100));
            assert!(core.checkin_fast(at(second), lease).is_ok(), "there is a plan");
        }
    }
}

#[test]
fn the_reaper_has_no_plan_where_nothing_is_lent_or_idle_and_the_next_step_makes_one() {
    let mut core = filled(Policy { leak_threshold: Some(SECOND * 3), ..policy(1) });
    assert_eq!(core.tick(&mut fx(at(1))), Time::NEVER, "nothing is lent");
    assert!(core.acquire_fast(at(1), &9).is_none(), "not without a plan");
    let mut got = fx(at(1));
    let lease = acquire(&mut core, 9, &mut got).expect("one is idle");
    assert!(got.wake_reaper);
    assert_eq!(core.tick(&mut fx(at(2))), at(4));
    assert_eq!(core.tick(&mut fx(at(4))), Time::NEVER, "reported once");
    core.checkin(lease, Verdict::Keep, &mut fx(at(5)));
    assert_eq!(core.tick(&mut fx(at(5))), Time::NEVER, "nothing is lent again");

    for span in [Some(SECOND * 3), Some(SECOND * 2)] {
        let keepalive = span.filter(|&span| span == SECOND * 2);
        let (mut core, mut leases) =
            exhausted(Policy { idle_timeout: Some(SECOND * 3), keepalive, ..policy(1) });
        assert_eq!(core.tick(&mut fx(at(3))), Time::NEVER, "nothing is idle");
        let lease = leases.pop().expect("one");
        let lease = core.checkin_fast(at(4), lease).expect_err("not without a plan");
        let mut back = fx(at(4));
        core.checkin(lease, Verdict::Keep, &mut back);
        assert!(back.wake_reaper);
        assert_eq!(Some(core.tick(&mut fx(at(4))).since(at(4))), span);
    }
}

#[test]
fn by_a_clock_that_lags_nothing_is_early() {
    let lags = Policy { clock_lag: SECOND * 2, ..policy(1) };
    // Got and returned at 6 s at the latest.
    let used = |settings| {
        let mut core = filled(settings);
        let lease = core.acquire_fast(at(4), &9).expect("one is idle");
        assert_eq!(core.holders(at(7)).map(|held| held.held_for).max(), Some(SECOND));
        assert_eq!(core.holders(at(5)).map(|held| held.held_for).max(), Some(Duration::ZERO));
        assert!(core.checkin_fast(at(4), lease).is_ok());
        core
    };
    let mut core = used(Policy { idle_timeout: Some(SECOND * 10), ..lags.clone() });
    core.policy.min_idle = Some(0);
    assert_eq!(core.tick(&mut fx(at(10))), at(16));
    core.tick(&mut fx(at(16)));
    assert_eq!(core.counters().closed[Reason::IdleTooLong as usize], 1);
    let mut core = used(Policy { keepalive: Some(SECOND * 10), ..lags.clone() });
    assert_eq!(core.tick(&mut fx(at(10))), at(16));

    let mut core = used(Policy { fresh_for: SECOND * 10, ..lags.clone() });
    let lease = acquire(&mut core, 9, &mut fx(at(15))).expect("it was used 9 s ago, or more");
    core.checkin(lease, Verdict::Keep, &mut fx(at(15)));
    assert!(core.acquire_fast(at(24), &9).is_some(), "up to four seconds late");
    let mut core = used(Policy { fresh_for: SECOND * 10, ..lags.clone() });
    assert!(acquire(&mut core, 9, &mut fx(at(16))).is_none(), "it needs a check");

    let mut core = filled(Policy { leak_threshold: Some(SECOND * 10), ..lags });
    let lease = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    core.checkin(lease, Verdict::Keep, &mut fx(at(0)));
    let _lease = core.acquire_fast(at(4), &9).expect("there is a plan");
    assert_eq!(core.tick(&mut fx(at(10))), at(16));
    core.tick(&mut fx(at(16)));
    assert_eq!(core.counters().leaks, 1);
}

#[test]
fn sizes_do_not_overflow() {
    let mut core: Core<Toy> =
        Core::new(Policy { min_idle: None, max_opening: 1, ..policy(u32::MAX) });
    core.tick(&mut fx(at(0)));
    core.join(waiter(at(0), 0), &mut fx(at(0))).expect("room to wait");
}

#[test]
fn p5_an_overrun_past_the_cap_is_abandoned_as_soon_as_there_is_room() {
    let mut core = filled(Policy { close_limit: SECOND, max_closers: 2, ..policy(2) });
    let mut closing = fx(at(0));
    core.policy.min_idle = Some(0); // Nobody has used them, so they have no successors.
    core.refresh(&mut closing);
    assert_eq!(closing.jobs.len(), 2);
    // Both hang; only one may be abandoned.
    let mut later = fx(at(2));
    assert_eq!(core.tick(&mut later), Time::NEVER);
    assert_eq!((core.gauges().abandoned, core.gauges().closing), (1, 1));
    let abandoned = closing.jobs.iter().position(|job| match job {
        Job::Close(lease, _) => {
            core.slots[lease.permit.index()].state == ConnectionState::Abandoned
        }
        _ => false,
    });
    let Job::Close(lease, _) = closing.jobs.swap_remove(abandoned.expect("one of them")) else {
        panic!("only closes");
    };
    let mut back = fx(at(3));
    core.close_finished(lease.permit, &mut back);
    assert!(back.wake_reaper, "the other overrun has to be looked at");
    core.tick(&mut fx(at(3)));
    assert_eq!((core.gauges().abandoned, core.gauges().closing), (1, 0));
}

#[test]
fn lifetimes_and_idle_times_are_drawn_once_and_are_within_their_limits() {
    let jitter =
        Policy { max_lifetime: Some(SECOND * 100), lifetime_jitter_permille: 100, ..policy(50) };
    let idle_timeout = Some(SECOND * 100);
    let mut core = filled(Policy { max_opening: 50, idle_timeout, ..jitter });
    let idle: Vec<_> = core.slots.iter().filter_map(|slot| slot.idle_time).collect();
    assert!(idle.iter().all(|&time| (SECOND * 100..=SECOND * 110).contains(&time)), "{idle:?}");
    assert!(idle.iter().any(|&time| time > SECOND * 105), "they would all end together");
    let drawn: Vec<Time> = core.slots.iter().map(|slot| slot.expires).collect();
    assert!(drawn.iter().all(|&at_| at_ > at(90) && at_ <= at(100)), "{drawn:?}");
    let distinct: std::collections::HashSet<_> = drawn.iter().collect();
    assert!(distinct.len() > 40, "all connections would end together");
    for second in 1..80 {
        core.tick(&mut fx(at(second)));
    }
    let later: Vec<Time> = core.slots.iter().map(|slot| slot.expires).collect();
    assert_eq!(drawn, later, "a lifetime that is drawn anew at each look never ends");
}

#[test]
fn failed_opens_are_retried_one_at_a_time_with_growing_delays() {
    let backoff = Policy { backoff_min: SECOND, backoff_max: SECOND * 8, ..policy(4) };
    let mut core: Core<Toy> = Core::new(Policy { max_opening: 4, ..backoff });
    let mut now = Time::START;
    let mut asked = fx(now);
    for client in 0..4 {
        core.join(waiter(now, client), &mut asked).expect("room to wait");
    }
    assert_eq!(opens(&asked), 4, "all at once while nothing is known to fail");
    let mut delays = Vec::new();
    for _ in 0..8 {
        let mut failed = fx(now);
        for job in asked.jobs.drain(..) {
            let Job::Connect(permit) = job else { panic!("only opens") };
            core.connect_failed(permit, 7, false, &mut failed);
        }
        assert_eq!(opens(&failed), 0, "not before the delay");
        let mut quiet = fx(now);
        let next = core.tick(&mut quiet);
        assert_eq!(opens(&quiet), 0);
        delays.push(next.since(now));
        now = next;
        asked.now = now;
        core.tick(&mut asked);
        assert_eq!(opens(&asked), 1, "one attempt finds out");
    }
    for (index, delay) in delays.iter().enumerate() {
        let longest = (SECOND * (1 << index)).min(SECOND * 8);
        assert!(*delay >= longest / 2 && *delay <= longest, "{delays:?}");
    }
    assert_eq!(core.last_error().map(|(_, cause)| cause), Some(7));
}

#[test]
fn failures_of_one_volley_count_as_one() {
    let backoff = Policy { backoff_min: SECOND, backoff_max: SECOND * 60, ..policy(4) };
    let mut core: Core<Toy> = Core::new(Policy { max_opening: 4, min_idle: Some(4), ..backoff });
    let mut asked = fx(at(0));
    core.tick(&mut asked);
    assert_eq!(opens(&asked), 4);
    for (job, second) in asked.jobs.drain(..).zip(0..) {
        let Job::Connect(permit) = job else { panic!("only opens") };
        core.connect_failed(permit, 7, false, &mut fx(at(second)));
    }
    assert!(core.tick(&mut fx(at(0))) <= at(1), "the first delay, after the first");
    assert_eq!(core.counters.open_failures, 4);
}

#[test]
fn p9_an_error_is_forgotten_when_a_connection_is_opened() {
    let mut core: Core<Toy> = Core::new(policy(1));
    let mut asked = fx(at(0));
    core.join(waiter(at(0), 0), &mut asked).expect("room to wait");
    let Some(Job::Connect(permit)) = asked.jobs.pop() else { panic!("an open") };
    core.connect_failed(permit, 7, false, &mut fx(at(1)));
    assert_eq!(core.last_error(), Some((at(1), 7)));
    let mut again = fx(at(3));
    core.tick(&mut again);
    let Some(Job::Connect(permit)) = again.jobs.pop() else { panic!("another open") };
    core.connect_finished(Leased::new(permit, 0), &mut fx(at(3)));
    assert_eq!(core.last_error(), None, "connecting works again");
}

#[test]
fn p9_a_thread_that_waits_twice_goes_on_waiting_for_itself() {
    let ends = Policy { self_deadlock_limit: Some(SECOND), ..policy(1) };
    let mut core = filled(ends);
    let lease = acquire(&mut core, 0, &mut fx(at(0))).expect("it is idle");
    let nested = |since| Waiter { nested: true, ..waiter(since, 0) };
    core.join(nested(at(1)), &mut fx(at(1))).expect("room to wait");
    // On the way to its wait it runs user code, which waits too.
    let second = core.join(nested(at(1)), &mut fx(at(1))).expect("room to wait");
    assert!(core.leave(second, ErrorKind::Timeout, &mut fx(at(1))));
    let mut later = fx(at(2));
    core.tick(&mut later);
    assert!(matches!(later.answers[..], [(0, Answer::SelfDeadlock(_))]), "it is told");
    core.checkin(lease, Verdict::Keep, &mut fx(at(2)));
}

#[test]
fn p9_an_old_failure_that_may_pass_is_not_told_as_one_for_good() {
    let backoff = Policy { backoff_min: SECOND, backoff_max: SECOND, ..policy(2) };
    let mut core: Core<Toy> = Core::new(backoff);
    let mut asked = fx(at(0));
    for client in 0..2 {
        core.join(waiter(at(0), client), &mut asked).expect("room to wait");
    }
    let mut permits = asked.jobs.drain(..).map(|job| match job {
        Job::Connect(permit) => permit,
        _ => panic!("only opens"),
    });
    let (first, second) = (permits.next().expect("one"), permits.next().expect("another"));
    let mut failed = fx(at(1));
    core.connect_failed(first, 7, true, &mut failed);
    assert_eq!(failed.answers.len(), 2, "both are told");
    // The next attempt is due. A newcomer does not wait for it.
    let refused = core.join(waiter(at(3), 3), &mut fx(at(3)));
    assert_eq!(refused.err(), Some(ErrorKind::Connect));
    let mut late = fx(at(4));
    core.connect_failed(second, 8, false, &mut late);
    assert_eq!(opens(&late), 1, "the attempt that is due, though nobody waits");
    assert_eq!(core.last_error(), Some((at(1), 7)), "it says more");
}

#[test]
fn p2_past_the_bound_a_return_serves_all_though_the_one_that_was_called_is_slow() {
    let (mut core, leases) = exhausted(Policy { fairness_bound: SECOND, ..policy(3) });
    let ids: Vec<_> = (0..3)
        .map(|cell| core.join(waiter(at(10), cell), &mut fx(at(10))).expect("room"))
        .collect();
    let mut leases = leases.into_iter();
    core.checkin(leases.next().expect("three"), Verdict::Keep, &mut fx(at(10)));
    assert_eq!(core.nudged, Some(ids[0]));
    for lease in leases {
        if let Err(lease) = core.checkin_fast(at(20), lease) {
            core.checkin(lease, Verdict::Keep, &mut fx(at(20)));
        }
    }
    let gauges = core.gauges();
    assert_eq!((gauges.idle, gauges.waiting), (0, 0));
}

#[test]
fn p3_a_claim_finds_the_one_that_a_check_uncovers() {
    let long = SECOND * 60;
    let (mut core, leases) =
        exhausted(Policy { fresh_for: SECOND, fairness_bound: long, ..policy(2) });
    let mut leases = leases.into_iter();
    let mut next = || leases.next().expect("two");
    let id = core.join(waiter(at(10), 0), &mut fx(at(10))).expect("room");
    // One is returned at 10.5 s; then another, by a clock that lags.
    core.checkin(next(), Verdict::Keep, &mut fx(Time::START.after(SECOND * 21 / 2)));
    assert_eq!(core.nudged, Some(id));
    assert!(core.checkin_fast(at(10), next()).is_ok());
    // Now the top is due for its check.
    assert!(core.claim(id, &mut fx(Time::START.after(SECOND * 56 / 5))).is_some());
    assert_eq!(core.gauges().waiting, 0);
}

#[test]
fn the_close_of_what_an_abandoned_open_brought_is_shown_as_a_close() {
    let limits = Policy { open_limit: SECOND, max_abandoned: 1, ..policy(1) };
    let mut core: Core<Toy> = Core::new(limits);
    let mut asked = fx(at(0));
    core.join(waiter(at(0), 0), &mut asked).expect("room to wait");
    let Some(Job::Connect(slow)) = asked.jobs.pop() else { panic!("an open") };
    core.tick(&mut fx(at(1)));
    let mut again = fx(at(4));
    core.tick(&mut again);
    let Some(Job::Connect(quick)) = again.jobs.pop() else { panic!("another open") };
    core.connect_finished(Leased::new(quick, 1), &mut fx(at(4)));
    let calls = |core: &Core<Toy>| core.picture(at(7)).calls;
    let call = |kind, connection_id, seconds| {
        let running_for = SECOND * seconds;
        vec![Call { kind, connection_id, running_for, queued: false, abandoned: true }]
    };
    assert_eq!(calls(&core), call(CallKind::Connect, 0, 7));
    // It is opened after all, but there is no room.
    let mut late = fx(at(5));
    core.connect_finished(Leased::new(slow, 2), &mut late);
    assert!(matches!(late.jobs[..], [Job::Close(..)]));
    assert_eq!(calls(&core), call(CallKind::Close, 3, 2), "what is under way now");
}

#[test]
fn p2_waiters_are_shown_in_the_order_in_which_they_are_served() {
    // Ageing so slow that all turns but the most important one's are equal.
    let (mut core, leases) =
        exhausted(Policy { priority_ageing: Duration::MAX, max_opening: 1, ..policy(4) });
    for (client, priority) in [(0, 3), (1, 2), (2, 2), (3, 0)] {
        let waiter = Waiter { priority, ..waiter(at(1), client) };
        core.join(waiter, &mut fx(at(1))).expect("room to wait");
    }
    let mut shown = core.waiting(at(1));
    Waiting::put_in_order(&mut shown);
    let shown: Vec<u8> = shown.iter().map(|waiting| waiting.caller).collect();
    let mut served = Vec::new();
    for lease in leases {
        let mut back = fx(at(2));
        core.checkin(lease, Verdict::Keep, &mut back);
        served.extend(back.answers.iter().map(|(client, _)| *client));
    }
    assert_eq!((&shown, served), (&vec![3, 1, 2, 0], shown.clone()));
}

#[test]
fn a_get_that_was_cancelled_before_it_began_is_told() {
    let mut core: Core<Toy> = Core::new(policy(1));
    core.swap_events(Some(EventBuffer::with_capacity(8)));
    core.refuse(ErrorKind::Cancelled, at(1), 7);
    let mut noted = core.swap_events(None).expect("the journal is open");
    let (waited, kind) = (Duration::ZERO, ErrorKind::Cancelled);
    let step = Step::GetFailed { get_id: 1, caller: 7, waited, kind };
    assert_eq!(noted.take().0.collect::<Vec<_>>(), [Entry { at: at(1), step }]);
    assert_eq!(core.counters().cancelled, 1);
}

#[test]
fn newcomers_who_may_pass_for_ever_are_counted_too() {
    let (mut core, leases) = exhausted(Policy { fairness_bound: Duration::MAX, ..policy(1) });
    core.join(waiter(at(1), 0), &mut fx(at(1))).expect("room to wait");
    for lease in leases {
        core.checkin(lease, Verdict::Keep, &mut fx(at(2)));
    }
    assert!(core.acquire_fast(at(3), &1).is_none(), "somebody waits");
    assert!(core.overtake(at(3), &1).is_some());
    assert_eq!(core.counters().overtakes, 1);
}

// ---- at the very moment of a limit, and what only costs time: found by cargo-mutants ----

#[test]
fn p2_at_the_bound_a_return_serves_the_first_waiter() {
    let (mut core, mut leases) = exhausted(Policy { fairness_bound: SECOND, ..policy(2) });
    core.join(waiter(at(10), 0), &mut fx(at(10))).expect("room to wait");
    core.checkin(leases.pop().expect("two"), Verdict::Keep, &mut fx(at(10)));
    let last = leases.pop().expect("two");
    let last = core.checkin_fast(at(11), last).expect_err("newcomers may not overtake any more");
    let mut back = fx(at(11));
    core.checkin(last, Verdict::Keep, &mut back);
    assert!(matches!(back.answers[..], [(0, Answer::Granted(_))]));
}

/// Two connections of a pool with room for three, both used, at the end of their lifetimes:
/// one is idle.
fn at_the_end_of_life() -> (Core<Toy>, Lease<u32>, Effects<Toy>) {
    let aged = Policy { max_lifetime: Some(SECOND * 10), fresh_for: SECOND, ..policy(2) };
    let mut core = filled(aged);
    core.policy.min_idle = Some(1);
    let lease = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    let other = acquire(&mut core, 8, &mut fx(at(0))).expect("another is");
    core.checkin(other, Verdict::Keep, &mut fx(at(0)));
    core.set_max_size(3, &mut fx(at(0)));
    let mut ended = fx(at(10));
    core.tick(&mut ended);
    (core, lease, ended)
}

#[test]
fn p17_an_old_connection_ends_when_its_successor_is_there() {
    let (mut core, lease, mut ended) = at_the_end_of_life();
    assert_eq!((opens(&ended), ended.jobs.len(), core.old), (1, 1, 2), "one at a time");
    let lease = core.checkin_fast(at(11), lease).expect_err("it is to be replaced");
    let mut back = fx(at(11));
    core.checkin(lease, Verdict::Keep, &mut back);
    assert_eq!((back.jobs.len(), core.idle.len()), (0, 2), "its successor is not there");
    let lease = core.acquire_fast(at(11), &9).expect("it serves until then, without a check");
    let Some(Job::Connect(permit)) = ended.jobs.pop() else { panic!("an open") };
    let mut opened = fx(at(12));
    core.connect_finished(Leased::new(permit, 0), &mut opened);
    assert!(matches!(opened.jobs[..], [Job::Close(_, Reason::Expired)]), "of the idle one");
    let mut closed = fx(at(12));
    let Some(Job::Close(old, _)) = opened.jobs.pop() else { panic!("a close") };
    core.close_finished(old.permit, &mut closed);
    assert_eq!((opens(&closed), core.old), (1, 1), "the next");
    let Some(Job::Connect(permit)) = closed.jobs.pop() else { panic!("an open") };
    core.connect_finished(Leased::new(permit, 0), &mut fx(at(13)));
    let mut back = fx(at(14));
    core.checkin(lease, Verdict::Keep, &mut back);
    assert!(matches!(back.jobs[..], [Job::Close(_, Reason::Expired)]), "it comes back too late");
    assert_eq!((core.old, core.open_count()), (0, 2));
}

#[test]
fn p17_while_connecting_fails_old_connections_go_on() {
    let (mut core, lease, mut ended) = at_the_end_of_life();
    let Some(Job::Connect(permit)) = ended.jobs.pop() else { panic!("an open") };
    core.connect_failed(permit, 0, false, &mut fx(at(11)));
    core.set_max_size(2, &mut fx(at(11)));
    let mut back = fx(at(11));
    core.checkin(lease, Verdict::Keep, &mut back);
    assert!(back.jobs.is_empty() && core.idle.len() == 2, "a full pool that cannot connect");
    core.set_max_size(3, &mut fx(at(11)));
    let mut later = fx(at(12));
    core.tick(&mut later);
    assert_eq!(opens(&later), 1, "it goes on trying, after the backoff");
}

#[test]
fn p17_successors_are_begun_so_early_that_all_are_there_in_time() {
    let mut core: Core<Toy> =
        Core::new(Policy { min_idle: None, max_lifetime: Some(SECOND * 100), ..policy(4) });
    let mut asked = fx(at(0));
    core.tick(&mut asked);
    let Some(Job::Connect(permit)) = asked.jobs.pop() else { panic!("an open") };
    let slot = permit.index();
    core.connect_finished(Leased::new(permit, 0), &mut fx(at(3)));
    assert_eq!(core.slots[slot].expires, at(103 - 2 * 4 * 3), "twice the connects of all");
    let Some(Job::Connect(permit)) = asked.jobs.pop() else { panic!("another") };
    let slot = permit.index();
    core.connect_finished(Leased::new(permit, 1), &mut fx(at(30)));
    assert_eq!(core.slots[slot].expires, at(80), "half its lifetime is left to it");
}

#[test]
fn p17_what_nobody_used_and_nobody_needs_has_no_successor() {
    let mut core = filled(Policy { max_lifetime: Some(SECOND * 10), ..policy(3) });
    core.policy.min_idle = Some(1);
    core.set_max_size(4, &mut fx(at(0)));
    let lease = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    core.checkin(lease, Verdict::Keep, &mut fx(at(0)));
    let mut ended = fx(at(10));
    core.tick(&mut ended);
    assert_eq!((core.gauges().closing, opens(&ended)), (2, 1), "only of the one that was used");
    assert_eq!(core.open_count(), 1);
}

#[test]
fn p17_idle_connections_are_surplus_if_min_idle_others_are_idle_as_long() {
    let idle = Policy { idle_timeout: Some(SECOND * 10), ..policy(4) };
    let mut core = filled(idle);
    core.policy.min_idle = Some(2);
    let lease = acquire(&mut core, 9, &mut fx(at(5))).expect("one is idle");
    core.checkin(lease, Verdict::Keep, &mut fx(at(5)));
    let mut ended = fx(at(10));
    assert_eq!(core.tick(&mut ended), at(15), "when the third of them has been idle as long");
    assert_eq!(core.counters().closed[Reason::IdleTooLong as usize], 1, "of three that are");
    core.tick(&mut fx(at(15)));
    assert_eq!((core.idle.len(), core.wake_at), (2, Time::NEVER));
    let mut fewer = fx(at(16));
    core.set_min_idle(Some(0), &mut fewer);
    assert!(fewer.wake_reaper, "they are too many now");
    core.tick(&mut fx(at(16)));
    assert_eq!(core.open_count(), 0);
}

#[test]
fn what_ends_on_time_ends_below_min_idle_and_though_none_can_be_opened() {
    let lives = Policy { max_lifetime: Some(SECOND * 10), ends_on_time: true, ..policy(3) };
    let mut core = filled(lives);
    core.policy.min_idle = None;
    let held = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    let mut ended = fx(at(10));
    core.tick(&mut ended);
    assert_eq!((core.gauges().closing, core.open_count()), (2, 1), "at once, all but the held one");
    core.checkin(held, Verdict::Keep, &mut fx(at(11)));
    assert_eq!(core.counters().closed[Reason::Expired as usize], 3, "that one on its return");

    let idles = Policy { idle_timeout: Some(SECOND * 10), ends_on_time: true, ..policy(3) };
    let mut core = filled(idles);
    core.policy.min_idle = Some(2);
    assert_eq!(core.tick(&mut fx(at(9))), at(10));
    core.tick(&mut fx(at(10)));
    assert_eq!(core.counters().closed[Reason::IdleTooLong as usize], 3, "none is kept");

    let mut core = filled(Policy { ends_on_time: true, ..policy(3) });
    core.policy.min_idle = None;
    core.refresh(&mut fx(at(1)));
    assert_eq!(core.open_count(), 2, "a refresh replaces one after another");
}

/// A pool in which only a check within the last second counts.
fn by_check(size: u32) -> Policy {
    Policy { fresh_by_check: true, fresh_for: SECOND, ..policy(size) }
}

/// The get of a caller for whom a connection must be checked first.
fn get_after_check(core: &mut Core<Toy>, caller: u8, now: Time) -> Lease<u32> {
    let mut asks = fx(now);
    assert!(acquire(core, caller, &mut asks).is_none(), "lent without a check");
    core.join(waiter(now, caller), &mut asks).expect("room to wait");
    let Some(Job::Check(lease, Check::VALIDATE)) = asks.jobs.pop() else { panic!("no check") };
    assert!(asks.jobs.is_empty(), "one is enough");
    let mut checked = fx(now);
    core.check_finished(lease, Ok(()), &mut checked);
    let Some((_, Answer::Granted(lease))) = checked.answers.pop() else { panic!("for nobody") };
    lease
}

#[test]
fn p13_where_only_checks_count_neither_a_connect_nor_a_use_spares_one() {
    let mut core = filled(by_check(1));
    let mut lease = get_after_check(&mut core, 0, at(0));
    for caller in [1, 2] {
        core.checkin(lease, Verdict::Keep, &mut fx(at(0)));
        lease = acquire(&mut core, caller, &mut fx(at(0))).expect("it was checked a moment ago");
    }
    core.checkin(lease, Verdict::Keep, &mut fx(at(1)));
    let lease = get_after_check(&mut core, 3, at(1));
    let mut resets = fx(at(2));
    core.checkin(lease, Verdict::Check(Check { reset: true, ..Check::NONE }), &mut resets);
    let Some(Job::Check(lease, _)) = resets.jobs.pop() else { panic!("no reset") };
    core.check_finished(lease, Ok(()), &mut fx(at(2)));
    let _lent = get_after_check(&mut core, 4, at(2)); // A reset is no check.
}

#[test]
fn where_only_checks_count_a_quiet_pool_makes_one_for_each_get() {
    let mut core = filled(by_check(2));
    for second in [2, 4, 6, 8] {
        let lease = get_after_check(&mut core, 0, at(second));
        let mut comes_back = fx(at(second));
        core.checkin(lease, Verdict::Keep, &mut comes_back);
        core.tick(&mut comes_back);
        assert_eq!(checks(&comes_back), 0);
    }
}

/// Two connections, lent. The first is no longer fit, the other was checked just now. The check
/// of the third hangs.
fn with_a_check_that_hangs(policy: Policy) -> (Core<Toy>, WaiterId, [Lease<u32>; 2]) {
    let mut core = filled(policy);
    let due = get_after_check(&mut core, 0, at(1));
    let fit = get_after_check(&mut core, 1, at(5));
    let mut hangs = fx(at(5));
    let id = core.join(waiter(at(5), 2), &mut hangs).expect("room to wait");
    assert_eq!(checks(&hangs), 1);
    (core, id, [due, fit])
}

#[test]
fn p1_a_check_that_hangs_delays_nobody_who_can_have_another() {
    let (mut core, id, [due, fit]) = with_a_check_that_hangs(by_check(3));
    assert!(core.leave(id, ErrorKind::Timeout, &mut fx(at(5))));
    let index = fit.permit.index();
    core.checkin(fit, Verdict::Keep, &mut fx(at(5)));
    core.checkin(due, Verdict::Keep, &mut fx(at(5)));
    let mut asks = fx(at(5));
    let lease = acquire(&mut core, 3, &mut asks).expect("the one below the top is fit");
    assert_eq!((lease.permit.index(), checks(&asks)), (index, 0), "nothing is checked for it");
}

#[test]
fn p3_the_first_waiter_finds_a_fit_connection_below_one_that_is_due() {
    let (mut core, id, [due, fit]) =
        with_a_check_that_hangs(Policy { fairness_bound: SECOND, ..by_check(3) });
    core.tick(&mut fx(at(5)));
    let index = fit.permit.index();
    let mut nudges = fx(at(5));
    core.checkin(fit, Verdict::Keep, &mut nudges);
    assert!(matches!(nudges.answers[..], [(2, Answer::Nudged)]));
    assert!(core.checkin_fast(at(5), due).is_ok(), "the first is on its way");
    let lease = core.claim(id, &mut fx(at(5))).expect("the one below the top is fit");
    assert_eq!(lease.permit.index(), index);
}

#[test]
fn the_end_of_a_keepalive_starts_the_next() {
    let mut core = filled(Policy { keepalive: Some(SECOND), max_opening: 6, ..policy(6) });
    let mut due = fx(at(1));
    core.tick(&mut due);
    assert_eq!(checks(&due), 4, "at once");
    for place in 0..2 {
        let Some(Job::Check(lease, _)) = due.jobs.pop() else { panic!("only checks") };
        let mut ended = fx(at(1));
        core.check_finished(lease, Ok(()), &mut ended);
        assert_eq!(checks(&ended), 1, "without the reaper");
        // It plans for the first that is idle again.
        assert_eq!(ended.wake_reaper, place == 0);
        assert_eq!(core.keepalive_from, place, "the search goes on from here");
    }
}

#[test]
fn a_get_and_its_return_take_the_fast_path_until_the_connection_expires() {
    let mut core = filled(Policy { max_lifetime: Some(SECOND * 100), ..policy(2) });
    core.tick(&mut fx(at(1)));
    for noted in [false, true] {
        let lease = match noted {
            false => core.acquire_fast(at(2), &9),
            true => core.acquire_noted(at(2), &9),
        };
        let lease = lease.expect("one is idle and fresh");
        assert!(core.checkin_fast(at(2), lease).is_ok(), "nobody waits");
    }
    let lease = core.acquire_fast(at(2), &9).expect("one is idle and fresh");
    core.tick(&mut fx(at(100)));
    assert!(core.checkin_fast(at(100), lease).is_err(), "it is to be replaced");
}

// ---- what is shown ----

#[test]
fn p2_a_waiter_with_a_clock_that_lags_is_shown_behind_those_ahead_of_it() {
    let (mut core, _leases) = exhausted(policy(1));
    for (client, since) in [(0, at(2)), (1, at(1))] {
        core.join(waiter(since, client), &mut fx(at(2))).expect("room to wait");
    }
    let mut shown = core.waiting(at(3));
    Waiting::put_in_order(&mut shown);
    assert!(shown.iter().map(|waiting| waiting.caller).eq([0, 1]));
}

#[test]
fn connections_are_shown_with_their_holders_and_leaks_are_counted() {
    let leaks = Policy { leak_threshold: Some(SECOND), min_idle: None, ..policy(3) };
    let (mut core, mut leases) = exhausted(leaks);
    core.checkin(leases.pop().expect("three"), Verdict::Keep, &mut fx(at(0)));
    let permit = leases.pop().expect("three").permit;
    core.close(&mut fx(at(0)));
    core.detach(permit, &mut fx(at(0)));
    core.tick(&mut fx(at(2)));
    assert_eq!(core.figures(at(2)).leaked, 1);
    let shown = core.connections(at(2)).into_iter().map(|view| (view.state, view.caller));
    let expected = [(ConnectionState::Busy, Some(9)), (ConnectionState::Closing, None)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

#[test]
fn a_pause_is_shown_until_it_ends() {
    let mut core = filled(policy(1));
    assert!(!core.is_paused());
    core.pause();
    assert!(core.is_paused());
    core.resume(&mut fx(at(1)));
    assert!(!core.is_paused());
}

#[test]
fn jitter_is_drawn_by_xorshift64() {
    let mut core: Core<Toy> = Core::new(Policy { seed: 1, ..policy(1) });
    for published in [1_082_269_761, 1_152_992_998_833_853_505, 11_177_516_664_432_764_457] {
        let fraction = core.fraction();
        assert_eq!(core.random, published);
        assert!((0.0..1.0).contains(&fraction));
    }
}

/// Keepalives prove one connection, and find another dead. The third was used meanwhile, and is
/// on top.
#[test]
fn p13_what_is_in_doubt_lies_below_what_is_proved() {
    let mut core = filled(Policy { keepalive: Some(SECOND), ..policy(3) });
    let used = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    let mut due = fx(at(1));
    core.tick(&mut due);
    let checks = due.jobs.into_iter().map(|job| match job {
        Job::Check(lease, _) => lease,
        _ => panic!("only keepalives"),
    });
    let [dead, proved] = <[_; 2]>::try_from(checks.collect::<Vec<_>>()).expect("of two");
    let slot = proved.permit.index();
    core.check_finished(proved, Ok(()), &mut fx(at(1)));
    core.checkin(used, Verdict::Keep, &mut fx(at(1)));
    core.check_finished(dead, Err((Reason::Invalid, 7)), &mut fx(at(1)));
    let lease = acquire(&mut core, 9, &mut fx(at(1))).expect("it needs no check");
    assert_eq!(lease.permit.index(), slot, "the one that is proved");
}

/// The same, where the keepalive of the proved one ends last.
#[test]
fn p13_a_keepalive_puts_what_it_proved_above_what_is_in_doubt() {
    let mut core = filled(Policy { keepalive: Some(SECOND), ..policy(3) });
    let used = acquire(&mut core, 9, &mut fx(at(0))).expect("one is idle");
    let mut due = fx(at(1));
    core.tick(&mut due);
    core.checkin(used, Verdict::Keep, &mut fx(at(1)));
    for job in due.jobs {
        let Job::Check(lease, _) = job else { panic!("only keepalives") };
        let result =
            if core.counters.check_failures == 0 { Err((Reason::Invalid, 7)) } else { Ok(()) };
        core.check_finished(lease, result, &mut fx(at(1)));
    }
    assert!(acquire(&mut core, 9, &mut fx(at(1))).is_some(), "it needs no check");
}
