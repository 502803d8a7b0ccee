//! The server of the hostile driver.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::stats::Stats;

use super::faults::{Call, Counts, FAULTS, Fault, Rates};
use crate::dice::Dice;
use crate::stub::{Does, Gate, lock, silent_panic};

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

/// A connection as the server knows it, from the attempt on.
struct Record {
    /// The driver call that it is in: since when, and its limit.
    job: Option<(Instant, Duration)>,
    /// The last job took so long that the pool may have abandoned it. Its connection then
    /// counts as abandoned until it is closed or checked out.
    late: bool,
    closing: bool,
    holder: Option<String>,
    detached: bool,
}

impl Record {
    /// Whether the pool may have abandoned the call that this is in. The pool
    /// measures from its decision, which comes earlier than the call by the time that a
    /// thread takes to start: hence half of the limit.
    fn may_be_abandoned(&self, now: Instant) -> bool {
        self.late || self.job.is_some_and(|(since, limit)| now - since >= limit / 2)
    }

    fn end_job(&mut self, now: Instant) {
        self.late = self.may_be_abandoned(now);
        self.job = None;
    }
}

type Account = Arc<dyn Fn() -> Stats + Send + Sync>;
type Ambush = (Call, Box<dyn FnOnce() + Send>);

struct State {
    script: HashMap<Call, Does>,
    rates: Rates,
    gate: Gate,
    callers_gate: Gate,
    limits: Limits,
    records: HashMap<u64, Record>,
    next_id: u64,
    /// Of those that are open, by the pool's numbers.
    numbers: HashMap<u64, u64>,
    ceiling: u32,
    audit: Option<Account>,
    ambush: Option<Ambush>,
    drivers: isize,
    counted: Counts,
    breaches: Vec<String>,
}

/// A server, the script and the dice of its driver and hooks. Clones are one server.
#[derive(Clone)]
pub struct World {
    seed: u64,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).finish_non_exhaustive()
    }
}

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

