//! A pool at one instant: its figures, holders, waiters and driver calls.

use std::time::{Duration, SystemTime};

pub use crate::core::CallKind;
use crate::core::{Call, Policy, Time};
use crate::runtime::shared::Shared;
use crate::sync::Arc;
use crate::types::{
    Chain, Config, Health, HealthThresholds, Holder, ManageConnection, NestedGet, Stats, Waiter,
};

/// The whole state of a pool, read under its lock at one instant, so that the numbers in
/// `stats` match the lists. From [`Pool::snapshot`](crate::Pool::snapshot).
///
/// It prints as a dump that fits a terminal. With the feature `serde` it can be
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
    /// How long ago the pool was built. It is monotonic, unlike `taken_at`. Serialised as
    /// seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub uptime: Duration,
    /// The settings by which the state can be judged.
    pub settings: Settings,
    /// Gauges and counters.
    pub stats: Stats,
    /// The pool's health.
    pub health: Health,
    /// Whether the pool is paused: see [`Pool::pause`](crate::Pool::pause).
    pub paused: bool,
    /// Whether the pool was closed.
    pub closed: bool,
    /// The holders of connections, longest first.
    pub holders: Vec<Holder>,
    /// The waiters, in the order in which they will be served.
    pub waiters: Vec<Waiter>,
    /// Driver calls under way, and connections that wait for a closer, slowest first.
    pub calls: Vec<DriverCall>,
    /// The threads of a self-deadlock, 32 of them at most: they hold all connections, and
    /// each waits for another. Empty if there is none.
    pub nested_gets: Vec<NestedGet>,
    /// The last error of a connect or a check, unless a connection was opened since.
    pub last_error: Option<LastError>,
    /// For how long connecting has failed; `None` if it does not fail. Serialised as
    /// seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub failing_for: Option<Duration>,
}

/// The settings by which a pool's state can be judged, with the changes made by
/// [`Pool::set_max_size`](crate::Pool::set_max_size) and
/// [`Pool::set_min_idle`](crate::Pool::set_min_idle). Durations are serialised as seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Settings {
    /// [`Builder::max_size`](crate::Builder::max_size).
    pub max_size: u32,
    /// [`Builder::min_idle`](crate::Builder::min_idle), or `max_idle` if that is not set.
    pub min_idle: u32,
    /// [`Builder::max_idle`](crate::Builder::max_idle), or `max_size` if that is not set.
    pub max_idle: u32,
    /// [`Builder::max_waiters`](crate::Builder::max_waiters).
    pub max_waiters: Option<u32>,
    /// [`Builder::fail_fast_after`](crate::Builder::fail_fast_after).
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub fail_fast_after: Option<Duration>,
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
            fail_fast_after: policy.fail_fast_after,
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
    /// How long the call has taken so far. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub running_for: Duration,
    /// The call has not begun, because `max_closers` other connections are being closed.
    pub queued: bool,
    /// The call has overrun its limit, and the pool goes on without it.
    pub abandoned: bool,
}

impl From<Call> for DriverCall {
    fn from(call: Call) -> DriverCall {
        let Call { kind, connection_id, running_for, queued, abandoned } = call;
        let connection_id = (connection_id != 0).then_some(connection_id);
        DriverCall { kind, connection_id, running_for, queued, abandoned }
    }
}

/// The last error of a driver's connect or check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LastError {
    /// How long ago that was. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub age: Duration,
    /// The text of the error and of its sources.
    pub text: String,
}

/// [`Pool::snapshot`](crate::Pool::snapshot).
pub(crate) fn take<M: ManageConnection>(shared: &Arc<Shared<M>>) -> Snapshot {
    let now = shared.clock.now();
    let picture = shared.with_core(|core| core.picture(now));
    let taken_at = SystemTime::now();
    let figures = &picture.figures;
    let health = shared.judge_health(figures.pressure, now);
    let mut calls: Vec<DriverCall> = picture.calls.into_iter().map(DriverCall::from).collect();
    calls.sort_by_key(|call| std::cmp::Reverse(call.running_for));
    Snapshot {
        pool: shared.config.name.to_string(),
        taken_at,
        uptime: now.since(Time::START),
        settings: Settings::of(&shared.config, &picture.policy),
        stats: shared.stats_of(&figures.gauges, &figures.counters),
        health,
        paused: picture.paused,
        closed: picture.closed,
        holders: Holder::longest_first(picture.held),
        waiters: Waiter::in_order(picture.waiting),
        calls,
        nested_gets: picture.nested.into_iter().map(NestedGet::from).collect(),
        last_error: picture.last_error.map(|(age, cause)| {
            let text = Chain(&*cause).to_string();
            // The pool may have dropped its own reference meanwhile.
            shared.drop_error(cause);
            LastError { age, text }
        }),
        failing_for: figures.failing_for,
    }
}

/// [`Pool::waiters`](crate::Pool::waiters).
pub(crate) fn waiters<M: ManageConnection>(shared: &Shared<M>) -> Vec<Waiter> {
    let now = shared.clock.now();
    Waiter::in_order(shared.with_core(|core| core.waiting(now)))
}
