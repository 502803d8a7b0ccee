//! The steps that subscribers receive, and the buffer that collects them.

use std::mem;
use std::time::Duration;

use super::Gate;
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

/// So many steps are allocated at a time, some 7 kB: little for a pool where nothing happens, and
/// never much to do at once under the lock.
const CHUNK: usize = 64;

/// The steps since the last delivery.
#[derive(Debug)]
pub(crate) struct EventBuffer<C> {
    /// The steps come in order: a chunk has some only if all chunks before it are full.
    chunks: Vec<Vec<Entry<C>>>,
    len: usize,
    /// The most steps that it takes.
    capacity: usize,
    /// How many more events there were.
    pub(crate) lost: u64,
    /// Delivery has been asked for.
    pub(super) announced: bool,
}

impl<C> EventBuffer<C> {
    /// Allocates nothing: it grows with the steps.
    pub(crate) fn with_capacity(capacity: usize) -> EventBuffer<C> {
        EventBuffer { chunks: Vec::new(), len: 0, capacity, lost: 0, announced: false }
    }

    /// For a buffer without steps.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && self.lost == 0
    }

    pub(super) fn is_half_full(&self) -> bool {
        self.len * 2 >= self.capacity
    }

    /// Returns whether there was room.
    fn push(&mut self, entry: Entry<C>) -> bool {
        if self.len >= self.capacity {
            return false;
        }
        let chunk = self.len / CHUNK;
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks[chunk].push(entry);
        self.len += 1;
        true
    }

    /// Empties the buffer; returns the steps and how many events were lost after them. It keeps
    /// as much memory as they took, so that a pool under a steady load allocates nothing.
    pub(crate) fn take(&mut self) -> (impl Iterator<Item = Entry<C>>, u64) {
        self.chunks.truncate(self.len.div_ceil(CHUNK).max(1));
        (self.len, self.announced) = (0, false);
        let steps = self.chunks.iter_mut().flat_map(|chunk| chunk.drain(..));
        (steps, mem::take(&mut self.lost))
    }

    /// For how many steps it has memory.
    #[cfg(test)]
    pub(crate) fn allocated(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
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
        // A checkout is two events: the caller's and the connection's.
        let events = if matches!(step, Step::CheckedOut { .. }) { 2 } else { 1 };
        if !buffer.push(Entry { at, step }) {
            buffer.lost += events;
        }
    }
}
