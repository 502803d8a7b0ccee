//! Copies of the log into the file that do not hold the writer of a pair up.
//!
//! SQLite makes a checkpoint in the commit that finds 1,000 pages in the log, which waits for the
//! disk. Of connections that all write, another one writes meanwhile. An only writer would stand
//! still. So a reader makes it, on a worker thread of its pool.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rusqlite::{Connection, Error};

use super::SqliteConnectionManager;

/// A use has a page or a few to copy.
const USES_PER_CHECKPOINT: u32 = 256;
/// The writer makes a checkpoint by itself when so many pages are in the log: after large
/// transactions, or if all readers are busy.
const PAGES_PER_OWN_CHECKPOINT: u32 = 4_000;

/// What the writer has for the readers to do.
#[derive(Default)]
pub(super) struct Checkpoints {
    uses: AtomicU32,
    is_due: AtomicBool,
}

impl SqliteConnectionManager {
    /// Comes before `with_init`, which may choose another number.
    pub(super) fn set_own_checkpoints(&self, conn: &Connection) -> Result<(), Error> {
        if !self.is_writer() {
            return Ok(());
        }
        conn.execute_batch(&format!("PRAGMA wal_autocheckpoint = {PAGES_PER_OWN_CHECKPOINT}"))
    }

    /// The writer's connection returns. There is one, so no other thread counts too.
    #[inline]
    pub(super) fn count_write(&self) {
        if !self.is_writer() {
            return;
        }
        let Checkpoints { uses, is_due } = &*self.checkpoints;
        let count = uses.load(Ordering::Relaxed) + 1;
        if count < USES_PER_CHECKPOINT {
            uses.store(count, Ordering::Relaxed);
        } else {
            uses.store(0, Ordering::Relaxed);
            is_due.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        self.checkpoints.is_due.load(Ordering::Relaxed)
    }

    /// Whether the caller is the one to have it made.
    pub(crate) fn claim_checkpoint(&self) -> bool {
        self.checkpoints.is_due.swap(false, Ordering::Relaxed)
    }
}

/// Copies what no reader needs in the log. Waits for no lock, and takes none of writers. If it
/// fails, the next one copies more.
pub(super) fn make(conn: &Connection) {
    let _ = conn.query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |_| Ok(()));
}
