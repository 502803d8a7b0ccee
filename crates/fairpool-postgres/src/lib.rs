//! A manager for the blocking [`postgres`] crate; feature `postgres`.
//!
//! [`PostgresConnectionManager::new`] takes what `r2d2_postgres` takes, so that
//! changing the crate's name is enough to move. What it adds: limits that
//! notice a dead peer within seconds, session settings, a reset at return, and
//! a judgement of errors by SQLSTATE. [`advise`] compares a pool's settings with
//! its server, and [`blockers`] says who stands in the way of others there.
//!
//! # Facts about `postgres::Client` worth knowing
//!
//! - **Dropping a client closes it, and may block.** The drop waits, without a
//!   limit, until the server has answered everything that was sent: on a silent
//!   server it hangs until the server answers or TCP gives up. The pool drops
//!   clients on its closer threads for that reason; do not take one out of the
//!   pool only to drop it on a thread that must not hang.
//! - **`is_closed` is a hint.** It never looks at the socket, so a client whose
//!   backend died is usually still "open". [`has_broken`] can be no better; use
//!   [`PooledConnection::run`], which asks [`is_fatal`] about each error, or
//!   let the pool validate.
//! - **A client on which a cancel was sent must not be used again.** The server
//!   does not say when it acts on `CancelToken::cancel_query`, so a late cancel
//!   kills a query of the *next* borrower. Mark the connection as broken after
//!   every cancel, whether it seemed to work or not.
//! - **Inside an async runtime a client panics**, in calls and in drop, because
//!   it drives a runtime of its own.
//! - **Out of file descriptors, `connect` panics** (a client needs four). The
//!   pool catches that and counts a failed attempt.
//!
//! [`has_broken`]: ManageConnection::has_broken
//! [`is_fatal`]: ManageConnection::is_fatal
//! [`PooledConnection::run`]: crate::PooledConnection::run

mod advise;
mod blockers;

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

pub use self::advise::{Advice, AdviseError, Recommendation, ServerFigures, advise};
pub use self::blockers::{Blocker, blockers};

pub use ::postgres;
pub use ::postgres::NoTls;

use ::postgres::error::{Severity, SqlState};
use ::postgres::tls::{MakeTlsConnect, NoTlsError, TlsConnect};
use ::postgres::{Client, Config, Error, SimpleQueryMessage, Socket};

use crate::ManageConnection;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const VALIDATION_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVES_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVES_RETRIES: u32 = 5;

/// What `postgres` takes as the idle time if nobody sets one.
const DRIVER_KEEPALIVES_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// True outside a transaction, where every statement starts one of its own.
/// Inside one, the `BEGIN` came in an earlier message and has an earlier time.
/// Every name is qualified, so that no `search_path` can change the meaning.
const IS_OUTSIDE_TRANSACTION: &str = "SELECT pg_catalog.statement_timestamp() \
     OPERATOR(pg_catalog.=) pg_catalog.transaction_timestamp()";

/// `DISCARD ALL` without `DEALLOCATE ALL`: the driver keeps statements of its
/// own for the look-up of types, and would go on using them.
const CLEAN_SESSION: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; \
     UNLISTEN *; CLOSE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DISCARD TEMP; DISCARD SEQUENCES;";

/// What to undo on a connection that comes back to the pool.
///
/// Set by [`PostgresConnectionManager::reset_on_return`]. The reset runs on a
/// worker of the pool; whoever returns the connection does not wait for it, but
/// the connection is not free until it is over.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Nothing, unless the holder panicked: then as [`Rollback`](Reset::Rollback).
    /// The default.
    ///
    /// Right when every transaction goes through
    /// [`Client::transaction`](::postgres::Client::transaction), whose drop
    /// rolls back by itself.
    #[default]
    Off,
    /// A transaction that was left open is rolled back.
    ///
    /// Costs one round trip per return, and one more if there was a
    /// transaction. The server offers no free way to know: the driver hides the
    /// transaction status, and a `ROLLBACK` outside a transaction writes a
    /// warning to the server's log each time.
    Rollback,
    /// As [`Rollback`](Reset::Rollback), and the session is made like new.
    ///
    /// Parameters, role, `LISTEN`, cursors, advisory locks, temporary tables
    /// and sequence caches are reset; then the manager's own session settings
    /// are applied again. Costs two round trips per return.
    ///
    /// Prepared statements stay, since the driver depends on its own. So a name
    /// given by an SQL `PREPARE` is still taken for the next user.
    Session,
}

