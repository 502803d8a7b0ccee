//! What a walk draws before its first step: its settings and its weights.

use std::time::Duration;

use crate::core::Policy;

/// Splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014): a whole walk follows from one number.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<C: Copy>(&mut self, choices: &[C]) -> C {
        choices[self.below(choices.len())]
    }
}

/// The kinds of steps. The client, connection or call of a step is drawn when it is
/// taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    TryGet,
    GetWithoutTime,
    CancelledBefore,
    Claim,
    /// A check that a client makes itself ends.
    EndOwnCheck,
    TimeOut,
    /// A task is dropped.
    Drop,
    Cancel,
    CancelTooLate,
    Keep,
    Check,
    Break,
    /// It is returned later.
    MarkBroken,
    Detach,
    Move,
    Succeed,
    Fail,
    FailForGood,
    Advance,
    Leap,
    Tick,
    Refresh,
    Prove,
    Pause,
    Resume,
    SetMaxSize,
    SetMinIdle,
    Close,
}

use Kind::*;

/// Each kind with its usual weight.
pub(super) const KINDS: [(Kind, usize); 29] = [
    (Get, 60),
    (TryGet, 8),
    (GetWithoutTime, 5),
    (CancelledBefore, 1),
    (Claim, 40),
    (EndOwnCheck, 40),
    (TimeOut, 8),
    (Drop, 4),
    (Cancel, 6),
    (CancelTooLate, 2),
    (Keep, 50),
    (Check, 8),
    (Break, 6),
    (MarkBroken, 2),
    (Detach, 3),
    (Move, 5),
    (Succeed, 60),
    (Fail, 12),
    (FailForGood, 3),
    (Advance, 30),
    (Leap, 2),
    (Tick, 1),
    (Refresh, 1),
    (Prove, 4),
    (Pause, 1),
    (Resume, 4),
    (SetMaxSize, 2),
    (SetMinIdle, 1),
    (Close, 1),
];

pub(super) struct Setting {
    pub(super) policy: Policy,
    pub(super) weights: [usize; KINDS.len()],
    pub(super) clients: usize,
    /// The first so many of them are tasks.
    pub(super) tasks: usize,
    pub(super) priorities: Vec<u8>,
    /// How many connections a client holds at most.
    pub(super) most_held: usize,
    /// How many steps the phase with faults has.
    pub(super) steps: usize,
}

impl Setting {
    pub(super) fn draw(random: &mut Random) -> Setting {
        let policy = policy(random);
        let clients = random.pick(&[2, 4, 8, 16, 32, 64]);
        Setting {
            weights: weights(random),
            clients,
            tasks: if random.one_in(2) { 0 } else { random.below(clients + 1) },
            priorities: (0..random.pick(&[1, 1, 2, 4])).map(|_| random.below(12) as u8).collect(),
            most_held: random.pick(&[1, 1, 2, 4]),
            steps: random.between(200, 800),
            policy,
        }
    }
}

/// Swarm testing (Groce and others, 2012): what a walk never does matters as much as what
/// it does, so each kind is left out of some walks, and dominates others.
fn weights(random: &mut Random) -> [usize; KINDS.len()] {
    KINDS.map(|(kind, usual)| match kind {
        Get => usual,
        Close => random.below(2),
        _ if random.one_in(5) => 0,
        _ if random.one_in(5) => usual * 6,
        _ => usual,
    })
}

const fn nanos(n: u64) -> Duration {
    Duration::from_nanos(n)
}

fn span(random: &mut Random) -> Duration {
    nanos(random.pick(&[1, 2, 4, 8, 16, 32, 64, 128, 256]))
}

/// Usually long: a limit that is always hit hides what comes after it.
fn limit(random: &mut Random) -> Duration {
    if random.one_in(3) { span(random) } else { random.pick(&[nanos(500), Duration::MAX]) }
}

fn maybe<V>(random: &mut Random, draw: impl FnOnce(&mut Random) -> V) -> Option<V> {
    if random.one_in(2) { Some(draw(random)) } else { None }
}

fn policy(random: &mut Random) -> Policy {
    let max_size = random.pick(&[1, 2, 3, 4, 6, 8, 12, 16, 24]);
    let max_idle = maybe(random, |random| random.below(max_size as usize + 1) as u32);
    let most_idle = max_idle.unwrap_or(max_size) as usize;
    let backoff_min = nanos(random.pick(&[2, 8, 40]));
    let patience_min = limit(random);
    let begins_uses = random.one_in(3);
    Policy {
        max_size,
        min_idle: match random.below(3) {
            0 => None,
            1 => Some(0),
            _ => Some(random.below(most_idle + 1) as u32),
        },
        max_idle,
        max_waiters: maybe(random, |random| random.pick(&[0, 1, 2, 4, 8, 16])),
        fairness_bound: match random.below(4) {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            _ => span(random),
        },
        priority_ageing: random.pick(&[nanos(1), nanos(5), nanos(50), Duration::MAX]),
        max_lifetime: maybe(random, |random| span(random) * 4),
        lifetime_jitter_permille: random.pick(&[0, 100, 500, 900]),
        idle_timeout: maybe(random, |random| span(random) * 2),
        ends_on_time: random.one_in(4),
        keepalive: maybe(random, span),
        fresh_for: match random.below(4) {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            _ => span(random),
        },
        fresh_by_check: random.one_in(3),
        begins_uses,
        ends_uses: begins_uses && random.one_in(2),
        clock_lag: nanos(super::walker::TICK),
        check_patience: limit(random),
        patience_min,
        patience_max: patience_min.saturating_mul(random.pick(&[1, 4, 50])),
        open_limit: limit(random),
        validation_limit: limit(random),
        reset_limit: limit(random),
        close_limit: limit(random),
        max_opening: random.pick(&[1, 2, 4, 24]),
        max_closers: random.pick(&[1, 2, 4, 24]),
        // The builder requires at least one; the core does not.
        max_abandoned: random.pick(&[0, 1, 2, 8, 64]),
        backoff_min,
        backoff_max: backoff_min * random.pick(&[1, 4, 50]),
        fail_fast_after: match random.below(4) {
            0 => Some(Duration::ZERO),
            1 => Some(span(random)),
            _ => None,
        },
        take_up_limit: limit(random),
        leak_threshold: maybe(random, span),
        reports_self_deadlock: !random.one_in(4),
        self_deadlock_limit: match random.below(3) {
            0 => None,
            1 => Some(Duration::ZERO),
            _ => Some(span(random)),
        },
        seed: random.next(),
    }
}
