//! The staff: the threads that work for the pools of a process.
//!
//! The *reaper* acts on the passing of time, for all pools: it sleeps until the earliest plan
//! of any of them. *Workers* call the drivers. A job goes to an idle worker or to a new one;
//! only in a burst it waits a moment, so no job waits behind another that hangs. A worker that
//! has been idle for a while ends. A worker that hangs in a driver is not needed any more: the
//! core abandons the call, and the worker is free when the driver returns. All threads end
//! with the last pool.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::roster::{Due, Duties, Employer, Offer, Order, Roster, Seat, Work};
use super::wait_cell::WaitCell;
use crate::sync::{
    self, Arc, AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, Process, Weak,
    per_thread, wait_until,
};
use crate::types::text_of_panic;

/// An idle worker ends after this long: long enough that a burst reuses its threads,
/// short enough that a process at rest has none.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// After a bug the reaper looks at that pool again after this time.
const AFTER_A_BUG: Duration = Duration::from_secs(1);

/// The one of this process, unless its last pool has gone.
static CURRENT: sync::PlainMutex<Option<Weak<Staff>>> = sync::PlainMutex::new(None);

pub(crate) struct Staff {
    process: Process,
    /// A leaf: held for a moment, and nothing is called under it.
    pub(crate) roster: Mutex<Roster>,
    /// Notified when the reaper should look at the roster.
    pub(super) woken: Condvar,
    /// Notified when something has ended that `close` waits for.
    pub(super) ended: Condvar,
    /// The reaper runs, or is being started. Changed under the roster's lock.
    pub(super) has_reaper: AtomicBool,
}

impl Staff {
    pub(crate) fn new() -> Staff {
        Staff {
            process: Process::current(),
            roster: Mutex::default(),
            woken: Condvar::new(),
            ended: Condvar::new(),
            has_reaper: AtomicBool::new(false),
        }
    }

    /// The staff of this process.
    pub(crate) fn of_this_process() -> Arc<Staff> {
        // In a child made by `fork` the lock may be locked for ever. A model has several
        // pools at a time that know nothing of each other.
        let soon = || (0..100).find_map(|_| sync::spin(|| CURRENT.try_lock()));
        let current = if sync::THREADS { soon() } else { None };
        let Some(mut current) = current else { return Arc::new(Staff::new()) };
        let there = current.as_ref().and_then(Weak::upgrade);
        // That of the parent has no threads here.
        there.filter(|staff| !staff.process.is_another()).unwrap_or_else(|| {
            let staff = Arc::new(Staff::new());
            *current = Some(Arc::downgrade(&staff));
            staff
        })
    }

    /// Spawns a thread. Its handle is kept until it is joined.
    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.roster.lock().starting += 1;
        let spawned = sync::spawn(name, body);
        let mut roster = self.roster.lock();
        roster.starting -= 1;
        let result = spawned.map(|handle| roster.handles.push(handle));
        drop(roster);
        // Not lost: `close` checks the roster under its lock before it sleeps.
        self.ended.notify_all();
        result
    }

    /// Waits until there is a pool again, or a handle to join if `joins`, or until all threads
    /// have ended; or until the deadline. Returns how many threads have not ended, zero if they
    /// are those of a pool.
    pub(super) fn wait_for_threads(&self, deadline: Instant, joins: bool) -> usize {
        let mut roster = self.roster.lock();
        let has_reaper = || usize::from(self.has_reaper.load(Ordering::Relaxed));
        wait_until(&self.ended, &mut roster, Some(deadline), |roster| {
            let joins = joins && !roster.handles.is_empty();
            joins || !roster.is_empty() || roster.threads(has_reaper()) == 0
        });
        if roster.is_empty() { roster.threads(has_reaper()) } else { 0 }
    }

    /// A thread was joined, or its joiner could not be started.
    pub(super) fn joined(&self) {
        self.roster.lock().joining -= 1;
        // Not lost: `close` checks the roster under its lock before it sleeps.
        self.ended.notify_all();
    }

    /// Something has ended. If it was the last of all pools, the staff ends.
    pub(crate) fn settle(&self, mut roster: MutexGuard<'_, Roster>) {
        let dismissed = if roster.is_empty() {
            roster.calls_reaper = true;
            roster.dismiss()
        } else {
            Vec::new()
        };
        drop(roster);
        for seat in dismissed {
            order(&seat, Order::Leave);
        }
        // Not lost: both check the roster under its lock before they sleep.
        self.woken.notify_one();
        self.ended.notify_all();
    }
}

