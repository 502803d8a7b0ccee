//! A manager for [`rusqlite`], with SQLite compiled in; feature
//! `sqlite`.
//!
//! [`SqliteConnectionManager`] has the names of `r2d2_sqlite`. What it adds: a
//! busy timeout, WAL, a shared memory database whose connections wait for each
//! other, the rollback of a forgotten transaction, and a judgement of errors.
//!
//! # Facts about SQLite worth knowing
//!
//! - **One writer at a time**, whatever the size of the pool. The others wait
//!   in `busy_timeout`, in no particular order: SQLite sleeps and tries again.
//!   Beside writers that never pause, one may wait its whole timeout and fail.
//!   A pool of one connection is the fairest way to write, since the pool's
//!   queue is FIFO.
//! - **A transaction that reads before it writes can fail at once** with
//!   `SQLITE_BUSY`, without waiting, because waiting could not help. Start a
//!   transaction that will write with
//!   [`TransactionBehavior::Immediate`](::rusqlite::TransactionBehavior).
//! - **Closing the last connection to a file in WAL mode** copies the log into
//!   the file and can take a while. The pool does it on its closer threads.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use ::rusqlite;

#[cfg(unix)]
use ::rusqlite::FileControl;
use ::rusqlite::{Connection, Error, ErrorCode, OpenFlags, ffi};

use fairpool::ManageConnection;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MEMORY: &str = ":memory:";
/// A virtual file system that is part of SQLite: its files live in this
/// process, and those whose name begins with a slash are shared by name.
const MEMORY_VFS: &str = "memdb";
/// How long to wait before the next attempt to switch a busy file to WAL.
const WAL_RETRY_PAUSE: Duration = Duration::from_millis(5);

type Init = dyn Fn(&mut Connection) -> Result<(), Error> + Send + Sync;

/// Opens [`rusqlite::Connection`]s to one database.
///
/// # Defaults
///
/// | setting | value | set by |
/// |---|---|---|
/// | wait for a lock | 5 s | [`busy_timeout`](Self::busy_timeout) |
/// | WAL | on for files | [`wal`](Self::wal) |
/// | flags | those of `rusqlite`: read, write, create, URIs | [`with_flags`](Self::with_flags) |
/// | own preparation | none | [`with_init`](Self::with_init) |
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

enum Source {
    File(PathBuf),
    Memory {
        name: String,
        /// A memory database is gone with its last connection. This one is not
        /// given to anybody, so the database lives as long as the manager.
        anchor: Mutex<Option<Connection>>,
    },
}

impl SqliteConnectionManager {
    /// Makes a manager for a database file, which is created if necessary.
    ///
    /// Nothing is opened yet. The path may be a URI (`file:…`), as flags allow.
    /// `:memory:` means [`memory`](Self::memory). An empty path means, to
    /// SQLite, a temporary database for *each connection*, which is hardly what
    /// a pool is for.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use fairpool_sqlite::SqliteConnectionManager;
    ///
    /// let manager = SqliteConnectionManager::file("shop.db");
    /// ```
    pub fn file(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        if path == Path::new(MEMORY) {
            return Self::memory();
        }
        Self::from_source(Source::File(path.to_owned()))
    }

    /// Makes a manager for a new database in memory, which all its connections
    /// share and which lives as long as the manager.
    ///
    /// It uses SQLite's `memdb` file system rather than the shared cache, whose
    /// connections get `SQLITE_LOCKED` at once instead of waiting in the busy
    /// timeout. The limits of `memdb`: a transaction that writes keeps readers
    /// out until it ends, and the other way round; there is no WAL; the size is
    /// at most 1 GiB (`SQLITE_FULL` beyond); other processes cannot see it.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_sqlite::SqliteConnectionManager;
    ///
    /// let manager = SqliteConnectionManager::memory();
    /// ```
    pub fn memory() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The address keeps two versions of this crate in one program apart.
        let name = format!("/fairpool-{:p}-{number}", &raw const COUNT);
        Self::from_source(Source::Memory { name, anchor: Mutex::new(None) })
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

    /// Opens connections with these flags; default
    /// [`OpenFlags::default()`](::rusqlite::OpenFlags).
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

    /// Prepares each new connection with `init`, after everything else; default
    /// nothing.
    ///
    /// # Errors
    ///
    /// An error of `init` is one of `connect`.
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

    /// Lets a statement wait so long for a lock; default 5 s, as in `rusqlite`.
    ///
    /// After that it fails with `SQLITE_BUSY`, which says nothing against the
    /// connection. Zero means not to wait. A part of a millisecond counts as
    /// one; more than 24 days count as 24 days.
    #[must_use]
    pub fn busy_timeout(mut self, limit: Duration) -> Self {
        self.busy_timeout = limit;
        self
    }

    /// Switches a database file to WAL, so that readers and the writer do not
    /// wait for each other; default `true`.
    ///
    /// The switch is kept in the file. `false` leaves the file as it is, it does
    /// not switch back. Without effect on a database in memory, one that is
    /// opened for reading only, and a file system that cannot share memory. Do
    /// not use it on a network file system.
    ///
    /// `synchronous` stays at SQLite's default, FULL, so that no commit is lost
    /// in a power failure. Many applications prefer NORMAL with WAL: fewer waits
    /// for the disk (0.02 ms instead of 0.2 ms per commit where this was
    /// measured), and a power failure may undo the last commits but not harm
    /// the file. See [`with_init`](Self::with_init) for how to choose it.
    #[must_use]
    pub fn wal(mut self, wal: bool) -> Self {
        self.wal = wal;
        self
    }

