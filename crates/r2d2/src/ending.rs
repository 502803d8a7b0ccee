//! The end of a broken connection, for which its guard's drop waits.
//!
//! In r2d2 the thread that drops the guard notifies the handler and closes the connection. Here
//! a thread of fairpool closes it, since a close may hang. So that users see r2d2's order, that
//! thread waits for the notification, and the one that drops the guard for the close; each for
//! [`LIMIT`] at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// As the default of fairpool's `drop_timeout`, which limits the drop of the last pool.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// The handler has been notified that it leaves.
    Released,
    Closed,
}

pub(crate) struct Ending {
    /// Whether the holder broke the connection. Spares all others the lock.
    broken: AtomicBool,
    phase: Mutex<Phase>,
    changed: Condvar,
}

impl Ending {
    pub(crate) fn new() -> Ending {
        Ending {
            broken: AtomicBool::new(false),
            phase: Mutex::new(Phase::Open),
            changed: Condvar::new(),
        }
    }

    /// Called within the drop of the guard, before fairpool takes the connection back.
    pub(crate) fn begin(&self) {
        // The closer gets the connection from this thread through the pool's lock.
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Called when fairpool has taken the connection back, and has notified the handler if it is
    /// broken. Then waits until it is closed.
    pub(crate) fn wait_for_close(&self) {
        if self.broken.load(Ordering::Relaxed) {
            self.reach(Phase::Released);
            self.wait_for(Phase::Closed);
        }
    }

    /// Called before a connection is closed.
    pub(crate) fn wait_for_release(&self) {
        if self.broken.load(Ordering::Relaxed) {
            self.wait_for(Phase::Released);
        }
    }

    /// Called when a connection is closed.
    pub(crate) fn finish(&self) {
        if self.broken.load(Ordering::Relaxed) {
            self.reach(Phase::Closed);
        }
    }

    fn reach(&self, next: Phase) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = next.max(*phase);
        drop(phase);
        // Not lost: who waits has looked at the phase under the same lock.
        self.changed.notify_all();
    }

    fn wait_for(&self, wanted: Phase) {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        // After the limit it goes on, whether or not that has come.
        drop(self.changed.wait_timeout_while(phase, LIMIT, |phase| *phase < wanted));
    }
}
