//! Everything at one instant: for whoever wants to know what is wrong.

use std::time::Duration;

use super::slot::State;
use super::{Core, Counters, Gauges, Held, Policy, SelfWait, Time, Types};

/// A driver call, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Open,
    Check,
    Close,
}

/// A driver call under way, or a connection that waits for its close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// The connection's number; zero until it is open.
    pub(crate) connection: u64,
    pub(crate) running_for: Duration,
    /// It waits for a closer.
    pub(crate) queued: bool,
    pub(crate) abandoned: bool,
}

/// A caller in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting<C> {
    pub(crate) get: u64,
    pub(crate) caller: C,
    pub(crate) waited: Duration,
    /// Smaller is served first; of those that are equal, the first in the list.
    pub(crate) turn: Time,
}

impl<C> Waiting<C> {
    /// Brings those of [`Core::waiting`] into the order in which they are served. Of
    /// equal turns the more important goes first, as it stands there.
    pub(crate) fn put_in_order(waiting: &mut [Waiting<C>]) {
        waiting.sort_by_key(|waiter| waiter.turn);
    }
}

/// How hard the queue is pressed; known without looking at all who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) waiting: u32,
    pub(crate) mean_age: Duration,
    pub(crate) oldest_age: Duration,
}

pub(crate) struct Picture<T: Types> {
    pub(crate) policy: Policy,
    pub(crate) gauges: Gauges,
    pub(crate) counters: Counters,
    pub(crate) pressure: Pressure,
    pub(crate) paused: bool,
    pub(crate) closed: bool,
    pub(crate) held: Vec<Held<T::Caller>>,
    pub(crate) waiting: Vec<Waiting<T::Caller>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) nested: Vec<SelfWait<T::Caller>>,
    /// The last error, how long ago it was met, and since when connecting fails, if
    /// it does.
    pub(crate) last_error: Option<(Duration, T::Cause)>,
    pub(crate) failing_for: Option<Duration>,
}

/// The numbers alone.
pub(crate) struct Figures {
    pub(crate) gauges: Gauges,
    pub(crate) counters: Counters,
    pub(crate) pressure: Pressure,
    /// How many connections are held too long now.
    pub(crate) leaked: u32,
    pub(crate) failing_for: Option<Duration>,
}

impl<T: Types> Core<T> {
    pub(crate) fn figures(&self, now: Time) -> Figures {
        let leaked = match self.counters.leaks {
            0 => 0,
            _ => self.busy_slots().filter(|slot| slot.leaking).count() as u32,
        };
        Figures {
            gauges: self.gauges(),
            counters: self.counters,
            pressure: self.pressure(now),
            leaked,
            failing_for: self.outage.as_ref().map(|outage| now.since(outage.began)),
        }
    }

    pub(crate) fn pressure(&self, now: Time) -> Pressure {
        Pressure {
            waiting: self.queue.len(),
            mean_age: self.queue.mean_age(now),
            oldest_age: self.queue.oldest().map_or(Duration::ZERO, |since| now.since(since)),
        }
    }

    pub(crate) fn picture(&self, now: Time) -> Picture<T> {
        Picture {
            policy: self.policy.clone(),
            gauges: self.gauges(),
            counters: self.counters,
            pressure: self.pressure(now),
            paused: self.paused,
            closed: self.closed,
            held: self.holders(now).collect(),
            waiting: self.waiting(now),
            calls: self.calls(now),
            nested: self.self_deadlock(now),
            last_error: self.last_error().map(|(at, cause)| (now.since(at), cause)),
            failing_for: self.outage.as_ref().map(|outage| now.since(outage.began)),
        }
    }

    /// Those who wait, the most important first, each priority in order of arrival.
    pub(crate) fn waiting(&self, now: Time) -> Vec<Waiting<T::Caller>> {
        let mut all = Vec::with_capacity(self.queue.len() as usize);
        let mut before: Option<(u8, Time)> = None;
        all.extend(self.queue.iter().map(|(id, waiter)| {
            let own = self.queue.turn_of(id);
            // Nobody is served before those ahead in the same class, not even whoever
            // had read the clock earlier when it came later.
            let turn = match before {
                Some((priority, turn)) if priority == waiter.priority => own.max(turn),
                _ => own,
            };
            before = Some((waiter.priority, turn));
            let (get, caller) = (id.number(), waiter.caller);
            Waiting { get, caller, waited: now.since(waiter.since), turn }
        }));
        all
    }

    fn calls(&self, now: Time) -> Vec<Call> {
        let under_way = self.opening + self.checking + self.closing() + self.abandoned;
        let mut all = Vec::with_capacity(under_way as usize);
        if under_way == 0 {
            return all;
        }
        all.extend(self.slots.iter().filter_map(|slot| {
            let (kind, since) = match slot.state {
                State::Opening => (CallKind::Open, slot.since),
                State::Checking(..) => (CallKind::Check, slot.since),
                State::Queued | State::Closing => (CallKind::Close, slot.since),
                State::Abandoned => slot.abandoned?,
                State::Vacant | State::Idle | State::Busy => return None,
            };
            let abandoned = slot.state == State::Abandoned;
            let running_for = now.since(since);
            let queued = slot.state == State::Queued;
            Some(Call { kind, connection: slot.number, running_for, queued, abandoned })
        }));
        all
    }
}
