//! A throw-away PostgreSQL cluster for tests.
//!
//! It lives in a temporary folder, listens on a free loopback port and on a
//! socket in that folder, and has two roles: `postgres`, which needs no
//! password, and [`APP_USER`], which logs in with [`APP_PASSWORD`] (scram).
//!
//! The server's parent is not the test but a small shell script, the *keeper*,
//! which reads commands from a pipe. When the pipe ends, it kills the server
//! and removes the folder. The pipe ends when the cluster is dropped, and just
//! as well when the test process exits without dropping its statics, aborts, or
//! is killed: nothing outlives the tests.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A role that may log in with a password only.
pub const APP_USER: &str = "app";
/// The password of [`APP_USER`].
pub const APP_PASSWORD: &str = "right";

const START_LIMIT: Duration = Duration::from_secs(60);
const PORT_ATTEMPTS: usize = 10;
const BINARIES: [&str; 3] = ["initdb", "postgres", "psql"];
const HOW_TO_INSTALL: &str = "PostgreSQL's server programs were not found: looked for initdb, \
     postgres and psql in PATH, in `pg_config --bindir` and in /usr/lib/postgresql/*/bin; \
     install them, for example with `apt-get install postgresql`";

/// `$1` is the server's program, `$2` the cluster's folder. The keeper has its
/// own process group, so that Ctrl-C in a terminal does not reach it.
const KEEPER: &str = r#"
pid=
stop() { kill "-$1" "$pid"; wait "$pid"; pid=; }
while read -r command value; do
    case $command in
    start)
        "$1" -D "$2/data" -p "$value" >>"$2/log" 2>&1 </dev/null &
        pid=$!
        echo "$pid"
        ;;
    stop)
        stop "$value"
        echo stopped
        ;;
    esac
done
[ -z "$pid" ] || stop QUIT
cd / && rm -rf "$2"
"#;

const ACCESS: &str = "\
local all postgres              trust
host  all postgres 127.0.0.1/32 trust
local all all                   scram-sha-256
host  all all      127.0.0.1/32 scram-sha-256
";

/// Speed over safety: what is in the cluster is worth nothing.
const SETTINGS: &str = "\
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
shared_buffers = 16MB
max_connections = 50
password_encryption = 'scram-sha-256'
";

/// A running (or stopped) PostgreSQL server with a folder of its own.
///
/// Dropping it kills the server and removes the folder.
pub struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    host: String,
    port: u16,
    keeper: Mutex<Keeper>,
}

/// Where a server runs that is not on loopback.
struct Inside<'a> {
    namespace: &'a str,
    address: &'a str,
}

struct Keeper {
    process: Child,
    /// Taken out by the drop, which ends the pipe.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    server: Option<u32>,
}

impl Cluster {
    /// The cluster that the tests of one program share; started by the first.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a cluster of one's own.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a cluster of one's own, with settings as in `postgresql.conf`:
    /// `&[("max_connections", "5")]`.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_at(None, settings).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts a cluster of one's own.
    ///
    /// # Errors
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn try_start() -> Result<Self, String> {
        Self::start_at(None, &[])
    }

    /// Starts a cluster of one's own inside a network namespace. It listens on
    /// `address`, and lets everybody in who comes from the same `/30` network.
    ///
    /// # Panics
    ///
    /// If there is no PostgreSQL, or it does not start.
    pub fn start_inside(namespace: &str, address: &str, settings: &[(&str, &str)]) -> Self {
        let inside = Some(Inside { namespace, address });
        Self::start_at(inside, settings).unwrap_or_else(|why| panic!("{why}"))
    }

    fn start_at(inside: Option<Inside<'_>>, settings: &[(&str, &str)]) -> Result<Self, String> {
        let bin = find_binaries().ok_or(HOW_TO_INSTALL)?;
        let owner = Owner::choose()?;
        let folder = make_folder(owner)?;
        let namespace = inside.as_ref().map(|inside| inside.namespace);
        let keeper = Keeper::hire(&bin, &folder, owner, namespace).map_err(|why| {
            let _ = fs::remove_dir_all(&folder);
            format!("cannot start a shell: {why}")
        })?;
        let host = inside.as_ref().map_or("127.0.0.1", |inside| inside.address).to_owned();
        // From here on the folder is removed whatever happens.
        let mut cluster = Self { folder, bin, host, port: 0, keeper: Mutex::new(keeper) };
        cluster.init(owner)?;
        cluster.configure(settings)?;
        cluster.start_on_a_free_port()?;
        cluster.psql(&format!("CREATE ROLE {APP_USER} LOGIN PASSWORD '{APP_PASSWORD}'"));
        Ok(cluster)
    }

