//! What is undone on a connection that returns to the pool.

use postgres::error::SqlState;
use postgres::{Client, Error, SimpleQueryMessage};

use crate::left::Left;
use crate::random;

/// True outside a transaction, where every statement starts its own. Inside one, `BEGIN`
/// came in an earlier message and has an earlier time. Every name is qualified, so that
/// no `search_path` can change the meaning.
pub(crate) const IS_OUTSIDE_TRANSACTION: &str = "SELECT pg_catalog.statement_timestamp() \
     OPERATOR(pg_catalog.=) pg_catalog.transaction_timestamp()";

/// `DISCARD ALL` without `DEALLOCATE ALL`, which would also remove what the driver has
/// prepared. The names of an SQL `PREPARE` are the only rows with a description.
const CLEAN_SESSION: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; \
     SELECT pg_catalog.format('DEALLOCATE %I', name) \
     FROM pg_catalog.pg_prepared_statements WHERE from_sql; \
     UNLISTEN *; CLOSE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DISCARD TEMP; DISCARD SEQUENCES;";

/// The seed of `random`, which `RESET ALL` leaves as it is. A new one has no default: as for a new
/// session, nobody can guess it.
fn new_seed() -> String {
    // Below 1, with as many digits as the server takes into account.
    format!("SELECT pg_catalog.setseed(0.{:015});", random::number() % 1_000_000_000_000_000)
}

/// What to undo on a connection that returns to the pool.
///
/// Set by [`PostgresConnectionManager::reset_on_return`]. The default undoes everything that
/// one caller could leave to the next, and costs nothing where nothing was left: the
/// [`Client`](crate::Client) reads the text of each statement, in 0.1 to 1 µs, and only after
/// a use that may have left something does the pool reset the connection. The reset runs on one
/// of the pool's worker threads. The thread that returns the connection does not wait for it,
/// but the next caller cannot get the connection before it is over.
///
/// # What a session can be left with
///
/// | left behind | [`Off`](Reset::Off) | [`Rollback`](Reset::Rollback) | [`Session`](Reset::Session), [`Always`](Reset::Always) |
/// |---|---|---|---|
/// | a transaction, open or failed: `BEGIN` without an end, a [`Transaction`](crate::Transaction) that was forgotten | stays: the next caller's work becomes part of it, and is lost with it | rolled back, and reported | as `Rollback` |
/// | answers that nobody has read: a `query_raw` or a `COPY` that was dropped half-way | the next caller waits for them | read to their end, within `reset_timeout`, else closed | as `Rollback` |
/// | parameters: `SET`, `set_config`, `SET ROLE`, session authorization, `statement_timeout`, `session_replication_role` | stay | stay | reset, and the manager's settings applied again. Parameters with a dot in their name stay known, with an empty value |
/// | the seed of `random`: `setseed`, `SET seed` | stays: the next caller's numbers can be foreseen | stays | a new one, at random |
/// | `LISTEN`, and notifications that have arrived | stay: the next caller reads them; while nobody does, they take memory | stay | removed |
/// | temporary tables, views, functions, schemas | stay | stay | dropped |
/// | cursors `WITH HOLD` | stay | stay | closed |
/// | advisory locks of the session | stay, and block others | stay | released |
/// | statements named by an SQL `PREPARE` | stay | stay | removed |
/// | what `currval` and `lastval` return, cached values of sequences | stay | stay | removed, after an explicit `nextval` or `setval` or with anything else |
/// | `LOAD`, a backup, a temporary replication slot, a replication origin, connections of dblink | stay | stay | the connection is closed |
/// | `DISCARD ALL`, `DEALLOCATE ALL`, or `DEALLOCATE` of a name such as `s12`: the driver's own statements are gone | statements that are kept are prepared again; for the driver's own, until an error shows it | as `Off` | the connection is closed |
/// | a prepared statement that the server has lost (26000), or whose result has changed by DDL (0A000) | [prepared again](crate::Client#prepared-statements); of the driver's own: the connection is closed after the error | as `Off` | as `Off` |
/// | a [`CancelToken`](crate::CancelToken) that is still held | it does nothing after the return; after a cancel the connection is closed | as `Off` | as `Off` |
/// | open large objects, savepoints, `SET LOCAL`, row and table locks, cursors without `HOLD` | stay as long as the transaction | end with it | end with it |
/// | prepared [`Statement`](crate::Statement)s, the server's plans, the client's cache of types | stay: they are the connection's, and the next caller does not see them | stay | stay |
///
/// "Closed" means closed as a broken connection: the pool then checks each of the others before
/// its next use.
///
/// A transaction that was made ready with `PREPARE TRANSACTION` is no session's; this manager
/// opens no replication sessions.
///
/// # What cannot be seen
///
/// The text of a statement does not show what functions do that are called by views, triggers,
/// rules, policies, operators, casts, defaults and constraints: an `INSERT` that fills a column
/// from its sequence does not reset what `lastval` returns. Nor does it show that `t.f` calls the
/// function `f` if the table `t` has no such column, whether the database has a function of its own
/// by the name of one of PostgreSQL's, of any version, or a `search_path` that starts with
/// `pg_temp`. Use [`Always`](Reset::Always) if something there leaves state. No reset knows
/// the variables of procedural languages (plperl, plpython) and what extensions keep in memory.
///
/// A function that is not PostgreSQL's own may leave anything, so its use is followed by a reset.
/// Name those that leave nothing to [`harmless_functions`].
///
/// [`PostgresConnectionManager::reset_on_return`]: crate::PostgresConnectionManager::reset_on_return
/// [`harmless_functions`]: crate::PostgresConnectionManager::harmless_functions
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reset {
    /// Nothing, unless the holder panicked, or a write was refused (25006) where
    /// `target_session_attrs=read-write`: then as [`Rollback`](Reset::Rollback).
    ///
    /// Use it only if no code leaves anything: an open transaction loses the next caller's
    /// writes.
    Off,
    /// An open transaction is rolled back, after a use that may have left one.
    ///
    /// Costs one round trip after such a use, and one more if a transaction was open.
    Rollback,
    /// As [`Rollback`](Reset::Rollback), and after a use that may have left anything else the
    /// session becomes like new. The default.
    ///
    /// Costs one round trip after such a use; two to four if a transaction may be open or
    /// statements were named by an SQL `PREPARE`.
    #[default]
    Session,
    /// As [`Session`](Reset::Session), after every use, whatever was seen.
    ///
    /// Costs two round trips per return, during which the connection is not available.
    Always,
}

