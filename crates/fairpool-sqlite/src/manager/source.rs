//! The database that connections are opened to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(unix)]
use rusqlite::FileControl;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags};

use super::secrets;

const MEMORY: &str = ":memory:";
/// A virtual file system that is part of SQLite. Its files live in this process; those
/// whose name begins with a slash are shared by name.
const MEMORY_VFS: &str = "memdb";
/// The pause between attempts to switch a busy file to WAL.
const WAL_RETRY_PAUSE: Duration = Duration::from_millis(5);

pub(super) enum Source {
    File(PathBuf),
    Memory {
        name: String,
        /// SQLite drops a memory database with its last connection. This one is never
        /// lent, so the database lives as long as the manager.
        anchor: Mutex<Option<Connection>>,
    },
}

impl Source {
    pub(super) fn file(path: &Path) -> Source {
        if path == Path::new(MEMORY) {
            return Source::memory();
        }
        Source::File(path.to_owned())
    }

    pub(super) fn memory() -> Source {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The address distinguishes two versions of this crate in one program.
        let name = format!("/fairpool-{:p}-{number}", &raw const COUNT);
        Source::Memory { name, anchor: Mutex::new(None) }
    }

    pub(super) fn open(
        &self,
        flags: OpenFlags,
        busy_timeout: Duration,
        wal: bool,
    ) -> Result<Connection, Error> {
        match self {
            Source::File(path) => {
                let opened = Connection::open_with_flags(path, flags);
                let conn = opened.map_err(|error| secrets::of_open(error, path))?;
                conn.busy_timeout(whole_milliseconds(busy_timeout))?;
                if wal {
                    switch_to_wal(&conn, busy_timeout)?;
                }
                Ok(conn)
            }
            Source::Memory { name, anchor } => {
                open_anchor(name, flags, anchor)?;
                let conn = Connection::open_with_flags_and_vfs(name, flags, MEMORY_VFS)?;
                conn.busy_timeout(whole_milliseconds(busy_timeout))?;
                Ok(conn)
            }
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(&secrets::shown(path)).finish(),
            Self::Memory { name, .. } => f.debug_tuple("Memory").field(name).finish(),
        }
    }
}

/// Opens the connection that keeps a memory database alive, before any other, so that the
/// database never ends. The lock ensures that there is one; nothing under it blocks.
fn open_anchor(
    name: &str,
    flags: OpenFlags,
    anchor: &Mutex<Option<Connection>>,
) -> Result<(), Error> {
    let mut anchor = anchor.lock().unwrap_or_else(PoisonError::into_inner);
    if anchor.is_none() {
        *anchor = Some(Connection::open_with_flags_and_vfs(name, flags, MEMORY_VFS)?);
    }
    Ok(())
}

/// Switches to WAL, even if other connections to the file do the same at the same time.
///
/// Two connections that both want to switch cannot wait for each other in the busy
/// timeout: each holds what the other needs, so SQLite fails one of them at once. That one
/// tries again until the timeout is over.
fn switch_to_wal(conn: &Connection, busy_timeout: Duration) -> Result<(), Error> {
    if conn.is_readonly("main")? {
        return Ok(());
    }
    let started = Instant::now();
    loop {
        let switched = conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()));
        match switched {
            Err(error) if is_busy(&error) && started.elapsed() < busy_timeout => {
                thread::sleep(WAL_RETRY_PAUSE);
            }
            other => return other,
        }
    }
}

fn is_busy(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Whether the file is no longer the one that was opened.
#[cfg(unix)]
pub(super) fn has_moved(conn: &Connection) -> Result<bool, Error> {
    let mut moved = 0;
    match conn.file_control(Some("main"), FileControl::HasMoved(&mut moved)) {
        // Not a file, or a file system without this check.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotFound) => Ok(false),
        other => other.map(|()| moved != 0),
    }
}

#[cfg(not(unix))]
pub(super) fn has_moved(_: &Connection) -> Result<bool, Error> {
    Ok(false)
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
