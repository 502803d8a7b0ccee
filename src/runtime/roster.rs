//! Who of the staff does what: the decisions, made under the staff's one lock. It reads no
//! clock, starts no thread and waits for nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::wait_cell::WaitCell;
use crate::core::Time;
use crate::sync::{self, Arc, JoinHandle};

/// So many workers may start within one [`PACE`]. A burst of many pools then waits a moment
/// for those that come free, and a single pool never waits.
const AT_ONCE: usize = 16;

/// The time for which [`AT_ONCE`] counts.
const PACE: Duration = Duration::from_millis(2);

/// A pool with so many jobs under way leaves one worker to the other pools, also when the
/// system has no more threads to give: its calls may hang. With its default settings a pool
/// has no more unless some hang.
const MANY: usize = 8;

/// After a thread could not be started, the next attempt follows after this time.
pub(crate) const SPAWN_RETRY: Duration = Duration::from_millis(100);

/// What a worker does once. It holds the reference to its pool.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A job of a pool.
pub(crate) struct Work {
    /// The pool's number.
    pub(crate) pool: u64,
    pub(crate) job: Job,
}

/// What an idle worker waits for.
pub(crate) enum Order {
    Run(Work),
    /// There is no pool any more.
    Leave,
}

/// Where an idle worker waits.
pub(crate) type Seat = Arc<WaitCell<Order>>;

/// A pool, as the staff knows it.
pub(crate) trait Employer: Send + Sync {
    /// Does what time alone makes due, on the reaper. It calls no user code and waits for
    /// nobody. Returns what is due when, and the earliest of that.
    fn tend(self: Arc<Self>, duties: Duties) -> (Duties, Option<Instant>);

    /// The pool has ended, and is not tended any more.
    fn end(&self);

    /// Gives up this reference. If it was the last, the job destroys the pool: that is user
    /// code.
    fn release(self: Arc<Self>) -> Option<Job>;
}

/// When a pool has to be tended, by its own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duties {
    pub(crate) tick_at: Time,
    pub(crate) probe_at: Time,
}

impl Duties {
    /// Everything.
    pub(crate) const NOW: Duties = Duties { tick_at: Time::START, probe_at: Time::START };
}

/// Why the reaper should look at a pool before its time. A later one includes the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// There are events to deliver; nothing else has changed.
    Deliver,
    /// Run `tick`. One signal serves for all that come before it is seen.
    Tick,
    /// The pool has ended.
    Stop,
}

/// A pool that the reaper looks at now.
pub(crate) struct Due {
    pub(crate) number: u64,
    pub(crate) pool: Arc<dyn Employer>,
    pub(crate) duties: Duties,
    pub(crate) has_ended: bool,
}

/// What becomes of new work.
pub(crate) enum Offer {
    /// This idle worker does it.
    Hand(Seat, Work),
    /// A new worker does it.
    Start(Work),
    /// It waits for a worker that comes free, or for the reaper to start one.
    Queued,
}

/// A pool of which something is left.
struct Member {
    /// Until it has ended.
    pool: Option<Arc<dyn Employer>>,
    duties: Duties,
    plan: Option<Instant>,
    signal: Option<Signal>,
    /// The reaper looks at it just now.
    is_attended: bool,
    /// How many workers run its jobs.
    running: usize,
    /// When one began its last job, counted in jobs.
    turn: u64,
}

#[derive(Default)]
pub(crate) struct Roster {
    members: BTreeMap<u64, Member>,
    last_number: u64,
    plans: BTreeSet<(Instant, u64)>,
    signalled: Vec<u64>,
    /// The reaper has something new to look at.
    pub(crate) calls_reaper: bool,
    /// Jobs for which there was no worker, by pool.
    queues: BTreeMap<u64, VecDeque<Job>>,
    turn: u64,
    /// The one that came last is the next to work, so that those that are not needed end.
    idle: Vec<Seat>,
    /// Workers that have not left.
    pub(crate) workers: usize,
    /// Those of them that were started without a job, and have not asked for one yet.
    fresh: usize,
    pace: Pace,
    /// The last thread could not be started; the next attempt follows then.
    starved_until: Option<Instant>,
    /// Threads that are being started: their handles are not here yet.
    pub(crate) starting: usize,
    /// Of threads that have not been joined.
    pub(crate) handles: Vec<JoinHandle<()>>,
    /// How many are being joined.
    pub(crate) joining: usize,
}

