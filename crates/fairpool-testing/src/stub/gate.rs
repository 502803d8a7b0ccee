//! Where a call hangs until the test opens the gate.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::{Does, WATCHDOG, lock};

/// A gate where calls hang until the test opens it. Clones are one gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    entered: usize,
    open: Option<Does>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets all calls through, now and in future; they succeed.
    pub fn open(&self) {
        self.open_with(Does::Succeed);
    }

    /// Lets all calls through, now and in future. Each then does `then`.
    pub fn open_with(&self, then: Does) {
        lock(&self.0.0).open = Some(then);
        self.0.1.notify_all();
    }

    /// Waits until this many calls have come to the gate, in all.
    ///
    /// # Panics
    ///
    /// If they do not come within [`WATCHDOG`].
    #[track_caller]
    pub fn await_entered(&self, calls: usize) {
        let state = lock(&self.0.0);
        let (state, timeout) = self
            .0
            .1
            .wait_timeout_while(state, WATCHDOG, |state| state.entered < calls)
            .unwrap_or_else(PoisonError::into_inner);
        let entered = state.entered;
        assert!(!timeout.timed_out(), "{entered} of {calls} calls came to the gate");
    }

    /// How many calls have come to the gate so far.
    pub fn entered(&self) -> usize {
        lock(&self.0.0).entered
    }

    /// Whether it was opened.
    pub fn is_open(&self) -> bool {
        lock(&self.0.0).open.is_some()
    }

    /// Hangs until the gate is open, and returns what it was opened with. For hooks and
    /// drivers of your own.
    ///
    /// # Blocking
    ///
    /// Until another thread opens the gate.
    pub fn pass(&self) -> Does {
        let mut state = lock(&self.0.0);
        state.entered += 1;
        self.0.1.notify_all();
        let state = self
            .0
            .1
            .wait_while(state, |state| state.open.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.open.clone().unwrap_or(Does::Succeed)
    }
}
