//! Events, for subscribers.

use std::time::{Duration, Instant};

use super::{CallSite, ErrorKind, Health, HealthLevel, Holder, NestedGet};
use crate::core::CallKind;
pub use crate::core::{ConnectionState, Reason};
use crate::sync::Arc;

/// Something that has happened in a pool, from [`Pool::subscribe`](crate::Pool::subscribe).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The pool's name.
    pub pool: Arc<str>,
    /// When it happened.
    pub at: Instant,
    /// How many events this subscriber lost right before this one because it read too
    /// slowly.
    pub lost_before: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
///
/// The events of one get have the same `get_id`:
///
/// - A get that finds a connection at once: `CheckedOut`, with a wait of zero.
/// - A get that waits: `Enqueued`, and later `CheckedOut` or `GetFailed`.
/// - A get that makes a check itself
///   ([`checks_within_limit`](crate::ManageConnection::checks_within_limit)), or finds that
///   another was quicker: `CheckedOut` with the time that took. If the check fails, the events
///   of a get that waits follow, which has waited since it came.
/// - A get of a task ([`get_async`](crate::Pool::get_async)) that is not polled in time after it was
///   granted a connection: after `CheckedOut`, `Enqueued` once more, and the rest anew. A task
///   that is dropped after `CheckedOut` returns the connection, as any holder does.
/// - A get that is refused, or was cancelled before it began: `GetFailed`.
/// - A [`try_get`](crate::Pool::try_get) that finds no idle connection: none. One that
///   waits for a check has the events of a get that waits.
///
/// Each `CheckedOut` is followed by the `Moved` of its connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A caller has joined the queue, or is back in it.
    Enqueued {
        /// The number of the get: unique in the pool, larger for later ones.
        get_id: u64,
        /// The caller.
        call_site: CallSite,
    },
    /// A caller has got a connection.
    CheckedOut {
        /// The number of the get.
        get_id: u64,
        /// The caller.
        call_site: CallSite,
        /// How long it waited.
        waited: Duration,
        /// The number of the connection.
        connection_id: u64,
        /// The number of its session at the server, if the manager knows it
        /// ([`ManageConnection::backend_id`](crate::ManageConnection::backend_id)).
        backend_id: Option<u32>,
        /// The holder that returned the connection last. `None` if the connection is new,
        /// or if that happened before the subscription or among the lost events.
        from: Option<CallSite>,
    },
    /// A caller has left without a connection.
    GetFailed {
        /// The number of the get.
        get_id: u64,
        /// The caller.
        call_site: CallSite,
        /// How long it waited.
        waited: Duration,
        /// Why the get failed.
        kind: ErrorKind,
    },
    /// A connection has moved to another state.
    Moved {
        /// Its slot in the pool, which it keeps from its opening until it is gone.
        slot: u32,
        /// Its number; `None` until it is open.
        connection_id: Option<u64>,
        /// The number of its session at the server, as in `CheckedOut`; `None` until it is open.
        backend_id: Option<u32>,
        /// Its state before.
        from: ConnectionState,
        /// Its state now.
        to: ConnectionState,
        /// Why it moved; `None` if the new state shows it.
        reason: Option<Reason>,
    },
    /// A connection is held for longer than
    /// [`leak_threshold`](crate::Builder::leak_threshold).
    Leak(Holder),
    /// A connection that was reported by `Leak` was returned.
    LeakEnded(Holder),
    /// Every connection is held by a thread that itself waits for another. These are the
    /// threads, 32 of them at most.
    SelfDeadlock(Vec<NestedGet>),
    /// Connecting has begun to fail, with this error.
    Outage(String),
    /// Connecting succeeds again.
    OutageEnded {
        /// How many attempts had failed.
        failures: u32,
        /// How long the outage lasted.
        lasted: Duration,
    },
    /// A driver call has overrun its limit, and the pool goes on without it.
    Abandoned {
        /// What the call is for.
        call: CallKind,
        /// The connection; `None` if it is being opened.
        connection_id: Option<u64>,
        /// How long the call has taken so far.
        after: Duration,
    },
    /// The pool's health has changed its level.
    Health {
        /// The level before.
        from: HealthLevel,
        /// The new level, with the figures that it is judged by.
        health: Health,
    },
}
