//! A MariaDB server for one test program.
//!
//! It lives in a temporary folder and listens on a free loopback port and on a socket in that
//! folder. It has a database, [`DATABASE`], and a user who may do everything in it, [`APP_USER`],
//! who logs in with [`APP_PASSWORD`]. The test's own statements run as `root`, through the socket.
//!
//! When the value is dropped, the server is killed and the folder removed. The same happens
//! when the process exits without dropping its statics, aborts, or is killed.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{self, Owner};
use crate::keeper::{Keeper, Program};

/// The database of [`APP_USER`].
pub const DATABASE: &str = "shop";
/// A user who logs in with a password, over TCP.
pub const APP_USER: &str = "app";
/// The password of [`APP_USER`].
pub const APP_PASSWORD: &str = "right";

const SERVER: Program =
    Program { start: r#""$1" --defaults-file="$2/my.cnf" --port="$value""#, end: "KILL" };
const START_LIMIT: Duration = Duration::from_secs(60);
const PORTS: Range<u16> = 14_000..19_000;
const PORT_ATTEMPTS: usize = 10;
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];
const HOW_TO_INSTALL: &str = "MariaDB's programs were not found (mariadbd, mariadb-install-db and \
     mariadb, in PATH or in /usr/sbin): install them, for example with `apt-get install \
     mariadb-server`";

/// Speed over safety: the data is worth nothing. Clients agree upon another character set, so that
/// it shows where one of them falls back to the server's.
const SETTINGS: &str = "\
[mariadbd]
bind-address = 127.0.0.1
skip-name-resolve
character-set-server = latin1
innodb-buffer-pool-size = 16M
innodb-log-file-size = 8M
innodb-flush-log-at-trx-commit = 0
innodb-flush-method = nosync
max-connections = 100
";

struct Binaries {
    server: PathBuf,
    install: PathBuf,
    client: PathBuf,
}

/// A MariaDB server, running or stopped, with its own folder.
///
/// Dropping it kills the server and removes the folder.
pub struct MariaDb {
    folder: PathBuf,
    binaries: Binaries,
    owner: Owner,
    port: u16,
    keeper: Mutex<Keeper>,
}

