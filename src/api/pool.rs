//! The pool's handle.

use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use crate::types::caller::{Caller, Holder, Waiter};
use crate::types::config::{Builder, Config, check_sizes};
use crate::core::Time;
use crate::types::error::{Error, ErrorKind};
use crate::types::subscription::{Scene, Subscription};
use crate::observe::reading::Reading;
use crate::runtime::health::Health;
use crate::types::manage::ManageConnection;
use crate::api::guard::PooledConnection;
use crate::api::request::Request;
use crate::runtime::shared::{PoolCore, Shared};
use crate::observe::snapshot::{Snapshot, WeakPool};
use crate::types::stats::Stats;
use crate::sync::Arc;
use crate::runtime::wait::{self, Ask};

/// The priority of callers that do not ask for another.
pub(crate) const DEFAULT_PRIORITY: u8 = 5;

/// A pool of connections.
///
/// Clones are handles of one pool. When the last handle is dropped, the pool
/// closes in the background: idle connections are closed, and those in use when
/// they come back. [`close`](Pool::close) does the same and waits.
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
///             // … use it; it goes back when it is dropped.
/// #           drop(conn);
///         });
///     }
/// });
/// # Ok::<(), fairpool::Error>(())
/// ```
pub struct Pool<M: ManageConnection> {
    pub(crate) shared: Arc<Shared<M>>,
    /// Counts the handles. Connections and threads keep `shared` alive too, so
    /// its own count does not tell when the last handle has gone.
    _last: Arc<CloseOnDrop<M>>,
}

struct CloseOnDrop<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Drop for CloseOnDrop<M> {
    fn drop(&mut self) {
        self.0.transition(|core, now, fx| core.close(now, fx));
    }
}

impl<M: ManageConnection> Clone for Pool<M> {
    fn clone(&self) -> Pool<M> {
        Pool { shared: Arc::clone(&self.shared), _last: Arc::clone(&self._last) }
    }
}

impl<M: ManageConnection> Pool<M> {
    /// A pool with the default settings, which are those of [`Builder`].
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

    /// Settings for a pool.
    pub fn builder() -> Builder<M> {
        Builder::new()
    }

    pub(crate) fn start(config: Config<M>, manager: M) -> Pool<M> {
        let shared = Shared::new(config, manager);
        // The first look opens what `min_idle` asks for, and starts the reaper.
        shared.transition(|core, now, fx| core.tick(now, fx));
        Pool { _last: Arc::new(CloseOnDrop(Arc::clone(&shared))), shared }
    }

    /// Waits for the first `min_idle` connections.
    pub(crate) fn wait_until_ready(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let start = Time::START;
        let wanted = shared.config.policy.min_idle_now();
        let ready = |core: &PoolCore<M>| core.open_count() >= wanted;
        let deadline = start.after(shared.config.connection_timeout);
        let deadline = shared.clock.instant_of(deadline);
        shared.wait_for(deadline, |core| ready(core) || core.fails_permanently());
        let failure = shared.transition(|core, now, _| {
            let failed = !ready(core);
            failed.then(|| (core.fails_permanently(), shared.report(core, now, start)))
        });
        let Some((permanent, (report, cause))) = failure else { return Ok(()) };
        let (kind, how) = match permanent {
            true => (ErrorKind::Connect, "connecting cannot succeed as configured".to_string()),
            false => (ErrorKind::Timeout, format!("timed out after {:.1?}", report.waited)),
        };
        let message = format!("cannot open {wanted} connections: {how}");
        Err(Error::new(kind, message, report, cause))
    }