/// Opens [`postgres::Client`]s, with TLS by `T`.
///
/// # Defaults
///
/// The driver's own defaults wait for hours on a peer that is gone. Where the
/// configuration says nothing, this manager fills in:
///
/// | setting | value | set by |
/// |---|---|---|
/// | `connect_timeout` | 5 s | [`connect_timeout`](Self::connect_timeout) |
/// | keepalives | after 5 s of silence, each second, 5 times | [`keepalives`](Self::keepalives) |
/// | `tcp_user_timeout` | when keepalives would give up: 10 s | [`tcp_user_timeout`](Self::tcp_user_timeout) |
/// | time for `is_valid` | 2 s | [`validation_timeout`](Self::validation_timeout) |
/// | reset at return | off | [`reset_on_return`](Self::reset_on_return) |
/// | session settings | none | [`session_setting`](Self::session_setting) |
///
/// A value in the configuration always wins over these.
///
/// # Examples
///
/// ```no_run
/// use fairpool_postgres::{NoTls, PostgresConnectionManager, Reset};
/// use std::time::Duration;
///
/// let manager = PostgresConnectionManager::new(
///     "host=localhost user=postgres".parse()?,
///     NoTls,
/// )
/// .application_name("billing")
/// .lock_timeout(Duration::from_secs(2))
/// .idle_in_transaction_session_timeout(Duration::from_secs(30))
/// .reset_on_return(Reset::Rollback);
/// # Ok::<(), fairpool_postgres::postgres::Error>(())
/// ```
#[derive(Clone)]
pub struct PostgresConnectionManager<T> {
    config: Config,
    tls: T,
    settings: Vec<(String, String)>,
    validation_timeout: Duration,
    reset: Reset,
}

impl<T> PostgresConnectionManager<T> {
    /// Makes a manager from a configuration and a TLS connector.
    ///
    /// Nothing is opened or looked up yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager, postgres};
    ///
    /// let mut config = postgres::Config::new();
    /// config.host("localhost").user("postgres");
    /// let manager = PostgresConnectionManager::new(config, NoTls);
    /// ```
    pub fn new(config: Config, tls: T) -> Self {
        Self {
            config,
            tls,
            settings: Vec::new(),
            validation_timeout: VALIDATION_TIMEOUT,
            reset: Reset::Off,
        }
    }

    /// Makes a manager from a URL (`postgresql://user@host/database`) or from a
    /// string of `key=value` pairs.
    ///
    /// # Errors
    ///
    /// If the string is not one that [`Config`] can parse.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager};
    ///
    /// let url = "postgresql://postgres@localhost/shop?connect_timeout=3";
    /// let manager = PostgresConnectionManager::from_url(url, NoTls)?;
    /// # Ok::<(), fairpool_postgres::postgres::Error>(())
    /// ```
    pub fn from_url(url: &str, tls: T) -> Result<Self, Error> {
        url.parse().map(|config| Self::new(config, tls))
    }

