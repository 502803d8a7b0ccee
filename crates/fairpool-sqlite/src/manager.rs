//! The manager: its settings, and what the pool asks of it.

mod errors;
mod journal;
mod secrets;
mod source;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fairpool::{CallLimits, ManageConnection};
use rusqlite::{Connection as Driver, Error, OpenFlags, ffi};

use self::journal::Journal;
use self::source::Source;
use crate::connection::{Connection, Home, Parts};
use crate::reset::Reset;
use crate::session;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of its limit a connect may wait for a lock.
const CONNECT_SHARE: f64 = 0.4;

type Init = dyn Fn(&mut Driver) -> Result<(), Error> + Send + Sync;

/// The pool's limits of calls that may wait for a lock.
#[derive(Clone, Copy)]
struct Limits {
    open: Duration,
    reset: Duration,
}

impl Limits {
    /// As a pool's defaults.
    const WITHOUT_A_POOL: Limits =
        Limits { open: Duration::from_secs(5), reset: Duration::from_secs(2) };
}

/// Opens [`Connection`]s to one database.
///
/// # Defaults
///
/// | setting | value | set by |
/// |---|---|---|
/// | wait for a lock | 5 s | [`busy_timeout`](Self::busy_timeout) |
/// | WAL | on for files | [`wal`](Self::wal) |
/// | flags | `rusqlite`'s: read, write, create, URIs | [`with_flags`](Self::with_flags) |
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
    source: Source,
    flags: OpenFlags,
    busy_timeout: Duration,
    wal: bool,
    reset: Reset,
    init: Option<Box<Init>>,
    limits: OnceLock<Limits>,
    home: Arc<Home>,
    journal: Journal,
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
            source,
            flags: OpenFlags::default(),
            busy_timeout: BUSY_TIMEOUT,
            wal: true,
            reset: Reset::default(),
            init: None,
            limits: OnceLock::new(),
            home: Arc::default(),
            journal: Journal::default(),
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
    /// What it sets (pragmas, functions, hooks, attached databases) is what each holder of
    /// the connection finds: a [reset](Reset) keeps it, and undoes what differs.
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
        self.init = Some(Box::new(init));
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
    #[must_use]
    pub fn busy_timeout(mut self, limit: Duration) -> Self {
        self.busy_timeout = limit;
        self
    }

    /// Sets whether connections switch a database file to WAL, so that readers and the
    /// writer do not wait for each other; default `true`.
    ///
    /// A file that somebody uses cannot be switched. The connection then goes on in the
    /// present mode, after at most 1 s; later connects and checks try again, without waiting.
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

    /// Sets what a returned connection is reset to; default [`Reset::Session`], because a
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
            .field("source", &self.source)
            .field("flags", &self.flags)
            .field("busy_timeout", &self.busy_timeout)
            .field("wal", &self.wal)
            .field("reset", &self.reset)
            .field("has_init", &self.init.is_some())
            .finish()
    }
}

impl SqliteConnectionManager {
    /// How long a connect waits for another connection's lock: well below the pool's limit,
    /// so that the error says "locked" and not that the connect took too long.
    fn lock_wait(&self) -> Duration {
        let longest = self.limits().open.mul_f64(CONNECT_SHARE);
        // An odd number, which is not taken for one that `with_init` has chosen.
        self.busy_timeout.min(longest.saturating_sub(Duration::from_millis(1)))
    }

    fn limits(&self) -> Limits {
        self.limits.get().copied().unwrap_or(Limits::WITHOUT_A_POOL)
    }

    /// Sets the user's own busy timeout, unless the preparation has chosen another.
    fn end_of_lock_wait(&self, conn: &Driver) -> Result<(), Error> {
        if busy_timeout(conn)? == whole_milliseconds(self.lock_wait()) {
            conn.busy_timeout(whole_milliseconds(self.busy_timeout))?;
        }
        Ok(())
    }

    fn prepare(&self, conn: &mut Connection) -> Result<(), Error> {
        let Parts { session, driver, place } = conn.parts();
        driver.busy_timeout(whole_milliseconds(self.lock_wait()))?;
        if self.wal && place.is_some() {
            let switched = self.journal.switch_to_wal(driver, self.lock_wait() / 2);
            switched.map_err(|error| journal::explain(error, driver))?;
        }
        session.watch(driver, place, self.reset == Reset::Session)?;
        if let Some(init) = &self.init {
            init(driver)?;
        }
        if place.is_some() {
            journal::check_readable(driver).map_err(|error| journal::explain(error, driver))?;
        }
        self.end_of_lock_wait(driver)?;
        self.settle(conn);
        Ok(())
    }

    fn settle(&self, conn: &mut Connection) {
        let Parts { session, driver, place } = conn.parts();
        session.settle(driver, place);
        if let Some(place) = place {
            // Notes the files beside the database.
            place.look();
        }
    }
}

impl ManageConnection for SqliteConnectionManager {
    type Connection = Connection;
    type Error = Error;

    /// Keeps the limits. A connect and a reset wait for locks less long, whatever
    /// [`busy_timeout`](SqliteConnectionManager::busy_timeout) says.
    fn check_limits(&self, limits: &CallLimits) -> Vec<String> {
        self.home.limit_closes(limits.close);
        let _ = self.limits.set(Limits { open: limits.open, reset: limits.reset });
        Vec::new()
    }

