//! The manager's settings. `calls` has what the pool asks of it.

mod calls;
mod checkpoint;
mod errors;
mod journal;
mod role;
mod secrets;
mod source;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rusqlite::{Connection as Driver, Error, OpenFlags, TransactionBehavior};

use self::calls::Limits;
use self::checkpoint::Checkpoints;
use self::journal::Journal;
use self::role::Role;
use self::source::Source;
use crate::connection::Siblings;
use crate::reset::Reset;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// As in rusqlite.
const STATEMENT_CACHE: usize = 16;

type Init = dyn Fn(&mut Driver) -> Result<(), Error> + Send + Sync;

/// Opens [`Connection`](crate::Connection)s to one database.
///
/// # Defaults
///
/// | setting | value | set by |
/// |---|---|---|
/// | wait for a lock | 5 s | [`busy_timeout`](Self::busy_timeout) |
/// | WAL | on for files | [`wal`](Self::wal) |
/// | flags | `rusqlite`'s: read, write, create, URIs | [`with_flags`](Self::with_flags) |
/// | how `transaction` begins | deferred; immediate for the writer of a [`Database`](crate::Database) | [`transaction_behavior`](Self::transaction_behavior) |
/// | statements that `prepare_cached` keeps | 16 for each connection | [`statement_cache`](Self::statement_cache) |
/// | reset at a return | [`Reset::Session`] | [`reset_on_return`](Self::reset_on_return) |
/// | preparation of new connections | none | [`with_init`](Self::with_init) |
///
/// # Examples
///
/// ```
/// use fairpool::ManageConnection;
/// use fairpool_sqlite::SqliteConnectionManager;
///
/// let manager = SqliteConnectionManager::memory()
///     .with_init(|conn| conn.execute_batch("PRAGMA foreign_keys = ON"));
///
/// let writer = manager.connect()?;
/// writer.execute_batch("CREATE TABLE fruit (name TEXT); INSERT INTO fruit VALUES ('fig')")?;
///
/// let reader = manager.connect()?;
/// let name: String = reader.query_row("SELECT name FROM fruit", [], |row| row.get(0))?;
/// assert_eq!(name, "fig");
/// # Ok::<(), fairpool_sqlite::rusqlite::Error>(())
/// ```
pub struct SqliteConnectionManager {
    role: Role,
    source: Arc<Source>,
    flags: OpenFlags,
    busy_timeout: Duration,
    wal: bool,
    behavior: Option<TransactionBehavior>,
    statement_cache: usize,
    reset: Reset,
    init: Option<Arc<Init>>,
    limits: OnceLock<Limits>,
    siblings: Arc<Siblings>,
    journal: Arc<Journal>,
    /// Of the writer, for the readers.
    checkpoints: Arc<Checkpoints>,
}

