//! The list of subscribers, and how a step of the core's journal becomes events.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::core::{ConnectionRef, ConnectionState, Entry, EventBuffer, Reason, Step};
use crate::sync::{Mutex, PlainOrdering as Ordering, PlainU64};
use crate::types::{CallSite, Caller, Event, EventKind, SubscriberList, known_backend};

/// The journal's capacity is at least this, so that subscribers with a small capacity do
/// not wake the reaper at every step.
const FEWEST_STEPS: usize = 1024;

/// It does not keep the pool alive: each subscription has a reference.
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
    /// By number, in the order in which they came.
    subscribers: BTreeMap<u64, Subscriber>,
    last_number: u64,
    /// The largest capacity of a subscriber, and perhaps of some that have gone.
    pub(super) capacity: usize,
    /// The core notes its steps. It still does when the last subscriber has gone, until the
    /// next step or delivery.
    pub(super) is_journal_open: bool,
    /// The reaper has ended, and will not deliver again.
    pub(super) reaper_ended: bool,
    /// The pool has ended: a new subscription ends at once.
    pub(super) ended: bool,
    /// The last holder of each slot's connection.
    pub(super) last_holders: Vec<Option<Caller>>,
    /// The buffer that the journal does not use now.
    pub(super) spare: Option<EventBuffer<Caller>>,
}

struct Subscriber {
    /// A channel without a bound of its own: one that has a bound allocates it in advance.
    events: Sender<Event>,
    capacity: usize,
    /// Events lost since the last one that was sent.
    lost: u64,
}

impl Subscriber {
    fn send(&mut self, event: &Event) {
        // Nobody else sends, so the channel can only become shorter meanwhile.
        if self.events.len() >= self.capacity {
            self.lost += 1;
            return;
        }
        let event = Event { lost_before: self.lost, ..event.clone() };
        if self.events.send(event).is_ok() {
            self.lost = 0;
        }
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

impl SubscriberList for Subscribers {
    fn remove(&self, number: u64) {
        let mut list = self.list.lock();
        let gone = list.subscribers.remove(&number);
        if list.subscribers.is_empty() {
            list.forget();
        }
        drop(list);
        drop(gone);
    }
}

impl List {
    /// Adds a subscriber: its number, and what it receives from.
    pub(super) fn add(&mut self, capacity: usize) -> (u64, Receiver<Event>) {
        let (events, receiver) = unbounded();
        self.last_number += 1;
        self.subscribers.insert(self.last_number, Subscriber { events, capacity, lost: 0 });
        (self.last_number, receiver)
    }

    /// Ends all subscriptions.
    pub(super) fn clear(&mut self) {
        self.forget();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Forgets the capacities of those who have gone.
    pub(super) fn forget_capacities(&mut self) {
        let all = self.subscribers.values().map(|subscriber| subscriber.capacity);
        self.capacity = all.max().unwrap_or(0);
    }

    /// Gives back all memory of subscribers, and what only they need.
    fn forget(&mut self) {
        self.subscribers = BTreeMap::new();
        self.capacity = 0;
        self.spare = None;
        self.last_holders = Vec::new();
    }

    /// A buffer for the journal with the capacity that subscribers asked for.
    pub(super) fn buffer(&mut self) -> EventBuffer<Caller> {
        let capacity = self.capacity.max(FEWEST_STEPS);
        let mut buffer = self.spare.take().unwrap_or_else(|| EventBuffer::with_capacity(capacity));
        buffer.set_capacity(capacity);
        buffer
    }

    /// Sends an event to all. Returns how many were lost.
    pub(super) fn send(&mut self, event: &Event) -> u64 {
        let mut lost = 0;
        for subscriber in self.subscribers.values_mut() {
            let before = subscriber.lost;
            subscriber.send(event);
            lost += subscriber.lost.saturating_sub(before);
        }
        lost
    }

    /// Counts events that will never be sent. Returns how many were lost in total.
    pub(super) fn lose(&mut self, missing: u64) -> u64 {
        self.subscribers.values_mut().for_each(|subscriber| subscriber.lost += missing);
        missing * self.subscribers.len() as u64
    }

    /// The events of one step: one or two.
    pub(super) fn events_of(&mut self, entry: Entry<Caller>) -> (EventKind, Option<EventKind>) {
        match entry.step {
            Step::Enqueued { get_id, caller, .. } => {
                (EventKind::Enqueued { get_id, call_site: CallSite::from(&caller) }, None)
            }
            Step::GetFailed { get_id, caller, waited, kind } => {
                let call_site = CallSite::from(&caller);
                (EventKind::GetFailed { get_id, call_site, waited, kind }, None)
            }
            Step::CheckedOut { get_id, caller, waited, connection, from } => {
                let call_site = CallSite::from(&caller);
                let last = self.last_holder(connection).replace(caller);
                let checked_out = EventKind::CheckedOut {
                    get_id,
                    call_site,
                    waited,
                    connection_id: connection.connection_id,
                    backend_id: known_backend(connection.backend_id),
                    from: last.as_ref().map(CallSite::from),
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
        backend_id: known_backend(connection.backend_id),
        from,
        to,
        reason,
    }
}
