//! Servers for the tests, each a process of its own on a free port of this machine.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A server, which ends when this is dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A Redis server that keeps nothing on disk.
    pub fn redis() -> Server {
        Server::start("redis-server", &["--bind", "127.0.0.1", "--save", "", "--port"])
    }

    /// A memcached.
    pub fn memcached() -> Server {
        Server::start("memcached", &["-u", "nobody", "-l", "127.0.0.1", "-p"])
    }

    /// Another program may take the free port before the server does; then it ends.
    fn start(program: &str, arguments: &[&str]) -> Server {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
            let port = free.expect("a free port").port();
            let folder = tempfile::tempdir().expect("a folder");
            let mut child = Command::new(program)
                .args(arguments)
                .arg(port.to_string())
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}"));
            while child.try_wait().expect("its status").is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Server { child, port, _folder: folder };
                }
                assert!(Instant::now() < end, "{program} does not listen");
                thread::sleep(Duration::from_millis(5));
            }
        }
        panic!("{program} does not run");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
