//! The manager: what the pool asks of MySQL's driver.

mod errors;
mod limits;
mod reset;
mod role;
mod secrets;
mod settings;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairpool::{CallLimits, ManageConnection};
use mysql::prelude::Queryable;
use mysql::{Conn, Error, Opts};

pub(crate) use self::errors::{is_fatal, is_refused_write};
use self::limits::PoolLimits;
pub use self::reset::Reset;
use self::secrets::Shown;
use crate::connection::{Connection, Deadline, Rules, Session};

/// How long the server may take to answer when a connection returns on which a write was refused,
/// or errors may have gone unseen.
/// As long as a caller's own check may take: far more than a round trip needs.
const ANSWERS_WITHIN: Duration = Duration::from_millis(250);

type Init = dyn Fn(&mut Conn) -> Result<(), Error> + Send + Sync;

/// Opens [`Connection`]s to a MySQL or MariaDB server.
///
/// # Defaults
///
/// With the driver's own defaults, a caller waits for hours on a peer that is gone. Where the
/// options have no value, this manager uses:
///
/// | setting | value | set by |
/// |---|---|---|
/// | time to open the socket, and then for each answer until the session is ready | what fits into the pool's `open_timeout`: 2 s each of 5 | the pool; `tcp_connect_timeout` of the options |
/// | time for a check, a reset | four fifths of the pool's limits | the pool |
/// | time for a read of your own statements | no limit | `read_timeout` of the options |
/// | keepalives | after 5 s of silence, each second, 5 times | the options |
/// | `tcp_user_timeout` (Linux) | when keepalives would give up: 10 s | the options |
/// | other servers | none | [`or_server`](Self::or_server) |
/// | only servers that allow writes | no | [`writes_only`](Self::writes_only) |
/// | reset on return | of what a use may have left | [`reset_on_return`](Self::reset_on_return) |
/// | prepared statements that each connection keeps | 32, or `stmt_cache_size` of the options | [`statement_cache`](Self::statement_cache) |
/// | settings of sessions | none | [`session_setting`](Self::session_setting), [`with_init`](Self::with_init) |
/// | reconnect by the socket (`prefer_socket`) | always off | |
///
/// Limits by the socket exist on Unix; elsewhere the pool's own limits remain.
///
/// # Examples
///
/// ```no_run
/// use fairpool_mysql::MysqlConnectionManager;
/// use fairpool_mysql::mysql::OptsBuilder;
///
/// let options = OptsBuilder::new()
///     .ip_or_hostname(Some("127.0.0.1"))
///     .user(Some("app"))
///     .db_name(Some("shop"));
/// let manager = MysqlConnectionManager::new(options).session_setting("lock_wait_timeout", "2");
/// ```
pub struct MysqlConnectionManager {
    opts: Opts,
    others: Vec<(String, u16)>,
    writes_only: bool,
    settings: Vec<(String, String)>,
    init: Option<Box<Init>>,
    rules: Arc<Rules>,
    limits: PoolLimits,
    /// A server was found to have become read-only, so that checks ask for the role.
    has_seen_read_only: AtomicBool,
}

impl MysqlConnectionManager {
    /// Makes a manager from the driver's options. Opens nothing yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::{MysqlConnectionManager, mysql};
    ///
    /// let options = mysql::OptsBuilder::new().user(Some("app")).db_name(Some("shop"));
    /// let manager = MysqlConnectionManager::new(options);
    /// ```
    #[must_use]
    pub fn new(options: impl Into<Opts>) -> Self {
        Self {
            opts: options.into(),
            others: Vec::new(),
            writes_only: false,
            settings: Vec::new(),
            init: None,
            rules: Arc::default(),
            limits: PoolLimits::default(),
            has_seen_read_only: AtomicBool::new(false),
        }
    }

