//! The pool's handle.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use super::builder::Builder;
use super::get_async::GetAsync;
use super::guard::PooledConnection;
use super::request::{self, Request};
use crate::runtime::executor::Executor;
use crate::runtime::shared::Shared;
use crate::sync::Arc;
use crate::types::{Config, Error, ManageConnection};

/// A pool of connections.
///
/// Clones are handles of the same pool. When the last handle is dropped, the pool closes:
/// idle connections at once, and that drop waits for it, 1 second at most
/// ([`Builder::drop_timeout`]); those in use when they are returned. [`close`](Pool::close)
/// waits for those too, and for the threads that work for the pool.
///
/// A pool belongs to the process that built it: see [Processes](crate#processes).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::thread;
///
/// let pool = fairpool::Pool::builder().max_size(2).build(StubManager)?;
/// thread::scope(|scope| {
///     for _ in 0..8 {
///         scope.spawn(|| {
///             let conn = pool.get().expect("a connection within 30 s");
///             // … use it; dropping it returns it.
/// #           drop(conn);
///         });
///     }
/// });
/// # Ok::<(), fairpool::Error>(())
/// ```
pub struct Pool<M: ManageConnection> {
    pub(crate) shared: Arc<Shared<M>>,
    /// Counts the handles. Connections and threads keep `shared` alive too, so the
    /// last handle cannot be recognised by the count of `shared`.
    _last: Arc<CloseOnDrop<M>>,
}

struct CloseOnDrop<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Drop for CloseOnDrop<M> {
    fn drop(&mut self) {
        self.0.close_at_last_drop();
    }
}

impl<M: ManageConnection> Clone for Pool<M> {
    fn clone(&self) -> Pool<M> {
        Pool { shared: Arc::clone(&self.shared), _last: Arc::clone(&self._last) }
    }
}

impl<M: ManageConnection> Pool<M> {
    /// Builds a pool with the default settings of [`Builder`].
    ///
    /// # Errors
    ///
    /// As [`Builder::build`].
    ///
    /// # Blocking
    ///
    /// As [`Builder::build`].
    pub fn new(manager: M) -> Result<Pool<M>, Error> {
        Pool::builder().build(manager)
    }

    /// A builder with the default settings.
    pub fn builder() -> Builder<M> {
        Builder::new()
    }

    pub(crate) fn start(config: Config<M>, manager: M) -> Pool<M> {
        Pool::start_with(config, manager, Executor::of_this_process())
    }

    pub(crate) fn start_with(config: Config<M>, manager: M, executor: Arc<Executor>) -> Pool<M> {
        let shared = Shared::new(config, manager, executor);
        shared.check_limits();
        // The first tick opens what `min_idle` asks for, and makes the pool known to the executor.
        shared.transition(|core, fx| core.tick(fx));
        Pool { _last: Arc::new(CloseOnDrop(Arc::clone(&shared))), shared }
    }

    /// Gets a connection within the pool's `connection_timeout`.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Pool::get_timeout).
    ///
    /// # Blocking
    ///
    /// For up to `connection_timeout`.
    #[track_caller]
    pub fn get(&self) -> Result<PooledConnection<M>, Error> {
        request::get(&self.shared, Location::caller(), |request| request)
    }

