//! What a subscriber holds.

use std::fmt;
use std::sync::mpsc::{RecvError, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::{CallSite, ConnectionState, Event, Waiter};
use crate::sync::{Arc, Weak};

/// Receives a pool's events, from [`Pool::subscribe`](crate::Pool::subscribe). The
/// subscription ends when this is dropped; it does not keep the pool alive.
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
    pool: Arc<str>,
    events: Receiver<Event>,
    source: Weak<dyn EventSource>,
}

/// Where events come from: a pool.
pub(crate) trait EventSource: Send + Sync {
    /// Delivers what has happened until now.
    fn deliver(&self);
}

impl Subscription {
    pub(crate) fn new(
        pool: Arc<str>,
        events: Receiver<Event>,
        source: Weak<dyn EventSource>,
    ) -> Subscription {
        Subscription { pool, events, source }
    }

    /// The next event.
    ///
    /// # Errors
    ///
    /// When the pool has ended and all its events are read.
    ///
    /// # Blocking
    ///
    /// Until there is one.
    pub fn recv(&self) -> Result<Event, RecvError> {
        self.events.recv().map_err(|_| RecvError)
    }

    /// The next event, if it comes within `timeout`.
    ///
    /// # Errors
    ///
    /// When none came in time, or the pool has ended and all its events are read.
    ///
    /// # Blocking
    ///
    /// For up to `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        self.events.recv_timeout(timeout).map_err(|error| match error {
            crossbeam_channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
            crossbeam_channel::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// The next event, if there is one now.
    ///
    /// # Errors
    ///
    /// When there is none yet, or the pool has ended and all its events are read.
    pub fn try_recv(&self) -> Result<Event, TryRecvError> {
        self.events.try_recv().map_err(|error| match error {
            crossbeam_channel::TryRecvError::Empty => TryRecvError::Empty,
            crossbeam_channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// All events until the pool has ended.
    ///
    /// # Blocking
    ///
    /// Each step, until there is an event.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    /// The events that are there now.
    pub fn try_iter(&self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    /// How many events are there now.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is there now.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Delivers what has happened until now at once, instead of some milliseconds later.
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

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// Where everything was right before the first event of a subscription, from
/// [`Pool::follow`](crate::Pool::follow).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scene {
    /// The pool's name.
    pub pool: Arc<str>,
    /// When it was taken.
    pub at: Instant,
    /// Who waited.
    pub waiters: Vec<Waiter>,
    /// Where the connections were.
    pub connections: Vec<ConnectionAt>,
}

/// Where a connection is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionAt {
    /// Its slot in the pool.
    pub slot: u32,
    /// Its number; `None` until it is open.
    pub connection_id: Option<u64>,
    /// Its state.
    pub state: ConnectionState,
    /// For how long it had been in this state.
    pub lasted: Duration,
    /// Who holds it, if it is busy.
    pub holder: Option<CallSite>,
}
