//! The server's settings and load.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use fairpool::text::Plain;
use postgres::{Error, SimpleQueryMessage};

use super::AdviseError;
use crate::Client;

const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (\
     'server_version', 'port', 'max_connections', 'superuser_reserved_connections', \
     'reserved_connections', 'statement_timeout', 'lock_timeout', \
     'idle_in_transaction_session_timeout', 'idle_session_timeout')";

/// Uses only columns that every role may see. Clients of the same role, database and
/// application are assumed to belong to this service.
const CLIENTS: &str = "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (\
     WHERE usename = SESSION_USER AND datname = pg_catalog.current_database() \
     AND application_name = pg_catalog.current_setting('application_name')) \
     FROM pg_catalog.pg_stat_activity WHERE datid IS NOT NULL \
     AND coalesce(backend_type, 'client backend') = 'client backend'";

/// The server's settings by name.
pub(super) type Settings = HashMap<String, String>;

/// How many clients the server has.
pub(super) struct Clients {
    all: u64,
    /// How many have this session's role, database and application.
    alike: u64,
}

/// Uses simple queries, which also work through PgBouncer.
pub(super) fn ask(client: &mut Client) -> Result<(Settings, Clients), Error> {
    let settings = rows(client, SETTINGS)?;
    let settings = settings.into_iter().map(|[name, setting]| (name, setting)).collect();
    let counted = rows(client, CLIENTS)?;
    let number = |text: &String| text.parse().unwrap_or_default();
    let (all, alike) = counted.first().map_or((0, 0), |[a, b]| (number(a), number(b)));
    Ok((settings, Clients { all, alike }))
}

fn rows(client: &mut Client, sql: &str) -> Result<Vec<[String; 2]>, Error> {
    let messages = client.simple_query(sql)?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some([0, 1].map(|column| {
            let text: Option<&str> = row.get(column);
            text.unwrap_or_default().to_owned()
        })),
        _ => None,
    };
    Ok(messages.iter().filter_map(row).collect())
}

/// A server's settings and load, as a session of the pool sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ServerFigures {
    /// Its version.
    pub version: String,
    /// The port on which it listens.
    pub port: u16,
    /// How many connections it accepts at most.
    pub max_connections: u32,
    /// How many of those are reserved for superusers, or (from version 16) for members of
    /// `pg_use_reserved_connections`.
    pub reserved: u32,
    /// How many clients are connected.
    pub clients: u64,
    /// How many of those are neither this pool's nor of the same role, database and
    /// application.
    pub others: u64,
    /// The session's `statement_timeout`; `None` is no limit. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub statement_timeout: Option<Duration>,
    /// The session's `lock_timeout`; `None` is no limit. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub lock_timeout: Option<Duration>,
    /// The session's `idle_in_transaction_session_timeout`; `None` is no limit.
    /// Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub idle_in_transaction_session_timeout: Option<Duration>,
    /// The session's `idle_session_timeout` (from version 14); `None` is no limit.
    /// Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::json::seconds_or_none"))]
    pub idle_session_timeout: Option<Duration>,
}

impl ServerFigures {
    /// `own` is the number of the pool's connections.
    pub(super) fn new(
        settings: &Settings,
        clients: Clients,
        own: u64,
    ) -> Result<ServerFigures, AdviseError> {
        let text = |name: &str| {
            let missing = || AdviseError::Answer(format!("there is no {name}"));
            settings.get(name).ok_or_else(missing)
        };
        let wrong = |name: &str, value: &str| AdviseError::Answer(format!("{name} is '{value}'"));
        let number = |name: &str| {
            let value = text(name)?;
            value.parse::<u32>().map_err(|_| wrong(name, value))
        };
        let since_some_version = |name: &str| match settings.contains_key(name) {
            true => number(name),
            false => Ok(0),
        };
        // In milliseconds; zero means no limit.
        let span = |name: &str| -> Result<Option<Duration>, AdviseError> {
            let millis = since_some_version(name)?;
            Ok((millis > 0).then(|| Duration::from_millis(millis.into())))
        };
        let port = number("port")?;
        Ok(ServerFigures {
            version: text("server_version")?.clone(),
            port: port.try_into().map_err(|_| wrong("port", &port.to_string()))?,
            max_connections: number("max_connections")?,
            reserved: number("superuser_reserved_connections")?
                .saturating_add(since_some_version("reserved_connections")?),
            clients: clients.all,
            others: clients.all.saturating_sub(clients.alike.max(own)),
            statement_timeout: span("statement_timeout")?,
            lock_timeout: span("lock_timeout")?,
            idle_in_transaction_session_timeout: span("idle_in_transaction_session_timeout")?,
            idle_session_timeout: span("idle_session_timeout")?,
        })
    }
}

impl fmt::Display for ServerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerFigures { version, max_connections, reserved, others, .. } = self;
        // "15.12 (Debian 15.12-0+deb12u2)": the first word is the version.
        let version = Plain(version.split_whitespace().next().unwrap_or(version));
        write!(
            f,
            "PostgreSQL {version} (max_connections {max_connections}, {reserved} reserved, \
             others use {others})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &[(&str, &str)]) -> Settings {
        let usual = [
            ("server_version", "16.3 (Debian 16.3-1)"),
            ("port", "5432"),
            ("max_connections", "100"),
            ("superuser_reserved_connections", "3"),
        ];
        usual.iter().chain(more).map(|&(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    fn figures(more: &[(&str, &str)]) -> Result<ServerFigures, AdviseError> {
        ServerFigures::new(&settings(more), Clients { all: 30, alike: 8 }, 10)
    }

    #[test]
    fn old_and_new_servers_are_understood() {
        let old = figures(&[("statement_timeout", "0"), ("lock_timeout", "1500")]).unwrap();
        assert_eq!((old.reserved, old.others), (3, 20));
        assert_eq!((old.statement_timeout, old.idle_session_timeout), (None, None));
        assert_eq!(old.lock_timeout, Some(Duration::from_millis(1500)));
        let new = figures(&[("reserved_connections", "5"), ("idle_session_timeout", "1")]);
        let new = new.unwrap();
        assert_eq!(new.reserved, 8);
        assert_eq!(new.idle_session_timeout, Some(Duration::from_millis(1)));
        let text = "PostgreSQL 16.3 (max_connections 100, 8 reserved, others use 20)";
        assert_eq!(new.to_string(), text);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        let error = figures(&[("max_connections", "many")]).unwrap_err().to_string();
        assert_eq!(error, "unexpected server settings: max_connections is 'many'");
        let error = ServerFigures::new(&Settings::new(), Clients { all: 0, alike: 0 }, 0);
        assert!(matches!(error, Err(AdviseError::Answer(_))));
    }
}
