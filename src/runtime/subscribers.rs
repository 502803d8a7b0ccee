//! Those who listen to everything that happens.
//!
//! The core notes each step in its journal, under the pool's lock; the resident
//! thread empties it every few milliseconds, while there is something in it, and
//! sends the events. A subscriber that does not read them in time loses some, and the
//! pool never waits for it.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::types::caller::{CallSite, Caller, Waiter};
use crate::core::{
    ConnectionRef, ConnectionState, Entry, EventBuffer, Reason, SlotView, Step, Time,
};
use crate::types::error::Error;
use crate::types::event::{Event, EventKind};
use crate::types::manage::ManageConnection;
use crate::runtime::shared::{PoolCore, Shared};
use crate::observe::snapshot::WeakPool;
use crate::types::subscription::{ConnectionAt, Scene, Subscription};
use crate::sync::{self, Arc, Mutex, PlainOrdering as Ordering, PlainU64};

/// The journal is emptied this often while things happen and somebody listens.
const DELIVER_EVERY: Duration = Duration::from_millis(5);

/// The journal has room for at least so many steps, so that those who ask for little
/// do not have the resident thread woken by each.
const FEWEST_STEPS: usize = 1024;

/// More is taken for a mistake: the channel and the journal, which has two sets of
/// pages, have room for so many from the start, at some 400 bytes for each.
const MOST_EVENTS: usize = 1 << 22;

/// Those who listen, and what is not in the journal.
pub(crate) struct Subscribers {
    /// The core's lock is taken inside it.
    list: Mutex<List>,
    /// Events that a subscriber should have got and did not.
    lost: PlainU64,
}

struct List {
    subscribers: Vec<Subscriber>,
    /// The resident thread has ended, and delivers no more.
    undelivered: bool,
    /// The pool has ended: nobody can subscribe any more.
    ended: bool,
    /// Who gave a connection back last, by its place in the pool.
    givers: Vec<Option<Caller>>,
    /// The pages that the journal is not written on.
    spare: Option<EventBuffer<Caller>>,
}

struct Subscriber {
    events: Sender<Event>,
    capacity: usize,
    /// Since the last one that was sent.
    lost: u64,
}

