//! The rules on pairs of snapshots made by hand.

use std::panic::Location;
use std::time::SystemTime;

use super::*;
use crate::core::{Held, NestedWait, Time, Waiting};
use crate::observe::snapshot::{LastError, Settings};
use crate::types::caller::{Caller, Label};
use crate::types::health::{Health, HealthLevel, HealthThresholds};
use crate::types::holder::{NestedGet, Waiter};
use crate::types::stats::Stats;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Two snapshots of a pool of four, a second apart; every connection idle.
fn pair() -> (Snapshot, Snapshot) {
    (look(ms(60_000)), look(ms(61_000)))
}

fn look(uptime: Duration) -> Snapshot {
    let health = Health {
        level: HealthLevel::Healthy,
        waiting: 0,
        mean_wait: Duration::ZERO,
        oldest_wait: Duration::ZERO,
        lasted: uptime,
        out_for: None,
    };
    let settings = Settings {
        max_size: 10,
        min_idle: 10,
        max_idle: 10,
        max_waiters: None,
        fail_fast_after: None,
        max_abandoned: 10,
        connection_timeout: Duration::from_secs(30),
        max_lifetime: None,
        lifetime_jitter_permille: 0,
        idle_timeout: None,
        keepalive: None,
        leak_threshold: None,
        health_thresholds: HealthThresholds::default(),
    };
    Snapshot {
        pool: "orders".into(),
        taken_at: SystemTime::UNIX_EPOCH + uptime,
        uptime,
        settings,
        stats: Stats { max_size: 4, open: 4, idle: 4, ..Stats::default() },
        health,
        paused: false,
        closed: false,
        holders: Vec::new(),
        waiters: Vec::new(),
        calls: Vec::new(),
        nested_gets: Vec::new(),
        last_error: None,
        failing_for: None,
    }
}

#[track_caller]
fn caller() -> Caller {
    Caller::here(Location::caller(), Label::NONE, 5)
}

fn hold(snapshot: &mut Snapshot, connection: u64, caller: Caller, held_for: Duration) {
    snapshot.holders.push(Holder::from(Held {
        connection_id: connection,
        backend_id: 0,
        caller,
        held_for,
        untaken: false,
    }));
    snapshot.stats.in_use += 1;
    snapshot.stats.idle -= 1;
}

/// Waits that have lasted for `waited` at the first snapshot.
fn wait(pair: &mut (Snapshot, Snapshot), waiting: u32, waited: Duration) {
    let asking = caller();
    for (look, waited) in [(&mut pair.0, waited), (&mut pair.1, waited + ms(1000))] {
        look.stats.waiting = waiting;
        look.health.waiting = waiting;
        look.health.mean_wait = waited;
        look.health.oldest_wait = waited;
        look.waiters = (0..u64::from(waiting))
            .map(|get_id| {
                Waiter::from(Waiting { get_id, caller: asking.clone(), waited, turn: Time::START })
            })
            .collect();
    }
}

/// The same four callers hold everything in both snapshots.
fn keep_all(pair: &mut (Snapshot, Snapshot), held_for: Duration) {
    let (rare, common) = (caller(), caller());
    for id in 1..=4 {
        let keeper = if id == 1 { &rare } else { &common };
        hold(&mut pair.0, id, keeper.clone(), held_for);
        hold(&mut pair.1, id, keeper.clone(), held_for + ms(1000));
    }
}

/// Four callers hold everything, but not the same in both snapshots.
fn swap_all(pair: &mut (Snapshot, Snapshot)) {
    for id in 1..=4 {
        hold(&mut pair.0, id, caller(), ms(700));
        hold(&mut pair.1, id, caller(), ms(900));
    }
}

fn kinds(pair: &(Snapshot, Snapshot)) -> Vec<(FindingKind, Severity)> {
    judge(&pair.0, &pair.1).iter().map(|finding| (finding.kind, finding.severity)).collect()
}

use FindingKind::*;
use Severity::{Critical, Info, Warning};

#[test]
fn an_idle_pool_is_healthy() {
    assert_eq!(kinds(&pair()), []);
}

#[test]
fn a_pool_that_is_full_and_flows_is_healthy() {
    let mut pair = pair();
    swap_all(&mut pair);
    pair.1.stats.gets = 40_000;
    pair.1.stats.gets_waited = 30_000;
    pair.1.stats.time_waited = ms(4) * 30_000;
    for look in [&mut pair.0, &mut pair.1] {
        look.health.waiting = 28;
        look.stats.waiting = 28;
        look.health.oldest_wait = ms(99);
    }
    assert_eq!(kinds(&pair), []);
    // One long wait is not yet a queue …
    pair.1.health.oldest_wait = ms(499);
    assert_eq!(kinds(&pair), []);
    // … but two in succession are.
    pair.0.health.oldest_wait = ms(100);
    assert_eq!(kinds(&pair), [(Saturated, Warning)]);
    pair.1.health.oldest_wait = ms(500);
    assert_eq!(kinds(&pair), [(Saturated, Critical)]);
}

