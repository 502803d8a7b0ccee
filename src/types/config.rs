//! The settings that a pool keeps.

use std::time::Duration;

use super::{
    CustomizeConnection, HandleError, HandleEvent, HealthThresholds, ManageConnection,
    NopConnectionCustomizer, NopErrorHandler,
};
use crate::core::Policy;
use crate::sync::Arc;

/// An open or a check that takes longer is no longer counted on: the next caller
/// gets an attempt of its own. Long enough for most connects over a network, and
/// short enough that one that hangs is noticed by few callers.
const PATIENCE: Duration = Duration::from_millis(250);

/// The default of [`Fairness`].
const DEFAULT_BOUND: Duration = Duration::from_millis(2);

/// How far newcomers may overtake those who wait.
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
    /// Never: a returned connection always goes to whoever has waited longest.
    /// With holds shorter than some 20 µs this costs a context switch for each
    /// checkout.
    Strict,
    /// A newcomer may take an idle connection while every waiter before it has
    /// waited for less than this. From then on, as with `Strict`. Zero is
    /// `Strict`.
    Bounded(Duration),
}

impl Default for Fairness {
    /// `Bounded(2 ms)`: below what a caller notices, and long enough that a
    /// thread which makes one short query after another need not hand its
    /// connection over, and sleep, after each (measured in
    /// `docs/benchmarks` and weighed in `docs/decisions/0001-waiting.md`).
    fn default() -> Fairness {
        Fairness::Bounded(DEFAULT_BOUND)
    }
}

/// What to do when every connection is held by a thread that itself waits for
/// one of the same pool: nobody can be served before one of them gives up.
///
/// It is known as soon as it is so. Only guards that are used on no thread but
/// the one that got them are taken into account. The one case in which the pool
/// cannot know better: a guard has been given to another thread, which has not
/// used it yet, while the thread that gave it away waits for a connection. (A
/// value moves in Rust without any code being run.) That may give a needless
/// warning; a needless error only if it lasts for longer than the span of
/// `Fail`, and never if it was announced with
/// [`PooledConnection::unbind`](crate::PooledConnection::unbind).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// use fairpool::{Pool, SelfDeadlock};
///
/// let pool = Pool::builder()
///     .max_size(1)
///     .on_self_deadlock(SelfDeadlock::Fail(Duration::from_millis(100)))
///     .build(StubManager)?;
/// let held = pool.get()?;
/// let error = pool.get().unwrap_err(); // after 100 ms, not 30 s
/// assert!(error.is_self_deadlock());
/// assert_eq!(error.nested_gets().len(), 1);
/// # drop(held);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfDeadlock {
    /// Nothing; they wait until their deadlines.
    Ignore,
    /// Says so at once: in the log, to the
    /// [`HandleEvent`](crate::HandleEvent), and in the errors of those that time
    /// out.
    #[default]
    Warn,
    /// Warns at once, and when it has been so for this long, the caller that
    /// came last gets [`ErrorKind::SelfDeadlock`](crate::ErrorKind::SelfDeadlock); what
    /// it holds can then come back. Zero fails it at once, which is right if
    /// guards stay with the threads that got them. Otherwise, longer than a
    /// guard may lie unused on its way from thread to thread.
    Fail(Duration),
}

/// The settings that a pool keeps.
pub(crate) struct Config<M: ManageConnection> {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Policy,
    pub(crate) connection_timeout: Duration,
    pub(crate) slow_get_threshold: Option<Duration>,
    pub(crate) health_thresholds: HealthThresholds,
    pub(crate) test_on_check_out: Option<bool>,
    pub(crate) error_handler: Box<dyn HandleError<M::Error>>,
    /// `None` spares a call for each checkout.
    pub(crate) event_handler: Option<Box<dyn HandleEvent>>,
    pub(crate) connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
}

impl<M: ManageConnection> Default for Config<M> {
    fn default() -> Config<M> {
        Config {
            name: "fairpool".into(),
            policy: default_policy(),
            connection_timeout: Duration::from_secs(30),
            slow_get_threshold: Some(Duration::from_secs(1)),
            health_thresholds: HealthThresholds::default(),
            test_on_check_out: None,
            error_handler: Box::new(NopErrorHandler),
            event_handler: None,
            connection_customizer: Box::new(NopConnectionCustomizer),
        }
    }
}

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
        keepalive: None,
        fresh_for: Duration::from_millis(500),
        patience: PATIENCE,
        open_limit: Duration::from_secs(5),
        validation_limit: Duration::from_secs(2),
        reset_limit: Duration::from_secs(2),
        close_limit: Duration::from_secs(5),
        max_opening: 4,
        max_closers: 4,
        max_abandoned: 32,
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_secs(1),
        leak_threshold: None,
        reports_self_deadlock: true,
        self_deadlock_limit: None,
        seed: 0,
    }
}
