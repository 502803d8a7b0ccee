//! The one place that names locks, condition variables, threads and the clock,
//! so that the shell can be run under a model checker.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::core::Time;

pub(crate) use parking_lot::{Condvar, Mutex};
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::thread::JoinHandle;

/// The pool's clock: monotonic, started with the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    #[inline]
    pub(crate) fn now(&self) -> Time {
        let span = Instant::now().duration_since(self.origin);
        // Wraps after 584 years.
        Time(
            span.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(span.subsec_nanos())),
        )
    }

    /// A point before the pool's start counts as its start; one that the pool
    /// will not live to see, as never.
    pub(crate) fn time_of(&self, at: Instant) -> Time {
        Time::START.after(at.saturating_duration_since(self.origin))
    }

    /// `None` for a time so far away that the system cannot name it.
    pub(crate) fn instant_of(&self, at: Time) -> Option<Instant> {
        if at == Time::NEVER {
            return None;
        }
        self.origin.checked_add(Duration::from_nanos(at.0))
    }
}

/// Sleeps. Only for what is tried again until it succeeds.
pub(crate) fn sleep(span: Duration) {
    thread::sleep(span);
}

/// Starts a thread.
///
/// # Errors
///
/// The operating system's, when it has no more threads to give.
pub(crate) fn spawn<F>(name: String, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    thread::Builder::new().name(name).spawn(body)
}
