//! Locks, threads and the clock of the machine.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) use super::ticks::Ticks;
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::thread_local as per_thread;

/// Whether the pool may spawn threads. A model runs their work itself.
pub(crate) const THREADS: bool = true;

/// The time.
#[inline]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// Sleeps. Only for retries and for the span of a diagnosis.
pub(crate) fn sleep(span: Duration) {
    thread::sleep(span);
}

/// Spawns a thread.
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
