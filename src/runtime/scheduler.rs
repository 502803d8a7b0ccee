//! The executor's decisions: which worker runs which job, when a new worker is spawned, and
//! when the reaper runs for which pool. Made under the executor's one lock; this module reads
//! no clock, spawns no thread and does not block.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::threads::{Job, Placement, SpawnRate, Threads, Work, WorkerCell};
use crate::core::Time;
use crate::sync::{self, Arc};

/// A pool with this many jobs under way leaves one worker to the other pools, because its calls
/// may hang, and the system may have no more threads to give. With its default settings a pool
/// has at most 4 connects and 4 closes under way, unless some hang.
const MANY_JOBS: usize = 8;

/// After a thread could not be spawned, the next attempt follows after this time.
pub(crate) const SPAWN_RETRY: Duration = Duration::from_millis(100);

/// A pool as the executor knows it: without the type of its manager.
pub(crate) trait ErasedPool: Send + Sync {
    /// Does what time alone makes due, on the reaper. It calls no user code and does not
    /// block. Returns the timers as they are now, and when it has to run again: at the
    /// earliest of them, or to deliver events.
    fn run_due(self: Arc<Self>, timers: Timers) -> (Timers, Option<Instant>);

    /// The pool has ended: the reaper will not run for it any more.
    fn end(&self);

    /// Gives up this reference. If it was the last, the job destroys the pool: that is user
    /// code.
    fn release(self: Arc<Self>) -> Option<Job>;
}

/// When the reaper has to do what for a pool, by the pool's own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    pub(crate) tick_at: Time,
    pub(crate) probe_at: Time,
}

impl Timers {
    /// Everything is due at once.
    pub(crate) const NOW: Timers = Timers { tick_at: Time::START, probe_at: Time::START };
}

/// Why the reaper should run for a pool before its time. A later variant includes the earlier
/// ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// There are events to deliver; nothing else has changed.
    Deliver,
    /// `tick` is due. Several signals before the reaper runs count as one.
    Tick,
    /// The pool has ended.
    Stop,
}

/// A pool for which the reaper runs now.
pub(crate) struct DuePool {
    pub(crate) number: u64,
    pub(crate) pool: Arc<dyn ErasedPool>,
    pub(crate) timers: Timers,
    pub(crate) has_ended: bool,
}

/// A pool, until it and all its jobs have ended.
struct PoolEntry {
    /// `None` before it is registered, and after it has ended.
    pool: Option<Arc<dyn ErasedPool>>,
    timers: Timers,
    plan: Option<Instant>,
    signal: Option<Signal>,
    /// The reaper has taken it, and will put it back.
    is_taken: bool,
    /// How many workers run its jobs.
    running: usize,
    /// When its last job began, as a number of the jobs of all pools.
    turn: u64,
}

#[derive(Default)]
pub(crate) struct Scheduler {
    pools: BTreeMap<u64, PoolEntry>,
    last_number: u64,
    plans: BTreeSet<(Instant, u64)>,
    signalled: Vec<u64>,
    /// The reaper is being started.
    pub(crate) reaper_starts: bool,
    /// The reaper must not sleep: there is something new for it.
    pub(crate) reaper_has_work: bool,
    /// Jobs that wait for a worker, by pool.
    queues: BTreeMap<u64, VecDeque<Job>>,
    turn: u64,
    /// A stack: the worker that became idle last gets the next job, so that surplus workers
    /// time out and end.
    idle: Vec<WorkerCell>,
    /// Workers that were spawned without a job, and have not asked for one yet.
    spawned_idle: usize,
    spawn_rate: SpawnRate,
    /// The last thread could not be spawned; the next attempt follows then.
    spawn_retry_at: Option<Instant>,
    pub(crate) threads: Threads,
}

// ---- the pools ----

impl Scheduler {
    /// Returns a number for a new pool.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Registers a pool, if it is not registered yet. The caller must wake the reaper.
    pub(crate) fn register(&mut self, number: u64, pool: impl FnOnce() -> Arc<dyn ErasedPool>) {
        let entry = self.pools.entry(number).or_insert_with(PoolEntry::new);
        if entry.pool.is_none() {
            entry.pool = Some(pool());
            self.signal(number, Signal::Tick);
        }
    }

    /// Has the reaper run for a pool. Returns whether the caller must wake it.
    pub(crate) fn signal(&mut self, number: u64, signal: Signal) -> bool {
        let Some(entry) = self.pools.get_mut(&number) else { return false };
        if entry.pool.is_none() {
            return false;
        }
        let is_new = entry.signal.is_none();
        entry.signal = entry.signal.max(Some(signal));
        if is_new {
            self.signalled.push(number);
        }
        !std::mem::replace(&mut self.reaper_has_work, true)
    }

