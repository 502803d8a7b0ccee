//! What each session is set to.

use std::sync::Arc;
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, Error, Opts, OptsBuilder};

use super::errors::refuse;
use super::secrets;
use super::{MysqlConnectionManager, Reset};
use crate::connection::Timeouts;

const KEEPALIVE_MILLIS: u32 = 5_000;
#[cfg(any(target_os = "linux", target_os = "macos"))]
const KEEPALIVE_INTERVAL_SECS: u32 = 1;
#[cfg(any(target_os = "linux", target_os = "macos"))]
const KEEPALIVE_COUNT: u32 = 5;
/// When keepalives give up.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MILLIS: u32 = 10_000;

impl MysqlConnectionManager {
    /// Adds a server that is tried if those before it cannot be reached or refuse; default none.
    ///
    /// All servers get the same user, password, database and other options. Each connect tries them
    /// in this order, and the time for a connect is shared out among them. With
    /// [`writes_only`](Self::writes_only) a read-only server is passed over. A host without a name
    /// fails when a connection is opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::MysqlConnectionManager;
    ///
    /// let manager = MysqlConnectionManager::from_url("mysql://app@db-1/shop")?
    ///     .or_server("db-2", 3306)
    ///     .writes_only(true);
    /// # Ok::<(), fairpool_mysql::mysql::Error>(())
    /// ```
    #[must_use]
    pub fn or_server(mut self, host: impl Into<String>, port: u16) -> Self {
        self.others.push((host.into(), port));
        self
    }

    /// Sets whether only servers that allow writes are used; default `false`.
    ///
    /// Then a connect to a server that is read-only (`read_only`, `super_read_only`,
    /// `innodb_read_only`, or transactions that are read-only by default) fails, or goes on to the
    /// next server, and each check asks again, in place of a ping alone. That costs one more round
    /// trip of about 0.2 ms for each check.
    ///
    /// In any case a connection whose server *becomes* read-only is closed after the first write
    /// that is refused.
    #[must_use]
    pub fn writes_only(mut self, yes: bool) -> Self {
        self.writes_only = yes;
        self
    }

