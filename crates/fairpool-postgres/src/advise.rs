//! Compares a pool's settings with its server.

mod rules;
mod server;

use std::error;
use std::fmt;

use fairpool::diagnosis::Severity;
use fairpool::text::{Plain, count, wrapped};
use fairpool::{Pool, PooledConnection};
use postgres::Socket;
use postgres::tls::{MakeTlsConnect, TlsConnect};

use crate::PostgresConnectionManager;

pub use self::server::ServerFigures;

/// Which settings of a pool do not fit its server. From [`advise`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Advice {
    /// The pool's name.
    pub pool: String,
    /// How many pools like this one there are, as passed to [`advise`].
    pub instances: u32,
    /// The server's settings and load.
    pub server: ServerFigures,
    /// What to change, most severe first.
    pub recommendations: Vec<Recommendation>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

/// A setting to change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recommendation {
    /// The setting's name in the [`Builder`](fairpool::Builder) or in the
    /// [manager](PostgresConnectionManager).
    pub setting: &'static str,
    /// `Info`: an improvement. `Warning`: makes another fault worse. `Critical`: will
    /// fail by itself.
    pub severity: Severity,
    /// The current value, and what is wrong with it.
    pub reason: String,
    /// What to set.
    pub advice: String,
}

/// Why there is no advice.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdviseError {
    /// The number of instances is zero.
    NoInstances,
    /// The pool gave no connection.
    Pool(fairpool::Error),
    /// The server's settings could not be queried.
    Server(postgres::Error),
    /// The server's answer was not understood: the part in question.
    Answer(String),
}

impl fmt::Display for AdviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdviseError::NoInstances => f.write_str("instances must be at least 1, but is 0"),
            AdviseError::Pool(error) => error.fmt(f),
            AdviseError::Server(_) => f.write_str("cannot query the server's settings"),
            AdviseError::Answer(what) => {
                write!(f, "unexpected server settings: {}", Plain(what))
            }
        }
    }
}

impl error::Error for AdviseError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            // `fmt` has shown this error already.
            AdviseError::Pool(error) => error.source(),
            AdviseError::Server(error) => Some(error),
            AdviseError::NoInstances | AdviseError::Answer(_) => None,
        }
    }
}

impl From<fairpool::Error> for AdviseError {
    fn from(error: fairpool::Error) -> AdviseError {
        AdviseError::Pool(error)
    }
}

impl From<postgres::Error> for AdviseError {
    fn from(error: postgres::Error) -> AdviseError {
        AdviseError::Server(error)
    }
}

impl Advice {
    /// Returns whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.recommendations.is_empty()
    }

    /// Returns the recommendation for a setting, if there is one.
    #[must_use]
    pub fn about(&self, setting: &str) -> Option<&Recommendation> {
        self.recommendations.iter().find(|recommendation| recommendation.setting == setting)
    }
}

impl fmt::Display for Advice {
    /// Writes a few lines for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Advice { pool, server, .. } = self;
        let instances = match self.instances {
            1 => String::new(),
            many => format!(", one of {many}"),
        };
        let head = format!("advice for pool '{}'{instances}, on {server}: ", Plain(pool));
        match self.recommendations.len() as u64 {
            0 => wrapped(f, "", &format!("{head}nothing to change"))?,
            number => {
                let things = count(number, "setting", "settings");
                wrapped(f, "", &format!("{head}{things} to reconsider"))?;
            }
        }
        for Recommendation { setting, severity, reason, advice } in &self.recommendations {
            wrapped(f, &format!("  {severity:<8} "), &format!("{setting}: {reason}; {advice}"))?;
        }
        self.unchecked.iter().try_for_each(|what| wrapped(f, "  unchecked ", what))
    }
}

/// Compares a pool's settings with the live server and recommends changes.
///
/// `instances` is the number of pools like this one, in all processes of the service on
/// all machines.
///
/// | a setting is reported | unless |
/// |---|---|
/// | `max_size` | the sum over all instances is at most 70 % of `max_connections` and fits beside the connections that others have now |
/// | `max_idle` | it is the smaller of `max_size` and 20 |
/// | `max_lifetime` | it is at most 5 minutes. (The default is `r2d2`'s half hour, so this is only `Info`. With a shorter life, sessions use less memory on the server, and connections move sooner after a failover or behind a load balancer) |
/// | `lifetime_jitter` | it is positive |
/// | `connection_timeout` | it is at most 30 s |
/// | `max_waiters`, `leak_threshold` | they are set, and `leak_threshold` is below `idle_in_transaction_session_timeout` |
/// | `statement_timeout`, `lock_timeout`, `idle_in_transaction_session_timeout` | the session has them, from the manager, the role or the server |
/// | `idle_timeout` | the server's `idle_session_timeout` is off, or longer than the pool keeps a connection idle |
///
/// Needs no privilege. If the pool connects to another port than the server listens on,
/// there is a proxy in between, such as PgBouncer. Then the proxy decides how many
/// connections the server has, and `max_size` is not checked.
///
/// # Errors
///
/// [`AdviseError::NoInstances`] if `instances` is zero, [`AdviseError::Pool`] if the pool
/// gives no connection within its `connection_timeout`, [`AdviseError::Server`] if a
/// query fails, [`AdviseError::Answer`] if its result is not understood.
///
/// # Blocking
///
/// As [`Pool::get`], then two round trips without a limit of their own.
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
        return Err(AdviseError::NoInstances);
    }
    let mut conn = pool.get()?;
    let snapshot = pool.snapshot();
    let (settings, clients) = PooledConnection::run(&mut conn, server::ask)?;
    drop(conn);

    let own = snapshot.stats.open + snapshot.stats.closing;
    let figures = ServerFigures::new(&settings, clients, own.into())?;
    let ports = pool.manager().config().get_ports().to_vec();
    let is_direct = match ports.as_slice() {
        [] => figures.port == 5432,
        ports => ports.contains(&figures.port),
    };
    let of_pool = rules::Settings::from(&snapshot.settings);
    let (mut recommendations, mut unchecked) = (Vec::new(), Vec::new());
    match is_direct {
        true => recommendations.extend(rules::connections(&of_pool, &figures, instances)),
        false => unchecked.push(rules::proxy_between(&of_pool, &figures, instances, &ports)),
    }
    recommendations.extend(rules::all_but_connections(&of_pool, &figures));
    recommendations.sort_by_key(|recommendation| std::cmp::Reverse(recommendation.severity));
    let pool = pool.name().to_owned();
    Ok(Advice { pool, instances, server: figures, recommendations, unchecked })
}
