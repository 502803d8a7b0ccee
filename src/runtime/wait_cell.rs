//! Where one waiter finds its answer.

use std::time::Instant;

use crate::sync::{Condvar, Mutex, wait_until};

/// Filled under the pool's lock, together with the decision. So a waiter that gives up
/// under the pool's lock knows for certain whether it was answered before. Reading the
/// answer needs only the cell's own lock.
pub(crate) struct WaitCell<A> {
    answer: Mutex<Option<A>>,
    filled: Condvar,
}

impl<A> WaitCell<A> {
    pub(crate) fn new() -> WaitCell<A> {
        WaitCell { answer: Mutex::new(None), filled: Condvar::new() }
    }

    /// Puts an answer in, under the pool's lock. Returns the answer that was not taken
    /// yet, if there is one.
    pub(crate) fn fill(&self, answer: A) -> Option<A> {
        self.answer.lock().replace(answer)
    }

    /// Wakes the waiter, after the pool's lock was released. The wake-up cannot be
    /// lost: the waiter checks the cell under the cell's lock before it sleeps, and the
    /// cell was filled before this call.
    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Waits for an answer. `None`: the deadline came first.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Option<A> {
        let mut answer = self.answer.lock();
        wait_until(&self.filled, &mut answer, deadline, Option::is_some);
        answer.take()
    }

    /// Whether there is an answer.
    pub(crate) fn is_filled(&self) -> bool {
        self.answer.lock().is_some()
    }
}
