//! A primary and a standby, which can change roles.

use postgres::Config;

use crate::cluster::Cluster;

/// Two PostgreSQL servers, of which the second follows the first at the beginning.
///
/// Each has a port of its own, which it keeps in every role. Dropping the pair stops both.
///
/// # Examples
///
/// ```no_run
/// use fairpool_servers::pair::Pair;
///
/// let pair = Pair::start();
/// pair.first().psql("CREATE TABLE t (n int)");
/// pair.second().catch_up_with(pair.first());
/// pair.switch_over();
/// assert!(pair.first().is_standby());
/// pair.second().psql("INSERT INTO t VALUES (1)");
/// ```
pub struct Pair {
    servers: [Cluster; 2],
}

impl Pair {
    /// Starts a primary and its standby.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start() -> Pair {
        Pair::start_with(&[])
    }

    /// The same, with settings as in `postgresql.conf`, for both of them.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with(settings: &[(&str, &str)]) -> Pair {
        let primary = Cluster::start_with(settings);
        let standby = Cluster::start_standby_of(&primary);
        Pair { servers: [primary, standby] }
    }

    /// Returns the server that was the primary at first.
    pub fn first(&self) -> &Cluster {
        &self.servers[0]
    }

    /// Returns the server that was the standby at first.
    pub fn second(&self) -> &Cluster {
        &self.servers[1]
    }

    /// Returns a configuration with both as hosts, the first one first, that connects as
    /// `postgres`. It asks for no role.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.user("postgres").dbname("postgres");
        for server in &self.servers {
            config.host("127.0.0.1").port(server.port());
        }
        config
    }

    /// Makes the standby the primary, and the primary its standby, without losing a commit: stops
    /// the primary, promotes the standby, and starts the other again.
    ///
    /// # Panics
    ///
    /// If a server is stopped, none of them is the standby of the other, or one does not start.
    pub fn switch_over(&self) {
        let [first, second] = &self.servers;
        let (old, new) = if first.is_standby() { (second, first) } else { (first, second) };
        old.stop();
        new.promote();
        old.follow(new);
    }
}
