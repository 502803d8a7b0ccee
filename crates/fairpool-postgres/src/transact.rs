//! Transactions that run again after a failure that may pass.

mod error;
mod options;

use std::panic::Location;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool, PooledConnection};

use self::error::NoMore;
pub use self::error::{Aborted, BoxedError, TransactionError};
pub use self::options::TransactionOptions;
use crate::client::{Client, End, Failure, Transaction};

/// Runs a closure in a transaction, and commits. If the transaction failed for a reason that may
/// pass, runs it again, on a connection that may be another.
///
/// # The closure
///
/// It may run several times, and what it did before is undone only in the database. So it should
/// have no other effect: send no message, change no variable that the next run would find
/// changed, and take what it needs from the database again each time. Its result is that of the run
/// that was committed. It must not end the transaction itself, by a statement such as COMMIT or
/// ROLLBACK; savepoints are [`Transaction::transaction`].
///
/// If it returns an error, or panics, the transaction is rolled back, and the error is returned or
/// the panic goes on. The connection goes back to the pool.
///
/// # What is retried
///
/// - 40001 (serialization failure) and 40P01 (deadlock), of a statement or of COMMIT.
/// - A connection that failed before COMMIT was sent: it broke, the server ended it, its prepared
///   statement is lost, or, with `target_session_attrs`, its server has changed its role. Also if
///   BEGIN found that. The next attempt takes another connection.
///
/// Each error is noted when it comes from the driver, whatever the closure makes of it: the
/// closure's own error may have any type, and may have no sign of the cause. If a savepoint is
/// rolled back after an error and the work goes on, the error counts no more.
///
/// Before each further attempt there is a [pause](TransactionOptions::backoff), during which the
/// transaction has no connection: others may have it. Between two attempts it waits in the pool's
/// queue like any other caller.
///
/// Not seen are errors of the driver's own transaction, if that is lent (`&mut **tx`), and those of
/// the writer and the reader of a COPY. So a closure that returns one ends the transaction, without
/// another attempt. What is committed is known all the same.
///
/// # What is committed
///
/// `Ok` means committed. A closure that returns `Ok` although a statement has failed gets
/// [`CommitRefused`](TransactionError::CommitRefused), or another attempt: PostgreSQL answers the
/// COMMIT of a failed transaction with a rollback and no error. If the connection fails between
/// COMMIT and its answer, that is [`CommitUnknown`](TransactionError::CommitUnknown), and is never
/// retried.
///
/// # Errors
///
/// See [`TransactionError`].
///
/// # Panics
///
/// If the closure does; and inside an async runtime.
///
/// # Blocking
///
/// Until the [timeout](TransactionOptions::timeout), and for as long as the attempt takes that is
/// under way then.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_postgres::postgres::{self, IsolationLevel};
/// use fairpool_postgres::{
///     NoTls, PostgresConnectionManager, TransactionError, TransactionOptions, transaction,
/// };
///
/// #[derive(Debug)]
/// enum Refusal {
///     Funds,
///     Database(postgres::Error),
/// }
///
/// impl From<postgres::Error> for Refusal {
///     fn from(error: postgres::Error) -> Refusal {
///         Refusal::Database(error)
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = PostgresConnectionManager::from_url("postgresql://postgres@localhost", NoTls)?;
/// let pool = Pool::new(manager)?;
/// let options = TransactionOptions::new().isolation_level(IsolationLevel::Serializable);
/// let paid = transaction(&pool, options, |tx| {
///     let row = tx.query_one("SELECT cents FROM account WHERE id = $1", &[&7])?;
///     if row.get::<_, i64>(0) < 500 {
///         return Err(Refusal::Funds);
///     }
///     tx.execute("UPDATE account SET cents = cents - 500 WHERE id = $1", &[&7])?;
///     Ok(())
/// });
/// match paid {
///     Ok(()) => println!("paid"),
///     Err(TransactionError::Closure(Refusal::Funds)) => println!("not enough money"),
///     Err(TransactionError::CommitUnknown(_)) => println!("look whether it was paid"),
///     Err(error) => println!("not paid: {error:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn transaction<M, R, E>(
    pool: &Pool<M>,
    options: TransactionOptions,
    mut closure: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, TransactionError<E>>