    /// Sets a variable of each session; default none.
    ///
    /// One statement after connecting, and after each reset, sets all of them. A value that is a
    /// number is sent as one, and any other as a string. A name set twice keeps the last value. For
    /// anything else, such as user variables, use [`with_init`](Self::with_init).
    ///
    /// Of use are `lock_wait_timeout` and `innodb_lock_wait_timeout` (in seconds),
    /// `max_statement_time` (MariaDB, in seconds) or `max_execution_time` (MySQL, in milliseconds),
    /// and `idle_transaction_timeout` (MariaDB, in seconds), which ends the session of a forgotten
    /// transaction.
    ///
    /// A name with other characters than letters, digits, `_` and `.`, or a value with a quote or a
    /// backslash, makes each connect fail with an error that names the setting. So does a name or
    /// value that the server rejects. A value may be a secret: it is shown in neither that error
    /// nor the manager's `Debug`.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::MysqlConnectionManager;
    ///
    /// let manager = MysqlConnectionManager::from_url("mysql://app@localhost/shop")?
    ///     .session_setting("lock_wait_timeout", "2")
    ///     .session_setting("time_zone", "+00:00");
    /// # Ok::<(), fairpool_mysql::mysql::Error>(())
    /// ```
    #[must_use]
    pub fn session_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.settings.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        self.settings.push((name, value));
        self
    }

    /// Sets a function that prepares each session, after everything else; default none. If it
    /// fails, `connect` or `reset` fails with its error, as it is: the server's words may quote a
    /// value.
    ///
    /// It runs after connecting and again after each reset of the session, which undoes all that it
    /// had set. (What a `CustomizeConnection` of the pool sets is lost with the first reset.)
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::MysqlConnectionManager;
    /// use fairpool_mysql::mysql::prelude::Queryable;
    ///
    /// let manager = MysqlConnectionManager::from_url("mysql://app@localhost/shop")?
    ///     .with_init(|conn| conn.query_drop("SET @service = 'billing'"));
    /// # Ok::<(), fairpool_mysql::mysql::Error>(())
    /// ```
    #[must_use]
    pub fn with_init<F>(mut self, init: F) -> Self
    where
        F: Fn(&mut Conn) -> Result<(), Error> + Send + Sync + 'static,
    {
        self.init = Some(Box::new(init));
        self
    }

    /// Sets how many prepared statements each connection keeps; default: `stmt_cache_size` of the
    /// options, whose default is 32.
    ///
    /// `exec_first("SELECT …", …)` and the like prepare a text once, and find it prepared the next
    /// time, whoever has the connection then: one round trip instead of two. The statement that was
    /// used least recently is closed. So if a program runs more than 32 in turn, each is prepared
    /// every time: then set as many as it has. All connections of all clients together may have
    /// 16,382 on a server (`max_prepared_stmt_count`).
    ///
    /// A [reset](Reset) of the session drops them on the server and in the driver alike. After a
    /// change of a table the server prepares them again by itself.
    ///
    /// A `Statement` from `prep` is closed with the others: it can be used until as many other
    /// texts were prepared, and on its own connection. Keep the text and not the `Statement`. Zero
    /// counts as one, since the driver without a cache leaves what `exec_first` prepares on the
    /// server.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::MysqlConnectionManager;
    ///
    /// let manager =
    ///     MysqlConnectionManager::from_url("mysql://app@localhost/shop")?.statement_cache(100);
    /// # Ok::<(), fairpool_mysql::mysql::Error>(())
    /// ```
    #[must_use]
    pub fn statement_cache(mut self, statements: usize) -> Self {
        let options = OptsBuilder::from_opts(self.opts);
        self.opts = options.stmt_cache_size(statements.max(1)).into();
        self
    }

    /// Sets what is undone when a connection returns; default [`Reset::Session`]: everything that
    /// the use may have left, and nothing if it is known to have left nothing.
    #[must_use]
    pub fn reset_on_return(mut self, reset: Reset) -> Self {
        Arc::make_mut(&mut self.rules).reset = reset;
        self
    }

    /// Names functions that leave nothing on a session; default none.
    ///
    /// After a statement that calls a function which is not known, the session is reset, because
    /// the function may have left anything. That costs a hop to a worker thread and one or two
    /// round trips, and the prepared statements of the connection. Name those functions that set no
    /// user variable and take no lock by name: as they are called, `total` or `shop.total`, or with
    /// a `*` at the end for all names that begin alike. Case does not matter.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_mysql::MysqlConnectionManager;
    ///
    /// let manager = MysqlConnectionManager::from_url("mysql://app@localhost/shop")?
    ///     .harmless_functions(["total", "audit.current_user_id", "st_*"]);
    /// # Ok::<(), fairpool_mysql::mysql::Error>(())
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

    pub(super) fn servers(&self) -> u32 {
        u32::try_from(self.others.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The options for each server in turn, with defaults and with limits for a connect of this
    /// length.
    pub(super) fn all_options(&self, limit: Duration) -> Vec<Opts> {
        let first = self.opened_within(limit);
        let others = self.others.iter().map(|(host, port)| {
            first.clone().ip_or_hostname(Some(host.as_str())).tcp_port(*port).socket(None::<&str>)
        });
        let others: Vec<OptsBuilder> = others.collect();
        std::iter::once(first).chain(others).map(Opts::from).collect()
    }

    /// The socket is opened within half of the time; the server has the other half to answer.
    fn opened_within(&self, limit: Duration) -> OptsBuilder {
        let half = Some(limit / 2);
        let opts = &self.opts;
        let own = self.timeouts();
        let opening = Timeouts { read: half, write: half }.no_longer_than(own);
        let builder = OptsBuilder::from_opts(opts.clone())
            // This crate runs them itself: see `apply`.
            .init(Vec::<String>::new())
            .prefer_socket(false)
            .tcp_connect_timeout(opts.get_tcp_connect_timeout().or(half))
            .tcp_keepalive_time_ms(opts.get_tcp_keepalive_time_ms().or(Some(KEEPALIVE_MILLIS)))
            .read_timeout(opening.read)
            .write_timeout(opening.write);
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        let builder = builder
            .tcp_keepalive_probe_interval_secs(
                opts.get_tcp_keepalive_probe_interval_secs().or(Some(KEEPALIVE_INTERVAL_SECS)),
            )
            .tcp_keepalive_probe_count(
                opts.get_tcp_keepalive_probe_count().or(Some(KEEPALIVE_COUNT)),
            );
        #[cfg(target_os = "linux")]
        let builder = builder
            .tcp_user_timeout_ms(opts.get_tcp_user_timeout_ms().or(Some(USER_TIMEOUT_MILLIS)));
        builder
    }

    /// The user's own limits for reads and writes.
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            read: self.opts.get_read_timeout().copied(),
            write: self.opts.get_write_timeout().copied(),
        }
    }

    /// Whether a session is set to anything that could change `autocommit`.
    pub(super) fn has_settings(&self) -> bool {
        !self.settings.is_empty() || !self.opts.get_init().is_empty() || self.init.is_some()
    }

    /// Applies the settings of sessions: the variables, the statements of the options, the
    /// function.
    pub(super) fn apply(&self, conn: &mut Conn) -> Result<(), Error> {
        if let Some(sql) = settings_sql(&self.settings)? {
            conn.query_drop(sql).map_err(|error| secrets::of_settings(error, &self.settings))?;
        }
        for (number, sql) in self.opts.get_init().iter().enumerate() {
            let what = format!("statement {} of the option init", number + 1);
            conn.query_drop(sql).map_err(|error| secrets::of_statement(error, &what))?;
        }
        self.init.as_ref().map_or(Ok(()), |init| init(conn))
    }
}

