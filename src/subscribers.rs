//! Those who listen to everything that happens.
//!
//! The core notes each step in its journal, under the pool's lock; the resident
//! thread empties it every few milliseconds and sends the events. A subscriber that
//! does not read them in time loses some, and the pool never waits for it.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::caller::{Caller, Origin};
use crate::core::{Entry, Pages, Place, Step, Time, Which};
use crate::error::Error;
use crate::event::{Event, EventKind};
use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::{Arc, PlainMutex, PlainOrdering as Ordering, PlainU64};

/// The journal is emptied this often while somebody listens.
const DELIVER_EVERY: Duration = Duration::from_millis(5);

/// More is taken for a mistake: the journal and the channel have room for so many
/// from the start, at some 100 bytes each.
const MOST_EVENTS: usize = 1 << 22;

/// Those who listen, and what is not in the journal.
pub(crate) struct Subscribers {
    list: PlainMutex<List>,
    /// Events that a subscriber should have got and did not.
    lost: PlainU64,
}

struct List {
    subscribers: Vec<Subscriber>,
    /// Who gave a connection back last, by its place in the pool.
    givers: Vec<Option<Caller>>,
    /// The pages that the journal is not written on.
    spare: Option<Pages<Caller>>,
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
        let list = List { subscribers: Vec::new(), givers: Vec::new(), spare: None };
        Subscribers { list: PlainMutex::new(list), lost: PlainU64::new(0) }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl List {
    /// Room in the journal for what all of them want.
    fn pages(&mut self) -> Option<Pages<Caller>> {
        let most = self.subscribers.iter().map(|subscriber| subscriber.capacity).max()?;
        let spare = self.spare.take().filter(|pages| pages.entries.capacity() >= most);
        Some(spare.unwrap_or_else(|| Pages::of(most)))
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

    fn kinds(&mut self, entry: Entry<Caller>) -> (EventKind, Option<EventKind>) {
        match entry.step {
            Step::Started { get, caller, .. } => {
                (EventKind::Started { get, origin: caller.into() }, None)
            }
            Step::Left { get, caller, waited, end } => {
                let (origin, end) = (caller.into(), end.into());
                (EventKind::Left { get, origin, waited, end }, None)
            }
            Step::Lent { get, caller, waited, which, from } => {
                let giver = self.giver(which).replace(caller);
                let acquired = EventKind::Acquired {
                    get,
                    origin: caller.into(),
                    waited,
                    connection: which.connection,
                    from: giver.map(Origin::from),
                };
                (acquired, Some(moved(which, from, Place::Busy, None)))
            }
            Step::Moved { which, from, to, why } => {
                if to == Place::Gone || to == Place::Opening {
                    *self.giver(which) = None;
                }
                (moved(which, from, to, why.map(Into::into)), None)
            }
        }
    }

    fn giver(&mut self, which: Which) -> &mut Option<Caller> {
        let place = which.slot as usize;
        if self.givers.len() <= place {
            self.givers.resize(place + 1, None);
        }
        &mut self.givers[place]
    }
}

fn moved(
    which: Which,
    from: Place,
    to: Place,
    reason: Option<crate::event::MoveReason>,
) -> EventKind {
    EventKind::Moved {
        place: which.slot,
        connection: (which.connection != 0).then_some(which.connection),
        from: from.into(),
        to: to.into(),
        reason,
    }
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn subscribe(self: &Arc<Self>, capacity: usize) -> Result<Receiver<Event>, Error> {
        if capacity == 0 || capacity > MOST_EVENTS {
            return Err(Error::config(format!(
                "subscribe: capacity must be between 1 and {MOST_EVENTS}, but is {capacity}"
            )));
        }
        let (events, receiver) = bounded(capacity);
        let mut list = self.subscribers.list.lock();
        list.subscribers.push(Subscriber { events, capacity, lost: 0 });
        self.turn_page(&mut list);
        drop(list);
        self.reaper.wake();
        Ok(receiver)
    }

    /// Delivers what has happened. When to do so again; `None` if nobody listens.
    pub(crate) fn deliver(&self) -> Option<Time> {
        let mut list = self.subscribers.list.lock();
        if list.subscribers.is_empty() {
            return None;
        }
        self.turn_page(&mut list);
        let listens = !list.subscribers.is_empty();
        drop(list);
        listens.then(|| self.clock.now().after(DELIVER_EVERY))
    }

    /// Takes what the journal has, sends it, and leaves new pages if anybody listens
    /// then. The order of events is that in which this is called: under the list's
    /// lock.
    fn turn_page(&self, list: &mut List) {
        let pages = list.pages();
        let listens = pages.is_some();
        self.watched.store(listens || self.config.event_handler.is_some(), Ordering::Relaxed);
        let Some(mut old) = self.quick(|core| core.turn_page(pages)) else { return };
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
            list.subscribers.iter_mut().for_each(|subscriber| subscriber.lost += missing);
            lost += missing * list.subscribers.len() as u64;
        }
        list.spare = listens.then_some(old);
        self.subscribers.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// Sends an event that is not in the journal, after those that are.
    pub(crate) fn publish(&self, at: Time, kind: impl FnOnce() -> EventKind) {
        let mut list = self.subscribers.list.lock();
        if list.subscribers.is_empty() {
            return;
        }
        self.turn_page(&mut list);
        let Some(at) = self.clock.instant_of(at) else { return };
        let pool = Arc::clone(&self.config.name);
        let lost = list.send(&Event { pool, at, lost_before: 0, kind: kind() });
        self.subscribers.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// The pool has ended: whoever listens finds the end of the channel.
    pub(crate) fn end_subscriptions(&self) {
        let mut list = self.subscribers.list.lock();
        self.turn_page(&mut list);
        list.subscribers.clear();
        self.turn_page(&mut list);
    }
}