    /// Makes a manager from a URL: `mysql://user:password@host:3306/database?option=value`. Opens
    /// nothing yet.
    ///
    /// # Errors
    ///
    /// If the driver cannot parse the URL, or an `@` comes after the host: it must be escaped, also
    /// in a password with a `/`, `?` or `#`. The error does not show what may be part of a
    /// password.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::MysqlConnectionManager;
    ///
    /// let manager = MysqlConnectionManager::from_url("mysql://app@localhost/shop")?;
    /// # Ok::<(), fairpool_mysql::mysql::Error>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self, Error> {
        secrets::parse(url).map(Self::new)
    }

    /// Opens a connection to one server.
    fn open(&self, opts: Opts, limit: Duration) -> Result<Connection, Error> {
        let deadline = Deadline::after(limit);
        let mut conn = Deadline::after(limit / 2).explain(Conn::new(opts))?;
        let session = deadline.run(&mut conn, self.timeouts(), |conn| self.set_up(conn))?;
        if self.writes_only && !session.was_writable {
            return Err(role::read_only());
        }
        Ok(Connection::new(conn, Arc::clone(&self.rules), session))
    }

    /// Applies the settings to a new session, and asks what must be known of it.
    fn set_up(&self, conn: &mut Conn) -> Result<Session, Error> {
        const SQL: &str = "SELECT @@version, @@autocommit, @@character_set_client, \
             @@character_set_results, @@collation_connection";
        type Row = (String, u8, String, Option<String>, String);
        let row: Option<Row> = conn.query_first(SQL)?;
        let (version, mut autocommit, client, results, collation) = row.unwrap_or_default();
        let was_writable = role::is_writable(conn)?;
        self.apply(conn)?;
        if self.has_settings() {
            autocommit = conn.query_first("SELECT @@autocommit")?.unwrap_or_default();
        }
        let results = results.unwrap_or_else(|| "NULL".to_owned());
        Ok(Session {
            timeouts: self.timeouts(),
            was_writable,
            is_mariadb: version.to_ascii_lowercase().contains("mariadb"),
            autocommit: autocommit == 1,
            character_sets: format!(
                "SET character_set_client = {client}, character_set_results = {results}, \
                 collation_connection = {collation}"
            ),
        })
    }

    /// Asks for the role on the thread that returns the connection, before the pool lends this one
    /// or another: a reset would only find out while others are lent. Rows that were not read, or a
    /// lost connection, make the question fail.
    #[cold]
    fn is_lost(&self, conn: &mut Connection) -> bool {
        let (inner, state) = conn.parts();
        let why = if state.is_role_in_doubt {
            "a write was refused"
        } else {
            "errors may have gone unseen"
        };
        let deadline = Deadline::after(ANSWERS_WITHIN);
        match deadline.run(inner, state.session.timeouts, role::is_writable) {
            // Not for sure: MariaDB refuses writes a moment before it says so. The reset that follows
            // asks again.
            Ok(is_writable) if is_writable || !state.session.was_writable => {
                state.answered();
                return false;
            }
            Ok(_) => {
                // Siblings that were not in use are asked in their next checks.
                self.has_seen_read_only.store(true, Ordering::Relaxed);
                log::warn!("{why}: the server has become read-only; closing the connection");
            }
            Err(error) => {
                log::warn!(
                    "{why}, and the server does not answer as it should; closing the connection: {error}"
                );
            }
        }
        true
    }

    fn check(&self, conn: &mut Connection, limit: Duration) -> Result<(), Error> {
        let asks = self.writes_only || self.has_seen_read_only.load(Ordering::Relaxed);
        let (inner, state) = conn.parts();
        let asks = asks && state.session.was_writable;
        let checked = Deadline::after(limit).run(inner, state.session.timeouts, |conn| {
            conn.ping()?;
            if asks && !role::is_writable(conn)? { Err(role::read_only()) } else { Ok(()) }
        });
        state.has_failed |= checked.is_err();
        checked
    }
}

/// Shows no value that can be a secret: the password, SQL, and the values of settings.
impl fmt::Debug for MysqlConnectionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlConnectionManager")
            .field("options", &Shown(&self.opts))
            .field("others", &self.others)
            .field("writes_only", &self.writes_only)
            .field("settings", &self.settings.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("reset", &self.rules.reset)
            .finish_non_exhaustive()
    }
}

impl ManageConnection for MysqlConnectionManager {
    type Connection = Connection;
    type Error = Error;

