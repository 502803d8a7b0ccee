//! A throw-away PgBouncer that pools transactions, in front of a throw-away
//! PostgreSQL.
//!
//! As with the cluster, its parent is a small shell script that ends it and
//! removes its folder when a pipe from the test ends, however the test does.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(20);
const HOW_TO_INSTALL: &str = "PgBouncer was not found: looked in PATH, /usr/sbin and \
     /usr/local/sbin. This test starts one of its own; install it by hand, for example with \
     `apt-get install pgbouncer`";

/// `$1` is the program, `$2` the folder. One line from the pipe stops PgBouncer,
/// the next starts it again; the pipe's end removes everything. It is killed:
/// what the other signals mean to PgBouncer changes from version to version.
const KEEPER: &str = r#"
stop() { kill -s KILL "$pid"; wait "$pid"; pid=; }
while :; do
    "$1" "$2/pgbouncer.ini" >>"$2/output" 2>&1 </dev/null &
    pid=$!
    echo "$pid"
    read -r line || break
    stop
    echo stopped
    read -r line || break
done
[ -z "$pid" ] || stop
cd / && rm -rf "$2"
"#;

/// A PgBouncer with a folder of its own; dropping it stops it.
pub(crate) struct Bouncer {
    port: u16,
    keeper: Child,
    answers: BufReader<process::ChildStdout>,
}

impl Bouncer {
    /// Starts one that shares `server_connections` connections to the server on
    /// `server_port` among its clients.
    ///
    /// # Panics
    ///
    /// If there is no PgBouncer, or it does not start.
    pub(crate) fn start(server_port: u16, server_connections: u32) -> Bouncer {
        let program = find_program().unwrap_or_else(|| panic!("{HOW_TO_INSTALL}"));
        let owner = owner_instead_of_root();
        let (folder, port) = (make_folder(owner), free_port());
        let text = format!(
            "[databases]\n\
             postgres = host=127.0.0.1 port={server_port} dbname=postgres user=postgres\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {server_connections}\n\
             max_client_conn = 100\n\
             server_login_retry = 1\n"
        );
        fs::write(folder.join("pgbouncer.ini"), text).expect("pgbouncer.ini");
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .args([&program, &folder])
            .current_dir(&folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some((uid, gid)) = owner {
            command.uid(uid).gid(gid);
        }
        let mut keeper = command.spawn().expect("sh starts");
        let answers = BufReader::new(keeper.stdout.take().expect("a pipe"));
        let mut bouncer = Bouncer { port, keeper, answers };
        bouncer.answer();
        bouncer.wait_until_it_accepts(&folder);
        bouncer
    }

    /// A configuration that connects through it, as `postgres`.
    pub(crate) fn config(&self) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host("127.0.0.1").port(self.port);
        config.user("postgres").dbname("postgres");
        config
    }

    /// Stops it; its clients are disconnected. Returns when it is gone.
    pub(crate) fn stop(&mut self) {
        self.tell();
        assert_eq!(self.answer(), "stopped");
    }

    /// Starts it after a stop.
    pub(crate) fn start_again(&mut self) {
        self.tell();
        self.answer();
    }

    fn tell(&mut self) {
        let pipe = self.keeper.stdin.as_mut().expect("the pipe is open");
        writeln!(pipe).expect("the keeper listens");
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }

    fn wait_until_it_accepts(&self, folder: &Path) {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let output = fs::read_to_string(folder.join("output")).unwrap_or_default();
            let in_time = Instant::now() < deadline && !output.contains("FATAL");
            assert!(in_time, "PgBouncer did not start:\n{output}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Returns when PgBouncer and its folder are gone.
        let _ = self.keeper.wait();
    }
}

fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

/// PgBouncer refuses to run as root: then it runs as `postgres`, as the server.
fn owner_instead_of_root() -> Option<(u32, u32)> {
    let we_are_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !we_are_root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let ids = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            ["postgres", _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        }
    });
    Some(ids.expect("the tests run as root, and there is no user `postgres` to run PgBouncer as"))
}

fn make_folder(owner: Option<(u32, u32)>) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("fairpool-bouncer-{}-{number}", process::id());
    let folder = env::temp_dir().join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder for PgBouncer");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("chmod");
    if let Some((uid, gid)) = owner {
        chown(&folder, Some(uid), Some(gid)).expect("chown");
    }
    folder
}

/// A port below those that the kernel gives to outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) * 103;
        let port = 10_000 + ((process::id().wrapping_mul(6_367) + step) % 9_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
