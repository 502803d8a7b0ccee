//! A redis server on a loopback port, without a file of its data.
//!
//! It stops, and its folder is removed, when it is dropped or the process ends.

use crate::daemon::{Daemon, Program};
use crate::keeper;

const PROGRAM: Program = Program {
    name: "redis-server",
    package: "redis-server",
    kept: keeper::Program {
        start: r#""$1" --bind 127.0.0.1 --port "$value" --save "" --appendonly no"#,
        end: "KILL",
    },
};

/// A running server; dropping it stops it.
pub struct Redis(Daemon);

impl Redis {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If redis-server is not installed, or does not start.
    pub fn start() -> Redis {
        Redis(Daemon::start(&PROGRAM))
    }

    /// Returns a URL that connects to it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.0.port())
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