impl MariaDb {
    /// Starts a new server.
    ///
    /// # Panics
    ///
    /// If there is no MariaDB, or it does not start.
    pub fn start() -> Self {
        Self::try_start().unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_start() -> Result<Self, String> {
        let binaries = find_binaries().ok_or(HOW_TO_INSTALL)?;
        let owner = Owner::choose()?;
        let folder = host::make_folder("mariadb", owner)?;
        let keeper = Keeper::spawn(&SERVER, &binaries.server, &folder, owner, None);
        let keeper = keeper.map_err(|why| {
            let _ = fs::remove_dir_all(&folder);
            format!("cannot start a shell: {why}")
        })?;
        // From here on the keeper removes the folder.
        let mut server = Self { folder, binaries, owner, port: 0, keeper: Mutex::new(keeper) };
        server.init()?;
        server.start_on_a_free_port()?;
        server.sql(&format!(
            "DROP USER IF EXISTS ''@'localhost'; CREATE DATABASE {DATABASE}; \
             CREATE USER {APP_USER} IDENTIFIED BY '{APP_PASSWORD}'; \
             GRANT ALL ON {DATABASE}.* TO {APP_USER}"
        ));
        Ok(server)
    }

    /// Returns a URL that connects as [`APP_USER`] to [`DATABASE`], over TCP.
    pub fn url(&self) -> String {
        format!("mysql://{APP_USER}:{APP_PASSWORD}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Returns the server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Returns the folder that holds all files of this server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the server's log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs SQL as `root` in a new session and returns its output, with fields separated by
    /// tabs.
    ///
    /// # Panics
    ///
    /// If the SQL fails or the server is stopped.
    pub fn sql(&self, sql: &str) -> String {
        let mut command = Command::new(&self.binaries.client);
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        command.arg("--socket").arg(self.socket()).arg("--execute").arg(sql);
        let output = host::run(command, &format!("mariadb with {sql:?}"));
        output.unwrap_or_else(|why| panic!("{why}")).trim_end().to_owned()
    }

    /// Suspends the server by a signal, until the returned value is dropped: the kernel
    /// accepts connections, and nothing answers.
    ///
    /// # Panics
    ///
    /// If the server is stopped.
    pub fn freeze(&self) -> Frozen {
        let server = self.keeper().server().expect("the server is running");
        let frozen = Frozen(server);
        assert!(signal("-STOP", server), "the server gets a signal");
        // Its threads take the signal one after the other.
        let deadline = Instant::now() + START_LIMIT;
        while !is_stopped(server) {
            assert!(Instant::now() < deadline, "the server does not stop");
            thread::sleep(Duration::from_millis(1));
        }
        frozen
    }

    /// Stops the server, which ends its sessions. Returns when it has ended.
    ///
    /// # Panics
    ///
    /// If the server is stopped already.
    pub fn stop(&self) {
        self.keeper().stop("TERM");
    }

    /// Starts a stopped server on the same port with the same data. Returns when it accepts
    /// connections.
    ///
    /// # Panics
    ///
    /// If the server is running, or does not start.
    pub fn start_again(&self) {
        let from = self.log().len();
        self.keeper().start(self.port);
        if let Err(log) = self.wait_until_it_accepts(from) {
            panic!("MariaDB did not start again:\n{log}");
        }
    }

    fn init(&self) -> Result<(), String> {
        let folder = self.folder.display();
        // A server that starts removes the temporary tables of others from its `tmpdir`.
        let files = format!(
            "datadir = {folder}/data\nsocket = {folder}/socket\npid-file = {folder}/pid\n\
             secure-file-priv = {folder}\ntmpdir = {folder}\n"
        );
        fs::write(self.folder.join("my.cnf"), format!("{SETTINGS}{files}"))
            .map_err(|error| format!("my.cnf: {error}"))?;
        let mut command = Command::new(&self.binaries.install);
        command.arg(format!("--defaults-file={folder}/my.cnf"));
        command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        self.owner.apply_to(&mut command).current_dir(&self.folder);
        host::run(command, "mariadb-install-db").map(drop)
    }

    fn start_on_a_free_port(&mut self) -> Result<(), String> {
        for _ in 0..PORT_ATTEMPTS {
            self.port = host::free_port(PORTS);
            let from = self.log().len();
            self.keeper().start(self.port);
            match self.wait_until_it_accepts(from) {
                Ok(()) => return Ok(()),
                // Another process took the port in between.
                Err(log) if log.contains("Address already in use") => self.keeper().stop("KILL"),
                Err(log) => return Err(format!("MariaDB did not start:\n{log}")),
            }
        }
        Err(format!("no free port after {PORT_ATTEMPTS} attempts"))
    }

    /// Polls the log. Fails with what was logged after `from`.
    fn wait_until_it_accepts(&self, from: usize) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log = self.log().split_off(from);
            if log.contains("ready for connections") {
                return Ok(());
            }
            if log.contains("[ERROR] Aborting") || Instant::now() > deadline {
                return Err(log);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A suspended [`MariaDb`]; dropping it resumes the server.
pub struct Frozen(u32);

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed in between.
        signal("-CONT", self.0);
    }
}

fn signal(name: &str, pid: u32) -> bool {
    let sent = Command::new("kill").arg(name).arg(pid.to_string()).status();
    sent.is_ok_and(|status| status.success())
}

/// Whether all threads of a process are suspended.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
    threads.into_iter().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // After the name in parentheses. A thread that has ended has no file.
        stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    })
}

fn find_binaries() -> Option<Binaries> {
    Some(Binaries {
        server: host::find_program(&["mariadbd", "mysqld"], &FOLDERS)?,
        install: host::find_program(&["mariadb-install-db"], &FOLDERS)?,
        client: host::find_program(&["mariadb"], &FOLDERS)?,
    })
}
