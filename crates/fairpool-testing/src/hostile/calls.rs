//! What the driver and the hooks do in each call, and what the server notes of it.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use super::World;
use super::faults::Call;
use super::state::Record;
use crate::stub::{Does, lock, silent_panic};

thread_local! {
    /// How long this thread has been in calls of this driver.
    static TIME_IN_CALLS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The connection that this thread is opening.
    static OPENING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How long this thread has spent in calls of hostile drivers and hooks, in all. A test
/// subtracts it from a measured time to get the pool's share.
pub fn time_in_calls() -> Duration {
    TIME_IN_CALLS.get()
}

/// It is a driver call by itself, with a limit of its own.
fn is_job(call: Call) -> bool {
    matches!(call, Call::IsValid | Call::Reset | Call::BeginUse | Call::EndUse)
}

impl World {
    pub(super) fn count_drivers(&self, more: isize) {
        lock(&self.state).drivers += more;
    }

    /// One call: what it does, after a hang or a delay. It panics here if it is to panic.
    pub(super) fn act(&self, call: Call) -> Does {
        let start = Instant::now();
        let (does, trap) = {
            let mut state = lock(&self.state);
            let does = state.decide(self.seed, call);
            let sprung = state.ambush.as_ref().is_some_and(|(at, _)| *at == call);
            (does, if sprung { state.ambush.take() } else { None })
        };
        if let Some((_, trap)) = trap {
            trap();
        }
        let does = match does {
            Does::Hang(gate) => gate.pass(),
            does => does,
        };
        if let Does::Take(time) = does {
            thread::sleep(time);
        }
        TIME_IN_CALLS.set(TIME_IN_CALLS.get() + start.elapsed());
        // A panic in a destructor while the thread already panics would abort the process.
        if matches!(does, Does::Panic) && !(call == Call::Close && thread::panicking()) {
            silent_panic();
        }
        does
    }

    /// A call on a connection, which must not be closed or held.
    pub(super) fn act_on(&self, call: Call, id: u64) -> Does {
        {
            let (mut state, now) = (lock(&self.state), Instant::now());
            let limit = state.limits.check;
            state.expect_free(call, id);
            if let Some(record) = state.records.get_mut(&id) {
                match call {
                    _ if is_job(call) => record.job = Some((now, limit)),
                    Call::HasBroken | Call::NeedsReset => record.job = None,
                    _ => {}
                }
                record.late &= matches!(call, Call::OnAcquire | Call::OnRelease);
            }
        }
        let _end = is_job(call).then(|| EndOfJob(self, id));
        self.act(call)
    }

    pub(super) fn begin_connect(&self) -> u64 {
        let mut state = lock(&self.state);
        let (id, now) = (state.next_id, Instant::now());
        state.next_id += 1;
        let job = Some((now, state.limits.open));
        let record = Record { job, late: false, closing: false, holder: None, detached: false };
        state.records.insert(id, record);
        OPENING.set(Some(id));
        state.check_capacity(now);
        id
    }

    pub(super) fn end_connect(&self, id: u64, connected: bool) {
        let mut state = lock(&self.state);
        if connected {
            state.counted.opened += 1;
        } else {
            state.records.remove(&id);
        }
    }

    /// The last of the calls that belong to opening, and the first that says
    /// which number the pool gave to the connection.
    pub(super) fn acquired(&self, number: u64) {
        let opened = OPENING.take();
        if let Some(id) = opened {
            lock(&self.state).numbers.insert(number, id);
        }
        let _end = opened.map(|id| EndOfJob(self, id));
        self.act(Call::HandleAcquire);
    }

    /// The first of the calls that belong to closing.
    pub(super) fn releasing(&self, number: u64) {
        {
            let mut state = lock(&self.state);
            let job = Some((Instant::now(), state.limits.close));
            let closed = state.numbers.remove(&number);
            let record = closed.and_then(|id| state.records.get_mut(&id));
            record.into_iter().for_each(|record| record.job = job);
        }
        self.act(Call::HandleRelease);
    }

    pub(super) fn close(&self, id: u64) {
        // A connection closed because `on_acquire` failed was never announced.
        OPENING.take();
        let detached = {
            let mut state = lock(&self.state);
            state.expect_free(Call::Close, id);
            let record = state.records.get_mut(&id);
            record.is_some_and(|record| {
                record.closing = true;
                record.detached
            })
        };
        // A detached connection is closed by the test, outside the pool: no fault there.
        let _end = EndOfClose(self, id);
        if !detached {
            self.act(Call::Close);
        }
    }
}

struct EndOfJob<'a>(&'a World, u64);

impl Drop for EndOfJob<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.records.entry(self.1).and_modify(|record| record.end_job(Instant::now()));
    }
}

struct EndOfClose<'a>(&'a World, u64);

impl Drop for EndOfClose<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.records.remove(&self.1);
        state.counted.closed += 1;
    }
}