impl Subscriber {
    /// `false`: nobody listens any more.
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
    pub(crate) fn new() -> Subscribers {
        let list = List {
            subscribers: Vec::new(),
            undelivered: false,
            ended: false,
            givers: Vec::new(),
            spare: None,
        };
        Subscribers { list: Mutex::new(list), lost: PlainU64::new(0) }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl List {
    /// Room in the journal for what all of them want.
    fn pages(&mut self, newcomer: Option<&Subscriber>) -> Option<EventBuffer<Caller>> {
        let all = self.subscribers.iter().chain(newcomer);
        let most = all.map(|subscriber| subscriber.capacity).max()?.max(FEWEST_STEPS);
        let spare = self.spare.take().filter(|pages| pages.entries.capacity() >= most);
        Some(spare.unwrap_or_else(|| EventBuffer::with_capacity(most)))
    }

    /// Returns how many were lost.
    fn send(&mut self, event: &Event) -> u64 {
        let mut lost = 0;
        self.subscribers.retain_mut(|subscriber| {
            let before = subscriber.lost;
            let listens = subscriber.send(event);
            lost += subscriber.lost.saturating_sub(before);
            listens
        });
        lost
    }

    /// So many come after what was sent last and cannot be sent. Returns how many were
    /// lost.
    fn miss(&mut self, missing: u64) -> u64 {
        self.subscribers.iter_mut().for_each(|subscriber| subscriber.lost += missing);
        missing * self.subscribers.len() as u64
    }

    fn kinds(&mut self, entry: Entry<Caller>) -> (EventKind, Option<EventKind>) {
        match entry.step {
            Step::Enqueued { get_id, caller, .. } => {
                (EventKind::Enqueued { get_id, call_site: caller.into() }, None)
            }
            Step::GetFailed { get_id, caller, waited, kind } => {
                let call_site = caller.into();
                (EventKind::GetFailed { get_id, call_site, waited, kind }, None)
            }
            Step::CheckedOut { get_id, caller, waited, connection, from } => {
                let giver = self.giver(connection).replace(caller);
                let acquired = EventKind::CheckedOut {
                    get_id,
                    call_site: caller.into(),
                    waited,
                    connection_id: connection.connection_id,
                    from: giver.map(CallSite::from),
                };
                (acquired, Some(moved(connection, from, ConnectionState::Busy, None)))
            }
            Step::Moved { connection, from, to, reason } => {
                if to == ConnectionState::Gone || to == ConnectionState::Opening {
                    *self.giver(connection) = None;
                }
                (moved(connection, from, to, reason), None)
            }
        }
    }

    fn giver(&mut self, connection: ConnectionRef) -> &mut Option<Caller> {
        let place = connection.slot as usize;
        if self.givers.len() <= place {
            self.givers.resize(place + 1, None);
        }
        &mut self.givers[place]
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

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn subscribe(self: &Arc<Self>, capacity: usize) -> Result<Subscription, Error> {
        let (receiver, ()) = self.subscribe_looking(capacity, |_| ())?;
        Ok(Subscription::new(receiver, WeakPool::new(self)))
    }

    /// Subscribes, and tells where everything is right before the first event.
    pub(crate) fn follow(
        self: &Arc<Self>,
        capacity: usize,
    ) -> Result<(Scene, Subscription), Error> {
        let (receiver, (now, waiting, spots)) = self.subscribe_looking(capacity, |core| {
            let now = self.clock.now();
            (now, core.waiting(now), core.connections(now))
        })?;
        let spot = |SlotView { connection, state, lasted, caller }| ConnectionAt {
            slot: connection.slot,
            connection_id: (connection.connection_id != 0).then_some(connection.connection_id),
            state,
            lasted,
            holder: caller.map(CallSite::from),
        };
        let scene = Scene {
            pool: Arc::clone(&self.config.name),
            at: self.clock.instant_of(now).unwrap_or_else(sync::instant),
            waiters: waiting.into_iter().map(Waiter::from).collect(),
            connections: spots.into_iter().map(spot).collect(),
        };
        Ok((scene, Subscription::new(receiver, WeakPool::new(self))))
    }

    /// Subscribes, and looks at the pool as it is right before the first event.
    pub(crate) fn subscribe_looking<R>(
        &self,
        capacity: usize,
        look: impl FnOnce(&PoolCore<M>) -> R,
    ) -> Result<(Receiver<Event>, R), Error> {
        if capacity == 0 || capacity > MOST_EVENTS {
            return Err(Error::config(format!(
                "subscribe: capacity must be between 1 and {MOST_EVENTS}, but is {capacity}"
            )));
        }
        let (events, receiver) = bounded(capacity);
        let newcomer = Subscriber { events, capacity, lost: 0 };
        let mut list = self.subscribers.list.lock();
        match list.pages(Some(&newcomer)).filter(|_| !list.ended) {
            Some(pages) => {
                // What has happened until now is for those who listened then.
                let (_, seen) = self.turn_to(pages, &mut list, look);
                list.subscribers.push(newcomer);
                Ok((receiver, seen))
            }
            None => Ok((receiver, self.quick(|core| look(core)))),
        }
    }

    /// Delivers what has happened. When to do so again; `None` if nobody listens, or
    /// nothing happens: then whoever notes the next step has this thread woken.
    pub(crate) fn deliver(&self) -> Option<Time> {
        let mut list = self.subscribers.list.lock();
        let any = self.turn_page(&mut list);
        let listens = !list.subscribers.is_empty();
        drop(list);
        (any && listens).then(|| self.clock.now().after(DELIVER_EVERY))
    }

    /// Takes what the journal has and sends it, and leaves new pages if anybody
    /// listens. The order of events is that in which this is called: under the list's
    /// lock. Returns whether there were any.
    fn turn_page(&self, list: &mut List) -> bool {
        let Some(pages) = list.pages(None) else { return false };
        let (any, ()) = self.turn_to(pages, list, |_| ());
        if list.subscribers.is_empty() {
            // The last of them has gone, as was found when it was sent something.
            self.stop_noting(list);
        }
        any
    }

    /// Looks at the pool between what is sent now and what is noted on these pages.
    fn turn_to<R>(
        &self,
        pages: EventBuffer<Caller>,
        list: &mut List,
        look: impl FnOnce(&PoolCore<M>) -> R,
    ) -> (bool, R) {
        self.watched.store(true, Ordering::Relaxed);
        let (old, seen) = self.quick(|core| (core.swap_events(Some(pages)), look(core)));
        (old.is_some_and(|old| self.send_all(list, old)), seen)
    }

    /// Nobody listens: the fast paths are fast again.
    fn stop_noting(&self, list: &mut List) {
        self.watched.store(self.config.event_handler.is_some(), Ordering::Relaxed);
        drop(self.quick(|core| core.swap_events(None)));
        list.spare = None;
        list.givers = Vec::new();
    }

    fn send_all(&self, list: &mut List, mut old: EventBuffer<Caller>) -> bool {
        let any = !old.is_empty();
        let mut lost = 0;
        let (entries, missing) = old.take();
        for entry in entries {
            let Some(at) = self.clock.instant_of(entry.at) else { continue };
            let (first, second) = list.kinds(entry);
            for kind in [Some(first), second].into_iter().flatten() {
                let pool = Arc::clone(&self.config.name);
                lost += list.send(&Event { pool, at, lost_before: 0, kind });
            }
        }
        if missing > 0 {
            list.givers.clear();
            lost += list.miss(missing);
        }
        list.spare = Some(old);
        self.subscribers.lost.fetch_add(lost, Ordering::Relaxed);
        any
    }

    /// Sends an event that is not in the journal, after those that are.
    pub(crate) fn publish(&self, at: Time, kind: impl FnOnce() -> EventKind) {
        let mut list = self.subscribers.list.lock();
        self.turn_page(&mut list);
        if list.subscribers.is_empty() {
            return;
        }
        let Some(at) = self.clock.instant_of(at) else { return };
        let pool = Arc::clone(&self.config.name);
        let lost = list.send(&Event { pool, at, lost_before: 0, kind: kind() });
        self.subscribers.lost.fetch_add(lost, Ordering::Relaxed);
        if list.subscribers.is_empty() {
            self.stop_noting(&mut list);
        }
    }

    /// So many events that are not in the journal will never be sent.
    pub(crate) fn miss(&self, missing: usize) {
        let lost = self.subscribers.list.lock().miss(missing as u64);
        self.subscribers.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// The pool has ended, and with it the resident thread. Whoever listens finds the
    /// end of the channel, after what there still is to tell.
    pub(crate) fn end_subscriptions(&self) {
        let mut list = self.subscribers.list.lock();
        list.undelivered = true;
        self.turn_page(&mut list);
        drop(list);
        self.end_when_all_is_told();
    }

    /// Called when the resident thread has ended, and whenever all is told: the later
    /// of the two finds that both are so.
    pub(crate) fn end_when_all_is_told(&self) {
        let mut list = self.subscribers.list.lock();
        if list.undelivered && !list.ended && self.notices.are_told() {
            self.turn_page(&mut list);
            list.ended = true;
            list.subscribers.clear();
            self.stop_noting(&mut list);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::stub::StubManager;
    use crate::api::pool::Pool;

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

    /// How many listen, and whether steps are noted, so that gets and returns take
    /// the long way.
    fn watched(pool: &Pool<StubManager>) -> (usize, bool) {
        let list = pool.shared.subscribers.list.lock();
        let noted = pool.shared.quick(|core| core.is_journal_open());
        assert_eq!(pool.shared.watched.load(Ordering::Relaxed), noted);
        assert_eq!(list.spare.is_some() || !list.givers.is_empty(), noted);
        (list.subscribers.len(), noted)
    }

    #[test]
    fn the_fast_paths_are_fast_again_when_nobody_listens() {
        let pool = pool();
        assert_eq!(watched(&pool), (0, false));
        let first = pool.subscribe(10).expect("a capacity");
        let second = pool.subscribe(10).expect("a capacity");
        assert_eq!(watched(&pool), (2, true));
        // Those who have gone are found out when something is sent to them.
        drop(first);
        drop(pool.get().expect("the stub's connection"));
        eventually("one listens", || watched(&pool) == (1, true));
        drop(second);
        drop(pool.get().expect("the stub's connection"));
        eventually("nobody listens", || watched(&pool) == (0, false));
    }

    #[test]
    fn who_reads_the_journal_rests_while_nothing_happens() {
        let pool = pool();
        let events = pool.subscribe(10).expect("a capacity");
        for _ in 0..3 {
            drop(pool.get().expect("the stub's connection"));
            // Three events each, though nobody looks at regular times.
            for _ in 0..3 {
                events.recv_timeout(Duration::from_secs(10)).expect("an event");
            }
            eventually("it rests", || pool.shared.quick(|core| core.reader_sleeps()));
            assert_eq!(pool.shared.deliver(), None, "nothing has happened");
        }
    }
}
