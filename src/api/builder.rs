//! The settings of a pool, as a user gives them.

use std::fmt;
use std::time::Duration;

use crate::types::{
    Config, CustomizeConnection, Fairness, HandleError, HandleEvent, HealthThresholds,
    ManageConnection, SelfDeadlock,
};

/// Builds a [`Pool`](crate::Pool).
///
/// Settings that `r2d2` has are called what they are called there, mean the
/// same, and have the same defaults.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// let pool = fairpool::Pool::builder()
///     .max_size(8)
///     .max_waiters(Some(200))
///     .connection_timeout(Duration::from_secs(2))
///     .build(StubManager)?;
/// # Ok::<(), fairpool::Error>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<M: ManageConnection> {
    pub(super) config: Config<M>,
    pub(super) skip_check_within: Duration,
    pub(super) lifetime_jitter: f64,
}

impl<M: ManageConnection> Default for Builder<M> {
    fn default() -> Builder<M> {
        Builder {
            config: Config::default(),
            skip_check_within: Duration::from_millis(500),
            lifetime_jitter: 0.1,
        }
    }
}

impl<M: ManageConnection> Builder<M> {
    /// All settings at their defaults.
    pub fn new() -> Builder<M> {
        Builder::default()
    }

    /// The pool's name, in errors, logs and the names of its threads.
    ///
    /// Default: `fairpool`. Worth setting in a process with several pools.
    pub fn name(mut self, name: impl Into<String>) -> Builder<M> {
        self.config.name = name.into().into();
        self
    }

