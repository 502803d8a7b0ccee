//! Locks, threads and the clock of the machine.

use std::io;
use std::sync::{self as std_sync, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use super::ticks::Ticks;
pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::thread::{JoinHandle, ThreadId};
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

/// The calling thread.
pub(crate) fn this_thread() -> ThreadId {
    thread::current().id()
}

/// Whether a thread has ended, as far as one can know without waiting for it.
pub(crate) fn is_finished(thread: &JoinHandle<()>) -> bool {
    thread.is_finished()
}

/// A condition variable with the interface of `parking_lot`'s. That one keeps its sleepers in
/// lists of the whole process. In a child made by `fork` they name threads that do not exist
/// there, and whose memory goes to new threads: wake-ups get lost, also those of the child's own
/// pools. And a reaper always sleeps. `std`'s keeps no lists.
#[derive(Default)]
pub(crate) struct Condvar {
    /// How many threads sleep: a notification that nobody waits for makes no system call.
    sleepers: std_sync::Mutex<usize>,
    woken: std_sync::Condvar,
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn notify_one(&self) {
        if self.has_sleepers() {
            self.woken.notify_one();
        }
    }

    pub(crate) fn notify_all(&self) {
        if self.has_sleepers() {
            self.woken.notify_all();
        }
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.sleep(guard, None);
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        let limit = deadline.saturating_duration_since(instant());
        WaitTimeoutResult(self.sleep(guard, Some(limit)))
    }

    fn has_sleepers(&self) -> bool {
        *self.sleepers.lock().unwrap_or_else(PoisonError::into_inner) > 0
    }

    /// Returns whether the limit ended the sleep. No wake-up is lost: a sleeper counts before it
    /// unlocks the guard's mutex.
    fn sleep<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Option<Duration>) -> bool {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        *sleepers += 1;
        MutexGuard::unlocked(guard, move || {
            let (mut sleepers, timed_out) = match limit {
                None => {
                    let woken = self.woken.wait(sleepers);
                    (woken.unwrap_or_else(PoisonError::into_inner), false)
                }
                Some(limit) => {
                    let woken = self.woken.wait_timeout(sleepers, limit);
                    let (sleepers, result) = woken.unwrap_or_else(PoisonError::into_inner);
                    (sleepers, result.timed_out())
                }
            };
            *sleepers -= 1;
            timed_out
        })
    }
}

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}
