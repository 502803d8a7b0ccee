//! A handle that does not keep the pool alive.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::observe::diagnosis::{self, Diagnosis};
use crate::observe::reading::{self, Reading};
use crate::observe::snapshot::{self, Snapshot};
use crate::runtime::shared::Shared;
use crate::sync::{Arc, Process, Weak};
use crate::types::{Error, Health, ManageConnection, Readiness, Scene, Stats, Subscription};

/// A handle that observes a pool without keeping it alive. From
/// [`Pool::downgrade`](crate::Pool::downgrade).
///
/// It has no type parameter for the driver, so one list can hold pools of several
/// drivers.
///
/// Each method but [`is_gone`](WeakPool::is_gone) keeps the pool alive while it runs: if the
/// last [`Pool`](crate::Pool) is dropped meanwhile, the pool ends, and the manager is dropped,
/// on this thread. In a child made by `fork` the pool is gone.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// let pool = fairpool::Pool::builder().name("orders").build(StubManager)?;
/// let weak = pool.downgrade();
/// assert_eq!(weak.name(), "orders");
/// assert!(weak.stats().is_some());
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone)]
pub struct WeakPool {
    name: Arc<str>,
    pool: Weak<dyn AnyPool>,
    process: Process,
}

impl WeakPool {
    pub(crate) fn new<M: ManageConnection>(shared: &Arc<Shared<M>>) -> WeakPool {
        let name = Arc::clone(&shared.config.name);
        let pool: Weak<Shared<M>> = Arc::downgrade(shared);
        WeakPool { name, pool, process: shared.process.built_in }
    }

    pub(crate) fn pool(&self) -> Option<Arc<dyn AnyPool>> {
        if self.process.is_another() { None } else { self.pool.upgrade() }
    }

    fn error(&self) -> Error {
        if self.process.is_another() {
            Error::forked(&self.name, self.process)
        } else {
            Error::gone(&self.name)
        }
    }

    /// Whether both are handles of the same pool.
    pub fn ptr_eq(&self, other: &WeakPool) -> bool {
        Weak::ptr_eq(&self.pool, &other.pool)
    }

    /// Whether the pool is gone. Unlike the other methods, this one never holds a
    /// reference to the pool, so it never drops the manager.
    pub fn is_gone(&self) -> bool {
        self.pool.strong_count() == 0 || self.process.is_another()
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Pool::stats`](crate::Pool::stats); `None` if the pool is gone.
    pub fn stats(&self) -> Option<Stats> {
        Some(self.pool()?.stats())
    }

    /// As [`Pool::snapshot`](crate::Pool::snapshot); `None` if the pool is gone.
    pub fn snapshot(&self) -> Option<Snapshot> {
        Some(self.pool()?.snapshot())
    }

    /// As [`Pool::health`](crate::Pool::health); `None` if the pool is gone.
    pub fn health(&self) -> Option<Health> {
        Some(self.pool()?.health())
    }

    /// As [`Pool::readiness`](crate::Pool::readiness); `None` if the pool is gone.
    pub fn readiness(&self) -> Option<Readiness> {
        Some(self.pool()?.readiness())
    }

    /// As [`Pool::reading`](crate::Pool::reading); `None` if the pool is gone.
    pub fn reading(&self) -> Option<Reading> {
        Some(self.pool()?.reading())
    }

    /// As [`Pool::subscribe`](crate::Pool::subscribe).
    ///
    /// # Errors
    ///
    /// As [`Pool::subscribe`](crate::Pool::subscribe), and
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the pool is gone, or
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a child made by `fork`.
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, Error> {
        self.pool().ok_or_else(|| self.error())?.subscribe(capacity)
    }

    /// As [`Pool::follow`](crate::Pool::follow).
    ///
    /// # Errors
    ///
    /// As [`subscribe`](WeakPool::subscribe).
    pub fn follow(&self, capacity: usize) -> Result<(Scene, Subscription), Error> {
        self.pool().ok_or_else(|| self.error())?.follow(capacity)
    }

    /// As [`Pool::diagnose`](crate::Pool::diagnose); `None` if the pool is gone before the
    /// second snapshot.
    ///
    /// # Blocking
    ///
    /// For one second.
    pub fn diagnose(&self) -> Option<Diagnosis> {
        self.diagnose_over(diagnosis::SPAN).expect("BUG: a second is a legal span")
    }

    /// As [`Pool::diagnose_over`](crate::Pool::diagnose_over); `None` if the pool is gone
    /// before the second snapshot.
    ///
    /// # Errors
    ///
    /// As [`Pool::diagnose_over`](crate::Pool::diagnose_over).
    ///
    /// # Blocking
    ///
    /// For `span`.
    pub fn diagnose_over(&self, span: Duration) -> Result<Option<Diagnosis>, Error> {
        diagnosis::over(span, || self.snapshot())
    }
}

impl fmt::Debug for WeakPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakPool").field("pool", &self.name).finish_non_exhaustive()
    }
}

/// A pool to observe, whatever its driver.
pub(crate) trait AnyPool: Send + Sync + UnwindSafe + RefUnwindSafe {
    fn stats(&self) -> Stats;
    fn snapshot(self: Arc<Self>) -> Snapshot;
    fn health(self: Arc<Self>) -> Health;
    fn readiness(self: Arc<Self>) -> Readiness;
    fn reading(self: Arc<Self>) -> Reading;
    fn subscribe(self: Arc<Self>, capacity: usize) -> Result<Subscription, Error>;
    fn follow(self: Arc<Self>, capacity: usize) -> Result<(Scene, Subscription), Error>;
}

impl<M: ManageConnection> AnyPool for Shared<M> {
    fn stats(&self) -> Stats {
        Shared::stats(self)
    }

    fn snapshot(self: Arc<Self>) -> Snapshot {
        snapshot::take(&self)
    }

    fn health(self: Arc<Self>) -> Health {
        Shared::health(&self)
    }

    fn readiness(self: Arc<Self>) -> Readiness {
        Shared::readiness(&self)
    }

    fn reading(self: Arc<Self>) -> Reading {
        reading::take(&self)
    }

    fn subscribe(self: Arc<Self>, capacity: usize) -> Result<Subscription, Error> {
        Shared::subscribe(&self, capacity)
    }

    fn follow(self: Arc<Self>, capacity: usize) -> Result<(Scene, Subscription), Error> {
        Shared::follow(&self, capacity)
    }
}