    fn open(&self) -> Result<Connection, Error> {
        match &self.source {
            Source::File(path) => {
                let conn = Connection::open_with_flags(path, self.flags)?;
                conn.busy_timeout(whole_milliseconds(self.busy_timeout))?;
                if self.wal {
                    self.switch_to_wal(&conn)?;
                }
                Ok(conn)
            }
            Source::Memory { name, anchor } => {
                self.secure_anchor(name, anchor)?;
                let conn = Connection::open_with_flags_and_vfs(name, self.flags, MEMORY_VFS)?;
                conn.busy_timeout(whole_milliseconds(self.busy_timeout))?;
                Ok(conn)
            }
        }
    }

    /// Opens the connection that keeps a memory database alive, once.
    ///
    /// Before any other, so that no database is ever without it. The lock makes
    /// it one; nothing in there can block.
    fn secure_anchor(&self, name: &str, anchor: &Mutex<Option<Connection>>) -> Result<(), Error> {
        let mut anchor = anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if anchor.is_none() {
            *anchor = Some(Connection::open_with_flags_and_vfs(name, self.flags, MEMORY_VFS)?);
        }
        Ok(())
    }

    /// Switches to WAL, whoever else opens the same file at the same time.
    ///
    /// Two connections that both want to switch cannot wait for each other in
    /// the busy timeout: each holds what the other needs, so SQLite fails one of
    /// them at once. It asks again until the timeout is over.
    fn switch_to_wal(&self, conn: &Connection) -> Result<(), Error> {
        if conn.is_readonly("main")? {
            return Ok(());
        }
        let started = Instant::now();
        loop {
            let switched = conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()));
            match switched {
                Err(error) if is_busy(&error) && started.elapsed() < self.busy_timeout => {
                    thread::sleep(WAL_RETRY_PAUSE);
                }
                other => return other,
            }
        }
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

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Memory { name, .. } => f.debug_tuple("Memory").field(name).finish(),
        }
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
    /// If the database cannot be opened, is locked for longer than the busy
    /// timeout, or is not a database; and whatever the function returns.
    fn connect(&self) -> Result<Connection, Error> {
        let mut conn = self.open()?;
        if let Some(init) = &self.init {
            init(&mut conn)?;
        }
        Ok(conn)
    }

    /// Runs a statement that does not read the file, and asks whether the file
    /// is still the one that was opened.
    ///
    /// A statement that reads (and `SELECT 1` does, on a fresh connection)
    /// would wait for whoever has locked the database, and so condemn a good
    /// connection.
    ///
    /// # Errors
    ///
    /// If SQLite cannot run a statement at all; on Unix also with
    /// `SQLITE_READONLY_DBMOVED` if the file was moved, deleted or replaced.
    fn is_valid(&self, conn: &mut Connection) -> Result<(), Error> {
        conn.query_row("PRAGMA busy_timeout", [], |_| Ok(()))?;
        if has_moved(conn)? {
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

    /// True for what the same attempt will meet again: a file or folder that is
    /// missing, may not be used or is not a database, and a path that SQLite
    /// cannot take.
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

    /// True if the connection cannot be trusted any more: an I/O error, a
    /// damaged file, a file that was moved or deleted under the connection.
    ///
    /// Not: a locked database, a full disk, or anything about a statement.
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

    /// True if a transaction is open, which SQLite tells for free.
    fn needs_reset(&self, conn: &mut Connection) -> bool {
        !conn.is_autocommit()
    }

    /// Rolls the open transaction back, if there is one.
    ///
    /// # Errors
    ///
    /// If SQLite cannot roll back.
    fn reset(&self, conn: &mut Connection) -> Result<(), Error> {
        if conn.is_autocommit() {
            return Ok(());
        }
        log::warn!("a connection came back inside a transaction, which is rolled back");
        conn.execute_batch("ROLLBACK")
    }
}

fn is_busy(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

#[cfg(unix)]
fn has_moved(conn: &Connection) -> Result<bool, Error> {
    let mut moved = 0;
    match conn.file_control(Some("main"), FileControl::HasMoved(&mut moved)) {
        // Not a file, or a file system that cannot tell.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotFound) => Ok(false),
        other => other.map(|()| moved != 0),
    }
}

#[cfg(not(unix))]
fn has_moved(_: &Connection) -> Result<bool, Error> {
    Ok(false)
}

/// As SQLite counts, in an `int`: `rusqlite` panics beyond that.
fn whole_milliseconds(limit: Duration) -> Duration {
    let up = limit.as_nanos().div_ceil(1_000_000);
    let capped = up.min(i32::MAX as u128);
    Duration::from_millis(capped as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_a_legal_busy_timeout() {
        let millis = |limit| whole_milliseconds(limit).as_millis();
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::MAX), i32::MAX as u128);
    }
}
