//! Holders and waiters, as snapshots and events show them.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use super::caller::{CallSite, Caller, Place};
use crate::core::{Held, NestedWait, Waiting};

/// What the core writes as zero is not known.
pub(crate) fn known_backend(backend_id: u32) -> Option<u32> {
    (backend_id != 0).then_some(backend_id)
}

/// A caller that holds a connection.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Holder {
    connection_id: u64,
    backend_id: Option<u32>,
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    held_for: Duration,
    /// Granted to a task that was not polled since.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "std::ops::Not::not"))]
    not_polled: bool,
    #[cfg_attr(feature = "serde", serde(flatten))]
    call_site: CallSite,
}

impl From<Held<Caller>> for Holder {
    fn from(held: Held<Caller>) -> Holder {
        let Held { connection_id, backend_id, caller, held_for, untaken } = held;
        let (backend_id, call_site) = (known_backend(backend_id), CallSite::from(&caller));
        Holder { connection_id, backend_id, held_for, not_polled: untaken, call_site }
    }
}

impl Holder {
    pub(crate) fn longest_first(held: Vec<Held<Caller>>) -> Vec<Holder> {
        let mut holders: Vec<Holder> = held.into_iter().map(Holder::from).collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held_for()));
        holders
    }

    /// The number of the connection.
    pub fn connection_id(&self) -> u64 {
        self.connection_id
    }

    /// The number of the connection's session at the server, if the manager knows it
    /// ([`ManageConnection::backend_id`](crate::ManageConnection::backend_id)): with PostgreSQL
    /// the `pid` in `pg_stat_activity`, with MySQL the `ID` in `processlist`.
    pub fn backend_id(&self) -> Option<u32> {
        self.backend_id
    }

    /// The thread and the line of the get.
    pub fn call_site(&self) -> &CallSite {
        &self.call_site
    }

    /// The name of the thread that got the connection: see [`CallSite::thread`]. It stays
    /// the same when the connection is moved to another thread.
    pub fn thread(&self) -> &str {
        self.call_site.thread()
    }

    /// The line at which the get was called.
    pub fn location(&self) -> &'static Location<'static> {
        self.call_site.location()
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&str> {
        self.call_site.label()
    }

    /// The priority of the get.
    pub fn priority(&self) -> u8 {
        self.call_site.priority()
    }

    /// For how long the connection has been held: not longer than it was, and up to two
    /// ticks of the system's clock too short, which is 8 ms on most Linux systems.
    pub fn held_for(&self) -> Duration {
        self.held_for
    }

    /// Whether the connection was granted to a task that was not polled since: see
    /// [`Pool::get_async`](crate::Pool::get_async).
    pub fn is_granted_not_polled(&self) -> bool {
        self.not_polled
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}", self.call_site, self.held_for)?;
        if let Some(backend_id) = self.backend_id {
            write!(f, " (backend {backend_id})")?;
        }
        if self.not_polled { f.write_str(" (granted, not polled)") } else { Ok(()) }
    }
}

/// A caller that waits for a connection.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Waiter {
    get_id: u64,
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    waited: Duration,
    #[cfg_attr(feature = "serde", serde(flatten))]
    call_site: CallSite,
}

impl From<Waiting<Caller>> for Waiter {
    fn from(waiting: Waiting<Caller>) -> Waiter {
        let Waiting { get_id, caller, waited, .. } = waiting;
        Waiter { get_id, waited, call_site: CallSite::from(&caller) }
    }
}

impl Waiter {
    /// Waiters in the order in which they will be served.
    pub(crate) fn in_order(mut waiting: Vec<Waiting<Caller>>) -> Vec<Waiter> {
        Waiting::put_in_order(&mut waiting);
        waiting.into_iter().map(Waiter::from).collect()
    }

    /// The number of its get: unique in the pool, and larger for later ones. Events of the
    /// get have the same number.
    pub fn get_id(&self) -> u64 {
        self.get_id
    }

    /// The thread and the line of the get.
    pub fn call_site(&self) -> &CallSite {
        &self.call_site
    }

    /// The name of the waiting thread: see [`CallSite::thread`].
    pub fn thread(&self) -> &str {
        self.call_site.thread()
    }

    /// The line at which it waits.
    pub fn location(&self) -> &'static Location<'static> {
        self.call_site.location()
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&str> {
        self.call_site.label()
    }

    /// The priority of the get.
    pub fn priority(&self) -> u8 {
        self.call_site.priority()
    }

    /// How long the caller has waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Display for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}", self.call_site, self.waited)
    }
}

/// A thread that holds a connection and waits for another of the same pool.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct NestedGet {
    holder: Holder,
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::location"))]
    waits_at: &'static Location<'static>,
}

impl From<NestedWait<Caller>> for NestedGet {
    fn from(wait: NestedWait<Caller>) -> NestedGet {
        NestedGet { holder: wait.held.into(), waits_at: wait.waits.location }
    }
}

impl NestedGet {
    /// The thread as the holder of its connection.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The line at which it waits for another connection.
    pub fn waits_at(&self) -> &'static Location<'static> {
        self.waits_at
    }
}

impl fmt::Display for NestedGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for another at {}", self.holder, Place(self.waits_at))
    }
}
