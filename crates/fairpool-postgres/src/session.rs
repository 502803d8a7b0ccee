//! A session, as `pg_stat_activity` shows it.

use std::fmt;
use std::time::Duration;

use fairpool::text::Plain;
use postgres::SimpleQueryRow;

/// What [`ServerSession::read`] reads, of `pg_stat_activity` as `a`. Null if there is no such row.
pub(crate) const COLUMNS: &str = "a.pid, a.state, a.usename, a.datname, a.application_name, \
    a.backend_type, EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), \
    EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.state_change)";
pub(crate) const NUMBER_OF_COLUMNS: usize = 8;

/// A session of the server, as `pg_stat_activity` shows it.
///
/// The server shows the state, the times and the statement of another role's session only to
/// members of that role and of `pg_read_all_stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ServerSession {
    /// The id of its process on the server; zero stands for prepared transactions, which
    /// have no process.
    pub pid: i32,
    /// Whether the server lists it. If not, it has ended, and nothing else is known of it.
    pub is_listed: bool,
    /// Its state: `active`, `idle in transaction`, … `None` if the asking role may not see it; then
    /// the times and the statement are `None` too.
    pub state: Option<String>,
    /// For how long it has been in this state. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub state_for: Option<Duration>,
    /// How long ago its transaction began. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub transaction_for: Option<Duration>,
    /// The statement that runs, or ran last; `None` too if it was not asked for.
    pub query: Option<String>,
    /// The name that the application gave itself.
    pub application_name: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// What kind of process it is: `client backend`, `autovacuum worker`, …
    pub backend_type: Option<String>,
}

impl ServerSession {
    /// A session of which nothing is known.
    pub(crate) fn unlisted(pid: i32) -> ServerSession {
        ServerSession { pid, ..ServerSession::default() }
    }

    /// Reads [`COLUMNS`] from this column on, and the statement from `query`.
    pub(crate) fn read(pid: i32, row: &SimpleQueryRow, first: usize, query: usize) -> Self {
        let text = |column: usize| row.get(first + column).map(str::to_owned);
        let state = text(1);
        // Without a state, the column only says that it may not be seen.
        let query = state.as_ref().and_then(|_| row.get(query)).map(str::to_owned);
        ServerSession {
            pid,
            is_listed: row.get(first).is_some(),
            state,
            user: text(2),
            database: text(3),
            application_name: text(4),
            backend_type: text(5),
            transaction_for: span(row, first + 6),
            state_for: span(row, first + 7),
            query,
        }
    }

    /// Its state and for how long, as in "idle in transaction for 4.0s".
    pub(crate) fn state_text(&self) -> String {
        let state = Plain(self.state.as_deref().unwrap_or("state not visible"));
        match self.state_for {
            Some(span) => format!("{state} for {span:.1?}"),
            None => state.to_string(),
        }
    }

    /// Whether it is in a transaction and waits for its client.
    pub(crate) fn is_idle_in_transaction(&self) -> bool {
        // The other such state ends with "(aborted)".
        self.state.as_deref().is_some_and(|state| state.starts_with("idle in transaction"))
    }
}

/// A number of seconds. Negative if the server's clock was set back.
pub(crate) fn span(row: &SimpleQueryRow, column: usize) -> Option<Duration> {
    let seconds = row.get(column)?.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

impl fmt::Display for ServerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "prepared transactions")?,
            pid => write!(f, "backend {pid}")?,
        }
        write!(f, " ({}", self.state_text())?;
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
        let kind = self.backend_type.as_deref().filter(|&kind| kind != "client backend");
        if let Some(kind) = kind {
            write!(f, ", {}", Plain(kind))?;
        }
        f.write_str(")")
    }
}
