//! What the pool asks of the manager.

use std::borrow::Cow;
use std::time::Duration;

use fairpool::{CallLimits, ManageConnection};
use rusqlite::{Connection as Driver, Error, ffi};

use super::{SqliteConnectionManager, checkpoint, errors, journal};
use crate::busy::{busy_timeout, waiting_at_most, whole_milliseconds};
use crate::connection::{Connection, Parts};
use crate::reset::Reset;
use crate::session;

/// How much of its limit a connect may wait for a lock.
const CONNECT_SHARE: f64 = 0.4;

/// How long a reset waits for another connection's lock.
const RESET_WAIT: Duration = Duration::from_millis(250);

/// The pool's limits of calls that may wait for a lock.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    open: Duration,
    reset: Duration,
}

impl Limits {
    /// As a pool's defaults.
    const WITHOUT_A_POOL: Limits =
        Limits { open: Duration::from_secs(5), reset: Duration::from_secs(2) };
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

    /// Sets the user's own busy timeout, unless `with_init` has set another.
    fn set_user_busy_timeout(&self, conn: &Driver) -> Result<(), Error> {
        if busy_timeout(conn)? == whole_milliseconds(self.lock_wait()) {
            conn.busy_timeout(whole_milliseconds(self.lock_wait_of_statements()))?;
        }
        Ok(())
    }

    fn prepare(&self, conn: &mut Connection) -> Result<(), Error> {
        let Parts { session, driver, file } = conn.parts();
        driver.busy_timeout(whole_milliseconds(self.lock_wait()))?;
        if self.wal && file.is_some() {
            let switched = self.journal.switch_to_wal(driver, self.lock_wait() / 2);
            switched.map_err(journal::explain)?;
        }
        self.check_role(driver, file.is_some())?;
        driver.set_transaction_behavior(self.behavior());
        driver.set_prepared_statement_cache_capacity(self.statement_cache);
        session.watch(driver, file, self.reset == Reset::Session)?;
        self.set_own_checkpoints(driver)?;
        self.set_query_only(driver)?;
        if let Some(init) = &self.init {
            init(driver).map_err(|error| self.explain_init(error))?;
        }
        if file.is_some() {
            journal::check_readable(driver).map_err(journal::explain)?;
        }
        self.set_user_busy_timeout(driver)?;
        self.take_baseline(conn)
    }

    fn take_baseline(&self, conn: &mut Connection) -> Result<(), Error> {
        let Parts { session, driver, file } = conn.parts();
        // The preparation may have switched it off, for temporary tables.
        self.set_query_only(driver)?;
        session.take_baseline(driver);
        if let Some(file) = file {
            // The preparation may have changed the journal mode, and so these files.
            file.watch_beside(true);
            file.look();
        }
        Ok(())
    }
}

impl ManageConnection for SqliteConnectionManager {
    type Connection = Connection;
    type Error = Error;

    /// Stores the limits: a connect and a reset wait less long for locks, even if
    /// [`busy_timeout`](SqliteConnectionManager::busy_timeout) is longer.
    fn check_limits(&self, limits: &CallLimits) -> Vec<String> {
        self.siblings.limit_closes(limits.close);
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
        let (driver, file) = self.source.open(self.flags)?;
        let mut conn = Connection::new(driver, file, &self.siblings);
        self.prepare(&mut conn)?;
        Ok(conn)
    }

    /// Notes what the pool's customizer has set, so that a reset keeps it.
    fn customized(&self, conn: &mut Connection) {
        if conn.session().is_baseline_outdated() {
            // It fails only if memory is short.
            let _ = self.take_baseline(conn);
        }
        let Parts { session, driver, file } = conn.parts();
        session.end_preparation(driver, file);
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
        if conn.file().is_some_and(|file| file.look()) {
            let code = ffi::Error::new(ffi::SQLITE_READONLY_DBMOVED);
            let text = "the database file was moved, deleted or replaced".to_owned();
            return Err(Error::SqliteFailure(code, Some(text)));
        }
        if self.journal.is_pending() {
            // Without waiting. If it fails, the connection is as good as before.
            let Parts { session, driver, file } = conn.parts();
            let none = Duration::ZERO;
            let _ = waiting_at_most(driver, none, || self.journal.switch_to_wal(driver, none))?;
            session.drop_notes();
            file.inspect(|file| file.watch_beside(true));
        }
        Ok(())
    }

    /// True for a file in WAL mode, and for a database of
    /// [`memory`](SqliteConnectionManager::memory).
    ///
    /// The check of a file asks the file system which file it is. A file in WAL mode is on a local
    /// disk, as SQLite requires. Another may be on a network, where nothing limits how long that
    /// takes, or is still to be switched to WAL: then the pool's own threads make the check.
    fn checks_within_limit(&self) -> bool {
        self.source.is_own_memory() || self.journal.is_wal()
    }

    /// True if the path no longer means the file that the connection has open.
    ///
    /// Asks the file system at most once per tick of the clock, some milliseconds; if that hangs,
    /// so does the return, as the statements before it.
    fn has_broken(&self, conn: &mut Connection) -> bool {
        conn.end_interrupts();
        conn.file().is_some_and(|file| file.look_if_due())
    }

    /// True if every attempt must fail in the same way: a path that SQLite does not accept,
    /// or one that gives each connection a database of its own.
    ///
    /// A file or folder that is missing, locked, not readable or no database is not
    /// permanent: it may be mounted, copied or repaired while callers wait.
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
        let Parts { session, driver, file } = conn.parts();
        // It takes the lock of writers: the writer of a `Database` does it, whom it cannot disturb.
        session.must_empty_log =
            !self.is_reader() && file.is_some_and(|file| self.journal.is_emptying_due(file));
        let is_left = match self.reset {
            Reset::Off => false,
            Reset::Rollback => !driver.is_autocommit(),
            // Not with `||`: it also looks for hooks, which the reset cannot see.
            Reset::Session => session.is_suspect(driver, file) | !driver.is_autocommit(),
        };
        self.count_write();
        is_left || session.must_empty_log || session.must_checkpoint
    }

    /// Rolls back an open transaction, and undoes what else the last holder left.
    ///
    /// # Errors
    ///
    /// If that fails, or something is left that cannot be undone.
    fn reset(&self, conn: &mut Connection) -> Result<(), Error> {
        let Parts { session, driver, file } = conn.parts();
        if !driver.is_autocommit() {
            session.report("an open transaction");
            driver.execute_batch("ROLLBACK")?;
        }
        if self.reset == Reset::Session {
            // Well below the pool's limit: such a wait can come twice.
            let wait = RESET_WAIT.min(self.limits().reset / 8);
            session.restore(driver, wait).map_err(|left| session::not_undone(&left))?;
        }
        if std::mem::take(&mut session.must_checkpoint) {
            checkpoint::make(driver);
        }
        if let Some(file) = file
            && std::mem::take(&mut session.must_empty_log)
        {
            let wait = journal::ATTEMPT.min(self.limits().reset / (4 * journal::ATTEMPTS));
            waiting_at_most(driver, wait, || self.journal.empty(driver, file))?;
        }
        Ok(())
    }

    fn left_behind(&self, conn: &mut Connection) -> Option<Cow<'static, str>> {
        conn.parts().session.take_report().map(Cow::Owned)
    }
}
