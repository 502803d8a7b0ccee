//! Errors of our own, in the driver's type, which only the driver can make: the server is asked
//! to raise them.

use postgres::error::SqlState;
use postgres::{Error, GenericClient};

const PREFIX: &str = "fairpool: ";
const HINT: &str = "PostgresConnectionManager::transaction_pooler is set, so consecutive \
     transactions may run on different sessions of the server.";

/// Makes an error with this message and the code 0A000, feature not supported.
pub(crate) fn refuse<C: GenericClient>(inner: &mut C, message: &str) -> Error {
    let (message, hint) = (message.replace('\'', "''"), HINT.replace('\'', "''"));
    let raise = format!(
        "DO $refuse$ BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', \
         MESSAGE = '{PREFIX}{message}', HINT = '{hint}'; END $refuse$"
    );
    match inner.batch_execute(&raise) {
        Err(error) => error,
        Ok(()) => unreachable!("a raised exception is an error"),
    }
}

/// Whether an error was made here.
pub(crate) fn is_refusal(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        db.code() == &SqlState::FEATURE_NOT_SUPPORTED && db.message().starts_with(PREFIX)
    })
}
