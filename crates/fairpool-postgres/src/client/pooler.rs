//! What a connection through a pooler that pools transactions needs.

use postgres::error::SqlState;
use postgres::{Client, Error, GenericClient, SimpleQueryMessage};

const PREFIX: &str = "fairpool: ";
const HINT: &str = "PostgresConnectionManager::transaction_pooler is set, so consecutive \
     transactions may run on different sessions of the server.";

/// Makes an error with this message and the code 0A000, feature not supported. The driver's error
/// has no constructor, so the server is asked to raise it.
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

/// Whether an error was made by [`refuse`].
pub(crate) fn is_refusal(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        db.code() == &SqlState::FEATURE_NOT_SUPPORTED && db.message().starts_with(PREFIX)
    })
}

/// The database's own types but those of the rows of tables, as expressions. The limit is that
/// of a select list.
const OWN_TYPES: &str = "SELECT pg_catalog.format('NULL::%I.%I', n.nspname, t.typname) \
     FROM pg_catalog.pg_type t \
     JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
     LEFT JOIN pg_catalog.pg_class c ON c.oid IN (t.typrelid, e.typrelid) \
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND t.typtype <> 'p' \
     AND coalesce(c.relkind, 'c') = 'c' \
     AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
     AND pg_catalog.has_type_privilege(t.oid, 'USAGE') LIMIT 1600";

/// Lets the client look up all types that it may meet, in one transaction: it keeps the statements
/// with which it does so, and on another session they would not exist.
pub(crate) fn learn_own_types(client: &mut Client) -> Result<(), Error> {
    let answer = client.simple_query(OWN_TYPES)?;
    let types: Vec<&str> = answer
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    if types.is_empty() {
        return Ok(());
    }
    let mut transaction = client.transaction()?;
    // Dropped, and so closed, before the transaction ends.
    drop(transaction.prepare(&format!("SELECT {}", types.join(", ")))?);
    transaction.commit()
}