    /// Takes an ended pool, because there is no reaper that would. [`put_back`]
    /// has to follow.
    ///
    /// [`put_back`]: Scheduler::put_back
    pub(crate) fn take_ended(&mut self, number: u64) -> Option<Arc<dyn ErasedPool>> {
        let entry = self.pools.get_mut(&number)?;
        entry.is_taken |= entry.pool.is_some();
        let plan = entry.plan.take();
        self.plans.retain(|planned| Some(*planned) != plan.map(|at| (at, number)));
        entry.pool.take()
    }

    /// Takes the pools that were signalled, and those whose time has come. [`put_back`] has to
    /// follow for each.
    ///
    /// [`put_back`]: Scheduler::put_back
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<DuePool> {
        self.reaper_has_work = false;
        let mut numbers = std::mem::take(&mut self.signalled);
        numbers.extend(self.plans.iter().take_while(|(at, _)| *at <= now).map(|(_, it)| *it));
        numbers.into_iter().filter_map(|number| self.take_one(number)).collect()
    }

    fn take_one(&mut self, number: u64) -> Option<DuePool> {
        let entry = self.pools.get_mut(&number)?;
        if let Some(plan) = entry.plan.take() {
            self.plans.remove(&(plan, number));
        }
        let signal = entry.signal.take();
        let has_ended = signal == Some(Signal::Stop);
        // Otherwise it has been taken already: it was signalled, and its time has come.
        let pool = if has_ended { entry.pool.take() } else { entry.pool.clone() }?;
        if std::mem::replace(&mut entry.is_taken, true) {
            return None;
        }
        let timers = if signal == Some(Signal::Tick) { Timers::NOW } else { entry.timers };
        Some(DuePool { number, pool, timers, has_ended })
    }

    /// The reaper is done with a pool for now. Returns whether that was the end of it: it has
    /// ended, and so have all its jobs.
    pub(crate) fn put_back(
        &mut self,
        number: u64,
        next: Option<(Timers, Option<Instant>)>,
    ) -> bool {
        let Some(entry) = self.pools.get_mut(&number) else { return false };
        entry.is_taken = false;
        if let Some((timers, plan)) = next {
            entry.timers = timers;
            entry.plan = plan;
            self.plans.extend(plan.map(|at| (at, number)));
        }
        self.remove_if_gone(number)
    }

    /// When the reaper has to run again.
    pub(crate) fn sleep_until(&self) -> Option<Instant> {
        let plan = self.plans.first().map(|(at, _)| *at);
        let spawn = self.next_spawn();
        plan.into_iter().chain(spawn).min()
    }

    /// Whether no pool is registered, and all jobs have ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Whether this pool and all its jobs have ended.
    pub(crate) fn is_gone(&self, number: u64) -> bool {
        !self.pools.contains_key(&number)
    }

    /// How many workers run jobs of this pool.
    pub(crate) fn running(&self, number: u64) -> usize {
        self.pools.get(&number).map_or(0, |entry| entry.running)
    }

    fn remove_if_gone(&mut self, number: u64) -> bool {
        let is_gone =
            |entry: &PoolEntry| entry.pool.is_none() && !entry.is_taken && entry.running == 0;
        let gone =
            self.pools.get(&number).is_some_and(is_gone) && !self.queues.contains_key(&number);
        if gone {
            self.pools.remove(&number);
        }
        gone
    }
}

impl PoolEntry {
    fn new() -> PoolEntry {
        PoolEntry {
            pool: None,
            timers: Timers::NOW,
            plan: None,
            signal: None,
            is_taken: false,
            running: 0,
            turn: 0,
        }
    }
}

// ---- the workers ----

impl Scheduler {
    /// Decides which worker gets new work.
    pub(crate) fn place(&mut self, work: Work, now: impl FnOnce() -> Instant) -> Placement {
        self.pools.entry(work.pool).or_insert_with(PoolEntry::new);
        if self.may_take_worker(work.pool, self.idle.len())
            && let Some(cell) = self.idle.pop()
        {
            self.begin(work.pool);
            return Placement::ToIdle(cell, work);
        }
        let may_spawn = sync::THREADS && self.queues.is_empty() && !self.lacks_reserve(work.pool);
        if may_spawn && self.spawn_rate.admit(now(), false) {
            self.begin(work.pool);
            self.threads.workers += 1;
            return Placement::ToNew(work);
        }
        // For the first job in the queues the reaper has to plan a spawn; the others wait with it.
        self.reaper_has_work |= self.queues.is_empty();
        self.queues.entry(work.pool).or_default().push_back(work.job);
        Placement::Queued
    }

    /// Takes the next job for a worker that is free.
    pub(crate) fn take_next(&mut self) -> Option<Work> {
        // This one, and the idle ones.
        let free = self.idle.len() + 1;
        let pool = self.next_in_queue().filter(|&pool| self.may_take_worker(pool, free))?;
        self.spawn_rate.taken += 1;
        self.take_from(pool)
    }

