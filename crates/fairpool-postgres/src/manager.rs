//! The manager: what the pool asks of PostgreSQL's driver.

mod credentials;
mod errors;
mod limits;
mod reset;
mod secrets;
mod settings;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use fairpool::stats::DriverCount;
use fairpool::{CallLimits, ManageConnection};
use postgres::config::TargetSessionAttrs;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::{Config, Error, Socket};

use self::credentials::Source;
pub use self::credentials::{Credentials, WhyAsked};
use self::limits::PoolLimits;
pub(crate) use self::reset::IS_OUTSIDE_TRANSACTION;
pub use self::reset::Reset;
use self::secrets::Shown;
pub(crate) use self::secrets::from_server;
use crate::client::{
    Client, Rules, ServerRole, StatementCounts, is_lost_statement, is_refusal, learn_own_types,
    refuse,
};

const SETTINGS_BEHIND_POOLER: &str = "session settings need a session of their own: set them for \
     the role instead, with ALTER ROLE ... SET";

/// The limit of a check that no pool limits.
const VALIDATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens [`Client`]s, with TLS by `T`.
///
/// # Defaults
///
/// With the driver's own defaults, a caller waits for hours on a peer that is gone. Where
/// the configuration has no value, this manager uses:
///
/// | setting | value | set by |
/// |---|---|---|
/// | `connect_timeout` | what fits into the pool's `open_timeout`, otherwise 5 s | [`connect_timeout`](Self::connect_timeout) |
/// | keepalives | after 5 s of silence, each second, 5 times | [`keepalives`](Self::keepalives) |
/// | `tcp_user_timeout` | when keepalives would give up: 10 s | [`tcp_user_timeout`](Self::tcp_user_timeout) |
/// | reset on return | of what a use may have left | [`reset_on_return`](Self::reset_on_return) |
/// | transaction pooler | none | [`transaction_pooler`](Self::transaction_pooler) |
/// | prepared statements that each connection keeps | 256 | [`statement_cache`](Self::statement_cache) |
/// | session settings | none | [`session_setting`](Self::session_setting) |
/// | user and password | the configuration's | [`credentials`](Self::credentials) |
///
/// A value in the configuration always takes precedence.
///
/// # Examples
///
/// ```no_run
/// use fairpool_postgres::{NoTls, PostgresConnectionManager};
/// use std::time::Duration;
///
/// let manager = PostgresConnectionManager::new(
///     "host=localhost user=postgres".parse()?,
///     NoTls,
/// )
/// .application_name("billing")
/// .lock_timeout(Duration::from_secs(2))
/// .idle_in_transaction_session_timeout(Duration::from_secs(30));
/// # Ok::<(), fairpool_postgres::postgres::Error>(())
/// ```
#[derive(Clone)]
pub struct PostgresConnectionManager<T> {
    config: Config,
    tls: T,
    settings: Vec<(String, String)>,
    credentials: Option<Arc<Source>>,
    rules: Arc<Rules>,
    limits: PoolLimits,
    /// Questions beside the pool that have no answer yet. Clones count together.
    pub(crate) questions: Arc<AtomicU32>,
}

/// Whether an error of a call makes the connection useless to the next caller.
pub(crate) fn is_fatal(error: &Error) -> bool {
    is_fatal_but_for_statements(error) || is_lost_statement(error)
}

/// The same where a lost statement is prepared again.
pub(crate) fn is_fatal_but_for_statements(error: &Error) -> bool {
    errors::is_fatal(error)
}

impl<T> PostgresConnectionManager<T> {
    /// Makes a manager from a configuration and a TLS connector. Opens nothing yet.
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
    #[must_use]
    pub fn new(config: Config, tls: T) -> Self {
        let limits = PoolLimits::default();
        let settings = Vec::new();
        let (rules, questions) = Default::default();
        Self { config, tls, settings, credentials: None, rules, limits, questions }
    }

    /// Makes a manager from a URL (`postgresql://user@host/database`) or from a string of
    /// `key=value` pairs. Opens nothing yet.
    ///
    /// # Errors
    ///
    /// If [`Config`] cannot parse the string. The error does not show what may be part of a
    /// password.
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
        secrets::parse(url).map(|config| Self::new(config, tls))
    }
}

