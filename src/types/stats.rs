//! What the pool counts.

use std::fmt;
use std::time::Duration;

use crate::core::{Counters, Gauges, Reason};
#[cfg(feature = "histograms")]
use crate::types::times::Times;

/// A consistent picture of a pool, taken under its lock at one instant.
///
/// Gauges say how things are now; counters have only grown since the pool was
/// built. Always: `open == idle + in_use`, and unless the pool is being shrunk,
/// `open + opening + closing <= max_size`.
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
    /// The most connections that the pool may have.
    pub max_size: u32,
    /// Connections that exist and are not being closed: `idle + in_use`.
    pub open: u32,
    /// Connections that wait for a caller.
    pub idle: u32,
    /// Connections that callers hold, and those that the pool is checking.
    pub in_use: u32,
    /// Of those in use, the ones that the pool itself is validating or resetting.
    pub checking: u32,
    /// Connections that are being opened.
    pub opening: u32,
    /// Connections that are being closed, or wait for a closer.
    pub closing: u32,
    /// Driver calls that overran their limit and have not come back. Their
    /// connections are not counted in any other gauge.
    pub abandoned: u32,
    /// Callers that wait for a connection.
    pub waiting: u32,

    /// Connections handed out.
    pub gets: u64,
    /// Of those, the ones whose caller had to wait in the queue.
    pub gets_waited: u64,
    /// Time that callers have spent in the queue, whatever came of it.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub time_waited: Duration,
    /// Callers that left at their deadline.
    pub timeouts: u64,
    /// Callers that left because their token was cancelled.
    pub cancelled: u64,
    /// Callers that were refused because the queue was full.
    pub refused: u64,
    /// Callers that got another error: connecting fails for good, the pool was closed,
    /// or they waited for themselves.
    pub failed: u64,
    /// Connections opened.
    pub opened: u64,
    /// Attempts to open a connection that failed, or overran their limit; of
    /// the latter, those that succeeded late count as opened too.
    pub open_failures: u64,
    /// Connections that left the pool, by reason.
    pub closed: ClosedBy,
    /// Checkouts that lasted longer than `leak_threshold`.
    pub leaks: u64,
    /// How often every connection was held by a thread that itself waited.
    pub self_deadlocks: u64,
    /// Gets that were served before somebody who waited.
    pub overtakes: u64,
    /// Checks (resets and validations) that failed.
    pub check_failures: u64,
    /// Driver calls that overran their limit, so far.
    pub abandoned_calls: u64,
    /// Events that subscribers were too slow for.
    pub events_lost: u64,
    /// How long things take. (Feature `histograms`, on by default.)
    #[cfg(feature = "histograms")]
    pub times: Times,
}

/// How many connections left the pool, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClosedBy {
    /// Broken, discarded, or its reset failed.
    pub broken: u64,
    /// It failed validation; or validation overran its limit, and when it was
    /// through there was no room for the connection any more.
    pub invalid: u64,
    /// It reached `max_lifetime`.
    pub expired: u64,
    /// It was idle for `idle_timeout`.
    pub idle_too_long: u64,
    /// It was more than `max_size` or `max_idle` allow.
    pub excess: u64,
    /// It was opened before a `refresh`.
    pub stale: u64,
    /// The pool was closed.
    pub pool_closed: u64,
    /// It was taken out of the pool by `detach`, and not closed by it.
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
            detached,
        } = *self;
        broken + invalid + expired + idle_too_long + excess + stale + pool_closed + detached
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
            gets: counters.gets,
            gets_waited: counters.gets_waited,
            time_waited: counters.time_waited,
            timeouts: counters.timeouts,
            cancelled: counters.cancelled,
            refused: counters.refused,
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
