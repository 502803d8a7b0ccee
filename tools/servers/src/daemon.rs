//! A server that is one program with one port on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{self, Owner};

const PORTS: Range<u16> = 9_000..10_000;
const START_LIMIT: Duration = Duration::from_secs(20);

/// `$1` is the folder, the rest is the command. One line from the pipe stops the server, the
/// next starts it again; the pipe's end removes everything. SIGKILL: the data is worth nothing.
const KEEPER: &str = r#"
folder=$1
shift
stop() { kill -s KILL "$pid"; wait "$pid"; pid=; }
while :; do
    "$@" >>"$folder/output" 2>&1 </dev/null &
    pid=$!
    echo started
    read -r line || break
    stop
    echo stopped
    read -r line || break
done
[ -z "$pid" ] || stop
cd / && rm -rf "$folder"
"#;

/// What to start.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The package of Debian and Ubuntu.
    pub(crate) package: &'static str,
    /// Its arguments, for this port.
    pub(crate) arguments: fn(&str) -> Vec<&str>,
}

/// The server; dropping it stops it.
pub(crate) struct Daemon {
    name: &'static str,
    port: u16,
    folder: PathBuf,
    keeper: Child,
    answers: BufReader<ChildStdout>,
}

impl Daemon {
    /// # Panics
    ///
    /// If the program is not installed, or does not start.
    pub(crate) fn start(program: &Program) -> Daemon {
        let Program { name, package, arguments } = *program;
        let path = host::find_program(&[name], &["/usr/sbin", "/usr/local/sbin"]);
        let path = path.unwrap_or_else(|| {
            panic!("{name} was not found: install it, for example with `apt-get install {package}`")
        });
        let owner = Owner::choose().unwrap_or_else(|why| panic!("{why}"));
        let folder = host::make_folder(name, owner).unwrap_or_else(|why| panic!("{why}"));
        let port = host::free_port(PORTS);
        let mut command = owner.shell(None);
        command
            .args(["-c", KEEPER, "keeper"])
            .args([&folder, &path])
            .args(arguments(&port.to_string()))
            .current_dir(&folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut keeper = command.spawn().expect("sh starts");
        let answers = BufReader::new(keeper.stdout.take().expect("a pipe"));
        let mut daemon = Daemon { name, port, folder, keeper, answers };
        daemon.await_start();
        daemon
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops it, which ends its connections. Returns when it has ended.
    pub(crate) fn stop(&mut self) {
        self.toggle();
        assert_eq!(self.answer(), "stopped");
    }

    /// Starts it after a stop, on the same port. Returns when it accepts connections.
    pub(crate) fn start_again(&mut self) {
        self.toggle();
        self.await_start();
    }

    fn await_start(&mut self) {
        assert_eq!(self.answer(), "started");
        wait_until_it_accepts(self.name, self.port, &self.folder);
    }

    fn toggle(&mut self) {
        let pipe = self.keeper.stdin.as_mut().expect("the pipe is open");
        writeln!(pipe).expect("the keeper reads");
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }
}

fn wait_until_it_accepts(name: &str, port: u16, folder: &Path) {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let output = fs::read_to_string(folder.join("output")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{name} did not start:\n{output}");
        thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Returns when the server and its folder are gone.
        let _ = self.keeper.wait();
    }
}
