//! A pool at one instant: who holds, who waits, what the driver is busy with.

mod dump;
pub(crate) mod groups;

use std::fmt;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Receiver;

use crate::caller::{Holder, NestedGet, Waiter};
use crate::config::Config;
use crate::core::{Call, CallKind, Picture, Time, Waiting};
use crate::error::{Chain, Error};
use crate::event::Event;
use crate::health::{Health, HealthThresholds};
use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::sync::{Arc, Weak};

/// Everything that a pool knows about itself, taken under its lock at one instant:
/// the numbers in `stats` are those of the lists.
///
/// It prints as a dump that fits a terminal; with the feature `serde` it can be
/// serialised.
///
/// # Examples
///
/// ```
/// # use fairpool::doc::StubManager;
/// let pool = fairpool::Pool::builder().max_size(3).build(StubManager)?;
/// let (conn, line) = (pool.get()?, line!());
/// let snapshot = pool.snapshot();
/// assert_eq!(snapshot.stats.in_use as usize, snapshot.holders.len());
/// assert_eq!(snapshot.holders[0].location().line(), line);
/// println!("{snapshot}");
/// # drop(conn);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// The pool's name.
    pub pool: String,
    /// When it was taken. Serialised as seconds since 1970.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::unix_time"))]
    pub taken_at: SystemTime,
    /// How long ago the pool was built: between two snapshots it grows by the time
    /// between them, whatever happens to the system's time. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds"))]
    pub uptime: Duration,
    /// Those of the pool's settings by which its state can be judged.
    pub limits: Limits,
    /// Gauges and counters.
    pub stats: Stats,
    /// How the pool is.
    pub health: Health,
    /// Whether [`Pool::pause`](crate::Pool::pause) is in force.
    pub paused: bool,
    /// Whether the pool was closed.
    pub closed: bool,
    /// Who holds connections, longest first.
    pub holders: Vec<Holder>,
    /// Who waits, in the order in which they will be served.
    pub waiters: Vec<Waiter>,
    /// Driver calls under way, and connections that wait for a closer; those that
    /// have taken longest first.
    pub calls: Vec<DriverCall>,
    /// The threads that wait for themselves, if every connection is held by one (32
    /// of them at most).
    pub nested_gets: Vec<NestedGet>,
    /// The last error of a connect or a check, unless a connection was opened since.
    pub last_error: Option<LastError>,
    /// For how long connecting has failed, if it does. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub failing_for: Option<Duration>,
}

/// Settings of a pool that say what is much and what is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Limits {
    /// [`Builder::health_thresholds`](crate::Builder::health_thresholds).
    pub health_thresholds: HealthThresholds,
    /// [`Builder::connection_timeout`](crate::Builder::connection_timeout).
    /// Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds"))]
    pub connection_timeout: Duration,
    /// [`Builder::leak_threshold`](crate::Builder::leak_threshold). Serialised as
    /// seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub leak_threshold: Option<Duration>,
    /// [`Builder::max_waiters`](crate::Builder::max_waiters).
    pub max_waiters: Option<u32>,
    /// [`Builder::max_abandoned`](crate::Builder::max_abandoned).
    pub max_abandoned: u32,
}

impl Limits {
    fn of<M: ManageConnection>(config: &Config<M>) -> Limits {
        Limits {
            health_thresholds: config.health_thresholds,
            connection_timeout: config.connection_timeout,
            leak_threshold: config.policy.leak_threshold,
            max_waiters: config.policy.max_waiters,
            max_abandoned: config.policy.max_abandoned,
        }
    }
}

/// A call into the driver that has not returned, or a close that waits for a closer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DriverCall {
    /// What it is for.
    pub kind: DriverCallKind,
    /// The connection; `None` while it is being opened.
    pub connection_id: Option<u64>,
    /// How long it has taken so far. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds"))]
    pub running_for: Duration,
    /// It has not begun: as many connections are being closed as may be at once.
    pub queued: bool,
    /// It has overrun its limit, and the pool goes on without it.
    pub abandoned: bool,
}

/// What a driver call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DriverCallKind {
    /// To open a connection.
    Connect,
    /// To reset or validate one.
    Check,
    /// To close one.
    Close,
}

impl From<CallKind> for DriverCallKind {
    fn from(kind: CallKind) -> DriverCallKind {
        match kind {
            CallKind::Open => DriverCallKind::Connect,
            CallKind::Check => DriverCallKind::Check,
            CallKind::Close => DriverCallKind::Close,
        }
    }
}

impl fmt::Display for DriverCallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DriverCallKind::Connect => "connect",
            DriverCallKind::Check => "check",
            DriverCallKind::Close => "close",
        })
    }
}

impl From<Call> for DriverCall {
    fn from(call: Call) -> DriverCall {
        let Call { kind, connection, running_for, queued, abandoned } = call;
        let connection_id = (connection != 0).then_some(connection);
        DriverCall { kind: kind.into(), connection_id, running_for, queued, abandoned }
    }
}

