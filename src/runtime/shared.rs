//! What all handles, connections and threads of a pool share.
//!
//! The only place that locks the core. Every change of it has the same shape: lock,
//! transition, answers into their cells, unlock, everything else.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe, RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

use super::conn::{Conn, Unfinished};
use super::executor::Executor;
use super::executor_handle::ExecutorHandle;
use super::logger::{Logger, RateLimit};
use super::notifications::{Added, Notifications};
use super::probe::HealthProbe;
use super::subscribers::Subscribers;
use super::use_sampler::Record;
use crate::core::{Answer, Core, Effects, Gauges, Held, Job, Lease, Policy, PoolTypes, Time};
use crate::sync::{
    self, Arc, AtomicU64, Clock, Condvar, Mutex, MutexGuard, PlainBool, PlainOrdering, PoolProcess,
    WaitCell,
};
use crate::types::error_text::text_of_panic;
use crate::types::{
    Caller, Cause, Config, ContextValue, Error, HandleEvent, Holder, ManageConnection, Recorder,
    Timed, UseContext,
};

/// The core's types for pools of the manager `M`.
pub(crate) struct Runtime<M>(std::marker::PhantomData<fn() -> M>);

impl<M: ManageConnection> PoolTypes for Runtime<M> {
    type Conn = PoolConn<M>;
    type Caller = Caller;
    type Cell = Arc<PoolCell<M>>;
    type Context = ContextValue;
    type Cause = Cause;

    fn connection_id(conn: &PoolConn<M>) -> u64 {
        conn.id
    }

    fn backend_id(conn: &PoolConn<M>) -> u32 {
        conn.backend_id.unwrap_or(0)
    }
}

pub(crate) type PoolConn<M> = Conn<<M as ManageConnection>::Connection, PoolRef<M>>;
pub(crate) type PoolLease<M> = Lease<PoolConn<M>>;
pub(crate) type PoolAnswer<M> = Answer<Runtime<M>>;
pub(crate) type PoolCell<M> = WaitCell<PoolAnswer<M>>;
pub(crate) type PoolCore<M> = Core<Runtime<M>>;

/// A connection's own reference to its pool.
pub(crate) struct PoolRef<M: ManageConnection> {
    pub(crate) shared: Arc<Shared<M>>,
}

/// Puts answers into their cells, under the pool's lock. Returns the cells, to wake their
/// waiters.
fn fill<M: ManageConnection>(
    answers: Vec<(Arc<PoolCell<M>>, PoolAnswer<M>)>,
) -> Vec<Arc<PoolCell<M>>> {
    let fill = |(cell, answer): (Arc<PoolCell<M>>, _)| {
        // Only a nudge may be replaced: a waiter with another answer has left the queue.
        let replaced = cell.fill(answer);
        debug_assert!(matches!(replaced, None | Some(Answer::Nudged)), "BUG: answered twice");
        cell
    };
    answers.into_iter().map(fill).collect()
}

/// What a get or a return may do on its fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FastPath {
    Open,
    /// The same, with exact times, and noted for subscribers.
    Observed,
    /// Nothing: this process is a child of the one that built the pool.
    Forked,
}

/// What a worker does.
pub(crate) enum PoolJob<M: ManageConnection> {
    /// A driver call that the core asked for.
    Call(Job<Runtime<M>>),
    /// The rest of a check that a caller has begun on its own thread, at this time.
    RestOfCheck(PoolLease<M>, Time, Unfinished<M::Error>),
    /// Announces pending notifications.
    Announce,
    /// Drops what holds a driver's error.
    Drop(Box<dyn Any + Send>),
}

pub(crate) struct Shared<M: ManageConnection> {
    /// The pool's one lock. Under it: no call into a driver or a hook, no I/O, no log, no
    /// destructor of a connection or an error. Only these locks are ever taken inside it:
    /// those of waiters' cells, of the notifications, and of threads' names.
    core: Mutex<PoolCore<M>>,
    /// Notified when something has changed that `build` or `close` wait for.
    progress: Condvar,
    pub(crate) config: Config<M>,
    pub(crate) manager: M,
    pub(crate) clock: Clock,
    pub(crate) executor: ExecutorHandle,
    pub(crate) notifications: Notifications,
    pub(crate) subscribers: Arc<Subscribers>,
    pub(crate) probe: HealthProbe,
    pub(crate) times: Recorder,
    /// There is an event handler or a subscriber, which get exact times.
    pub(crate) observed: PlainBool,
    pub(crate) process: PoolProcess,
    pub(crate) slow_gets: RateLimit,
    pub(crate) leftovers: RateLimit,
    /// Limits the log records of connections in doubt.
    pub(crate) doubts: RateLimit,
    pub(crate) logger: Logger,
    /// The checks that callers have begun and left to workers.
    pub(super) checks_left: AtomicU64,
    /// The last spawn failed.
    pub(super) spawn_failing: PlainBool,
    /// How often the reaper has looked at the pool.
    #[cfg(test)]
    pub(super) reaper_runs: sync::PlainU64,
}

