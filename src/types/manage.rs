//! The traits that drivers and users implement: the manager and the hooks.

use std::borrow::Cow;
use std::error;
use std::fmt;
use std::time::Duration;

use crate::types::error_text::Chain;

/// How long a pool lets each kind of driver call take before it abandons the call.
///
/// See [`ManageConnection::check_limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallLimits {
    /// [`Builder::open_timeout`](crate::Builder::open_timeout).
    pub open: Duration,
    /// [`Builder::validation_timeout`](crate::Builder::validation_timeout).
    pub validation: Duration,
    /// [`Builder::reset_timeout`](crate::Builder::reset_timeout).
    pub reset: Duration,
    /// [`Builder::close_timeout`](crate::Builder::close_timeout).
    pub close: Duration,
}

/// One of the totals that a driver counts: see [`ManageConnection::counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct DriverCount {
    /// What is counted, in lower case: `statement_hits`.
    pub name: &'static str,
    /// How often it has happened since the manager was made.
    pub total: u64,
}

/// Opens and checks the connections of one driver.
///
/// Three methods are required; they have the same names and meanings as in `r2d2`. The
/// others have defaults.
///
/// The pool calls every method outside its locks. `connect`, [`is_valid`], [`is_valid_within`]
/// and [`reset`] run on the pool's own threads and may block (validation may also run on a
/// caller's: see [`checks_within_limit`]). Each has a limit (see [`Builder`](crate::Builder)),
/// after which the pool abandons the call and goes on without it. [`has_broken`] and
/// [`needs_reset`] run on the thread that returns a connection, which waits for them: they must
/// not block, unless they keep a short limit of their own. A panic in any of them is caught and
/// counts as a failure.
///
/// [`is_valid`]: ManageConnection::is_valid
/// [`is_valid_within`]: ManageConnection::is_valid_within
/// [`checks_within_limit`]: ManageConnection::checks_within_limit
/// [`reset`]: ManageConnection::reset
/// [`has_broken`]: ManageConnection::has_broken
/// [`needs_reset`]: ManageConnection::needs_reset
///
/// # Examples
///
/// A manager for TCP streams:
///
/// ```
/// use std::io;
/// use std::net::{SocketAddr, TcpStream};
///
/// struct TcpManager {
///     addr: SocketAddr,
/// }
///
/// impl fairpool::ManageConnection for TcpManager {
///     type Connection = TcpStream;
///     type Error = io::Error;
///
///     fn connect(&self) -> io::Result<TcpStream> {
///         TcpStream::connect(self.addr)
///     }
///
///     fn is_valid(&self, stream: &mut TcpStream) -> io::Result<()> {
///         stream.take_error()?.map_or(Ok(()), Err)
///     }
///
///     fn has_broken(&self, stream: &mut TcpStream) -> bool {
///         stream.peer_addr().is_err()
///     }
/// }
/// ```
pub trait ManageConnection: Send + Sync + 'static {
    /// The driver's connection.
    type Connection: Send + 'static;

    /// The driver's error.
    ///
    /// It must be `Send + Sync` (which `r2d2` does not require), because one failed
    /// connect is the typed cause in the errors of all callers that waited for it.
    type Error: error::Error + Send + Sync + 'static;

    /// Compares the driver's own limits of time with the pool's.
    ///
    /// A limit that a driver keeps for itself must be well below the pool's limit of the
    /// same call. Otherwise the pool abandons the call just before the driver says why it
    /// failed. The pool calls this once, on the thread that builds it and before any other
    /// method. A manager may store `limits`, to stay within them. For each of its own limits
    /// that does not fit it returns a sentence, such as "connect_timeout (5 s) is not below
    /// open_timeout (5 s)", which the pool logs as a warning. Must not block. The default
    /// returns none.
    fn check_limits(&self, limits: &CallLimits) -> Vec<String> {
        let _ = limits;
        Vec::new()
    }

    /// What the driver counts, such as statements that it had prepared already. The pool shows the
    /// totals in [`Stats::driver`](crate::stats::Stats::driver), and exporters pass them on.
    ///
    /// Each name stays the same and each total only grows. Called whenever somebody reads the
    /// pool's figures, on that thread. It must not block. The default counts nothing.
    fn counts(&self) -> Vec<DriverCount> {
        Vec::new()
    }

    /// Opens a connection.
    ///
    /// Runs on a worker thread, for at most
    /// [`open_timeout`](crate::Builder::open_timeout).
    ///
    /// # Errors
    ///
    /// After an error the pool tries again, with backoff, while a connection is needed or
    /// callers [fail fast](crate::Builder::fail_fast_after); see also
    /// [`is_permanent`](ManageConnection::is_permanent).
    fn connect(&self) -> Result<Self::Connection, Self::Error>;

    /// Notes the state of a new connection, so that each later
    /// [`reset`](ManageConnection::reset) can restore it.
    ///
    /// Called once, after `connect` and the customizer's
    /// [`on_acquire`](CustomizeConnection::on_acquire), on the same thread and within the
    /// same limit. So a reset keeps what the customizer has set. The default does nothing.
    fn customized(&self, conn: &mut Self::Connection) {
        let _ = conn;
    }

    /// The number of the connection's session at the server, by which the server's own lists and
    /// logs name it: of PostgreSQL the process's id, of MySQL the connection's.
    ///
    /// Called once, after [`customized`](ManageConnection::customized), on the same thread and
    /// within the same limit; the pool keeps the number. It is shown with each holder, in errors,
    /// snapshots, events and traces. So return `None` if it is not known or may change, as behind
    /// a pooler that lends its sessions by the transaction. Zero is taken for `None`. The default
    /// is `None`.
    fn backend_id(&self, conn: &mut Self::Connection) -> Option<u32> {
        let _ = conn;
        None
    }

    /// Validates a connection: asks the server whether it still works.
    ///
    /// Runs on a worker thread, or on a caller's if
    /// [`checks_within_limit`](ManageConnection::checks_within_limit) allows it, for at most
    /// [`validation_timeout`](crate::Builder::validation_timeout).
    ///
    /// # Errors
    ///
    /// On any error the connection is closed and replaced.
    fn is_valid(&self, conn: &mut Self::Connection) -> Result<(), Self::Error>;

    /// Whether a connection is known to be unusable.
    ///
    /// Called on the returning thread, with each returned connection, and without a limit: what
    /// it waits for, the return waits for. So it asks the server only where a use has raised a
    /// question that the next caller would have to ask, and limits that by itself. On `true`
    /// the connection is closed instead of pooled.
    fn has_broken(&self, conn: &mut Self::Connection) -> bool;

    /// [`is_valid`](ManageConnection::is_valid) for drivers that can limit the time of
    /// their own check.
    ///
    /// This is the method that the pool calls. `limit` is four fifths of its
    /// `validation_timeout`, so that a driver that keeps the limit can say what is wrong
    /// before the pool abandons the call. It is less on a caller's thread
    /// ([`checks_within_limit`](ManageConnection::checks_within_limit)), and where a worker
    /// makes such a check again. The default calls `is_valid` and leaves the limit to the pool.
    ///
    /// # Errors
    ///
    /// As `is_valid`.
    fn is_valid_within(
        &self,
        conn: &mut Self::Connection,
        limit: Duration,
    ) -> Result<(), Self::Error> {
        let _ = limit;
        self.is_valid(conn)
    }

    /// Whether [`is_valid_within`](ManageConnection::is_valid_within) may run on the thread of
    /// the caller that waits for the check, which spares it a hand-over to a worker and back.
    ///
    /// Return `true` only if that call
    ///
    /// - keeps its limit by itself, to a few milliseconds, also when the server is silent: the
    ///   pool cannot end a call on a caller's thread. The limit is then 250 ms, or the caller's
    ///   own time if that is less, but not less than about 10 ms; for
    ///   [`try_get`](crate::Pool::try_get) it is the usual one;
    /// - can be made again after it ran out of time, and succeeds if the server has answered
    ///   after all: a worker does so, with what is left of the usual limit.
    ///
    /// Asked on the caller's thread before each such check, so the answer may depend on the
    /// thread: a driver that cannot run within an async context returns `false` there. It
    /// must not block. The default is `false`: a worker makes the check.
    fn checks_within_limit(&self) -> bool {
        false
    }

    /// Whether `connect` failed in a way that no retry can cure, because the configuration
    /// itself is wrong: a port that is no number, or an option that the driver lacks.
    ///
    /// If the pool has never had a connection, every waiter then gets
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect) at once. The pool still tries
    /// again, with backoff. After the first success no error ends a wait, whatever this
    /// says.
    ///
    /// Return `true` only if you are sure. What can be put right while a caller waits (create
    /// the database, rotate the password, start the server, free descriptors) is not permanent.
    /// A wrong `true` ends waits that would have been served; a wrong `false` costs a caller its
    /// time, and it still gets this error as the cause. The default is `false`.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Whether a connection must not be used again after this error of a *user's* call.
    ///
    /// Called by [`PooledConnection::run`](crate::PooledConnection::run). The default is
    /// `false`.
    fn is_fatal(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Whether a returned connection needs a [`reset`](ManageConnection::reset) before the
    /// next caller gets it.
    ///
    /// Called on the returning thread, after `has_broken`. A connection that was dropped
    /// by a panic is always reset. The default is `false`.
    fn needs_reset(&self, conn: &mut Self::Connection) -> bool {
        let _ = conn;
        false
    }

    /// Removes what the last holder left behind, such as an open transaction.
    ///
    /// Runs on a worker thread, for at most
    /// [`reset_timeout`](crate::Builder::reset_timeout), plus `validation_timeout` if the
    /// connection is also validated: because its holder panicked, or another has proved dead
    /// since it was proved. The thread that returns
    /// the connection does not wait for it. The default does nothing.
    ///
    /// # Errors
    ///
    /// On any error the connection is closed and replaced.
    fn reset(&self, conn: &mut Self::Connection) -> Result<(), Self::Error> {
        let _ = conn;
        Ok(())
    }

    /// What the last [`reset`](ManageConnection::reset) found on the connection that its
    /// holder should not have left there, such as "an open transaction".
    ///
    /// Called after each `reset`, failed ones included, on the same worker thread; it must
    /// not block. If there is a text, the pool logs it as a warning with its own name, the
    /// connection, and the last holder: thread, line and label. At most one such warning
    /// per second is logged. The default is `None`.
    fn left_behind(&self, conn: &mut Self::Connection) -> Option<Cow<'static, str>> {
        let _ = conn;
        None
    }
}

