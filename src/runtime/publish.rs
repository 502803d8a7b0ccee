//! Delivery of events to subscribers.
//!
//! The core notes each step in its journal, under the pool's lock. The reaper empties the
//! journal every few milliseconds while there is something in it, and sends the events. A
//! subscriber that does not read them in time loses some; the pool never waits for it.

use std::time::Duration;

use super::shared::{PoolCore, Shared};
use super::subscribers::List;
use crate::core::{EventBuffer, SlotView, Time};
use crate::sync::{self, Arc, PlainOrdering as Ordering};
use crate::types::{
    CallSite, Caller, ConnectionAt, Error, Event, EventKind, EventSource, ManageConnection, Scene,
    Subscription, Waiter, known_backend,
};

/// The journal is emptied this often while there are steps and subscribers.
const DELIVER_EVERY: Duration = Duration::from_millis(5);

/// A larger capacity is considered a mistake: a reader that falls behind so far would take more
/// than a gigabyte, at some 300 bytes per event.
const MOST_EVENTS: usize = 1 << 22;

impl<M: ManageConnection> Shared<M> {
    /// [`Pool::subscribe`](crate::Pool::subscribe).
    pub(crate) fn subscribe(self: &Arc<Self>, capacity: usize) -> Result<Subscription, Error> {
        self.subscribe_after(capacity, |_| ()).map(|(subscription, ())| subscription)
    }

    /// [`Pool::follow`](crate::Pool::follow).
    pub(crate) fn follow(
        self: &Arc<Self>,
        capacity: usize,
    ) -> Result<(Scene, Subscription), Error> {
        let (subscription, (now, waiting, connections)) =
            self.subscribe_after(capacity, |core| {
                let now = self.clock.now();
                (now, core.waiting(now), core.connections(now))
            })?;
        let connection_at = |SlotView { connection, state, lasted, caller }| ConnectionAt {
            slot: connection.slot,
            connection_id: (connection.connection_id != 0).then_some(connection.connection_id),
            backend_id: known_backend(connection.backend_id),
            state,
            lasted,
            holder: caller.as_ref().map(CallSite::from),
        };
        let scene = Scene {
            pool: Arc::clone(&self.config.name),
            at: self.clock.instant_of(now).unwrap_or_else(sync::instant),
            waiters: waiting.into_iter().map(Waiter::from).collect(),
            connections: connections.into_iter().map(connection_at).collect(),
        };
        Ok((scene, subscription))
    }

    /// Subscribes, and reads the core right before the first event.
    fn subscribe_after<R>(
        self: &Arc<Self>,
        capacity: usize,
        read: impl FnOnce(&PoolCore<M>) -> R,
    ) -> Result<(Subscription, R), Error> {
        if capacity == 0 || capacity > MOST_EVENTS {
            return Err(Error::config(format!(
                "subscribe: capacity must be between 1 and {MOST_EVENTS}, but is {capacity}"
            )));
        }
        if self.process.is_forked() {
            return Err(self.forked());
        }
        let mut list = self.subscribers.list.lock();
        let ((number, events), read) = if list.ended {
            // This list goes at once, and with it the sender.
            (List::default().add(capacity), self.with_core(|core| read(core)))
        } else {
            list.capacity = list.capacity.max(capacity);
            // What happened until now is for the earlier subscribers.
            let (_, read) = self.swap_buffer(&mut list, read);
            (list.add(capacity), read)
        };
        drop(list);
        let subscription = Subscription {
            pool: Arc::clone(&self.config.name),
            number,
            list: Arc::clone(&self.subscribers) as _,
            events,
            source: Arc::downgrade(self) as _,
            process: self.process.built_in,
        };
        Ok((subscription, read))
    }

    /// Delivers what has happened. Returns when to deliver next. `None`: there is no
    /// subscriber, or nothing happened; then the next step wakes the reaper.
    pub(crate) fn deliver_events(&self) -> Option<Time> {
        let mut list = self.subscribers.list.lock();
        // The second time both buffers give back what only busier times needed.
        let any = self.empty_journal(&mut list) || self.empty_journal(&mut list);
        drop(list);
        any.then(|| self.clock.now().after(DELIVER_EVERY))
    }

    /// Publishes an event that is not in the journal, after those that are.
    pub(crate) fn publish(&self, at: Time, kind: impl FnOnce() -> EventKind) {
        let mut list = self.subscribers.list.lock();
        self.empty_journal(&mut list);
        if list.is_empty() {
            return;
        }
        let Some(at) = self.clock.instant_of(at) else { return };
        let pool = Arc::clone(&self.config.name);
        let lost = list.send(&Event { pool, at, lost_before: 0, kind: kind() });
        self.subscribers.add_lost(lost);
    }

    /// Counts events that are not in the journal and will never be published.
    pub(crate) fn lose_events(&self, missing: usize) {
        let lost = self.subscribers.list.lock().lose(missing as u64);
        self.subscribers.add_lost(lost);
    }

    /// The reaper has ended. Delivers the rest; subscriptions end once the notifications are
    /// announced too.
    pub(crate) fn reaper_ended(&self) {
        let mut list = self.subscribers.list.lock();
        list.reaper_ended = true;
        self.empty_journal(&mut list);
        drop(list);
        self.end_events_when_done();
    }

    /// Ends all subscriptions if the reaper has ended and every notification is announced.
    /// Called when either has happened: the later call finds both.
    pub(crate) fn end_events_when_done(&self) {
        let mut list = self.subscribers.list.lock();
        if list.reaper_ended && !list.ended && self.notifications.are_done() {
            self.empty_journal(&mut list);
            list.ended = true;
            list.clear();
            self.close_journal(&mut list);
        }
    }

