//! The steps that subscribers receive, and the buffer that collects them.

use std::mem;
use std::time::Duration;

use super::gate::Gate;
use super::{ConnectionState, ErrorKind, Reason, Time};

/// A connection, by its slot and its number; that is zero until it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionRef {
    pub(crate) slot: u32,
    pub(crate) connection_id: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<C> {
    /// A caller joined the queue.
    Enqueued { get_id: u64, caller: C, priority: u8 },
    /// A caller got a connection, which was in the state `from`.
    CheckedOut {
        get_id: u64,
        caller: C,
        waited: Duration,
        connection: ConnectionRef,
        from: ConnectionState,
    },
    /// A caller left without a connection.
    GetFailed { get_id: u64, caller: C, waited: Duration, kind: ErrorKind },
    /// A connection moved otherwise than to a caller.
    Moved {
        connection: ConnectionRef,
        from: ConnectionState,
        to: ConnectionState,
        reason: Option<Reason>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<C> {
    pub(crate) at: Time,
    pub(crate) step: Step<C>,
}

/// The steps since the last delivery.
#[derive(Debug)]
pub(crate) struct EventBuffer<C> {
    /// Never grows beyond its capacity.
    pub(crate) entries: Vec<Entry<C>>,
    /// How many more events there were.
    pub(crate) lost: u64,
    /// Delivery has been asked for.
    pub(super) announced: bool,
}

impl<C> EventBuffer<C> {
    pub(crate) fn with_capacity(capacity: usize) -> EventBuffer<C> {
        EventBuffer { entries: Vec::with_capacity(capacity), lost: 0, announced: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.lost == 0
    }

    /// Empties the buffer; returns the steps and how many events were lost after them.
    pub(crate) fn take(&mut self) -> (impl Iterator<Item = Entry<C>>, u64) {
        self.announced = false;
        (self.entries.drain(..), mem::take(&mut self.lost))
    }
}

/// The buffer, if there are subscribers.
pub(super) struct Journal<C> {
    pub(super) buffer: Option<EventBuffer<C>>,
    /// The last delivery found nothing: the reader sleeps until it is woken.
    pub(super) reader_sleeps: bool,
    /// The gate for the fast paths that note what they do.
    pub(super) gate: Gate,
}

impl<C> Journal<C> {
    pub(super) fn new() -> Journal<C> {
        Journal { buffer: None, reader_sleeps: true, gate: Gate::SHUT }
    }

    pub(super) fn is_open(&self) -> bool {
        self.buffer.is_some()
    }

    pub(super) fn note(&mut self, at: Time, step: Step<C>) {
        let Some(buffer) = &mut self.buffer else { return };
        if buffer.entries.len() < buffer.entries.capacity() {
            buffer.entries.push(Entry { at, step });
        } else {
            // A checkout is two events: the caller's and the connection's.
            buffer.lost += if matches!(step, Step::CheckedOut { .. }) { 2 } else { 1 };
        }
    }
}
