//! The list of subscribers, and how a step of the core's journal becomes events.

use crossbeam_channel::{Sender, TrySendError};

use crate::core::{ConnectionRef, ConnectionState, Entry, EventBuffer, Reason, Step};
use crate::sync::{Mutex, PlainOrdering as Ordering, PlainU64};
use crate::types::{CallSite, Caller, Event, EventKind};

/// The journal's capacity is at least this, so that subscribers with a small capacity do
/// not wake the reaper at every step.
const FEWEST_STEPS: usize = 1024;

#[derive(Default)]
pub(crate) struct Subscribers {
    /// The pool's lock is taken while this one is held, never the other way round.
    pub(super) list: Mutex<List>,
    /// Events that a subscriber should have received and did not.
    lost: PlainU64,
}

/// The state of event delivery.
#[derive(Default)]
pub(super) struct List {
    pub(super) subscribers: Vec<Subscriber>,
    /// The reaper has ended, and will not deliver again.
    pub(super) reaper_ended: bool,
    /// The pool has ended: a new subscription ends at once.
    pub(super) ended: bool,
    /// The last holder of each slot's connection.
    pub(super) last_holders: Vec<Option<Caller>>,
    /// The buffer that the journal does not use now.
    pub(super) spare: Option<EventBuffer<Caller>>,
}

pub(super) struct Subscriber {
    pub(super) events: Sender<Event>,
    pub(super) capacity: usize,
    /// Events lost since the last one that was sent.
    pub(super) lost: u64,
}

impl Subscriber {
    /// `false`: the receiver was dropped.
    fn send(&mut self, event: &Event) -> bool {
        let event = Event { lost_before: self.lost, ..event.clone() };
        match self.events.try_send(event) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_)) => self.lost += 1,
            Err(TrySendError::Disconnected(_)) => return false,
        }
        true
    }
}

impl Subscribers {
    /// How many events were lost, over all subscribers.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn add_lost(&self, lost: u64) {
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

impl List {
    /// A buffer with the capacity that the subscribers and a new one asked for; `None`
    /// without subscribers.
    pub(super) fn buffer(&mut self, new: Option<&Subscriber>) -> Option<EventBuffer<Caller>> {
        let all = self.subscribers.iter().chain(new);
        let most = all.map(|subscriber| subscriber.capacity).max()?.max(FEWEST_STEPS);
        let spare = self.spare.take().filter(|buffer| buffer.entries.capacity() >= most);
        Some(spare.unwrap_or_else(|| EventBuffer::with_capacity(most)))
    }

    /// Sends an event to all, and removes subscribers that are gone. Returns how many
    /// events were lost.
    pub(super) fn send(&mut self, event: &Event) -> u64 {
        let mut lost = 0;
        self.subscribers.retain_mut(|subscriber| {
            let before = subscriber.lost;
            let is_there = subscriber.send(event);
            lost += subscriber.lost.saturating_sub(before);
            is_there
        });
        lost
    }

    /// Counts events that will never be sent. Returns how many were lost in total.
    pub(super) fn lose(&mut self, missing: u64) -> u64 {
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.lost += missing);
        missing * self.subscribers.len() as u64
    }

    /// The events of one step: one or two.
    pub(super) fn events_of(&mut self, entry: Entry<Caller>) -> (EventKind, Option<EventKind>) {
        match entry.step {
            Step::Enqueued { get_id, caller, .. } => {
                (EventKind::Enqueued { get_id, call_site: caller.into() }, None)
            }
            Step::GetFailed { get_id, caller, waited, kind } => {
                let call_site = caller.into();
                (EventKind::GetFailed { get_id, call_site, waited, kind }, None)
            }
            Step::CheckedOut { get_id, caller, waited, connection, from } => {
                let last = self.last_holder(connection).replace(caller);
                let checked_out = EventKind::CheckedOut {
                    get_id,
                    call_site: caller.into(),
                    waited,
                    connection_id: connection.connection_id,
                    from: last.map(CallSite::from),
                };
                (checked_out, Some(moved(connection, from, ConnectionState::Busy, None)))
            }
            Step::Moved { connection, from, to, reason } => {
                if to == ConnectionState::Gone || to == ConnectionState::Opening {
                    *self.last_holder(connection) = None;
                }
                (moved(connection, from, to, reason), None)
            }
        }
    }

    fn last_holder(&mut self, connection: ConnectionRef) -> &mut Option<Caller> {
        let slot = connection.slot as usize;
        if self.last_holders.len() <= slot {
            self.last_holders.resize(slot + 1, None);
        }
        &mut self.last_holders[slot]
    }
}

fn moved(
    connection: ConnectionRef,
    from: ConnectionState,
    to: ConnectionState,
    reason: Option<Reason>,
) -> EventKind {
    EventKind::Moved {
        slot: connection.slot,
        connection_id: (connection.connection_id != 0).then_some(connection.connection_id),
        from,
        to,
        reason,
    }
}