/// One statement that sets all these variables.
///
/// # Errors
///
/// If a name or value cannot be written into a statement.
fn settings_sql(settings: &[(String, String)]) -> Result<Option<String>, Error> {
    let assign = |(name, value): &(String, String)| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(is_part) {
            let text = "letters, digits, `_` and `.` are allowed in a name";
            return Err(refuse(format!("session_setting {name:?}: {text}")));
        }
        // With them it would depend on `sql_mode` where the string ends.
        if value.contains(['\'', '\\', '\0']) {
            let text = "its value has a quote, a backslash or a zero byte; use with_init for it";
            return Err(refuse(format!("session_setting {name:?}: {text}")));
        }
        let is_number = value.parse::<f64>().is_ok_and(f64::is_finite);
        let quote = if is_number { "" } else { "'" };
        Ok(format!("SESSION {name} = {quote}{value}{quote}"))
    };
    let all: Vec<String> = settings.iter().map(assign).collect::<Result<_, _>>()?;
    Ok((!all.is_empty()).then(|| format!("SET {}", all.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(name: &str, value: &str) -> Result<Option<String>, Error> {
        settings_sql(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn numbers_are_numbers_and_the_rest_are_strings() {
        let is = |name, value, text: &str| {
            assert_eq!(sql(name, value).unwrap().as_deref(), Some(text), "{value}");
        };
        is("lock_wait_timeout", "2", "SET SESSION lock_wait_timeout = 2");
        is("max_statement_time", "0.5", "SET SESSION max_statement_time = 0.5");
        is("sql_mode", "", "SET SESSION sql_mode = ''");
        is("time_zone", "+00:00", "SET SESSION time_zone = '+00:00'");
        is("x", "inf", "SET SESSION x = 'inf'");
        assert_eq!(settings_sql(&[]).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_name_without_its_value() {
        for (name, value) in
            [("a b", "s3cr3t"), ("", "s3cr3t"), ("sql_mode", "s3cr3t'"), ("sql_mode", "s3cr3t\\")]
        {
            let error = sql(name, value).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}
