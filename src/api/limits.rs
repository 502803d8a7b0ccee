//! The settings of waits and driver calls: how long they may take, how many there are at once,
//! and what follows those that fail.

use std::time::Duration;

use super::builder::Builder;
use crate::types::ManageConnection;

impl<M: ManageConnection> Builder<M> {
    /// How long [`Pool::get`](crate::Pool::get) and [`build`](Builder::build) wait.
    ///
    /// Default: 30 seconds, as in `r2d2`. A service with a deadline of its own needs a
    /// shorter timeout.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn connection_timeout(mut self, connection_timeout: Duration) -> Builder<M> {
        assert!(connection_timeout > Duration::ZERO, "connection_timeout must be positive");
        self.config.connection_timeout = connection_timeout;
        self
    }

    /// How long opening a connection may take, `on_acquire` included, before the pool
    /// abandons the call. If the call succeeds later, the connection is used if there is
    /// still room for it.
    ///
    /// Default: 5 seconds. It need not be short: if an attempt takes unusually long, the pool
    /// starts another for a caller that waits
    /// ([`connect_patience`](Builder::connect_patience)). The driver's own limits must be
    /// below, or it cannot say why it failed: drivers adapt to this one, and
    /// [`build`](Builder::build) logs what does not fit.
    pub fn open_timeout(mut self, open_timeout: Duration) -> Builder<M> {
        self.config.policy.open_limit = open_timeout;
        self
    }

    /// How long a caller's connect may take before the pool starts another for the caller, if
    /// there is room: three times what connects have usually taken, but not shorter than
    /// `shortest` and not longer than `longest`. Until a connect has succeeded, it is
    /// `longest`. The first connect to succeed serves the caller; the others are kept for
    /// callers to come. Beside a connect that takes unusually long, only one other is tried
    /// at a time, until it has succeeded. After two, further ones for the same caller follow
    /// every 900 ms. A caller that has no connect of its own, since as many as may be are under
    /// way, gets one when none of those has begun or ended for `shortest`; if the pool knows how
    /// long connects take and the last one has failed or was late, for three times that.
    ///
    /// Default: 250 ms and 2 seconds. Where connects take 20 ms, one that hangs delays its
    /// caller by 250 ms. Where all take 1.1 s, each is made once. Raise `longest` if
    /// connects usually take longer than 2 seconds: the server would get twice as many. With
    /// `Duration::MAX` for both, there is one connect for each caller.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use std::time::Duration;
    ///
    /// let pool = fairpool::Pool::builder()
    ///     .connect_patience(Duration::from_millis(250), Duration::from_secs(4))
    ///     .build(StubManager)?;
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn connect_patience(mut self, shortest: Duration, longest: Duration) -> Builder<M> {
        self.config.policy.patience_min = shortest;
        self.config.policy.patience_max = longest;
        self
    }

    /// How long a validation may take before the pool abandons the call. The driver gets
    /// four fifths of it, so that it can say what is wrong. Each call of a
    /// [`HandleUse`](crate::HandleUse) may take as long.
    ///
    /// Default: 2 seconds, many times the round trip to any server.
    pub fn validation_timeout(mut self, validation_timeout: Duration) -> Builder<M> {
        self.config.policy.validation_limit = validation_timeout;
        self
    }

    /// How long a reset may take before the pool abandons the call.
    ///
    /// Default: 2 seconds, many times the round trip to any server.
    pub fn reset_timeout(mut self, reset_timeout: Duration) -> Builder<M> {
        self.config.policy.reset_limit = reset_timeout;
        self
    }

    /// How long a close may take before the pool abandons the call and gives the
    /// connection's place to another. Until then it counts toward `max_size`, because the
    /// server counts it too.
    ///
    /// Default: 5 seconds, enough for a driver that waits for the server's answer.
    pub fn close_timeout(mut self, close_timeout: Duration) -> Builder<M> {
        self.config.policy.close_limit = close_timeout;
        self
    }

    /// How long the drop of the pool's last handle waits until the connections that nobody
    /// holds are closed. The pool's own threads close them, so a close that hangs delays the
    /// drop by this time and no more. Zero: the drop does not wait, and they are closed in the
    /// background, if the program still runs.
    ///
    /// It waits for connections that are idle, being checked or being closed; neither for
    /// those in use, which are closed when they are returned, nor for those being opened. It
    /// does not wait on a thread of a pool (in a hook, for example), nor after
    /// [`Pool::close`](crate::Pool::close), which waits for everything.
    ///
    /// Default: 1 second. So a program may return from `main` after the drop, and its server or
    /// its files are in order. Set it to zero where a pool is dropped on a thread that must not
    /// block, such as one of an async runtime.
    pub fn drop_timeout(mut self, drop_timeout: Duration) -> Builder<M> {
        self.config.drop_timeout = drop_timeout;
        self
    }

    /// The maximum number of connections that are opened at the same time. While connecting
    /// fails, it is one; after that each success allows one more, so that there are 1, 2, 4 …
    /// at a time up to this number.
    ///
    /// A connect that takes unusually long ([`connect_patience`](Builder::connect_patience))
    /// no longer counts. And if callers wait that have no connect, but none of those under way
    /// has begun or ended for some time (see there), one more is started, so that connects that
    /// hang do not hold up the others. A pool that has begun with one again, as after a failure,
    /// then starts as many as are under way, until there are twice this number.
    ///
    /// Default: 4, so that the server is not flooded with connects.
    pub fn max_opening(mut self, max_opening: u32) -> Builder<M> {
        self.config.policy.max_opening = max_opening;
        self
    }

    /// The maximum number of connections that are closed at the same time. Each close needs
    /// a thread.
    ///
    /// Default: 4, so that the others can be closed while a few closes hang.
    pub fn max_closers(mut self, max_closers: u32) -> Builder<M> {
        self.config.policy.max_closers = max_closers;
        self
    }

    /// The maximum number of abandoned driver calls. Each keeps a thread until the driver
    /// returns, and the server may still count its connection. Beyond this number, calls
    /// that overrun their limit still count toward `max_size`; if all of them hang, the
    /// pool waits until one returns.
    ///
    /// Default: 32, to bound the threads and the server's extra connections.
    pub fn max_abandoned(mut self, max_abandoned: u32) -> Builder<M> {
        self.config.policy.max_abandoned = max_abandoned;
        self
    }

    /// How long the pool waits after a failed connect before it tries again: `first` after
    /// the first failure, twice as long after each further one, and `longest` at most.
    /// Each time is shortened at random by up to a half.
    ///
    /// Default: 50 ms and 1 second, so that the pool finds a server that has come back
    /// within a second.
    pub fn connect_backoff(mut self, first: Duration, longest: Duration) -> Builder<M> {
        self.config.policy.backoff_min = first;
        self.config.policy.backoff_max = longest;
        self
    }

    /// When connecting has failed for this long and no connection is left, callers get
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect) at once instead of waiting, and so
    /// do those that wait already. The driver's last error is the
    /// [`source`](std::error::Error::source), and
    /// [`Error::retry_after`](crate::Error::retry_after) says when the next attempt is due.
    /// The first connect that succeeds ends it.
    ///
    /// The time counts from the first failure after the last success. No connection is left
    /// if none is idle, in use or being checked: while one is, callers wait for its return.
    /// While an outage lasts, the pool tries by itself, with
    /// [`connect_backoff`](Builder::connect_backoff) between the attempts, even if nobody
    /// waits and `min_idle` is 0. A caller does not wait for an attempt that is due or under
    /// way: it gets the result of the last one that has ended, which is not older than the
    /// longest backoff and [`open_timeout`](Builder::open_timeout) together.
    ///
    /// Zero: from the first failure on. Longer than the caller's timeout: callers that come
    /// early in an outage time out as ever, and only later ones fail fast. Neither while the
    /// pool is paused, nor in [`build`](Builder::build), which waits for its
    /// `connection_timeout`.
    ///
    /// Default: `None`, every caller waits until its own deadline, since most outages are
    /// short. Set it where callers can do something better than wait, such as answer from a
    /// cache or shed load.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use std::time::Duration;
    ///
    /// let pool = fairpool::Pool::builder()
    ///     .fail_fast_after(Some(Duration::from_secs(2)))
    ///     .build(StubManager)?;
    /// match pool.get() {
    ///     Ok(conn) => drop(conn),
    ///     Err(error) if error.is_connect() => {
    ///         println!("503, Retry-After: {:?}", error.retry_after());
    ///     }
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn fail_fast_after(mut self, fail_fast_after: Option<Duration>) -> Builder<M> {
        self.config.policy.fail_fast_after = fail_fast_after;
        self
    }
}
