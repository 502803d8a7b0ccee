//! Cancels that end with the use that they were meant for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use postgres::tls::MakeTlsConnect;
use postgres::{Error, Socket};

const LIVE: u8 = 0;
const CANCELLED: u8 = 1;
const OVER: u8 = 2;

/// One use of a connection: from a get to its return.
#[derive(Debug, Default)]
struct Use(AtomicU8);

/// The connection's side of it: its drop ends the use.
#[derive(Default)]
pub(super) struct ThisUse(Arc<Use>);

impl ThisUse {
    fn share(&self) -> Arc<Use> {
        Arc::clone(&self.0)
    }

    /// Ends it. Returns whether a cancel was sent, or is about to be.
    pub(super) fn end(self) -> bool {
        self.0.0.swap(OVER, Ordering::AcqRel) == CANCELLED
    }
}

impl Drop for ThisUse {
    fn drop(&mut self) {
        self.0.0.store(OVER, Ordering::Release);
    }
}

/// Cancels the query that runs on a connection, from another thread.
///
/// A token is bound to one use of the connection. After the connection has returned to its
/// pool, a cancel does nothing, and says so: it could only hit the next holder's query. For
/// the same reason a connection on which a cancel was sent is closed when it returns, because
/// the server does not say when it acts on the request.
///
/// To the pool that is a broken connection, so the others are
/// [in doubt](fairpool::Builder::skip_check_within): each is checked once before its next use. With
/// 50 connections a cancel costs up to 49 round trips, made as the connections are asked for. Where
/// many queries are cut off, a `statement_timeout` costs none: after it the session lives on.
///
/// # Examples
///
/// ```no_run
/// use std::thread;
/// use std::time::Duration;
///
/// use fairpool::Pool;
/// use fairpool_postgres::{NoTls, PostgresConnectionManager};
///
/// let manager = PostgresConnectionManager::from_url("host=localhost user=postgres", NoTls)?;
/// let pool = Pool::new(manager)?;
/// let mut conn = pool.get()?;
/// let token = conn.cancel_token();
/// thread::spawn(move || {
///     thread::sleep(Duration::from_secs(5));
///     // `Ok(false)` if the connection has returned in time.
///     token.cancel_query(NoTls)
/// });
/// conn.batch_execute("VACUUM")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct CancelToken {
    inner: postgres::CancelToken,
    this_use: Arc<Use>,
}

impl CancelToken {
    pub(super) fn new(inner: postgres::CancelToken, this_use: &ThisUse) -> Self {
        Self { inner, this_use: this_use.share() }
    }

    /// Asks the server to cancel what runs on the connection. Returns `true` if the request was
    /// sent, and `false` if nothing was done since the connection has returned to its pool.
    ///
    /// The server may still finish the query before it acts.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached. The connection is closed on return all the same.
    ///
    /// # Panics
    ///
    /// Inside an async runtime.
    ///
    /// # Blocking
    ///
    /// Opens a connection of its own to the server, within `connect_timeout`.
    pub fn cancel_query<T>(&self, tls: T) -> Result<bool, Error>
    where
        T: MakeTlsConnect<Socket>,
    {
        // The order decides: either the return sees the cancel and retires the connection, or
        // the cancel sees the return and sends nothing.
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.this_use.0.compare_exchange(LIVE, CANCELLED, success, failure) {
            Err(OVER) => Ok(false),
            Ok(_) | Err(_) => self.inner.cancel_query(tls).map(|()| true),
        }
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").finish_non_exhaustive()
    }
}
