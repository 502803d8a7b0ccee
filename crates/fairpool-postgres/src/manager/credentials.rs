//! Credentials that are asked for when a connection is opened.

mod source;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postgres::Config;

pub(super) use self::source::Source;
use super::PostgresConnectionManager;
use super::secrets::Hidden;

const DEFAULT_PORT: u16 = 5432;

impl<T> PostgresConnectionManager<T> {
    /// Sets a closure that gives the user (a login role) and the password, and optionally hosts,
    /// whenever a connection is opened. Default: none, the configuration's are used.
    ///
    /// It is for passwords that change while the program runs: rotated passwords, tokens of a
    /// cloud's identity service, leases of a vault. Without it the pool logs in with the
    /// configuration's password for ever.
    ///
    /// - Each connect asks, unless the last answer is still
    ///   [`valid_for`](Credentials::valid_for) some time. Connects that start while the closure
    ///   runs share its answer; if that takes more than a second, each asks by itself.
    /// - If the server refuses a login (28P01, 28000, or PgBouncer's messages for it), the same
    ///   connect asks once more, with [`WhyAsked::Refused`], and tries again. Only if that is
    ///   refused too has the connect failed. So a rotation costs at most one failed login for each
    ///   connect of that moment, and callers see no error. With several hosts the driver reports
    ///   only what the last one said: there any failed connect makes the next one ask, with
    ///   [`WhyAsked::MaybeRefused`], if the answer is older than 30 s.
    /// - If it returns an error, the connect has failed, with that error as the cause, and is
    ///   tried again like any other. The error's text is shown: it must hold no secret. A panic is
    ///   such an error; its text is shown by nothing but the program's panic hook.
    ///
    /// Connections that are open stay, whatever happens to the credentials with which they were
    /// opened: PostgreSQL does not end sessions when a password changes or a token expires. If
    /// the user itself is dropped after a time, as with leases, keep
    /// [`max_lifetime`](fairpool::Builder::max_lifetime) plus `valid_for` below that time. To
    /// replace all connections after a rotation, call [`Pool::refresh`](fairpool::Pool::refresh).
    ///
    /// [`config`](Self::config) and the manager's `Debug` show the configuration without the
    /// closure's answer. Clones of the manager share the closure and its answers.
    ///
    /// # Blocking
    ///
    /// The closure runs on a worker thread of the pool, and may block. It is a part of the connect,
    /// which [`open_timeout`](fairpool::Builder::open_timeout) limits: give it a limit of its own,
    /// at most a fifth of that, or raise `open_timeout`. A closure that hangs occupies its worker;
    /// after a second the other connects ask by themselves.
    ///
    /// # Examples
    ///
    /// ```
    /// use fairpool_postgres::{Credentials, NoTls, PostgresConnectionManager, WhyAsked};
    /// use std::{fs, io};
    ///
    /// // A file that the platform rewrites when the password changes.
    /// let read = |_why: WhyAsked| -> io::Result<Credentials> {
    ///     let password = fs::read_to_string("/run/secrets/billing")?;
    ///     Ok(Credentials::new("billing", password.trim_end()))
    /// };
    /// let manager = PostgresConnectionManager::from_url("host=db.example.org dbname=shop", NoTls)?
    ///     .credentials(read);
    /// # Ok::<(), fairpool_postgres::postgres::Error>(())
    /// ```
    #[must_use]
    pub fn credentials<F, E>(mut self, ask: F) -> Self
    where
        F: Fn(WhyAsked) -> Result<Credentials, E> + Send + Sync + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let source = Source::new(move |why| ask(why).map_err(Into::into));
        self.credentials = Some(Arc::new(source));
        self
    }
}

/// The user that logs in, its password, and hosts: what the closure of
/// [`PostgresConnectionManager::credentials`](PostgresConnectionManager::credentials)
/// returns.
///
/// Its `Debug` does not show the password.
///
/// # Examples
///
/// ```
/// use fairpool_postgres::Credentials;
/// use std::time::Duration;
///
/// let credentials = Credentials::new("billing", "a token")
///     .host("db-2.example.org", 5432)
///     .valid_for(Duration::from_secs(10 * 60));
/// assert!(!format!("{credentials:?}").contains("token"));
/// ```
#[derive(Clone)]
pub struct Credentials {
    user: String,
    password: Vec<u8>,
    hosts: Vec<(String, u16)>,
    valid_for: Duration,
}

impl Credentials {
    /// Makes credentials of a user and its password. They replace those of the manager's
    /// configuration.
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<Vec<u8>>) -> Credentials {
        let (user, password) = (user.into(), password.into());
        Credentials { user, password, hosts: Vec::new(), valid_for: Duration::ZERO }
    }

    /// Adds a host, which is tried after those of the manager's configuration and those that
    /// were added before. Default: none.
    ///
    /// The configuration may have no host at all, and then no port either. Where
    /// `target_session_attrs` asks for a server's role, hosts without it are skipped.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>, port: u16) -> Credentials {
        self.hosts.push((host.into(), port));
        self
    }

    /// Sets for how long connects may use them without asking again, counted from the call of
    /// the closure. Default: zero, each connect asks.
    ///
    /// Zero is always right. Set a time if asking is slow or expensive, or creates something, such
    /// as a lease. The time limits logins, not the connections that were opened: see
    /// [`credentials`](PostgresConnectionManager::credentials).
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Credentials {
        self.valid_for = time;
        self
    }

    /// Puts them into a configuration.
    pub(super) fn apply_to(&self, config: &mut Config) {
        config.user(&self.user).password(&self.password);
        if self.hosts.is_empty() {
            return;
        }
        // One port stands for all hosts, or each has its own.
        let hosts = number_of_hosts(config);
        let port = config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
        for _ in config.get_ports().len()..hosts {
            config.port(port);
        }
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("password", &Hidden)
            .field("hosts", &self.hosts)
            .field("valid_for", &self.valid_for)
            .finish()
    }
}

/// Why a manager asks for [`Credentials`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyAsked {
    /// It has none yet, or those that it has are no longer valid.
    Due,
    /// The server has refused the last ones. Something that the closure itself remembers should
    /// not be given again.
    Refused,
    /// No host was connected to, and one of several hosts may have refused the last ones, which are
    /// older than 30 s: the driver does not say. In an outage this comes every 30 s, so a closure
    /// that creates something, such as a lease, should give again what it knows to be valid.
    MaybeRefused,
}

fn number_of_hosts(config: &Config) -> usize {
    config.get_hosts().len().max(config.get_hostaddrs().len())
}
