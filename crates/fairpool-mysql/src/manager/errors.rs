//! What an error means for its connection, and for the next attempt.

use std::io;

use mysql::{DriverError, Error, MySqlError};

/// Whether this process's own configuration decides it, whatever a server does.
pub(super) fn is_permanent(error: &Error) -> bool {
    match error {
        Error::UrlError(_) => true,
        // A setting that this crate has refused: see `refuse`.
        Error::IoError(error) => is_refusal(error),
        _ => false,
    }
}

/// An error of this crate's own about a setting.
pub(super) fn refuse(text: String) -> Error {
    Error::IoError(io::Error::new(io::ErrorKind::InvalidInput, BadSetting(text)))
}

fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<BadSetting>())
}

#[derive(Debug)]
struct BadSetting(String);

impl std::fmt::Display for BadSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSetting {}

/// Whether the connection is lost, in an unknown state, or useless to the next caller.
pub(crate) fn is_fatal(error: &Error) -> bool {
    match error {
        Error::MySqlError(error) => is_fatal_code(error),
        Error::DriverError(error) => !is_rejected_by_client(error),
        Error::UrlError(_) | Error::FromValueError(_) | Error::FromRowError(_) => false,
        // Input and output, what the server sent, TLS.
        _ => true,
    }
}

fn is_fatal_code(error: &MySqlError) -> bool {
    const CODES: [u16; 15] = [
        1053, // shutdown in progress
        1079, // shutdown complete
        1080, // forced close
        1152, // aborted connection
        1153, // a packet too large, after which the server closes
        1184, // aborted connection of a user
        1927, // MariaDB: connection was killed
        2006, // from a proxy: server has gone away
        2013, // from a proxy: lost connection
        2055, // from a proxy: lost connection
        3032, // MySQL: server is offline
        3169, // MySQL: session was killed
        4031, // MySQL: disconnected for inactivity
        9001, // ProxySQL: no server within the time
        9002, // ProxySQL
    ];
    // Class 08: connection exceptions, also Galera's "not ready for application use" (1047).
    error.state.starts_with("08") || CODES.contains(&error.code) || is_lost_statement(error)
}

/// Whether the server no longer has a statement that the driver has prepared: all executions of it
/// on this connection would fail likewise. SQL's own `EXECUTE` has the same code, with that word.
fn is_lost_statement(error: &MySqlError) -> bool {
    error.code == 1243 && error.message.contains("stmt_")
}

/// Whether the client rejected values, so that the connection is not to blame.
fn is_rejected_by_client(error: &DriverError) -> bool {
    matches!(
        error,
        DriverError::MismatchedStmtParams(..)
            | DriverError::Params(_)
            | DriverError::MixedParams
            | DriverError::BulkExecute(_)
            | DriverError::ReadOnlyTransNotSupported
            | DriverError::InvalidPoolConstraints
    )
}

/// Whether this error of a statement may mean that the server has become read-only. Others have
/// these codes too: a transaction that its user made read-only, and `--secure-file-priv`.
pub(crate) fn is_refused_write(error: &Error) -> bool {
    matches!(error, Error::MySqlError(MySqlError { code: 1290 | 1792 | 1836, .. }))
}

#[cfg(test)]
mod tests;
