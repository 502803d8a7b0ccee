//! The event handler and its events.

use std::fmt;
use std::time::Duration;

use super::{Health, HealthLevel, Holder, NestedGet};

/// A handler that is notified of what happens to a pool's connections and callers. Set by
/// [`Builder::event_handler`](crate::Builder::event_handler).
///
/// Every method is called outside the pool's locks, so it may use the pool. It must be
/// quick, because the thread that calls it waits for it. A panic in it is caught and
/// logged. The default methods do nothing.
///
/// | event | runs on |
/// |---|---|
/// | [`handle_checkout`](HandleEvent::handle_checkout), [`handle_timeout`](HandleEvent::handle_timeout) | the caller's thread |
/// | [`handle_checkin`](HandleEvent::handle_checkin) | the thread that drops the guard |
/// | [`handle_release`](HandleEvent::handle_release) | the thread that drops the guard, if its holder broke or discarded the connection; else a worker |
/// | [`handle_acquire`](HandleEvent::handle_acquire) and the others | a worker |
pub trait HandleEvent: fmt::Debug + Send + Sync {
    /// A connection was opened. Runs on the worker that opened it.
    fn handle_acquire(&self, event: AcquireEvent) {
        let _ = event;
    }

    /// A connection leaves the pool to be closed. Called once for each.
    ///
    /// If its holder broke or discarded it, this runs on the thread that drops the guard,
    /// before that drop returns, and after the pool has taken the connection back: it may get
    /// another one. A worker closes the connection, perhaps at the same time. Otherwise (the
    /// connection is too old, or failed its check, or the pool closes) it runs on the worker,
    /// right before the close.
    fn handle_release(&self, event: ReleaseEvent) {
        let _ = event;
    }

    /// A caller got a connection. Runs on the caller's thread.
    fn handle_checkout(&self, event: CheckoutEvent) {
        let _ = event;
    }

    /// A caller left at its deadline without a connection. Runs on the caller's thread.
    fn handle_timeout(&self, event: TimeoutEvent) {
        let _ = event;
    }

    /// A connection was returned. Runs on the returning thread.
    fn handle_checkin(&self, event: CheckinEvent) {
        let _ = event;
    }

    /// A connection has been held for longer than
    /// [`leak_threshold`](crate::Builder::leak_threshold). Called once for each checkout.
    ///
    /// This method and the three below run on a worker thread of the pool. They are called
    /// one at a time, in the order in which their events happened.
    fn handle_leak(&self, event: LeakEvent) {
        let _ = event;
    }

    /// A connection for which `handle_leak` was called has been returned.
    fn handle_leak_end(&self, event: LeakEvent) {
        let _ = event;
    }

    /// Every connection is held by a thread that itself waits for another (see
    /// [`SelfDeadlock`](crate::SelfDeadlock)).
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        let _ = event;
    }

    /// The pool's health has changed its level (see
    /// [`Builder::health_thresholds`](crate::Builder::health_thresholds)).
    fn handle_health(&self, event: HealthEvent) {
        let _ = event;
    }
}

/// A [`HandleEvent`] that does nothing.
#[derive(Copy, Clone, Debug)]
pub struct NopEventHandler;

impl HandleEvent for NopEventHandler {}

/// A connection was opened.
#[derive(Clone, Debug)]
pub struct AcquireEvent {
    pub(crate) id: u64,
    pub(crate) backend_id: Option<u32>,
}

impl AcquireEvent {
    /// The connection's number: unique in the process, larger for later ones.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// The number of its session at the server, if the manager knows it
    /// ([`ManageConnection::backend_id`](crate::ManageConnection::backend_id)).
    pub fn backend_id(&self) -> Option<u32> {
        self.backend_id
    }
}

/// A connection is about to be closed.
#[derive(Clone, Debug)]
pub struct ReleaseEvent {
    pub(crate) id: u64,
    pub(crate) age: Duration,
}

impl ReleaseEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long ago it was opened.
    pub fn age(&self) -> Duration {
        self.age
    }
}

/// A caller got a connection.
#[derive(Clone, Debug)]
pub struct CheckoutEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckoutEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long the caller waited for it.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// A caller left at its deadline without a connection.
#[derive(Clone, Debug)]
pub struct TimeoutEvent {
    pub(crate) timeout: Duration,
}

impl TimeoutEvent {
    /// The caller's timeout.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A connection was returned.
#[derive(Clone, Debug)]
pub struct CheckinEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckinEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long it was held.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// A connection is, or was, held for longer than `leak_threshold`.
#[derive(Clone, Debug)]
pub struct LeakEvent {
    pub(crate) holder: Holder,
}

impl LeakEvent {
    /// The holder: its thread, its line, and how long it has held the connection.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }
}

/// Every connection is held by a thread that itself waits for another.
#[derive(Clone, Debug)]
pub struct SelfDeadlockEvent {
    pub(crate) nested: Vec<NestedGet>,
}

impl SelfDeadlockEvent {
    /// The threads, 32 of them at most.
    pub fn nested_gets(&self) -> &[NestedGet] {
        &self.nested
    }
}

/// The pool's health has changed its level.
#[derive(Clone, Debug)]
pub struct HealthEvent {
    pub(crate) from: HealthLevel,
    pub(crate) health: Health,
}

impl HealthEvent {
    /// The level before.
    pub fn from(&self) -> HealthLevel {
        self.from
    }

    /// The new level, with the figures that it is judged by.
    pub fn health(&self) -> Health {
        self.health
    }
}