    /// The most connections that the pool may have, those that are being opened
    /// or closed included.
    ///
    /// Default: 10, as in `r2d2`. See the README for how to choose it.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_size(mut self, max_size: u32) -> Builder<M> {
        assert!(max_size > 0, "max_size must be positive, but is {max_size}");
        self.config.policy.max_size = max_size;
        self
    }

    /// How many connections the pool keeps idle, within `max_size`.
    ///
    /// Default: `None`, as many as `max_size`: the pool is always full.
    pub fn min_idle(mut self, min_idle: Option<u32>) -> Builder<M> {
        self.config.policy.min_idle = min_idle;
        self
    }

    /// The most connections that may be idle; one that comes back to so many is
    /// closed, unless somebody waits for it.
    ///
    /// Default: `None`, as many as `max_size`.
    pub fn max_idle(mut self, max_idle: Option<u32>) -> Builder<M> {
        self.config.policy.max_idle = max_idle;
        self
    }

    /// The most callers that may wait at once; the next gets
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) without waiting. A
    /// caller for whom an idle connection only has to be checked is let in
    /// beyond it.
    ///
    /// Default: `None`, no limit: every wait is bounded in time already. With a
    /// limit, an overloaded service sheds load instead of queueing it.
    pub fn max_waiters(mut self, max_waiters: Option<u32>) -> Builder<M> {
        self.config.policy.max_waiters = max_waiters;
        self
    }

    /// How far newcomers may overtake those who wait.
    ///
    /// Default: [`Fairness::default`], two milliseconds.
    pub fn fairness(mut self, fairness: Fairness) -> Builder<M> {
        self.config.policy.fairness_bound = match fairness {
            Fairness::Strict => Duration::ZERO,
            Fairness::Bounded(bound) => bound,
        };
        self
    }

    /// How much earlier a caller has to have come to be served before one whose
    /// priority is smaller by one.
    ///
    /// Default: one second. It bounds how long callers of small priority can
    /// pass over the others: between 1 and 10, for nine seconds.
    pub fn priority_ageing(mut self, priority_ageing: Duration) -> Builder<M> {
        self.config.policy.priority_ageing = priority_ageing;
        self
    }

    /// Whether connections are checked before they are handed out: `true`, each
    /// one each time; `false`, never.
    ///
    /// Default: not set: those are checked that were neither used nor checked
    /// within [`skip_check_within`](Builder::skip_check_within). (`r2d2`'s
    /// default is `true`, which costs a round trip for each checkout.)
    pub fn test_on_check_out(mut self, test_on_check_out: bool) -> Builder<M> {
        self.config.test_on_check_out = Some(test_on_check_out);
        self.with_fresh_for()
    }

    /// For how long after its last use or check a connection is handed out
    /// unchecked. Zero checks always. Means nothing if `test_on_check_out` is
    /// set.
    ///
    /// Default: 500 ms. A busy pool then never checks, and a connection that
    /// died in a quiet spell is found before somebody gets it.
    pub fn skip_check_within(mut self, skip_check_within: Duration) -> Builder<M> {
        self.skip_check_within = skip_check_within;
        self.with_fresh_for()
    }

    /// The longest that a connection lives. One that is in use then is closed
    /// when it comes back.
    ///
    /// Default: 30 minutes, as in `r2d2`.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_lifetime(mut self, max_lifetime: Option<Duration>) -> Builder<M> {
        assert_ne!(max_lifetime, Some(Duration::ZERO), "max_lifetime must be positive");
        self.config.policy.max_lifetime = max_lifetime;
        self
    }

    /// Each connection's lifetime is shortened by a random share of at most
    /// this much, drawn when it is opened, so that connections that were opened
    /// together do not all end together.
    ///
    /// Default: 0.1, a tenth. From 0 (none) to 0.9.
    pub fn lifetime_jitter(mut self, lifetime_jitter: f64) -> Builder<M> {
        self.lifetime_jitter = lifetime_jitter;
        self
    }

    /// The longest that a connection may be idle.
    ///
    /// Default: 10 minutes, as in `r2d2`.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn idle_timeout(mut self, idle_timeout: Option<Duration>) -> Builder<M> {
        assert_ne!(idle_timeout, Some(Duration::ZERO), "idle_timeout must be positive");
        self.config.policy.idle_timeout = idle_timeout;
        self
    }

    /// Idle connections are checked this long after their last use or check,
    /// so that a firewall does not forget them and a dead one is replaced before
    /// somebody needs it.
    ///
    /// Default: `None`, not at all.
    pub fn keepalive(mut self, keepalive: Option<Duration>) -> Builder<M> {
        self.config.policy.keepalive = keepalive;
        self
    }

    /// How long [`Pool::get`](crate::Pool::get) waits, and [`build`](Builder::build).
    ///
    /// Default: 30 seconds, as in `r2d2`. A service with its own deadline wants
    /// less.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn connection_timeout(mut self, connection_timeout: Duration) -> Builder<M> {
        assert!(connection_timeout > Duration::ZERO, "connection_timeout must be positive");
        self.config.connection_timeout = connection_timeout;
        self
    }

    /// How long opening a connection may take, `on_acquire` included, before the
    /// pool abandons the attempt. A connection that comes after all is used if
    /// there is still room for it. (Whoever needs a connection gets another
    /// attempt long before, after 250 ms, if there is room.)
    ///
    /// Default: 5 seconds.
    pub fn open_timeout(mut self, open_timeout: Duration) -> Builder<M> {
        self.config.policy.open_limit = open_timeout;
        self
    }

    /// How long a check may take before the connection is given up.
    ///
    /// Default: 2 seconds.
    pub fn validation_timeout(mut self, validation_timeout: Duration) -> Builder<M> {
        self.config.policy.validation_limit = validation_timeout;
        self
    }

    /// How long a reset may take before the connection is given up.
    ///
    /// Default: 2 seconds.
    pub fn reset_timeout(mut self, reset_timeout: Duration) -> Builder<M> {
        self.config.policy.reset_limit = reset_timeout;
        self
    }

    /// How long a close may take before its place is given to others. Until
    /// then it counts, since the server counts it too.
    ///
    /// Default: 5 seconds.
    pub fn close_timeout(mut self, close_timeout: Duration) -> Builder<M> {
        self.config.policy.close_limit = close_timeout;
        self
    }

    /// The most connections that are opened at once.
    ///
    /// Default: 4, to spare the server a stampede. While connecting fails, it
    /// is one.
    pub fn max_opening(mut self, max_opening: u32) -> Builder<M> {
        self.config.policy.max_opening = max_opening;
        self
    }

    /// The most connections that are closed at once: closes that hang delay the
    /// others by so much less.
    ///
    /// Default: 4.
    pub fn max_closers(mut self, max_closers: u32) -> Builder<M> {
        self.config.policy.max_closers = max_closers;
        self
    }

    /// The most driver calls that may be abandoned at once. Each keeps a thread
    /// until the driver lets go of it, and the server may still see its
    /// connection. Past this number, calls that overrun their limit go on
    /// counting toward `max_size`: if all of them hang, the pool waits for one
    /// to come back.
    ///
    /// Default: 32.
    pub fn max_abandoned(mut self, max_abandoned: u32) -> Builder<M> {
        self.config.policy.max_abandoned = max_abandoned;
        self
    }

    /// How long the pool waits after a failed connect: `first` after the first,
    /// twice as long after each further one, `longest` at the most; each time
    /// shortened at random by up to a half.
    ///
    /// Default: 50 ms and 1 second, so that a server that is back is found
    /// within a second.
    pub fn connect_backoff(mut self, first: Duration, longest: Duration) -> Builder<M> {
        self.config.policy.backoff_min = first;
        self.config.policy.backoff_max = longest;
        self
    }

    /// A connection that is held for longer than this is reported, with the
    /// thread that got it, the line and the time, in the log and to the
    /// [`HandleEvent`]: once for each checkout, and again when it comes back. It
    /// stays with its holder.
    ///
    /// Default: `None`, no reports: what is too long depends on the work. A good
    /// value is several times the longest transaction; leaks are then found
    /// before the pool is dry.
    pub fn leak_threshold(mut self, leak_threshold: Option<Duration>) -> Builder<M> {
        self.config.policy.leak_threshold = leak_threshold;
        self
    }

    /// What to do when every connection is held by a thread that itself waits
    /// for one.
    ///
    /// Default: [`SelfDeadlock::Warn`].
    pub fn on_self_deadlock(mut self, on_self_deadlock: SelfDeadlock) -> Builder<M> {
        self.config.policy.reports_self_deadlock = on_self_deadlock != SelfDeadlock::Ignore;
        self.config.policy.self_deadlock_limit = match on_self_deadlock {
            SelfDeadlock::Fail(after) => Some(after),
            SelfDeadlock::Ignore | SelfDeadlock::Warn => None,
        };
        self
    }

    /// A get that waited this long is reported in the log, at the warning level and
    /// on the thread of its caller: at most one a second, with how many more there
    /// were.
    ///
    /// Default: one second. `None` reports none.
    pub fn slow_get_threshold(mut self, slow_get_threshold: Option<Duration>) -> Builder<M> {
        self.config.slow_get_threshold = slow_get_threshold;
        self
    }

    /// From when on [`Pool::health`](crate::Pool::health) is no longer healthy.
    ///
    /// Default: see [`HealthThresholds`].
    pub fn health_thresholds(mut self, health_thresholds: HealthThresholds) -> Builder<M> {
        self.config.health_thresholds = health_thresholds;
        self
    }

    /// Is told of each connect, check and reset error.
    ///
    /// Default: [`NopErrorHandler`](crate::NopErrorHandler). The pool itself logs when connecting begins to
    /// fail and when it succeeds again, and each check that fails.
    /// [`LoggingErrorHandler`](crate::LoggingErrorHandler), `r2d2`'s default, logs each
    /// try.
    pub fn error_handler(mut self, error_handler: Box<dyn HandleError<M::Error>>) -> Builder<M> {
        self.config.error_handler = error_handler;
        self
    }

    /// Is told of what happens in the pool.
    ///
    /// Default: [`NopEventHandler`](crate::NopEventHandler).
    pub fn event_handler(mut self, event_handler: Box<dyn HandleEvent>) -> Builder<M> {
        self.config.event_handler = Some(event_handler);
        self
    }

    /// Prepares new connections and sees old ones off.
    ///
    /// Default: [`NopConnectionCustomizer`](crate::NopConnectionCustomizer).
    pub fn connection_customizer(
        mut self,
        connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Builder<M> {
        self.config.connection_customizer = connection_customizer;
        self
    }

    fn with_fresh_for(mut self) -> Builder<M> {
        self.config.policy.fresh_for = match self.config.test_on_check_out {
            Some(true) => Duration::ZERO,
            Some(false) => Duration::MAX,
            None => self.skip_check_within,
        };
        self
    }
}

impl<M: ManageConnection> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.config.name)
            .field("policy", &self.config.policy)
            .field("connection_timeout", &self.config.connection_timeout)
            .field("error_handler", &self.config.error_handler)
            .field("event_handler", &self.config.event_handler)
            .field("connection_customizer", &self.config.connection_customizer)
            .finish()
    }
}
