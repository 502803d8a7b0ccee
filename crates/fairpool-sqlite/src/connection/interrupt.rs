//! An interrupt handle that ends with its use.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// Interrupts the statement that a connection runs now, from another thread.
///
/// It belongs to one use of the connection. Once the connection is back in the pool, the
/// handle does nothing: it cannot hit the next holder's statement. (SQLite itself forgets an
/// interrupt that comes while no statement runs.)
///
/// # Examples
///
/// ```
/// use fairpool::Pool;
/// use fairpool_sqlite::SqliteConnectionManager;
///
/// let pool = Pool::builder().max_size(1).build(SqliteConnectionManager::memory())?;
/// let conn = pool.get()?;
/// let handle = conn.get_interrupt_handle();
/// drop(conn);
/// handle.interrupt(); // too late, and harmless
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone)]
pub struct InterruptHandle {
    /// `None` when the use is over. The lock is held across the driver's interrupt, which
    /// sets a flag; so the end of the use comes before it or after it.
    driver: Arc<Mutex<Option<rusqlite::InterruptHandle>>>,
}

impl InterruptHandle {
    pub(super) fn new(driver: rusqlite::InterruptHandle) -> InterruptHandle {
        InterruptHandle { driver: Arc::new(Mutex::new(Some(driver))) }
    }

    /// Makes the running statement fail with `SQLITE_INTERRUPT`. Does nothing if no
    /// statement runs, or if the connection was returned.
    pub fn interrupt(&self) {
        if let Some(driver) = &*self.driver.lock() {
            driver.interrupt();
        }
    }

    pub(super) fn end(&self) {
        *self.driver.lock() = None;
    }
}

impl fmt::Debug for InterruptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = self.driver.lock().is_none();
        f.debug_struct("InterruptHandle").field("ended", &ended).finish()
    }
}
