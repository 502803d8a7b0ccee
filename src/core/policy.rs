//! The numbers that the core decides by.

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
    pub(crate) keepalive: Option<Duration>,
    /// A connection used or checked within this time is handed out unchecked.
    /// Zero: check always. `Duration::MAX`: never.
    pub(crate) fresh_for: Duration,
    /// An open or a check that takes longer than this is no longer counted on:
    /// whoever needs a connection gets another attempt, if there is room.
    pub(crate) patience: Duration,
    pub(crate) open_limit: Duration,
    pub(crate) validation_limit: Duration,
    pub(crate) reset_limit: Duration,
    pub(crate) close_limit: Duration,
    pub(crate) max_opening: u32,
    pub(crate) max_closers: u32,
    pub(crate) max_abandoned: u32,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    /// A connection that is held for longer is reported.
    pub(crate) leak_threshold: Option<Duration>,
    /// Holders that wait for themselves are reported.
    pub(crate) reports_self_deadlock: bool,
    /// And after this long, the last of them gets an error.
    pub(crate) self_deadlock_limit: Option<Duration>,
    /// Seeds the jitter, so that a pool's behaviour can be repeated in tests.
    pub(crate) seed: u64,
}

impl Policy {
    /// How many connections should be idle or on their way to be.
    pub(crate) fn min_idle_now(&self) -> u32 {
        self.min_idle.unwrap_or(self.max_size).min(self.max_idle_now())
    }

    pub(crate) fn max_idle_now(&self) -> u32 {
        self.max_idle.unwrap_or(self.max_size)
    }

    /// How often the reaper has to look at the least: a connection that becomes
    /// idle, or is lent, after a look is not due sooner than this. (Lifetimes
    /// run on while a connection is in use; they are planned when it returns.)
    pub(crate) fn shortest_span(&self) -> Option<Duration> {
        [self.idle_timeout, self.keepalive, self.leak_threshold].into_iter().flatten().min()
    }
}