    /// A connection, within the pool's `connection_timeout`.
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
        self.checkout(Location::caller(), self.shared.config.connection_timeout)
    }

    /// A connection, within `timeout`.
    ///
    /// One deadline covers the queue, checking and connecting. Zero takes what
    /// is there now and needs no check first (it has one made, so that the next
    /// caller finds it done); [`try_get`](Pool::try_get) waits for the check.
    /// `Duration::MAX` waits for ever.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`], [`ErrorKind::Closed`], [`ErrorKind::QueueFull`]
    /// or [`ErrorKind::Connect`].
    ///
    /// # Blocking
    ///
    /// For up to `timeout`, whatever the driver does: driver calls run on the
    /// pool's own threads. After that, event handlers run on this thread, and the
    /// logger if the get was slow (see
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
        self.checkout(Location::caller(), timeout)
    }

    /// A connection if one is idle now.
    ///
    /// # Blocking
    ///
    /// It does not wait for others to return a connection, nor for one to be
    /// opened. If the idle connection is due for a check, it waits for that, for
    /// up to `validation_timeout`.
    #[track_caller]
    pub fn try_get(&self) -> Option<PooledConnection<M>> {
        let shared = &self.shared;
        let caller = Caller::here(Location::caller(), None, DEFAULT_PRIORITY);
        if let Some(guard) = PooledConnection::at_once(shared, caller) {
            return Some(guard);
        }
        let start = shared.clock.now();
        let ask = Ask {
            caller,
            start,
            deadline: start.after(shared.config.policy.validation_limit),
            cancel: None,
            only_idle: true,
        };
        let lease = wait::checkout(shared, &ask).ok()?;
        Some(PooledConnection::new(shared, lease, start))
    }

    /// One checkout with a deadline, a priority, a label or a cancel token.
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

    #[inline]
    fn checkout(
        &self,
        location: &'static Location<'static>,
        timeout: Duration,
    ) -> Result<PooledConnection<M>, Error> {
        let shared = &self.shared;
        let caller = Caller::here(location, None, DEFAULT_PRIORITY);
        if let Some(guard) = PooledConnection::at_once(shared, caller) {
            return Ok(guard);
        }
        let start = shared.clock.now();
        let ask =
            Ask { caller, start, deadline: start.after(timeout), cancel: None, only_idle: false };
        wait::get(shared, &ask)
    }

    /// Numbers of connections.
    pub fn state(&self) -> State {
        let gauges = self.shared.gauges();
        State {
            connections: gauges.idle + gauges.busy + gauges.checking,
            idle_connections: gauges.idle,
        }
    }

    /// Everything that the pool counts, as of one instant.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Everything that the pool knows about itself, as of one instant: its numbers,
    /// who holds connections and who waits, what the driver is busy with, its health.
    ///
    /// # Blocking
    ///
    /// Holds the pool's lock for as long as it takes to copy the lists: some 100 ns
    /// for each holder and waiter.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Who holds connections, longest first; part of [`snapshot`](Pool::snapshot).
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// let (conn, line) = (pool.request().label("report").get()?, line!());
    /// let holders = pool.holders();
    /// assert_eq!(holders[0].location().line(), line);
    /// assert_eq!(holders[0].label(), Some("report"));
    /// # drop(conn);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn holders(&self) -> Vec<Holder> {
        self.shared.holders()
    }

    /// Who waits for a connection, in the order in which they will be served; part of
    /// [`snapshot`](Pool::snapshot).
    pub fn waiters(&self) -> Vec<Waiter> {
        self.shared.waiters()
    }

    /// How the pool is: healthy, or not and by which figures.
    ///
    /// While callers wait, the pool's resident thread looks ten times a second; this
    /// looks now. Either tells of a change of level: the log, the
    /// [`HandleEvent`](crate::HandleEvent) and subscribers.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// assert_eq!(pool.health().to_string(), "healthy: 0 waiting");
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// A view of the pool that does not keep it alive.
    pub fn downgrade(&self) -> WeakPool {
        WeakPool::new(&self.shared)
    }

    /// Everything that happens from now on, in the order in which it happens.
    ///
    /// Events come up to some milliseconds late. Leaks, deadlocks, outages, abandoned calls
    /// and changes of health come when the [`HandleEvent`](crate::HandleEvent) is told of
    /// them, one after the other; [`Event::at`](crate::types::event::Event::at) says when they happened.
    ///
    /// There is room for `capacity` events, from the start (some 400 bytes for each). A
    /// subscriber that does not read them in time loses the newest, which
    /// [`Event::lost_before`](crate::types::event::Event::lost_before) and [`Stats::events_lost`] count, and never slows the
    /// pool down. The channel ends when the pool has, and the subscription when the
    /// receiver is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if `capacity` is zero or more than four million.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use fairpool::event::EventKind;
    ///
    /// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
    /// let events = pool.subscribe(1000)?;
    /// drop(pool.get()?);
    /// let first = events.recv().unwrap();
    /// assert!(matches!(first.kind, EventKind::CheckedOut { .. }), "{first:?}");
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, Error> {
        self.shared.subscribe(capacity)
    }

    /// As [`subscribe`](Pool::subscribe), with where everything was right before the
    /// first event: for those who draw a picture of what happens.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Pool::subscribe).
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::builder().max_size(2).build(StubManager)?;
    /// let (scene, events) = pool.follow(1000)?;
    /// assert_eq!((scene.connections.len(), scene.waiters.len()), (2, 0));
    /// # drop(events);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn follow(&self, capacity: usize) -> Result<(Scene, Subscription), Error> {
        self.shared.follow(capacity)
    }

    /// All figures as of one instant, without the lists of a
    /// [`snapshot`](Pool::snapshot): for exporters of metrics.
    pub fn reading(&self) -> Reading {
        self.shared.reading()
    }

    /// The manager that the pool was built with.
    pub fn manager(&self) -> &M {
        &self.shared.manager
    }

    /// The most connections that the pool may have.
    pub fn max_size(&self) -> u32 {
        self.shared.quick(|core| core.policy().max_size)
    }

    /// How many connections the pool keeps idle; `None` is `max_size`.
    pub fn min_idle(&self) -> Option<u32> {
        self.shared.quick(|core| core.policy().min_idle)
    }

    /// Whether connections are checked before they are handed out: always, or
    /// (unless it was set) when they were not used for a while.
    pub fn test_on_check_out(&self) -> bool {
        self.shared.config.test_on_check_out
    }

    /// The longest that a connection lives.
    pub fn max_lifetime(&self) -> Option<Duration> {
        self.shared.config.policy.max_lifetime
    }

    /// The longest that a connection may be idle.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.shared.config.policy.idle_timeout
    }

    /// How long [`get`](Pool::get) waits.
    pub fn connection_timeout(&self) -> Duration {
        self.shared.config.connection_timeout
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Changes the most connections that the pool may have.
    ///
    /// Growth serves waiters at once. To shrink, idle connections are closed
    /// now and others when they come back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if it is zero, or smaller than `min_idle`.
    pub fn set_max_size(&self, max_size: u32) -> Result<(), Error> {
        self.shared.transition(|core, now, fx| {
            let policy = core.policy();
            check_sizes(max_size, policy.min_idle, policy.max_idle).map_err(Error::config)?;
            core.set_max_size(max_size, now, fx);
            Ok(())
        })
    }

    /// Changes how many connections the pool keeps idle; `None` is `max_size`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if it is greater than `max_size` or `max_idle`.
    pub fn set_min_idle(&self, min_idle: Option<u32>) -> Result<(), Error> {
        self.shared.transition(|core, now, fx| {
            let policy = core.policy();
            check_sizes(policy.max_size, min_idle, policy.max_idle).map_err(Error::config)?;
            core.set_min_idle(min_idle, now, fx);
            Ok(())
        })
    }

    /// Hands out no connection until [`resume`](Pool::resume).
    ///
    /// Callers wait in the queue and leave it at their deadlines, as ever.
    /// Connections that are out can be used and returned.
    pub fn pause(&self) {
        self.shared.transition(|core, _, _| core.pause());
    }

    /// Ends a [`pause`](Pool::pause).
    pub fn resume(&self) {
        self.shared.transition(|core, now, fx| core.resume(now, fx));
    }

    /// Replaces every connection that exists now: idle ones at once, others
    /// when they come back. After a failover or a change of password, say.
    pub fn refresh(&self) {
        self.shared.transition(|core, now, fx| core.refresh(now, fx));
    }

    /// Closes the pool for all its handles and waits for it to end.
    ///
    /// New callers and those who wait get [`ErrorKind::Closed`] at once. Idle
    /// connections are closed now, others when they come back. Ends when
    /// everything is closed and the pool's threads have ended, or at the
    /// deadline; then the rest goes on in the background. Calling it again waits
    /// again.
    ///
    /// # Blocking
    ///
    /// Until the deadline at the latest. It cannot see the end of what its caller
    /// is in: called from one of the pool's own threads (from a hook, say), or by
    /// somebody who holds a connection, it waits until the deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use std::time::{Duration, Instant};
    ///
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// let report = pool.close(Instant::now() + Duration::from_secs(1));
    /// assert!(report.is_complete(), "{report}");
    /// assert!(pool.get().unwrap_err().is_closed());
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn close(&self, deadline: Instant) -> CloseReport {
        let shared = &self.shared;
        let start = shared.clock.now();
        shared.transition(|core, now, fx| core.close(now, fx));
        let workers = &shared.workers;
        let ended = |core: &PoolCore<M>| {
            core.is_drained() && workers.are_done() && shared.notices.are_told()
        };
        let ending = match shared.wait_for(Some(deadline), ended) {
            true => shared.join_threads(deadline),
            false => shared.threads.ending(),
        };
        let gauges = shared.gauges();
        CloseReport {
            elapsed: shared.ago(start),
            holders: shared.holders(),
            checking: gauges.checking,
            opening: gauges.opening,
            closing: gauges.closing,
            abandoned: gauges.abandoned,
            threads: workers.running() + ending,
        }
    }
}

