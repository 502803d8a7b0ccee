//! One writer and many readers of one file: two pools behind one handle.

mod builder;
mod close;

use std::time::Duration;

use fairpool::{Error, Pool, PooledConnection};
use rusqlite::Transaction;

pub use self::builder::DatabaseBuilder;
pub use self::close::CloseReports;
use crate::manager::SqliteConnectionManager as Manager;

/// A database file with one connection that writes, and many that read.
///
/// SQLite has one writer at a time. In a pool of equal connections those that want to write meet
/// in SQLite, which lets them sleep and try again, in no order, until one that is unlucky fails
/// with `SQLITE_BUSY`. Here they wait in the queue of a pool of one connection, with its order,
/// deadlines, limit on waiters, and errors that name who writes and since when.
///
/// - **A read never waits for the writer**, nor the writer for a read. A read sees what was
///   committed when it began, so also what its own thread has written before.
/// - **A write meets no `SQLITE_BUSY` from this process**, as long as all of it writes through
///   this handle. From another process it can still come, after
///   [`busy_timeout`](Manager::busy_timeout), or 1 s if that is less.
/// - **A write through [`read`](Database::read) fails at once**, with `SQLITE_READONLY`
///   ("attempt to write a readonly database"), and so does `BEGIN IMMEDIATE`. Temporary tables,
///   `ANALYZE` and `VACUUM INTO` count as writes for SQLite: use [`write`](Database::write).
///
/// Clones are handles of the same database.
///
/// # What it needs
///
/// A file in WAL mode, to which a new one is switched. [`DatabaseBuilder::build`] refuses
/// everything else: a database in [`memory`](Manager::memory) (where a writer keeps readers out),
/// a file system without shared memory, `wal(false)` for a file that is not in WAL mode, a file
/// that cannot be written. A file that cannot be switched, because another connection uses it, is
/// tried again until the pool's `connection_timeout`.
///
/// # Copying the log into the file
///
/// SQLite lets the commit that finds 1,000 pages in the log copy them into the file, and wait for
/// the disk. An only writer would stand still meanwhile. So after every 256 writes the next call of
/// this handle has a reader that is idle do it, on a worker thread, while the writer goes on. The
/// writer itself copies from 4,000 pages on (16 MiB), unless `with_init` sets `wal_autocheckpoint`.
/// A pool of one reader is left alone.
///
/// # As for one pool
///
/// Both pools open their connections by one manager, with all its settings, and what [`Pool`] and
/// [`Reset`](crate::Reset) say holds for each: what a holder leaves is undone (a reader is
/// query-only again), a file that was replaced is noticed, a child made by `fork` is refused. The
/// last connection of the two to close copies the log into the file.
///
/// # Deadlocks
///
/// A thread that holds the writer and asks for it again waits for itself: the pool says so in the
/// log and in the error ([`Error::nested_gets`]). Two pools can be taken in two orders: where a
/// thread needs both at once, let it take the writer first.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use fairpool_sqlite::{Database, SqliteConnectionManager};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.db");
/// let db = Database::builder()
///     .both(|pool| pool.connection_timeout(Duration::from_secs(5)))
///     .readers(|pool| pool.max_size(8))
///     .build(SqliteConnectionManager::file(path))?;
///
/// db.write()?.execute_batch("CREATE TABLE fruit (name TEXT, number INTEGER)")?;
/// db.write_transaction(|tx| {
///     tx.execute("INSERT INTO fruit VALUES ('fig', 3)", [])?;
///     tx.execute("UPDATE fruit SET number = number + 1", [])?;
///     Ok::<_, Box<dyn std::error::Error>>(())
/// })?;
///
/// let number: i64 = db.read()?.query_row("SELECT number FROM fruit", [], |row| row.get(0))?;
/// assert_eq!(number, 4);
/// db.read()?.execute("DELETE FROM fruit", []).unwrap_err();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Database {
    writer: Pool<Manager>,
    readers: Pool<Manager>,
}

impl Database {
    /// Builds a database with the default settings of [`DatabaseBuilder`].
    ///
    /// # Errors
    ///
    /// As [`DatabaseBuilder::build`].
    ///
    /// # Blocking
    ///
    /// As [`DatabaseBuilder::build`].
    pub fn new(manager: Manager) -> Result<Database, Error> {
        Database::builder().build(manager)
    }

    /// A builder with the default settings.
    pub fn builder() -> DatabaseBuilder {
        DatabaseBuilder::default()
    }

    /// Gets a connection that reads, within the readers' `connection_timeout`.
    ///
    /// # Errors
    ///
    /// As [`Pool::get`].
    ///
    /// # Blocking
    ///
    /// For up to `connection_timeout`, while all readers are in use.
    #[track_caller]
    pub fn read(&self) -> Result<PooledConnection<Manager>, Error> {
        self.checkpoint_if_due();
        self.readers.get()
    }

    /// Gets a connection that reads, within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Pool::get_timeout`].
    ///
    /// # Blocking
    ///
    /// For up to `timeout`, while all readers are in use.
    #[track_caller]
    pub fn read_timeout(&self, timeout: Duration) -> Result<PooledConnection<Manager>, Error> {
        self.checkpoint_if_due();
        self.readers.get_timeout(timeout)
    }

