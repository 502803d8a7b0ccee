//! Events, for subscribers.

use std::time::{Duration, Instant};

use super::{CallSite, ErrorKind, Health, HealthLevel, Holder, NestedGet};
use crate::core::CallKind;
pub use crate::core::{ConnectionState, Reason};
use crate::sync::Arc;

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
