//! A PgBouncer in front of a PostgreSQL on loopback.
//!
//! It stops, and its folder is removed, when it is dropped or the process ends.

use std::fs;
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{APP_PASSWORD, APP_USER};
use crate::host::{self, Owner};
use crate::keeper::{Keeper, Program};

const PORTS: Range<u16> = 10_000..14_000;
const START_LIMIT: Duration = Duration::from_secs(20);
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
const HOW_TO_INSTALL: &str = "PgBouncer was not found in PATH, /usr/sbin and /usr/local/sbin: \
     install it, for example with `apt-get install pgbouncer`";

/// SIGKILL, because the meaning of the other signals differs between versions of PgBouncer.
const KILL: &str = "KILL";
const SERVER: Program = Program { start: r#""$1" "$2/pgbouncer.ini""#, end: KILL };

/// A PgBouncer with its own folder; dropping it stops it.
pub struct Bouncer {
    database: &'static str,
    port: u16,
    keeper: Keeper,
}

impl Bouncer {
    /// Starts one that pools transactions: it shares `server_connections` connections to the
    /// server on `server_port` among its clients.
    ///
    /// # Panics
    ///
    /// If there is no PgBouncer, or it does not start.
    pub fn start(server_port: u16, server_connections: u32) -> Bouncer {
        Bouncer::start_with_mode(server_port, server_connections, "transaction")
    }

    /// The same, with this `pool_mode`: `transaction`, `session` or `statement`.
    ///
    /// # Panics
    ///
    /// If there is no PgBouncer, or it does not start.
    pub fn start_with_mode(server_port: u16, server_connections: u32, mode: &str) -> Bouncer {
        Self::start_for("postgres", server_port, server_connections, mode)
    }

    /// Starts one that serves this database, and no other.
    ///
    /// # Panics
    ///
    /// As [`start_with_mode`](Self::start_with_mode).
    pub fn start_for(
        database: &'static str,
        server_port: u16,
        server_connections: u32,
        mode: &str,
    ) -> Bouncer {
        Self::start_with_access(database, server_port, server_connections, mode, "auth_type = any")
    }

    /// Starts one that pools sessions, into which only [`APP_USER`] can log in, with
    /// [`APP_PASSWORD`]. On the server its sessions are those of `postgres`.
    ///
    /// # Panics
    ///
    /// As [`start_with_mode`](Self::start_with_mode).
    pub fn start_with_login(server_port: u16, server_connections: u32) -> Bouncer {
        let access = "auth_type = scram-sha-256\nauth_file = users";
        Self::start_with_access("postgres", server_port, server_connections, "session", access)
    }

    fn start_with_access(
        database: &'static str,
        server_port: u16,
        server_connections: u32,
        mode: &str,
        access: &str,
    ) -> Bouncer {
        let program = host::find_program(&["pgbouncer"], &FOLDERS)
            .unwrap_or_else(|| panic!("{HOW_TO_INSTALL}"));
        let owner = Owner::choose().unwrap_or_else(|why| panic!("{why}"));
        let folder = host::make_folder("bouncer", owner).unwrap_or_else(|why| panic!("{why}"));
        let port = host::free_port(PORTS);
        let text = format!(
            "[databases]\n\
             {database} = host=127.0.0.1 port={server_port} dbname={database} user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             {access}\n\
             pool_mode = {mode}\n\
             default_pool_size = {server_connections}\n\
             max_client_conn = 100\n\
             server_login_retry = 1\n"
        );
        fs::write(folder.join("pgbouncer.ini"), text).expect("pgbouncer.ini");
        let users = format!("\"{APP_USER}\" \"{APP_PASSWORD}\"\n");
        fs::write(folder.join("users"), users).expect("users");
        let keeper = Keeper::spawn(&SERVER, &program, &folder, owner, None).expect("sh starts");
        let mut bouncer = Bouncer { database, port, keeper };
        bouncer.start_again();
        bouncer.wait_until_it_accepts(&folder);
        bouncer
    }

    /// Returns a configuration that connects through it as `postgres`.
    pub fn config(&self) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(self.port);
        config.user("postgres").dbname(self.database);
        config
    }

    /// Stops it, which disconnects its clients. Returns when it has ended.
    pub fn stop(&mut self) {
        self.keeper.stop(KILL);
    }

    /// Starts it after a stop, without waiting until it accepts.
    pub fn start_again(&mut self) {
        self.keeper.start(self.port);
    }

    fn wait_until_it_accepts(&self, folder: &Path) {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            let in_time = Instant::now() < deadline && !log.contains("FATAL");
            assert!(in_time, "PgBouncer did not start:\n{log}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
