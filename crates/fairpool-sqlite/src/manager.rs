//! The manager: its settings, and what the pool asks of it.

mod secrets;
mod source;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use fairpool::ManageConnection;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, ffi};

use self::source::Source;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

type Init = dyn Fn(&mut Connection) -> Result<(), Error> + Send + Sync;

/// Opens [`rusqlite::Connection`]s to one database.
///
/// # Defaults
///
/// | setting | value | set by |
/// |---|---|---|
/// | wait for a lock | 5 s | [`busy_timeout`](Self::busy_timeout) |
/// | WAL | on for files | [`wal`](Self::wal) |
/// | flags | `rusqlite`'s: read, write, create, URIs | [`with_flags`](Self::with_flags) |
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
    source: Source,
    flags: OpenFlags,
    busy_timeout: Duration,
    wal: bool,
    init: Option<Box<Init>>,
}

impl SqliteConnectionManager {
    /// Makes a manager for a database file, which the first connection creates if
    /// necessary. Opens nothing yet.
    ///
    /// The path may be a URI (`file:…`) if the flags allow it. `:memory:` means
    /// [`memory`](Self::memory). With an empty path SQLite makes a temporary database for
    /// *each connection*, so a pool makes no sense.
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
            source,
            flags: OpenFlags::default(),
            busy_timeout: BUSY_TIMEOUT,
            wal: true,
            init: None,
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
        F: Fn(&mut Connection) -> Result<(), Error> + Send + Sync + 'static,
    {
        self.init = Some(Box::new(init));
        self
    }

    /// Limits how long a statement waits for a lock; default 5 s, as in `rusqlite`.
    ///
    /// After that it fails with `SQLITE_BUSY`; the connection stays usable. Zero means no
    /// waiting. The time is rounded up to whole milliseconds and capped at 24 days.
    #[must_use]
    pub fn busy_timeout(mut self, limit: Duration) -> Self {
        self.busy_timeout = limit;
        self
    }

    /// Sets whether connections switch a database file to WAL, so that readers and the
    /// writer do not wait for each other; default `true`.
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
}

impl fmt::Debug for SqliteConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteConnectionManager")
            .field("source", &self.source)
            .field("flags", &self.flags)
            .field("busy_timeout", &self.busy_timeout)
            .field("wal", &self.wal)
            .field("has_init", &self.init.is_some())
            .finish()
    }
}

impl ManageConnection for SqliteConnectionManager {
    type Connection = Connection;
    type Error = Error;

    /// Opens the database, then sets the busy timeout and WAL, then runs the
    /// function given to [`with_init`](SqliteConnectionManager::with_init).
    ///
    /// # Errors
    ///
    /// If the database cannot be opened, is locked for longer than the busy timeout, or is
    /// no database; and errors of the function.
    ///
    /// # Blocking
    ///
    /// On the disk, and up to the busy timeout while another connection locks the file.
    fn connect(&self) -> Result<Connection, Error> {
        let mut conn = self.source.open(self.flags, self.busy_timeout, self.wal)?;
        if let Some(init) = &self.init {
            init(&mut conn)?;
        }
        Ok(conn)
    }

    /// Runs a statement that does not read the file, and checks that the file is still the
    /// one that was opened.
    ///
    /// A statement that reads (on a fresh connection even `SELECT 1` does) would wait while
    /// another connection locks the database, so that a good connection could fail.
    ///
    /// # Errors
    ///
    /// If SQLite cannot run a statement; on Unix also with `SQLITE_READONLY_DBMOVED` if the
    /// file was moved, deleted or replaced.
    fn is_valid(&self, conn: &mut Connection) -> Result<(), Error> {
        conn.query_row("PRAGMA busy_timeout", [], |_| Ok(()))?;
        if source::has_moved(conn)? {
            let code = ffi::Error::new(ffi::SQLITE_READONLY_DBMOVED);
            let text = "the database file was moved, deleted or replaced".to_owned();
            return Err(Error::SqliteFailure(code, Some(text)));
        }
        Ok(())
    }

    /// Always `false`: there is no peer to lose.
    fn has_broken(&self, _: &mut Connection) -> bool {
        false
    }

    /// True if another attempt will fail in the same way: a file or folder that is missing,
    /// may not be used or is no database, and a path that SQLite does not accept.
    fn is_permanent(&self, error: &Error) -> bool {
        if matches!(error, Error::InvalidPath(_) | Error::NulError(_)) {
            return true;
        }
        matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::CannotOpen
                    | ErrorCode::PermissionDenied
                    | ErrorCode::ReadOnly
                    | ErrorCode::AuthorizationForStatementDenied
                    | ErrorCode::NotADatabase
            )
        )
    }

    /// True if the connection is no longer usable: an I/O error, a damaged file, a file that
    /// was moved or deleted while it was open.
    ///
    /// Not fatal: a locked database, a full disk, and errors of statements.
    fn is_fatal(&self, error: &Error) -> bool {
        if error.sqlite_extended_error_code() == Some(ffi::SQLITE_READONLY_DBMOVED) {
            return true;
        }
        matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::CannotOpen
                    | ErrorCode::InternalMalfunction
            )
        )
    }

    /// True if a transaction is open, which costs nothing to check.
    fn needs_reset(&self, conn: &mut Connection) -> bool {
        !conn.is_autocommit()
    }

    /// Rolls back the open transaction, if there is one.
    ///
    /// # Errors
    ///
    /// If the rollback fails.
    fn reset(&self, conn: &mut Connection) -> Result<(), Error> {
        if conn.is_autocommit() {
            return Ok(());
        }
        log::warn!("rolling back a transaction that was open when its connection returned");
        conn.execute_batch("ROLLBACK")
    }
}