    /// Logs in and applies the settings of sessions.
    ///
    /// # Errors
    ///
    /// That of the last server, if none can be reached and accepts; with
    /// [`writes_only`](MysqlConnectionManager::writes_only), if none allows writes. If the server
    /// rejects a setting (without the setting's value).
    ///
    /// # Panics
    ///
    /// If the options ask for TLS and the driver has no feature for it.
    ///
    /// # Blocking
    ///
    /// For four fifths of the pool's `open_timeout`, all servers together, if a server does not
    /// accept the connection or falls silent. The resolution of names has no limit but the pool's.
    fn connect(&self) -> Result<Connection, Error> {
        let limit = self.limits.open(self.servers());
        let mut result = Err(role::read_only());
        for opts in self.all_options(limit) {
            result = self.open(opts, limit);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Stays within these limits. If the user's own `tcp_connect_timeout` does not fit, returns a
    /// sentence that says so.
    fn check_limits(&self, limits: &CallLimits) -> Vec<String> {
        self.limits.set(limits);
        limits::connect_timeout_misfit(&self.opts, self.servers(), limits).into_iter().collect()
    }

    /// The server's id of the connection, as in `information_schema.processlist` and for `KILL`.
    /// The driver has it from the login. A proxy that shares its sessions (ProxySQL, MaxScale)
    /// gives an id of its own.
    fn backend_id(&self, conn: &mut Connection) -> Option<u32> {
        Some(conn.connection_id())
    }

    /// Makes one round trip, a ping; and one for the server's role, with
    /// [`writes_only`](MysqlConnectionManager::writes_only) or after a server has become read-only.
    ///
    /// # Errors
    ///
    /// If the server did not answer within four fifths of the pool's `validation_timeout`, or has
    /// become read-only, or the connection is broken. It must be closed then.
    fn is_valid(&self, conn: &mut Connection) -> Result<(), Error> {
        self.check(conn, self.limits.validation())
    }

    /// As [`is_valid`](ManageConnection::is_valid), within `limit`. It cannot be made again after
    /// it ran out of time, because the driver would take the late answer for that of the next
    /// request. So the pool's own threads make it
    /// ([`checks_within_limit`](ManageConnection::checks_within_limit) is `false`).
    ///
    /// # Errors
    ///
    /// As [`is_valid`](ManageConnection::is_valid).
    fn is_valid_within(&self, conn: &mut Connection, limit: Duration) -> Result<(), Error> {
        self.check(conn, limit)
    }

    /// Whether the connection must not be used again: because a call had an error that is fatal, or
    /// because a write was refused and the server has become read-only since the connection was
    /// opened; or because errors may have gone unseen, and it does not answer as it should. They
    /// may after the rows of `query_iter`, `exec_iter` and `exec_batch`, and if the driver's
    /// connection was lent and no reset follows.
    ///
    /// # Blocking
    ///
    /// Only after a refused write, or if errors may have gone unseen: for one round trip, and 250
    /// ms at most.
    fn has_broken(&self, conn: &mut Connection) -> bool {
        let (_, state) = conn.parts();
        state.has_failed || state.is_in_doubt() && self.is_lost(conn)
    }

    /// True for errors that this process's own configuration decides, whatever a server or the
    /// network does. Nothing that comes from outside is permanent, because it may change while
    /// callers wait.
    ///
    /// | `connect` fails because | permanent | reason |
    /// |---|---|---|
    /// | the name or value of a [`session_setting`](MysqlConnectionManager::session_setting) cannot be sent | yes | no server is asked |
    /// | the password is wrong (1045), the user may not use the database (1044), the host is not allowed or blocked (1130, 1129) | no | rotated, granted, flushed |
    /// | the database does not exist (1049) | no | it is being created or restored |
    /// | the server rejects a setting (1193, 1231, 1064 …) | no | it may be upgraded, or the next server another version |
    /// | too many connections (1040, 1203, 1226), a shutdown (1053), not ready (1047) | no | the server's state |
    /// | the server is read-only, and only writes are wanted | no | failover |
    /// | refused, unreachable, no such name, timed out, reset, closed | no | the network's or the system's state |
    /// | the server has no TLS, or asks for another method of login | no | the server's configuration |
    fn is_permanent(&self, error: &Error) -> bool {
        errors::is_permanent(error)
    }

    /// True if the connection is lost, in an unknown state, or useless to the next caller.
    ///
    /// Fatal: errors of class 08 (also Galera's "not ready", 1047), the codes of a shutdown, of a
    /// killed session (1927, 3169), of inactivity (4031), a packet that is too large (1153), and a
    /// prepared statement that the server no longer has (1243); and all errors that are not from
    /// the server, unless the client itself rejected a value. Refused writes (1290, 1792, 1836) are
    /// not: see [`has_broken`](ManageConnection::has_broken).
    fn is_fatal(&self, error: &Error) -> bool {
        is_fatal(error)
    }

    /// True if the use may have left what the [`Reset`] of this manager undoes, or a write was
    /// refused.
    fn needs_reset(&self, conn: &mut Connection) -> bool {
        conn.parts().1.needs_reset()
    }

    /// Undoes what [`Reset`] says. If errors may have gone unseen (the driver's connection was
    /// lent), it asks whether the server has become read-only.
    ///
    /// # Errors
    ///
    /// If any step fails, or the server has become read-only. The pool then closes the connection,
    /// because a transaction may still be open.
    ///
    /// # Blocking
    ///
    /// For four fifths of the pool's `reset_timeout` at most, if the server falls silent.
    fn reset(&self, conn: &mut Connection) -> Result<(), Error> {
        let (inner, state) = conn.parts();
        let (level, left, asks) = (self.rules.reset, state.left(), state.asks_role());
        let session = &state.session;
        let deadline = Deadline::after(self.limits.reset());
        let was_open = deadline.run(inner, session.timeouts, |conn| {
            let was_open = reset::undo(conn, level, left, session, self.opts.get_db_name())?;
            if level >= Reset::Session {
                self.apply(conn)?;
            }
            if asks && !role::is_writable(conn)? {
                self.has_seen_read_only.store(true, Ordering::Relaxed);
                return Err(role::read_only());
            }
            Ok(was_open)
        })?;
        state.set_clean();
        state.left_behind = was_open.then_some("an open transaction");
        Ok(())
    }

    /// Returns "an open transaction" if the last reset rolled one back. Only on MariaDB: MySQL does
    /// not tell.
    fn left_behind(&self, conn: &mut Connection) -> Option<Cow<'static, str>> {
        conn.parts().1.left_behind.take().map(Cow::Borrowed)
    }
}
