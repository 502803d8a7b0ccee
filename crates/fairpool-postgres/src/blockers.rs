//! The sessions whose locks others wait for.

use std::fmt;
use std::time::Duration;

use fairpool::text::{Plain, count};
use postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

/// The cause are backends that others wait for and that wait for no lock themselves.
/// Behind each stands a tree: those that wait for it, and those that wait for them. (Of
/// many that want one row, only the first waits for the row's holder; the others wait for
/// the first.) `pg_blocking_pids` is called only for backends that wait, since it locks
/// the server's lock tables.
const SQL: &str = "\
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
SELECT ends.pid, ends.blocked, state, usename, datname, application_name,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - xact_start),
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - state_change),
    query
FROM ends LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = ends.pid
ORDER BY ends.blocked DESC, ends.pid";

/// A backend that holds locks that others wait for, and waits for none itself. From
/// [`blockers`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Blocker {
    /// The id of its process on the server; zero stands for prepared transactions, which
    /// have no process.
    pub pid: i32,
    /// How many backends wait for it, directly or indirectly.
    pub blocked: u64,
    /// Its state in `pg_stat_activity`: `active`, `idle in transaction`, … `None` if the
    /// asking role may not see it; then the times and the statement are `None` too.
    pub state: Option<String>,
    /// For how long it has been in this state. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub state_for: Option<Duration>,
    /// How long ago its transaction began. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub transaction_for: Option<Duration>,
    /// The statement that runs, or ran last.
    pub query: Option<String>,
    /// The name that the application gave itself.
    pub application_name: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// The database.
    pub database: Option<String>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "prepared transactions")?,
            pid => write!(f, "backend {pid}")?,
        }
        let unseen = "state not visible";
        write!(f, " ({}", Plain(self.state.as_deref().unwrap_or(unseen)))?;
        if let Some(span) = self.state_for {
            write!(f, " for {span:.1?}")?;
        }
        if let Some(span) = self.transaction_for {
            write!(f, ", in a transaction for {span:.1?}")?;
        }
        let name = self.application_name.as_deref().filter(|name| !name.is_empty());
        if let Some(name) = name {
            write!(f, ", application '{}'", Plain(name))?;
        }
        if let Some(user) = &self.user {
            write!(f, ", user '{}'", Plain(user))?;
        }
        let blocked = count(self.blocked, "other", "others");
        write!(f, ") blocks {blocked}")?;
        match &self.query {
            Some(query) => write!(f, "; its last statement: {}", Plain(query)),
            None => Ok(()),
        }
    }
}

/// Lists the backends that hold locks that others wait for and that wait for no lock
/// themselves, those that block most first.
///
/// This explains a pool whose connections are all in use and do not return: they may all
/// wait for one forgotten transaction. Pass a client that is not from that pool, since
/// the pool has none left. A deadlock is not listed, since everybody in it waits; the
/// server resolves deadlocks by itself.
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
    let messages = client.simple_query(SQL)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.map(blocker).collect())
}

fn blocker(row: &SimpleQueryRow) -> Blocker {
    let text = |column: usize| row.get(column).map(str::to_owned);
    let number = |column: usize| row.get(column).and_then(|text| text.parse().ok());
    // Negative if the server's clock was set back.
    let span = |column: usize| {
        let seconds = row.get(column)?.parse::<f64>().ok()?;
        Duration::try_from_secs_f64(seconds.max(0.0)).ok()
    };
    Blocker {
        pid: row.get(0).and_then(|pid| pid.parse().ok()).unwrap_or_default(),
        blocked: number(1).unwrap_or_default(),
        state: text(2),
        user: text(3),
        database: text(4),
        application_name: text(5),
        transaction_for: span(6),
        state_for: span(7),
        // Without a state, the column only says that it may not be seen.
        query: text(2).and_then(|_| text(8)),
    }
}