// ---- the threads ----

impl Roster {
    /// Takes all handles, to join them; they count as being joined from here on.
    pub(crate) fn take_handles(&mut self) -> Vec<JoinHandle<()>> {
        self.joining += self.handles.len();
        std::mem::take(&mut self.handles)
    }

    /// How many threads have not ended, `reapers` among them. A thread that has done its work
    /// may still run destructors of the driver's thread-local values.
    pub(crate) fn threads(&self, reapers: usize) -> usize {
        // In a model threads have no handles.
        (self.handles.len() + self.joining + self.starting).max(self.workers + reapers)
    }
}

// ---- the pools ----

impl Roster {
    /// A number for a new pool.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Takes a pool on, if it is not here yet. The reaper must be woken.
    pub(crate) fn hire(&mut self, number: u64, pool: impl FnOnce() -> Arc<dyn Employer>) {
        let member = self.members.entry(number).or_insert_with(Member::new);
        if member.pool.is_none() {
            member.pool = Some(pool());
            self.signal(number, Signal::Tick);
        }
    }

    /// Returns whether the reaper must be woken.
    pub(crate) fn signal(&mut self, number: u64, signal: Signal) -> bool {
        let Some(member) = self.members.get_mut(&number) else { return false };
        if member.pool.is_none() {
            return false;
        }
        let is_new = member.signal.is_none();
        member.signal = member.signal.max(Some(signal));
        if is_new {
            self.signalled.push(number);
        }
        !std::mem::replace(&mut self.calls_reaper, true)
    }

    /// Takes an ended pool from the list because there is no reaper to do it. [`put_back`]
    /// has to follow.
    ///
    /// [`put_back`]: Roster::put_back
    pub(crate) fn take_ended(&mut self, number: u64) -> Option<Arc<dyn Employer>> {
        let member = self.members.get_mut(&number)?;
        member.is_attended |= member.pool.is_some();
        let plan = member.plan.take();
        self.plans.retain(|entry| Some(*entry) != plan.map(|at| (at, number)));
        member.pool.take()
    }

    /// The pools that were signalled, and those whose time has come. [`put_back`] has to
    /// follow for each.
    ///
    /// [`put_back`]: Roster::put_back
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Due> {
        self.calls_reaper = false;
        let mut numbers = std::mem::take(&mut self.signalled);
        numbers.extend(self.plans.iter().take_while(|(at, _)| *at <= now).map(|(_, it)| *it));
        numbers.into_iter().filter_map(|number| self.take_one(number)).collect()
    }

    fn take_one(&mut self, number: u64) -> Option<Due> {
        let member = self.members.get_mut(&number)?;
        if let Some(plan) = member.plan.take() {
            self.plans.remove(&(plan, number));
        }
        let signal = member.signal.take();
        let has_ended = signal == Some(Signal::Stop);
        // Otherwise it has been taken already: it was signalled, and its time has come.
        let pool = if has_ended { member.pool.take() } else { member.pool.clone() }?;
        if std::mem::replace(&mut member.is_attended, true) {
            return None;
        }
        let duties = if signal == Some(Signal::Tick) { Duties::NOW } else { member.duties };
        Some(Due { number, pool, duties, has_ended })
    }

