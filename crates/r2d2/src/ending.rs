//! The end of a broken connection, for which its guard's drop waits; and whose turn it is to
//! close.
//!
//! In r2d2 the thread that drops the guard notifies the handler and closes the connection. Here
//! a thread of fairpool closes it, since a close may hang. So that users see r2d2's order, that
//! thread waits for the notification, and the one that drops the guard for the close; each for
//! [`LIMIT`] at most. A connection that comes back from a guard of fairpool's own is closed as in
//! fairpool: nobody waits, in either direction.

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
    /// Whether a guard of r2d2 is giving the connection back. Only the holder's thread uses it.
    awaited: AtomicBool,
    /// Whether such a guard's holder broke the connection. Spares all others the lock.
    broken: AtomicBool,
    phase: Mutex<Phase>,
    changed: Condvar,
}

impl Ending {
    pub(crate) fn new() -> Ending {
        Ending {
            awaited: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            phase: Mutex::new(Phase::Open),
            changed: Condvar::new(),
        }
    }

    /// Called by r2d2's guard before it gives the connection back: it will call
    /// [`wait_for_close`](Ending::wait_for_close).
    pub(crate) fn announce_wait(&self) {
        self.awaited.store(true, Ordering::Relaxed);
    }

    /// Called once within the drop of any guard, on its thread: whether it is r2d2's. The next
    /// holder's guard may be fairpool's own, so the answer is forgotten.
    pub(crate) fn take_announcement(&self) -> bool {
        let awaited = self.awaited.load(Ordering::Relaxed);
        if awaited {
            self.awaited.store(false, Ordering::Relaxed);
        }
        awaited
    }

    /// Called within the drop of r2d2's guard, before fairpool takes the connection back.
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

/// The connections of a pool close in turn, as r2d2 closes them. SQLite needs that: of several
/// connections to a file that close at once none is the last, and its log stays behind. So as not
/// to wait for a close that hangs, each waits for [`LIMIT`] at most; and while one is known to
/// take longer, not at all.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnState {
    taken: bool,
    /// Somebody has waited in vain.
    stuck: bool,
}

/// Whether it is really the owner's turn, or a close that goes on without one.
pub(crate) struct Turn<'a>(Option<&'a Turns>);

impl Turns {
    pub(crate) fn take(&self) -> Turn<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = if state.stuck { Duration::ZERO } else { LIMIT };
        let waited = self.changed.wait_timeout_while(state, limit, |state| state.taken);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.taken {
            state.stuck = true;
            return Turn(None);
        }
        state.taken = true;
        Turn(Some(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(turns) = self.0 else { return };
        *turns.state.lock().unwrap_or_else(PoisonError::into_inner) = TurnState::default();
        // Not lost: who waits has looked at the state under the same lock.
        turns.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_a_close_that_hangs_holds_up_one_other_at_most_and_then_turns_begin_again() {
        let turns = Turns::default();
        let hangs = turns.take();
        assert!(hangs.0.is_some());
        assert!(turns.take().0.is_none(), "after the limit it goes on");
        assert!(turns.state.lock().unwrap().stuck, "the next does not wait");
        assert!(turns.take().0.is_none());
        drop(hangs);
        let next = turns.take();
        assert!(next.0.is_some(), "closes go in turn again");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| turns.take().0.is_some());
            drop(next);
            assert!(waits.join().unwrap(), "its turn has come");
        });
    }
}
