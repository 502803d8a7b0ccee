//! The sessions whose locks others wait for.

use std::fmt;

use fairpool::text::{Plain, count};
use postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use crate::session::{self, ServerSession};

/// The cause are backends that others wait for and that wait for no lock themselves.
/// Behind each stands a tree: those that wait for it, and those that wait for them. (Of
/// many that want one row, only the first waits for the row's holder; the others wait for
/// the first.) `pg_blocking_pids` is called only for backends that wait, since it locks
/// the server's lock tables.
fn sql() -> String {
    let session = session::COLUMNS;
    format!(
        "\
WITH RECURSIVE waits AS MATERIALIZED (
    SELECT pid, pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) AS blocker
    FROM (SELECT DISTINCT pid FROM pg_catalog.pg_locks WHERE NOT granted AND pid IS NOT NULL) AS w
), behind AS (
    SELECT blocker AS first, pid FROM waits WHERE blocker NOT IN (SELECT pid FROM waits)
    UNION
    SELECT behind.first, waits.pid FROM behind JOIN waits ON waits.blocker = behind.pid
), ends AS (
    SELECT first AS pid, pg_catalog.count(*) AS blocked FROM behind GROUP BY first
)
SELECT ends.pid, ends.blocked, a.query, {session}
FROM ends LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = ends.pid
ORDER BY ends.blocked DESC, ends.pid"
    )
}

/// A backend that holds locks that others wait for, and waits for none itself. From
/// [`blockers`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Blocker {
    /// Its session.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub session: ServerSession,
    /// How many backends wait for it, directly or indirectly.
    pub blocked: u64,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocked = count(self.blocked, "other", "others");
        write!(f, "{} blocks {blocked}", self.session)?;
        match &self.session.query {
            Some(query) => write!(f, "; its last statement: {}", Plain(query)),
            None => Ok(()),
        }
    }
}

/// Lists the backends that hold locks that others wait for and that wait for no lock
/// themselves, those that block most first.
///
/// This explains a server on which much waits. Pass a client that is not from a pool of which all
/// connections are in use. [`who_waits`](crate::who_waits) asks for one pool, opens its own
/// connection, and knows the lines of code. A deadlock is not listed, since everybody in it waits;
/// the server resolves deadlocks by itself. The last statements are part of the answer, with the
/// values in them.
///
/// Needs no privilege, but the server shows the state of another role's backend only to
/// members of that role and of `pg_read_all_stats`. Works through PgBouncer.
///
/// # Errors
///
/// If the query fails.
///
/// # Blocking
///
/// One round trip, without a limit of its own.
///
/// # Examples
///
/// ```no_run
/// use fairpool_postgres::{NoTls, blockers, postgres};
///
/// let mut client = postgres::Client::connect("host=localhost user=postgres", NoTls)?;
/// for blocker in blockers(&mut client)? {
///     println!("{blocker}");
/// }
/// # Ok::<(), fairpool_postgres::postgres::Error>(())
/// ```
pub fn blockers(client: &mut Client) -> Result<Vec<Blocker>, Error> {
    // A simple query: PgBouncer may not know a prepared statement the next time.
    let messages = client.simple_query(&sql())?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.map(blocker).collect())
}

fn blocker(row: &SimpleQueryRow) -> Blocker {
    let pid = row.get(0).and_then(|pid| pid.parse().ok()).unwrap_or_default();
    Blocker {
        session: ServerSession::read(pid, row, 3, 2),
        blocked: row.get(1).and_then(|text| text.parse().ok()).unwrap_or_default(),
    }
}
