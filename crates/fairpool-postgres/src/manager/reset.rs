//! What is undone on a connection that returns to the pool.

use postgres::error::SqlState;
use postgres::{Client, Error, SimpleQueryMessage};

/// True outside a transaction, where every statement starts its own. Inside one, `BEGIN`
/// came in an earlier message and has an earlier time. Every name is qualified, so that
/// no `search_path` can change the meaning.
const IS_OUTSIDE_TRANSACTION: &str = "SELECT pg_catalog.statement_timestamp() \
     OPERATOR(pg_catalog.=) pg_catalog.transaction_timestamp()";

/// `DISCARD ALL` without `DEALLOCATE ALL`: the driver keeps prepared statements for type
/// lookups and would go on using them.
const CLEAN_SESSION: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; \
     UNLISTEN *; CLOSE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DISCARD TEMP; DISCARD SEQUENCES;";

/// What to undo on a connection that returns to the pool.
///
/// Set by [`PostgresConnectionManager::reset_on_return`]. The reset runs on one of the
/// pool's worker threads. The thread that returns the connection does not wait for it,
/// but the next caller cannot get the connection before it is over.
///
/// [`PostgresConnectionManager::reset_on_return`]: crate::PostgresConnectionManager::reset_on_return
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Nothing, unless the holder panicked: then as [`Rollback`](Reset::Rollback).
    /// The default.
    ///
    /// Right when every transaction goes through [`postgres::Client::transaction`],
    /// whose drop rolls back.
    #[default]
    Off,
    /// An open transaction is rolled back.
    ///
    /// Costs one round trip per return, and one more if a transaction was open. There is
    /// no free check: the driver hides the transaction status, and a `ROLLBACK` outside
    /// a transaction writes a warning to the server's log each time.
    Rollback,
    /// As [`Rollback`](Reset::Rollback), and the session becomes like new.
    ///
    /// Resets parameters, role, `LISTEN`, cursors, advisory locks, temporary tables and
    /// sequence caches, then applies the manager's session settings again. Costs two
    /// round trips per return.
    ///
    /// Prepared statements stay, since the driver depends on its own. A name given by an
    /// SQL `PREPARE` is therefore still taken for the next holder.
    Session,
}

/// Rolls back if a transaction is open, without a warning if none is.
pub(super) fn end_transaction(client: &mut Client) -> Result<(), Error> {
    match client.simple_query(IS_OUTSIDE_TRANSACTION) {
        Ok(answer) if answer.iter().any(is_true) => return Ok(()),
        // Not clearly true: at worst a needless ROLLBACK, which is harmless.
        Ok(_) => {}
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {}
        Err(error) => return Err(error),
    }
    log::warn!("rolling back a transaction that was open when its connection returned");
    client.batch_execute("ROLLBACK")
}

/// Makes the session like new, then applies these settings.
pub(super) fn clean_session(client: &mut Client, settings_sql: &str) -> Result<(), Error> {
    client.batch_execute(&format!("{CLEAN_SESSION} {settings_sql}"))
}

fn is_true(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
}