    /// A URL that connects as `postgres`, over TCP.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@{}:{}/postgres", self.host, self.port)
    }

    /// [`url`](Self::url) as a configuration.
    pub fn config(&self) -> postgres::Config {
        self.url().parse().expect("a valid URL")
    }

    /// A configuration that connects as [`APP_USER`] with this password.
    pub fn app_config(&self, password: &str) -> postgres::Config {
        let mut config = self.config();
        config.user(APP_USER).password(password);
        config
    }

    /// A configuration that connects as `postgres` through the Unix socket.
    pub fn socket_config(&self) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(&self.folder).port(self.port).user("postgres");
        config
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with everything that belongs to this cluster.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's first process.
    ///
    /// # Panics
    ///
    /// If the server is stopped.
    pub fn pid(&self) -> u32 {
        self.keeper().server.expect("the server is running")
    }

    /// What the server has logged so far.
    ///
    /// A message is in there before the client has the answer that goes with it.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Runs SQL as `postgres` in a session of its own and returns its output,
    /// fields separated by `|`.
    ///
    /// # Panics
    ///
    /// If the SQL fails or the server is away.
    pub fn psql(&self, sql: &str) -> String {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres"])
            .args(["-d", "postgres", "-c", sql])
            .arg("-h")
            .arg(&self.folder)
            .arg("-p")
            .arg(self.port.to_string());
        let output = run(command, &format!("psql with {sql:?}"));
        output.unwrap_or_else(|why| panic!("{why}")).trim_end().to_owned()
    }

    /// Stops the server; its clients are told (57P01). Returns when it is gone.
    ///
    /// # Panics
    ///
    /// If the server is stopped already.
    pub fn stop(&self) {
        self.stop_by("INT");
    }

    /// As [`stop`](Self::stop), but without a shutdown checkpoint: the next
    /// start is a recovery. PostgreSQL calls this "immediate".
    ///
    /// # Panics
    ///
    /// If the server is stopped already.
    pub fn stop_at_once(&self) {
        self.stop_by("QUIT");
    }

    fn stop_by(&self, signal: &str) {
        let mut keeper = self.keeper();
        assert!(keeper.server.take().is_some(), "the server is stopped");
        let answer = keeper.ask(&format!("stop {signal}"));
        assert_eq!(answer, "stopped");
    }

    /// Starts a stopped server on the same port, with the same data. Returns
    /// when it accepts connections.
    ///
    /// # Panics
    ///
    /// If the server is running, or does not start.
    pub fn start_again(&self) {
        let from = self.log().len();
        self.launch();
        if let Err(log) = self.wait_until_it_accepts(from) {
            panic!("PostgreSQL did not start again:\n{log}");
        }
    }

    /// Stops all processes of the server by a signal: it is there and says
    /// nothing, until the value returned is dropped.
    ///
    /// # Panics
    ///
    /// If the server is stopped.
    pub fn freeze(&self) -> Frozen {
        // The first process first, so that no new one can come.
        let first = self.pid();
        let mut frozen = Frozen(vec![first]);
        signal("-STOP", &[first]);
        let children = children_of(first);
        assert!(children.len() > 4, "{children:?}");
        signal("-STOP", &children);
        frozen.0.extend(children);
        frozen
    }

    fn init(&self, owner: Owner) -> Result<(), String> {
        let mut command = Command::new(self.bin.join("initdb"));
        command
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--no-instructions"])
            .arg("--pgdata")
            .arg(self.folder.join("data"));
        owner.applied_to(&mut command).current_dir(&self.folder);
        run(command, "initdb")?;
        let access = ACCESS.replace("127.0.0.1/32", &format!("{}/30", self.host));
        fs::write(self.folder.join("data/pg_hba.conf"), access)
            .map_err(|error| format!("pg_hba.conf: {error}"))
    }

    fn configure(&self, settings: &[(&str, &str)]) -> Result<(), String> {
        let mut text = SETTINGS.to_owned();
        text += &format!("listen_addresses = '{}'\n", self.host);
        text += &format!("unix_socket_directories = '{}'\n", self.folder.display());
        for (name, value) in settings {
            text += &format!("{name} = '{}'\n", value.replace('\'', "''"));
        }
        self.append("postgresql.conf", &text)
    }

    fn start_on_a_free_port(&mut self) -> Result<(), String> {
        for _ in 0..PORT_ATTEMPTS {
            self.port = free_port();
            let from = self.log().len();
            self.launch();
            match self.wait_until_it_accepts(from) {
                Ok(()) => return Ok(()),
                // Somebody else was faster.
                Err(log) if log.contains("Address already in use") => self.stop(),
                Err(log) => return Err(format!("PostgreSQL did not start:\n{log}")),
            }
        }
        Err(format!("no free port after {PORT_ATTEMPTS} attempts"))
    }

    fn launch(&self) {
        let mut keeper = self.keeper();
        assert!(keeper.server.is_none(), "the server is running");
        let answer = keeper.ask(&format!("start {}", self.port));
        keeper.server = Some(answer.parse().expect("the server's pid"));
    }

    /// Reads the log again and again: the server has no other way to tell.
    /// Fails with what was logged after `from`.
    fn wait_until_it_accepts(&self, from: usize) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log = self.log().split_off(from);
            if log.contains("ready to accept connections") {
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

impl Keeper {
    fn hire(bin: &Path, folder: &Path, owner: Owner, namespace: Option<&str>) -> io::Result<Self> {
        let mut command = owner.shell(namespace);
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(bin.join("postgres"))
            .arg(folder)
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not the test's: whoever reads that must not wait for the keeper.
            .stderr(Stdio::null());
        let mut process = command.spawn()?;
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Ok(Self { commands: process.stdin.take(), answers, process, server: None })
    }

    fn ask(&mut self, command: &str) -> String {
        let pipe = self.commands.as_mut().expect("the pipe is open");
        writeln!(pipe, "{command}").expect("the keeper listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.commands = None;
        // Returns when the server and the folder are gone.
        let _ = self.process.wait();
    }
}

/// Stopped processes of a cluster that this program started; they go on when
/// it is dropped.
pub struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // A child may have ended in the meantime: no matter.
    let _ = Command::new("kill").arg(name).args(pids).status();
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        // After the name in parentheses: the state, then the parent.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

/// As whom the server runs.
#[derive(Copy, Clone)]
enum Owner {
    Ourselves,
    /// PostgreSQL refuses to run as root.
    InsteadOfRoot {
        uid: u32,
        gid: u32,
    },
}

impl Owner {
    fn choose() -> Result<Self, String> {
        let we_are_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        if !we_are_root {
            return Ok(Self::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (uid, gid) = users.lines().find_map(postgres_ids).ok_or(
            "this runs as root, PostgreSQL refuses to, and /etc/passwd has no user \
             `postgres` to run it as; `apt-get install postgresql` creates it",
        )?;
        Ok(Self::InsteadOfRoot { uid, gid })
    }

    /// `sh` as this user, in a network namespace if need be: which only root may
    /// enter, so that the user changes afterwards.
    fn shell(self, namespace: Option<&str>) -> Command {
        let (Some(namespace), Self::InsteadOfRoot { uid, gid }) = (namespace, self) else {
            let mut command = Command::new("sh");
            self.applied_to(&mut command);
            return command;
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "setpriv", "--clear-groups"]);
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("sh");
        command
    }

    fn applied_to(self, command: &mut Command) -> &mut Command {
        match self {
            Self::Ourselves => command,
            Self::InsteadOfRoot { uid, gid } => command.uid(uid).gid(gid),
        }
    }
}

fn postgres_ids(line: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        ["postgres", _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
        _ => None,
    }
}

fn make_folder(owner: Owner) -> Result<PathBuf, String> {
    // Short, because the path of a Unix socket may have 107 bytes.
    let number = next_number();
    let name = format!("fairpool-pg-{}-{number}", process::id());
    let folder = env::temp_dir().join(name);
    // Left behind only by a process of the same id whose machine lost power.
    let _ = fs::remove_dir_all(&folder);
    let made = fs::create_dir(&folder)
        .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)))
        .and_then(|()| match owner {
            Owner::InsteadOfRoot { uid, gid } => chown(&folder, Some(uid), Some(gid)),
            Owner::Ourselves => Ok(()),
        });
    made.map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    Ok(folder)
}

/// A port outside the range from which the kernel takes the ports of outgoing
/// connections, so that a stopped server finds it free again.
fn free_port() -> u16 {
    loop {
        let mixed = process::id().wrapping_mul(7919) + u32::from(next_number()) * 101;
        let port = 20_000 + (mixed % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn next_number() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
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

fn run(mut command: Command, what: &str) -> Result<String, String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{what}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{what} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
