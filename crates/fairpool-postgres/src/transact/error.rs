//! Why a transaction was not committed, or may not have been.

use std::error::Error;
use std::fmt;

use fairpool::text::count;
use postgres::error::{DbError, SqlState};

use crate::client::{Failure, text_of, text_of_db};

/// Why a [`transaction`](crate::transaction) failed.
///
/// Only after [`CommitUnknown`](Self::CommitUnknown) and
/// [`EndedByClosure`](Self::EndedByClosure) may something be committed.
///
/// `{}` is one line, without the details of the server, which have values of rows; these are in the
/// [`source`](Error::source), the driver's own error. [`Get`](Self::Get) and
/// [`Closure`](Self::Closure) are printed like the error in them, and have its source.
///
/// It is an [`Error`] if the closure's error is one. For `Box<dyn Error>` and the like, which are
/// none, see [`boxed`](Self::boxed).
#[derive(Debug)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// There was no connection for the first attempt.
    Get(fairpool::Error),
    /// The server refused to begin: for example a transaction that writes, on a standby.
    Begin(postgres::Error),
    /// The closure's own error. The transaction was rolled back.
    Closure(E),
    /// Each attempt failed for a reason that may pass, and there is no other one: see [`Aborted`].
    /// Nothing is committed.
    Aborted(Aborted<E>),
    /// The server refused to commit, and has rolled back: because of a deferred constraint; or
    /// because a statement had failed and the closure returned `Ok` all the same, then this is
    /// that statement's error. It is "current transaction is aborted" (25P02) if the statement was
    /// not seen, since the driver's own transaction was lent.
    CommitRefused(Box<DbError>),
    /// The connection failed after COMMIT was sent and before its answer: the transaction is
    /// committed, or it is not. It was not retried. To find out look for what it should have
    /// written, for example a row with a key that the caller chose.
    CommitUnknown(postgres::Error),
    /// The closure ended the transaction itself, by a statement such as COMMIT or ROLLBACK. What
    /// is committed is not known here.
    EndedByClosure,
}

/// Why there is no further attempt, after those that failed for a reason that may pass:
/// [`TransactionError::Aborted`].
pub struct Aborted<E> {
    pub(super) attempts: u32,
    pub(super) end: NoMore,
    /// Of the last attempt.
    pub(super) failure: Failure,
    /// If the closure returned one, in the last attempt.
    pub(super) error: Option<E>,
}

/// Why there is no further attempt.
#[derive(Debug)]
pub(super) enum NoMore {
    Attempts,
    Time,
    /// Boxed because it is rare.
    Connection(Box<fairpool::Error>),
}

impl<E> Aborted<E> {
    /// How many attempts failed.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The SQLSTATE of the last failure: 40001, 40P01, or what the server said when it ended the
    /// connection. `None` if it said nothing.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        self.failure.db_error().map(DbError::code)
    }

    /// The error that the closure returned in the last attempt; `None` if it returned none, as
    /// when COMMIT failed.
    #[must_use]
    pub fn closure_error(&self) -> Option<&E> {
        self.error.as_ref()
    }

    /// The pool's error, if there was no connection for another attempt.
    #[must_use]
    pub fn get_error(&self) -> Option<&fairpool::Error> {
        match &self.end {
            NoMore::Connection(error) => Some(error),
            NoMore::Attempts | NoMore::Time => None,
        }
    }

    fn map<F>(self, map: impl FnOnce(E) -> F) -> Aborted<F> {
        let Aborted { attempts, end, failure, error } = self;
        Aborted { attempts, end, failure, error: error.map(map) }
    }
}

impl<E: fmt::Debug> fmt::Debug for Aborted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aborted")
            .field("attempts", &self.attempts)
            .field("end", &self.end)
            .field("failure", &self.failure)
            .field("error", &self.error)
            .finish()
    }
}

impl<E> fmt::Display for Aborted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = count(self.attempts, "attempt", "attempts");
        write!(f, "the transaction was aborted after {attempts} (")?;
        match &self.end {
            NoMore::Attempts => f.write_str("no more are allowed")?,
            NoMore::Time => f.write_str("no time is left for another")?,
            NoMore::Connection(error) => write!(f, "no connection for another: {error}")?,
        }
        write!(f, "): {}", self.failure.text())
    }
}

impl<E> TransactionError<E> {
    /// Changes the closure's error into another type, also in [`Aborted`].
    pub fn map<F>(self, map: impl FnOnce(E) -> F) -> TransactionError<F> {
        match self {
            Self::Get(error) => TransactionError::Get(error),
            Self::Begin(error) => TransactionError::Begin(error),
            Self::Closure(error) => TransactionError::Closure(map(error)),
            Self::Aborted(aborted) => TransactionError::Aborted(aborted.map(map)),
            Self::CommitRefused(error) => TransactionError::CommitRefused(error),
            Self::CommitUnknown(error) => TransactionError::CommitUnknown(error),
            Self::EndedByClosure => TransactionError::EndedByClosure,
        }
    }

    /// Makes an error that `?` converts into `Box<dyn Error>` and the like, where the closure's own
    /// error is one of these.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::error::Error;
    ///
    /// use fairpool::Pool;
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager, TransactionError, TransactionOptions};
    ///
    /// fn pay(pool: &Pool<PostgresConnectionManager<NoTls>>) -> Result<(), Box<dyn Error>> {
    ///     let paid = fairpool_postgres::transaction(pool, TransactionOptions::new(), |tx| {
    ///         tx.execute("UPDATE account SET cents = cents - 500 WHERE id = 7", &[])?;
    ///         Ok::<_, Box<dyn Error + Send + Sync>>(())
    ///     });
    ///     paid.map_err(TransactionError::boxed)?;
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn boxed(self) -> TransactionError<BoxedError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.map(|error| BoxedError(error.into()))
    }
}

impl<E: fmt::Display> fmt::Display for TransactionError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get(error) => error.fmt(f),
            Self::Begin(error) => {
                write!(f, "the transaction did not begin: {}", text_of(error))
            }
            Self::Closure(error) => error.fmt(f),
            Self::Aborted(aborted) => aborted.fmt(f),
            Self::CommitRefused(error) => {
                write!(f, "the transaction was not committed: {}", text_of_db(error))
            }
            Self::CommitUnknown(error) => {
                write!(f, "whether the transaction is committed is unknown: {}", text_of(error))
            }
            Self::EndedByClosure => f.write_str(
                "the closure ended the transaction itself, so it is unknown what is committed",
            ),
        }
    }
}

impl<E: Error + 'static> Error for TransactionError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Get(error) => error.source(),
            Self::Closure(error) => error.source(),
            Self::Begin(error) | Self::CommitUnknown(error) => Some(error),
            Self::Aborted(Aborted { error: Some(error), .. }) => Some(error),
            Self::Aborted(aborted) => aborted.failure.db_error().map(|db| db as _),
            Self::CommitRefused(error) => Some(&**error),
            Self::EndedByClosure => None,
        }
    }
}

/// A closure's error of any type: see [`TransactionError::boxed`].
pub struct BoxedError(Box<dyn Error + Send + Sync>);

impl BoxedError {
    /// The closure's error.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

impl fmt::Debug for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for BoxedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
