//! What an error means for its connection, and for the next attempt.

use std::error::Error as _;

use postgres::Error;
use postgres::error::{Severity, SqlState};
use postgres::tls::NoTlsError;

/// Whether this process's own configuration decides it, whatever a server does.
pub(super) fn is_permanent(error: &Error) -> bool {
    error.as_db_error().is_none() && (is_config_error(error) || is_tls_mismatch(error))
}

/// Whether the connection is lost, or in an unknown state.
pub(super) fn is_fatal(error: &Error) -> bool {
    match error.as_db_error() {
        Some(db) => {
            // PgBouncer and old servers send only the severity that may be translated.
            let ends_session = match db.parsed_severity() {
                Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
                None => matches!(db.severity(), "FATAL" | "PANIC"),
            };
            ends_session || is_connection_code(db.code())
        }
        None => !is_rejected_by_client(error),
    }
}

fn is_connection_code(code: &SqlState) -> bool {
    let code = code.code();
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05")
}

/// Recognises an error by its text, because the driver keeps the kind private. The tests
/// provoke each of these kinds.
fn has_text(error: &Error, beginnings: &[&str]) -> bool {
    let text = error.to_string();
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}

fn has_cause(error: &Error, beginnings: &[&str]) -> bool {
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}

fn is_config_error(error: &Error) -> bool {
    const TEXTS: [&str; 3] = [
        "invalid configuration",
        "invalid connection string",
        // A parameter that holds a zero byte.
        "error encoding message",
    ];
    // Whether a password is needed is the server's decision.
    has_text(error, &TEXTS) && !has_cause(error, &["password missing"])
}

/// Whether the driver refuses the combination of TLS settings and connector. What the
/// server lacks does not count.
fn is_tls_mismatch(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<NoTlsError>())
        || has_text(error, &["error performing TLS"]) && has_cause(error, &["weak sslmode"])
}

/// Whether the client rejected a value, a column or a statement, so that the connection
/// is not to blame. Any other error is blamed on the connection: one reconnect is cheaper
/// than a lost connection that stays in the pool.
fn is_rejected_by_client(error: &Error) -> bool {
    const TEXTS: [&str; 8] = [
        "error serializing parameter",
        "error deserializing column",
        "error encoding message",
        "invalid column `",
        "query returned an unexpected number of",
        "expected ",
        "invalid configuration",
        "invalid connection string",
    ];
    has_text(error, &TEXTS)
}

#[cfg(test)]
mod tests;
