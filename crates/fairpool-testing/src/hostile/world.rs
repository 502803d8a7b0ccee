//! The public face of the hostile server.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fairpool::stats::Stats;

use super::faults::{Call, Counts, Rates};
use super::state::State;
use crate::stub::{Does, lock};

/// The pool's own limits of its driver calls.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Its `open_timeout`.
    pub open: Duration,
    /// Its `validation_timeout` and `reset_timeout`.
    pub check: Duration,
    /// Its `close_timeout`.
    pub close: Duration,
}

/// A server, the script and the dice of its driver and hooks. Clones are one server.
#[derive(Clone)]
pub struct World {
    pub(super) seed: u64,
    pub(super) state: Arc<Mutex<State>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl World {
    /// A server on which everything succeeds until a script or a [storm](World::storm) says
    /// otherwise. The pool may have `ceiling` connections.
    pub fn new(seed: u64, limits: Limits, ceiling: u32) -> World {
        World { seed, state: Arc::new(Mutex::new(State::new(limits, ceiling))) }
    }

    /// Sets what these calls do from now on, whatever the dice say.
    pub fn on(&self, call: Call, does: Does) {
        lock(&self.state).script.insert(call, does);
    }

    /// Sets how often calls go wrong from now on.
    pub fn storm(&self, rates: Rates) {
        lock(&self.state).rates = rates;
    }

    /// Ends a storm: from now on nothing fails by the dice, and calls that hang return.
    pub fn calm(&self) {
        self.storm(Rates::default());
        self.release();
    }

    /// Lets all calls return that hang now.
    pub fn release(&self) {
        self.release_callers();
        let gate = std::mem::take(&mut lock(&self.state).gate);
        gate.open();
    }

    /// Lets those calls return that hang now on threads of the pool's callers.
    pub fn release_callers(&self) {
        let gate = std::mem::take(&mut lock(&self.state).callers_gate);
        gate.open();
    }

    /// Compares the server's count with the pool's own, `stats`, at each connect. The server
    /// is locked meanwhile, so both counts are of the same instant.
    pub fn audit(&self, stats: impl Fn() -> Stats + Send + Sync + 'static) {
        lock(&self.state).audit = Some(Arc::new(stats));
    }

    /// Ends the audit, and drops its closure.
    pub fn end_audit(&self) {
        let audit = lock(&self.state).audit.take();
        drop(audit);
    }

    /// Runs `trap` within the next call of this kind, before the call does anything else.
    pub fn ambush(&self, call: Call, trap: impl FnOnce() + Send + 'static) {
        lock(&self.state).ambush = Some((call, Box::new(trap)));
    }

    /// Allows this many connections, or as many as before if that is more.
    pub fn raise_ceiling(&self, size: u32) {
        let mut state = lock(&self.state);
        state.ceiling = state.ceiling.max(size);
    }

    /// Allows this many connections.
    pub fn set_ceiling(&self, size: u32) {
        lock(&self.state).ceiling = size;
    }

    /// How many connections the pool has, attempts included and detached ones excluded.
    pub fn live(&self) -> usize {
        lock(&self.state).live()
    }

    /// How many of these calls there were.
    pub fn calls(&self, call: Call) -> u64 {
        lock(&self.state).counted.calls[call as usize]
    }

    /// Everything counted so far.
    pub fn counted(&self) -> Counts {
        lock(&self.state).counted.clone()
    }

    /// How many drivers of this server exist: a pool that is gone has dropped its own.
    pub fn drivers(&self) -> isize {
        lock(&self.state).drivers
    }

    /// Records a breach that the test itself found.
    pub fn breach(&self, what: String) {
        lock(&self.state).breaches.push(what);
    }

    /// Checks that no rule was broken.
    ///
    /// # Panics
    ///
    /// If one was: a call on a connection that is closed or held, or more connections than
    /// the ceiling and the calls that the pool abandoned allow.
    #[track_caller]
    pub fn check(&self) {
        let breaches = lock(&self.state).breaches.clone();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    /// This thread holds the connection from now on: a call on it is a breach until
    /// [`World::let_go`].
    pub fn hold(&self, id: u64) {
        let mut state = lock(&self.state);
        state.expect_free(Call::HandleCheckout, id);
        if let Some(record) = state.records.get_mut(&id) {
            record.holder = Some(thread::current().name().unwrap_or("?").to_string());
            (record.job, record.late) = (None, false);
        }
    }

    /// This thread's hold ends: call it before the connection returns to the pool.
    pub fn let_go(&self, id: u64) {
        let mut state = lock(&self.state);
        if state.records.get_mut(&id).and_then(|record| record.holder.take()).is_none() {
            state.breaches.push(format!("connection {id} has no holder, though it was held"));
        }
    }

    /// The connection is about to be detached from the pool: it no longer counts.
    pub fn detach(&self, id: u64) {
        lock(&self.state).records.entry(id).and_modify(|record| record.detached = true);
    }
}