    /// Opens the database, switches it to WAL, runs the function given to
    /// [`with_init`](SqliteConnectionManager::with_init), and reads the file.
    ///
    /// # Errors
    ///
    /// If the database cannot be opened or read; if it has another connection's exclusive
    /// lock for too long; if the name gives each connection a database of its own; and
    /// errors of the function.
    ///
    /// # Blocking
    ///
    /// On the disk, and while another connection locks the file: for each lock up to the
    /// busy timeout, or two fifths of the pool's `open_timeout` if that is less.
    fn connect(&self) -> Result<Connection, Error> {
        let (driver, place) = self.source.open(self.flags)?;
        let mut conn = Connection::new(driver, place, &self.home);
        self.prepare(&mut conn)?;
        Ok(conn)
    }

    /// Takes over what the pool's customizer has set.
    fn prepared(&self, conn: &mut Connection) {
        if conn.session().is_unsettled() {
            self.settle(conn);
        }
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
    /// file, or a file that SQLite keeps beside it, was moved, deleted or replaced.
    fn is_valid(&self, conn: &mut Connection) -> Result<(), Error> {
        conn.query_row("PRAGMA busy_timeout", [], |_| Ok(()))?;
        if conn.place().is_some_and(|place| place.look()) {
            let code = ffi::Error::new(ffi::SQLITE_READONLY_DBMOVED);
            let text = "the database file was moved, deleted or replaced".to_owned();
            return Err(Error::SqliteFailure(code, Some(text)));
        }
        if self.journal.is_pending() {
            // Without waiting. If it fails, the connection is as good as before.
            let Parts { session, driver, place } = conn.parts();
            let none = Duration::ZERO;
            let _ = waiting(driver, none, || self.journal.switch_to_wal(driver, none))?;
            session.forget();
            place.inspect(|place| place.watch_beside(true));
        }
        Ok(())
    }

    /// True if the path no longer means the file that the connection has open.
    ///
    /// Asks the file system at most once per tick of the clock, some milliseconds.
    fn has_broken(&self, conn: &mut Connection) -> bool {
        conn.end_interrupts();
        conn.place().is_some_and(|place| place.look_if_due())
    }

    /// True if every attempt must fail in the same way: a path that SQLite does not accept,
    /// or one that gives each connection a database of its own.
    ///
    /// A file or folder that is missing, locked, not readable or no database is not: it may
    /// be mounted, copied or repaired meanwhile.
    fn is_permanent(&self, error: &Error) -> bool {
        errors::is_permanent(error)
    }

    /// True if the connection is no longer to be trusted: an I/O error, a damaged file, a
    /// file that was moved or deleted while it was open.
    ///
    /// Not fatal: a locked database, a full disk, too little memory, a file that cannot be
    /// opened (descriptors are short, or `ATTACH` names none), and errors of statements.
    fn is_fatal(&self, error: &Error) -> bool {
        errors::is_fatal(error)
    }

    /// True if the last holder may have left something behind that the level of
    /// [`reset_on_return`](SqliteConnectionManager::reset_on_return) covers. Usually costs a
    /// few loads from memory.
    fn needs_reset(&self, conn: &mut Connection) -> bool {
        let Parts { session, driver, place } = conn.parts();
        session.log_is_large = place.is_some_and(|place| self.journal.is_large(place));
        let is_left = match self.reset {
            Reset::Off => false,
            Reset::Transaction => !driver.is_autocommit(),
            // Not with `||`: it also looks for hooks, which the reset cannot see.
            Reset::Session => session.is_suspect(driver, place) | !driver.is_autocommit(),
        };
        is_left || session.log_is_large
    }

    /// Rolls back an open transaction, and undoes what else the last holder left.
    ///
    /// # Errors
    ///
    /// If that fails, or something is left that cannot be undone.
    fn reset(&self, conn: &mut Connection) -> Result<(), Error> {
        let Parts { session, driver, place } = conn.parts();
        if !driver.is_autocommit() {
            session.leave("an open transaction");
            driver.execute_batch("ROLLBACK")?;
        }
        if self.reset == Reset::Session {
            session.restore(driver).map_err(|left| session::not_undone(&left))?;
        }
        if let Some(place) = place
            && std::mem::take(&mut session.log_is_large)
        {
            let wait = journal::ATTEMPT.min(self.limits().reset / (4 * journal::ATTEMPTS));
            waiting(driver, wait, || self.journal.empty(driver, place))?;
        }
        Ok(())
    }

    fn left_behind(&self, conn: &mut Connection) -> Option<Cow<'static, str>> {
        conn.parts().session.take_left().map(Cow::Owned)
    }
}

fn busy_timeout(conn: &Driver) -> Result<Duration, Error> {
    let millis: i64 = conn.query_row("PRAGMA busy_timeout", [], |row| row.get(0))?;
    Ok(Duration::from_millis(millis.unsigned_abs()))
}

/// Calls `work` with another busy timeout.
fn waiting<R>(conn: &Driver, wait: Duration, work: impl FnOnce() -> R) -> Result<R, Error> {
    let before = busy_timeout(conn)?;
    conn.busy_timeout(whole_milliseconds(wait))?;
    let result = work();
    conn.busy_timeout(before)?;
    Ok(result)
}

/// Rounds up to SQLite's unit and caps at its `int`, beyond which `rusqlite` panics.
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
