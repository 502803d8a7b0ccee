//! A connection of the pool: `rusqlite`'s, and what is known of its use.

mod closing;
mod driver;
mod driver_hooks;
mod file_control;
mod interrupt;

use std::cell::OnceCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rusqlite::Error;

pub use self::interrupt::InterruptHandle;
use crate::session::Session;
use crate::watched_file::WatchedFile;

pub(crate) use self::closing::{CloseTurns, Siblings};

/// A [`rusqlite::Connection`] that a pool lends.
///
/// It dereferences to [`rusqlite::Connection`], so it is used like one, and a function that
/// takes `&rusqlite::Connection` takes a `&PooledConnection` too. Methods that change what
/// the next holder would find stand here under the same names: they do the same, and the
/// change is noticed. See [`Reset`](crate::Reset) for what happens at the return.
///
/// Dropping it closes it. Connections to one file close in turn, and the last one of a
/// manager copies the write-ahead log into the file first.
///
/// # Examples
///
/// ```
/// use fairpool::ManageConnection;
/// use fairpool_sqlite::{SqliteConnectionManager, rusqlite};
///
/// fn create(conn: &rusqlite::Connection) -> rusqlite::Result<()> {
///     conn.execute_batch("CREATE TABLE fruit (name TEXT)")
/// }
///
/// let conn = SqliteConnectionManager::memory().connect()?;
/// create(&conn)?;
/// conn.execute("INSERT INTO fruit VALUES ('fig')", [])?;
/// # Ok::<(), rusqlite::Error>(())
/// ```
pub struct Connection {
    /// `None` only while it is dropped.
    driver: Option<rusqlite::Connection>,
    session: Session,
    file: Option<Arc<WatchedFile>>,
    turns: Arc<CloseTurns>,
    siblings: Arc<Siblings>,
    interrupts: OnceCell<InterruptHandle>,
}

/// A connection taken apart.
pub(crate) struct Parts<'a> {
    pub(crate) session: &'a mut Session,
    /// The driver's connection. Unlike `deref_mut`, this does not mark the session as lent.
    pub(crate) driver: &'a mut rusqlite::Connection,
    pub(crate) file: Option<&'a Arc<WatchedFile>>,
}

impl Connection {
    pub(crate) fn new(
        driver: rusqlite::Connection,
        file: Option<WatchedFile>,
        siblings: &Arc<Siblings>,
    ) -> Connection {
        let turns = CloseTurns::of(driver.path().unwrap_or_default());
        siblings.opened();
        Connection {
            driver: Some(driver),
            session: Session::default(),
            file: file.map(Arc::new),
            turns,
            siblings: Arc::clone(siblings),
            interrupts: OnceCell::new(),
        }
    }

    fn driver(&self) -> &rusqlite::Connection {
        self.driver.as_ref().expect("a connection has its driver's until it is dropped")
    }

    fn driver_mut(&mut self) -> &mut rusqlite::Connection {
        self.parts().driver
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    #[inline]
    pub(crate) fn parts(&mut self) -> Parts<'_> {
        let driver = self.driver.as_mut();
        let driver = driver.expect("a connection has its driver's until it is dropped");
        Parts { session: &mut self.session, driver, file: self.file.as_ref() }
    }

    /// Has the log copied into the file when the connection returns.
    pub(crate) fn checkpoint_on_return(&mut self) {
        self.session.must_checkpoint = true;
    }

    pub(crate) fn file(&self) -> Option<&Arc<WatchedFile>> {
        self.file.as_ref()
    }

    /// Ends the interrupt handles of this use: they do nothing from now on.
    pub(crate) fn end_interrupts(&mut self) {
        if let Some(handle) = self.interrupts.take() {
            handle.end();
        }
    }

    /// Closes the connection; what [`rusqlite::Connection::close`] does.
    ///
    /// # Errors
    ///
    /// If SQLite cannot close it. Unlike `rusqlite`'s method, this one does not hand the
    /// connection back: it is closed as far as it can be.
    pub fn close(mut self) -> Result<(), Error> {
        self.end_interrupts();
        self.close_driver()
    }

    fn close_driver(&mut self) -> Result<(), Error> {
        let Some(driver) = self.driver.take() else { return Ok(()) };
        let moved = self.file.as_ref().is_some_and(|file| file.look());
        closing::close(driver, &self.turns, &self.siblings, moved)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end_interrupts();
        // A drop cannot return an error. The driver's own drop ignores it, too.
        let _ = self.close_driver();
    }
}

impl Deref for Connection {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        self.driver()
    }
}

impl DerefMut for Connection {
    /// Hooks need this, so from here on there may be some.
    fn deref_mut(&mut self) -> &mut rusqlite::Connection {
        self.session.lend_mutably();
        self.driver_mut()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("path", &self.driver().path()).finish()
    }
}
