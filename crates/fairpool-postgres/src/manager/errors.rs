//! What an error means for its connection, and for the next attempt.

use std::error::Error as _;

use postgres::Error;
use postgres::error::{Severity, SqlState};
use postgres::tls::NoTlsError;

/// Whether only a change of the configuration or an administrator can fix it.
pub(super) fn is_permanent(error: &Error) -> bool {
    match error.code() {
        Some(code) => is_permanent_code(code),
        None => is_config_error(error) || is_tls_mismatch(error),
    }
}

/// Whether the connection is lost, or in an unknown state.
pub(super) fn is_fatal(error: &Error) -> bool {
    match error.as_db_error() {
        Some(db) => {
            let ends_session =
                matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
            ends_session || is_connection_code(db.code())
        }
        None => !is_rejected_by_client(error),
    }
}

fn is_permanent_code(code: &SqlState) -> bool {
    // The last five reject a session setting.
    const CODES: [&SqlState; 9] = [
        &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        &SqlState::INVALID_PASSWORD,
        &SqlState::INVALID_CATALOG_NAME,
        &SqlState::INSUFFICIENT_PRIVILEGE,
        &SqlState::UNDEFINED_OBJECT,
        &SqlState::INVALID_NAME,
        &SqlState::SYNTAX_ERROR,
        &SqlState::INVALID_PARAMETER_VALUE,
        &SqlState::CANT_CHANGE_RUNTIME_PARAM,
    ];
    CODES.contains(&code)
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

fn is_config_error(error: &Error) -> bool {
    const TEXTS: [&str; 4] = [
        "invalid configuration",
        "invalid connection string",
        "authentication error",
        // A parameter that holds a zero byte.
        "error encoding message",
    ];
    has_text(error, &TEXTS)
}

/// Whether TLS is required and one side has none. A failed handshake does not count:
/// a certificate may be renewed at any time.
fn is_tls_mismatch(error: &Error) -> bool {
    const TEXTS: [&str; 3] =
        ["server does not support TLS", "no hostname provided for TLS", "weak sslmode"];
    let Some(cause) = error.source() else {
        return false;
    };
    let text = cause.to_string();
    cause.is::<NoTlsError>()
        || has_text(error, &["error performing TLS"]) && TEXTS.iter().any(|t| text.starts_with(t))
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
