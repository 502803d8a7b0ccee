//! The threads that call the driver.
//!
//! A job goes to a worker that is free, or to a new one; so no job waits behind
//! another that hangs. How many may run of each kind is the core's decision. A
//! worker that has had nothing to do for a while ends. One that hangs in the
//! driver is not missed: the core abandons the call, and the worker ends when
//! the driver lets go of it.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::Level;

use crate::conn::{Conn, Kind};
use crate::core::{Check, Job, Lease, Permit, Reason};
use crate::error::{Cause, ErrorText};
use crate::event::{AcquireEvent, ReleaseEvent};
use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::{self, Arc, AtomicU64, AtomicUsize, JoinHandle, Mutex, Ordering};

/// A free worker ends after this long: long enough that a burst reuses its
/// threads, short enough that a pool at rest has none.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

type PoolJob<M> = Job<Kind<M>>;

pub(crate) struct Workers<M: ManageConnection> {
    name: Arc<str>,
    /// A rendezvous: a send succeeds only if a free worker is waiting for it.
    /// `None` once stopped.
    jobs: Mutex<Option<Sender<PoolJob<M>>>>,
    free: Receiver<PoolJob<M>>,
    /// Jobs for which no thread could be started.
    backlog: Mutex<VecDeque<PoolJob<M>>>,
    /// How many those are, one that is just being tried again included.
    waiting: AtomicUsize,
    running: AtomicUsize,
    started: AtomicU64,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl<M: ManageConnection> Workers<M> {
    pub(crate) fn new(name: Arc<str>) -> Workers<M> {
        let (jobs, free) = bounded(0);
        Workers {
            name,
            jobs: Mutex::new(Some(jobs)),
            free,
            backlog: Mutex::new(VecDeque::new()),
            waiting: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            handles: Mutex::new(Vec::new()),
        }
    }

    /// Has a worker do a job. Does not wait for it. When the system has no thread
    /// to give, the job waits in the backlog for a worker that is done with its
    /// own, or for the reaper's next `retry`.
    pub(crate) fn submit(&self, shared: &Arc<Shared<M>>, job: PoolJob<M>) {
        if let Err(job) = self.hand_over(shared, job) {
            self.waiting.fetch_add(1, Ordering::AcqRel);
            self.backlog.lock().push_back(job);
            shared.reaper.wake();
        }
    }

    /// Tries again to find threads for the backlog. `true` if it is not empty
    /// and should be tried again soon.
    pub(crate) fn retry(&self, shared: &Arc<Shared<M>>) -> bool {
        loop {
            let next = self.backlog.lock().pop_front();
            let Some(job) = next else { return false };
            if let Err(job) = self.hand_over(shared, job) {
                self.backlog.lock().push_front(job);
                return true;
            }
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            // Its worker may have ended before this, and with it the last event
            // that `close` would have heard of.
            shared.notify_progress();
        }
    }

    /// Gives a job to a free worker, or to a new one; or gives it back.
    fn hand_over(&self, shared: &Arc<Shared<M>>, job: PoolJob<M>) -> Result<(), PoolJob<M>> {
        if !sync::THREADS {
            return Err(job);
        }
        let sent = match &*self.jobs.lock() {
            Some(jobs) => jobs.try_send(job),
            // Stopped: the call of this job was abandoned before the pool ended.
            None => Err(TrySendError::Disconnected(job)),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.start(shared, job)
            }
        }
    }

    /// Starts a worker with its first job, which comes back if that fails.
    fn start(&self, shared: &Arc<Shared<M>>, job: PoolJob<M>) -> Result<(), PoolJob<M>> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        // In a place of its own, so that the job survives a failed start.
        let first = Arc::new(Mutex::new(Some(job)));
        let body = {
            let (running, first) = (Running::new(shared), Arc::clone(&first));
            move || {
                let job = first.lock().take();
                running.0.workers.run(&running.0, job);
            }
        };
        if let Some(handle) = shared.spawn(format!("{}-worker-{number}", self.name), body) {
            let mut handles = self.handles.lock();
            handles.retain(|handle| !handle.is_finished());
            handles.push(handle);
            return Ok(());
        }
        let job = first.lock().take();
        job.map_or(Ok(()), Err)
    }

    /// The life of a worker.
    fn run(&self, shared: &Arc<Shared<M>>, first: Option<PoolJob<M>>) {
        let mut next = first;
        while let Some(job) = next {
            step(shared, job);
            let backlog = self.take_from_backlog();
            // It ends when there is nothing to do, and when the pool is gone.
            next = backlog.or_else(|| self.free.recv_timeout(KEEP_ALIVE).ok());
        }
    }

    /// The job that has waited longest for a thread.
    pub(crate) fn take_from_backlog(&self) -> Option<PoolJob<M>> {
        let job = self.backlog.lock().pop_front();
        self.waiting.fetch_sub(usize::from(job.is_some()), Ordering::AcqRel);
        job
    }

    /// Has all workers end as soon as they have nothing to do.
    pub(crate) fn stop(&self) {
        drop(self.jobs.lock().take());
    }

    /// How many workers there are.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Whether nothing runs and nothing waits for a thread.
    pub(crate) fn are_done(&self) -> bool {
        self.running() == 0 && self.waiting.load(Ordering::Acquire) == 0
    }

    /// Takes the handles of all threads, to join them.
    pub(crate) fn take_handles(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.handles.lock())
    }
}

