//! Changes a running pool: resize, pause, refresh, close.

use std::fmt;
use std::time::{Duration, Instant};

use super::build::check_sizes;
use super::pool::Pool;
use crate::types::{Error, Holder, ManageConnection};

impl<M: ManageConnection> Pool<M> {
    /// Changes the maximum number of connections.
    ///
    /// A larger pool serves waiters at once. In a smaller pool, idle connections beyond
    /// the maximum are closed now, and those in use when they are returned.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it is zero, or smaller than
    /// `min_idle`.
    pub fn set_max_size(&self, max_size: u32) -> Result<(), Error> {
        self.shared.transition(|core, fx| {
            let policy = core.policy();
            check_sizes(max_size, policy.min_idle, policy.max_idle).map_err(Error::config)?;
            core.set_max_size(max_size, fx);
            Ok(())
        })
    }

    /// Changes how many connections the pool keeps idle; `None`: as many as `max_size`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it is greater than `max_size` or
    /// `max_idle`.
    pub fn set_min_idle(&self, min_idle: Option<u32>) -> Result<(), Error> {
        self.shared.transition(|core, fx| {
            let policy = core.policy();
            check_sizes(policy.max_size, min_idle, policy.max_idle).map_err(Error::config)?;
            core.set_min_idle(min_idle, fx);
            Ok(())
        })
    }

    /// Hands out no connection until [`resume`](Pool::resume) is called.
    ///
    /// Callers wait in the queue and leave it at their deadlines, as usual. Connections
    /// that are in use can still be used and returned.
    pub fn pause(&self) {
        self.shared.transition(|core, _| core.pause());
    }

    /// Ends a [`pause`](Pool::pause).
    pub fn resume(&self) {
        self.shared.transition(|core, fx| core.resume(fx));
    }

    /// Replaces every connection that exists now, for example after a failover or a
    /// change of password. It returns at once.
    ///
    /// The pool opens one successor at a time, as fast as connecting allows, and closes an old
    /// connection when a successor is there: first those that are idle, beginning with the one
    /// that would be lent last; those in use when they are returned. A full pool closes one
    /// first, so it is short of one meanwhile. Until its turn comes, an old connection serves
    /// callers as before; [`Stats::outdated`](crate::stats::Stats::outdated) counts them. While
    /// connecting fails, all of them go on, and it is tried again and again. Idle connections
    /// that nobody has ever used, beyond `min_idle`, are closed at once.
    ///
    /// A connection that is known not to work any more is not for this: return it as broken
    /// ([`PooledConnection::discard`](crate::PooledConnection::discard)).
    ///
    /// New connections come from the manager's `connect`, as ever. So it must know the new
    /// password first: `fairpool-postgres` asks a closure for it.
    pub fn refresh(&self) {
        self.shared.transition(|core, fx| core.refresh(fx));
    }

    /// Closes the pool for all its handles and waits until it has ended.
    ///
    /// Waiters and new callers get [`ErrorKind::Closed`](crate::ErrorKind::Closed) at
    /// once. Idle connections are closed now, those in use when they are returned. It
    /// returns when every connection is closed and no thread is at work for the pool, or at
    /// the deadline; the rest is then closed in the background. A second call waits again.
    /// The threads belong to all pools of the process. If this was the last one, they end, and
    /// `close` waits for that too, so that a library may be unloaded after it.
    /// The drop of the last handle waits for less: see
    /// [`Builder::drop_timeout`](crate::Builder::drop_timeout). In a child made by `fork`
    /// there is nothing to close, and the report is complete.
    ///
    /// # Blocking
    ///
    /// Until the deadline at most. A call from a thread that holds a connection, or from
    /// a thread that is at work for the pool (in a hook, for example), always waits until the
    /// deadline, because the close cannot finish before that call returns.
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
        if self.shared.process.is_forked() {
            return CloseReport::default();
        }
        let (elapsed, threads) = self.shared.close(deadline);
        let gauges = self.shared.gauges();
        CloseReport {
            elapsed,
            holders: self.shared.holders(),
            checking: gauges.checking,
            opening: gauges.opening,
            closing: gauges.closing,
            abandoned: gauges.abandoned,
            // Last: a close that ends meanwhile must not make the report look complete while
            // a worker is at it.
            threads: threads + self.shared.executor.running(),
        }
    }
}

/// What was left of the pool when [`Pool::close`] returned.
#[derive(Debug, Clone, Default)]
#[must_use = "a close may be incomplete"]
#[non_exhaustive]
pub struct CloseReport {
    /// How long the close took.
    pub elapsed: Duration,
    /// Holders of connections, longest first.
    pub holders: Vec<Holder>,
    /// Connections that are still being validated or reset.
    pub checking: u32,
    /// Connections that are still being opened.
    pub opening: u32,
    /// Connections that are still being closed.
    pub closing: u32,
    /// Driver calls that overran their limit and have not returned.
    pub abandoned: u32,
    /// Threads that are at work for the pool, mostly in driver calls that hang. If it was the
    /// last pool of the process, then all threads of the pools that have not ended: those that
    /// have done their work may hang in a destructor of the driver's thread-local values.
    pub threads: usize,
}

impl CloseReport {
    /// Whether the close is complete: no connection or call is left, nor any of those
    /// [`threads`](CloseReport::threads).
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