where
    M: ManageConnection<Connection = Client>,
{
    let run = Run::new(pool, options, Location::caller());
    let mut conn = run.get().map_err(TransactionError::Get)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (failure, error) = match attempt(&mut conn, &run.options, &mut closure) {
            Attempt::Over(result) => return result,
            Attempt::Again(failure, error) => (failure, error),
        };
        // The pause is without it.
        drop(conn);
        conn = match run.get_again(attempts) {
            Ok(conn) => conn,
            Err(end) => {
                let aborted = Aborted { attempts, end, failure, error };
                return Err(TransactionError::Aborted(aborted));
            }
        };
    }
}

/// The limits of all attempts, and where they get their connections.
struct Run<'a, M: ManageConnection> {
    pool: &'a Pool<M>,
    options: TransactionOptions,
    /// `None` is never.
    deadline: Option<Instant>,
    line: &'static Location<'static>,
}

impl<'a, M: ManageConnection> Run<'a, M> {
    fn new(
        pool: &'a Pool<M>,
        options: TransactionOptions,
        line: &'static Location<'static>,
    ) -> Run<'a, M> {
        let timeout = options.timeout.unwrap_or_else(|| pool.connection_timeout());
        Run { pool, options, deadline: Instant::now().checked_add(timeout), line }
    }

    fn get(&self) -> Result<PooledConnection<M>, fairpool::Error> {
        let request = self.pool.request().location(self.line);
        let request = match self.deadline {
            Some(deadline) => request.deadline(deadline),
            None => request.timeout(Duration::MAX),
        };
        match &self.options.label {
            Some(label) => request.label(label.clone()).get(),
            None => request.get(),
        }
    }

    /// After this many attempts pauses, and gets a connection for another one.
    fn get_again(&self, attempts: u32) -> Result<PooledConnection<M>, NoMore> {
        if attempts >= self.options.max_attempts {
            return Err(NoMore::Attempts);
        }
        let pause = self.options.pause_after(attempts);
        if !self.has_more_than(pause) {
            return Err(NoMore::Time);
        }
        thread::sleep(pause);
        let conn = self.get().map_err(|error| NoMore::Connection(Box::new(error)))?;
        // It may have come at the last moment.
        if self.has_more_than(Duration::ZERO) { Ok(conn) } else { Err(NoMore::Time) }
    }

    fn has_more_than(&self, time: Duration) -> bool {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.is_none_or(|deadline| left(deadline) > time)
    }
}

enum Attempt<R, E> {
    Over(Result<R, TransactionError<E>>),
    /// Failed for a reason that may pass, with the closure's error, if it returned one.
    Again(Failure, Option<E>),
}

fn attempt<R, E>(
    client: &mut Client,
    options: &TransactionOptions,
    closure: &mut impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
) -> Attempt<R, E> {
    let mut transaction = match begin(client, options) {
        Ok(transaction) => transaction,
        Err(error) => return not_begun(error),
    };
    match closure(&mut transaction) {
        Ok(value) => match transaction.commit_surely() {
            End::Committed => Attempt::Over(Ok(value)),
            End::Aborted(Failure::Other(error)) => {
                Attempt::Over(Err(TransactionError::CommitRefused(error)))
            }
            End::Aborted(failure) => Attempt::Again(failure, None),
            End::ByClosure => Attempt::Over(Err(TransactionError::EndedByClosure)),
            End::Unknown(error) => Attempt::Over(Err(TransactionError::CommitUnknown(error))),
        },
        Err(error) => match transaction.abort() {
            Some(failure) if failure.may_pass() => Attempt::Again(failure, Some(error)),
            _ => Attempt::Over(Err(TransactionError::Closure(error))),
        },
    }
}

fn begin<'a>(
    client: &'a mut Client,
    options: &TransactionOptions,
) -> Result<Transaction<'a>, postgres::Error> {
    client.state().start_watch();
    let mut builder = client.build_transaction();
    if let Some(level) = options.isolation_level {
        builder = builder.isolation_level(level);
    }
    if let Some(read_only) = options.read_only {
        builder = builder.read_only(read_only);
    }
    if let Some(deferrable) = options.deferrable {
        builder = builder.deferrable(deferrable);
    }
    builder.start()
}

fn not_begun<R, E>(error: postgres::Error) -> Attempt<R, E> {
    match Failure::of(&error) {
        Some(failure) if failure.may_pass() => Attempt::Again(failure, None),
        _ => Attempt::Over(Err(TransactionError::Begin(error))),
    }
}