/// A handler that gets each error of a connect, a validation or a reset. Set by
/// [`Builder::error_handler`](crate::Builder::error_handler).
///
/// Both methods run on a worker thread of the pool, outside its locks.
pub trait HandleError<E>: fmt::Debug + Send + Sync + 'static {
    /// Takes the error.
    ///
    /// Not called if [`inspect_error`](HandleError::inspect_error) returned `true`. If it
    /// is called, the errors of waiting callers have only the text of this error as their
    /// cause, not its typed value.
    fn handle_error(&self, error: E);

    /// Inspects the error and leaves it to the pool.
    ///
    /// `true`: that was enough, and [`handle_error`](HandleError::handle_error) is not
    /// called. The error is then the typed cause in the errors of waiting callers. The
    /// default returns `false`.
    fn inspect_error(&self, error: &E) -> bool {
        let _ = error;
        false
    }
}

/// A [`HandleError`] that does nothing.
#[derive(Copy, Clone, Debug)]
pub struct NopErrorHandler;

impl<E> HandleError<E> for NopErrorHandler {
    fn handle_error(&self, _: E) {}

    fn inspect_error(&self, _: &E) -> bool {
        true
    }
}

/// A [`HandleError`] that logs each error, at the error level.
#[derive(Copy, Clone, Debug)]
pub struct LoggingErrorHandler;