/// Omits the TLS connector, which need not be `Debug`, and every value that can be a
/// secret: the password, `options`, and those of session settings.
impl<T> fmt::Debug for PostgresConnectionManager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConnectionManager")
            .field("config", &Shown(&self.config()))
            .field("settings", &self.settings.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("credentials", &self.credentials.as_ref().map(|_| "asked for"))
            .field("reset", &self.rules.reset)
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

    /// Connects, applies the session settings and asks for the number of the backend, in one round
    /// trip after the login.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, refuses, or rejects a setting (without the setting's
    /// value); if the closure of [`credentials`](PostgresConnectionManager::credentials) fails; or
    /// if there are session settings and a
    /// [`transaction_pooler`](PostgresConnectionManager::transaction_pooler).
    ///
    /// # Panics
    ///
    /// Inside an async runtime, and without free file descriptors.
    ///
    /// # Blocking
    ///
    /// Up to [`connect_timeout`](PostgresConnectionManager::connect_timeout) for each
    /// address, and without a limit for DNS, TLS, authentication and the settings. As long as the
    /// closure of [`credentials`](PostgresConnectionManager::credentials) does.
    fn connect(&self) -> Result<Client, Error> {
        let log_in = |config: &Config| {
            let config = self.with_defaults(config);
            let connected = config.connect(self.tls.clone());
            connected.map_err(|error| secrets::of_connect(error, &config))
        };
        let mut client = match &self.credentials {
            Some(source) => source.log_in(&self.config, log_in)?,
            None => log_in(&self.config)?,
        };
        let mut backend = None;
        if !self.rules.transaction_pooler {
            backend = self.set_up(&mut client)?;
        } else if self.has_settings() {
            return Err(refuse(&mut client, SETTINGS_BEHIND_POOLER));
        } else {
            learn_own_types(&mut client)?;
        }
        let role = ServerRole::of(self.config.get_target_session_attrs(), self.is_read_only());
        let seat = backend.map(|backend| self.rules.join(backend));
        Ok(Client::new(client, Arc::clone(&self.rules), role, seat))
    }

    /// The id of the server's process for the connection: `pid` in `pg_stat_activity` and in the
    /// server's log. Behind PgBouncer that pools sessions, that of the server's process too.
    ///
    /// `None` behind a [`transaction_pooler`](PostgresConnectionManager::transaction_pooler), where
    /// each transaction may have another one. (If such a pooler is there and not declared, the
    /// number is that of the process that answered first.)
    fn backend_id(&self, client: &mut Client) -> Option<u32> {
        client.backend_id()
    }

    /// Sets the default of [`connect_timeout`](PostgresConnectionManager::connect_timeout) so
    /// that it fits into the pool's `open_timeout`. If the user has set a value that does not
    /// fit, returns a sentence that says so.
    fn check_limits(&self, limits: &CallLimits) -> Vec<String> {
        self.limits.set(limits);
        limits::connect_timeout_misfit(&self.config(), limits).into_iter().collect()
    }

    /// What the connections did with statements that they keep prepared: see [`StatementCounts`].
    fn counts(&self) -> Vec<DriverCount> {
        let StatementCounts { hits, prepared, evicted, invalidated } = self.statements();
        let counts = [
            ("statement_hits", hits),
            ("statements_prepared", prepared),
            ("statements_evicted", evicted),
            ("statements_invalidated", invalidated),
        ];
        counts.map(|(name, total)| DriverCount { name, total }).to_vec()
    }

    /// Makes one round trip of at most 2 s. Where the configuration's `target_session_attrs` asks
    /// for a role, it asks the server whether that still holds, without a limit.
    ///
    /// A pool calls [`is_valid_within`](ManageConnection::is_valid_within) instead, with
    /// its own limit.
    ///
    /// # Errors
    ///
    /// If the server did not answer in time, no longer has the role, or the connection is broken.
    /// A client that timed out still waits for the answer: its drop may hang.
    fn is_valid(&self, client: &mut Client) -> Result<(), Error> {
        client.check(VALIDATION_TIMEOUT)
    }

    /// Ends the use, and returns whether the connection must not be used again: because a call had
    /// an error that is fatal, because a write was refused and the server no longer has the role
    /// that `target_session_attrs` asks for, because the client has noticed the end of its
    /// connection, because a cancel was sent, or because something is left that no reset can undo.
    ///
    /// # Blocking
    ///
    /// Only if a write was refused, and the client could not ask for the role at once: then for two
    /// or three round trips. On a server that has gone silent it waits for 250 ms; without a limit,
    /// if the server goes silent between these round trips.
    fn has_broken(&self, client: &mut Client) -> bool {
        client.end_use()
    }

    /// Makes one round trip of at most `limit`. After it ran out of time, it may be made again.
    /// Where `target_session_attrs` asks for a role, only the pool limits it: the driver has no
    /// limit for that question.
    ///
    /// # Errors
    ///
    /// As [`is_valid`](ManageConnection::is_valid).
    fn is_valid_within(&self, client: &mut Client, limit: Duration) -> Result<(), Error> {
        client.check(limit)
    }

    /// True outside an async runtime, if `target_session_attrs` asks for no role: then a check
    /// keeps its limit by itself, also on a silent server, and may be repeated. Otherwise the
    /// pool's own threads check: the driver panics inside a runtime, and has no limit for the
    /// question of the role.
    fn checks_within_limit(&self) -> bool {
        self.config.get_target_session_attrs() == TargetSessionAttrs::Any
            && tokio::runtime::Handle::try_current().is_err()
    }

    /// True for errors that this process's own configuration decides, whatever a server or
    /// the network does. Nothing that comes from outside is permanent, because it may change
    /// while callers wait. They wait until their deadlines, and their errors have this error as
    /// the cause; the pool logs it when it first occurs.
    ///
    /// | `connect` fails because | permanent | reason |
    /// |---|---|---|
    /// | the configuration has no host, or numbers of hosts and ports that do not match | yes | no server is asked |
    /// | a value has a zero byte | yes | it cannot be sent |
    /// | TLS is required and the connector is [`NoTls`](crate::NoTls); `sslnegotiation=direct` without `sslmode=require` | yes | the driver refuses before or whatever the server says |
    /// | there are session settings and a [`transaction_pooler`](PostgresConnectionManager::transaction_pooler) | yes | both are of the configuration |
    /// | the password is wrong (28P01), missing, or of another method than the server asks for | no | rotated; the role is being created; `pg_hba.conf` is reloaded |
    /// | the closure of [`credentials`](PostgresConnectionManager::credentials) fails | no | another service's state |
    /// | the role may not log in, or no line of `pg_hba.conf` fits (28000) | no | as above; `NOLOGIN` during maintenance |
    /// | the database does not exist (3D000), is being created or restored (55000, 55006), or may not be used (42501) | no | `createdb`, `pg_restore --clean`, a rename, a `GRANT` |
    /// | the server rejects a session setting or `options` (22023, 42704, 55P02 …) | no | it may name a role or tablespace to come; the server may be upgraded, or the next host another version |
    /// | too many connections, no memory, no disk (53xxx, 58xxx), starting up, recovering or shutting down (57P0x), an internal error (XXxxx) | no | the server's state |
    /// | PgBouncer refuses, mostly with 08P01 | no | it uses one code for all causes |
    /// | refused, unreachable, no such socket or no right to it, no such name, timed out, reset, closed | no | the network's or the system's state, also at boot |
    /// | the server has no TLS, the handshake fails, a certificate's file cannot be read | no | certificates are renewed, `ssl` is switched on by a reload |
    /// | no host has the role that `target_session_attrs` asks for | no | failover |
    /// | the driver panics: no descriptor, no thread, an async runtime | no | the process's state |
    fn is_permanent(&self, error: &Error) -> bool {
        errors::is_permanent(error) || is_refusal(error)
    }

    /// True if the connection is lost or in an unknown state.
    ///
    /// Fatal: errors of severity FATAL or PANIC, of class 08, and 57P01 to 57P05; and all
    /// errors that are not from the server (I/O, closed, protocol, timeout), unless the
    /// client itself rejected a value or a statement. Not fatal: class XX, which
    /// extensions use for bad input.
    /// Also fatal: a prepared statement that the server no longer has (26000), or whose result
    /// has changed (0A000, "cached plan must not change result type"). Every later execution of it
    /// would fail likewise. (The [`Client`] itself prepares those that it keeps again, and so
    /// goes on; but here only the error is known.)
    fn is_fatal(&self, error: &Error) -> bool {
        is_fatal(error)
    }

    /// True if the use may have left what the [`Reset`] of this manager undoes, or a write was
    /// refused and the server may have changed its role; and the client is not closed.
    fn needs_reset(&self, client: &mut Client) -> bool {
        client.state().needs_reset() && !client.is_closed()
    }

    /// Undoes what [`Reset`] says. With [`Reset::Off`] the pool calls this only after the holder
    /// panicked or a write was refused; then it does the same as [`Reset::Rollback`]. If a write
    /// was refused, or the driver's own client was lent, it asks whether the server still has the
    /// role that `target_session_attrs` asks for.
    ///
    /// # Errors
    ///
    /// If any statement fails, or the server no longer has the role. The pool then closes the
    /// connection, because a transaction may still be open.
    ///
    /// # Blocking
    ///
    /// One to five round trips, without a limit of their own.
    fn reset(&self, client: &mut Client) -> Result<(), Error> {
        let level = self.rules.level();
        let left = client.state().left();
        let apply_settings = |client: &mut postgres::Client| self.apply_settings(client);
        let was_open = reset::undo(client.inner(), level, left, apply_settings)?;
        let role = client.state().role_in_doubt();
        client.check_role(role)?;
        client.state().set_clean();
        client.state().left_behind = was_open.then_some("an open transaction");
        Ok(())
    }

    /// Returns "an open transaction" if the last reset rolled one back.
    fn left_behind(&self, client: &mut Client) -> Option<Cow<'static, str>> {
        client.state().left_behind.take().map(Cow::Borrowed)
    }
}