    /// The reaper is done with a pool for now. Returns whether nothing is left of it.
    pub(crate) fn put_back(
        &mut self,
        number: u64,
        next: Option<(Duties, Option<Instant>)>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&number) else { return false };
        member.is_attended = false;
        if let Some((duties, plan)) = next {
            member.duties = duties;
            member.plan = plan;
            self.plans.extend(plan.map(|at| (at, number)));
        }
        self.forget_if_gone(number)
    }

    /// When the reaper has to look again.
    pub(crate) fn sleep_until(&self) -> Option<Instant> {
        let plan = self.plans.first().map(|(at, _)| *at);
        let start = self.next_start();
        plan.into_iter().chain(start).min()
    }

    /// Whether there is no pool of which anything is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether nothing is left of this pool: it has ended, and all its jobs.
    pub(crate) fn is_gone(&self, number: u64) -> bool {
        !self.members.contains_key(&number)
    }

    /// How many workers run jobs of this pool.
    pub(crate) fn running(&self, number: u64) -> usize {
        self.members.get(&number).map_or(0, |member| member.running)
    }

    fn forget_if_gone(&mut self, number: u64) -> bool {
        let is_gone =
            |member: &Member| member.pool.is_none() && !member.is_attended && member.running == 0;
        let gone =
            self.members.get(&number).is_some_and(is_gone) && !self.queues.contains_key(&number);
        if gone {
            self.members.remove(&number);
        }
        gone
    }
}

impl Member {
    fn new() -> Member {
        Member {
            pool: None,
            duties: Duties::NOW,
            plan: None,
            signal: None,
            is_attended: false,
            running: 0,
            turn: 0,
        }
    }
}

// ---- the workers ----

impl Roster {
    /// What becomes of new work.
    pub(crate) fn offer(&mut self, work: Work, now: impl FnOnce() -> Instant) -> Offer {
        self.members.entry(work.pool).or_insert_with(Member::new);
        if self.may_have(work.pool, self.idle.len())
            && let Some(seat) = self.idle.pop()
        {
            self.begin(work.pool);
            return Offer::Hand(seat, work);
        }
        let may_start = sync::THREADS && self.queues.is_empty() && !self.lacks_reserve(work.pool);
        if may_start && self.pace.admit(now(), false) {
            self.begin(work.pool);
            self.workers += 1;
            return Offer::Start(work);
        }
        // The reaper knows the time for the first one; others wait with it.
        self.calls_reaper |= self.queues.is_empty();
        self.queues.entry(work.pool).or_default().push_back(work.job);
        Offer::Queued
    }

    /// The next job for a worker that is free.
    pub(crate) fn take(&mut self) -> Option<Work> {
        // This one, and those that are idle.
        let there = self.idle.len() + 1;
        let pool = self.next_in_queue().filter(|&pool| self.may_have(pool, there))?;
        self.pace.taken += 1;
        self.take_of(pool)
    }

    /// Whether the reaper has to start a worker now for what is queued, and its job. `None` as
    /// a job: it is to be idle.
    pub(crate) fn start_next(&mut self, now: Instant) -> Option<Option<Work>> {
        if self.next_start().is_none_or(|at| at > now) || !self.pace.admit(now, true) {
            return None;
        }
        let pool = self.next_in_queue()?;
        self.workers += 1;
        if self.lacks_reserve(pool) {
            self.fresh += 1;
            return Some(None);
        }
        Some(self.take_of(pool))
    }

    /// The pool whose job is the next in the queues: one with the fewest under way, so that
    /// calls that hang take no worker from another pool; of those, the one whose last job began
    /// first.
    fn next_in_queue(&self) -> Option<u64> {
        let order = |number: &u64| self.members.get(number).map(|it| (it.running, it.turn));
        self.queues.keys().copied().min_by_key(order)
    }

