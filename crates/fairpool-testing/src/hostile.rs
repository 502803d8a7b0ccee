//! A server whose driver misbehaves, and which counts as a real one would.
//!
//! Each call of the driver, of a hook or of a destructor does what the script
//! says, or else what the dice say: the n-th call of a kind does the same in
//! each run with the same seed. The server counts connections from the first
//! byte of `connect` to the end of the close, knows who holds which, and notes
//! every breach of a rule; [`World::check`] reports them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::stats::Stats;

use crate::dice::Dice;
use crate::faults::{Call, Counted, FAULTS, Fault, Rates};
use crate::stub::{Does, Gate, lock, silent_panic};

/// How long the pool was told to put up with its calls.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub open: Duration,
    pub check: Duration,
    pub close: Duration,
}

/// A connection as the server knows it, from the attempt on.
struct Record {
    /// The pool's job that it is in: since when, and how long that may take.
    job: Option<(Instant, Duration)>,
    /// The last job took so long that the pool may have abandoned it; what comes
    /// of it then counts as abandoned until it is closed, or somebody gets it.
    late: bool,
    closing: bool,
    holder: Option<String>,
    detached: bool,
}

impl Record {
    /// Whether the pool may have abandoned the call that this is in. The pool
    /// measures from its decision, which comes before the call by as long as a
    /// thread takes to start: hence half of the limit.
    fn may_be_abandoned(&self, now: Instant) -> bool {
        self.late || self.job.is_some_and(|(since, limit)| now - since >= limit / 2)
    }

    fn end_job(&mut self, now: Instant) {
        self.late = self.may_be_abandoned(now);
        self.job = None;
    }
}

type Peek = Arc<dyn Fn() -> Stats + Send + Sync>;
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
    peek: Option<Peek>,
    ambush: Option<Ambush>,
    drivers: isize,
    counted: Counted,
    breaches: Vec<String>,
}

/// The server. Clones are one.
#[derive(Clone)]
pub struct World {
    seed: u64,
    state: Arc<Mutex<State>>,
}

thread_local! {
    /// How long this thread has been in calls of this driver.
    static TIME_IN_CALLS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The connection that this thread is opening.
    static OPENING: Cell<Option<u64>> = const { Cell::new(None) };
}

pub fn time_in_calls() -> Duration {
    TIME_IN_CALLS.get()
}

impl World {
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
            peek: None,
            ambush: None,
            drivers: 0,
            counted: Counted::default(),
            breaches: Vec::new(),
        };
        World { seed, state: Arc::new(Mutex::new(state)) }
    }

    /// What these calls do from now on, whatever the dice say.
    pub fn on(&self, call: Call, does: Does) {
        lock(&self.state).script.insert(call, does);
    }

    /// From now on calls go wrong this often.
    pub fn storm(&self, rates: Rates) {
        lock(&self.state).rates = rates;
    }

    /// Nothing goes wrong any more, and nothing hangs.
    pub fn calm(&self) {
        self.storm(Rates::default());
        self.release();
    }

    /// Lets those go that hang now.
    pub fn release(&self) {
        self.release_callers();
        let gate = std::mem::take(&mut lock(&self.state).gate);
        gate.open();
    }

    /// Lets those callers of the pool go that hang now.
    pub fn release_callers(&self) {
        let gate = std::mem::take(&mut lock(&self.state).callers_gate);
        gate.open();
    }

    /// Where the pool's own account is to be had. It is asked while the server
    /// stands still, so that both are of the same instant.
    pub fn watch(&self, peek: impl Fn() -> Stats + Send + Sync + 'static) {
        lock(&self.state).peek = Some(Arc::new(peek));
    }

    pub fn unwatch(&self) {
        let peek = lock(&self.state).peek.take();
        drop(peek);
    }

    /// The next call of this kind does this first.
    pub fn ambush(&self, call: Call, trap: impl FnOnce() + Send + 'static) {
        lock(&self.state).ambush = Some((call, Box::new(trap)));
    }

    /// The pool may have this many connections, or as many as it could before.
    pub fn raise_ceiling(&self, size: u32) {
        let mut state = lock(&self.state);
        state.ceiling = state.ceiling.max(size);
    }

    pub fn set_ceiling(&self, size: u32) {
        lock(&self.state).ceiling = size;
    }

    /// Connections and attempts that are the pool's.
    pub fn live(&self) -> usize {
        lock(&self.state).live()
    }

    pub fn calls(&self, call: Call) -> u64 {
        lock(&self.state).counted.calls[call as usize]
    }

    pub fn counted(&self) -> Counted {
        lock(&self.state).counted.clone()
    }

    pub(crate) fn count_drivers(&self, more: isize) {
        lock(&self.state).drivers += more;
    }

    pub fn drivers(&self) -> isize {
        lock(&self.state).drivers
    }

    pub fn breach(&self, what: String) {
        lock(&self.state).breaches.push(what);
    }

    /// Fails if a rule was broken.
    pub fn check(&self) {
        let breaches = lock(&self.state).breaches.clone();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    /// One call. `true`: it is to fail; `Does::FailForGood` if for good.
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
        // A destructor that panics while something else does ends the process,
        // whoever calls it.
        if matches!(does, Does::Panic) && !(call == Call::Close && thread::panicking()) {
            silent_panic();
        }
        does
    }

    /// A call about a connection, which nobody else must have.
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
        // One that is closed because `on_acquire` failed was never announced.
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
        // Whoever detached it closes it, and has no use for surprises.
        let _end = EndOfClose(self, id);
        if !detached {
            self.act(Call::Close);
        }
    }

    /// Somebody has the connection from now on.
    pub fn hold(&self, id: u64) {
        let mut state = lock(&self.state);
        state.expect_free(Call::HandleCheckout, id);
        if let Some(record) = state.records.get_mut(&id) {
            record.holder = Some(thread::current().name().unwrap_or("?").to_string());
            (record.job, record.late) = (None, false);
        }
    }

    pub fn let_go(&self, id: u64) {
        let mut state = lock(&self.state);
        if state.records.get_mut(&id).and_then(|record| record.holder.take()).is_none() {
            state.breaches.push(format!("connection {id} was nobody's while it was held"));
        }
    }

    /// Its holder takes it out of the pool.
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
            until += rate * call.tenths() / 10;
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
            Fault::Hang if call.is_callers() => Does::Hang(self.callers_gate.clone()),
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

    /// P5, as the server sees it: no more connections than `max_size`, but for
    /// those whose calls are abandoned. The pool says how many those are, and
    /// cannot say too much: its account is of this very instant, since no
    /// connection comes or goes while the server is locked. (It also shows that
    /// the driver is never called under the pool's lock.) Whether it abandons
    /// too early is counted apart, since only the pool knows when it decided.
    fn check_capacity(&mut self, now: Instant) {
        let Some(peek) = self.peek.clone() else { return };
        let (live, stats) = (self.live(), peek());
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
            self.counted.over += 1;
            self.counted.early += u64::from(live > ceiling + may_be.count());
        }
    }
}