/// Gives an idle worker its order, after the roster's lock was released.
fn order(seat: &Seat, order: Order) {
    let replaced = seat.fill(order);
    debug_assert!(replaced.is_none(), "BUG: an idle worker has two orders");
    seat.wake();
}

// ---- the reaper ----

impl Staff {
    /// The caller is the reaper from now on, or must start one. `false`: there is one.
    pub(crate) fn lacks_reaper(&self) -> bool {
        let _roster = self.roster.lock();
        !self.has_reaper.swap(true, Ordering::AcqRel)
    }

    /// Starts the reaper if there is none.
    ///
    /// # Errors
    ///
    /// The operating system's, when it has no more threads to give.
    pub(super) fn ensure_reaper(self: &Arc<Self>) -> io::Result<()> {
        if !sync::THREADS || !self.lacks_reaper() {
            return Ok(());
        }
        let staff = Arc::clone(self);
        let spawned = self.spawn("fairpool-reaper".to_string(), move || staff.run_reaper());
        if spawned.is_err() {
            let _roster = self.roster.lock();
            self.has_reaper.store(false, Ordering::Release);
        }
        spawned
    }

    /// The life of the reaper.
    pub(crate) fn run_reaper(self: &Arc<Self>) {
        take_role(Role::Reaper);
        while let Some(due) = self.sleep() {
            due.into_iter().for_each(|due| self.attend(due));
            self.start_workers();
        }
    }

    /// Sleeps until a pool has to be looked at, or a worker to be started. `None`: the last
    /// pool has gone, and with it the reaper's work.
    pub(crate) fn sleep(&self) -> Option<Vec<Due>> {
        let mut roster = self.roster.lock();
        if !roster.calls_reaper {
            let at = roster.sleep_until();
            wait_until(&self.woken, &mut roster, at, |roster| roster.calls_reaper);
        }
        if roster.is_empty() {
            // Under the lock: a pool that comes later finds that there is no reaper.
            self.has_reaper.store(false, Ordering::Release);
            drop(roster);
            self.ended.notify_all();
            return None;
        }
        Some(roster.take_due(sync::instant()))
    }

    /// Lets a pool act on the passing of time.
    pub(crate) fn attend(self: &Arc<Self>, due: Due) {
        let Due { number, pool, duties, has_ended } = due;
        if has_ended {
            return self.end_pool(number, pool);
        }
        let tended = catch_unwind(AssertUnwindSafe(|| pool.tend(duties)));
        let next = tended.unwrap_or_else(|_| (duties, Some(sync::instant() + AFTER_A_BUG)));
        self.put_back(number, Some(next));
    }

    pub(crate) fn put_back(&self, number: u64, next: Option<(Duties, Option<Instant>)>) {
        let mut roster = self.roster.lock();
        if roster.put_back(number, next) {
            self.settle(roster);
        }
    }

    /// Lets go of a pool that has ended.
    pub(super) fn end_pool(self: &Arc<Self>, number: u64, pool: Arc<dyn Employer>) {
        pool.end();
        if let Some(job) = pool.release() {
            let _ = self.submit(Work { pool: number, job });
        }
        self.put_back(number, None);
    }

    /// Starts workers for jobs that have waited for one.
    fn start_workers(self: &Arc<Self>) {
        loop {
            let next = self.roster.lock().start_next(sync::instant());
            let Some(first) = next else { return };
            if self.start_worker(first).is_err() {
                return;
            }
        }
    }
}

// ---- the workers ----

impl Staff {
    /// Finds a worker without blocking. `Some`: a thread had to be started, or could not be.
    pub(super) fn submit(self: &Arc<Self>, work: Work) -> Option<io::Result<()>> {
        let offer = self.roster.lock().offer(work, sync::instant);
        match offer {
            Offer::Hand(seat, work) => order(&seat, Order::Run(work)),
            Offer::Start(work) => return Some(self.start_worker(Some(work))),
            // Not lost: the reaper checks the roster under its lock before it sleeps.
            Offer::Queued => _ = self.woken.notify_one(),
        }
        None
    }

