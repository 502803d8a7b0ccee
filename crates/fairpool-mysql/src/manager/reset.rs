//! What is undone on a connection that returns to the pool.

use mysql::prelude::Queryable;
use mysql::{Conn, Error, MySqlError};

use crate::connection::{Marks, Session};

/// What to undo on a connection that returns to the pool.
///
/// Set by [`MysqlConnectionManager::reset_on_return`]. The default undoes everything that one caller
/// could leave to the next, and costs nothing where nothing was left: the
/// [`Connection`](crate::Connection) reads the text of each statement, in 0.1 to 2 µs, and only after
/// a use that may have left something does the pool reset the connection. The reset runs on one of the
/// pool's worker threads. The thread that returns the connection does not wait for it, but the next
/// caller cannot get the connection before it is over.
///
/// # What a session can be left with
///
/// | left behind | [`Off`](Reset::Off) | [`Rollback`](Reset::Rollback) | [`Session`](Reset::Session), [`Always`](Reset::Always) |
/// |---|---|---|---|
/// | a transaction: `BEGIN` without an end, a [`Transaction`](crate::Transaction) that was forgotten, `autocommit` off | stays: the next caller's work becomes part of it, and is lost with it | rolled back; MariaDB's is reported | as `Rollback` |
/// | variables of the session: `SET`, `SET NAMES`, `autocommit`, `sql_mode` | stay | stay | reset, and the manager's settings applied again |
/// | user variables (`@total`) | stay | stay | removed |
/// | temporary tables | stay | stay | dropped |
/// | locks by `LOCK TABLES`, `GET_LOCK`, `FLUSH TABLES … WITH READ LOCK` | stay, and block others | stay | released |
/// | statements named by an SQL `PREPARE`, open `HANDLER`s | stay | stay | removed |
/// | a handler of the driver for `LOAD DATA LOCAL INFILE` | stays | stays | that of the options |
/// | another default database: `USE` | stays | stays | that of the options; if they have none, the connection is closed |
/// | the driver's own prepared statements | stay: they are the connection's, and the next caller does not see them | stay | removed if there was something to reset: they are prepared again |
/// | what `LAST_INSERT_ID()`, `FOUND_ROWS()` and `SHOW WARNINGS` return | stays until the next statement that sets it | stays | stays after the usual statements, else reset |
///
/// "The usual statements" are `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `REPLACE` and `SHOW`, with no
/// user variable and no function that is not known to leave nothing, and transactions by
/// [`start_transaction`](crate::Connection::start_transaction) that have ended. All else is followed by
/// a reset.
///
/// # What cannot be seen
///
/// The text of a statement does not show what triggers, views and defaults call, or that the database
/// has a function of its own by the name of one of the server's. Use [`Always`](Reset::Always) if
/// something there leaves state; name those of your own functions that leave nothing to
/// [`harmless_functions`]. No reset undoes
/// [`change_user`](mysql::Conn::change_user) and `SET ROLE` of the driver's connection.
///
/// [`MysqlConnectionManager::reset_on_return`]: crate::MysqlConnectionManager::reset_on_return
/// [`harmless_functions`]: crate::MysqlConnectionManager::harmless_functions
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reset {
    /// Nothing, unless the holder panicked, or a write was refused: then as
    /// [`Rollback`](Reset::Rollback).
    ///
    /// Use it only if no code leaves anything: an open transaction loses the next caller's writes.
    Off,
    /// An open transaction is rolled back, after a use that may have left one. One round trip.
    Rollback,
    /// After a use that may have left anything the session becomes like new, by
    /// `COM_RESET_CONNECTION`. The default.
    ///
    /// Costs two round trips after such a use, and one for each setting of sessions: one for all
    /// [`session_setting`](crate::MysqlConnectionManager::session_setting)s, one for each statement of
    /// `init`. One more after statements that are not the usual ones.
    #[default]
    Session,
    /// As [`Session`](Reset::Session), after every use, whatever was seen.
    Always,
}

/// Undoes on this level what may be left. Returns whether a transaction was open, where the server
/// tells.
pub(super) fn undo(
    conn: &mut Conn,
    level: Reset,
    left: Marks,
    session: &Session,
    database: Option<&str>,
) -> Result<bool, Error> {
    let was_open = left.transaction && session.is_mariadb && is_in_transaction(conn)?;
    if level < Reset::Session {
        if left.transaction {
            conn.query_drop("ROLLBACK")?;
        }
        return Ok(was_open);
    }
    // Rolls back, too.
    conn.reset()?;
    // The driver keeps it through a reset.
    conn.set_local_infile_handler(None);
    // MySQL says that a reset sets them to the server's own.
    conn.query_drop(&session.character_sets)?;
    if left.transaction {
        restore_database(conn, database)?;
    }
    Ok(was_open)
}

fn is_in_transaction(conn: &mut Conn) -> Result<bool, Error> {
    Ok(conn.query_first::<u8, _>("SELECT @@in_transaction")? == Some(1))
}

/// No command resets the default database.
fn restore_database(conn: &mut Conn, database: Option<&str>) -> Result<(), Error> {
    if let Some(name) = database {
        return conn.select_db(name);
    }
    match conn.query_first::<Option<String>, _>("SELECT DATABASE()")?.flatten() {
        None => Ok(()),
        Some(_) => Err(Error::MySqlError(MySqlError {
            code: 1046,
            state: "3D000".to_owned(),
            message: "a holder has chosen a database, and the options have none to return to"
                .to_owned(),
        })),
    }
}
