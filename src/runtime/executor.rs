//! The executor: the threads that work for the pools of a process.
//!
//! The *reaper* acts on the passing of time, for all pools: it sleeps until the earliest plan
//! of any of them. *Workers* call the drivers. A job goes to an idle worker or to a new one;
//! only in a burst it waits a moment. So no job waits behind another that hangs. A worker that
//! has been idle for a while ends. If a worker hangs in a driver, the core abandons the call,
//! and the worker is free again when the driver returns. All threads end with the last pool.
//!
//! What the threads do next is decided in [`scheduler`](super::scheduler).

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::scheduler::{DuePool, ErasedPool, Scheduler, Timers};
use super::threads::{Command, Placement, Work, WorkerCell};
use crate::sync::{
    self, Arc, AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, Process, WaitCell,
    Weak, per_thread, wait_until,
};
use crate::types::text_of_panic;

/// An idle worker ends after this long: long enough that a burst reuses its threads,
/// short enough that a process at rest has none.
pub(crate) const WORKER_IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// After a panic while it ran for a pool (a bug), the reaper runs for that pool again after
/// this time.
const RETRY_AFTER_PANIC: Duration = Duration::from_secs(1);

/// The executor of this process, while it has pools.
static CURRENT: sync::PlainMutex<Option<Weak<Executor>>> = sync::PlainMutex::new(None);

pub(crate) struct Executor {
    process: Process,
    /// Its lock is a leaf: held for a moment, and nothing foreign is called under it.
    pub(crate) scheduler: Mutex<Scheduler>,
    /// Notified when there is something new for the reaper.
    pub(super) woken: Condvar,
    /// Notified when something has ended that `close` waits for.
    pub(super) ended: Condvar,
    /// The reaper runs. Changed under the scheduler's lock.
    pub(super) has_reaper: AtomicBool,
}

impl Executor {
    pub(crate) fn new() -> Executor {
        Executor {
            process: Process::current(),
            scheduler: Mutex::default(),
            woken: Condvar::new(),
            ended: Condvar::new(),
            has_reaper: AtomicBool::new(false),
        }
    }

    /// The executor of this process.
    pub(crate) fn of_this_process() -> Arc<Executor> {
        // In a child made by `fork` the lock may stay locked for ever, so this does not wait
        // for long. A model may have several executors at a time.
        let soon = || (0..100).find_map(|_| sync::spin(|| CURRENT.try_lock()));
        let current = if sync::THREADS { soon() } else { None };
        let Some(mut current) = current else { return Arc::new(Executor::new()) };
        let existing = current.as_ref().and_then(Weak::upgrade);
        // After a fork this is the parent's, whose threads do not exist here.
        existing.filter(|executor| !executor.process.is_another()).unwrap_or_else(|| {
            let executor = Arc::new(Executor::new());
            *current = Some(Arc::downgrade(&executor));
            executor
        })
    }

    /// Spawns a thread. Its handle is kept until it is joined.
    pub(crate) fn spawn(
        &self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        self.scheduler.lock().threads.starts();
        let spawned = sync::spawn(name, body);
        let result = self.scheduler.lock().threads.started(spawned);
        // Not lost: `close` checks the scheduler under its lock before it sleeps.
        self.ended.notify_all();
        result
    }

    /// Waits until all threads have ended, there is a pool again, there is a thread to join (if
    /// `joins`), or until the deadline. Returns how many threads have not ended. `None`: there is
    /// a pool again, which needs them.
    pub(super) fn wait_for_threads(&self, deadline: Instant, joins: bool) -> Option<usize> {
        let mut scheduler = self.scheduler.lock();
        let has_reaper = || usize::from(self.has_reaper.load(Ordering::Relaxed));
        wait_until(&self.ended, &mut scheduler, Some(deadline), |scheduler| {
            let joins = joins && scheduler.threads.has_left();
            joins || !scheduler.is_empty() || scheduler.threads.count(has_reaper()) == 0
        });
        scheduler.is_empty().then(|| scheduler.threads.count(has_reaper()))
    }

    /// A thread was joined.
    pub(super) fn joined(&self) {
        self.scheduler.lock().threads.joined();
        // Not lost: `close` checks the scheduler under its lock before it sleeps.
        self.ended.notify_all();
    }

    /// A pool, a job or a worker has ended: wakes those that wait for it. If no pool is left,
    /// all threads end.
    pub(crate) fn notify_ended(&self, mut scheduler: MutexGuard<'_, Scheduler>) {
        let idle = if scheduler.is_empty() {
            scheduler.reaper_has_work = true;
            scheduler.take_idle()
        } else {
            Vec::new()
        };
        drop(scheduler);
        for cell in idle {
            send(&cell, Command::Exit);
        }
        // Not lost: both check the scheduler under its lock before they sleep.
        self.woken.notify_one();
        self.ended.notify_all();
    }
}

