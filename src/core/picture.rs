//! Everything at one instant, for reports; and each step, for subscribers.
//!
//! Steps are noted in the journal while there are subscribers: under the lock, so their order is
//! the order of the decisions. The runtime swaps the buffer and delivers what it holds. Without
//! subscribers nothing is noted.

use std::mem;
use std::time::Duration;

use super::events::{EventBuffer, Step};
use super::slot::Slot;
use super::{
    CallKind, ConnectionRef, ConnectionState, Core, Counters, Gauges, Held, NestedWait, Permit,
    Policy, PoolTypes, Reason, Time,
};

/// A driver call under way, or a connection that waits for its close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: CallKind,
    /// Zero until it is open.
    pub(crate) connection_id: u64,
    pub(crate) running_for: Duration,
    /// It waits for a closer.
    pub(crate) queued: bool,
    pub(crate) abandoned: bool,
}

/// A connection, and who has it if it is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotView<C> {
    pub(crate) connection: ConnectionRef,
    pub(crate) state: ConnectionState,
    pub(crate) lasted: Duration,
    pub(crate) caller: Option<C>,
}

/// A caller in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting<C> {
    pub(crate) get_id: u64,
    pub(crate) caller: C,
    pub(crate) waited: Duration,
    /// The smallest is served first; of equal turns, the first in the list.
    pub(crate) turn: Time,
}

impl<C> Waiting<C> {
    /// Sorts the list of [`Core::waiting`] into the order of service. Of equal turns the
    /// more important goes first, as in that list.
    pub(crate) fn put_in_order(waiting: &mut [Waiting<C>]) {
        waiting.sort_by_key(|waiter| waiter.turn);
    }
}

/// The length and the age of the queue, known without visiting all waiters, but for tasks that were
/// not polled in time: the pool is not short of what they wait for. And the worst reason
/// why others would join it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) waiting: u32,
    /// So many of them wait for connects that are not slow: no alarm.
    pub(crate) opening: u32,
    pub(crate) mean_age: Duration,
    pub(crate) oldest_age: Duration,
    /// For how long connecting has failed, if no connection is open.
    pub(crate) out_for: Option<Duration>,
}

/// Whether callers can expect to get a connection that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prospect {
    Ready,
    /// No connection is open, and connecting does not fail, as far as is known.
    Empty,
    /// Connecting has failed for this long, and no connection has worked since.
    Failing(Duration),
    Paused,
    Closed,
}

pub(crate) struct Picture<T: PoolTypes> {
    pub(crate) policy: Policy,
    pub(crate) figures: Figures,
    pub(crate) paused: bool,
    pub(crate) closed: bool,
    pub(crate) held: Vec<Held<T::Caller>>,
    pub(crate) waiting: Vec<Waiting<T::Caller>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) nested: Vec<NestedWait<T::Caller>>,
    /// The last error and its age.
    pub(crate) last_error: Option<(Duration, T::Cause)>,
}

/// The numbers alone.
pub(crate) struct Figures {
    pub(crate) gauges: Gauges,
    pub(crate) counters: Counters,
    pub(crate) pressure: Pressure,
    /// How many connections are held too long now.
    pub(crate) leaked: u32,
    /// For how long connecting has failed.
    pub(crate) failing_for: Option<Duration>,
}

impl<T: PoolTypes> Core<T> {
    pub(crate) fn figures(&self, now: Time) -> Figures {
        let leaking = self.busy_slots().filter(|slot| slot.leaking);
        let leaked = if self.counters.leaks == 0 { 0 } else { leaking.count() as u32 };
        Figures {
            gauges: self.gauges(),
            counters: self.counters,
            pressure: self.pressure(now),
            leaked,
            failing_for: self.failing_for(now),
        }
    }

    pub(crate) fn pressure(&self, now: Time) -> Pressure {
        Pressure {
            waiting: self.queue.len(),
            opening: if self.outage.is_some() { 0 } else { self.opening_soon() },
            mean_age: self.queue.mean_age(now),
            oldest_age: self.queue.oldest().map_or(Duration::ZERO, |since| now.since(since)),
            out_for: self.failing_for(now).filter(|_| self.open_count() == 0),
        }
    }

    pub(crate) fn prospect(&self, now: Time) -> Prospect {
        match &self.outage {
            _ if self.closed => Prospect::Closed,
            _ if self.paused => Prospect::Paused,
            Some(outage) if self.proved_at() < Some(outage.began) => {
                Prospect::Failing(now.since(outage.began))
            }
            _ if self.open_count() == 0 => Prospect::Empty,
            _ => Prospect::Ready,
        }
    }

    /// When one of the open connections was last known to work, without those that are in doubt
    /// or being checked.
    pub(super) fn proved_at(&self) -> Option<Time> {
        use ConnectionState::*;
        let is_known =
            |slot: &&Slot<T>| matches!(slot.state, Idle | Busy) && slot.proof > self.doubted;
        self.slots.iter().filter(is_known).map(|slot| slot.fresh_at).max()
    }