    /// Bounds the opening of the socket, per address; default 5 s.
    ///
    /// The driver's default is the kernel's two minutes. The bound does not
    /// cover DNS, TLS and authentication: the whole of `connect` is bounded by
    /// the pool's [`open_timeout`](crate::Builder::open_timeout), which should
    /// be the larger of the two.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.config.connect_timeout(limit);
        self
    }

    /// Probes a connection on which nothing arrives: after `idle` of silence,
    /// then every `interval`, until `retries` probes had no answer. Default
    /// 5 s, 1 s and 5.
    ///
    /// This notices a peer that vanished while the connection rested or while a
    /// query was running; a server that only takes long to answer is not
    /// affected, since its kernel answers the probes. The driver's default is
    /// two hours of silence, and so an idle time of exactly two hours in the
    /// configuration is taken as "not set". Each connection at rest costs one
    /// packet pair per `idle`. Unix sockets have no keepalives.
    ///
    /// `keepalives=0` in the configuration turns them off.
    #[must_use]
    pub fn keepalives(mut self, idle: Duration, interval: Duration, retries: u32) -> Self {
        self.config
            .keepalives(true)
            .keepalives_idle(idle)
            .keepalives_interval(interval)
            .keepalives_retries(retries);
        self
    }

    /// Gives up on a connection when sent data had no acknowledgement for so
    /// long; by default the time after which keepalives would give up, 10 s.
    ///
    /// Keepalives pause while data is on its way, so each covers what the other
    /// does not. On Linux this limit also ends the probing, whatever the number
    /// of retries: a smaller value lets one lost probe kill a connection, which
    /// is why the default follows the keepalives. Without keepalives it is
    /// 10 s. Zero leaves it to the kernel (about 15 minutes).
    #[must_use]
    pub fn tcp_user_timeout(mut self, limit: Duration) -> Self {
        self.config.tcp_user_timeout(limit);
        self
    }

    /// Names the connections, as `pg_stat_activity` and the server's log show
    /// them; default none.
    ///
    /// Sent when connecting, like `application_name=…` in the configuration,
    /// and passed on by PgBouncer in every mode.
    #[must_use]
    pub fn application_name(mut self, name: &str) -> Self {
        self.config.application_name(name);
        self
    }

    /// Ends a statement that waits so long for a lock; the server's default is
    /// to wait for ever.
    ///
    /// Without it one forgotten transaction can stop every connection of the
    /// pool. A part of a millisecond counts as one; zero means no limit.
    #[must_use]
    pub fn lock_timeout(self, limit: Duration) -> Self {
        self.session_setting("lock_timeout", milliseconds(limit))
    }

    /// Ends a statement that runs so long; the server's default is no limit.
    ///
    /// A part of a millisecond counts as one; zero means no limit.
    #[must_use]
    pub fn statement_timeout(self, limit: Duration) -> Self {
        self.session_setting("statement_timeout", milliseconds(limit))
    }

    /// Ends a session that rests so long inside a transaction; the server's
    /// default is no limit.
    ///
    /// The server closes the connection, and the locks of whoever forgot to
    /// commit are free again. A part of a millisecond counts as one; zero means
    /// no limit.
    #[must_use]
    pub fn idle_in_transaction_session_timeout(self, limit: Duration) -> Self {
        self.session_setting("idle_in_transaction_session_timeout", milliseconds(limit))
    }

    /// Sets any other parameter on each new connection; default none.
    ///
    /// All settings go to the server in one round trip after connecting, by
    /// `set_config`, so name and value need no quoting, and a list is written
    /// as in `postgresql.conf`: `("search_path", "app, public")`. A name set
    /// twice keeps the last value. A user may still change a parameter;
    /// [`Reset::Session`] brings it back.
    ///
    /// They are not sent as the start-up parameter `options`, which PgBouncer
    /// refuses. Behind a PgBouncer that pools *transactions*, no setting of a
    /// session is reliable: use `ALTER ROLE … SET` there. (PgBouncer reports an
    /// unknown database as a protocol violation, 08P01, which is not permanent.)
    ///
    /// # Errors
    ///
    /// A name or value that the server rejects fails each `connect`, with an
    /// error that counts as permanent.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager};
    ///
    /// let manager = PostgresConnectionManager::from_url("host=localhost", NoTls)?
    ///     .session_setting("search_path", "app, public")
    ///     .session_setting("jit", "off");
    /// # Ok::<(), fairpool_postgres::postgres::Error>(())
    /// ```
    #[must_use]
    pub fn session_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        // The server does not distinguish case in names either.
        self.settings.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        self.settings.push((name, value));
        self
    }

    /// Bounds the plain [`is_valid`](ManageConnection::is_valid); default 2 s.
    ///
    /// The pool does not use it: it calls
    /// [`is_valid_within`](ManageConnection::is_valid_within) with the limit
    /// from its builder. It is for those who call the manager themselves.
    #[must_use]
    pub fn validation_timeout(mut self, limit: Duration) -> Self {
        self.validation_timeout = limit;
        self
    }

    /// Chooses what is undone when a connection comes back; default
    /// [`Reset::Off`].
    #[must_use]
    pub fn reset_on_return(mut self, reset: Reset) -> Self {
        self.reset = reset;
        self
    }

    /// The configuration as used for connecting, defaults filled in.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager};
    /// use std::time::Duration;
    ///
    /// let manager = PostgresConnectionManager::from_url("host=localhost", NoTls)?;
    /// let config = manager.config();
    /// assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(5)));
    /// # Ok::<(), fairpool_postgres::postgres::Error>(())
    /// ```
    pub fn config(&self) -> Config {
        let mut config = self.config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_keepalives_idle() == DRIVER_KEEPALIVES_IDLE {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(KEEPALIVES_INTERVAL);
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(KEEPALIVES_RETRIES);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(keepalives_give_up_after(&config));
        }
        config
    }

    /// The statement that applies the session settings, if there are any.
    fn settings_sql(&self) -> Option<String> {
        let calls: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| {
                let (name, value) = (literal(name), literal(value));
                format!("pg_catalog.set_config({name}, {value}, false)")
            })
            .collect();
        (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
    }

    fn clean_session(&self, client: &mut Client) -> Result<(), Error> {
        let settings = self.settings_sql().unwrap_or_default();
        client.batch_execute(&format!("{CLEAN_SESSION} {settings}"))
    }
}