/// Sends an idle worker its command, after the scheduler's lock was released.
fn send(cell: &WorkerCell, command: Command) {
    let replaced = cell.fill(command);
    debug_assert!(replaced.is_none(), "BUG: an idle worker has two commands");
    let _ = cell.wake(); // A thread has no waker.
}

// ---- the reaper ----

impl Executor {
    /// Whether the caller must run or spawn the reaper now. `false`: there is one, or it is being
    /// started.
    pub(crate) fn claim_reaper(&self) -> bool {
        let mut scheduler = self.scheduler.lock();
        let has_reaper = self.has_reaper.load(Ordering::Relaxed);
        !has_reaper && !std::mem::replace(&mut scheduler.reaper_starts, true)
    }

    /// The reaper runs from here on, or it could not be started. Until then nobody counts on it:
    /// who waits wakes up to start it, and a pool that ends does so without it.
    pub(crate) fn reaper_started(&self, runs: bool) {
        let mut scheduler = self.scheduler.lock();
        scheduler.reaper_starts = false;
        self.has_reaper.store(runs, Ordering::Release);
    }

    /// Spawns the reaper if there is none.
    ///
    /// # Errors
    ///
    /// The operating system's, when it has no more threads to give.
    pub(super) fn ensure_reaper(self: &Arc<Self>) -> io::Result<()> {
        if !sync::THREADS || !self.claim_reaper() {
            return Ok(());
        }
        let executor = Arc::clone(self);
        let spawned = self.spawn("fairpool-reaper".to_string(), move || executor.run_reaper());
        if spawned.is_err() {
            self.reaper_started(false);
        }
        spawned
    }

    /// The life of the reaper.
    pub(crate) fn run_reaper(self: &Arc<Self>) {
        set_role(Role::Reaper);
        self.reaper_started(true);
        while let Some(due) = self.sleep() {
            due.into_iter().for_each(|due| self.run_pool(due));
            self.spawn_workers();
        }
    }

    /// Sleeps until the reaper has to run for a pool, or to spawn a worker. `None`: the last
    /// pool has ended, and the reaper ends too.
    pub(crate) fn sleep(&self) -> Option<Vec<DuePool>> {
        let mut scheduler = self.scheduler.lock();
        if !scheduler.reaper_has_work {
            let at = scheduler.sleep_until();
            wait_until(&self.woken, &mut scheduler, at, |scheduler| scheduler.reaper_has_work);
        }
        if scheduler.is_empty() {
            // Under the lock: a pool that comes later finds that there is no reaper.
            self.has_reaper.store(false, Ordering::Release);
            scheduler.threads.leave();
            drop(scheduler);
            self.ended.notify_all();
            return None;
        }
        Some(scheduler.take_due(sync::instant()))
    }

    /// Lets a pool act on the passing of time, or ends it.
    pub(crate) fn run_pool(self: &Arc<Self>, due: DuePool) {
        let DuePool { number, pool, timers, has_ended } = due;
        if has_ended {
            return self.end_pool(number, pool);
        }
        let result = catch_unwind(AssertUnwindSafe(|| pool.run_due(timers)));
        let next = result.unwrap_or_else(|_| (timers, Some(sync::instant() + RETRY_AFTER_PANIC)));
        self.put_back(number, Some(next));
    }

    pub(crate) fn put_back(&self, number: u64, next: Option<(Timers, Option<Instant>)>) {
        let mut scheduler = self.scheduler.lock();
        if scheduler.put_back(number, next) {
            self.notify_ended(scheduler);
        }
    }

    /// Releases a pool that has ended.
    pub(super) fn end_pool(self: &Arc<Self>, number: u64, pool: Arc<dyn ErasedPool>) {
        pool.end();
        if let Some(job) = pool.release() {
            let _ = self.submit(Work { pool: number, job });
        }
        self.put_back(number, None);
    }

    /// Spawns workers for queued jobs.
    fn spawn_workers(self: &Arc<Self>) {
        loop {
            let next = self.scheduler.lock().next_to_spawn(sync::instant());
            let Some(first) = next else { return };
            if self.spawn_worker(first).is_err() {
                return;
            }
        }
    }
}

// ---- the workers ----

impl Executor {
    /// Gives a job to a worker, without blocking. `Some`: a thread was spawned, or could not be.
    pub(super) fn submit(self: &Arc<Self>, work: Work) -> Option<io::Result<()>> {
        let place = self.scheduler.lock().place(work, sync::instant);
        match place {
            Placement::ToIdle(cell, work) => send(&cell, Command::Run(work)),
            Placement::ToNew(work) => return Some(self.spawn_worker(Some(work))),
            // Not lost: the reaper checks the scheduler under its lock before it sleeps.
            Placement::Queued => self.woken.notify_one(),
        }
        None
    }

