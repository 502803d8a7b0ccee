//! A PostgreSQL cluster for one test program.
//!
//! It lives in a temporary folder and listens on a free loopback port and on a socket in
//! that folder. It has two roles: `postgres`, which needs no password, and [`APP_USER`],
//! which logs in with [`APP_PASSWORD`] (scram).
//!
//! When the cluster is dropped, the server is killed and the folder removed. The same
//! happens when the process exits without dropping its statics, aborts, or is killed.
//!
//! A cluster can follow another one: see [`Cluster::start_standby_of`], and
//! [`Pair`](crate::pair::Pair) for two that change roles.

mod frozen;
mod standby;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use self::frozen::Frozen;
use crate::host::{self, Owner};
use crate::keeper::{Keeper, Program};

/// A role that may log in with a password only.
pub const APP_USER: &str = "app";
/// The password of [`APP_USER`].
pub const APP_PASSWORD: &str = "right";

const SERVER: Program = Program { start: r#""$1" -D "$2/data" -p "$value""#, end: "QUIT" };
const START_LIMIT: Duration = Duration::from_secs(60);
const PORTS: Range<u16> = 20_000..32_000;
const PORT_ATTEMPTS: usize = 10;
const BINARIES: [&str; 4] = ["initdb", "postgres", "psql", "pg_basebackup"];
const HOW_TO_INSTALL: &str = "PostgreSQL's programs were not found (initdb, postgres, psql and \
     pg_basebackup in PATH, in `pg_config --bindir` or in /usr/lib/postgresql/*/bin): install them, for example \
     with `apt-get install postgresql`";

const ACCESS: &str = "\
local all postgres              trust
host  all postgres 127.0.0.1/32 trust
local all all                   scram-sha-256
host  all all      127.0.0.1/32 scram-sha-256
host  replication postgres 127.0.0.1/32 trust
";

/// Speed over safety: the data is worth nothing.
const SETTINGS: &str = "\
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
shared_buffers = 16MB
max_connections = 50
password_encryption = 'scram-sha-256'
";

/// A PostgreSQL server, running or stopped, with its own folder.
///
/// Dropping it kills the server and removes the folder.
pub struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    owner: Owner,
    host: String,
    port: u16,
    keeper: Mutex<Keeper>,
}

/// Where a server runs if not on loopback.
struct Inside<'a> {
    namespace: &'a str,
    address: &'a str,
}

impl Cluster {
    /// Returns the cluster that the tests of one program share. The first call starts it.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a new cluster.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a cluster with settings as in `postgresql.conf`:
    /// `&[("max_connections", "5")]`.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_at(None, settings).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts a new cluster.
    ///
    /// # Errors
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn try_start() -> Result<Self, String> {
        Self::start_at(None, &[])
    }

