//! Connections to one file close in turn.
//!
//! SQLite empties the write-ahead log when the last connection to a file closes. Of several
//! that close at once, each sees the others, so none is the last, and the log stays. (The
//! log of a file that another process uses stays in any case. So the last connection of a
//! manager copies it into the file before it closes.)

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error};

/// How long a close waits for its turn, if the pool allows it: longer than a good close
/// takes.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What the connections of one manager share.
#[derive(Default)]
pub(crate) struct Home {
    open: AtomicUsize,
    close_limit: OnceLock<Duration>,
}

impl Home {
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    /// True for the last connection.
    fn closes(&self) -> bool {
        self.open.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// The pool abandons a close after this time.
    pub(crate) fn limit_closes(&self, limit: Duration) {
        let _ = self.close_limit.set(limit);
    }

    fn wait(&self) -> Duration {
        self.close_limit.get().map_or(LONGEST_WAIT, |limit| LONGEST_WAIT.min(*limit / 2))
    }
}

/// What all connections of the process to one file share.
#[derive(Default)]
pub(crate) struct File {
    turn: Mutex<()>,
    /// A close holds its turn for too long. The others do not wait until it ends.
    is_stuck: AtomicBool,
}

impl File {
    pub(super) fn of(path: &str) -> Arc<File> {
        static FILES: Mutex<Option<HashMap<String, Weak<File>>>> = Mutex::new(None);
        if path.is_empty() {
            return Arc::new(File::default());
        }
        let mut files = FILES.lock();
        let files = files.get_or_insert_default();
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return file;
        }
        files.retain(|_, file| file.strong_count() > 0);
        let file = Arc::new(File::default());
        files.insert(path.to_owned(), Arc::downgrade(&file));
        file
    }
}

/// Closes the connection when its turn comes, or without a turn if that takes too long.
pub(super) fn close(
    driver: Connection,
    file: &File,
    home: &Home,
    has_moved: bool,
) -> Result<(), Error> {
    let mut turn = file.turn.try_lock();
    if turn.is_none() && !file.is_stuck.load(Ordering::Relaxed) {
        turn = file.turn.try_lock_for(home.wait());
        file.is_stuck.store(turn.is_none(), Ordering::Relaxed);
    }
    // A file that has moved may have another one's log beside it.
    if home.closes() && !has_moved && !wants_no_checkpoint(&driver) {
        // The mode PASSIVE waits for nobody: readers of other processes may keep some of
        // the log. The close does not depend on it.
        let _ = driver.query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    }
    let result = driver.close().map_err(|(_, error)| error);
    if turn.is_some() {
        file.is_stuck.store(false, Ordering::Relaxed);
    }
    result
}

/// The user has told SQLite to leave the log alone at a close.
fn wants_no_checkpoint(driver: &Connection) -> bool {
    driver.db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE).unwrap_or(false)
}

#[cfg(test)]
mod tests;
