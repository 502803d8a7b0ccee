//! What an error means for the pool.

use rusqlite::{Error, ErrorCode, ffi};

/// Whether the error comes back at every attempt, because only the program can change it.
///
/// Codes that depend on files, folders, mounts, locks, descriptors, memory or rights are not
/// permanent: all of these change while a program runs.
pub(super) fn is_permanent(error: &Error) -> bool {
    matches!(error, Error::InvalidPath(_) | Error::NulError(_))
        || error.sqlite_error_code() == Some(ErrorCode::ApiMisuse)
}

/// Whether the connection may no longer be good after this error.
pub(super) fn is_fatal(error: &Error) -> bool {
    match error.sqlite_error().map(|error| error.extended_code) {
        // Our commit hook has refused: the file is another one.
        Some(ffi::SQLITE_READONLY_DBMOVED | ffi::SQLITE_CONSTRAINT_COMMITHOOK) => return true,
        // Short of memory, or another connection has the lock.
        Some(ffi::SQLITE_IOERR_NOMEM | ffi::SQLITE_IOERR_BLOCKED) => return false,
        _ => {}
    }
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::InternalMalfunction
        )
    )
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi::*;

    use super::{Error, ffi, is_fatal, is_permanent};

    fn error(code: i32) -> Error {
        Error::SqliteFailure(ffi::Error::new(code), None)
    }

    /// Every code that can come from a connect or a statement.
    const PASSING: &[i32] = &[
        SQLITE_ERROR,
        SQLITE_PERM,
        SQLITE_ABORT,
        SQLITE_ABORT_ROLLBACK,
        SQLITE_BUSY,
        SQLITE_BUSY_RECOVERY,
        SQLITE_BUSY_SNAPSHOT,
        SQLITE_BUSY_TIMEOUT,
        SQLITE_LOCKED,
        SQLITE_LOCKED_SHAREDCACHE,
        SQLITE_NOMEM,
        SQLITE_IOERR_NOMEM,
        SQLITE_IOERR_BLOCKED,
        SQLITE_READONLY,
        SQLITE_READONLY_RECOVERY,
        SQLITE_READONLY_CANTLOCK,
        SQLITE_READONLY_ROLLBACK,
        SQLITE_READONLY_CANTINIT,
        SQLITE_READONLY_DIRECTORY,
        SQLITE_INTERRUPT,
        SQLITE_FULL,
        SQLITE_CANTOPEN,
        SQLITE_CANTOPEN_NOTEMPDIR,
        SQLITE_CANTOPEN_ISDIR,
        SQLITE_CANTOPEN_FULLPATH,
        SQLITE_CANTOPEN_CONVPATH,
        SQLITE_CANTOPEN_SYMLINK,
        SQLITE_PROTOCOL,
        SQLITE_SCHEMA,
        SQLITE_TOOBIG,
        SQLITE_CONSTRAINT,
        SQLITE_CONSTRAINT_UNIQUE,
        SQLITE_MISMATCH,
        SQLITE_NOLFS,
        SQLITE_AUTH,
        SQLITE_RANGE,
    ];
    const FATAL: &[i32] = &[
        SQLITE_INTERNAL,
        SQLITE_IOERR,
        SQLITE_IOERR_READ,
        SQLITE_IOERR_SHORT_READ,
        SQLITE_IOERR_WRITE,
        SQLITE_IOERR_FSYNC,
        SQLITE_IOERR_LOCK,
        SQLITE_IOERR_SHMMAP,
        SQLITE_IOERR_CORRUPTFS,
        SQLITE_CORRUPT,
        SQLITE_CORRUPT_VTAB,
        SQLITE_CORRUPT_INDEX,
        SQLITE_NOTADB,
        SQLITE_READONLY_DBMOVED,
        SQLITE_CONSTRAINT_COMMITHOOK,
    ];

    #[test]
    fn every_code_is_classified() {
        for code in PASSING {
            assert!(!is_permanent(&error(*code)) && !is_fatal(&error(*code)), "{code}");
        }
        for code in FATAL {
            assert!(!is_permanent(&error(*code)) && is_fatal(&error(*code)), "{code}");
        }
        assert!(is_permanent(&error(SQLITE_MISUSE)) && !is_fatal(&error(SQLITE_MISUSE)));
        assert!(is_permanent(&Error::InvalidPath("x".into())));
        assert!(!is_permanent(&Error::QueryReturnedNoRows) && !is_fatal(&Error::InvalidQuery));
    }
}
