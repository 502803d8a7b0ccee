//! A memcached on a loopback port.
//!
//! It stops, and its folder is removed, when it is dropped or the process ends.

use crate::daemon::{Daemon, Program};
use crate::keeper;

const PROGRAM: Program = Program {
    name: "memcached",
    package: "memcached",
    kept: keeper::Program {
        start: r#""$1" --listen=127.0.0.1 --udp-port=0 --memory-limit=16 -p "$value""#,
        end: "KILL",
    },
};

/// A running server; dropping it stops it.
pub struct Memcached(Daemon);

impl Memcached {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If memcached is not installed, or does not start.
    pub fn start() -> Memcached {
        Memcached(Daemon::start(&PROGRAM))
    }

    /// Returns a URL that connects to it.
    pub fn url(&self) -> String {
        format!("memcache://127.0.0.1:{}", self.0.port())
    }

    /// Stops it, which ends its connections. Returns when it has ended.
    pub fn stop(&mut self) {
        self.0.stop();
    }

    /// Starts it after a stop, on the same port and empty. Returns when it accepts connections.
    pub fn start_again(&mut self) {
        self.0.start_again();
    }
}
