//! What is measured: so many threads on so many connections, held for so long.

use std::fmt;
use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

/// How a thread spends the time for which it holds a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hold {
    None,
    /// It computes: it spins on the clock until the time has passed.
    Busy(Duration),
    /// It waits for a server: it sleeps.
    Sleeping(Duration),
    /// It calls a driver, for as long as that takes; the source makes the call.
    Driver,
}

impl Hold {
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

    pub fn span(self) -> Duration {
        match self {
            Hold::None | Hold::Driver => Duration::ZERO,
            Hold::Busy(span) | Hold::Sleeping(span) => span,
        }
    }

    /// The name of the kind, as the peers' protocol and the reports have it.
    pub fn kind(self) -> &'static str {
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

#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub threads: usize,
    pub connections: u32,
    pub hold: Hold,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}", self.threads, self.connections, self.hold)
    }
}
