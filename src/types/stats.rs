//! Gauges and counters.

use std::fmt;
use std::time::Duration;

use crate::core::{Counters, Gauges, Reason};
use crate::types::DriverCount;
#[cfg(feature = "histograms")]
use crate::types::times::Times;

/// The gauges and counters of a pool, read under its lock at one instant. From
/// [`Pool::stats`](crate::Pool::stats).
///
/// The fields up to `outdated` are gauges. The others are counters, which grow from the
/// time at which the pool was built. Always `open == idle + in_use`, and
/// `open + opening + closing <= max_size` unless `max_size` was just reduced.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// let pool = fairpool::Pool::builder().max_size(3).build(StubManager)?;
/// let conn = pool.get()?;
/// let stats = pool.stats();
/// assert_eq!((stats.in_use, stats.idle, stats.gets), (1, 2, 1));
/// # drop(conn);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// The maximum number of connections.
    pub max_size: u32,
    /// Connections that are open and not being closed: `idle + in_use`.
    pub open: u32,
    /// Connections that are idle.
    pub idle: u32,
    /// Connections that callers hold, and those that the pool is checking.
    pub in_use: u32,
    /// Those in use that the pool itself is validating or resetting.
    pub checking: u32,
    /// Connections that are being opened.
    pub opening: u32,
    /// Connections that are being closed, or wait for a closer.
    pub closing: u32,
    /// Driver calls that overran their limit and have not returned. Their connections are
    /// not part of any other gauge.
    pub abandoned: u32,
    /// Callers that wait for a connection.
    pub waiting: u32,
    /// Those of `open` that are to be replaced: their lifetime is nearly over, or they were
    /// opened before a [`refresh`](crate::Pool::refresh). Each serves until its successor is
    /// open.
    pub outdated: u32,

    /// Gets that got a connection. That of a task which was granted one, and polled too late to
    /// have it, counts once more when it gets another.
    pub gets: u64,
    /// Those of `gets` by tasks that did not take it: they were dropped first, or were not polled in
    /// time and waited on. See [`get_async`](crate::Pool::get_async).
    pub gets_not_taken: u64,
    /// Those of `gets` that waited in the queue.
    pub gets_waited: u64,
    /// The time that callers have spent in the queue, with or without success.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub time_waited: Duration,
    /// Callers that left at their deadline.
    pub timeouts: u64,
    /// Callers that left because their token was cancelled, and tasks that were dropped while they
    /// waited.
    pub cancelled: u64,
    /// Callers that were refused because the queue was full.
    pub refused: u64,
    /// Callers that got another error: connecting fails permanently, the pool was closed, the use
    /// handler refused, or a self-deadlock.
    pub failed: u64,
    /// Connections opened.
    pub opened: u64,
    /// Attempts to open a connection that failed or overran their limit. One that overran
    /// its limit and succeeded later also counts as `opened`.
    pub open_failures: u64,
    /// Connections that left the pool, by reason.
    pub closed: ClosedBy,
    /// Checkouts that lasted longer than `leak_threshold`.
    pub leaks: u64,
    /// How often a self-deadlock began: every connection was held by a thread that itself
    /// waited for another.
    pub self_deadlocks: u64,
    /// Gets that were served before a waiter.
    pub overtakes: u64,
    /// Checks (resets and validations, and uses that a [`HandleUse`](crate::HandleUse) begins or
    /// ends) that failed.
    pub check_failures: u64,
    /// Driver calls that overran their limit.
    pub abandoned_calls: u64,
    /// Events that were lost because a subscriber read too slowly, or because the handler
    /// or the logger hung.
    pub events_lost: u64,
    /// What the driver counts, of all pools that share its manager: see
    /// [`ManageConnection::counts`](crate::ManageConnection::counts).
    pub driver: Vec<DriverCount>,
    /// How long waits, uses, connects, checks and closes take. (Feature `histograms`, on
    /// by default.)
    #[cfg(feature = "histograms")]
    pub times: Times,
}

/// How many connections left the pool, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClosedBy {
    /// They were broken or discarded, or their reset failed.
    pub broken: u64,
    /// They failed validation. Or validation overran its limit, and when it succeeded,
    /// the pool had no room for the connection any more.
    pub invalid: u64,
    /// They reached `max_lifetime`.
    pub expired: u64,
    /// They were idle for `idle_timeout`.
    pub idle_too_long: u64,
    /// They were more than `max_size` or `max_idle` allow.
    pub excess: u64,
    /// They were opened before a `refresh`.
    pub stale: u64,
    /// The pool was closed.
    pub pool_closed: u64,
    /// The [`HandleUse`](crate::HandleUse) failed on them, or took too long.
    pub use_handler: u64,
    /// `detach` took them out of the pool. They were not closed.
    pub detached: u64,
}

impl ClosedBy {
    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        let ClosedBy {
            broken,
            invalid,
            expired,
            idle_too_long,
            excess,
            stale,
            pool_closed,
            use_handler,
            detached,
        } = *self;
        let by_pool = broken + invalid + expired + idle_too_long + excess + stale + pool_closed;
        by_pool + use_handler + detached
    }
}

impl fmt::Display for Stats {
    /// One line, for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} connections open ({} idle, {} in use), {} opening, {} closing, \
             {} abandoned; {} waiting; {} gets, {} waited, {} timed out",
            self.open,
            self.max_size,
            self.idle,
            self.in_use,
            self.opening,
            self.closing,
            self.abandoned,
            self.waiting,
            self.gets,
            self.gets_waited,
            self.timeouts,
        )
    }
}

impl Stats {
    pub(crate) fn new(gauges: &Gauges, counters: &Counters) -> Stats {
        let closed = |reason: Reason| counters.closed[reason as usize];
        Stats {
            max_size: gauges.max_size,
            open: gauges.idle + gauges.busy + gauges.checking,
            idle: gauges.idle,
            in_use: gauges.busy + gauges.checking,
            checking: gauges.checking,
            opening: gauges.opening,
            closing: gauges.closing,
            abandoned: gauges.abandoned,
            waiting: gauges.waiting,
            outdated: gauges.old,
            gets: counters.gets,
            gets_waited: counters.gets_waited,
            time_waited: counters.time_waited,
            timeouts: counters.timeouts,
            cancelled: counters.cancelled,
            refused: counters.refused,
            gets_not_taken: counters.untaken,
            failed: counters.failed,
            opened: counters.opened,
            open_failures: counters.open_failures,
            closed: ClosedBy {
                broken: closed(Reason::Broken),
                invalid: closed(Reason::Invalid),
                expired: closed(Reason::Expired),
                idle_too_long: closed(Reason::IdleTooLong),
                excess: closed(Reason::Excess),
                stale: closed(Reason::Stale),
                pool_closed: closed(Reason::PoolClosed),
                use_handler: closed(Reason::UseHandler),
                detached: closed(Reason::Detached),
            },
            leaks: counters.leaks,
            self_deadlocks: counters.self_deadlocks,
            overtakes: counters.overtakes,
            check_failures: counters.check_failures,
            abandoned_calls: counters.abandoned,
            ..Stats::default()
        }
    }
}