    /// Takes what is in the journal and sends it. The order of events is the order of these
    /// calls, under the list's lock. Returns whether there were any. If the last subscriber has
    /// gone, it closes the journal.
    fn empty_journal(&self, list: &mut List) -> bool {
        if !list.is_journal_open {
            return false;
        }
        if list.is_empty() {
            self.close_journal(list);
            return false;
        }
        list.forget_capacities();
        self.swap_buffer(list, |_| ()).0
    }

    /// Gives the journal a new buffer, reads the core at that instant, and sends what was in
    /// the old buffer.
    fn swap_buffer<R>(&self, list: &mut List, read: impl FnOnce(&PoolCore<M>) -> R) -> (bool, R) {
        let buffer = list.buffer();
        list.is_journal_open = true;
        self.observed.store(true, Ordering::Relaxed);
        let (old, read) = self.with_core(|core| (core.swap_events(Some(buffer)), read(core)));
        (old.is_some_and(|old| self.send_all(list, old)), read)
    }

    /// Without subscribers nothing is noted, and the fast paths are open again.
    fn close_journal(&self, list: &mut List) {
        list.is_journal_open = false;
        self.observed.store(self.config.event_handler.is_some(), Ordering::Relaxed);
        drop(self.with_core(|core| core.swap_events(None)));
    }

    fn send_all(&self, list: &mut List, mut old: EventBuffer<Caller>) -> bool {
        let any = !old.is_empty();
        let mut lost = 0;
        let (entries, missing) = old.take();
        for entry in entries {
            let Some(at) = self.clock.instant_of(entry.at) else { continue };
            let (first, second) = list.events_of(entry);
            for kind in [Some(first), second].into_iter().flatten() {
                let pool = Arc::clone(&self.config.name);
                lost += list.send(&Event { pool, at, lost_before: 0, kind });
            }
        }
        if missing > 0 {
            list.last_holders.clear();
            lost += list.lose(missing);
        }
        list.spare = Some(old);
        self.subscribers.add_lost(lost);
        any
    }
}

impl<M: ManageConnection> EventSource for Shared<M> {
    fn deliver(&self) {
        if !self.process.is_forked() {
            self.deliver_events();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::api::pool::Pool;
    use crate::stub::StubManager;

    fn pool() -> Pool<StubManager> {
        Pool::builder().max_size(1).build(StubManager).expect("a stub")
    }

    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(10), "it never came to this: {what}");
            thread::yield_now();
        }
    }

    /// The number of subscribers, and whether the journal is open, so that gets and returns
    /// take the slow path.
    fn observers(pool: &Pool<StubManager>) -> (usize, bool) {
        let list = pool.shared.subscribers.list.lock();
        let noted = pool.shared.with_core(|core| core.is_journal_open());
        assert_eq!(pool.shared.observed.load(Ordering::Relaxed), noted);
        assert_eq!(list.is_journal_open, noted);
        (list.len(), noted)
    }

    #[test]
    fn the_fast_paths_are_fast_again_when_nobody_listens() {
        let pool = pool();
        assert_eq!(observers(&pool), (0, false));
        let first = pool.subscribe(10).expect("a capacity");
        let second = pool.subscribe(10).expect("a capacity");
        assert_eq!(observers(&pool), (2, true));
        drop(first);
        assert_eq!(observers(&pool), (1, true));
        drop(second);
        // Noted until the next step, which may have come already: the pool connects.
        assert_eq!(observers(&pool).0, 0);
        drop(pool.get().expect("the stub's connection"));
        eventually("nothing is noted", || observers(&pool) == (0, false));
    }

    /// For how many steps the journal has memory, in both of its buffers.
    fn allocated(pool: &Pool<StubManager>) -> usize {
        let mut list = pool.shared.subscribers.list.lock();
        let spare = list.spare.as_ref().map_or(0, EventBuffer::allocated);
        let buffer = list.buffer();
        let used = pool.shared.with_core(|core| core.swap_events(Some(buffer)));
        let allocated = spare + used.as_ref().map_or(0, EventBuffer::allocated);
        list.spare = used;
        allocated
    }

    #[test]
    fn a_journal_grows_with_what_happens_and_shrinks_when_nothing_does() {
        let pool = pool();
        let events = pool.subscribe(100_000).expect("a capacity");
        assert_eq!(allocated(&pool), 0);
        for _ in 0..3 {
            // Holds up the reaper, so that the steps pile up.
            let list = pool.shared.subscribers.list.lock();
            (0..5000).for_each(|_| drop(pool.get().expect("the stub's connection")));
            drop(list);
            for _ in 0..15_000 {
                events.recv_timeout(Duration::from_secs(10)).expect("none is lost");
            }
            eventually("it is small again", || allocated(&pool) <= 128);
        }
        assert_eq!(pool.stats().events_lost, 0);
    }

    #[test]
    fn who_reads_the_journal_rests_while_nothing_happens() {
        let pool = pool();
        let events = pool.subscribe(10).expect("a capacity");
        for _ in 0..3 {
            drop(pool.get().expect("the stub's connection"));
            // Three events each, although the reaper does not wake at regular times.
            for _ in 0..3 {
                events.recv_timeout(Duration::from_secs(10)).expect("an event");
            }
            eventually("it rests", || pool.shared.with_core(|core| core.reader_sleeps()));
            assert_eq!(pool.shared.deliver_events(), None, "nothing has happened");
        }
    }
}
