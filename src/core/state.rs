//! The state, and the one way in which a connection enters another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::mem;
use std::time::Duration;

use super::Gate;
use super::events::Journal;
use super::queue::Queue;
use super::slot::Slot;
use super::{
    CallKind, ConnectionState, Effects, Lease, Permit, Policy, PoolTypes, Reason, Time, WaiterId,
};

/// When something is due for tasks. Entries of tasks that have left, or have been polled, stay
/// until they are due or too many: so a task leaves in constant time.
#[derive(Default)]
pub(crate) struct TaskTimes {
    /// When a grant ends that was not taken up, the earliest first.
    pub(super) grants: VecDeque<(Time, WaiterId)>,
    pub(super) deadlines: BinaryHeap<Reverse<(Time, WaiterId)>>,
}

#[cfg(test)]
impl TaskTimes {
    pub(super) fn granted(&self) -> impl Iterator<Item = WaiterId> {
        self.grants.iter().map(|(_, id)| *id)
    }
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
    /// Those that are idle, busy or being checked, and are to be replaced.
    pub(crate) old: u32,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) gets: u64,
    pub(crate) gets_waited: u64,
    pub(crate) time_waited: Duration,
    /// Gets served before a waiter.
    pub(crate) overtakes: u64,
    pub(crate) timeouts: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused: u64,
    /// Gets that ended with another error.
    pub(crate) failed: u64,
    /// Of `gets`, those of tasks that were not polled in time, or never again.
    pub(crate) untaken: u64,
    pub(crate) opened: u64,
    pub(crate) open_failures: u64,
    pub(crate) check_failures: u64,
    pub(crate) abandoned: u64,
    pub(crate) leaks: u64,
    pub(crate) self_deadlocks: u64,
    /// Connections that left the pool, by [`Reason`].
    pub(crate) closed: [u64; Reason::Detached as usize + 1],
}

/// Driver calls, counted by what they are for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InFlight {
    pub(super) connects: u32,
    pub(super) checks: u32,
    pub(super) closes: u32,
}

impl InFlight {
    pub(super) fn of(&mut self, kind: CallKind) -> &mut u32 {
        match kind {
            CallKind::Connect => &mut self.connects,
            CallKind::Check => &mut self.checks,
            CallKind::Close => &mut self.closes,
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.connects + self.checks + self.closes
    }
}

/// Every attempt to connect since the last success has failed.
pub(super) struct Outage {
    pub(super) began: Time,
    /// All attempts that failed since.
    pub(super) failures: u32,
    /// Those that failed one after another: of several that were under way together, the
    /// first.
    pub(super) attempts: u32,
    /// When the last of these failed.
    pub(super) failed_at: Time,
    pub(super) retry_at: Time,
    /// When callers fail at once, if no connection is left then.
    pub(super) fails_fast_from: Time,
    /// No retry cures the last error.
    pub(super) permanent: bool,
}

/// What the connects so far have taught.
pub(super) struct Pace {
    /// How long the next connect is counted on; `None` until one has succeeded.
    pub(super) patience: Option<Duration>,
    /// How many connects that are counted on there may be at once.
    pub(super) at_once: u32,
    /// When a connect last began or ended.
    pub(super) moved_at: Time,
}

/// How far the replacement of an old connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Succession {
    /// None is under way.
    None,
    /// A connection is being opened that nobody needs but to replace an old one.
    Opening,
    /// It is open, so the next old connection that is not in use can end.
    Ready,
    /// An old connection has ended first, because the pool was full. Its successor is still
    /// to be opened.
    Short,
}

/// The pool's state. Its fields are in the order in which the fast paths need them: the
/// first share the cache lines of the lock.
#[repr(C)]
pub(crate) struct Core<T: PoolTypes> {
    pub(super) gate: Gate,
    /// The idle connections: a stack whose top is the back.
    pub(super) idle: VecDeque<Lease<T::Conn>>,
    pub(super) slots: Vec<Slot<T>>,
    pub(super) busy: u32,
    /// The proofs up to this number count no more.
    pub(super) doubted: u64,
    /// When the reaper runs next.
    pub(super) wake_at: Time,
    /// It runs before anything is due for a connection that is lent from now on.
    pub(super) lends_are_planned: bool,
    /// The same for one that becomes idle, but for the end of its lifetime.
    pub(super) returns_are_planned: bool,
    /// `policy.fresh_by_check`.
    pub(super) fresh_by_check: bool,
    /// `policy.fresh_for`.
    pub(super) fresh_nanos: u64,
    /// `policy.clock_lag`.
    pub(super) lag_nanos: u64,
    pub(super) counters: Counters,
    pub(super) policy: Policy,
    pub(super) generation: u32,
    /// How many proofs have begun: connects and validations.
    pub(super) proofs: u64,
    /// Vacant slots.
    pub(super) free: Vec<u32>,
    pub(super) queue: Queue<T>,
    /// How many of the waiters in the line wait only for the check of an idle connection.
    pub(super) only_idle: u32,
    /// The waiters whose threads hold connections, of this pool or another, by thread.
    pub(super) nested: BTreeMap<u64, WaiterId>,
    /// Since then every connection is held by a thread that itself waits here.
    pub(super) deadlocked: Option<Time>,
    /// The waiter that was nudged and has not claimed yet. One nudge at a time is
    /// enough: each claim passes it on.
    pub(super) nudged: Option<WaiterId>,
    /// Retired connections that wait for a closer.
    pub(super) retired: VecDeque<(Lease<T::Conn>, Reason)>,
    pub(super) checking: u32,
    pub(super) opening: u32,
    /// Those of the open connections that are to be replaced.
    pub(super) old: u32,
    pub(super) succession: Succession,
    /// Closes under way.
    pub(super) closers: u32,
    pub(super) abandoned: u32,
    /// Connects and checks that the pool no longer counts on.
    pub(super) past_patience: InFlight,
    /// Calls that have overrun their limit but cannot be abandoned.
    pub(super) past_limit: InFlight,
    pub(super) closed: bool,
    pub(super) paused: bool,
    pub(super) outage: Option<Outage>,
    pub(super) pace: Pace,
    /// The last error of a connect or a check, until a connection is opened.
    pub(super) last_error: Option<(Time, T::Cause)>,
    pub(super) random: u64,
    /// The slot lent for longest, and since when: right while that is so.
    pub(super) longest: Option<(u32, Time)>,
    /// The slot whose holder did not wait when that was last asked of all holders.
    pub(super) not_nested: usize,
    /// The place in the stack where the last keepalive was due.
    pub(super) keepalive_from: usize,
    pub(super) journal: Journal<T::Caller>,
    pub(super) task_times: TaskTimes,
}

