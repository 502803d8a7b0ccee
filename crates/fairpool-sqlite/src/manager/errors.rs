//! What an error means for the pool.

use rusqlite::{Error, ErrorCode, ffi};

/// Sure to come back at every attempt: nothing but the program can change it.
///
/// Codes that depend on files, folders, mounts, locks, descriptors, memory or rights are
/// not: all of these come and go while a program runs.
pub(super) fn is_permanent(error: &Error) -> bool {
    matches!(error, Error::InvalidPath(_) | Error::NulError(_))
        || error.sqlite_error_code() == Some(ErrorCode::ApiMisuse)
}

/// Leaves doubt whether the connection is still good.
pub(super) fn is_fatal(error: &Error) -> bool {
    match error.sqlite_extended_error_code() {
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
