//! What happens in a pool, told to a handler as it happens, or to subscribers in the
//! order in which it happened.

use std::fmt;
use std::time::{Duration, Instant};

use crate::types::caller::{Holder, NestedGet, CallSite};
pub use crate::core::{ConnectionState, Reason};
use crate::types::error::ErrorKind;
use crate::runtime::health::{Health, HealthLevel};
use crate::core::CallKind;
use crate::sync::Arc;

/// Is told of what happens to a pool's connections and callers.
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
#[derive(Debug)]
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
#[derive(Debug)]
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
#[derive(Debug)]
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
#[derive(Debug)]
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
#[derive(Debug)]
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
#[derive(Debug)]
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
#[derive(Debug)]
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
#[derive(Debug)]
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

/// Something that has happened, from [`Pool::subscribe`](crate::Pool::subscribe).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The pool's name.
    pub pool: Arc<str>,
    /// When it happened.
    pub at: Instant,
    /// How many events this subscriber has lost right before this one, because it was
    /// slower than they came.
    pub lost_before: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
///
/// A get that finds a connection at once leaves one event, `Acquired` with nothing
/// waited; one that waits leaves `Started` and later one of the others with the same
/// number. One that is refused, or was cancelled before it began, leaves `Left` alone;
/// [`try_get`](crate::Pool::try_get), which waits for nobody, leaves none if it finds
/// nothing (if it finds a connection that is due for a check, it waits for that). Where a connection goes to a caller, `Acquired` is followed by the
/// connection's own `Moved`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A caller has joined the queue.
    Enqueued {
        /// The number of the get: unique in the pool, larger for later ones.
        get_id: u64,
        /// Who asks.
        call_site: CallSite,
    },
    /// A caller has got a connection.
    CheckedOut {
        /// The number of the get.
        get_id: u64,
        /// Who asked.
        call_site: CallSite,
        /// How long it waited.
        waited: Duration,
        /// The number of the connection.
        connection_id: u64,
        /// Who gave it back last; `None` if it is new, or if that was before the
        /// subscription or among the events lost.
        from: Option<CallSite>,
    },
    /// A caller has left without a connection.
    GetFailed {
        /// The number of the get.
        get_id: u64,
        /// Who asked.
        call_site: CallSite,
        /// How long it waited.
        waited: Duration,
        /// Why.
        kind: ErrorKind,
    },
    /// A connection has moved to another state.
    Moved {
        /// Its slot in the pool: from opening to closed it has one for itself.
        slot: u32,
        /// Its number; `None` until it is open.
        connection_id: Option<u64>,
        /// Its state before.
        from: ConnectionState,
        /// Its state now.
        to: ConnectionState,
        /// Why, where its new state does not say it.
        reason: Option<Reason>,
    },
    /// A connection is held for longer than
    /// [`leak_threshold`](crate::Builder::leak_threshold).
    Leak(Holder),
    /// It has come back after all.
    LeakEnded(Holder),
    /// Every connection is held by a thread that itself waits for one: these, 32 of
    /// them at most.
    SelfDeadlock(Vec<NestedGet>),
    /// Connecting has begun to fail, with this error.
    Outage(String),
    /// Connecting has succeeded again.
    OutageEnded {
        /// How many attempts had failed.
        failures: u32,
        /// How long it lasted.
        lasted: Duration,
    },
    /// A driver call has overrun its limit; the pool goes on without it.
    Abandoned {
        /// What it is for.
        call: CallKind,
        /// The connection; `None` if it is being opened.
        connection_id: Option<u64>,
        /// How long it has taken so far.
        after: Duration,
    },
    /// The pool's health has changed.
    Health {
        /// The level before.
        from: HealthLevel,
        /// The level now, with the figures that led there.
        health: Health,
    },
}
