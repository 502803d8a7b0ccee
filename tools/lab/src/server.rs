//! The PostgreSQL server for the scenarios that need one: that of `DATABASE_URL`, or one
//! that they start and that always ends with them.

use std::env;
use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::DerefMut;
use std::time::Duration;

use fairpool::{Pool, PooledConnection};
use fairpool_postgres::postgres::Config;
use fairpool_postgres::postgres::config::Host;
use fairpool_postgres::{Client, NoTls, PostgresConnectionManager};
use fairpool_servers::cluster::Cluster;

use crate::console::Console;
use crate::flawed::endless::{Endless, Guard};
use crate::scenario::Problem;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

pub struct Server {
    config: Config,
    address: SocketAddr,
    /// Whether it is that of `DATABASE_URL`, so that errors name the variable.
    is_given: bool,
    /// Stops the server when it is dropped.
    _started: Option<Cluster>,
}

impl Server {
    /// Finds or starts a server with room for this many sessions, and prints its address.
    pub fn find(sessions: u32, console: &Console) -> Result<Server, Problem> {
        let server = match env::var("DATABASE_URL") {
            Ok(url) => Server::given(&url)?,
            Err(env::VarError::NotPresent) => Server::start(console)?,
            Err(error) => return Err(Problem(format!("DATABASE_URL: {error}"))),
        };
        let wrong = |why: String| {
            let name = if server.is_given { "DATABASE_URL: " } else { "" };
            Problem(format!("{name}cannot use PostgreSQL at {}: {why}", server.address))
        };
        let mut client = server.config.connect(NoTls).map_err(|error| wrong(chain(&error)))?;
        let row = client
            .query_one(
                "SELECT current_setting('server_version'),
                 current_setting('max_connections')::BIGINT + 1 - count(*)
                 FROM pg_stat_activity WHERE datname IS NOT NULL",
                &[],
            )
            .map_err(|error| wrong(chain(&error)))?;
        let (version, room): (String, i64) = (row.get(0), row.get(1));
        if room < i64::from(sessions) {
            return Err(wrong(format!(
                "{sessions} sessions are needed, but it has room for {room}"
            )));
        }
        let whose = if server.is_given { "of DATABASE_URL" } else { "started for this" };
        console.say(&format!("server: PostgreSQL {version} at {}, {whose}", server.address));
        Ok(server)
    }

    fn given(url: &str) -> Result<Server, Problem> {
        let problem = |why: String| Problem(format!("DATABASE_URL: {why}"));
        let wrong = |error: fairpool_postgres::postgres::Error| problem(chain(&error));
        // The manager's error shows no part of a password, unlike the driver's.
        PostgresConnectionManager::from_url(url, NoTls).map_err(wrong)?;
        let mut config: Config = url.parse().map_err(wrong)?;
        let address = address(&config).map_err(problem)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_LIMIT);
        }
        Ok(Server { config, address, is_given: true, _started: None })
    }

    fn start(console: &Console) -> Result<Server, Problem> {
        console.say("starting a PostgreSQL server, since DATABASE_URL is not set");
        let cluster = Cluster::try_start().map_err(|why| {
            let line: Vec<&str> = why.split_whitespace().collect();
            Problem(format!("{}; or set DATABASE_URL to use another server", line.join(" ")))
        })?;
        let address = SocketAddr::from(([127, 0, 0, 1], cluster.port()));
        Ok(Server { config: cluster.config(), address, is_given: false, _started: Some(cluster) })
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The settings for a session.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The settings for a session through a proxy on this port of 127.0.0.1.
    pub fn config_through(&self, port: u16) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).ssl_mode(self.config.get_ssl_mode());
        self.config.get_user().map(|user| config.user(user));
        self.config.get_password().map(|password| config.password(password));
        self.config.get_dbname().map(|name| config.dbname(name));
        config
    }
}

/// The first address of a configuration.
fn address(config: &Config) -> Result<SocketAddr, String> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    if let Some(&ip) = config.get_hostaddrs().first() {
        return Ok(SocketAddr::from((ip, port)));
    }
    match config.get_hosts().first() {
        Some(Host::Tcp(name)) => (name.as_str(), port)
            .to_socket_addrs()
            .map_err(|error| format!("{name}: {error}"))?
            .next()
            .ok_or_else(|| format!("{name} has no address")),
        _ => Err("a TCP server is needed: the name or address of a host".to_string()),
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // The driver puts these two words before each message of the server.
        if text != "db error" && !line.contains(&text) {
            line += if line.is_empty() { "" } else { ": " };
            line += &text;
        }
        next = error.source();
    }
    line
}

/// A pool of PostgreSQL sessions, flawed or not.
pub trait Sessions: Clone + Send + Sync + 'static {
    type Session: DerefMut<Target = Client> + Send + 'static;

    #[track_caller]
    fn get(&self) -> Result<Self::Session, Refusal>;

    /// The number of callers that wait.
    fn waiting(&self) -> usize;

    /// The number of idle connections, and of all others that the pool counts.
    fn idle_and_active(&self) -> (usize, usize);
}

/// The error of a get.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub text: String,
    /// The driver's error, if it is the source.
    pub cause: Option<String>,
}

impl Sessions for Endless<Client> {
    type Session = Guard<Client>;

    fn get(&self) -> Result<Guard<Client>, Refusal> {
        Endless::get(self).map_err(|text| Refusal { text: text.to_string(), cause: None })
    }

    fn waiting(&self) -> usize {
        Endless::waiting(self)
    }

    fn idle_and_active(&self) -> (usize, usize) {
        Endless::idle_and_active(self)
    }
}

pub type Manager = PostgresConnectionManager<NoTls>;

impl Sessions for Pool<Manager> {
    type Session = PooledConnection<Manager>;

    #[track_caller]
    fn get(&self) -> Result<PooledConnection<Manager>, Refusal> {
        Pool::get(self).map_err(|error| {
            let cause =
                error.source().filter(|source| source.is::<fairpool_postgres::postgres::Error>());
            Refusal { text: error.to_string(), cause: cause.map(chain) }
        })
    }

    fn waiting(&self) -> usize {
        self.stats().waiting as usize
    }

    fn idle_and_active(&self) -> (usize, usize) {
        let stats = self.stats();
        (stats.idle as usize, (stats.in_use + stats.opening) as usize)
    }
}
