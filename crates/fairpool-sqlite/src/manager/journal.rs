//! The journal mode, and the write-ahead log's size.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::text::Plain;
use parking_lot::Mutex;
use rusqlite::{Connection, Error, ErrorCode};

use super::source::is_busy;
use crate::busy::waiting_at_most;
use crate::watched_file::{WatchedFile, clock};

/// Each of the attempts to switch a busy file to WAL waits this long for readers, and then
/// pauses as long. While it waits, nobody else can begin to read a file in rollback mode. So
/// a long wait would block, and fail, other connects and programs.
const SWITCH_ATTEMPT: Duration = Duration::from_millis(10);

/// A log of more bytes than this is emptied by checkpoints that wait for readers, which
/// SQLite's own do not.
const LARGE: u64 = 64 << 20;
/// The log is emptied at most once in this time.
const EMPTYING_PAUSE: Duration = Duration::from_secs(10);
/// Each of the attempts to empty the log waits this long for readers, and writers wait
/// meanwhile. Several short attempts are better than a long one: an attempt also waits for
/// readers that came after its beginning; the next attempt need not.
pub(super) const ATTEMPT: Duration = Duration::from_millis(100);
pub(super) const ATTEMPTS: u32 = 5;

const NO_FOLDER: &str = "if the file is in WAL mode, SQLite must be able to create and write the \
                         -wal and -shm files beside it; if nobody writes the database, open it as \
                         file:PATH?immutable=1";

/// What a manager remembers of its file's journal.
#[derive(Default)]
pub(super) struct Journal {
    /// A switch to WAL failed because the file was in use. Later connections try it once,
    /// without waiting.
    is_pending: AtomicBool,
    /// The file was found in WAL, or switched to it.
    is_wal: AtomicBool,
    /// One connection switches at a time. The others find the file in WAL then.
    switching: Mutex<()>,
    next_emptying: AtomicU64,
}

impl Journal {
    /// Switches the file to WAL, even if other connections use it or do the same.
    ///
    /// If the file is still in use after `wait`, the connection stays in the present mode,
    /// which is correct but slower. `Err` if the file cannot even be read: then SQLite has
    /// waited for as long as the connection's busy timeout.
    pub(super) fn switch_to_wal(&self, conn: &Connection, wait: Duration) -> Result<(), Error> {
        let wait = if self.is_pending() { Duration::ZERO } else { wait };
        let deadline = Instant::now() + wait;
        let mode = mode(conn)?;
        self.is_wal.store(mode == "wal", Ordering::Relaxed);
        if conn.is_readonly("main")? || mode != "delete" {
            return Ok(());
        }
        let Some(_turn) = self.switching.try_lock_until(deadline) else { return Ok(()) };
        let attempt = SWITCH_ATTEMPT.min(wait);
        waiting_at_most(conn, attempt, || self.switch_until(conn, deadline))?
    }

    /// Tries once at least.
    fn switch_until(&self, conn: &Connection, deadline: Instant) -> Result<(), Error> {
        loop {
            let switched = conn.query_row("PRAGMA main.journal_mode = WAL", [], |row| {
                self.is_wal.store(row.get_ref(0)?.as_str() == Ok("wal"), Ordering::Relaxed);
                Ok(())
            });
            match switched {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    thread::sleep(SWITCH_ATTEMPT);
                }
                Err(error) if is_busy(&error) => {
                    if !self.is_pending.swap(true, Ordering::Relaxed) {
                        log::info!("a database stays without WAL for now, since it is in use");
                    }
                    return Ok(());
                }
                result => {
                    self.is_pending.store(false, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    /// Whether the file is in WAL, as far as is known.
    pub(super) fn is_wal(&self) -> bool {
        self.is_wal.load(Ordering::Relaxed)
    }

    /// Whether a switch is still to be made.
    pub(super) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// Whether the caller must empty the log: it is large, and the last emptying began long
    /// enough ago.
    #[inline]
    pub(super) fn is_emptying_due(&self, file: &WatchedFile) -> bool {
        file.wal_bytes() > LARGE && self.claims_emptying()
    }

    #[cold]
    fn claims_emptying(&self) -> bool {
        let (now, next) = (clock::tick(), self.next_emptying.load(Ordering::Relaxed));
        let later = now + EMPTYING_PAUSE.as_nanos() as u64;
        let order = Ordering::Relaxed;
        now >= next && self.next_emptying.compare_exchange(next, later, order, order).is_ok()
    }

    /// Empties the log. SQLite's own checkpoints wait for nobody, so readers that overlap
    /// let the log grow for ever. This one waits for them, and says so if they do not end.
    ///
    /// It waits as long as the connection's busy timeout at each attempt. The copying takes
    /// the time that the disk needs.
    pub(super) fn empty(&self, conn: &Connection, file: &WatchedFile) {
        let sql = "PRAGMA main.wal_checkpoint(TRUNCATE)";
        let attempt =
            |_| conn.query_row(sql, [], |row| row.get(0)).is_ok_and(|busy: i64| busy == 0);
        let emptied = (0..ATTEMPTS).any(attempt);
        let path = file.path().to_string_lossy();
        let path = Plain(&path);
        let size = file.wal_bytes() >> 20;
        if emptied {
            log::info!("the write-ahead log of {path} had {size} MiB and was emptied");
        } else {
            log::warn!(
                "the write-ahead log of {path} has {size} MiB and cannot be emptied: a reader \
                 does not end (an open transaction, or rows that are not read to the end), or \
                 readers overlap without a gap"
            );
        }
        file.look();
    }
}

/// Returns "wal", "none", or "delete" for each mode with a rollback journal.
pub(super) fn mode(conn: &Connection) -> Result<&'static str, Error> {
    let sql = "PRAGMA main.journal_mode";
    let mode: String = conn.query_row(sql, [], |row| row.get(0))?;
    Ok(match mode.as_str() {
        "wal" => "wal",
        "memory" | "off" => "none",
        _ => "delete",
    })
}

/// Reads the file, so that a connect fails if nothing could be read later. `Ok` if the file
/// is locked, since that passes; so it waits for no lock.
pub(super) fn check_readable(conn: &Connection) -> Result<(), Error> {
    let read = || conn.query_row("PRAGMA main.schema_version", [], |_| Ok(()));
    match waiting_at_most(conn, Duration::ZERO, read)? {
        Err(error) if is_busy(&error) => Ok(()),
        result => result,
    }
}

/// Says why a WAL file in a folder that cannot be written is unreadable. SQLite says only
/// "attempt to write a readonly database", or "unable to open database file".
///
/// Whether the file is in WAL mode is not looked up: POSIX takes all locks of a process from a
/// file when the process closes any descriptor of it, also those of good connections.
pub(super) fn explain(error: Error) -> Error {
    let code = error.sqlite_error_code();
    let is_suspect = matches!(code, Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen));
    match error {
        Error::SqliteFailure(code, text) if is_suspect => {
            let text = text.unwrap_or_else(|| code.to_string());
            Error::SqliteFailure(code, Some(format!("{text}: {NO_FOLDER}")))
        }
        other => other,
    }
}
