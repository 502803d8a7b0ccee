//! The pool's decisions: a state machine without locks, clocks, threads, logs
//! or driver calls.
//!
//! It owns the idle connections, the queue of waiters, the slots and every
//! count. Its methods are of three kinds: questions; commands of callers and of
//! the pool's owner ([`checkout`], [`control`]); and events that report what
//! became of a driver call ([`lifecycle`]). Time is always an argument; what
//! has to happen outside goes into [`Effects`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

mod checkout;
mod control;
mod effects;
mod holders;
mod journal;
mod lifecycle;
mod picture;
mod policy;
mod queue;
mod slot;
mod time;

#[cfg(test)]
mod cases;
#[cfg(test)]
pub(crate) mod explore;
#[cfg(test)]
mod listener;
#[cfg(test)]
mod walk;

pub(crate) use checkout::{Left, Refusal, Verdict};
pub(crate) use effects::{Answer, Check, Effects, Job, Notice};
pub(crate) use holders::{Held, SelfWait};
pub(crate) use journal::Spot;
pub(crate) use journal::{End, Entry, Pages, Place, Step, Which, Why};
#[cfg(test)]
pub(crate) use picture::Picture;
pub(crate) use picture::{Call, CallKind, Pressure, Waiting};
pub(crate) use policy::Policy;
pub(crate) use queue::{Waiter, WaiterId};
pub(crate) use slot::{Lease, Leased, Permit, Reason};
pub(crate) use time::Time;

use journal::Journal;
use queue::Queue;
use slot::{Slot, State};

/// What the core handles without looking inside.
pub(crate) trait Types {
    /// A connection, owned.
    type Conn;
    /// Who asks for one: thread, place, label.
    type Caller: Who;
    /// Where a waiter finds its answer.
    type Cell: Clone;
    /// Why connecting failed.
    type Cause: Clone;

    /// The number of a connection; never zero.
    fn number(conn: &Self::Conn) -> u64;
}

/// A caller, as far as the core has to tell callers apart.
pub(crate) trait Who: Copy {
    /// The number of its thread. No two threads have the same.
    fn thread(&self) -> u64;
}

/// How many connections and callers are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) max_size: u32,
    pub(crate) idle: u32,
    pub(crate) busy: u32,
    pub(crate) checking: u32,
    pub(crate) opening: u32,
    pub(crate) closing: u32,
    pub(crate) abandoned: u32,
    pub(crate) waiting: u32,
}

/// A driver call that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlowCall {
    Open,
    Check,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) gets: u64,
    pub(crate) gets_waited: u64,
    pub(crate) time_waited: Duration,
    /// Gets served before somebody who waited.
    pub(crate) overtakes: u64,
    pub(crate) timeouts: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused: u64,
    /// Gets that ended with another error.
    pub(crate) failed: u64,
    pub(crate) opened: u64,
    pub(crate) open_failures: u64,
    pub(crate) check_failures: u64,
    pub(crate) abandoned: u64,
    pub(crate) detached: u64,
    pub(crate) leaks: u64,
    pub(crate) self_deadlocks: u64,
    /// By [`Reason`].
    pub(crate) closed: [u64; 7],
}

/// How many of the driver calls of each kind are late.
#[derive(Clone, Copy, Debug, Default)]
struct Late {
    opening: u32,
    checking: u32,
    closers: u32,
}

impl Late {
    fn of(&mut self, state: State) -> &mut u32 {
        match state {
            State::Opening => &mut self.opening,
            State::Checking(..) => &mut self.checking,
            State::Closing => &mut self.closers,
            _ => unreachable!("BUG: late without a driver call"),
        }
    }

    fn total(&self) -> u32 {
        self.opening + self.checking + self.closers
    }
}

/// Opening fails at present: since the last success, every attempt has.
struct Outage {
    began: Time,
    /// All attempts that failed since.
    failures: u32,
    /// Those that failed one after another: of several that were under way
    /// together, the first.
    attempts: u32,
    /// When the last of them failed.
    failed_at: Time,
    retry_at: Time,
    /// The last error cannot be cured by trying again.
    permanent: bool,
}

/// What the fast paths ask, answered beforehand: both only move connections
/// between the stack and their holders, so that nothing else changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gate {
    /// Until when newcomers may pass those who wait: the end of the world if
    /// nobody does.
    until: Time,
    /// A newcomer may take an idle connection without more ado while more than
    /// this many are there.
    floor: usize,
    /// A connection may come back without more ado while fewer than this many
    /// are idle.
    ceiling: usize,
}

impl Gate {
    const SHUT: Gate = Gate { until: Time::START, floor: usize::MAX, ceiling: 0 };
}

