//! A subscription to a pool's events.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::mpsc::{RecvError, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::{CallSite, ConnectionState, Event, Waiter};
use crate::sync::{Arc, Process, Weak};

/// Receives a pool's events. From [`Pool::subscribe`](crate::Pool::subscribe).
///
/// It does not keep the pool alive. Dropping it ends the subscription and frees the events that
/// were not read, at once. (If the reaper is just delivering this pool's events, the drop
/// waits for that, for some milliseconds at most.) In a child made by `fork` it has ended.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
/// let events = pool.subscribe(1000)?;
/// drop(pool.get()?);
/// drop(pool);
/// for event in &events {
///     println!("{event:?}"); // until the pool has ended
/// }
/// # Ok::<(), fairpool::Error>(())
/// ```
pub struct Subscription {
    pub(crate) pool: Arc<str>,
    /// Its number in the list.
    pub(crate) number: u64,
    /// Not the pool: a drop must not end one, nor run the destructor of its manager.
    pub(crate) list: Arc<dyn SubscriberList>,
    pub(crate) events: Receiver<Event>,
    pub(crate) source: Weak<dyn EventSource>,
    pub(crate) process: Process,
}

/// A list of subscribers.
pub(crate) trait SubscriberList: Send + Sync {
    /// Removes the one with this number, if it is there.
    fn remove(&self, number: u64);
}

/// A pool as the source of events.
pub(crate) trait EventSource: Send + Sync {
    /// Delivers all events until now.
    fn deliver(&self);
}

impl Subscription {
    /// The channel. `None` in a child made by `fork`: nothing is sent there, and its locks may
    /// be locked for ever.
    fn events(&self) -> Option<&Receiver<Event>> {
        (!self.process.is_another()).then_some(&self.events)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// If the pool has ended and all its events are read.
    ///
    /// # Blocking
    ///
    /// Until there is an event, or the pool has ended.
    pub fn recv(&self) -> Result<Event, RecvError> {
        self.events().and_then(|events| events.recv().ok()).ok_or(RecvError)
    }

    /// Waits up to `timeout` for the next event.
    ///
    /// # Errors
    ///
    /// If no event came in time, or the pool has ended and all its events are read.
    ///
    /// # Blocking
    ///
    /// For up to `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        let events = self.events().ok_or(RecvTimeoutError::Disconnected)?;
        events.recv_timeout(timeout).map_err(|error| match error {
            crossbeam_channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
            crossbeam_channel::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// The next event, without waiting.
    ///
    /// # Errors
    ///
    /// If there is no event yet, or the pool has ended and all its events are read.
    pub fn try_recv(&self) -> Result<Event, TryRecvError> {
        let events = self.events().ok_or(TryRecvError::Disconnected)?;
        events.try_recv().map_err(|error| match error {
            crossbeam_channel::TryRecvError::Empty => TryRecvError::Empty,
            crossbeam_channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// Iterates over all events until the pool has ended.
    ///
    /// # Blocking
    ///
    /// At each step, until there is an event or the pool has ended.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    /// Iterates over the events that can be read without waiting.
    pub fn try_iter(&self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    /// How many events can be read without waiting.
    pub fn len(&self) -> usize {
        self.events().map_or(0, Receiver::len)
    }

    /// Whether no event can be read without waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Delivers all events until now at once, instead of a few milliseconds later. Events
    /// that are announced (see [`Pool::subscribe`](crate::Pool::subscribe)) may still be
    /// missing. If the pool's last handle is dropped meanwhile, this call ends the pool as that
    /// drop would.
    pub fn flush(&self) {
        if let Some(source) = self.source.upgrade() {
            source.deliver();
        }
    }
}

impl<'a> IntoIterator for &'a Subscription {
    type Item = Event;
    type IntoIter = Box<dyn Iterator<Item = Event> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.process.is_another() {
            // Another receiver is leaked, so that `events` is not the last one: the drop of
            // the last one locks the channel.
            return std::mem::forget(self.events.clone());
        }
        self.list.remove(self.number);
    }
}

// A panic while one is used leaves it whole: each step is one step of a channel.
impl UnwindSafe for Subscription {}
impl RefUnwindSafe for Subscription {}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// The state of a pool right before the first event of a subscription. From
/// [`Pool::follow`](crate::Pool::follow).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scene {
    /// The pool's name.
    pub pool: Arc<str>,
    /// When the state was read.
    pub at: Instant,
    /// The waiters.
    pub waiters: Vec<Waiter>,
    /// The connections, with their states.
    pub connections: Vec<ConnectionAt>,
}

/// The state of one connection in a [`Scene`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionAt {
    /// Its slot in the pool.
    pub slot: u32,
    /// Its number; `None` until it is open.
    pub connection_id: Option<u64>,
    /// The number of its session at the server, if it is open and the manager knows it
    /// ([`ManageConnection::backend_id`](crate::ManageConnection::backend_id)).
    pub backend_id: Option<u32>,
    /// Its state.
    pub state: ConnectionState,
    /// For how long it had been in this state.
    pub lasted: Duration,
    /// Its holder, if it is busy.
    pub holder: Option<CallSite>,
}
