//! The database that connections are opened to.

mod name;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, ffi};

use crate::watched_file::WatchedFile;

use super::secrets;

const MEMORY: &str = ":memory:";
/// A virtual file system that is part of SQLite. Its files live in this process; those
/// whose name begins with a slash are shared by name.
const MEMORY_VFS: &str = "memdb";

const PRIVATE: &str = "this name gives each connection a database of its own, which a pool \
                       cannot use: SqliteConnectionManager::memory() gives one that all share";

pub(super) enum Source {
    File {
        path: PathBuf,
        /// The folder of the process when the manager was made. A relative path means the
        /// same file even after the process has changed its folder.
        folder: Option<PathBuf>,
        /// Keeps a memory database alive, if the path names one.
        anchor: Mutex<Option<Connection>>,
    },
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
        let folder = std::env::current_dir().ok();
        Source::File { path: path.to_owned(), folder, anchor: Mutex::new(None) }
    }

    pub(super) fn memory() -> Source {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The address distinguishes two versions of this crate in one program.
        let name = format!("/fairpool-{:p}-{number}", &raw const COUNT);
        Source::Memory { name, anchor: Mutex::new(None) }
    }

    /// Whether it is a database in memory that this manager has made: nothing outside is asked, and
    /// its connections share no lock but for the time of a copy.
    pub(super) fn is_own_memory(&self) -> bool {
        matches!(self, Source::Memory { .. })
    }

    /// Opens a connection. The file is `None` for a database that is not in a file.
    pub(super) fn open(
        &self,
        flags: OpenFlags,
    ) -> Result<(Connection, Option<WatchedFile>), Error> {
        match self {
            Source::File { path, folder, anchor } => {
                let name = name::absolute(path, folder.as_deref());
                let opened = Connection::open_with_flags(&name, flags);
                let conn = opened.map_err(|error| secrets::of_open(error, &name))?;
                let file = watched_file_of(&conn, &name);
                if file.is_none() {
                    anchor_if_shared(&conn, anchor, &name, flags)?;
                }
                Ok((conn, file))
            }
            Source::Memory { name, anchor } => {
                open_anchor(name, flags, anchor)?;
                let conn = Connection::open_with_flags_and_vfs(name, flags, MEMORY_VFS)?;
                Ok((conn, None))
            }
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => f.debug_tuple("File").field(&secrets::shown(path)).finish(),
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
    let mut anchor = anchor.lock();
    if anchor.is_none() {
        *anchor = Some(Connection::open_with_flags_and_vfs(name, flags, MEMORY_VFS)?);
    }
    Ok(())
}

fn watched_file_of(conn: &Connection, name: &Path) -> Option<WatchedFile> {
    let path = name::file_of(name)?;
    // SQLite's own path has no symbolic links, is empty for what is no file, and is missing
    // if it is not UTF-8.
    match conn.path() {
        Some("") => None,
        Some(resolved) => WatchedFile::of(path, Path::new(resolved)),
        None => WatchedFile::of(path.clone(), &path),
    }
}

/// A database that is no file is fit for a pool if another connection finds the same one.
/// That other connection then keeps it alive.
fn anchor_if_shared(
    conn: &Connection,
    anchor: &Mutex<Option<Connection>>,
    name: &Path,
    flags: OpenFlags,
) -> Result<(), Error> {
    let mut anchor = anchor.lock();
    if anchor.is_some() {
        return Ok(());
    }
    let other = Connection::open_with_flags(name, flags);
    let other = other.map_err(|error| secrets::of_open(error, name))?;
    if !excludes(conn, &other)? {
        let code = ffi::Error::new(ffi::SQLITE_MISUSE);
        return Err(Error::SqliteFailure(code, Some(PRIVATE.to_owned())));
    }
    *anchor = Some(other);
    Ok(())
}

/// Whether two connections lock the same database. Writes nothing.
fn excludes(one: &Connection, other: &Connection) -> Result<bool, Error> {
    const BEGIN: &str = "BEGIN IMMEDIATE";
    for conn in [one, other] {
        conn.busy_timeout(std::time::Duration::ZERO)?;
    }
    if one.is_readonly("main")? {
        // A memory database that is read-only and empty is useless, but harmless.
        return Ok(true);
    }
    match one.execute_batch(BEGIN) {
        Ok(()) => {}
        // Another connection writes, so the database is shared.
        Err(error) if is_busy(&error) => return Ok(true),
        Err(error) => return Err(error),
    }
    let begun = other.execute_batch(BEGIN);
    if begun.is_ok() {
        other.execute_batch("ROLLBACK")?;
    }
    one.execute_batch("ROLLBACK")?;
    match begun {
        Ok(()) => Ok(false),
        Err(error) if is_busy(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

pub(super) fn is_busy(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
