//! What the pool's owner does at run time: resize, pause, refresh, close.

use std::fmt;
use std::time::{Duration, Instant};

use super::check::check_sizes;
use super::pool::Pool;
use crate::types::{Error, Holder, ManageConnection};

impl<M: ManageConnection> Pool<M> {
    /// Changes the most connections that the pool may have.
    ///
    /// Growth serves waiters at once. To shrink, idle connections are closed
    /// now and others when they come back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it is zero, or smaller than `min_idle`.
    pub fn set_max_size(&self, max_size: u32) -> Result<(), Error> {
        self.shared.transition(|core, fx| {
            let policy = core.policy();
            check_sizes(max_size, policy.min_idle, policy.max_idle).map_err(Error::config)?;
            core.set_max_size(max_size, fx);
            Ok(())
        })
    }

    /// Changes how many connections the pool keeps idle; `None` is `max_size`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it is greater than `max_size` or `max_idle`.
    pub fn set_min_idle(&self, min_idle: Option<u32>) -> Result<(), Error> {
        self.shared.transition(|core, fx| {
            let policy = core.policy();
            check_sizes(policy.max_size, min_idle, policy.max_idle).map_err(Error::config)?;
            core.set_min_idle(min_idle, fx);
            Ok(())
        })
    }

    /// Hands out no connection until [`resume`](Pool::resume).
    ///
    /// Callers wait in the queue and leave it at their deadlines, as ever.
    /// Connections that are out can be used and returned.
    pub fn pause(&self) {
        self.shared.transition(|core, _| core.pause());
    }

    /// Ends a [`pause`](Pool::pause).
    pub fn resume(&self) {
        self.shared.transition(|core, fx| core.resume(fx));
    }

    /// Replaces every connection that exists now: idle ones at once, others
    /// when they come back. After a failover or a change of password, say.
    pub fn refresh(&self) {
        self.shared.transition(|core, fx| core.refresh(fx));
    }

    /// Closes the pool for all its handles and waits for it to end.
    ///
    /// New callers and those who wait get [`ErrorKind::Closed`](crate::ErrorKind::Closed) at once. Idle
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
        let (elapsed, threads) = self.shared.close(deadline);
        let gauges = self.shared.gauges();
        CloseReport {
            elapsed,
            holders: self.shared.holders(),
            checking: gauges.checking,
            opening: gauges.opening,
            closing: gauges.closing,
            abandoned: gauges.abandoned,
            threads,
        }
    }
}

/// What [`Pool::close`] achieved by its deadline.
#[derive(Debug, Clone)]
#[must_use = "a close may be incomplete"]
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
