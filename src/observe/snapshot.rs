//! A pool at one instant: who holds, who waits, what the driver is busy with.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::types::caller::{Holder, NestedGet, Waiter};
use crate::types::config::Config;
pub use crate::core::CallKind;
use crate::core::{Call, Picture, Policy, Time, Waiting};
use crate::types::error::{Chain, Error};
use crate::runtime::health::{Health, HealthThresholds};
use crate::types::manage::ManageConnection;
use crate::observe::reading::Reading;
use crate::runtime::shared::Shared;
use crate::types::stats::Stats;
use crate::types::subscription::{Scene, Subscription};
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
/// # use fairpool_testing::StubManager;
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
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::unix_time"))]
    pub taken_at: SystemTime,
    /// How long ago the pool was built: between two snapshots it grows by the time
    /// between them, whatever happens to the system's time. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub uptime: Duration,
    /// The settings by which its state can be judged.
    pub settings: Settings,
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
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub failing_for: Option<Duration>,
}

/// The settings by which a pool's state can be judged, as they are in force: those that
/// [`Pool::set_max_size`](crate::Pool::set_max_size) and the like change, as changed.
/// Durations are serialised as seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Settings {
    /// [`Builder::max_size`](crate::Builder::max_size).
    pub max_size: u32,
    /// [`Builder::min_idle`](crate::Builder::min_idle); if that is not set, as many as
    /// may be idle.
    pub min_idle: u32,
    /// [`Builder::max_idle`](crate::Builder::max_idle); if that is not set, `max_size`.
    pub max_idle: u32,
    /// [`Builder::max_waiters`](crate::Builder::max_waiters).
    pub max_waiters: Option<u32>,
    /// [`Builder::max_abandoned`](crate::Builder::max_abandoned).
    pub max_abandoned: u32,
    /// [`Builder::connection_timeout`](crate::Builder::connection_timeout).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub connection_timeout: Duration,
    /// [`Builder::max_lifetime`](crate::Builder::max_lifetime).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub max_lifetime: Option<Duration>,
    /// [`Builder::lifetime_jitter`](crate::Builder::lifetime_jitter), in thousandths.
    pub lifetime_jitter_permille: u32,
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub idle_timeout: Option<Duration>,
    /// [`Builder::keepalive`](crate::Builder::keepalive).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub keepalive: Option<Duration>,
    /// [`Builder::leak_threshold`](crate::Builder::leak_threshold).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub leak_threshold: Option<Duration>,
    /// [`Builder::health_thresholds`](crate::Builder::health_thresholds).
    pub health_thresholds: HealthThresholds,
}

impl Settings {
    fn of<M: ManageConnection>(config: &Config<M>, policy: &Policy) -> Settings {
        Settings {
            max_size: policy.max_size,
            min_idle: policy.min_idle_now(),
            max_idle: policy.max_idle_now().min(policy.max_size),
            max_waiters: policy.max_waiters,
            max_abandoned: policy.max_abandoned,
            connection_timeout: config.connection_timeout,
            max_lifetime: policy.max_lifetime,
            lifetime_jitter_permille: policy.lifetime_jitter_permille,
            idle_timeout: policy.idle_timeout,
            keepalive: policy.keepalive,
            leak_threshold: policy.leak_threshold,
            health_thresholds: config.health_thresholds,
        }
    }
}

/// A call into the driver that has not returned, or a close that waits for a closer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DriverCall {
    /// What it is for.
    pub kind: CallKind,
    /// The connection; `None` while it is being opened.
    pub connection_id: Option<u64>,
    /// How long it has taken so far. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub running_for: Duration,
    /// It has not begun: as many connections are being closed as may be at once.
    pub queued: bool,
    /// It has overrun its limit, and the pool goes on without it.
    pub abandoned: bool,
}

impl From<Call> for DriverCall {
    fn from(call: Call) -> DriverCall {
        let Call { kind, connection_id, running_for, queued, abandoned } = call;
        let connection_id = (connection_id != 0).then_some(connection_id);
        DriverCall { kind, connection_id, running_for, queued, abandoned }
    }
}

