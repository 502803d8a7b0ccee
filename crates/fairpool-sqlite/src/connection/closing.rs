//! Connections to one file close in turn.
//!
//! SQLite empties the write-ahead log when the last connection to a file closes. Of several
//! that close at once, each sees the others, so none is the last, and the log stays. (If
//! another process uses the file, the log stays in any case. So the last connection of a
//! manager copies it into the file before it closes.)

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error};

/// How long a close waits for its turn, if the pool allows it: longer than a good close
/// takes.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// SQLite's flag to leave the log alone at a close, which users may set too.
const NO_CHECKPOINT: DbConfig = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;

/// The connections of one manager, or of the two of a pair: how many are open, and how long a
/// close waits for its turn.
pub(crate) struct Siblings {
    open: AtomicUsize,
    wait_nanos: AtomicU64,
}

impl Default for Siblings {
    fn default() -> Siblings {
        let wait_nanos = AtomicU64::new(LONGEST_WAIT.as_nanos() as u64);
        Siblings { open: AtomicUsize::new(0), wait_nanos }
    }
}

impl Siblings {
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    /// One of them closes. Returns whether it is the last.
    fn closes_last(&self) -> bool {
        self.open.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// A pool abandons a close after this time.
    pub(crate) fn limit_closes(&self, limit: Duration) {
        let wait = LONGEST_WAIT.min(limit / 2).as_nanos() as u64;
        self.wait_nanos.fetch_min(wait, Ordering::Relaxed);
    }

    fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait_nanos.load(Ordering::Relaxed))
    }
}

/// Lets all connections of the process to one file close in turn.
#[derive(Default)]
pub(crate) struct CloseTurns {
    turn: Mutex<()>,
    /// A close takes too long. Until it ends, the others do not wait for their turn.
    is_stuck: AtomicBool,
}

/// Those of all files that are open.
static TURNS: Mutex<Option<HashMap<String, Weak<CloseTurns>>>> = Mutex::new(None);

impl CloseTurns {
    pub(super) fn of(path: &str) -> Arc<CloseTurns> {
        if path.is_empty() {
            return Arc::new(CloseTurns::default());
        }
        let mut all = TURNS.lock();
        let all = all.get_or_insert_default();
        if let Some(turns) = all.get(path).and_then(Weak::upgrade) {
            return turns;
        }
        all.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(CloseTurns::default());
        all.insert(path.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

/// Closes the connection when its turn comes, or without a turn if that takes too long.
pub(super) fn close(
    driver: Connection,
    turns: &CloseTurns,
    siblings: &Siblings,
    has_moved: bool,
) -> Result<(), Error> {
    let mut turn = turns.turn.try_lock();
    if turn.is_none() && !turns.is_stuck.load(Ordering::Relaxed) {
        turn = turns.turn.try_lock_for(siblings.wait());
        turns.is_stuck.store(turn.is_none(), Ordering::Relaxed);
    }
    if has_moved {
        // The log that this connection has open, or the file, is not the one that others use
        // now. To copy an old log would overwrite what they have written since.
        let _ = driver.set_db_config(NO_CHECKPOINT, true);
    }
    if siblings.closes_last() && !driver.db_config(NO_CHECKPOINT).unwrap_or(false) {
        // Readers of other processes may keep some of the log. The close does not depend on
        // it, and waits for no lock.
        let _ = driver.busy_timeout(Duration::ZERO);
        let _ = driver.query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    }
    let result = driver.close().map_err(|(_, error)| error);
    if turn.is_some() {
        turns.is_stuck.store(false, Ordering::Relaxed);
    }
    result
}

#[cfg(test)]
mod tests;