    /// Spawns a worker with its first job, or to be idle. If that fails, the job is queued.
    fn spawn_worker(self: &Arc<Self>, first: Option<Work>) -> io::Result<()> {
        static STARTED: AtomicU64 = AtomicU64::new(1);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let first = Handover::new(first);
        let body = {
            let (executor, first) = (Arc::clone(self), first.clone());
            move || executor.run_worker(first.take().flatten())
        };
        let spawned = self.spawn(format!("fairpool-worker-{number}"), body);
        if spawned.is_ok() {
            self.scheduler.lock().spawned();
        } else {
            let work = first.take().flatten();
            self.scheduler.lock().not_spawned(work, sync::instant());
            // Not lost: the reaper checks the scheduler under its lock before it sleeps.
            self.woken.notify_one();
        }
        spawned
    }

    /// The life of a worker. The caller has counted it in `Scheduler::workers`.
    pub(crate) fn run_worker(self: &Arc<Self>, first: Option<Work>) {
        set_role(Role::Worker);
        let cell = Arc::new(WaitCell::new());
        let mut next = first.or_else(|| self.next_work(None, &cell));
        while let Some(Work { pool, job }) = next {
            // A panic in it is that of the manager's destructor, or a bug.
            let _ = catch_unwind(AssertUnwindSafe(job)).map_err(text_of_panic);
            if self.process.is_another() {
                // A hook has forked, and this is the child: the executor is the parent's.
                return std::mem::forget(Arc::clone(self));
            }
            next = self.next_work(Some(pool), &cell);
        }
        self.join_finished();
    }

    /// The next work of a worker, whose last job was one of the pool `last`. `None`: the worker
    /// has to end.
    fn next_work(&self, last: Option<u64>, cell: &WorkerCell) -> Option<Work> {
        let mut scheduler = self.scheduler.lock();
        let is_last_of_pool = last.is_some_and(|pool| scheduler.job_ended(pool));
        if last.is_none() {
            scheduler.worker_ready();
        }
        let work = scheduler.take_next();
        let is_idle = work.is_none() && !scheduler.is_empty();
        if is_idle {
            scheduler.add_idle(cell);
        }
        let ends = work.is_none() && !is_idle;
        if ends {
            scheduler.threads.worker_leaves();
        }
        if is_last_of_pool || ends {
            self.notify_ended(scheduler);
        } else {
            drop(scheduler);
        }
        if is_idle { self.await_command(cell) } else { work }
    }

    /// Waits for a command, for a while. `None`: the worker has to end.
    fn await_command(&self, cell: &WorkerCell) -> Option<Work> {
        loop {
            match cell.wait_until(Some(sync::instant() + WORKER_IDLE_TIMEOUT)) {
                Some(Command::Run(work)) => return Some(work),
                Some(Command::Exit) => {
                    self.scheduler.lock().threads.worker_leaves();
                    self.ended.notify_all();
                    return None;
                }
                // Otherwise a command is on its way, or the worker is kept.
                None if self.scheduler.lock().remove_idle(cell) => {
                    self.ended.notify_all();
                    return None;
                }
                None => {}
            }
        }
    }

    /// Joins threads that have ended. A worker does that before it ends: a thread whose
    /// thread-local destructors still run counts until they are done. After the last pool,
    /// `close` does it.
    fn join_finished(&self) {
        let finished = {
            let mut scheduler = self.scheduler.lock();
            let is_last = scheduler.is_empty();
            scheduler.threads.take_left(|handle| !is_last && sync::is_finished(handle))
        };
        for handle in finished {
            let _ = handle.join();
            self.joined();
        }
    }
}

// ---- the threads ----

/// What a thread is to the pools of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A thread of the program: it may call a pool.
    User,
    /// It calls drivers and hooks: others may wait for what it is doing.
    Worker,
    /// It acts on the passing of time, for all pools: it must not call user code.
    Reaper,
}

per_thread! {
    static ROLE: Cell<Role> = const { Cell::new(Role::User) };
}

/// The calling thread has this role from now on.
fn set_role(role: Role) {
    ROLE.with(|own| own.set(role));
}

/// The role of the calling thread.
pub(super) fn role() -> Role {
    // Thread-local values may be gone already: then this is a thread that ends.
    ROLE.try_with(Cell::get).unwrap_or(Role::User)
}

/// A value for a new thread that survives a failed spawn: the thread takes it out, or, if it
/// could not be spawned, the caller.
pub(super) struct Handover<T>(Arc<Mutex<Option<T>>>);

impl<T> Handover<T> {
    pub(super) fn new(value: T) -> Handover<T> {
        Handover(Arc::new(Mutex::new(Some(value))))
    }

    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

impl<T> Clone for Handover<T> {
    fn clone(&self) -> Handover<T> {
        Handover(Arc::clone(&self.0))
    }
}