/// The last error that a driver's connect or check met.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LastError {
    /// How long ago that was. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds"))]
    pub age: Duration,
    /// What it said, with what its sources said.
    pub text: String,
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn snapshot(self: &Arc<Self>) -> Snapshot {
        let now = self.clock.now();
        let picture = self.quick(|core| core.picture(now));
        let taken_at = SystemTime::now();
        let health = self.judge_health(picture.pressure, now);
        let Picture { held, mut waiting, calls, nested, last_error, .. } = picture;
        Waiting::put_in_order(&mut waiting);
        let mut holders: Vec<Holder> = held.into_iter().map(Holder::from).collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held_for()));
        let mut calls: Vec<DriverCall> = calls.into_iter().map(DriverCall::from).collect();
        calls.sort_by_key(|call| std::cmp::Reverse(call.running_for));
        Snapshot {
            pool: self.config.name.to_string(),
            taken_at,
            uptime: now.since(Time::START),
            limits: Limits::of(&self.config),
            stats: self.stats_of(&picture.gauges, &picture.counters),
            health,
            paused: picture.paused,
            closed: picture.closed,
            holders,
            waiters: waiting.into_iter().map(Waiter::from).collect(),
            calls,
            nested_gets: nested.into_iter().map(NestedGet::from).collect(),
            last_error: last_error.map(|(age, cause)| {
                let text = Chain(&*cause).to_string();
                // The pool may have forgotten it meanwhile.
                let _ = self.contain("dropping an error", || drop(cause));
                LastError { age, text }
            }),
            failing_for: picture.failing_for,
        }
    }
}

/// Looks at a pool without keeping it alive: for monitoring that outlives pools, and
/// for lists of pools of several drivers. From [`Pool::watch`](crate::Pool::watch).
///
/// # Examples
///
/// ```
/// # use fairpool::doc::StubManager;
/// let pool = fairpool::Pool::builder().name("orders").build(StubManager)?;
/// let watch = pool.watch();
/// assert_eq!(watch.name(), "orders");
/// assert!(watch.stats().is_some());
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Watch {
    name: Arc<str>,
    pool: Weak<dyn Watched>,
}

impl Watch {
    pub(crate) fn new<M: ManageConnection>(shared: &Arc<Shared<M>>) -> Watch {
        let name = Arc::clone(&shared.config.name);
        let pool: Weak<Shared<M>> = Arc::downgrade(shared);
        Watch { name, pool }
    }

    pub(crate) fn pool(&self) -> Option<Arc<dyn Watched>> {
        self.pool.upgrade()
    }

    #[cfg(any(feature = "prometheus", feature = "opentelemetry"))]
    pub(crate) fn is_of_same_pool(&self, other: &Watch) -> bool {
        Weak::ptr_eq(&self.pool, &other.pool)
    }

    /// Unlike [`pool`](Watch::pool), whoever asks never ends up with the last of it,
    /// whose drop runs the manager's.
    #[cfg(any(feature = "prometheus", feature = "opentelemetry"))]
    pub(crate) fn is_gone(&self) -> bool {
        self.pool.strong_count() == 0
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Pool::stats`](crate::Pool::stats); `None` if the pool is gone.
    pub fn stats(&self) -> Option<Stats> {
        Some(self.pool()?.stats())
    }

    /// As [`Pool::snapshot`](crate::Pool::snapshot); `None` if the pool is gone.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(self.pool()?.snapshot())
    }

    /// As [`Pool::health`](crate::Pool::health); `None` if the pool is gone.
    pub fn health(&self) -> Option<Health> {
        Some(self.pool()?.health())
    }

    /// As [`Pool::subscribe`](crate::Pool::subscribe); `None` if the pool is gone.
    ///
    /// # Errors
    ///
    /// As [`Pool::subscribe`](crate::Pool::subscribe).
    pub fn subscribe(&self, capacity: usize) -> Option<Result<Receiver<Event>, Error>> {
        Some(self.pool()?.subscribe(capacity))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("pool", &self.name).finish_non_exhaustive()
    }
}

/// A pool of whatever driver, to look at.
pub(crate) trait Watched: Send + Sync {
    fn stats(&self) -> Stats;
    fn snapshot(self: Arc<Self>) -> Snapshot;
    fn health(self: Arc<Self>) -> Health;
    /// Subscribes, and tells how things are right before the first event.
    #[cfg(feature = "trace")]
    fn follow(&self, capacity: usize) -> Result<(Receiver<Event>, crate::trace::Scene), Error>;
    /// Sends subscribers what has happened until now.
    #[cfg(feature = "trace")]
    fn deliver(&self);
    /// How long gets took.
    #[cfg(feature = "inspect")]
    fn waits(&self) -> crate::times::Distribution;
    fn subscribe(self: Arc<Self>, capacity: usize) -> Result<Receiver<Event>, Error>;
    #[cfg(any(feature = "prometheus", feature = "opentelemetry"))]
    fn reading(self: Arc<Self>) -> crate::metrics::Reading;
}

impl<M: ManageConnection> Watched for Shared<M> {
    fn stats(&self) -> Stats {
        Shared::stats(self)
    }

    fn snapshot(self: Arc<Self>) -> Snapshot {
        Shared::snapshot(&self)
    }

    fn health(self: Arc<Self>) -> Health {
        Shared::health(&self)
    }

    #[cfg(feature = "trace")]
    fn follow(&self, capacity: usize) -> Result<(Receiver<Event>, crate::trace::Scene), Error> {
        Shared::follow(self, capacity)
    }

    #[cfg(feature = "trace")]
    fn deliver(&self) {
        Shared::deliver(self);
    }

    #[cfg(feature = "inspect")]
    fn waits(&self) -> crate::times::Distribution {
        self.times.waits(&self.quick(|core| *core.counters()))
    }

    fn subscribe(self: Arc<Self>, capacity: usize) -> Result<Receiver<Event>, Error> {
        Shared::subscribe(&self, capacity)
    }

    #[cfg(any(feature = "prometheus", feature = "opentelemetry"))]
    fn reading(self: Arc<Self>) -> crate::metrics::Reading {
        Shared::reading(&self)
    }
}
