//! A cell is what one table shows: a number of threads on a number of connections, with
//! a hold.

use std::fmt;
use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

/// What a thread does while it holds a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hold {
    /// It returns the connection at once.
    None,
    /// It computes: it spins on the clock for this time.
    Busy(Duration),
    /// It waits for a server: it sleeps for this time.
    Sleeping(Duration),
    /// It calls a driver; the source makes the call.
    Driver,
}

impl Hold {
    /// Spins or sleeps.
    #[inline]
    pub fn spend(self) {
        match self {
            Hold::None | Hold::Driver => {}
            Hold::Busy(span) => {
                let start = Instant::now();
                while start.elapsed() < span {
                    spin_loop();
                }
            }
            Hold::Sleeping(span) => thread::sleep(span),
        }
    }

    pub(crate) fn span(self) -> Duration {
        match self {
            Hold::None | Hold::Driver => Duration::ZERO,
            Hold::Busy(span) | Hold::Sleeping(span) => span,
        }
    }

    /// The name of the kind in reports and in the peers' protocol.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Hold::None => "none",
            Hold::Busy(_) => "busy",
            Hold::Sleeping(_) => "sleeping",
            Hold::Driver => "driver",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::None => f.write_str("0"),
            Hold::Busy(span) => write!(f, "{span:?} busy"),
            Hold::Sleeping(span) => write!(f, "{span:?} asleep"),
            Hold::Driver => f.write_str("driver"),
        }
    }
}

/// Threads that share connections; displayed as `threads / connections / hold`.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// How many threads get connections.
    pub threads: usize,
    /// How many connections a pool has.
    pub connections: u32,
    /// What a thread does with a connection.
    pub hold: Hold,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.threads, self.connections, self.hold)
    }
}