    /// Whether the reaper has to spawn a worker now because of the queued jobs: `Some` with its
    /// first job, or with `None` for a worker that is to be idle.
    pub(crate) fn next_to_spawn(&mut self, now: Instant) -> Option<Option<Work>> {
        if self.next_spawn().is_none_or(|at| at > now) || !self.spawn_rate.admit(now, true) {
            return None;
        }
        let pool = self.next_in_queue()?;
        self.threads.workers += 1;
        if self.lacks_reserve(pool) {
            self.spawned_idle += 1;
            return Some(None);
        }
        Some(self.take_from(pool))
    }

    /// The pool whose queued job is next: the one with the fewest jobs under way, so that calls
    /// that hang take no worker from another pool; of several such pools, the one whose last job
    /// began first.
    fn next_in_queue(&self) -> Option<u64> {
        let order = |number: &u64| self.pools.get(number).map(|it| (it.running, it.turn));
        self.queues.keys().copied().min_by_key(order)
    }

    fn take_from(&mut self, number: u64) -> Option<Work> {
        let queue = self.queues.get_mut(&number)?;
        let job = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&number);
        }
        self.begin(number);
        Some(Work { pool: number, job })
    }

    /// A worker has been spawned.
    pub(crate) fn spawned(&mut self) {
        self.spawn_retry_at = None;
    }

    /// A worker could not be spawned: its first job, if it has one, is queued again.
    pub(crate) fn not_spawned(&mut self, work: Option<Work>, now: Instant) {
        self.spawn_retry_at = Some(now + SPAWN_RETRY);
        self.reaper_has_work = true;
        self.threads.workers -= 1;
        match work {
            None => self.spawned_idle -= 1,
            Some(Work { pool, job }) => {
                self.pools.get_mut(&pool).into_iter().for_each(|entry| entry.running -= 1);
                self.queues.entry(pool).or_default().push_front(job);
            }
        }
    }

    /// A worker that was spawned without a job asks for one.
    pub(crate) fn worker_ready(&mut self) {
        self.spawned_idle = self.spawned_idle.saturating_sub(1);
    }

    /// A job has ended, and everything that it held is dropped. Returns whether that was the
    /// end of its pool.
    pub(crate) fn job_ended(&mut self, number: u64) -> bool {
        self.pools.get_mut(&number).into_iter().for_each(|entry| entry.running -= 1);
        self.remove_if_gone(number)
    }

    /// A worker is idle, and waits at this cell for a command.
    pub(crate) fn add_idle(&mut self, cell: &WorkerCell) {
        self.idle.push(Arc::clone(cell));
    }

    /// Removes the calling worker, which has been idle for long. `false`: a command for it is on
    /// its way, or it is kept for the other pools.
    pub(crate) fn remove_idle(&mut self, cell: &WorkerCell) -> bool {
        let position = self.idle.iter().position(|other| Arc::ptr_eq(other, cell));
        let is_kept = self.idle.len() == 1 && self.pools.keys().any(|&it| self.has_many_jobs(it));
        let is_removed = position.filter(|_| !is_kept).map(|at| self.idle.remove(at)).is_some();
        if is_removed {
            self.threads.worker_leaves();
        }
        is_removed
    }

    /// Takes all idle workers, to tell them to exit.
    pub(crate) fn take_idle(&mut self) -> Vec<WorkerCell> {
        std::mem::take(&mut self.idle)
    }

    fn begin(&mut self, number: u64) {
        self.turn += 1;
        if let Some(entry) = self.pools.get_mut(&number) {
            entry.running += 1;
            entry.turn = self.turn;
        }
    }

    /// Whether this pool may have one of this many free workers.
    fn may_take_worker(&self, number: u64, free: usize) -> bool {
        free > 1 || !self.has_many_jobs(number)
    }

    /// Whether a worker for this pool would leave none to the other pools.
    fn lacks_reserve(&self, number: u64) -> bool {
        self.has_many_jobs(number) && self.idle.is_empty() && self.spawned_idle == 0
    }

    /// Whether this pool has many jobs under way, and is not the only one.
    fn has_many_jobs(&self, number: u64) -> bool {
        let running = self.pools.get(&number).map_or(0, |entry| entry.running);
        running >= MANY_JOBS && self.pools.len() > 1
    }

    /// When the reaper may spawn a worker for the queued jobs. `None`: there are none.
    fn next_spawn(&self) -> Option<Instant> {
        if !sync::THREADS || self.queues.is_empty() {
            return None;
        }
        self.spawn_retry_at.max(self.spawn_rate.next())
    }
}

#[cfg(test)]
mod tests;