#[test]
fn a_full_pool_that_nobody_waits_for_is_healthy() {
    let mut pair = pair();
    keep_all(&mut pair, ms(600_000));
    assert_eq!(kinds(&pair), []);
    // Waits that have only just begun do not count.
    wait(&mut pair, 3, ms(20));
    assert_eq!(kinds(&pair), []);
}

#[test]
fn those_who_keep_everything_are_a_leak_and_named_by_line() {
    let mut pair = pair();
    keep_all(&mut pair, ms(300));
    wait(&mut pair, 7, ms(150));
    let findings = judge(&pair.0, &pair.1);
    assert_eq!(kinds(&pair), [(Leak, Critical), (Queue, Critical)]);
    let leak = &findings[0];
    assert!(leak.summary.contains("all 4 connections are in use"), "{}", leak.summary);
    let (rare, common) = (pair.1.holders[0].location(), pair.1.holders[1].location());
    let most = format!("3 connections were got at {common}, 1.3s ago, by ");
    assert!(leak.evidence[0].starts_with(&most), "{:#?}", leak.evidence);
    let one = format!("1 connection was got at {rare}, ");
    assert!(leak.evidence[1].starts_with(&one), "{:#?}", leak.evidence);
    assert_eq!(leak.holders.len(), 4);
    assert!(findings[1].advice.contains("leak"), "{}", findings[1].advice);
}

#[test]
fn short_deadlines_do_not_hide_a_leak() {
    let mut pair = pair();
    keep_all(&mut pair, ms(300));
    pair.1.stats.timeouts = 50;
    pair.1.stats.time_waited = ms(10) * 50;
    assert_eq!(kinds(&pair), [(Leak, Critical)]);
}

#[test]
fn one_connection_that_came_back_is_no_standstill() {
    let mut pair = pair();
    keep_all(&mut pair, ms(300));
    // It was returned and got again in between, at the same line, by the same thread.
    let again = Held {
        connection_id: 2,
        backend_id: 0,
        caller: caller(),
        held_for: ms(1299),
        untaken: false,
    };
    pair.1.holders[1] = Holder::from(again);
    pair.1.stats.gets = 1;
    wait(&mut pair, 7, ms(150));
    assert_eq!(kinds(&pair), [(Saturated, Critical)]);
}

#[test]
fn a_connection_kept_for_longer_than_the_threshold_is_a_leak() {
    let mut pair = pair();
    let keeper = caller();
    hold(&mut pair.0, 1, keeper.clone(), ms(4500));
    hold(&mut pair.1, 1, keeper, ms(5500));
    assert_eq!(kinds(&pair), [], "without a threshold nobody knows");
    pair.1.settings.leak_threshold = Some(ms(5000));
    assert_eq!(kinds(&pair), [(Leak, Warning)]);
    pair.1.settings.leak_threshold = Some(ms(6000));
    assert_eq!(kinds(&pair), []);
}

#[test]
fn a_hold_that_did_not_count_yet_at_the_first_look_is_kept_too() {
    let mut pair = pair();
    let keeper = caller();
    hold(&mut pair.0, 1, keeper.clone(), ms(0));
    hold(&mut pair.1, 1, keeper.clone(), ms(992));
    pair.1.settings.leak_threshold = Some(ms(500));
    assert_eq!(kinds(&pair), [(Leak, Warning)]);
    pair.1.holders.clear();
    hold(&mut pair.1, 1, keeper, ms(900));
    assert_eq!(kinds(&pair), [], "got again");
}

#[test]
fn some_kept_for_longer_than_a_caller_waits_are_a_leak_while_callers_wait_long() {
    let mut pair = pair();
    keep_all(&mut pair, ms(30_000));
    pair.1.stats.gets = 1;
    pair.1.holders[3] = Holder::from(Held {
        connection_id: 4,
        backend_id: 0,
        caller: caller(),
        held_for: ms(5),
        untaken: false,
    });
    assert_eq!(kinds(&pair), []);
    wait(&mut pair, 7, ms(150));
    assert_eq!(kinds(&pair), [(Saturated, Critical), (Leak, Warning)]);
    assert_eq!(judge(&pair.0, &pair.1)[1].holders.len(), 3);
}