/// Without the TLS connector, which need not be `Debug`; the driver hides the
/// password.
impl<T> fmt::Debug for PostgresConnectionManager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConnectionManager")
            .field("config", &self.config())
            .field("settings", &self.settings)
            .field("validation_timeout", &self.validation_timeout)
            .field("reset", &self.reset)
            .finish_non_exhaustive()
    }
}

impl<T> ManageConnection for PostgresConnectionManager<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    type Connection = Client;
    type Error = Error;

    /// Connects and applies the session settings.
    ///
    /// # Errors
    ///
    /// If the server is away, refuses, or rejects a setting.
    ///
    /// # Panics
    ///
    /// Inside an async runtime, and if no file descriptor is left.
    fn connect(&self) -> Result<Client, Error> {
        let mut client = self.config().connect(self.tls.clone())?;
        if let Some(settings) = self.settings_sql() {
            client.batch_execute(&settings)?;
        }
        Ok(client)
    }

    /// Makes one round trip, bounded by
    /// [`validation_timeout`](PostgresConnectionManager::validation_timeout).
    ///
    /// # Errors
    ///
    /// If the server did not answer in time, or the connection is broken.
    fn is_valid(&self, client: &mut Client) -> Result<(), Error> {
        client.is_valid(self.validation_timeout)
    }

    /// Tells that the client noticed the end of its connection: a hint, see the
    /// [module](self).
    fn has_broken(&self, client: &mut Client) -> bool {
        client.is_closed()
    }

    /// Makes one round trip, bounded by `limit`.
    ///
    /// # Errors
    ///
    /// If the server did not answer in time, or the connection is broken. A
    /// client that timed out still waits for the answer: its drop may hang.
    fn is_valid_within(&self, client: &mut Client, limit: Duration) -> Result<(), Error> {
        client.is_valid(limit)
    }

    /// True for what only a change of the configuration, or an administrator,
    /// can mend.
    ///
    /// That is: a wrong password or role (class 28), a database that does not
    /// exist (3D000) or may not be used (42501), a session setting that the
    /// server rejects, an incomplete configuration, a method of authentication
    /// or a kind of TLS that one side does not have. Not: too many connections
    /// (53300), starting up or shutting down (57P03), a refused connection, a
    /// name that does not resolve, a failed TLS handshake.
    fn is_permanent(&self, error: &Error) -> bool {
        match error.code() {
            Some(code) => is_permanent_code(code),
            None => is_config_error(error) || is_tls_mismatch(error),
        }
    }

    /// True if the error means that the connection is lost, or in an unknown
    /// state.
    ///
    /// That is: an error of severity FATAL or PANIC, of class 08 or 57P01 to
    /// 57P05; and one that is not from the server at all (I/O, closed,
    /// protocol, timeout), unless it is about a value or a statement that the
    /// client itself rejected. Not class XX: extensions use it for bad input.
    fn is_fatal(&self, error: &Error) -> bool {
        match error.as_db_error() {
            Some(db) => {
                let ends_session =
                    matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
                ends_session || is_connection_code(db.code())
            }
            None => !is_rejected_by_client(error),
        }
    }

    /// True if a [`Reset`] was chosen and the client is not closed.
    fn needs_reset(&self, client: &mut Client) -> bool {
        self.reset != Reset::Off && !client.is_closed()
    }

    /// Does what [`Reset`] says; with [`Reset::Off`], under which the pool asks
    /// for it only after a panic of the holder, the same as with
    /// [`Reset::Rollback`].
    ///
    /// # Errors
    ///
    /// If the server cannot be asked, or anything fails: a connection on which
    /// a transaction may still be open is not passed on.
    fn reset(&self, client: &mut Client) -> Result<(), Error> {
        match self.reset {
            Reset::Off | Reset::Rollback => end_transaction(client),
            Reset::Session => {
                end_transaction(client)?;
                self.clean_session(client)
            }
        }
    }
}

/// Rolls back if a transaction is open, without a warning if none is.
fn end_transaction(client: &mut Client) -> Result<(), Error> {
    match client.simple_query(IS_OUTSIDE_TRANSACTION) {
        Ok(answer) if answer.iter().any(is_true) => return Ok(()),
        // Not plainly true: at worst a ROLLBACK too many, which is harmless.
        Ok(_) => {}
        Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {}
        Err(error) => return Err(error),
    }
    log::warn!("a connection came back inside a transaction, which is rolled back");
    client.batch_execute("ROLLBACK")
}