    pub(crate) fn picture(&self, now: Time) -> Picture<T> {
        Picture {
            policy: self.policy.clone(),
            figures: self.figures(now),
            paused: self.paused,
            closed: self.closed,
            held: self.holders(now).collect(),
            waiting: self.waiting(now),
            calls: self.calls(now),
            nested: self.self_deadlock(now),
            last_error: self.last_error().map(|(at, cause)| (now.since(at), cause)),
        }
    }

    /// The waiters, the most important first, each priority in order of arrival.
    pub(crate) fn waiting(&self, now: Time) -> Vec<Waiting<T::Caller>> {
        let mut all = Vec::with_capacity(self.queue.waiting() as usize);
        let mut before: Option<(u8, Time)> = None;
        all.extend(self.queue.iter().map(|(id, waiter)| {
            let own = self.queue.turn_of(id);
            // No waiter is served before those ahead of it in its class, even if it read
            // the clock earlier than they did.
            let turn = match before {
                Some((priority, turn)) if priority == waiter.priority => own.max(turn),
                _ => own,
            };
            before = Some((waiter.priority, turn));
            let (get_id, caller) = (id.get_id(), waiter.caller.clone());
            Waiting { get_id, caller, waited: now.since(waiter.since), turn }
        }));
        all.extend(self.queue.aside_without_connection().into_iter().map(|(id, waiter)| {
            let (get_id, caller) = (id.get_id(), waiter.caller.clone());
            Waiting {
                get_id,
                caller,
                waited: now.since(waiter.since),
                turn: self.queue.turn_of(id),
            }
        }));
        all
    }

    /// All connections.
    pub(crate) fn connections(&self, now: Time) -> Vec<SlotView<T::Caller>> {
        let all = self.slots.iter().enumerate();
        let occupied = all.filter(|(_, slot)| slot.state != ConnectionState::Gone);
        occupied
            .map(|(index, slot)| SlotView {
                connection: self.connection_ref(index),
                state: slot.state,
                lasted: now.since(slot.since),
                caller: slot.caller.clone().filter(|_| slot.state == ConnectionState::Busy),
            })
            .collect()
    }

    fn calls(&self, now: Time) -> Vec<Call> {
        let under_way = self.opening + self.checking + self.closing() + self.abandoned;
        let mut all = Vec::with_capacity(under_way as usize);
        if under_way == 0 {
            return all;
        }
        all.extend(self.slots.iter().filter_map(|slot| {
            let queued = slot.state == ConnectionState::Retired;
            let abandoned = slot.state == ConnectionState::Abandoned;
            let (kind, since) = match slot.state {
                ConnectionState::Abandoned => slot.abandoned?,
                ConnectionState::Retired => (CallKind::Close, slot.since),
                _ => (slot.call()?, slot.since),
            };
            let (connection_id, running_for) = (slot.connection_id, now.since(since));
            Some(Call { kind, connection_id, running_for, queued, abandoned })
        }));
        all
    }
}

/// The journal.
impl<T: PoolTypes> Core<T> {
    /// Notes every step in this buffer from now on; stops if it is `None`. Returns the
    /// buffer in use until now.
    pub(crate) fn swap_events(
        &mut self,
        buffer: Option<EventBuffer<T::Caller>>,
    ) -> Option<EventBuffer<T::Caller>> {
        let old = mem::replace(&mut self.journal.buffer, buffer);
        self.journal.reader_sleeps = old.as_ref().is_none_or(EventBuffer::is_empty);
        self.update_gate();
        old
    }

    /// Whether the events should be delivered now: the reader sleeps, or the buffer is
    /// half full. Says so once until the buffer is swapped.
    pub(crate) fn wants_delivery(&mut self) -> bool {
        let Some(buffer) = &mut self.journal.buffer else { return false };
        let urgent = self.journal.reader_sleeps || buffer.is_half_full();
        let due = urgent && !buffer.announced && !buffer.is_empty();
        buffer.announced |= due;
        due
    }

    #[cfg(test)]
    pub(crate) fn is_journal_open(&self) -> bool {
        self.journal.is_open()
    }

    #[cfg(test)]
    pub(crate) fn reader_sleeps(&self) -> bool {
        self.journal.reader_sleeps
    }

    #[cold]
    pub(super) fn note_move(
        &mut self,
        index: usize,
        from: ConnectionState,
        to: ConnectionState,
        reason: Option<Reason>,
        now: Time,
    ) {
        let connection = self.connection_ref(index);
        self.journal.note(now, Step::Moved { connection, from, to, reason });
    }

    /// `get_id` is `None` for a caller that did not join the queue; it is given one.
    pub(super) fn note_checkout(
        &mut self,
        permit: &Permit,
        get_id: Option<u64>,
        from: ConnectionState,
        waited: Duration,
        now: Time,
    ) {
        if !self.journal.is_open() {
            return;
        }
        let get_id = get_id.unwrap_or_else(|| self.queue.next_get_id());
        let connection = self.connection_ref(permit.index());
        let Some(caller) = self.slots[permit.index()].caller.clone() else { return };
        self.journal.note(now, Step::CheckedOut { get_id, caller, waited, connection, from });
    }

    pub(super) fn connection_ref(&self, index: usize) -> ConnectionRef {
        let Slot { connection_id, backend_id, .. } = self.slots[index];
        ConnectionRef { slot: index as u32, backend_id, connection_id }
    }
}