    fn take_of(&mut self, number: u64) -> Option<Work> {
        let queue = self.queues.get_mut(&number)?;
        let job = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&number);
        }
        self.begin(number);
        Some(Work { pool: number, job })
    }

    /// A worker has started.
    pub(crate) fn started(&mut self) {
        self.starved_until = None;
    }

    /// The system has no thread to give: its work comes back.
    pub(crate) fn not_started(&mut self, work: Option<Work>, now: Instant) {
        self.starved_until = Some(now + SPAWN_RETRY);
        self.calls_reaper = true;
        self.workers -= 1;
        match work {
            None => self.fresh -= 1,
            Some(Work { pool, job }) => {
                self.members.get_mut(&pool).into_iter().for_each(|member| member.running -= 1);
                self.queues.entry(pool).or_default().push_front(job);
            }
        }
    }

    /// A worker that was started without a job asks for one.
    pub(crate) fn arrived(&mut self) {
        self.fresh = self.fresh.saturating_sub(1);
    }

    /// A job has ended, and everything that it held is dropped. Returns whether nothing is
    /// left of its pool.
    pub(crate) fn done(&mut self, number: u64) -> bool {
        self.members.get_mut(&number).into_iter().for_each(|member| member.running -= 1);
        self.forget_if_gone(number)
    }

    /// An idle worker waits here for an order.
    pub(crate) fn rest(&mut self, seat: &Seat) {
        self.idle.push(Arc::clone(seat));
    }

    /// The worker has rested for long. `true`: it has left. Otherwise an order for it is on its
    /// way, or it is kept for the other pools.
    pub(crate) fn leave(&mut self, seat: &Seat) -> bool {
        let place = self.idle.iter().position(|other| Arc::ptr_eq(other, seat));
        let is_kept = self.idle.len() == 1 && self.members.keys().any(|&it| self.has_many(it));
        let leaves = place.filter(|_| !is_kept).map(|place| self.idle.remove(place)).is_some();
        self.workers -= usize::from(leaves);
        leaves
    }

    /// There is no pool any more: these workers are told to leave.
    pub(crate) fn dismiss(&mut self) -> Vec<Seat> {
        std::mem::take(&mut self.idle)
    }

    fn begin(&mut self, number: u64) {
        self.turn += 1;
        if let Some(member) = self.members.get_mut(&number) {
            member.running += 1;
            member.turn = self.turn;
        }
    }

    /// Whether this pool may have one of so many workers that are free.
    fn may_have(&self, number: u64, free: usize) -> bool {
        free > 1 || !self.has_many(number)
    }

    /// Whether a worker for this pool would leave none to the others.
    fn lacks_reserve(&self, number: u64) -> bool {
        self.has_many(number) && self.idle.is_empty() && self.fresh == 0
    }

    /// Whether this pool has many jobs under way, and is not the only one.
    fn has_many(&self, number: u64) -> bool {
        let running = self.members.get(&number).map_or(0, |member| member.running);
        running >= MANY && self.members.len() > 1
    }

    /// When the reaper may start a worker for what is queued. `None`: nothing is.
    fn next_start(&self) -> Option<Instant> {
        if !sync::THREADS || self.queues.is_empty() {
            return None;
        }
        self.starved_until.max(self.pace.next())
    }
}

/// How fast new workers start.
#[derive(Default)]
struct Pace {
    /// When the present span of [`PACE`] began.
    since: Option<Instant>,
    /// How many may start in this span, and how many of them are left.
    size: usize,
    left: usize,
    /// How many jobs workers that came free have taken from the queues in this span.
    taken: usize,
}

impl Pace {
    /// Whether a worker may start now. `is_queued`: for a job that has waited.
    fn admit(&mut self, now: Instant, is_queued: bool) -> bool {
        if self.since.is_none_or(|since| since + PACE <= now) {
            self.since = Some(now);
            self.size = match self.taken {
                _ if !is_queued => AT_ONCE,
                // All are busy, and perhaps hang: however long the queue is, it is empty
                // after a few spans.
                0 => AT_ONCE.max(2 * self.size),
                // More would only take turns on the same processors.
                _ => 1,
            };
            (self.left, self.taken) = (self.size, 0);
        }
        let is_admitted = self.left > 0;
        self.left -= usize::from(is_admitted);
        is_admitted
    }

    /// When the next one may start.
    fn next(&self) -> Option<Instant> {
        self.since.map(|since| if self.left > 0 { since } else { since + PACE })
    }
}

#[cfg(test)]
mod tests;
