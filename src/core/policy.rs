//! The settings by which the core decides.

use std::time::Duration;

/// Settings of a pool as the core needs them; checked by the builder.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) max_size: u32,
    /// `None`: as many as `max_size`, also after that changes.
    pub(crate) min_idle: Option<u32>,
    pub(crate) max_idle: Option<u32>,
    pub(crate) max_waiters: Option<u32>,
    /// How long a waiter may be overtaken by newcomers; zero is strict FIFO.
    pub(crate) fairness_bound: Duration,
    /// How much later each level of priority counts as having arrived.
    pub(crate) priority_ageing: Duration,
    pub(crate) max_lifetime: Option<Duration>,
    /// Lifetimes are shortened by up to this many thousandths.
    pub(crate) lifetime_jitter_permille: u32,
    pub(crate) idle_timeout: Option<Duration>,
    /// What is past its lifetime or has been idle too long ends at once, as in r2d2: also below
    /// `min_idle`, and if nothing can be opened in its place.
    pub(crate) ends_on_time: bool,
    pub(crate) keepalive: Option<Duration>,
    /// A connection used or checked within this time is handed out without a check.
    /// Zero: always check. `Duration::MAX`: never.
    pub(crate) fresh_for: Duration,
    /// Only a check counts for that, neither a use nor a connect.
    pub(crate) fresh_by_check: bool,
    /// A handler begins each use before its caller gets the connection.
    pub(crate) begins_uses: bool,
    /// It also ends each use, before the connection is reset.
    pub(crate) ends_uses: bool,
    /// How far the clock of the fast paths is behind the exact one at most (see `Time`).
    pub(crate) clock_lag: Duration,
    /// A check that takes longer is no longer counted on: its waiter gets another, if there
    /// is one.
    pub(crate) check_patience: Duration,
    /// Of a connect the same holds for a time between these two, which follows the times that
    /// connects have taken.
    pub(crate) patience_min: Duration,
    pub(crate) patience_max: Duration,
    pub(crate) open_limit: Duration,
    pub(crate) validation_limit: Duration,
    pub(crate) reset_limit: Duration,
    pub(crate) close_limit: Duration,
    pub(crate) max_opening: u32,
    pub(crate) max_closers: u32,
    pub(crate) max_abandoned: u32,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// When connecting has failed for so long and no connection is left, callers fail.
    pub(crate) fail_fast_after: Option<Duration>,
    /// A task that was granted a connection has it if it is polled within this time.
    pub(crate) take_up_limit: Duration,
    /// A connection that is held for longer is reported as leaked.
    pub(crate) leak_threshold: Option<Duration>,
    /// Whether a deadlock of holders that wait is reported.
    pub(crate) reports_self_deadlock: bool,
    /// After this long in a deadlock, the waiter that came last gets an error.
    pub(crate) self_deadlock_limit: Option<Duration>,
    /// Seeds the jitter, so that a pool's behaviour can be repeated in tests.
    pub(crate) seed: u64,
}

impl Policy {
    /// How many connections should be idle or on their way to be.
    pub(crate) fn min_idle_now(&self) -> u32 {
        self.min_idle.unwrap_or(self.max_size).min(self.max_idle_now())
    }

    /// How many connections stay idle, however long they are.
    pub(crate) fn kept_idle(&self) -> u32 {
        if self.ends_on_time { 0 } else { self.min_idle_now() }
    }

    pub(crate) fn max_idle_now(&self) -> u32 {
        self.max_idle.unwrap_or(self.max_size)
    }

    /// The reaper looks at a connection when it has been idle for this time, or earlier.
    pub(crate) fn idle_span(&self) -> Option<Duration> {
        [self.idle_timeout, self.keepalive].into_iter().flatten().min()
    }
}