impl<E: error::Error> HandleError<E> for LoggingErrorHandler {
    fn handle_error(&self, error: E) {
        self.inspect_error(&error);
    }

    fn inspect_error(&self, error: &E) -> bool {
        log::error!("{}", Chain(error));
        true
    }
}

/// A hook that is called with each new connection, and with each connection that is
/// closed. Set by
/// [`Builder::connection_customizer`](crate::Builder::connection_customizer).
pub trait CustomizeConnection<C, E>: fmt::Debug + Send + Sync + 'static {
    /// Prepares a connection that [`ManageConnection::connect`] has returned.
    ///
    /// Runs on the same worker thread as `connect`, within the same limit. The default
    /// returns `Ok(())`.
    ///
    /// # Errors
    ///
    /// After an error, or a panic, the connection is dropped on the same thread, and
    /// opening it has failed.
    fn on_acquire(&self, conn: &mut C) -> Result<(), E> {
        let _ = conn;
        Ok(())
    }

    /// Closes a connection that leaves the pool, by dropping it.
    ///
    /// Runs on a worker thread. The default drops the connection. A panic in this method
    /// is caught. But if that panic drops the connection, and its destructor panics too,
    /// the process aborts, as for any panic within a panic in Rust.
    fn on_release(&self, conn: C) {
        drop(conn);
    }
}

/// A [`CustomizeConnection`] that does nothing; the default.
#[derive(Copy, Clone, Debug)]
pub struct NopConnectionCustomizer;

impl<C, E> CustomizeConnection<C, E> for NopConnectionCustomizer {}
