//! The server's records, and the dice.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::stats::Stats;

use super::Limits;
use super::faults::{Call, Counts, FAULTS, Fault, Rates};
use crate::dice::Dice;
use crate::stub::{Does, Gate};

/// A connection as the server knows it, from the attempt on.
pub(super) struct Record {
    /// The driver call that it is in: since when, and its limit.
    pub(super) job: Option<(Instant, Duration)>,
    /// The last job took so long that the pool may have abandoned it. Its connection then
    /// counts as abandoned until it is closed or checked out.
    pub(super) late: bool,
    pub(super) closing: bool,
    pub(super) holder: Option<String>,
    pub(super) detached: bool,
}

impl Record {
    /// Whether the pool may have abandoned the call that this is in. The pool
    /// measures from its decision, which comes earlier than the call by the time that a
    /// thread takes to start: hence half of the limit.
    pub(super) fn may_be_abandoned(&self, now: Instant) -> bool {
        self.late || self.job.is_some_and(|(since, limit)| now - since >= limit / 2)
    }

    pub(super) fn end_job(&mut self, now: Instant) {
        self.late = self.may_be_abandoned(now);
        self.job = None;
    }
}

pub(super) type Account = Arc<dyn Fn() -> Stats + Send + Sync>;
pub(super) type Ambush = (Call, Box<dyn FnOnce() + Send>);

pub(super) struct State {
    pub(super) script: HashMap<Call, Does>,
    pub(super) rates: Rates,
    pub(super) gate: Gate,
    pub(super) callers_gate: Gate,
    pub(super) limits: Limits,
    pub(super) records: HashMap<u64, Record>,
    pub(super) next_id: u64,
    /// Of those that are open, by the pool's numbers.
    pub(super) numbers: HashMap<u64, u64>,
    pub(super) ceiling: u32,
    pub(super) audit: Option<Account>,
    pub(super) ambush: Option<Ambush>,
    pub(super) drivers: isize,
    pub(super) counted: Counts,
    pub(super) breaches: Vec<String>,
}

impl State {
    pub(super) fn new(limits: Limits, ceiling: u32) -> State {
        State {
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
        }
    }

    pub(super) fn live(&self) -> usize {
        self.records.values().filter(|record| !record.detached).count()
    }

    pub(super) fn decide(&mut self, seed: u64, call: Call) -> Does {
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

    pub(super) fn expect_free(&mut self, call: Call, id: u64) {
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
    pub(super) fn check_capacity(&mut self, now: Instant) {
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
