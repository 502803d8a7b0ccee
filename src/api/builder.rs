//! The settings of a pool, as a user gives them.

use std::fmt;
use std::time::Duration;

use crate::types::config::{Fairness, SelfDeadlock};
use crate::types::handler::{HandleEvent, NopEventHandler};
use crate::types::health::HealthThresholds;
use crate::types::manage::{
    CustomizeConnection, HandleError, ManageConnection, NopConnectionCustomizer, NopErrorHandler,
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
    pub(super) name: String,
    pub(super) max_size: u32,
    pub(super) min_idle: Option<u32>,
    pub(super) max_idle: Option<u32>,
    pub(super) max_waiters: Option<u32>,
    pub(super) fairness: Fairness,
    pub(super) priority_ageing: Duration,
    pub(super) test_on_check_out: Option<bool>,
    pub(super) skip_check_within: Duration,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) lifetime_jitter: f64,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) keepalive: Option<Duration>,
    pub(super) connection_timeout: Duration,
    pub(super) open_timeout: Duration,
    pub(super) validation_timeout: Duration,
    pub(super) reset_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) max_opening: u32,
    pub(super) max_closers: u32,
    pub(super) max_abandoned: u32,
    pub(super) connect_backoff: (Duration, Duration),
    pub(super) leak_threshold: Option<Duration>,
    pub(super) on_self_deadlock: SelfDeadlock,
    pub(super) slow_get_threshold: Option<Duration>,
    pub(super) health_thresholds: HealthThresholds,
    pub(super) hooks: Hooks<M>,
}

pub(super) struct Hooks<M: ManageConnection> {
    pub(super) error_handler: Box<dyn HandleError<M::Error>>,
    pub(super) event_handler: Option<Box<dyn HandleEvent>>,
    pub(super) connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
}