/// In the order in which the fast paths meet the fields: those are on the cache
/// lines of the lock.
#[repr(C)]
pub(crate) struct Core<T: Types> {
    gate: Gate,
    /// The idle connections: a stack whose top is the back.
    idle: VecDeque<Lease<T::Conn>>,
    slots: Vec<Slot<T>>,
    busy: u32,
    generation: u32,
    /// When the reaper will look next.
    wake_at: Time,
    /// `policy.fresh_for`.
    fresh_nanos: u64,
    counters: Counters,
    policy: Policy,
    /// Vacant slots.
    free: Vec<u32>,
    queue: Queue<T>,
    /// How many of the waiters wait for nothing but a check.
    only_idle: u32,
    /// The waiters whose threads hold connections, of this pool or another, by
    /// thread.
    nested: BTreeMap<u64, WaiterId>,
    /// Since when every connection is held by a thread that waits here itself.
    deadlocked: Option<Time>,
    /// The waiter that was told of an idle connection and has not come yet. One
    /// wake-up under way is enough: whoever claims passes it on.
    nudged: Option<WaiterId>,
    /// Retired connections that wait for a closer.
    retired: VecDeque<(Lease<T::Conn>, Reason)>,
    checking: u32,
    opening: u32,
    /// Closes under way.
    closers: u32,
    abandoned: u32,
    /// Of the opens and checks, those that nobody counts on any more.
    slow: Late,
    /// Of the above, the calls that have overrun but cannot be abandoned.
    overdue: Late,
    closed: bool,
    paused: bool,
    outage: Option<Outage>,
    /// The last connect or check error, forgotten when a connection is opened.
    last_error: Option<(Time, T::Cause)>,
    random: u64,
    /// The slot that has been lent longest, and since when, if it still is.
    longest: Option<(u32, Time)>,
    /// The slot whose holder was the last one found not to wait for itself.
    in_the_way: usize,
    /// Where in the stack the last keepalive was found to be due.
    keepalive_from: usize,
    journal: Journal<T::Caller>,
}

