//! A server that is one program with one port on loopback.

use std::fs;
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{self, Owner};
use crate::keeper::{self, Keeper};

/// Below the range of every other server.
const PORTS: Range<u16> = 4_000..5_500;
const START_LIMIT: Duration = Duration::from_secs(20);

/// What to start.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The package of Debian and Ubuntu.
    pub(crate) package: &'static str,
    pub(crate) kept: keeper::Program,
}

/// The server; dropping it stops it.
pub(crate) struct Daemon {
    name: &'static str,
    port: u16,
    folder: PathBuf,
    keeper: Keeper,
}

impl Daemon {
    /// # Panics
    ///
    /// If the program is not installed, or does not start.
    pub(crate) fn start(program: &Program) -> Daemon {
        let Program { name, package, ref kept } = *program;
        let path = host::find_program(&[name], &["/usr/sbin", "/usr/local/sbin"]);
        let path = path.unwrap_or_else(|| {
            panic!("{name} was not found: install it, for example with `apt-get install {package}`")
        });
        let owner = Owner::choose().unwrap_or_else(|why| panic!("{why}"));
        let folder = host::make_folder(name, owner).unwrap_or_else(|why| panic!("{why}"));
        let keeper = Keeper::spawn(kept, &path, &folder, owner, None).expect("sh starts");
        let mut daemon = Daemon { name, port: host::free_port(PORTS), folder, keeper };
        daemon.start_again();
        daemon
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops it, which ends its connections. Returns when it has ended.
    pub(crate) fn stop(&mut self) {
        // The data is worth nothing.
        self.keeper.stop("KILL");
    }

    /// Starts it after a stop, on the same port. Returns when it accepts connections.
    pub(crate) fn start_again(&mut self) {
        self.keeper.start(self.port);
        wait_until_it_accepts(self.name, self.port, &self.folder);
    }
}

fn wait_until_it_accepts(name: &str, port: u16, folder: &Path) {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{name} did not start:\n{log}");
        thread::sleep(Duration::from_millis(10));
    }
}
