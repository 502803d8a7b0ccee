//! The settings of a pool, as users give them.

use std::fmt;
use std::time::Duration;

use crate::types::{
    Config, CustomizeConnection, Fairness, HandleError, HandleEvent, HandleUse, HealthThresholds,
    ManageConnection, SelfDeadlock,
};

/// Builds a [`Pool`](crate::Pool).
///
/// Settings that `r2d2` also has keep their names, meanings and defaults, except
/// [`test_on_check_out`](Builder::test_on_check_out) and
/// [`error_handler`](Builder::error_handler), which have other defaults.
///
/// No time is too long and no number too large: `Duration::MAX` means without a limit, or never.
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
    /// A builder with the default settings.
    pub fn new() -> Builder<M> {
        Builder::default()
    }

    /// The pool's name, which appears in errors, logs, metrics and events.
    ///
    /// Default: `fairpool`. Set it in a process with several pools.
    pub fn name(mut self, name: impl Into<String>) -> Builder<M> {
        self.config.name = name.into().into();
        self
    }

    /// The maximum number of connections. Connections that are being opened or closed
    /// count too.
    ///
    /// Default: 10, as in `r2d2`. The README explains how to choose it.
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
    /// Default: `None`, as many as `max_size`, as in `r2d2`: the pool is always full, so
    /// callers need not wait for a connect.
    pub fn min_idle(mut self, min_idle: Option<u32>) -> Builder<M> {
        self.config.policy.min_idle = min_idle;
        self
    }

    /// The maximum number of idle connections. Another one that is returned is closed,
    /// unless a caller waits for it.
    ///
    /// Default: `None`, as many as `max_size`: closing connections only to open them
    /// again costs more than keeping them.
    pub fn max_idle(mut self, max_idle: Option<u32>) -> Builder<M> {
        self.config.policy.max_idle = max_idle;
        self
    }

    /// The maximum number of callers that wait at the same time. The next caller gets
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) without waiting, unless an
    /// idle connection only needs a check. Callers for whom a [`HandleUse`] begins a use do not
    /// count.
    ///
    /// Default: `None`, no limit, because every wait is bounded in time. With a limit, an
    /// overloaded service sheds load instead of queueing it.
    pub fn max_waiters(mut self, max_waiters: Option<u32>) -> Builder<M> {
        self.config.policy.max_waiters = max_waiters;
        self
    }

    /// How far newcomers may overtake waiters.
    ///
    /// Default: [`Fairness::default`], a bound of 2 ms.
    pub fn fairness(mut self, fairness: Fairness) -> Builder<M> {
        self.config.policy.fairness_bound = match fairness {
            Fairness::Strict => Duration::ZERO,
            Fairness::Bounded(bound) => bound,
        };
        self
    }

    /// How much time one step of priority is worth: a caller is served before a caller
    /// whose [`priority`](crate::Request::priority) number is smaller by one if it came
    /// earlier by more than this.
    ///
    /// Default: 1 second. It bounds how long callers with a smaller number can overtake:
    /// callers of priority 1 overtake a caller of priority 10 for 9 seconds at most.
    pub fn priority_ageing(mut self, priority_ageing: Duration) -> Builder<M> {
        self.config.policy.priority_ageing = priority_ageing;
        self
    }

    /// Whether connections are checked before they are handed out: `true`, each time;
    /// `false`, only if they are [in doubt](Builder::skip_check_within).
    ///
    /// Default: not set. A connection is then checked if it was neither used nor checked
    /// within [`skip_check_within`](Builder::skip_check_within). (`r2d2`'s default is
    /// `true`, which costs a round trip for each get.)
    pub fn test_on_check_out(mut self, test_on_check_out: bool) -> Builder<M> {
        self.config.test_on_check_out = Some(test_on_check_out);
        self.with_fresh_for()
    }

    /// For how long after its last use or check a connection is handed out without a
    /// check. Zero: always check. Has no effect if `test_on_check_out` is set. It is exact to
    /// four ticks of the system's clock (16 ms on most Linux systems), and never shorter.
    ///
    /// Default: 500 ms. So a busy pool never checks, and a connection that died while the
    /// pool was idle is found before a caller gets it. `Duration::MAX`: age is never a reason.
    ///
    /// # Doubt
    ///
    /// What ended one connection may have ended all: the server restarted, for example. So
    /// when a connection proves dead (a fatal error in [`run`](crate::PooledConnection::run),
    /// [`mark_broken`], [`discard`], `has_broken`, a reset or a check that fails), or a check
    /// overruns its limit, every connection that was not proved since is *in doubt*. It is
    /// checked before it is handed out, whatever this setting and `test_on_check_out` say. A
    /// connect or a validation that began later and succeeds is a proof, and one is enough.
    ///
    /// So the users of dead connections see at most as many errors as connections were in use
    /// when the first proved dead. It costs one check for each connection, when a caller needs it;
    /// the pool does not check all at once. A user that discards connections for reasons of
    /// its own pays that too. With a driver whose `is_valid` does nothing, doubt means nothing.
    ///
    /// [`mark_broken`]: crate::PooledConnection::mark_broken
    /// [`discard`]: crate::PooledConnection::discard
    pub fn skip_check_within(mut self, skip_check_within: Duration) -> Builder<M> {
        self.skip_check_within = skip_check_within;
        self.with_fresh_for()
    }

    /// The maximum lifetime of a connection. Before it ends, the pool opens a successor, one at
    /// a time, and closes the connection when that is there: at once if it is idle, else when
    /// it is returned. So no caller waits because a connection was too old, and an expiry
    /// leaves the pool at least `min_idle` connections, or all but one if it is full.
    ///
    /// To be in time, the pool begins early: by twice the time that it would take to replace
    /// all connections, judged by how long this one took to connect, and at most half of the
    /// lifetime. A connection that nobody has used in all its life, and that is more than
    /// [`min_idle`](Builder::min_idle) needs, has no successor.
    ///
    /// While connecting fails, connections go on beyond their lifetimes: those that work are
    /// better than none. They are replaced when connecting succeeds again.
    ///
    /// Default: 30 minutes, as in `r2d2`. `None`: no limit.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_lifetime(mut self, max_lifetime: Option<Duration>) -> Builder<M> {
        assert_ne!(max_lifetime, Some(Duration::ZERO), "max_lifetime must be positive");
        self.config.policy.max_lifetime = max_lifetime;
        self
    }

    /// By how much lifetimes and idle times vary, so that connections that were opened
    /// together are not all closed together: each connection's lifetime is shortened at
    /// random, and its [`idle_timeout`](Builder::idle_timeout) lengthened, by up to this part.
    ///
    /// Default: 0.1, a tenth. Allowed: from 0 (none) to 0.9.
    pub fn lifetime_jitter(mut self, lifetime_jitter: f64) -> Builder<M> {
        self.lifetime_jitter = lifetime_jitter;
        self.config.policy.lifetime_jitter_permille = (lifetime_jitter * 1000.0) as u32;
        self
    }

    /// The time after which a connection that was idle all along is closed, if
    /// [`min_idle`](Builder::min_idle) others were idle as long. So by default, where the pool
    /// keeps all its connections, it closes none.
    ///
    /// Never before that time. After it by the [`lifetime_jitter`](Builder::lifetime_jitter),
    /// and by a few milliseconds: up to two ticks of the system's clock (8 ms on most Linux
    /// systems), and what the reaper needs to wake up. The same holds, without jitter,
    /// for [`keepalive`](Builder::keepalive) and [`leak_threshold`](Builder::leak_threshold). A
    /// small value makes no thread wake up while there is nothing to do.
    ///
    /// Default: 10 minutes, as in `r2d2`. `None`: no limit.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn idle_timeout(mut self, idle_timeout: Option<Duration>) -> Builder<M> {
        assert_ne!(idle_timeout, Some(Duration::ZERO), "idle_timeout must be positive");
        self.config.policy.idle_timeout = idle_timeout;
        self
    }

    /// For the drop-in for `r2d2`, which keeps `r2d2`'s promise here: what is past its lifetime
    /// or has been idle too long is closed at once, also below `min_idle` and though none may be
    /// opened in its place. See `docs/decisions/0035-ends-on-time.md`.
    #[doc(hidden)]
    pub fn ends_on_time(mut self, ends_on_time: bool) -> Builder<M> {
        self.config.policy.ends_on_time = ends_on_time;
        self
    }

    /// For the drop-in for `r2d2`, as [`skip_check_within`](Builder::skip_check_within), but only a
    /// check counts, neither a use nor a connect. Whichever of these settings comes last has
    /// effect.
    #[doc(hidden)]
    pub fn trusts_checks_for(mut self, trusts_checks_for: Duration) -> Builder<M> {
        self.config.policy.fresh_by_check = true;
        self.config.policy.fresh_for = trusts_checks_for;
        self
    }

    /// How long after its last use or check an idle connection is checked, so that a
    /// firewall does not drop it, and a dead one is replaced before a caller needs it.
    ///
    /// Default: `None`, no such checks: each costs the server a round trip.
    pub fn keepalive(mut self, keepalive: Option<Duration>) -> Builder<M> {
        self.config.policy.keepalive = keepalive;
        self
    }

    /// After how long a held connection is reported as a possible leak, with its holder's
    /// thread and line: in the log, to the [`HandleEvent`] and to subscribers. It is
    /// reported once for each checkout, and once more when the connection is returned. The
    /// holder keeps it.
    ///
    /// Default: `None`, no reports, because what is too long depends on the work. A good
    /// value is several times the longest transaction: leaks are then found before the
    /// pool is exhausted.
    pub fn leak_threshold(mut self, leak_threshold: Option<Duration>) -> Builder<M> {
        self.config.policy.leak_threshold = leak_threshold;
        self
    }

    /// What to do when every connection is held by a thread that itself waits for another.
    ///
    /// Default: [`SelfDeadlock::Warn`], which changes no result.
    pub fn on_self_deadlock(mut self, on_self_deadlock: SelfDeadlock) -> Builder<M> {
        self.config.policy.reports_self_deadlock = on_self_deadlock != SelfDeadlock::Ignore;
        self.config.policy.self_deadlock_limit = match on_self_deadlock {
            SelfDeadlock::Fail(after) => Some(after),
            SelfDeadlock::Ignore | SelfDeadlock::Warn => None,
        };
        self
    }

    /// How long a get must wait to be logged as slow, at the warning level, on the
    /// caller's thread. At most one such record is written per second, with the number of
    /// slow gets left out before it.
    ///
    /// Default: 1 second. `None`: no such records.
    pub fn slow_get_threshold(mut self, slow_get_threshold: Option<Duration>) -> Builder<M> {
        self.config.slow_get_threshold = slow_get_threshold;
        self
    }

    /// The thresholds by which [`Pool::health`](crate::Pool::health) is judged.
    ///
    /// Default: those of [`HealthThresholds`].
    pub fn health_thresholds(mut self, health_thresholds: HealthThresholds) -> Builder<M> {
        self.config.health_thresholds = health_thresholds;
        self
    }

    /// The handler that gets each error of a connect, a validation or a reset.
    ///
    /// Default: [`NopErrorHandler`](crate::NopErrorHandler), because the pool itself logs
    /// when connecting begins to fail, when it succeeds again, and each failed check.
    /// [`LoggingErrorHandler`](crate::LoggingErrorHandler), `r2d2`'s default, logs each
    /// attempt.
    pub fn error_handler(mut self, error_handler: Box<dyn HandleError<M::Error>>) -> Builder<M> {
        self.config.error_handler = error_handler;
        self
    }

    /// The handler that is notified of what happens in the pool.
    ///
    /// Default: none, because a handler makes each get and each return slower: it is
    /// notified of each, with exact times.
    pub fn event_handler(mut self, event_handler: Box<dyn HandleEvent>) -> Builder<M> {
        self.config.event_handler = Some(event_handler);
        self
    }

    /// The hook that prepares new connections and is called before connections are closed.
    ///
    /// Default: [`NopConnectionCustomizer`](crate::NopConnectionCustomizer).
    pub fn connection_customizer(
        mut self,
        connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Builder<M> {
        self.config.connection_customizer = connection_customizer;
        self
    }

    /// The hook around each use: before a caller gets a connection, and after it has returned it.
    ///
    /// Default: none. With one, each get waits for a worker thread and for the hook, and takes its
    /// place in the queue for that; see [`HandleUse`] for what else follows. If the hook
    /// [has an end](HandleUse::has_end), each return occupies a worker too, though not the
    /// returning thread.
    pub fn use_handler(
        mut self,
        use_handler: Box<dyn HandleUse<M::Connection, M::Error>>,
    ) -> Builder<M> {
        self.config.policy.begins_uses = true;
        self.config.policy.ends_uses = use_handler.has_end();
        self.config.use_handler = Some(use_handler);
        self
    }

    fn with_fresh_for(mut self) -> Builder<M> {
        self.config.policy.fresh_by_check = false;
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
            .field("drop_timeout", &self.config.drop_timeout)
            .field("error_handler", &self.config.error_handler)
            .field("event_handler", &self.config.event_handler)
            .field("connection_customizer", &self.config.connection_customizer)
            .field("use_handler", &self.config.use_handler)
            .finish()
    }
}