impl<M: ManageConnection> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("stats", &self.stats()).finish()
    }
}

/// Numbers of connections, as `r2d2` has them; [`Stats`] has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// Connections that exist and are not being closed.
    pub connections: u32,
    /// Connections that wait for a caller.
    pub idle_connections: u32,
}

/// What [`Pool::close`] achieved by its deadline.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CloseReport {
    /// How long it took.
    pub elapsed: Duration,
    /// Those who still hold connections, longest first.
    pub holders: Vec<Holder>,
    /// Connections that are still being validated or reset.
    pub checking: u32,
    /// Connections that are still being opened.
    pub opening: u32,
    /// Connections that are still being closed.
    pub closing: u32,
    /// Driver calls that overran their limit and have not come back.
    pub abandoned: u32,
    /// Threads that have not ended: those of hung driver calls, mostly.
    pub threads: usize,
}

impl CloseReport {
    /// Whether nothing is left.
    pub fn is_complete(&self) -> bool {
        self.holders.is_empty()
            && self.checking + self.opening + self.closing + self.abandoned == 0
            && self.threads == 0
    }
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return write!(f, "closed in {:.1?}", self.elapsed);
        }
        write!(
            f,
            "not closed after {:.1?}: {} in use, {} being checked, {} opening, {} closing, \
             {} hung driver calls, {} threads left",
            self.elapsed,
            self.holders.len(),
            self.checking,
            self.opening,
            self.closing,
            self.abandoned,
            self.threads,
        )?;
        for holder in &self.holders {
            write!(f, "; held by {holder}")?;
        }
        Ok(())
    }
}
