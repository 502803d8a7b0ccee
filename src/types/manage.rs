//! What the pool asks of a driver, and the hooks of whoever owns the pool.

use std::error;
use std::fmt;
use std::time::Duration;

use crate::types::error_text::Chain;

/// Opens and checks the connections of one kind of driver.
///
/// Three methods are required; they have the names and meanings that `r2d2`
/// gave them. The others have defaults that do nothing.
///
/// The pool calls every method outside its locks. `connect`, [`is_valid`],
/// [`is_valid_within`] and [`reset`] run on the pool's own threads and may
/// block: each has a limit (see [`Builder`](crate::Builder)), after which the
/// pool abandons the call and goes on without it. [`has_broken`] and
/// [`needs_reset`] run on the thread that returns a connection and must not
/// block. A panic in any of them is caught and counts as a failure.
///
/// [`is_valid`]: ManageConnection::is_valid
/// [`is_valid_within`]: ManageConnection::is_valid_within
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
    /// What is pooled.
    type Connection: Send + 'static;

    /// What [`connect`](ManageConnection::connect) and the checks fail with.
    ///
    /// `Send + Sync` (which `r2d2` does not ask for), because one connect
    /// error is the typed cause in the timeout of every caller that waited for
    /// that connection.
    type Error: error::Error + Send + Sync + 'static;

    /// Opens a connection.
    ///
    /// Runs on an opener thread, for at most
    /// [`open_timeout`](crate::Builder::open_timeout).
    ///
    /// # Errors
    ///
    /// Any error is retried with backoff while somebody needs a connection,
    /// unless [`is_permanent`](ManageConnection::is_permanent) says that it is
    /// pointless.
    fn connect(&self) -> Result<Self::Connection, Self::Error>;

    /// Asks the server whether the connection still works.
    ///
    /// Runs on a worker thread, for at most
    /// [`validation_timeout`](crate::Builder::validation_timeout).
    ///
    /// # Errors
    ///
    /// On any error the connection is closed and replaced.
    fn is_valid(&self, conn: &mut Self::Connection) -> Result<(), Self::Error>;

    /// Tells, without blocking, that a connection is known to be unusable.
    ///
    /// Called on the returning thread for each connection that comes back; on
    /// `true` the connection is closed instead of being pooled.
    fn has_broken(&self, conn: &mut Self::Connection) -> bool;

    /// [`is_valid`](ManageConnection::is_valid) for drivers that can bound
    /// their own check.
    ///
    /// The pool calls this one, with its `validation_timeout`. The default
    /// calls `is_valid` and leaves the bound to the pool.
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

    /// Tells whether a failed `connect` can never succeed as configured: a
    /// wrong password, a database that does not exist.
    ///
    /// If the pool has no connection at all, such an error ends the wait of
    /// every caller at once with [`ErrorKind::Connect`](crate::ErrorKind::Connect).
    /// The default is `false`.
    fn is_permanent(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Tells whether an error that a *user* met on a connection means that the
    /// connection must not be used again.
    ///
    /// Asked by [`PooledConnection::run`](crate::PooledConnection::run). The
    /// default is `false`.
    fn is_fatal(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Tells, without blocking, whether a returned connection has to go through
    /// [`reset`](ManageConnection::reset) before the next caller may have it.
    ///
    /// Called on the returning thread, after `has_broken`. A connection that was
    /// dropped by a panic is reset in any case. The default is `false`.
    fn needs_reset(&self, conn: &mut Self::Connection) -> bool {
        let _ = conn;
        false
    }

    /// Removes what the last user left behind, such as an open transaction.
    ///
    /// Runs on a worker thread, for at most
    /// [`reset_timeout`](crate::Builder::reset_timeout), to which
    /// `validation_timeout` is added if both are due after a panic; the returning
    /// caller does not wait for it. The default does nothing.
    ///
    /// # Errors
    ///
    /// On any error the connection is closed and replaced.
    fn reset(&self, conn: &mut Self::Connection) -> Result<(), Self::Error> {
        let _ = conn;
        Ok(())
    }
}

/// Is told of each connect, validation and reset error.
///
/// Set by [`Builder::error_handler`](crate::Builder::error_handler).
pub trait HandleError<E>: fmt::Debug + Send + Sync + 'static {
    /// Takes the error.
    ///
    /// Runs on one of the pool's threads, outside its locks.
    fn handle_error(&self, error: E);

    /// Looks at the error and leaves it to the pool; `true` says that this was
    /// enough and [`handle_error`](HandleError::handle_error) is not wanted.
    ///
    /// A handler that takes the error takes it from the callers too: their
    /// timeouts then carry its text as the cause, but no longer the typed
    /// value. Implement this method to have both. The default returns `false`.
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

/// Prepares each new connection, and sees each one off.
///
/// Set by [`Builder::connection_customizer`](crate::Builder::connection_customizer).
pub trait CustomizeConnection<C, E>: fmt::Debug + Send + Sync + 'static {
    /// Called on an opener thread with each connection that
    /// [`ManageConnection::connect`] returned; counts toward its limit.
    ///
    /// The default returns `Ok(())`.
    ///
    /// # Errors
    ///
    /// On an error, or a panic, the connection is dropped, on the same thread, and
    /// opening it has failed.
    fn on_acquire(&self, conn: &mut C) -> Result<(), E> {
        let _ = conn;
        Ok(())
    }

    /// Called on a closer thread with each connection that leaves the pool;
    /// dropping it closes it.
    ///
    /// The default drops it. A panic in here is caught; but if the connection is
    /// dropped by that panic, and its destructor panics too, the process ends, as
    /// it does wherever a panic meets another in Rust.
    fn on_release(&self, conn: C) {
        drop(conn);
    }
}

/// A [`CustomizeConnection`] that does nothing; the default.
#[derive(Copy, Clone, Debug)]
pub struct NopConnectionCustomizer;

impl<C, E> CustomizeConnection<C, E> for NopConnectionCustomizer {}