fn is_true(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
}

fn is_permanent_code(code: &SqlState) -> bool {
    // The last five are answers to a session setting.
    const CODES: [&SqlState; 9] = [
        &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        &SqlState::INVALID_PASSWORD,
        &SqlState::INVALID_CATALOG_NAME,
        &SqlState::INSUFFICIENT_PRIVILEGE,
        &SqlState::UNDEFINED_OBJECT,
        &SqlState::INVALID_NAME,
        &SqlState::SYNTAX_ERROR,
        &SqlState::INVALID_PARAMETER_VALUE,
        &SqlState::CANT_CHANGE_RUNTIME_PARAM,
    ];
    CODES.contains(&code)
}

fn is_connection_code(code: &SqlState) -> bool {
    let code = code.code();
    code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05")
}

/// The driver keeps the kind of an error to itself, so that its text is the
/// only way to tell; the tests make each of these kinds happen.
fn has_text(error: &Error, beginnings: &[&str]) -> bool {
    let text = error.to_string();
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}

fn is_config_error(error: &Error) -> bool {
    const TEXTS: [&str; 4] = [
        "invalid configuration",
        "invalid connection string",
        "authentication error",
        // A parameter that holds a zero byte.
        "error encoding message",
    ];
    has_text(error, &TEXTS)
}

/// Whether TLS is required, but one side has none. A handshake that failed is
/// something else: a certificate may be renewed at any time.
fn is_tls_mismatch(error: &Error) -> bool {
    const TEXTS: [&str; 3] =
        ["server does not support TLS", "no hostname provided for TLS", "weak sslmode"];
    let Some(cause) = error.source() else {
        return false;
    };
    let text = cause.to_string();
    cause.is::<NoTlsError>()
        || has_text(error, &["error performing TLS"]) && TEXTS.iter().any(|t| text.starts_with(t))
}

/// Whether the client turned down a value, a column or a statement, and the
/// connection had no part in it. What is not known here counts as the
/// connection's fault: one reconnect is cheaper than a lost connection that
/// stays in the pool.
fn is_rejected_by_client(error: &Error) -> bool {
    const TEXTS: [&str; 8] = [
        "error serializing parameter",
        "error deserializing column",
        "error encoding message",
        "invalid column `",
        "query returned an unexpected number of",
        "expected ",
        "invalid configuration",
        "invalid connection string",
    ];
    has_text(error, &TEXTS)
}

/// The time at which a silent peer counts as gone, by keepalives alone.
fn keepalives_give_up_after(config: &Config) -> Duration {
    let (idle, interval, retries) = if config.get_keepalives() {
        (
            config.get_keepalives_idle(),
            config.get_keepalives_interval().unwrap_or(KEEPALIVES_INTERVAL),
            config.get_keepalives_retries().unwrap_or(KEEPALIVES_RETRIES),
        )
    } else {
        (KEEPALIVES_IDLE, KEEPALIVES_INTERVAL, KEEPALIVES_RETRIES)
    };
    idle.saturating_add(interval.saturating_mul(retries))
}

/// As the server reads it: whole milliseconds, an `int`, and zero for "never".
/// So a small limit is rounded up, and a huge one ends after 24 days.
fn milliseconds(limit: Duration) -> String {
    let up = limit.as_nanos().div_ceil(1_000_000);
    up.min(i32::MAX as u128).to_string()
}

/// Quotes a string for SQL, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_rounded_up_and_never_to_never() {
        assert_eq!(milliseconds(Duration::ZERO), "0");
        assert_eq!(milliseconds(Duration::from_nanos(1)), "1");
        assert_eq!(milliseconds(Duration::from_micros(1001)), "2");
        assert_eq!(milliseconds(Duration::MAX), "2147483647");
    }

    #[test]
    fn literals_cannot_be_left() {
        assert_eq!(literal("plain"), "'plain'");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"\'"), r"E'\\'''");
    }

    #[test]
    fn a_setting_made_twice_keeps_the_last_value() {
        let manager = PostgresConnectionManager::new(Config::new(), NoTls)
            .session_setting("jit", "on")
            .session_setting("JIT", "off");
        let sql = manager.settings_sql().unwrap();
        assert_eq!(sql, "SELECT pg_catalog.set_config('JIT', 'off', false)");
    }
}