#[test]
fn threads_that_wait_for_themselves_are_no_leak() {
    let mut pair = pair();
    keep_all(&mut pair, ms(300));
    wait(&mut pair, 4, ms(600));
    for look in [&mut pair.0, &mut pair.1] {
        let held = Held {
            connection_id: 1,
            backend_id: 0,
            caller: caller(),
            held_for: ms(300),
            untaken: false,
        };
        look.nested_gets = vec![NestedGet::from(NestedWait { held, waits: caller() })];
    }
    assert_eq!(kinds(&pair), [(SelfDeadlock, Critical), (Queue, Critical)]);
    let nested = &judge(&pair.0, &pair.1)[0];
    assert!(nested.evidence[0].contains("waits for another at"), "{:?}", nested.evidence);

    // A self-deadlock that is over at once, but happens several times.
    let mut often = self::pair();
    often.1.stats.self_deadlocks = 3;
    assert_eq!(kinds(&often), [(SelfDeadlock, Warning)]);
}

fn call(kind: CallKind, running_for: Duration, queued: bool, abandoned: bool) -> DriverCall {
    DriverCall { kind, connection_id: Some(1), running_for, queued, abandoned }
}

#[test]
fn a_driver_call_hangs_if_it_has_run_for_a_second_and_at_both_looks() {
    for (kind, found) in [
        (CallKind::Connect, ConnectHangs),
        (CallKind::Check, CheckHangs),
        (CallKind::Close, CloseHangs),
    ] {
        let mut pair = pair();
        pair.1.calls = vec![call(kind, ms(999), false, false)];
        assert_eq!(kinds(&pair), []);
        pair.1.calls = vec![call(kind, ms(1000), false, false)];
        assert_eq!(kinds(&pair), [(found, Warning)]);
        wait(&mut pair, 2, ms(200));
        assert_eq!(kinds(&pair), [(found, Critical), (Queue, Critical)]);
    }
}

#[test]
fn closes_that_wait_for_their_turn_do_not_hang() {
    let mut pair = pair();
    pair.1.calls = vec![call(CallKind::Close, ms(5000), true, false)];
    assert_eq!(kinds(&pair), []);
    pair.1.calls.push(call(CallKind::Close, ms(3000), false, false));
    let findings = judge(&pair.0, &pair.1);
    assert_eq!(findings[0].kind, CloseHangs);
    assert!(findings[0].evidence[0].contains("the oldest for 3.0s"), "{:?}", findings[0].evidence);
    assert!(findings[0].evidence[1].contains("1 connection waits for a closer"));
}

#[test]
fn an_abandoned_close_keeps_nobody_waiting() {
    let mut pair = pair();
    pair.1.calls = vec![call(CallKind::Close, ms(9000), false, true)];
    wait(&mut pair, 2, ms(100));
    assert_eq!(kinds(&pair), [(Queue, Critical), (CloseHangs, Warning)]);
}

#[test]
fn connecting_that_fails_is_told_with_the_last_error() {
    let mut pair = pair();
    let error = LastError { age: ms(200), text: "connection refused".into() };
    for look in [&mut pair.0, &mut pair.1] {
        look.last_error = Some(error.clone());
        look.failing_for = Some(ms(7000));
    }
    assert_eq!(kinds(&pair), [], "nobody tries any more: it may be over");
    pair.1.stats.open_failures = 1;
    assert_eq!(kinds(&pair), [(ConnectFails, Warning)]);
    wait(&mut pair, 2, ms(200));
    let findings = judge(&pair.0, &pair.1);
    assert_eq!(kinds(&pair), [(ConnectFails, Critical), (Queue, Critical)]);
    assert_eq!(findings[0].evidence[0], "last error, 200.0ms ago: connection refused");
    pair.0.failing_for = None;
    assert_eq!(kinds(&pair), [(Queue, Critical)], "it has only just begun");
}

/// If connecting fails permanently, callers fail without waiting.
#[test]
fn callers_that_fail_at_once_suffer_from_connects_that_fail() {
    let mut pair = pair();
    let error = LastError { age: ms(2000), text: "wrong password".into() };
    for look in [&mut pair.0, &mut pair.1] {
        look.last_error = Some(error.clone());
        look.failing_for = Some(ms(7000));
    }
    pair.1.stats.failed = 3;
    assert_eq!(kinds(&pair), [(ConnectFails, Critical)]);
    let evidence = &judge(&pair.0, &pair.1)[0].evidence;
    assert!(
        evidence.iter().any(|line| line.contains("0 attempts and 3 gets failed within 1.0s")),
        "{evidence:#?}"
    );
}

/// Each connect overruns its limit and is abandoned, so there is no error.
#[test]
fn connecting_that_only_overruns_its_limit_is_told_too() {
    let mut pair = pair();
    (pair.0.failing_for, pair.1.failing_for) = (Some(ms(6000)), Some(ms(7000)));
    pair.1.stats.open_failures = 1;
    assert_eq!(kinds(&pair), [(ConnectFails, Warning)]);
    let evidence = &judge(&pair.0, &pair.1)[0].evidence;
    assert!(evidence[0].contains("does not return in time"), "{evidence:#?}");
    // If one of them still hangs, `ConnectHangs` is reported instead.
    pair.1.calls = vec![call(CallKind::Connect, ms(5000), false, true)];
    assert_eq!(kinds(&pair), [(ConnectHangs, Warning)]);
}

