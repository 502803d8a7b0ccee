//! One checkout with settings of its own.

use std::fmt;
use std::panic::Location;
use std::time::{Duration, Instant};

use crate::types::caller::Caller;
use crate::types::cancel::CancelToken;
use crate::types::error::Error;
use crate::types::manage::ManageConnection;
use crate::api::pool::DEFAULT_PRIORITY;
use crate::api::guard::PooledConnection;
use crate::runtime::shared::Shared;
use crate::sync::Arc;
use crate::runtime::wait::{self, Ask};

/// One checkout with settings of its own, from [`Pool::request`](crate::Pool::request).
#[must_use = "a request does nothing until `get`"]
pub struct Request<'a, M: ManageConnection> {
    shared: &'a Arc<Shared<M>>,
    until: Until,
    priority: u8,
    cancel: Option<&'a CancelToken>,
    label: Option<&'static str>,
}

#[derive(Debug, Clone, Copy)]
enum Until {
    Timeout(Duration),
    Deadline(Instant),
}

impl<'a, M: ManageConnection> Request<'a, M> {
    pub(crate) fn new(shared: &'a Arc<Shared<M>>) -> Request<'a, M> {
        Request {
            shared,
            until: Until::Timeout(shared.config.connection_timeout),
            priority: DEFAULT_PRIORITY,
            cancel: None,
            label: None,
        }
    }

    /// How long to wait. Zero takes what is there now and needs no check first.
    ///
    /// Default: the pool's `connection_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.until = Until::Timeout(timeout);
        self
    }

    /// Until when to wait, instead of a timeout. One that has passed is a timeout
    /// of zero.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.until = Until::Deadline(deadline);
        self
    }

    /// The caller's priority: smaller is served first.
    ///
    /// Default: 5. How long callers of smaller priority can pass over this one
    /// is bounded by [`Builder::priority_ageing`](crate::Builder::priority_ageing).
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Gives up as soon as the token is cancelled.
    pub fn cancel(mut self, token: &'a CancelToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// What the connection is for, in errors and reports. A kind of work, not
    /// the number of a request: hence a literal.
    pub fn label(mut self, label: &'static str) -> Self {
        self.label = Some(label);
        self
    }

    /// A connection.
    ///
    /// # Errors
    ///
    /// As [`Pool::get_timeout`](crate::Pool::get_timeout), and
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// # Blocking
    ///
    /// Until the deadline, or until the token is cancelled.
    #[track_caller]
    pub fn get(self) -> Result<PooledConnection<M>, Error> {
        let shared = self.shared;
        let caller = Caller::here(Location::caller(), self.label, self.priority);
        let cancelled = self.cancel.is_some_and(CancelToken::is_cancelled);
        if !cancelled && let Some(guard) = PooledConnection::at_once(shared, caller) {
            return Ok(guard);
        }
        let start = shared.clock.now();
        let ask = Ask {
            caller,
            start,
            deadline: match self.until {
                Until::Timeout(timeout) => start.after(timeout),
                Until::Deadline(at) => shared.clock.time_of(at),
            },
            cancel: self.cancel,
            only_idle: false,
        };
        if cancelled {
            return Err(wait::cancelled_before(shared, &ask));
        }
        wait::get(shared, &ask)
    }
}

impl<M: ManageConnection> fmt::Debug for Request<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("until", &self.until)
            .field("priority", &self.priority)
            .field("cancel", &self.cancel)
            .field("label", &self.label)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::StubManager;
    use crate::api::pool::Pool;

    #[test]
    fn p4_a_cancel_between_the_first_look_and_the_wait_is_not_lost() {
        let pool = Pool::builder().max_size(1).build(StubManager).expect("a stub");
        let _held = pool.get().expect("the stub's connection");
        let token = CancelToken::new();
        let request = pool.request();
        let start = request.shared.clock.now();
        let ask = Ask {
            caller: Caller::here(Location::caller(), None, DEFAULT_PRIORITY),
            start,
            deadline: start.after(Duration::from_secs(10)), // a watchdog
            cancel: Some(&token),
            only_idle: false,
        };
        // Past the look that `get` takes at the token first.
        token.cancel();
        let error = wait::checkout(request.shared, &ask).err().expect("cancelled");
        assert!(error.is_cancelled(), "{error}");
        assert_eq!(pool.stats().waiting, 0);
    }
}
