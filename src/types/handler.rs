//! The event handler, and what it is notified of.

use std::fmt;
use std::time::Duration;

use super::{Health, HealthLevel, Holder, NestedGet};

/// Is notified of what happens to a pool's connections and callers.
///
/// Set by [`Builder::event_handler`](crate::Builder::event_handler). Every
/// method runs outside the pool's locks, so it may use the pool; it should be
/// quick, since somebody waits for it to return. A panic in it is caught and
/// logged. Each default does nothing.
pub trait HandleEvent: fmt::Debug + Send + Sync {
    /// A connection was opened. Runs on the opener's thread.
    fn handle_acquire(&self, event: AcquireEvent) {
        let _ = event;
    }

    /// A connection is about to be closed. Runs on the closer's thread.
    fn handle_release(&self, event: ReleaseEvent) {
        let _ = event;
    }

    /// A caller got a connection. Runs on the caller's thread.
    fn handle_checkout(&self, event: CheckoutEvent) {
        let _ = event;
    }

    /// A caller left without a connection at its deadline. Runs on the caller's
    /// thread.
    fn handle_timeout(&self, event: TimeoutEvent) {
        let _ = event;
    }

    /// A connection came back. Runs on the returning thread.
    fn handle_checkin(&self, event: CheckinEvent) {
        let _ = event;
    }

    /// A connection has been held for longer than
    /// [`leak_threshold`](crate::Builder::leak_threshold): told once for each
    /// checkout. Runs on a worker thread of the pool; this and the three below are
    /// called one at a time, in the order in which things happened.
    fn handle_leak(&self, event: LeakEvent) {
        let _ = event;
    }

    /// A connection for which `handle_leak` was called has come back after all.
    /// Runs where `handle_leak` does.
    fn handle_leak_end(&self, event: LeakEvent) {
        let _ = event;
    }

    /// Every connection is held by a thread that itself waits for one (see
    /// [`SelfDeadlock`](crate::SelfDeadlock)). Runs where `handle_leak` does.
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        let _ = event;
    }

    /// The pool's health has changed (see
    /// [`Builder::health_thresholds`](crate::Builder::health_thresholds)). Runs
    /// where `handle_leak` does.
    fn handle_health(&self, event: HealthEvent) {
        let _ = event;
    }
}

/// A [`HandleEvent`] that does nothing; the default.
#[derive(Copy, Clone, Debug)]
pub struct NopEventHandler;

impl HandleEvent for NopEventHandler {}

/// A connection was opened.
#[derive(Clone, Debug)]
pub struct AcquireEvent {
    pub(crate) id: u64,
}

impl AcquireEvent {
    /// The connection's number: unique in the process, larger for later ones.
    pub fn connection_id(&self) -> u64 {
        self.id
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

/// A caller left at its deadline.
#[derive(Clone, Debug)]
pub struct TimeoutEvent {
    pub(crate) timeout: Duration,
}

impl TimeoutEvent {
    /// How long it was prepared to wait.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A connection came back.
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

    /// How long it was out.
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
    /// Who holds it: thread, place, and for how long by now.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }
}

/// Every connection is held by a thread that itself waits for one.
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

/// The pool's health has changed.
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

    /// The level now, and the figures that led there.
    pub fn health(&self) -> Health {
        self.health
    }
}