/// One worker, counted from before its start until its end, whatever ends it.
pub(crate) struct Running<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Running<M> {
    pub(crate) fn new(shared: &Arc<Shared<M>>) -> Running<M> {
        shared.workers.running.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(shared))
    }
}

impl<M: ManageConnection> Drop for Running<M> {
    fn drop(&mut self) {
        self.0.workers.running.fetch_sub(1, Ordering::AcqRel);
        self.0.notify_progress();
    }
}

/// Makes one driver call and tells the core what came of it.
pub(crate) fn step<M: ManageConnection>(shared: &Arc<Shared<M>>, job: PoolJob<M>) {
    match job {
        Job::Open(permit) => open(shared, permit),
        Job::Check(lease, check) => run_check(shared, lease, check),
        Job::Close(lease, reason) => close(shared, lease, reason),
    }
}

fn open<M: ManageConnection>(shared: &Arc<Shared<M>>, permit: Permit) {
    match connect(shared) {
        Ok(value) => opened(shared, permit, value),
        Err((cause, permanent)) => {
            shared.transition(|core, now, fx| core.open_failed(now, permit, cause, permanent, fx));
        }
    }
}

/// Why a connection could not be opened, and whether no retry can cure that.
type Failure = (Cause, bool);

/// A connection as `on_acquire` leaves it.
fn connect<M: ManageConnection>(shared: &Arc<Shared<M>>) -> Result<M::Connection, Failure> {
    let mut value = try_to(shared, "connect", || shared.manager.connect())?;
    let customizer = &shared.config.connection_customizer;
    if let Err(failure) = try_to(shared, "on_acquire", || customizer.on_acquire(&mut value)) {
        // Not within the call above: a destructor that panics while that panics
        // would end the process.
        let _ = shared.contain("close", || drop(value));
        return Err(failure);
    }
    Ok(value)
}

fn try_to<M: ManageConnection, R>(
    shared: &Arc<Shared<M>>,
    what: &str,
    call: impl FnOnce() -> Result<R, M::Error>,
) -> Result<R, Failure> {
    match shared.contain(what, call) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => {
            let permanent = shared.contain("is_permanent", || shared.manager.is_permanent(&error));
            Err((share_error(shared, error), permanent.unwrap_or(false)))
        }
        Err(said) => Err((panic_cause(what, &said), false)),
    }
}

fn opened<M: ManageConnection>(shared: &Arc<Shared<M>>, permit: Permit, value: M::Connection) {
    let id = NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed);
    if let Some(handler) = &shared.config.event_handler {
        let _ = shared.contain("handle_acquire", || handler.handle_acquire(AcquireEvent { id }));
    }
    let conn = Box::new(Conn::new(value, id, shared.clock.now()));
    shared.transition(|core, now, fx| core.opened(now, Lease { permit, conn }, fx));
}

fn run_check<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    mut lease: Lease<Box<Conn<M>>>,
    check: Check,
) {
    let manager = &shared.manager;
    let limit = shared.config.policy.validation_limit;
    let value = lease.conn.value_mut();
    let call = || {
        if check.reset {
            manager.reset(value)?;
        }
        if check.validate {
            manager.is_valid_within(value, limit)?;
        }
        Ok(())
    };
    let result = match shared.contain("a check", call) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Some(share_error(shared, error))),
        Err(said) => Err(Some(panic_cause("a check", &said))),
    };
    shared.transition(|core, now, fx| core.checked(now, lease, result, fx));
}

fn close<M: ManageConnection>(shared: &Arc<Shared<M>>, lease: Lease<Box<Conn<M>>>, reason: Reason) {
    let Lease { permit, mut conn } = lease;
    shared.say(Level::Debug, format_args!("closing connection {}: {reason:?}", conn.id));
    if let Some(handler) = &shared.config.event_handler {
        let event = ReleaseEvent { id: conn.id, age: shared.ago(conn.born) };
        let _ = shared.contain("handle_release", || handler.handle_release(event));
    }
    // The state moves under the close mutex; the driver closes after it.
    if let Some(value) = conn.take() {
        let customizer = &shared.config.connection_customizer;
        let _ = shared.contain("close", || customizer.on_release(value));
        conn.close.finish();
        conn.close.bury();
    }
    let _ = shared.contain("dropping extensions", || drop(conn));
    shared.transition(|core, now, fx| core.closed(now, permit, fx));
}

/// Shows the error to the handler and keeps it, or its text, for the callers.
fn share_error<M: ManageConnection>(shared: &Arc<Shared<M>>, error: M::Error) -> Cause {
    let handler = &shared.config.error_handler;
    let seen = shared.contain("inspect_error", || handler.inspect_error(&error));
    if seen == Ok(false) {
        let text = shared.contain("an error's text", || ErrorText::of(&error));
        let text = text.unwrap_or_else(|said| ErrorText::new(&said));
        let _ = shared.contain("handle_error", || handler.handle_error(error));
        return Arc::new(text);
    }
    Arc::new(error)
}

fn panic_cause(what: &str, said: &str) -> Cause {
    Arc::new(ErrorText::new(&format!("{what} panicked: {said}")))
}
