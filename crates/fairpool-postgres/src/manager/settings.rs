//! The manager's settings, and how they reach the driver and the server.

use std::sync::Arc;
use std::time::Duration;

use postgres::types::{ToSql, Type};
use postgres::{Client, Config, Error, Row};

use super::limits::default_connect_timeout;
use super::{PostgresConnectionManager, Reset, is_fatal, secrets};
use crate::StatementCounts;
use crate::client::Backend;

const KEEPALIVES_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVES_RETRIES: u32 = 5;

/// What `postgres` uses if the configuration has no idle time.
const DRIVER_KEEPALIVES_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

impl<T> PostgresConnectionManager<T> {
    /// Limits how long opening the socket may take, per address; by default what the
    /// pool's [`open_timeout`](fairpool::Builder::open_timeout) allows.
    ///
    /// The pool's limit covers the whole `connect`, to all hosts in turn. If this limit is
    /// not well below, the pool abandons the call just before the driver would have said
    /// "connection timed out". So the default is four fifths of `open_timeout`, divided by
    /// the number of addresses (of which a name counts as two) but at least half a second:
    /// 2 s for one name and the pool's default. Without a pool it is 5 s. A value of your
    /// own is kept as it is; if it does not fit, building the pool logs a warning with both
    /// values. The driver's own default is the kernel's two minutes.
    ///
    /// The limit does not cover DNS, TLS and authentication, for which the driver has no
    /// limit: if they hang, an error says for how long connecting has taken.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.config.connect_timeout(limit);
        self
    }

    /// Probes a silent connection: after `idle` without data, then every `interval`, until
    /// `retries` probes had no answer; default 5 s, 1 s and 5.
    ///
    /// This detects a peer that vanished while the connection was idle or a query was
    /// running. A server that takes long to answer is not affected, since its kernel
    /// answers the probes. Each idle connection costs one packet pair per `idle`. Unix
    /// sockets have no keepalives.
    ///
    /// The driver's default is two hours of silence. An idle time of exactly two hours in
    /// the configuration therefore counts as not set.
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

    /// Limits how long sent data may stay unacknowledged; by default as long as the
    /// keepalives take to give up, 10 s.
    ///
    /// Keepalives pause while data is in flight, so this limit covers what they do not.
    /// On Linux it also ends the probing, whatever the number of retries: with a smaller
    /// value one lost probe can kill a connection, so the default follows the keepalives.
    /// Without keepalives it is 10 s. Zero leaves it to the kernel (about 15 minutes).
    #[must_use]
    pub fn tcp_user_timeout(mut self, limit: Duration) -> Self {
        self.config.tcp_user_timeout(limit);
        self
    }

    /// Names the connections in `pg_stat_activity` and the server's log; default none.
    ///
    /// The name is sent when connecting, like `application_name=…` in the configuration.
    /// PgBouncer passes it on in every mode.
    #[must_use]
    pub fn application_name(mut self, name: &str) -> Self {
        self.config.application_name(name);
        self
    }

    /// Limits how long a statement may wait for a lock; the server's default is no limit.
    ///
    /// Without a limit, one forgotten transaction can block every connection of the pool.
    /// The time is rounded up to whole milliseconds; zero means no limit.
    #[must_use]
    pub fn lock_timeout(self, limit: Duration) -> Self {
        self.session_setting("lock_timeout", milliseconds(limit))
    }

    /// Limits how long a statement may run; the server's default is no limit.
    ///
    /// The time is rounded up to whole milliseconds; zero means no limit.
    #[must_use]
    pub fn statement_timeout(self, limit: Duration) -> Self {
        self.session_setting("statement_timeout", milliseconds(limit))
    }

    /// Limits how long a session may be idle inside a transaction; the server's default
    /// is no limit.
    ///
    /// Past the limit the server closes the connection, which releases the locks of a
    /// forgotten transaction. The time is rounded up to whole milliseconds; zero means no
    /// limit.
    #[must_use]
    pub fn idle_in_transaction_session_timeout(self, limit: Duration) -> Self {
        self.session_setting("idle_in_transaction_session_timeout", milliseconds(limit))
    }

    /// Sets any other parameter on each new connection; default none.
    ///
    /// One round trip after connecting applies all settings by `set_config`. So names and
    /// values need no quoting, and a list is written as in `postgresql.conf`:
    /// `("search_path", "app, public")`. A name set twice keeps the last value. A holder
    /// may still change a parameter; [`Reset::Session`] restores it.
    ///
    /// The settings are not sent as the start-up parameter `options`, which PgBouncer
    /// refuses. Behind a PgBouncer that pools *transactions* no session setting is
    /// reliable: use `ALTER ROLE … SET` instead (see
    /// [`transaction_pooler`](Self::transaction_pooler)).
    ///
    /// If the server rejects a name or value, `connect` fails with an error that names the
    /// setting. A value may be a secret: it is shown neither in the manager's `Debug` nor
    /// in that error, which has the server's SQLSTATE but not its words. The server's own
    /// log may show it.
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
        // The server ignores case in names.
        self.settings.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        self.settings.push((name, value));
        self
    }

    /// Sets what is undone when a connection returns; default [`Reset::Session`]: everything
    /// that the use may have left, and nothing if it is known to have left nothing.
    #[must_use]
    pub fn reset_on_return(mut self, reset: Reset) -> Self {
        Arc::make_mut(&mut self.rules).reset = reset;
        self
    }

    /// Names functions that leave nothing on a session; default none.
    ///
    /// After a statement that calls a function which is not PostgreSQL's own, the session is
    /// reset, because the function may have left anything. That costs a hop to a worker thread
    /// and a round trip (50 µs on one machine), during which the connection is not available.
    /// Name those functions that set no parameter, take no lock of the session, make no
    /// temporary table and so on: as `name`, as `schema.name`, or with a `*` at the end for all
    /// names that begin alike. Case does not matter.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager};
    ///
    /// let manager = PostgresConnectionManager::from_url("host=localhost", NoTls)?
    ///     .harmless_functions(["total_price", "audit.current_user_id", "st_*"]);
    /// # Ok::<(), fairpool_postgres::postgres::Error>(())
    /// ```
    #[must_use]
    pub fn harmless_functions<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let names = names.into_iter().map(Into::into);
        Arc::make_mut(&mut self.rules).harmless.add(names);
        self
    }

    /// Sets how many statements each connection keeps prepared; default 256, zero for none. See
    /// [`Client`](crate::Client#prepared-statements).
    ///
    /// A statement that is kept takes memory on both sides for as long as the connection lives:
    /// some hundred bytes and its text here, and on the server its parse tree and, from the sixth
    /// execution on, maybe a plan: 5 to 50 kB for a usual query. The default is enough for all
    /// statements of most programs, and what a busy connection keeps then takes a few megabytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager};
    ///
    /// let manager = PostgresConnectionManager::from_url("host=localhost", NoTls)?
    ///     .statement_cache(1000);
    /// # Ok::<(), fairpool_postgres::postgres::Error>(())
    /// ```
    #[must_use]
    pub fn statement_cache(mut self, size: usize) -> Self {
        Arc::make_mut(&mut self.rules).statement_cache = size;
        self
    }

    /// Returns what all connections of this manager did so far with statements that they keep
    /// prepared.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use fairpool::Pool;
    /// # use fairpool_postgres::{NoTls, PostgresConnectionManager};
    /// # let manager = PostgresConnectionManager::from_url("host=localhost", NoTls)?;
    /// let pool = Pool::new(manager)?;
    /// // …
    /// let counts = pool.manager().statements();
    /// println!("{} calls found their statement prepared", counts.hits);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn statements(&self) -> StatementCounts {
        self.rules.statements.counts()
    }

    /// Sets whether connections go through a pooler that pools *transactions*, such as
    /// PgBouncer with `pool_mode = transaction`; default `false`.
    ///
    /// There, consecutive transactions of one connection run on different sessions of the
    /// server. Without this setting most queries fail with 26000, "prepared statement does not
    /// exist", or, worse, may execute a statement that another process has prepared under the
    /// same name. With it:
    ///
    /// - Statements are sent in one message, without a name on the server. The types of a
    ///   statement's parameters are asked for once per connection and text, in a transaction,
    ///   and remembered. The database's own types (enums, composites, those of extensions) are
    ///   looked up when connecting, in one transaction.
    /// - Session state is refused with an error (0A000) that says so: `SET` (except `SET
    ///   LOCAL`), `LISTEN`, `PREPARE`, advisory locks of a session, and, outside a transaction,
    ///   temporary tables and cursors. So are session settings of this manager, when it
    ///   connects, and `COPY` outside a transaction.
    /// - Sessions are not reset, except that an open transaction is rolled back.
    ///
    /// The mode cannot be recognised by one connection. If its symptoms show (two connections with
    /// one session, a lost statement), the manager logs a warning that names this setting, and
    /// keeps no statements prepared: while two connections share a session, and after the other
    /// symptoms never again. A pooler that pools sessions needs nothing. One that pools
    /// statements has no transactions: there, leave this setting off, and use
    /// [`Client::simple_query`], [`Client::batch_execute`] and [`Client::query_typed`].
    ///
    /// [`Client::simple_query`]: crate::Client::simple_query
    /// [`Client::batch_execute`]: crate::Client::batch_execute
    /// [`Client::query_typed`]: crate::Client::query_typed
    #[must_use]
    pub fn transaction_pooler(mut self, yes: bool) -> Self {
        Arc::make_mut(&mut self.rules).transaction_pooler = yes;
        self
    }

    /// A manager for one connection beside the pool, to be opened within this limit.
    pub(crate) fn for_a_question(&self, limit: Duration) -> Self
    where
        T: Clone,
    {
        let mut manager = self.clone();
        if manager.config.get_connect_timeout().is_none() {
            manager.config.connect_timeout(limit);
        }
        manager
    }

    /// Returns the configuration used for connecting, with defaults filled in.
    ///
    /// The driver's `Debug` of it shows the value of `options`, which the manager's hides.
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
    #[must_use]
    pub fn config(&self) -> Config {
        self.with_defaults(&self.config)
    }

    pub(super) fn with_defaults(&self, config: &Config) -> Config {
        let mut config = config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(default_connect_timeout(&config, self.limits.get()));
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

    /// Whether the settings make each session read-only.
    pub(super) fn is_read_only(&self) -> bool {
        let is_default = |name: &str| name.eq_ignore_ascii_case("default_transaction_read_only");
        let is_off = |value: &str| {
            ["off", "false", "no", "0"].iter().any(|off| value.eq_ignore_ascii_case(off))
        };
        self.settings.iter().any(|(name, value)| is_default(name) && !is_off(value))
    }

    pub(super) fn has_settings(&self) -> bool {
        !self.settings.is_empty()
    }

    /// Applies the session settings to a new session, and asks for its backend and whether it is
    /// new indeed, in one round trip. `None` if the server refuses to tell.
    ///
    /// The driver has a number from the login and keeps it to itself. It would not do anyway:
    /// PgBouncer makes up its own, and no list of the server has that.
    pub(super) fn set_up(&self, client: &mut Client) -> Result<Option<Backend>, Error> {
        let backend = |row: Row| {
            let id = u32::try_from(row.try_get::<_, i32>(0).ok()?).ok()?;
            if row.try_get(2).ok()? {
                self.rules.found_used_session();
            }
            Some((id, row.try_get(1).ok()?))
        };
        match self.send_settings(client, BACKEND) {
            Ok(row) => Ok(row.and_then(backend)),
            // Of the settings, or of the question.
            Err(error) if !is_fatal(&error) => self.apply_settings(client).map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Applies the session settings, if there are any, in one round trip.
    pub(super) fn apply_settings(&self, client: &mut Client) -> Result<(), Error> {
        if self.has_settings() {
            self.send_settings(client, "")?;
        }
        Ok(())
    }

    /// The values are parameters: the driver writes the text of a statement to the log, at
    /// the debug level, and the server lists it in `pg_stat_activity`.
    fn send_settings(&self, client: &mut Client, question: &str) -> Result<Option<Row>, Error> {
        let sql = settings_sql(question, self.settings.len());
        let parameter = |text| (text as &(dyn ToSql + Sync), Type::TEXT);
        let pairs = self.settings.iter();
        let parameters: Vec<_> =
            pairs.flat_map(|(name, value)| [parameter(name), parameter(value)]).collect();
        let applied = client.query_typed(&sql, &parameters);
        let applied = applied.map_err(|error| secrets::of_settings(error, &self.settings))?;
        Ok(applied.into_iter().next())
    }
}

/// The backend, when its server started, and whether the session has prepared statements.
const BACKEND: &str = "pg_catalog.pg_backend_pid(), \
     pg_catalog.pg_postmaster_start_time()::pg_catalog.text, \
     EXISTS (SELECT FROM pg_catalog.pg_prepared_statements), ";

/// The statement that answers a question, if there is one, and sets this many parameters. While it
/// runs the server sends no notices, which the driver would log: they may quote a value.
fn settings_sql(question: &str, number: usize) -> String {
    let quiet = "pg_catalog.set_config('client_min_messages', 'error', true)";
    let call = |n: usize| format!("pg_catalog.set_config(${}, ${}, false)", 2 * n + 1, 2 * n + 2);
    let calls: String = (0..number).map(|n| format!(", {}", call(n))).collect();
    format!("SELECT {question}{quiet}{calls}")
}

/// After how much silence keepalives give up.
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

/// Formats a limit for the server: whole milliseconds, an `int`, zero for no limit.
/// Rounds up, so that a small limit does not become none; caps a huge one at 24 days.
fn milliseconds(limit: Duration) -> String {
    let up = limit.as_nanos().div_ceil(1_000_000);
    up.min(i32::MAX as u128).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoTls;

    #[test]
    fn limits_are_rounded_up_and_never_to_never() {
        assert_eq!(milliseconds(Duration::ZERO), "0");
        assert_eq!(milliseconds(Duration::from_nanos(1)), "1");
        assert_eq!(milliseconds(Duration::from_micros(1001)), "2");
        assert_eq!(milliseconds(Duration::MAX), "2147483647");
    }

    #[test]
    fn a_setting_made_twice_keeps_the_last_value() {
        let manager = PostgresConnectionManager::new(Config::new(), NoTls)
            .session_setting("jit", "on")
            .session_setting("JIT", "off");
        assert_eq!(manager.settings, [("JIT".to_owned(), "off".to_owned())]);
    }
}