impl World {
    /// A server on which everything succeeds until a script or a [storm](World::storm) says
    /// otherwise. The pool may have `ceiling` connections.
    pub fn new(seed: u64, limits: Limits, ceiling: u32) -> World {
        let state = State {
            script: HashMap::new(),
            rates: Rates::default(),
            gate: Gate::new(),
            callers_gate: Gate::new(),
            limits,
            records: HashMap::new(),
            next_id: 1,
            numbers: HashMap::new(),
            ceiling,
            audit: None,
            ambush: None,
            drivers: 0,
            counted: Counts::default(),
            breaches: Vec::new(),
        };
        World { seed, state: Arc::new(Mutex::new(state)) }
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

    pub(crate) fn count_drivers(&self, more: isize) {
        lock(&self.state).drivers += more;
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

    /// One call: what it does, after a hang or a delay. It panics here if it is to panic.
    pub(crate) fn act(&self, call: Call) -> Does {
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
    pub(crate) fn act_on(&self, call: Call, id: u64) -> Does {
        {
            let (mut state, now) = (lock(&self.state), Instant::now());
            let limit = state.limits.check;
            state.expect_free(call, id);
            if let Some(record) = state.records.get_mut(&id) {
                match call {
                    Call::IsValid | Call::Reset => record.job = Some((now, limit)),
                    Call::HasBroken | Call::NeedsReset => record.job = None,
                    _ => {}
                }
                record.late &= matches!(call, Call::OnAcquire | Call::OnRelease);
            }
        }
        let _end = matches!(call, Call::IsValid | Call::Reset).then(|| EndOfJob(self, id));
        self.act(call)
    }

    pub(crate) fn begin_connect(&self) -> u64 {
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

    pub(crate) fn end_connect(&self, id: u64, connected: bool) {
        let mut state = lock(&self.state);
        if connected {
            state.counted.opened += 1;
        } else {
            state.records.remove(&id);
        }
    }

    /// The last of the calls that belong to opening, and the first that says
    /// which number the pool gave to the connection.
    pub(crate) fn acquired(&self, number: u64) {
        let opened = OPENING.take();
        if let Some(id) = opened {
            lock(&self.state).numbers.insert(number, id);
        }
        let _end = opened.map(|id| EndOfJob(self, id));
        self.act(Call::HandleAcquire);
    }

    /// The first of the calls that belong to closing.
    pub(crate) fn releasing(&self, number: u64) {
        {
            let mut state = lock(&self.state);
            let job = Some((Instant::now(), state.limits.close));
            let closed = state.numbers.remove(&number);
            let record = closed.and_then(|id| state.records.get_mut(&id));
            record.into_iter().for_each(|record| record.job = job);
        }
        self.act(Call::HandleRelease);
    }

    pub(crate) fn close(&self, id: u64) {
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

impl State {
    fn live(&self) -> usize {
        self.records.values().filter(|record| !record.detached).count()
    }

    fn decide(&mut self, seed: u64, call: Call) -> Does {
        let number = self.counted.calls[call as usize];
        self.counted.calls[call as usize] += 1;
        if let Some(does) = self.script.get(&call) {
            return does.clone();
        }
        let mut dice = Dice::of(seed, &[call as u64, number]);
        let roll = dice.below(100_000);
        let mut until = 0;
        for (fault, rate) in FAULTS.into_iter().zip(self.rates) {
            until += rate * call.weight() / 10;
            if roll < until {
                return self.inject(call, fault, &mut dice);
            }
        }
        Does::Succeed
    }

    fn inject(&mut self, call: Call, fault: Fault, dice: &mut Dice) -> Does {
        let does = match fault {
            Fault::Fail if call.can_fail() => Does::Fail,
            Fault::FailForGood if call == Call::Connect => Does::FailForGood,
            Fault::Fail | Fault::FailForGood => return Does::Succeed,
            Fault::Panic => Does::Panic,
            // Now and then past the limit.
            Fault::Slow => Does::Take(dice.millis(0, 20)),
            Fault::Hang if call.runs_on_callers() => Does::Hang(self.callers_gate.clone()),
            Fault::Hang => Does::Hang(self.gate.clone()),
        };
        self.counted.faults[call as usize][fault as usize] += 1;
        does
    }

    fn expect_free(&mut self, call: Call, id: u64) {
        let wrong = match self.records.get(&id) {
            None => "closed".to_string(),
            Some(record) if record.closing => "being closed".to_string(),
            Some(Record { holder: Some(holder), .. }) => format!("held by '{holder}'"),
            Some(_) => return,
        };
        let here = thread::current().name().unwrap_or("?").to_string();
        self.breaches.push(format!("{call:?} on '{here}' of connection {id}, which is {wrong}"));
    }

    /// P5 from the server's side: no more connections than `max_size`, except those whose
    /// calls are abandoned. The pool reports how many those are; its count is of this very
    /// instant, since no connection comes or goes while the server is locked. (A deadlock
    /// here would mean that the pool calls the driver under its lock.) Abandoning too early
    /// is only counted, since only the pool knows when it decided.
    fn check_capacity(&mut self, now: Instant) {
        let Some(pool_stats) = self.audit.clone() else { return };
        let (live, stats) = (self.live(), pool_stats());
        let counted = (stats.open + stats.opening + stats.closing) as usize;
        let abandoned = stats.abandoned as usize;
        self.counted.most_abandoned = self.counted.most_abandoned.max(stats.abandoned);
        if live > counted + abandoned {
            self.breaches.push(format!("{live} connections, and the pool knows of: {stats}"));
        }
        let ceiling = self.ceiling as usize;
        if live > ceiling + abandoned || counted > ceiling {
            self.breaches.push(format!("{live} connections where {ceiling} may be: {stats}"));
        }
        if live > ceiling {
            let may_be = self.records.values().filter(|r| !r.detached && r.may_be_abandoned(now));
            self.counted.beside_abandoned += 1;
            self.counted.abandoned_early += u64::from(live > ceiling + may_be.count());
        }
    }
}
