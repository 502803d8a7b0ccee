//! The command line and the environment, checked before anything is touched.

use std::env;
use std::time::Duration;

use clap::{Parser, value_parser};
use fairpool_postgres::postgres::config::SslMode;
use fairpool_postgres::postgres::{Config, Error};
use fairpool_postgres::{NoTls, PostgresConnectionManager};

use crate::problem::{Problem, chain};

/// What to run.
pub struct Options {
    pub threads: u32,
    pub connections: u32,
    pub duration: Duration,
    pub timeout: Duration,
    pub database: Database,
}

/// Where to run it.
pub enum Database {
    /// On a temporary file.
    Sqlite,
    /// On a server; errors say which setting has named it.
    Postgres { config: Box<Config>, named_by: &'static str },
}

/// Threads share a few connections to a database through a fairpool, and the data is checked at the
/// end
#[derive(Parser)]
#[command(name = "quickstart")]
struct Arguments {
    /// Worker threads
    #[arg(long, value_name = "N", default_value_t = 32, allow_negative_numbers = true)]
    #[arg(value_parser = value_parser!(u32).range(1..=2000))]
    threads: u32,

    /// Connections in the pool; on SQLite there is one more, which writes
    // Each takes four file descriptors in `postgres`: 200 still fit into the usual 1024.
    #[arg(long, value_name = "N", default_value_t = 8, allow_negative_numbers = true)]
    #[arg(value_parser = value_parser!(u32).range(1..=200))]
    connections: u32,

    /// How long to work
    #[arg(long, value_name = "S", default_value_t = 5, allow_negative_numbers = true)]
    #[arg(value_parser = value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// How long a thread waits for a connection before it counts a timeout and tries again
    #[arg(long, value_name = "MS", default_value_t = 1000, allow_negative_numbers = true)]
    #[arg(value_parser = value_parser!(u32).range(0..=60_000))]
    timeout_ms: u32,

    /// PostgreSQL server, postgres://user:password@host:port/database [env: DATABASE_URL] [default:
    /// an SQLite file]
    // Not clap's own `env`: it would show the value, password and all, in `--help`.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl Options {
    /// `None` if the user wanted to read the help and now has.
    pub fn from_command_line() -> Result<Option<Options>, Problem> {
        let arguments = match Arguments::try_parse() {
            Ok(arguments) => arguments,
            Err(error) if error.use_stderr() => return Err(usage(&error)),
            Err(help) => {
                // A closed pipe is the reader's choice.
                let _ = help.print();
                return Ok(None);
            }
        };
        Ok(Some(Options {
            threads: arguments.threads,
            connections: arguments.connections,
            duration: Duration::from_secs(arguments.seconds.into()),
            timeout: Duration::from_millis(arguments.timeout_ms.into()),
            database: database(arguments.database_url)?,
        }))
    }
}

/// The first line of what clap has to say; the rest is tips and usage.
fn usage(error: &clap::Error) -> Problem {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    // clap quotes the argument that it does not understand.
    if line.contains("://") || line.contains("password") {
        return Problem::Usage(
            "an argument is not understood (not shown, it may hold a password); \
             the database goes into --database-url"
                .into(),
        );
    }
    Problem::Usage(line.trim_start_matches("error: ").into())
}

fn database(argument: Option<String>) -> Result<Database, Problem> {
    if let Some(url) = argument {
        return postgres(&url, "--database-url");
    }
    match env::var("DATABASE_URL") {
        // Set but empty is how many shells and CI systems say "not set".
        Err(env::VarError::NotPresent) => Ok(Database::Sqlite),
        Ok(url) if url.is_empty() => Ok(Database::Sqlite),
        Ok(url) => postgres(&url, "DATABASE_URL"),
        Err(env::VarError::NotUnicode(_)) => {
            Err(Problem::setting("DATABASE_URL", "is not valid UTF-8"))
        }
    }
}

fn postgres(url: &str, named_by: &'static str) -> Result<Database, Problem> {
    let wrong = |why: String| Problem::setting(named_by, why);
    let Some(rest) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))
    else {
        return Err(wrong(
            "must begin with postgres:// or postgresql://; leave it out to run on SQLite".into(),
        ));
    };
    // The driver would take the host to begin at the first one, and the rest of
    // the password would show up in messages as part of the host.
    if rest.split('?').next().unwrap_or_default().matches('@').count() > 1 {
        return Err(wrong("has more than one @; within a password write it as %40".into()));
    }

    let unclear = |e: Error| {
        wrong(format!("{} (want postgres://user:password@host:port/database)", chain(&e)))
    };
    // The manager's error shows no part of a password, unlike the driver's.
    PostgresConnectionManager::from_url(url, NoTls).map_err(unclear)?;
    let config: Config = url.parse().map_err(unclear)?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(wrong("names no host".into()));
    }
    if config.get_ssl_mode() == SslMode::Require {
        return Err(wrong(
            "asks for sslmode=require, but this example is built without TLS".into(),
        ));
    }
    Ok(Database::Postgres { config: Box::new(config), named_by })
}
