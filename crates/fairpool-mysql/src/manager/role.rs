//! The role of the server: whether it allows writes.

use mysql::prelude::Queryable;
use mysql::{Conn, Error, MySqlError};

/// By `SHOW`, because servers have them under different names, and a `SELECT` of one that is missing
/// fails. `super_read_only` sets `read_only` too.
const QUESTION: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
     ('read_only', 'innodb_read_only', 'tx_read_only', 'transaction_read_only')";

/// Asks the server whether it allows writes, in one round trip. What the session or its transaction
/// was set to does not matter.
///
/// # Errors
///
/// If it does not answer.
pub(super) fn is_writable(conn: &mut Conn) -> Result<bool, Error> {
    let variables: Vec<(String, String)> = conn.query(QUESTION)?;
    // MariaDB 12 has more values than ON and OFF.
    Ok(variables.iter().all(|(_, value)| matches!(value.as_str(), "OFF" | "0")))
}

/// The error if it does not: the code of the server's own.
pub(super) fn read_only() -> Error {
    Error::MySqlError(MySqlError {
        code: 1290,
        state: "HY000".to_owned(),
        message: "the server allows no writes: it is read-only".to_owned(),
    })
}