impl SqliteConnectionManager {
    /// Makes a manager for a database file, which the first connection creates if
    /// necessary. Opens nothing yet.
    ///
    /// The path may be a URI (`file:…`). A relative one is taken from the folder that the
    /// process has now. `:memory:` means [`memory`](Self::memory). A database in memory that
    /// its URI shares (`file:name?mode=memory&cache=shared`) lives as long as the manager.
    /// Names that give *each connection* a database of its own (an empty one,
    /// `file::memory:`) are refused by the first connect.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use fairpool_sqlite::SqliteConnectionManager;
    ///
    /// let manager = SqliteConnectionManager::file("shop.db");
    /// ```
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::from_source(Source::file(path.as_ref()))
    }

    /// Makes a manager for a new database in memory, which all its connections share and
    /// which lives as long as the manager.
    ///
    /// It uses SQLite's `memdb` file system and not the shared cache, whose connections
    /// fail with `SQLITE_LOCKED` at once instead of waiting for the busy timeout. The
    /// limits of `memdb`: a writing transaction excludes readers until it ends, and
    /// readers exclude writers; there is no WAL; the size is at most 1 GiB (beyond that
    /// `SQLITE_FULL`); other processes cannot see it.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_sqlite::SqliteConnectionManager;
    ///
    /// let manager = SqliteConnectionManager::memory();
    /// ```
    #[must_use]
    pub fn memory() -> Self {
        Self::from_source(Source::memory())
    }

    fn from_source(source: Source) -> Self {
        Self {
            role: Role::default(),
            source: Arc::new(source),
            flags: OpenFlags::default(),
            busy_timeout: BUSY_TIMEOUT,
            wal: true,
            behavior: None,
            statement_cache: STATEMENT_CACHE,
            reset: Reset::default(),
            init: None,
            limits: OnceLock::new(),
            siblings: Arc::default(),
            journal: Arc::default(),
            checkpoints: Arc::default(),
        }
    }

    /// Sets the flags for opening; default [`OpenFlags::default()`](OpenFlags).
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_sqlite::SqliteConnectionManager;
    /// use fairpool_sqlite::rusqlite::OpenFlags;
    ///
    /// let manager = SqliteConnectionManager::file("shop.db")
    ///     .with_flags(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    /// ```
    #[must_use]
    pub fn with_flags(mut self, flags: OpenFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Sets a function that prepares each new connection, after everything else; default
    /// none. If it fails, `connect` fails with its error.
    ///
    /// Each holder of the connection finds what this function sets (pragmas, functions, hooks,
    /// attached databases): a [reset](Reset) keeps it, and undoes what differs.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_sqlite::SqliteConnectionManager;
    ///
    /// let manager = SqliteConnectionManager::file("shop.db")
    ///     .with_init(|conn| conn.execute_batch("PRAGMA synchronous = NORMAL"));
    /// ```
    #[must_use]
    pub fn with_init<F>(mut self, init: F) -> Self
    where
        F: Fn(&mut Driver) -> Result<(), Error> + Send + Sync + 'static,
    {
        self.init = Some(Arc::new(init));
        self
    }

    /// Limits how long a statement waits for a lock; default 5 s, as in `rusqlite`.
    ///
    /// After that it fails with `SQLITE_BUSY`; the connection stays usable. Zero means no
    /// waiting. The time is rounded up to whole milliseconds and capped at 24 days.
    ///
    /// While a connection is opened it waits for less than two fifths of the pool's
    /// `open_timeout` (2 s of 5), so that the error says "locked". The function of
    /// [`with_init`](Self::with_init) sees that shorter time, and may set one of its own.
    ///
    /// For the writer of a [`Database`](crate::Database) less than 1 s counts as 1 s: a reader may
    /// take its lock for a microsecond.
    #[must_use]
    pub fn busy_timeout(mut self, limit: Duration) -> Self {
        self.busy_timeout = limit;
        self
    }

    /// Sets whether connections switch a database file to WAL, so that readers and the
    /// writer do not wait for each other; default `true`.
    ///
    /// A file that another connection uses cannot be switched. The new connection then stays
    /// in the present mode, after half of the wait that
    /// [`busy_timeout`](Self::busy_timeout) describes (1 s); later connects and checks try
    /// again, without waiting. A file that cannot even be read, because another connection
    /// locks it, fails the connect after that whole wait.
    ///
    /// The file keeps the mode: `false` does not switch back. The setting has no effect
    /// on a database in memory, one that is opened read-only, and on file systems that
    /// cannot share memory. Do not use WAL on a network file system.
    ///
    /// `synchronous` stays at SQLite's default FULL, so that a power failure loses no
    /// commit. Many applications prefer NORMAL with WAL: fewer waits for the disk (we
    /// measured 0.02 ms instead of 0.2 ms per commit), but a power failure may undo the
    /// last commits, without damage to the file. [`with_init`](Self::with_init) shows how
    /// to set it.
    #[must_use]
    pub fn wal(mut self, wal: bool) -> Self {
        self.wal = wal;
        self
    }

    /// Sets how `transaction` and `unchecked_transaction` of a connection begin; default
    /// [`Deferred`](TransactionBehavior::Deferred), as in `rusqlite`.
    ///
    /// A deferred transaction becomes a writer with its first write. If it has read before, and
    /// somebody else has written since or is writing, that write fails at once with
    /// `SQLITE_BUSY`, whatever [`busy_timeout`](Self::busy_timeout) says, because waiting could not
    /// help. An [`Immediate`](TransactionBehavior::Immediate) one waits for its turn when it
    /// begins, and no statement of it fails as busy. But then transactions that only read wait for
    /// writers too, unless they begin by `transaction_with_behavior`.
    ///
    /// A [`Database`](crate::Database) needs no such choice: its writer begins as `Immediate`,
    /// unless this says otherwise, and its readers as `Deferred`, whatever this says.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_sqlite::SqliteConnectionManager;
    /// use fairpool_sqlite::rusqlite::TransactionBehavior;
    ///
    /// let manager = SqliteConnectionManager::file("shop.db")
    ///     .transaction_behavior(TransactionBehavior::Immediate);
    /// ```
    #[must_use]
    pub fn transaction_behavior(mut self, behavior: TransactionBehavior) -> Self {
        self.behavior = Some(behavior);
        self
    }

    /// Sets how many statements of `prepare_cached` each connection keeps; default 16, as in
    /// `rusqlite`. Zero keeps none.
    ///
    /// They stay prepared when the connection returns, for the next holder. (A reset of what a
    /// holder [left](Reset) drops them.) After a change of the schema SQLite prepares them again by
    /// itself. The statement that was used least recently goes first. So if a program runs more
    /// than 16 in turn, each is prepared every time: then set as many as it has. One takes some
    /// kilobytes.
    ///
    /// `execute`, `query_row` and the like do not use the cache: see
    /// [the crate's page](crate#statements-that-stay-prepared).
    #[must_use]
    pub fn statement_cache(mut self, statements: usize) -> Self {
        self.statement_cache = statements;
        self
    }

    /// Sets what is undone when a connection returns; default [`Reset::Session`], because a
    /// use that left nothing pays next to nothing for it. [`Reset`] has the costs.
    #[must_use]
    pub fn reset_on_return(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }
}

impl fmt::Debug for SqliteConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteConnectionManager")
            .field("role", &self.role)
            .field("source", &self.source)
            .field("flags", &self.flags)
            .field("busy_timeout", &self.busy_timeout)
            .field("wal", &self.wal)
            .field("statement_cache", &self.statement_cache)
            .field("reset", &self.reset)
            .field("has_init", &self.init.is_some())
            .finish()
    }
}