    /// Starts a worker with its first job, or to be idle. If there is no thread, the job waits.
    fn start_worker(self: &Arc<Self>, first: Option<Work>) -> io::Result<()> {
        static STARTED: AtomicU64 = AtomicU64::new(1);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let first = Handover::new(first);
        let body = {
            let (staff, first) = (Arc::clone(self), first.clone());
            move || staff.run_worker(first.take().flatten())
        };
        let spawned = self.spawn(format!("fairpool-worker-{number}"), body);
        if spawned.is_ok() {
            self.roster.lock().started();
        } else {
            let work = first.take().flatten();
            self.roster.lock().not_started(work, sync::instant());
            // Not lost: the reaper checks the roster under its lock before it sleeps.
            self.woken.notify_one();
        }
        spawned
    }

    /// The life of a worker, which has been counted.
    pub(crate) fn run_worker(self: &Arc<Self>, first: Option<Work>) {
        take_role(Role::Worker);
        let seat = Arc::new(WaitCell::new());
        let mut next = first.or_else(|| self.next_work(None, &seat));
        while let Some(Work { pool, job }) = next {
            // A panic in it is that of the manager's destructor, or a bug.
            let _ = catch_unwind(AssertUnwindSafe(job)).map_err(text_of_panic);
            if self.process.is_another() {
                // A hook has forked: this is the child, which has no such staff.
                return std::mem::forget(Arc::clone(self));
            }
            next = self.next_work(Some(pool), &seat);
        }
        self.join_finished();
    }

    /// The next work of a worker that is done with a job of the pool `last`. `None`: it has
    /// left.
    fn next_work(&self, last: Option<u64>, seat: &Seat) -> Option<Work> {
        let mut roster = self.roster.lock();
        let is_over = last.is_some_and(|pool| roster.done(pool));
        if last.is_none() {
            roster.arrived();
        }
        let work = roster.take();
        let rests = work.is_none() && !roster.is_empty();
        if rests {
            roster.rest(seat);
        }
        let leaves = work.is_none() && !rests;
        roster.workers -= usize::from(leaves);
        if is_over || leaves {
            self.settle(roster);
        } else {
            drop(roster);
        }
        if rests { self.rest(seat) } else { work }
    }

    /// Waits for an order, for a while. `None`: the worker has left.
    fn rest(&self, seat: &Seat) -> Option<Work> {
        loop {
            match seat.wait_until(Some(sync::instant() + KEEP_ALIVE)) {
                Some(Order::Run(work)) => return Some(work),
                Some(Order::Leave) => {
                    self.roster.lock().workers -= 1;
                    self.ended.notify_all();
                    return None;
                }
                // Otherwise an order is on its way, or it is to stay.
                None if self.roster.lock().leave(seat) => {
                    self.ended.notify_all();
                    return None;
                }
                None => {}
            }
        }
    }

    /// Joins threads that have ended. A worker does that before it ends: a thread whose
    /// thread-local destructors still run counts until they are done.
    fn join_finished(&self) {
        let finished: Vec<_> = {
            let handles = &mut self.roster.lock().handles;
            handles.extract_if(.., |handle| handle.is_finished()).collect()
        };
        finished.into_iter().for_each(|handle| drop(handle.join()));
    }
}

// ---- the threads ----

/// What a thread is to the pools of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Of the program: it may call a pool.
    User,
    /// Makes driver calls: others may wait for what it is doing.
    Worker,
    /// Acts on the passing of time, for all pools: it may call no user code.
    Reaper,
}

per_thread! {
    static ROLE: Cell<Role> = const { Cell::new(Role::User) };
}

/// The calling thread has this role from now on.
fn take_role(role: Role) {
    ROLE.with(|own| own.set(role));
}

/// The role of the calling thread.
pub(super) fn role() -> Role {
    // Thread-local values may be gone already: then this is a thread that ends.
    ROLE.try_with(Cell::get).unwrap_or(Role::User)
}

/// A value in a thread's body that survives a failed spawn: the body takes it out, and
/// if the body never ran, so can the caller.
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