    /// Gets a connection within `timeout`.
    ///
    /// One deadline covers the queue, the check and the connect. A timeout of zero takes
    /// an idle connection only if it needs no check. If all idle ones do, this get starts
    /// a check, which helps the next caller, and fails; [`try_get`](Pool::try_get) waits
    /// for the check. With a [`HandleUse`](crate::HandleUse) zero always times out.
    /// `Duration::MAX` waits without a limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout),
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed),
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull),
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect),
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked); if the pool has a
    /// [`HandleUse`](crate::HandleUse), [`ErrorKind::UseHandler`](crate::ErrorKind::UseHandler);
    /// or, if it is built with [`SelfDeadlock::Fail`](crate::SelfDeadlock::Fail),
    /// [`ErrorKind::SelfDeadlock`](crate::ErrorKind::SelfDeadlock).
    ///
    /// # Blocking
    ///
    /// For up to `timeout`, whatever the driver does: its calls run on the pool's own threads,
    /// but for a check of which the driver says that it keeps its limit
    /// ([`checks_within_limit`](ManageConnection::checks_within_limit)). After that the event
    /// handler runs on this thread, and so does the logger if the get was slow (see
    /// [`slow_get_threshold`](crate::Builder::slow_get_threshold)).
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use std::time::Duration;
    ///
    /// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
    /// let conn = pool.get_timeout(Duration::from_millis(100))?;
    /// assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_timeout());
    /// # drop(conn);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    #[track_caller]
    pub fn get_timeout(&self, timeout: Duration) -> Result<PooledConnection<M>, Error> {
        request::get(&self.shared, Location::caller(), |request| request.timeout(timeout))
    }

    /// Gets a connection if one is idle now.
    ///
    /// # Blocking
    ///
    /// It does not wait until a connection is returned or opened. If the idle connection
    /// is due for a check, or a [`HandleUse`](crate::HandleUse) begins the use, it waits for that,
    /// for up to `validation_timeout`.
    #[track_caller]
    pub fn try_get(&self) -> Option<PooledConnection<M>> {
        request::get(&self.shared, Location::caller(), Request::only_idle).ok()
    }

    /// Gets a connection for a task of an async service, within the pool's `connection_timeout`.
    /// While it waits no thread is blocked.
    ///
    /// Tasks and threads wait in one queue, by the same rules. The pool keeps the deadline: it
    /// needs no timer, and no executor in particular. The wait begins with the first poll, and
    /// dropping the future cancels it. If the task is not polled within 50 ms after it was granted
    /// a connection, the next caller gets that, and the task keeps its place in the queue. Until
    /// then the connection is shown as *granted, not polled*.
    ///
    /// Only the wait is asynchronous. To use the connection is to block, so do that on a thread
    /// made for it: see `interact` of the package `fairpool-tokio`.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Pool::get_timeout), without
    /// [`ErrorKind::SelfDeadlock`](crate::ErrorKind::SelfDeadlock).
    ///
    /// # Blocking
    ///
    /// A poll waits only for the pool's lock. It calls the event handler, and the logger if the get
    /// was slow, as [`get_timeout`](Pool::get_timeout) does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// async fn answer(pool: &fairpool::Pool<StubManager>) -> Result<(), fairpool::Error> {
    ///     let conn = pool.get_async().await?;
    ///     let urgent = pool.request().priority(1).label("login").get_async().await?;
    /// #   drop((conn, urgent));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn get_async(&self) -> GetAsync<'_, M> {
        self.request().get_async()
    }

    /// Prepares one get with a deadline, a priority, a label or a cancel token.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use std::time::Duration;
    ///
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// let conn = pool
    ///     .request()
    ///     .timeout(Duration::from_millis(250))
    ///     .priority(1)
    ///     .label("health check")
    ///     .get()?;
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn request(&self) -> Request<'_, M> {
        Request::new(&self.shared)
    }

    /// The maximum number of connections of the pool.
    pub fn max_size(&self) -> u32 {
        self.shared.with_core(|core| core.policy().max_size)
    }

    /// How many connections the pool keeps idle; `None`: as many as `max_size`.
    pub fn min_idle(&self) -> Option<u32> {
        self.shared.with_core(|core| core.policy().min_idle)
    }

    /// Whether connections are checked before they are handed out: each time, or (if
    /// [`test_on_check_out`](Builder::test_on_check_out) was not set) when they have not
    /// been used for a while.
    pub fn test_on_check_out(&self) -> bool {
        self.shared.config.test_on_check_out != Some(false)
    }

    /// The maximum lifetime of a connection.
    pub fn max_lifetime(&self) -> Option<Duration> {
        self.shared.config.policy.max_lifetime
    }

    /// The maximum time for which a connection may be idle.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.shared.config.policy.idle_timeout
    }

    /// How long [`get`](Pool::get) waits at most.
    pub fn connection_timeout(&self) -> Duration {
        self.shared.config.connection_timeout
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }
}

impl<M: ManageConnection> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("stats", &self.stats()).finish()
    }
}