    /// Starts a cluster inside a network namespace. It listens on `address` and accepts
    /// everybody from the same `/30` network.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start_inside(namespace: &str, address: &str, settings: &[(&str, &str)]) -> Self {
        let inside = Some(Inside { namespace, address });
        Self::start_at(inside, settings).unwrap_or_else(|why| panic!("{why}"))
    }

    fn start_at(inside: Option<Inside<'_>>, settings: &[(&str, &str)]) -> Result<Self, String> {
        let mut cluster = Self::without_data(inside)?;
        cluster.init()?;
        cluster.configure(settings)?;
        cluster.start_on_a_free_port()?;
        cluster.psql(&format!("CREATE ROLE {APP_USER} LOGIN PASSWORD '{APP_PASSWORD}'"));
        Ok(cluster)
    }

    /// A folder and its keeper.
    fn without_data(inside: Option<Inside<'_>>) -> Result<Self, String> {
        let bin = find_binaries().ok_or(HOW_TO_INSTALL)?;
        let owner = Owner::choose()?;
        let folder = host::make_folder("pg", owner)?;
        let namespace = inside.as_ref().map(|inside| inside.namespace);
        let server = bin.join("postgres");
        let keeper = Keeper::spawn(&SERVER, &server, &folder, owner, namespace).map_err(|why| {
            let _ = fs::remove_dir_all(&folder);
            format!("cannot start a shell: {why}")
        })?;
        let host = inside.as_ref().map_or("127.0.0.1", |inside| inside.address).to_owned();
        // From here on the keeper removes the folder.
        Ok(Self { folder, bin, owner, host, port: 0, keeper: Mutex::new(keeper) })
    }

    /// Returns a URL that connects as `postgres`, over TCP.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@{}:{}/postgres", self.host, self.port)
    }

    /// Returns [`url`](Self::url) as a configuration.
    pub fn config(&self) -> postgres::Config {
        self.url().parse().expect("a valid URL")
    }

    /// Returns a configuration that connects as [`APP_USER`] with this password.
    pub fn app_config(&self, password: &str) -> postgres::Config {
        let mut config = self.config();
        config.user(APP_USER).password(password);
        config
    }

    /// Returns a configuration that connects as `postgres` through the Unix socket.
    pub fn socket_config(&self) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(&self.folder).port(self.port).user("postgres");
        config
    }

    /// Returns the server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder that holds all files of this cluster.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the id of the server's first process.
    ///
    /// # Panics
    ///
    /// If the server is stopped.
    pub fn pid(&self) -> u32 {
        self.keeper().server().expect("the server is running")
    }

    /// Returns the server's log so far.
    ///
    /// The server logs a message before it sends the answer to the client.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs SQL as `postgres` in a new session and returns its output, with fields
    /// separated by `|`.
    ///
    /// # Panics
    ///
    /// If the SQL fails or the server is stopped.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// Runs SQL in this database, as [`psql`](Self::psql) does.
    ///
    /// # Panics
    ///
    /// As [`psql`](Self::psql).
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres"])
            .args(["-d", database, "-c", sql])
            .arg("-h")
            .arg(&self.folder)
            .arg("-p")
            .arg(self.port.to_string());
        let output = host::run(command, &format!("psql with {sql:?}"));
        output.unwrap_or_else(|why| panic!("{why}")).trim_end().to_owned()
    }

    /// Stops the server, which disconnects its clients with 57P01. Returns when it has
    /// ended. A primary first sends its standbys everything that they lack.
    ///
    /// # Panics
    ///
    /// If the server is stopped already.
    pub fn stop(&self) {
        self.keeper().stop("INT");
    }

    /// Stops the server without a shutdown checkpoint, so that the next start recovers.
    /// PostgreSQL calls this "immediate".
    ///
    /// # Panics
    ///
    /// If the server is stopped already.
    pub fn stop_at_once(&self) {
        self.keeper().stop("QUIT");
    }

    /// Starts a stopped server on the same port with the same data. Returns when it
    /// accepts connections.
    ///
    /// # Panics
    ///
    /// If the server is running, or does not start.
    pub fn start_again(&self) {
        let from = self.log().len();
        self.keeper().start(self.port);
        if let Err(log) = self.wait_until_it_accepts(from) {
            panic!("PostgreSQL did not start again:\n{log}");
        }
    }

    fn init(&self) -> Result<(), String> {
        let mut command = Command::new(self.bin.join("initdb"));
        command
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--no-instructions"])
            .arg("--pgdata")
            .arg(self.folder.join("data"));
        self.owner.apply_to(&mut command).current_dir(&self.folder);
        host::run(command, "initdb")?;
        let access = ACCESS.replace("127.0.0.1/32", &format!("{}/30", self.host));
        fs::write(self.folder.join("data/pg_hba.conf"), access)
            .map_err(|error| format!("pg_hba.conf: {error}"))
    }

    fn configure(&self, settings: &[(&str, &str)]) -> Result<(), String> {
        let mut text = SETTINGS.to_owned();
        text += &format!("listen_addresses = '{}'\n", self.host);
        text += &self.socket_setting();
        for (name, value) in settings {
            text += &format!("{name} = '{}'\n", value.replace('\'', "''"));
        }
        self.append("postgresql.conf", &text)
    }

    fn socket_setting(&self) -> String {
        format!("unix_socket_directories = '{}'\n", self.folder.display())
    }

    fn start_on_a_free_port(&mut self) -> Result<(), String> {
        for _ in 0..PORT_ATTEMPTS {
            self.port = host::free_port(PORTS);
            let from = self.log().len();
            self.keeper().start(self.port);
            match self.wait_until_it_accepts(from) {
                Ok(()) => return Ok(()),
                // Another process took the port in between.
                Err(log) if log.contains("Address already in use") => self.stop(),
                Err(log) => return Err(format!("PostgreSQL did not start:\n{log}")),
            }
        }
        Err(format!("no free port after {PORT_ATTEMPTS} attempts"))
    }

    /// Polls the log, since the server announces this nowhere else. Fails with what was
    /// logged after `from`.
    fn wait_until_it_accepts(&self, from: usize) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log = self.log().split_off(from);
            // A standby is ready to accept "read-only connections".
            if log.contains("ready to accept") {
                return Ok(());
            }
            let failed = log.contains("FATAL:  could not") || log.contains("is shut down");
            if failed || Instant::now() > deadline {
                return Err(log);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn append(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join("data").join(name);
        let file = fs::OpenOptions::new().append(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("{name}: {error}"))
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_binaries() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        folders.push(folder.into());
    }
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    versions.sort_by_key(|path| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.and_then(|name| name.parse::<u32>().ok())
    });
    folders.extend(versions.iter().rev().map(|path| path.join("bin")));
    folders.into_iter().find(|folder| BINARIES.iter().all(|name| folder.join(name).is_file()))
}
