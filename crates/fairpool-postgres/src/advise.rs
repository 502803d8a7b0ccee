//! A pool's settings, compared with the server it is for.

mod rules;
mod server;

use std::error;
use std::fmt;

use ::postgres::Socket;
use ::postgres::tls::{MakeTlsConnect, TlsConnect};

use super::PostgresConnectionManager;
use crate::text::{count, wrapped};
use crate::{Error, Pool, PooledConnection, Severity};

pub use server::ServerFigures;

/// What could be better about a pool's settings, given its server. From [`advise`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Advice {
    /// The pool's name.
    pub pool: String,
    /// How many pools like this there are, as told.
    pub instances: u32,
    /// What the server says about itself.
    pub server: ServerFigures,
    /// What to change, most pressing first.
    pub recommendations: Vec<Recommendation>,
    /// What could not be looked into, and why.
    pub unseen: Vec<String>,
}

/// A setting that should, or could, be another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recommendation {
    /// The setting, as the [`Builder`](crate::Builder) or the
    /// [manager](PostgresConnectionManager) calls it.
    pub setting: &'static str,
    /// Info is a matter of taste, a warning is for the day on which something else
    /// goes wrong, and critical goes wrong by itself.
    pub severity: Severity,
    /// The figures, and what is wrong with them.
    pub reason: String,
    /// What to set.
    pub advice: String,
}

/// Why there is no advice.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdviseError {
    /// The pool gave no connection, or cannot be advised as told.
    Pool(Error),
    /// The server did not answer as hoped.
    Server(::postgres::Error),
    /// The server's answer makes no sense: what it said.
    Answer(String),
}

impl fmt::Display for AdviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdviseError::Pool(error) => error.fmt(f),
            AdviseError::Server(_) => f.write_str("the server cannot be asked for its settings"),
            AdviseError::Answer(what) => write!(f, "the server's settings are not clear: {what}"),
        }
    }
}

impl error::Error for AdviseError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            // Its text is shown above.
            AdviseError::Pool(error) => error.source(),
            AdviseError::Server(error) => Some(error),
            AdviseError::Answer(_) => None,
        }
    }
}

impl From<Error> for AdviseError {
    fn from(error: Error) -> AdviseError {
        AdviseError::Pool(error)
    }
}

impl From<::postgres::Error> for AdviseError {
    fn from(error: ::postgres::Error) -> AdviseError {
        AdviseError::Server(error)
    }
}

impl Advice {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.recommendations.is_empty()
    }

    /// What is said about this setting, if anything is.
    pub fn about(&self, setting: &str) -> Option<&Recommendation> {
        self.recommendations.iter().find(|recommendation| recommendation.setting == setting)
    }
}

impl fmt::Display for Advice {
    /// A few lines for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Advice { pool, server, .. } = self;
        let instances = match self.instances {
            1 => String::new(),
            many => format!(", one of {many}"),
        };
        let head = format!("advice for pool '{pool}'{instances}, on {server}: ");
        match self.recommendations.len() as u64 {
            0 => wrapped(f, "", &format!("{head}nothing to change"))?,
            number => {
                let things = count(number, "setting", "settings");
                wrapped(f, "", &format!("{head}{things} to think about"))?;
            }
        }
        for Recommendation { setting, severity, reason, advice } in &self.recommendations {
            wrapped(f, &format!("  {severity:<8} "), &format!("{setting}: {reason}; {advice}"))?;
        }
        self.unseen.iter().try_for_each(|what| wrapped(f, "  not seen ", what))
    }
}

/// Compares a pool's settings with the live server, and says what could be better.
///
/// `instances` is how many pools like this one there are: in as many processes of the
/// service, on whatever machines.
///
/// | advice | unless |
/// |---|---|
/// | `max_size` | over all instances it is at most 70 % of `max_connections`, and fits beside the connections that others have now |
/// | `max_idle` | it is the smaller of `max_size` and 20 |
/// | `max_lifetime` | it is at most 5 minutes. (The default is `r2d2`'s half hour, and this is mild; but old sessions grow in the server, and after a failover or behind a load balancer connections find their new place sooner) |
/// | `lifetime_jitter` | it is positive |
/// | `connection_timeout` | it is at most 30 s: every wait has a deadline |
/// | `max_waiters`, `leak_threshold` | they are set |
/// | `statement_timeout`, `lock_timeout`, `idle_in_transaction_session_timeout` | the session has them, be it from the manager, the role or the server |
/// | `idle_timeout` | the server's `idle_session_timeout` is off, or longer than the pool lets a connection rest |
///
/// No privilege is needed. If the server listens on another port than the pool
/// connects to, something stands in between, such as a PgBouncer; then the number of
/// the server's connections is not up to the pool, and nothing is said about
/// `max_size`.
///
/// # Errors
///
/// [`AdviseError::Pool`] if no connection is to be had within the pool's
/// `connection_timeout`, or if `instances` is zero; [`AdviseError::Server`] if the
/// server cannot be asked.
///
/// # Blocking
///
/// As [`Pool::get`], and for two round trips, which have no limit of their own.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_postgres::{NoTls, PostgresConnectionManager, advise};
///
/// let manager = PostgresConnectionManager::from_url("host=localhost user=postgres", NoTls)?;
/// let pool = Pool::builder().max_size(20).build(manager)?;
/// println!("{}", advise(&pool, 4)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn advise<T>(
    pool: &Pool<PostgresConnectionManager<T>>,
    instances: u32,
) -> Result<Advice, AdviseError>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    if instances == 0 {
        let what = format!("advise: instances must be at least 1, but is {instances}");
        return Err(Error::config(what).into());
    }
    let mut conn = pool.get()?;
    let own = pool.stats();
    let (settings, clients) = PooledConnection::run(&mut conn, server::ask)?;
    drop(conn);

    let shared = &pool.shared;
    let figures = ServerFigures::new(&settings, clients, u64::from(own.open + own.closing))?;
    let ports = shared.manager.config().get_ports().to_vec();
    let is_direct = match ports.as_slice() {
        [] => figures.port == 5432,
        ports => ports.contains(&figures.port),
    };
    let pool_settings =
        shared.quick(|core| rules::Settings::of(core.policy(), shared.config.connection_timeout));
    let (mut recommendations, mut unseen) = (Vec::new(), Vec::new());
    match is_direct {
        true => recommendations.extend(rules::connections(&pool_settings, &figures, instances)),
        false => unseen.push(rules::something_between(&pool_settings, &figures, instances, &ports)),
    }
    recommendations.extend(rules::rest(&pool_settings, &figures));
    recommendations.sort_by_key(|recommendation| std::cmp::Reverse(recommendation.severity));
    Ok(Advice { pool: pool.name().to_owned(), instances, server: figures, recommendations, unseen })
}