#[test]
fn abandoned_calls_are_told_from_four_fifths_on() {
    let mut pair = pair();
    pair.1.stats.abandoned = 7;
    assert_eq!(kinds(&pair), []);
    pair.1.stats.abandoned = 8;
    assert_eq!(kinds(&pair), [(AbandonedCalls, Warning)]);
    pair.1.stats.abandoned = 10;
    assert_eq!(kinds(&pair), [(AbandonedCalls, Critical)]);
    assert!(judge(&pair.0, &pair.1)[0].evidence[0].contains("10 of 10 (max_abandoned)"));
}

#[test]
fn callers_that_are_refused_are_told() {
    let mut pair = pair();
    pair.1.stats.refused = 3;
    pair.1.settings.max_waiters = Some(200);
    assert_eq!(kinds(&pair), [(Refused, Warning)]);
    assert_eq!(judge(&pair.0, &pair.1)[0].evidence[0], "3 within 1.0s; max_waiters is 200");
}

#[test]
fn more_timeouts_than_gets_are_a_saturated_pool_unless_nobody_really_waited() {
    let mut pair = pair();
    swap_all(&mut pair);
    pair.1.stats.gets = 90;
    pair.1.stats.timeouts = 100;
    assert_eq!(kinds(&pair), [], "they only looked");
    pair.1.stats.time_waited = ms(20) * 100;
    assert_eq!(kinds(&pair), [(Saturated, Warning)]);
    pair.1.stats.gets = 101;
    assert_eq!(kinds(&pair), []);
}

#[test]
fn a_few_waits_that_ended_are_not_yet_a_queue() {
    let mut pair = pair();
    pair.1.stats.gets = 100;
    pair.1.stats.gets_waited = 4;
    pair.1.stats.time_waited = ms(150) * 4;
    assert_eq!(kinds(&pair), [], "the first gets open connections");
    pair.1.stats.gets_waited = 5;
    pair.1.stats.time_waited = ms(150) * 5;
    assert_eq!(kinds(&pair), [(Queue, Warning)]);
}

#[test]
fn the_pools_own_thresholds_count() {
    let mut pair = pair();
    wait(&mut pair, 2, ms(150));
    assert_eq!(kinds(&pair), [(Queue, Critical)]);
    let thresholds = HealthThresholds {
        wait_warning: ms(160),
        wait_critical: ms(5000),
        ..HealthThresholds::default()
    };
    pair.1.settings.health_thresholds = thresholds;
    assert_eq!(kinds(&pair), []);
}

#[test]
fn a_pause_is_as_bad_as_the_waits_that_it_causes() {
    let mut pair = pair();
    (pair.0.paused, pair.1.paused) = (true, true);
    assert_eq!(kinds(&pair), [(Paused, Info)]);
    wait(&mut pair, 2, ms(20));
    assert_eq!(kinds(&pair), [(Paused, Warning)]);
    wait(&mut pair, 2, ms(600));
    assert_eq!(kinds(&pair), [(Paused, Critical), (Queue, Critical)]);
    keep_all(&mut pair, ms(300));
    assert_eq!(kinds(&pair), [(Paused, Critical), (Queue, Critical)], "it explains enough");
}

#[test]
fn holders_of_a_closed_pool_are_named() {
    let mut pair = pair();
    (pair.0.closed, pair.1.closed) = (true, true);
    assert_eq!(kinds(&pair), []);
    keep_all(&mut pair, ms(300));
    assert_eq!(kinds(&pair), [(Closed, Warning)]);
    assert_eq!(judge(&pair.0, &pair.1)[0].holders.len(), 4);
}

#[test]
fn many_lines_are_counted() {
    let mut pair = pair();
    (pair.0.closed, pair.1.closed) = (true, true);
    // Each closure is at a line of its own.
    let callers: [fn() -> Caller; 7] =
        [|| caller(), || caller(), || caller(), || caller(), || caller(), || caller(), || caller()];
    for look in [&mut pair.0, &mut pair.1] {
        look.stats.idle = 7;
    }
    for (id, caller) in callers.iter().enumerate() {
        hold(&mut pair.0, id as u64, caller(), ms(10));
        hold(&mut pair.1, id as u64, caller(), ms(1010));
    }
    let evidence = &judge(&pair.0, &pair.1)[0].evidence;
    assert_eq!(evidence.len(), PLACES + 1);
    assert_eq!(evidence[PLACES], "2 connections at 2 other lines");
}