impl<T: PoolTypes> Core<T> {
    pub(crate) fn new(policy: Policy) -> Core<T> {
        Core {
            gate: Gate::SHUT,
            fresh_by_check: policy.fresh_by_check,
            fresh_nanos: Time::START.after(policy.fresh_for).0,
            lag_nanos: Time::START.after(policy.clock_lag).0,
            queue: Queue::new(policy.priority_ageing),
            random: policy.seed | 1,
            pace: Pace { patience: None, at_once: policy.max_opening, moved_at: Time::START },
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
            old: 0,
            succession: Succession::None,
            closers: 0,
            abandoned: 0,
            past_patience: InFlight::default(),
            past_limit: InFlight::default(),
            closed: false,
            paused: false,
            doubted: 0,
            proofs: 0,
            generation: 0,
            outage: None,
            last_error: None,
            wake_at: Time::NEVER,
            lends_are_planned: false,
            returns_are_planned: false,
            longest: None,
            not_nested: 0,
            keepalive_from: 0,
            journal: Journal::new(),
            task_times: TaskTimes::default(),
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
            waiting: self.queue.waiting(),
            old: self.old,
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Closed, and no connection is left that counts.
    pub(crate) fn is_drained(&self) -> bool {
        self.closed && self.occupied() == 0
    }

    pub(super) fn idle_len(&self) -> u32 {
        self.idle.len() as u32
    }

    pub(super) fn closing(&self) -> u32 {
        self.retired.len() as u32 + self.closers
    }

    /// Connections that callers have or can get.
    pub(crate) fn open_count(&self) -> u32 {
        self.idle_len() + self.busy + self.checking
    }

    /// Connections as the server counts them.
    pub(super) fn occupied(&self) -> u32 {
        self.opening + self.open_count() + self.closing()
    }

    /// There is no room for another connection.
    pub(super) fn is_full(&self) -> bool {
        self.occupied() >= self.policy.max_size
    }

    /// Connects that should succeed soon.
    pub(super) fn opening_soon(&self) -> u32 {
        self.opening - self.past_patience.connects
    }

    /// Checks that should succeed soon.
    pub(super) fn checking_soon(&self) -> u32 {
        self.checking - self.past_patience.checks
    }

    /// Neither paused nor closed.
    pub(super) fn serving(&self) -> bool {
        !self.closed && !self.paused
    }

    pub(super) fn slot(&mut self, permit: &Permit) -> &mut Slot<T> {
        &mut self.slots[permit.index()]
    }

    /// Moves a connection to another state.
    pub(super) fn enter(
        &mut self,
        index: usize,
        state: ConnectionState,
        reason: Option<Reason>,
        now: Time,
    ) {
        let slot = &mut self.slots[index];
        let from = mem::replace(&mut slot.state, state);
        slot.since = now;
        if slot.old && !slot.is_open() {
            slot.old = false;
            self.forget_old();
        }
        // After a check a use may begin at once.
        if self.journal.is_open() && from != state {
            self.note_move(index, from, state, reason, now);
        }
    }

    /// Takes a vacant slot for a connection that is to be opened.
    pub(super) fn occupy(&mut self, now: Time) -> Permit {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::vacant());
            self.slots.len() as u32 - 1
        });
        let permit = Permit(index);
        let (generation, proof) = (self.generation, self.number_proof());
        self.enter(permit.index(), ConnectionState::Opening, None, now);
        let slot = self.slot(&permit);
        (slot.generation, slot.proof) = (generation, proof);
        self.opening += 1;
        permit
    }

    pub(super) fn vacate(&mut self, permit: Permit, reason: Option<Reason>, now: Time) {
        self.enter(permit.index(), ConnectionState::Gone, reason, now);
        *self.slot(&permit) = Slot::vacant();
        self.free.push(permit.0);
    }

    /// A fraction between 0 and 1 (xorshift64; Marsaglia, 2003).
    pub(super) fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Ends a transition that may have changed who can be served.
    pub(super) fn finish(&mut self, fx: &mut Effects<T>) {
        self.serve(fx);
        self.settle();
    }

    /// Ends a transition.
    pub(super) fn settle(&mut self) {
        self.update_gate();
        self.check_invariants();
    }
}