// A panic leaves it whole: no user code runs under its locks, and panics of the user code
// that it calls are caught.
impl<M: ManageConnection> UnwindSafe for Shared<M> {}
impl<M: ManageConnection> RefUnwindSafe for Shared<M> {}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn new(config: Config<M>, manager: M, executor: Arc<Executor>) -> Arc<Shared<M>> {
        let clock = Clock::start();
        let policy = Policy { clock_lag: clock.lag(), ..config.policy.clone() };
        Arc::new(Shared {
            core: Mutex::new(Core::new(policy)),
            progress: Condvar::new(),
            executor: ExecutorHandle::new(executor),
            notifications: Notifications::default(),
            subscribers: Arc::default(),
            probe: HealthProbe::default(),
            times: Recorder::new(),
            observed: PlainBool::new(config.event_handler.is_some()),
            process: PoolProcess::new(),
            slow_gets: RateLimit::default(),
            leftovers: RateLimit::default(),
            doubts: RateLimit::default(),
            logger: Logger::new(&config.name),
            checks_left: AtomicU64::new(0),
            spawn_failing: PlainBool::new(false),
            #[cfg(test)]
            reaper_runs: sync::PlainU64::new(0),
            clock,
            config,
            manager,
        })
    }

    /// What a get or a return may do on its fast path in this tick of the coarse clock.
    #[inline]
    pub(crate) fn fast_path(&self, tick: Time) -> FastPath {
        if self.process.is_checked(tick) { FastPath::Open } else { self.find_fast_path(tick) }
    }

    #[cold]
    fn find_fast_path(&self, tick: Time) -> FastPath {
        if self.process.is_forked() {
            return FastPath::Forked;
        }
        if self.observed.load(PlainOrdering::Relaxed) {
            return FastPath::Observed;
        }
        self.process.set_checked(tick);
        FastPath::Open
    }

    /// Runs a step of a fast path, which has no effects. `None`: this process is a child, in
    /// which the lock may be locked for ever. Then what the step owns is leaked.
    #[inline]
    pub(crate) fn try_core<R>(&self, step: impl FnOnce(&mut PoolCore<M>) -> R) -> Option<R> {
        let Some(mut core) = self.core.try_lock().or_else(|| self.lock_here()) else {
            std::mem::forget(step);
            return None;
        };
        Some(step(&mut core))
    }

    /// Runs a step of a fast path that may have to be reported to subscribers.
    pub(crate) fn try_core_observed<R>(
        &self,
        step: impl FnOnce(&mut PoolCore<M>) -> R,
    ) -> Option<R> {
        let (result, wants_delivery) = self.try_core(|core| (step(core), core.wants_delivery()))?;
        if wants_delivery {
            self.wake_to_deliver();
        }
        Some(result)
    }

    /// Waits for the lock. `None`: this process is a child, in which a lock that was locked at
    /// the fork stays so. To check the process costs a system call, so this first waits for as
    /// long as a holder usually needs.
    #[cold]
    fn lock_here(&self) -> Option<MutexGuard<'_, PoolCore<M>>> {
        let soon = sync::spin(|| self.core.try_lock());
        soon.or_else(|| (!self.process.is_forked()).then(|| self.core.lock()))
    }

    /// The core as a child sees it: closed and empty. The child's copy of the real one may be
    /// half changed, and the connections in it are the parent's.
    fn core_of_child(&self) -> PoolCore<M> {
        Core::closed(self.config.policy.clone())
    }

    /// Reads the core. In a child that is an empty one.
    pub(crate) fn with_core<R>(&self, step: impl FnOnce(&mut PoolCore<M>) -> R) -> R {
        if self.process.is_forked() {
            return step(&mut self.core_of_child());
        }
        step(&mut self.core.lock())
    }

    /// A transition that gives something back to the core. In a child what the step owns is
    /// leaked.
    pub(crate) fn give_back(
        self: &Arc<Self>,
        step: impl FnOnce(&mut PoolCore<M>, &mut Effects<Runtime<M>>),
    ) {
        if self.process.is_forked() {
            std::mem::forget(step);
        } else {
            self.transition_here(step);
        }
    }

    /// Runs one transition of the core, and carries out its effects. In a child it runs on an
    /// empty core, and its effects are not carried out.
    pub(crate) fn transition<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut PoolCore<M>, &mut Effects<Runtime<M>>) -> R,
    ) -> R {
        if !self.process.is_forked() {
            return self.transition_here(step);
        }
        let mut fx = Effects::at(self.clock.now());
        let result = step(&mut self.core_of_child(), &mut fx);
        std::mem::forget(fx);
        result
    }

    /// A transition of a pool that is known to be of this process.
    pub(crate) fn transition_here<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut PoolCore<M>, &mut Effects<Runtime<M>>) -> R,
    ) -> R {
        let mut fx = Effects::at(self.clock.now());
        let mut core = self.core.lock();
        let result = step(&mut core, &mut fx);
        let cells = if fx.answers.is_empty() { Vec::new() } else { fill(fx.answers) };
        let added = self.notifications.add(fx.notices, fx.now);
        let wants_delivery = core.wants_delivery();
        let drained = core.is_drained();
        // Everything below is slow or foreign, or wakes a thread that would only run
        // into this lock.
        drop(core);

        for cell in cells.iter().filter(|cell| !cell.is_of_task()) {
            let _ = cell.wake(); // A thread has no waker.
        }
        for job in fx.jobs {
            self.submit(PoolJob::Call(job));
        }
        if fx.wake_reaper {
            self.wake_reaper();
        }
        if wants_delivery {
            self.wake_to_deliver();
        }
        if fx.progress {
            // Not lost: `wait_for` checks under the core's lock before it sleeps, and
            // the change was made under that lock.
            self.progress.notify_all();
        }
        if drained {
            self.executor.stop();
        } else {
            self.ensure_reaper();
        }
        if let Some(Added { needs_worker, .. }) = &added {
            self.keep_probing();
            if *needs_worker {
                self.submit(PoolJob::Announce);
            }
        }
        // From here on foreign code runs. Each waker is taken right before it is called, so that
        // a later transition can wake the tasks behind one that takes long. A panic is not logged:
        // this may be the reaper.
        for waker in cells.iter().filter(|cell| cell.is_of_task()).filter_map(|cell| cell.wake()) {
            let woken = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
            let _ = woken.map_err(text_of_panic);
        }
        if let Some(Added { lost, .. }) = added {
            self.drop_errors(lost);
        }
        self.drop_errors(fx.garbage);
        result
    }

    /// Waits until the core is `ready`, or until the deadline.
    pub(crate) fn wait_for(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&PoolCore<M>) -> bool,
    ) -> bool {
        let mut core = self.core.lock();
        while !ready(&core) {
            let until = self.executor.sleep_limit(deadline);
            let timed_out = match until {
                None => {
                    self.progress.wait(&mut core);
                    false
                }
                Some(at) => self.progress.wait_until(&mut core, at).timed_out(),
            };
            if timed_out && until == deadline {
                return ready(&core);
            }
            if timed_out {
                drop(core);
                self.ensure_reaper();
                core = self.core.lock();
            }
        }
        true
    }

    /// Wakes `wait_for` for changes that are not the core's.
    pub(crate) fn notify_progress(&self) {
        if self.process.is_forked() {
            return; // A hook has forked: this is its worker, which ends in the child.
        }
        drop(self.core.lock());
        self.progress.notify_all();
    }

    /// Calls a method of the event handler, if there is one.
    pub(crate) fn notify(&self, method: &str, call: impl FnOnce(&dyn HandleEvent)) {
        if let Some(handler) = self.config.event_handler.as_deref() {
            let _ = self.logger.catch_panic(method, || call(handler));
        }
    }

    /// Drops a driver's error, or a value that holds one. Its destructor is the driver's
    /// code and may panic.
    pub(crate) fn drop_error<E>(&self, error: E) {
        let _ = self.logger.catch_panic("dropping an error", || drop(error));
    }

    /// Drops what users keep with a connection, one by one, so that a destructor that panics does
    /// not keep the others from running.
    pub(crate) fn drop_extensions(&self, conn: &mut PoolConn<M>) {
        self.drop_context(conn.context.take());
        for value in conn.extensions.take_all() {
            let _ = self.logger.catch_panic("dropping an extension", || drop(value));
        }
    }

    /// Drops what a caller has told the use handler.
    pub(crate) fn drop_context(&self, context: Option<Box<UseContext>>) {
        if context.is_some() {
            let _ = self.logger.catch_panic("dropping a context", || drop(context));
        }
    }

    /// Records a driver call that began at `began` and ends now. The driver may have forked: in
    /// a child the recorder's lock may be locked for ever.
    pub(crate) fn record_since(&self, what: Timed, began: Time) {
        let span = self.ago(began);
        if !self.times.try_record(what, span) && !self.process.is_forked() {
            self.times.record(what, span, 1);
        }
    }

    /// Records uses of a connection, but not in a child: the recorder's lock may be locked
    /// there for ever.
    #[inline]
    pub(crate) fn record_uses(&self, record: Record) {
        if record.times != 0 && !self.process.is_forked() {
            self.times.record(Timed::InUse, Duration::from_nanos(record.nanos), record.times);
        }
    }

    /// How long ago, by the pool's clock.
    pub(crate) fn ago(&self, at: Time) -> Duration {
        self.clock.now().since(at)
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.with_core(|core| core.gauges())
    }

    /// The error of a call in a child.
    pub(crate) fn forked(&self) -> Error {
        Error::forked(&self.config.name, self.process.built_in)
    }

    /// The holders of connections, longest first.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let now = self.clock.now();
        let held: Vec<Held<Caller>> = self.with_core(|core| core.holders(now).collect());
        Holder::longest_first(held)
    }
}