impl<T: Types> Core<T> {
    pub(crate) fn new(policy: Policy) -> Core<T> {
        Core {
            gate: Gate::SHUT,
            fresh_nanos: Time::START.after(policy.fresh_for).0,
            queue: Queue::new(policy.priority_ageing),
            random: policy.seed | 1,
            slots: Vec::new(),
            free: Vec::new(),
            idle: VecDeque::new(),
            only_idle: 0,
            nested: BTreeMap::new(),
            deadlocked: None,
            nudged: None,
            retired: VecDeque::new(),
            busy: 0,
            checking: 0,
            opening: 0,
            closers: 0,
            abandoned: 0,
            slow: Late::default(),
            overdue: Late::default(),
            closed: false,
            paused: false,
            generation: 0,
            outage: None,
            last_error: None,
            wake_at: Time::NEVER,
            longest: None,
            in_the_way: 0,
            keepalive_from: 0,
            journal: Journal::new(),
            counters: Counters::default(),
            policy,
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn gauges(&self) -> Gauges {
        Gauges {
            max_size: self.policy.max_size,
            idle: self.idle_len(),
            busy: self.busy,
            checking: self.checking,
            opening: self.opening,
            closing: self.closing(),
            abandoned: self.abandoned,
            waiting: self.queue.len(),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Closed, and no connection is left that counts.
    pub(crate) fn is_drained(&self) -> bool {
        self.closed && self.live() == 0
    }

    /// The last attempt to open failed in a way that no retry can cure.
    pub(crate) fn fails_permanently(&self) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.permanent)
    }

    /// There is no connection, and the last attempt to open one says that there
    /// will be none before something else changes.
    pub(crate) fn has_none_for_good(&self) -> bool {
        self.open() == 0 && self.fails_permanently()
    }

    /// The last connect or check error and when it was met, unless a connection
    /// was opened after it.
    pub(crate) fn last_error(&self) -> Option<(Time, T::Cause)> {
        self.last_error.clone()
    }

    /// The open or check that has been under way longest, and since when, if it
    /// is one that nobody counts on any more.
    pub(crate) fn slowest_call(&self) -> Option<(SlowCall, Time)> {
        if self.slow.total() == 0 {
            return None;
        }
        let slow = self.slots.iter().filter(|slot| slot.slow);
        let slowest = slow.min_by_key(|slot| slot.since)?;
        let call = match slowest.state {
            State::Opening => SlowCall::Open,
            _ => SlowCall::Check,
        };
        Some((call, slowest.since))
    }

    fn idle_len(&self) -> u32 {
        self.idle.len() as u32
    }

    fn closing(&self) -> u32 {
        self.retired.len() as u32 + self.closers
    }

    /// Connections that callers have or can get.
    pub(crate) fn open(&self) -> u32 {
        self.idle_len() + self.busy + self.checking
    }

    /// Connections as the server counts them.
    fn live(&self) -> u32 {
        self.opening + self.open() + self.closing()
    }

    /// Opens from which something can be expected.
    fn opening_soon(&self) -> u32 {
        self.opening - self.slow.opening
    }

    /// Checks from which something can be expected.
    fn checking_soon(&self) -> u32 {
        self.checking - self.slow.checking
    }

    /// Callers are being served.
    fn serving(&self) -> bool {
        !self.closed && !self.paused
    }

    fn slot(&mut self, permit: &Permit) -> &mut Slot<T> {
        &mut self.slots[permit.0 as usize]
    }

    /// A fraction between 0 and 1 (xorshift64; Marsaglia, 2003).
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The end of every transition.
    fn settle(&mut self) {
        let gate = self.gate_now();
        self.open_gate(gate);
        self.check_invariants();
    }

    fn gate_now(&self) -> Gate {
        if self.closed {
            return Gate::SHUT;
        }
        let until = self.queue.overtaken_until(self.policy.fairness_bound);
        // Taking one may leave fewer idle than the pool is to keep.
        let floor = match (self.paused, self.live() < self.policy.max_size) {
            (true, _) => usize::MAX,
            (false, true) => self.policy.min_idle_now() as usize,
            (false, false) => 0,
        };
        // What comes back goes onto the stack if nobody waits for it, or if the
        // first who does has been told to come and looks after the others.
        let wanted = self.queue.first() != self.nudged;
        let ceiling = match wanted || self.live() > self.policy.max_size {
            true => 0,
            false => self.policy.max_idle_now() as usize,
        };
        Gate { until, floor, ceiling }
    }

    /// The promises that can be read off a state, checked after every
    /// transition in debug builds (large pools are left out: it looks at
    /// every slot).
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.slots.len() > 256 {
            return;
        }
        assert_eq!(self.gate_in_force(), self.gate_now(), "the fast paths go by an old answer");
        let count = |wanted: fn(&State) -> bool| {
            self.slots.iter().filter(|slot| wanted(&slot.state)).count() as u32
        };
        assert_eq!(count(|s| matches!(s, State::Vacant)), self.free.len() as u32, "vacant");
        assert_eq!(count(|s| matches!(s, State::Opening)), self.opening, "opening");
        assert_eq!(count(|s| matches!(s, State::Idle)), self.idle_len(), "idle");
        assert_eq!(count(|s| matches!(s, State::Busy)), self.busy, "busy");
        assert_eq!(count(|s| matches!(s, State::Checking(..))), self.checking, "checking");
        assert_eq!(count(|s| matches!(s, State::Queued)), self.retired.len() as u32, "queued");
        assert_eq!(count(|s| matches!(s, State::Closing)), self.closers, "closing");
        assert_eq!(count(|s| matches!(s, State::Abandoned)), self.abandoned, "abandoned");

        assert!(self.abandoned <= self.policy.max_abandoned, "P5: too many abandoned calls");
        let late = |is: fn(&&Slot<T>) -> bool| self.slots.iter().filter(is).count() as u32;
        assert_eq!(late(|slot| slot.overdue), self.overdue.total(), "overdue");
        assert_eq!(late(|slot| slot.slow), self.slow.total(), "slow");
        let closers = self.closers - self.overdue.closers;
        assert!(closers <= self.policy.max_closers, "too many closers");
        assert!(self.retired.is_empty() || closers > 0, "P6: retired, but nobody closes");
        if self.closed {
            assert!(self.queue.is_empty() && self.idle.is_empty(), "P11: left behind in close");
            return;
        }
        if let Some(id) = self.nudged {
            assert!(self.queue.get(id).is_some(), "P4: nudged a waiter that has left");
        }
        for (thread, &id) in &self.nested {
            let waiter = self.queue.get(id).expect("P4: a nested waiter that has left");
            assert_eq!(waiter.caller.thread(), *thread, "nested");
        }
        if self.queue.is_empty() {
            return;
        }
        if !self.paused && !self.idle.is_empty() {
            let served = self.nudged.is_some() || self.checking_soon() >= self.queue.len();
            assert!(served, "P3: a waiter sleeps beside an idle connection");
        }
        let coming = self.opening_soon() + self.checking_soon() + self.idle_len();
        let served = coming >= self.queue.len() - self.only_idle
            || self.opening - self.overdue.opening >= self.policy.max_opening
            || self.outage.is_some();
        assert!(
            served || self.live() >= self.policy.max_size,
            "P3: a waiter sleeps beside room to open"
        );
    }
}