    /// Gets the connection that writes, within the writer's `connection_timeout`.
    ///
    /// Its `transaction()` begins as [`Immediate`](rusqlite::TransactionBehavior::Immediate),
    /// unless the manager's [`transaction_behavior`](Manager::transaction_behavior) says otherwise.
    ///
    /// # Errors
    ///
    /// As [`Pool::get`]. If it times out, the error names the holder and its line.
    ///
    /// # Blocking
    ///
    /// For up to `connection_timeout`, while others write, first come, first served.
    #[track_caller]
    pub fn write(&self) -> Result<PooledConnection<Manager>, Error> {
        self.checkpoint_if_due();
        self.writer.get()
    }

    /// Gets the connection that writes, within `timeout`, as [`write`](Database::write).
    ///
    /// # Errors
    ///
    /// As [`Pool::get_timeout`].
    ///
    /// # Blocking
    ///
    /// For up to `timeout`, while others write.
    #[track_caller]
    pub fn write_timeout(&self, timeout: Duration) -> Result<PooledConnection<Manager>, Error> {
        self.checkpoint_if_due();
        self.writer.get_timeout(timeout)
    }

    /// Runs `work` in a transaction that only reads: all its statements see the database at one
    /// moment, that of the first one.
    ///
    /// For another timeout, use the `transaction()` of [`read_timeout`](Database::read_timeout).
    ///
    /// # Errors
    ///
    /// That of `work`, of the get as [`read`](Database::read), or of SQLite.
    ///
    /// # Panics
    ///
    /// If `work` panics.
    ///
    /// # Blocking
    ///
    /// As [`read`](Database::read), and as long as `work` runs.
    #[track_caller]
    pub fn read_transaction<R, E>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E>
    where
        E: From<Error> + From<rusqlite::Error>,
    {
        in_transaction(self.read()?, work)
    }

    /// Runs `work` in a transaction that writes, from its beginning on (`BEGIN IMMEDIATE`), and
    /// commits it.
    ///
    /// If `work` returns an error or panics, everything is rolled back. `work` runs once: nothing
    /// is tried again. For another timeout, use the `transaction()` of
    /// [`write_timeout`](Database::write_timeout).
    ///
    /// # Errors
    ///
    /// That of `work`, of the get as [`write`](Database::write), or of SQLite. If SQLite refuses
    /// the commit, everything is rolled back.
    ///
    /// # Panics
    ///
    /// If `work` panics.
    ///
    /// # Blocking
    ///
    /// As [`write`](Database::write), and as long as `work` runs. If another process writes, also
    /// for its lock, up to [`busy_timeout`](Manager::busy_timeout).
    ///
    /// # Examples
    ///
    /// Any error type will do that has a `From` for the pool's and the driver's:
    ///
    /// ```
    /// use fairpool_sqlite::{Database, rusqlite};
    ///
    /// #[derive(Debug)]
    /// enum Refused {
    ///     Busy(fairpool::Error),
    ///     Database(rusqlite::Error),
    ///     SoldOut,
    /// }
    /// # impl From<fairpool::Error> for Refused {
    /// #     fn from(error: fairpool::Error) -> Self { Refused::Busy(error) }
    /// # }
    /// # impl From<rusqlite::Error> for Refused {
    /// #     fn from(error: rusqlite::Error) -> Self { Refused::Database(error) }
    /// # }
    ///
    /// fn sell(db: &Database, id: i64) -> Result<(), Refused> {
    ///     db.write_transaction(|tx| {
    ///         let sql = "UPDATE fruit SET number = number - 1 WHERE id = ?1 AND number > 0";
    ///         match tx.prepare_cached(sql)?.execute([id])? {
    ///             0 => Err(Refused::SoldOut), // and nothing was written
    ///             _ => Ok(()),
    ///         }
    ///     })
    /// }
    /// ```
    #[track_caller]
    pub fn write_transaction<R, E>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E>
    where
        E: From<Error> + From<rusqlite::Error>,
    {
        in_transaction(self.write()?, work)
    }

    /// The pool of the writer, for its snapshot, statistics, or a [request](Pool::request) with a
    /// priority or label.
    ///
    /// Leave its `max_size` at one: with a second connection, writers meet in SQLite again.
    pub fn writer(&self) -> &Pool<Manager> {
        &self.writer
    }

    /// The pool of the readers.
    pub fn readers(&self) -> &Pool<Manager> {
        &self.readers
    }

    /// Has a reader that is idle copy the log into the file, if the writer has written so much.
    #[inline]
    fn checkpoint_if_due(&self) {
        if self.writer.manager().is_checkpoint_due() {
            self.checkpoint();
        }
    }

    #[cold]
    fn checkpoint(&self) {
        let manager = self.writer.manager();
        // An only reader is for those who read.
        if self.readers.max_size() > 1
            && let Some(mut conn) = self.readers.try_get()
            && manager.claim_checkpoint()
        {
            // A worker does it, before the connection is lent again.
            conn.checkpoint_on_return();
        }
    }
}

/// Begins as the manager has set it for the connection.
fn in_transaction<R, E>(
    mut conn: PooledConnection<Manager>,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<R, E>,
) -> Result<R, E>
where
    E: From<rusqlite::Error>,
{
    PooledConnection::run(&mut conn, |conn| {
        // Its drop rolls back, also if `work` panics or the commit fails.
        let mut transaction = conn.transaction()?;
        match work(&mut transaction) {
            Ok(result) => {
                transaction.commit()?;
                Ok(Ok(result))
            }
            Err(error) => {
                // If even this fails, the return of the connection rolls back or closes it.
                let _ = transaction.rollback();
                Ok(Err(error))
            }
        }
    })?
}
