//! The settings that a pool keeps, and their defaults.

use std::time::Duration;

use super::{
    CustomizeConnection, HandleError, HandleEvent, HandleUse, HealthThresholds, ManageConnection,
    NopConnectionCustomizer, NopErrorHandler,
};
use crate::core::Policy;
use crate::sync::Arc;

/// When a check takes longer, or a connect where connects are fast, its caller gets another
/// attempt. Long enough for most connects over a network, and short enough that a call that
/// hangs delays few callers.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same for a connect where nothing is known, or where connects are slow: longer than
/// the second after which a system sends the first packet of a connection again.
const LONGEST_PATIENCE: Duration = Duration::from_secs(2);

/// The default of [`Fairness`].
const DEFAULT_BOUND: Duration = Duration::from_millis(2);

/// How far newcomers may overtake waiters.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool::{Fairness, Pool};
///
/// let pool = Pool::builder().fairness(Fairness::Strict).build(StubManager)?;
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fairness {
    /// Newcomers never overtake: a returned connection always goes to the caller that is
    /// first in the queue. If connections are held for less than some 20 µs, this costs a
    /// context switch for each get.
    Strict,
    /// A newcomer may take an idle connection while every waiter has waited for less than
    /// this. From then on it is the same as `Strict`. Zero is `Strict`.
    Bounded(Duration),
}

impl Default for Fairness {
    /// `Bounded(2 ms)`: too short for a caller to notice, and long enough that a thread
    /// that makes one short query after another need not hand over its connection and
    /// sleep after each. Measured in `docs/benchmarks`, decided in
    /// `docs/decisions/0001-waiting.md`.
    fn default() -> Fairness {
        Fairness::Bounded(DEFAULT_BOUND)
    }
}

/// What to do in a self-deadlock: every connection is held by a thread that itself waits
/// for another connection of the same pool, so none can be served before one of them
/// leaves.
///
/// The pool detects a self-deadlock at once. It considers only threads that have used a
/// connection that they hold, and connections that were used on no other thread than the one
/// that got them. (A use is one of the driver's connection, by dereference or
/// [`run`](crate::PooledConnection::run).) So a thread may get connections for other threads,
/// as web services do that get a connection in one task and use it in another. A thread that
/// waits while it holds connections and has used none of them is not found.
///
/// The pool can be wrong in one case: a thread has used a connection, has given one that it got
/// to another thread, which has not used it yet, and waits for a further connection. (Moving a
/// value in Rust runs no code, so the pool cannot notice.) That may cause a needless warning.
/// It causes a needless error only if it lasts longer than the time of `Fail`, and never if
/// [`PooledConnection::unbind`](crate::PooledConnection::unbind) was called.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// # use fairpool_testing::StubConnection;
/// # fn query(_: &StubConnection) {}
/// use std::time::Duration;
///
/// use fairpool::{Pool, SelfDeadlock};
///
/// let pool = Pool::builder()
///     .max_size(1)
///     .on_self_deadlock(SelfDeadlock::Fail(Duration::from_millis(100)))
///     .build(StubManager)?;
/// let held = pool.get()?;
/// query(&held);
/// let error = pool.get().unwrap_err(); // after 100 ms, not 30 s
/// assert!(error.is_self_deadlock());
/// assert_eq!(error.nested_gets().len(), 1);
/// # drop(held);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfDeadlock {
    /// Do nothing. The threads wait until their deadlines.
    Ignore,
    /// Report it at once: in the log, to the [`HandleEvent`](crate::HandleEvent), to
    /// subscribers, and in the errors of callers that time out. The default, because it
    /// changes no result.
    #[default]
    Warn,
    /// Report it at once. If it still lasts after this time, the caller that came last
    /// gets [`ErrorKind::SelfDeadlock`](crate::ErrorKind::SelfDeadlock), and can then
    /// return the connection that it holds. Use zero, which fails the caller at once, if
    /// connections stay on the threads that got them. Otherwise choose a time longer than
    /// a connection stays unused on its way between threads.
    Fail(Duration),
}

/// The settings that a pool keeps.
pub(crate) struct Config<M: ManageConnection> {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Policy,
    pub(crate) connection_timeout: Duration,
    pub(crate) drop_timeout: Duration,
    pub(crate) slow_get_threshold: Option<Duration>,
    pub(crate) health_thresholds: HealthThresholds,
    pub(crate) test_on_check_out: Option<bool>,
    pub(crate) error_handler: Box<dyn HandleError<M::Error>>,
    /// `None` saves a call for each get and each return.
    pub(crate) event_handler: Option<Box<dyn HandleEvent>>,
    pub(crate) connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    pub(crate) use_handler: Option<Box<dyn HandleUse<M::Connection, M::Error>>>,
}

impl<M: ManageConnection> Default for Config<M> {
    fn default() -> Config<M> {
        Config {
            name: "fairpool".into(),
            policy: default_policy(),
            connection_timeout: Duration::from_secs(30),
            drop_timeout: Duration::from_secs(1),
            slow_get_threshold: Some(Duration::from_secs(1)),
            health_thresholds: HealthThresholds::default(),
            test_on_check_out: None,
            error_handler: Box::new(NopErrorHandler),
            event_handler: None,
            connection_customizer: Box::new(NopConnectionCustomizer),
            use_handler: None,
        }
    }
}

/// A task that can run is polled within microseconds, or milliseconds if its runtime is busy.
/// Meanwhile the connection that it was granted helps nobody.
const TAKE_UP_LIMIT: Duration = Duration::from_millis(50);

fn default_policy() -> Policy {
    Policy {
        max_size: 10,
        min_idle: None,
        max_idle: None,
        max_waiters: None,
        fairness_bound: DEFAULT_BOUND,
        priority_ageing: Duration::from_secs(1),
        max_lifetime: Some(Duration::from_secs(30 * 60)),
        lifetime_jitter_permille: 100,
        idle_timeout: Some(Duration::from_secs(10 * 60)),
        ends_on_time: false,
        keepalive: None,
        fresh_for: Duration::from_millis(500),
        fresh_by_check: false,
        begins_uses: false,
        ends_uses: false,
        check_patience: PATIENCE,
        patience_min: PATIENCE,
        patience_max: LONGEST_PATIENCE,
        open_limit: Duration::from_secs(5),
        validation_limit: Duration::from_secs(2),
        reset_limit: Duration::from_secs(2),
        close_limit: Duration::from_secs(5),
        max_opening: 4,
        max_closers: 4,
        max_abandoned: 32,
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_secs(1),
        fail_fast_after: None,
        take_up_limit: TAKE_UP_LIMIT,
        leak_threshold: None,
        reports_self_deadlock: true,
        self_deadlock_limit: None,
        clock_lag: Duration::ZERO,
        seed: 0,
    }
}