/// The last error that a driver's connect or check met.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LastError {
    /// How long ago that was. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
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
            settings: Settings::of(&self.config, &picture.policy),
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
/// for lists of pools of several drivers. From [`Pool::downgrade`](crate::Pool::downgrade).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// let pool = fairpool::Pool::builder().name("orders").build(StubManager)?;
/// let watch = pool.downgrade();
/// assert_eq!(watch.name(), "orders");
/// assert!(watch.stats().is_some());
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone)]
pub struct WeakPool {
    name: Arc<str>,
    pool: Weak<dyn AnyPool>,
}

impl WeakPool {
    pub(crate) fn new<M: ManageConnection>(shared: &Arc<Shared<M>>) -> WeakPool {
        let name = Arc::clone(&shared.config.name);
        let pool: Weak<Shared<M>> = Arc::downgrade(shared);
        WeakPool { name, pool }
    }

    pub(crate) fn pool(&self) -> Option<Arc<dyn AnyPool>> {
        self.pool.upgrade()
    }

    /// Whether both are of one pool.
    pub fn ptr_eq(&self, other: &WeakPool) -> bool {
        Weak::ptr_eq(&self.pool, &other.pool)
    }

    /// Whether the pool is gone. Unlike the other methods, it never ends up with the
    /// last reference to the pool, whose drop runs the manager's.
    pub fn is_gone(&self) -> bool {
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

    /// As [`Pool::reading`](crate::Pool::reading); `None` if the pool is gone.
    pub fn reading(&self) -> Option<Reading> {
        Some(self.pool()?.reading())
    }

    /// As [`Pool::subscribe`](crate::Pool::subscribe).
    ///
    /// # Errors
    ///
    /// As [`Pool::subscribe`](crate::Pool::subscribe), and
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the pool is gone.
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, Error> {
        self.pool().ok_or_else(|| Error::gone(&self.name))?.subscribe(capacity)
    }

    /// As [`Pool::follow`](crate::Pool::follow).
    ///
    /// # Errors
    ///
    /// As [`subscribe`](WeakPool::subscribe).
    pub fn follow(&self, capacity: usize) -> Result<(Scene, Subscription), Error> {
        self.pool().ok_or_else(|| Error::gone(&self.name))?.follow(capacity)
    }
}

impl fmt::Debug for WeakPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakPool").field("pool", &self.name).finish_non_exhaustive()
    }
}

/// A pool of whatever driver, to look at.
pub(crate) trait AnyPool: Send + Sync {
    fn stats(&self) -> Stats;
    fn snapshot(self: Arc<Self>) -> Snapshot;
    fn health(self: Arc<Self>) -> Health;
    fn reading(self: Arc<Self>) -> Reading;
    fn subscribe(self: Arc<Self>, capacity: usize) -> Result<Subscription, Error>;
    fn follow(self: Arc<Self>, capacity: usize) -> Result<(Scene, Subscription), Error>;
    /// Sends subscribers what has happened until now.
    fn deliver(&self);
}

impl<M: ManageConnection> AnyPool for Shared<M> {
    fn stats(&self) -> Stats {
        Shared::stats(self)
    }

    fn snapshot(self: Arc<Self>) -> Snapshot {
        Shared::snapshot(&self)
    }

    fn health(self: Arc<Self>) -> Health {
        Shared::health(&self)
    }

    fn reading(self: Arc<Self>) -> Reading {
        Shared::reading(&self)
    }

    fn subscribe(self: Arc<Self>, capacity: usize) -> Result<Subscription, Error> {
        Shared::subscribe(&self, capacity)
    }

    fn follow(self: Arc<Self>, capacity: usize) -> Result<(Scene, Subscription), Error> {
        Shared::follow(&self, capacity)
    }

    fn deliver(&self) {
        Shared::deliver(self);
    }
}
