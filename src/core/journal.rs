//! Notes every step while there are subscribers. Steps are noted under the lock, so
//! their order is the order of the decisions; the runtime swaps the buffer and delivers
//! what it holds. Without subscribers nothing is noted.

use std::mem;
use std::time::Duration;

use super::events::{ConnectionRef, EventBuffer, Step};
use super::slot::Slot;
use super::{ConnectionState, Core, Permit, PoolTypes, Reason, Time};

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
