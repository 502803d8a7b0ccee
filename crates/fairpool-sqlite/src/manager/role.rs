//! What a manager opens its connections for: a pool, or one of the two of a
//! [`Database`](crate::Database).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rusqlite::{Connection, Error, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use super::{SqliteConnectionManager, journal};

const NO_WAL: &str = "a Database needs a file in WAL mode, and this is none";
const IN_MEMORY: &str = "a database in memory has no WAL, so its readers would wait for the writer: \
                         use a Pool, or a file in a temporary folder";
const SET_OFF: &str = "it is not, and the manager has wal(false)";
const NOT_HERE: &str = "SQLite cannot switch it (a file system that cannot share memory?)";
const IN_USE: &str = "it cannot be switched while another connection uses it";
const READ_ONLY: &str = "the writer of a Database cannot write: the file is opened read-only";
const INIT_WRITES: &str = "with_init writes on a reader of a Database, which is query-only: create \
                           tables by `write`, and what is temporary after PRAGMA query_only = OFF";

/// A reader that meets the header of the log half-written takes the writers' lock for a moment, to
/// read it again. So even a writer without a rival waits: for as long as a thread may be kept from
/// running on a busy machine.
const SHORTEST_WAIT_OF_WRITER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads and writes, for a pool.
    #[default]
    Both,
    Writer,
    Reader,
}

impl SqliteConnectionManager {
    /// The managers of a [`Database`](crate::Database): the writer's and the readers'. They
    /// share what is known of the file, and count their connections together.
    pub(crate) fn into_pair(self) -> (Self, Self) {
        (self.in_role(Role::Writer), self.in_role(Role::Reader))
    }

    fn in_role(&self, role: Role) -> Self {
        Self {
            role,
            source: Arc::clone(&self.source),
            init: self.init.clone(),
            // Each pool has its own.
            limits: OnceLock::new(),
            siblings: Arc::clone(&self.siblings),
            journal: Arc::clone(&self.journal),
            checkpoints: Arc::clone(&self.checkpoints),
            ..*self
        }
    }

    pub(super) fn is_reader(&self) -> bool {
        self.role == Role::Reader
    }

    pub(super) fn is_writer(&self) -> bool {
        self.role == Role::Writer
    }

    /// How long statements wait for another connection's lock.
    pub(super) fn lock_wait_of_statements(&self) -> Duration {
        match self.role {
            Role::Writer => self.busy_timeout.max(SHORTEST_WAIT_OF_WRITER),
            Role::Both | Role::Reader => self.busy_timeout,
        }
    }

    /// How a `transaction` begins.
    pub(super) fn behavior(&self) -> TransactionBehavior {
        match self.role {
            Role::Reader => TransactionBehavior::Deferred,
            Role::Writer => self.behavior.unwrap_or(TransactionBehavior::Immediate),
            Role::Both => self.behavior.unwrap_or(TransactionBehavior::Deferred),
        }
    }

    /// Fails if the promises of a [`Database`](crate::Database) would not hold for this
    /// connection. Comes after the switch to WAL.
    pub(super) fn check_role(&self, conn: &Connection, is_file: bool) -> Result<(), Error> {
        if self.role == Role::Both {
            return Ok(());
        }
        if !is_file {
            return Err(misuse(format!("{NO_WAL}: {IN_MEMORY}")));
        }
        if self.role == Role::Writer && conn.is_readonly("main")? {
            // Rights can change; the manager's flags cannot.
            let is_asked = !self.flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE);
            let code = if is_asked { ffi::SQLITE_MISUSE } else { ffi::SQLITE_READONLY };
            return Err(error(code, READ_ONLY.to_owned()));
        }
        match journal::mode(conn)? {
            "wal" => Ok(()),
            _ if !self.wal => Err(misuse(format!("{NO_WAL}: {SET_OFF}"))),
            _ if self.journal.is_pending() => {
                Err(error(ffi::SQLITE_BUSY, format!("{NO_WAL}: {IN_USE} (database is locked)")))
            }
            _ => Err(misuse(format!("{NO_WAL}: {NOT_HERE}"))),
        }
    }

    /// Makes each write of a reader an error at once: of statements, and of `BEGIN IMMEDIATE`.
    ///
    /// Opened read-only, the connection could not create the file, not recover it after a
    /// crash, and not copy the log into it if it is the last to close.
    pub(super) fn set_query_only(&self, conn: &Connection) -> Result<(), Error> {
        if self.is_reader() { conn.execute_batch("PRAGMA query_only = ON") } else { Ok(()) }
    }

    /// What an error of `with_init` means. That it writes on a reader is for the program to
    /// change, and no retry cures it.
    pub(super) fn explain_init(&self, error: Error) -> Error {
        let writes = error.sqlite_error_code() == Some(ErrorCode::ReadOnly);
        if self.is_reader() && writes { misuse(INIT_WRITES.to_owned()) } else { error }
    }
}

/// An error that every attempt will have.
fn misuse(text: String) -> Error {
    error(ffi::SQLITE_MISUSE, text)
}

fn error(code: i32, text: String) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), Some(text))
}