/// Rolls back if a transaction is open, without a warning on the server if none is. Returns
/// whether one was. Reads what is unread.
fn end_transaction(client: &mut Client) -> Result<bool, Error> {
    match client.simple_query(IS_OUTSIDE_TRANSACTION) {
        Ok(answer) if answer.iter().any(is_true) => return Ok(false),
        // Not clearly true: at worst a needless ROLLBACK, which is harmless.
        Ok(_) => {}
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {}
        Err(error) => return Err(error),
    }
    client.batch_execute("ROLLBACK")?;
    Ok(true)
}

/// Makes the session like new.
fn clean_session(client: &mut Client) -> Result<(), Error> {
    let answer = client.simple_query(&format!("{CLEAN_SESSION} {}", new_seed()))?;
    let named = answer
        .iter()
        .skip_while(|message| !matches!(message, SimpleQueryMessage::RowDescription(_)))
        .skip(1)
        .map_while(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
    let deallocate: Vec<&str> = named.collect();
    if !deallocate.is_empty() {
        client.batch_execute(&deallocate.join("; "))?;
    }
    drop_notifications(client)
}

/// After UNLISTEN no more arrive.
fn drop_notifications(client: &mut Client) -> Result<(), Error> {
    use postgres::fallible_iterator::FallibleIterator;

    let mut notifications = client.notifications();
    let mut left = notifications.iter();
    while left.next()?.is_some() {}
    Ok(())
}

/// Undoes on this level what may be left. Returns whether a transaction was open.
pub(super) fn undo(
    client: &mut Client,
    level: Reset,
    left: Left,
    apply_settings: impl FnOnce(&mut Client) -> Result<(), Error>,
) -> Result<bool, Error> {
    let in_transaction = Left::TRANSACTION | Left::UNREAD;
    let was_open = left.intersects(in_transaction) && end_transaction(client)?;
    if level >= Reset::Session && !left.without(in_transaction).is_nothing() {
        clean_session(client)?;
        apply_settings(client)?;
    }
    Ok(was_open)
}

fn is_true(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
}