impl<M: ManageConnection> Default for Builder<M> {
    fn default() -> Builder<M> {
        Builder {
            name: "fairpool".to_string(),
            max_size: 10,
            min_idle: None,
            max_idle: None,
            max_waiters: None,
            fairness: Fairness::default(),
            priority_ageing: Duration::from_secs(1),
            test_on_check_out: None,
            skip_check_within: Duration::from_millis(500),
            max_lifetime: Some(Duration::from_secs(30 * 60)),
            lifetime_jitter: 0.1,
            idle_timeout: Some(Duration::from_secs(10 * 60)),
            keepalive: None,
            connection_timeout: Duration::from_secs(30),
            open_timeout: Duration::from_secs(5),
            validation_timeout: Duration::from_secs(2),
            reset_timeout: Duration::from_secs(2),
            close_timeout: Duration::from_secs(5),
            max_opening: 4,
            max_closers: 4,
            max_abandoned: 32,
            connect_backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            leak_threshold: None,
            on_self_deadlock: SelfDeadlock::default(),
            slow_get_threshold: Some(Duration::from_secs(1)),
            health_thresholds: HealthThresholds::default(),
            hooks: Hooks {
                error_handler: Box::new(NopErrorHandler),
                event_handler: None,
                connection_customizer: Box::new(NopConnectionCustomizer),
            },
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
        self.name = name.into();
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
        self.max_size = max_size;
        self
    }

    /// How many connections the pool keeps idle, within `max_size`.
    ///
    /// Default: `None`, as many as `max_size`: the pool is always full.
    pub fn min_idle(mut self, min_idle: Option<u32>) -> Builder<M> {
        self.min_idle = min_idle;
        self
    }

    /// The most connections that may be idle; one that comes back to so many is
    /// closed, unless somebody waits for it.
    ///
    /// Default: `None`, as many as `max_size`.
    pub fn max_idle(mut self, max_idle: Option<u32>) -> Builder<M> {
        self.max_idle = max_idle;
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
        self.max_waiters = max_waiters;
        self
    }

    /// How far newcomers may overtake those who wait.
    ///
    /// Default: [`Fairness::default`], two milliseconds.
    pub fn fairness(mut self, fairness: Fairness) -> Builder<M> {
        self.fairness = fairness;
        self
    }

    /// How much earlier a caller has to have come to be served before one whose
    /// priority is smaller by one.
    ///
    /// Default: one second. It bounds how long callers of small priority can
    /// pass over the others: between 1 and 10, for nine seconds.
    pub fn priority_ageing(mut self, priority_ageing: Duration) -> Builder<M> {
        self.priority_ageing = priority_ageing;
        self
    }

    /// Whether connections are checked before they are handed out: `true`, each
    /// one each time; `false`, never.
    ///
    /// Default: not set: those are checked that were neither used nor checked
    /// within [`skip_check_within`](Builder::skip_check_within). (`r2d2`'s
    /// default is `true`, which costs a round trip for each checkout.)
    pub fn test_on_check_out(mut self, test_on_check_out: bool) -> Builder<M> {
        self.test_on_check_out = Some(test_on_check_out);
        self
    }

    /// For how long after its last use or check a connection is handed out
    /// unchecked. Zero checks always. Means nothing if `test_on_check_out` is
    /// set.
    ///
    /// Default: 500 ms. A busy pool then never checks, and a connection that
    /// died in a quiet spell is found before somebody gets it.
    pub fn skip_check_within(mut self, skip_check_within: Duration) -> Builder<M> {
        self.skip_check_within = skip_check_within;
        self
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
        self.max_lifetime = max_lifetime;
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
        self.idle_timeout = idle_timeout;
        self
    }

    /// Idle connections are checked this long after their last use or check,
    /// so that a firewall does not forget them and a dead one is replaced before
    /// somebody needs it.
    ///
    /// Default: `None`, not at all.
    pub fn keepalive(mut self, keepalive: Option<Duration>) -> Builder<M> {
        self.keepalive = keepalive;
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
        self.connection_timeout = connection_timeout;
        self
    }

    /// How long opening a connection may take, `on_acquire` included, before the
    /// pool abandons the attempt. A connection that comes after all is used if
    /// there is still room for it. (Whoever needs a connection gets another
    /// attempt long before, after 250 ms, if there is room.)
    ///
    /// Default: 5 seconds.
    pub fn open_timeout(mut self, open_timeout: Duration) -> Builder<M> {
        self.open_timeout = open_timeout;
        self
    }

    /// How long a check may take before the connection is given up.
    ///
    /// Default: 2 seconds.
    pub fn validation_timeout(mut self, validation_timeout: Duration) -> Builder<M> {
        self.validation_timeout = validation_timeout;
        self
    }

    /// How long a reset may take before the connection is given up.
    ///
    /// Default: 2 seconds.
    pub fn reset_timeout(mut self, reset_timeout: Duration) -> Builder<M> {
        self.reset_timeout = reset_timeout;
        self
    }

    /// How long a close may take before its place is given to others. Until
    /// then it counts, since the server counts it too.
    ///
    /// Default: 5 seconds.
    pub fn close_timeout(mut self, close_timeout: Duration) -> Builder<M> {
        self.close_timeout = close_timeout;
        self
    }

    /// The most connections that are opened at once.
    ///
    /// Default: 4, to spare the server a stampede. While connecting fails, it
    /// is one.
    pub fn max_opening(mut self, max_opening: u32) -> Builder<M> {
        self.max_opening = max_opening;
        self
    }

    /// The most connections that are closed at once: closes that hang delay the
    /// others by so much less.
    ///
    /// Default: 4.
    pub fn max_closers(mut self, max_closers: u32) -> Builder<M> {
        self.max_closers = max_closers;
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
        self.max_abandoned = max_abandoned;
        self
    }

    /// How long the pool waits after a failed connect: `first` after the first,
    /// twice as long after each further one, `longest` at the most; each time
    /// shortened at random by up to a half.
    ///
    /// Default: 50 ms and 1 second, so that a server that is back is found
    /// within a second.
    pub fn connect_backoff(mut self, first: Duration, longest: Duration) -> Builder<M> {
        self.connect_backoff = (first, longest);
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
        self.leak_threshold = leak_threshold;
        self
    }

    /// What to do when every connection is held by a thread that itself waits
    /// for one.
    ///
    /// Default: [`SelfDeadlock::Warn`].
    pub fn on_self_deadlock(mut self, on_self_deadlock: SelfDeadlock) -> Builder<M> {
        self.on_self_deadlock = on_self_deadlock;
        self
    }

    /// A get that waited this long is reported in the log, at the warning level and
    /// on the thread of its caller: at most one a second, with how many more there
    /// were.
    ///
    /// Default: one second. `None` reports none.
    pub fn slow_get_threshold(mut self, slow_get_threshold: Option<Duration>) -> Builder<M> {
        self.slow_get_threshold = slow_get_threshold;
        self
    }

    /// From when on [`Pool::health`](crate::Pool::health) is no longer healthy.
    ///
    /// Default: see [`HealthThresholds`].
    pub fn health_thresholds(mut self, health_thresholds: HealthThresholds) -> Builder<M> {
        self.health_thresholds = health_thresholds;
        self
    }

    /// Is told of each connect, check and reset error.
    ///
    /// Default: [`NopErrorHandler`]. The pool itself logs when connecting begins to
    /// fail and when it succeeds again, and each check that fails.
    /// [`LoggingErrorHandler`](crate::LoggingErrorHandler), `r2d2`'s default, logs each
    /// try.
    pub fn error_handler(mut self, error_handler: Box<dyn HandleError<M::Error>>) -> Builder<M> {
        self.hooks.error_handler = error_handler;
        self
    }

    /// Is told of what happens in the pool.
    ///
    /// Default: [`NopEventHandler`].
    pub fn event_handler(mut self, event_handler: Box<dyn HandleEvent>) -> Builder<M> {
        self.hooks.event_handler = Some(event_handler);
        self
    }

    /// Prepares new connections and sees old ones off.
    ///
    /// Default: [`NopConnectionCustomizer`].
    pub fn connection_customizer(
        mut self,
        connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Builder<M> {
        self.hooks.connection_customizer = connection_customizer;
        self
    }
}

impl<M: ManageConnection> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("policy", &self.policy())
            .field("connection_timeout", &self.connection_timeout)
            .field("error_handler", &self.hooks.error_handler)
            .field("event_handler", self.event_handler_or_nop())
            .field("connection_customizer", &self.hooks.connection_customizer)
            .finish()
    }
}

impl<M: ManageConnection> Builder<M> {
    fn event_handler_or_nop(&self) -> &dyn HandleEvent {
        self.hooks.event_handler.as_deref().unwrap_or(&NopEventHandler)
    }
}
