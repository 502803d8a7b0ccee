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
use log::kv::Value;

use crate::runtime::conn::{Conn, Kind};
use crate::core::{Check, Job, Lease, Leased, Permit, Reason};
use crate::types::error::{Cause, Chain, ErrorText};
use crate::types::event::{AcquireEvent, ReleaseEvent};
use crate::types::manage::ManageConnection;
use crate::runtime::shared::Shared;
use crate::sync::{self, Arc, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::types::times::Timed;

/// A free worker ends after this long: long enough that a burst reuses its
/// threads, short enough that a pool at rest has none.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// What a worker is to do.
pub(crate) enum Task<M: ManageConnection> {
    /// A driver call that the core asked for.
    Call(Job<Kind<M>>),
    /// Tell the pool's owner what there is to tell.
    Tell,
}

pub(crate) struct Workers<M: ManageConnection> {
    name: Arc<str>,
    /// A rendezvous: a send succeeds only if a free worker is waiting for it.
    /// `None` once stopped.
    tasks: Mutex<Option<Sender<Task<M>>>>,
    free: Receiver<Task<M>>,
    /// Tasks for which no thread could be started.
    backlog: Mutex<VecDeque<Task<M>>>,
    /// How many those are, one that is just being tried again included, and how
    /// many workers there are. One number: a task goes from the one to the other
    /// and must not be missed on its way.
    unfinished: AtomicUsize,
    running: AtomicUsize,
    started: AtomicU64,
}

impl<M: ManageConnection> Workers<M> {
    pub(crate) fn new(name: Arc<str>) -> Workers<M> {
        let (tasks, free) = bounded(0);
        Workers {
            name,
            tasks: Mutex::new(Some(tasks)),
            free,
            backlog: Mutex::new(VecDeque::new()),
            unfinished: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            started: AtomicU64::new(0),
        }
    }

    /// Has a worker do something. Does not wait for it. When the system has no
    /// thread to give, the task waits in the backlog for a worker that is done
    /// with its own, or for the reaper's next `retry`.
    pub(crate) fn submit(&self, shared: &Arc<Shared<M>>, task: Task<M>) {
        if let Err(task) = self.hand_over(shared, task) {
            self.unfinished.fetch_add(1, Ordering::AcqRel);
            self.backlog.lock().push_back(task);
            shared.reaper.wake();
        }
    }

    /// Tries again to find threads for the backlog. `true` if it is not empty
    /// and should be tried again soon.
    pub(crate) fn retry(&self, shared: &Arc<Shared<M>>) -> bool {
        loop {
            let next = self.backlog.lock().pop_front();
            let Some(task) = next else { return false };
            if let Err(task) = self.hand_over(shared, task) {
                self.backlog.lock().push_front(task);
                return true;
            }
            self.unfinished.fetch_sub(1, Ordering::AcqRel);
            // Its worker may have ended before this, and with it the last event
            // that `close` would have heard of.
            shared.notify_progress();
        }
    }

    /// Gives a task to a free worker, or to a new one; or gives it back.
    fn hand_over(&self, shared: &Arc<Shared<M>>, task: Task<M>) -> Result<(), Task<M>> {
        if !sync::THREADS {
            return Err(task);
        }
        let sent = match &*self.tasks.lock() {
            Some(tasks) => tasks.try_send(task),
            // Stopped: this is left of a call that was abandoned before the pool
            // ended.
            None => Err(TrySendError::Disconnected(task)),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) => {
                self.start(shared, task)
            }
        }
    }

    /// Starts a worker with its first task, which comes back if that fails.
    fn start(&self, shared: &Arc<Shared<M>>, task: Task<M>) -> Result<(), Task<M>> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        // In a place of its own, so that the task survives a failed start.
        let first = Arc::new(Mutex::new(Some(task)));
        let body = {
            let (running, first) = (Running::new(shared), Arc::clone(&first));
            move || {
                let task = first.lock().take();
                running.0.workers.run(&running.0, task);
            }
        };
        if shared.spawn(format!("{}-worker-{number}", self.name), body) {
            return Ok(());
        }
        let task = first.lock().take();
        task.map_or(Ok(()), Err)
    }

    /// The life of a worker.
    fn run(&self, shared: &Arc<Shared<M>>, first: Option<Task<M>>) {
        let mut next = first;
        while let Some(task) = next {
            step(shared, task);
            let backlog = self.take_from_backlog();
            // It ends when there is nothing to do, and when the pool is gone.
            next = backlog.or_else(|| self.free.recv_timeout(KEEP_ALIVE).ok());
        }
        shared.threads.join_finished();
    }

    /// What has waited longest for a thread.
    pub(crate) fn take_from_backlog(&self) -> Option<Task<M>> {
        let task = self.backlog.lock().pop_front();
        self.unfinished.fetch_sub(usize::from(task.is_some()), Ordering::AcqRel);
        task
    }

    /// Has all workers end as soon as they have nothing to do.
    pub(crate) fn stop(&self) {
        drop(self.tasks.lock().take());
    }

    /// How many workers there are.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Whether nothing runs and nothing waits for a thread.
    pub(crate) fn are_done(&self) -> bool {
        self.unfinished.load(Ordering::Acquire) == 0
    }
}

/// One worker, counted from before its start until its end, whatever ends it.
pub(crate) struct Running<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Running<M> {
    pub(crate) fn new(shared: &Arc<Shared<M>>) -> Running<M> {
        shared.workers.running.fetch_add(1, Ordering::AcqRel);
        shared.workers.unfinished.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(shared))
    }
}

impl<M: ManageConnection> Drop for Running<M> {
    fn drop(&mut self) {
        self.0.workers.running.fetch_sub(1, Ordering::AcqRel);
        self.0.workers.unfinished.fetch_sub(1, Ordering::AcqRel);
        self.0.notify_progress();
    }
}

/// Does one task. What came of a driver call, the core is told.
pub(crate) fn step<M: ManageConnection>(shared: &Arc<Shared<M>>, task: Task<M>) {
    match task {
        Task::Call(Job::Connect(permit)) => open(shared, permit),
        Task::Call(Job::Check(lease, check)) => run_check(shared, lease, check),
        Task::Call(Job::Close(lease, reason)) => close(shared, *lease, reason),
        Task::Tell => shared.tell_owner(),
    }
}

fn open<M: ManageConnection>(shared: &Arc<Shared<M>>, permit: Permit) {
    let begun = shared.clock.now();
    let mut value = match call(shared, "connect", || shared.manager.connect()) {
        Ok(value) => value,
        Err(failure) => return open_failed(shared, permit, failure),
    };
    let customizer = &shared.config.connection_customizer;
    match call(shared, "on_acquire", || customizer.on_acquire(&mut value)) {
        Ok(()) => {
            shared.timed(Timed::Connect, begun);
            opened(shared, permit, value);
        }
        Err(failure) => {
            // By itself: a panic of this within another would end the process.
            let _ = shared.contain("close", || drop(value));
            open_failed(shared, permit, failure);
        }
    }
}

/// Why a driver call came to nothing.
enum Failure<E> {
    Error(E),
    /// Of what, and what it said.
    Panic(&'static str, String),
}

fn open_failed<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    permit: Permit,
    failure: Failure<M::Error>,
) {
    let permanent = match &failure {
        Failure::Error(error) => {
            let permanent = shared.contain("is_permanent", || shared.manager.is_permanent(error));
            permanent.unwrap_or(false)
        }
        Failure::Panic(..) => false,
    };
    let cause = share(shared, failure);
    shared.transition(|core, now, fx| core.connect_failed(now, permit, cause, permanent, fx));
}

fn opened<M: ManageConnection>(shared: &Arc<Shared<M>>, permit: Permit, value: M::Connection) {
    let id = NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed);
    if let Some(handler) = &shared.config.event_handler {
        let _ = shared.contain("handle_acquire", || handler.handle_acquire(AcquireEvent { id }));
    }
    let conn = Conn::new(shared, value, id);
    let lease = Leased::new(permit, conn);
    shared.transition(|core, now, fx| core.connect_finished(now, lease, fx));
}

fn run_check<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    mut lease: Lease<Conn<M>>,
    check: Check,
) {
    let begun = shared.clock.now();
    let result = check_parts(shared, lease.conn.value_mut(), check)
        .map_err(|(reason, failure)| (reason, share(shared, failure)));
    shared.timed(Timed::Validate, begun);
    if let Err((_, cause)) = &result {
        let id = lease.conn.id;
        let what = format_args!("connection {id} failed its check: {}", Chain(&**cause));
        shared.say(Level::Warn, &[("connection_id", id.into())], what);
    }
    shared.transition(|core, now, fx| core.check_finished(now, lease, result, fx));
}

/// Resets and validates, as far as that is due. What fails a reset is broken.
fn check_parts<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    value: &mut M::Connection,
    check: Check,
) -> Result<(), (Reason, Failure<M::Error>)> {
    let manager = &shared.manager;
    if check.reset {
        call(shared, "reset", || manager.reset(value)).map_err(|why| (Reason::Broken, why))?;
    }
    if check.validate {
        let limit = shared.config.policy.validation_limit;
        call(shared, "is_valid", || manager.is_valid_within(value, limit))
            .map_err(|why| (Reason::Invalid, why))?;
    }
    Ok(())
}

fn call<M: ManageConnection, R>(
    shared: &Shared<M>,
    what: &'static str,
    call: impl FnOnce() -> Result<R, M::Error>,
) -> Result<R, Failure<M::Error>> {
    match shared.contain(what, call) {
        Ok(result) => result.map_err(Failure::Error),
        Err(said) => Err(Failure::Panic(what, said)),
    }
}

fn close<M: ManageConnection>(shared: &Arc<Shared<M>>, lease: Leased<Conn<M>>, reason: Reason) {
    let Leased { permit, mut conn, .. } = lease;
    shared.say(
        Level::Debug,
        &[("connection_id", conn.id.into()), ("reason", Value::from_debug(&reason))],
        format_args!("closing connection {}: {reason:?}", conn.id),
    );
    if let Some(handler) = &shared.config.event_handler {
        let event = ReleaseEvent { id: conn.id, age: shared.ago(conn.born) };
        let _ = shared.contain("handle_release", || handler.handle_release(event));
    }
    // The state moves under the close mutex; the driver closes after it.
    if let Some(value) = conn.take() {
        let customizer = &shared.config.connection_customizer;
        let begun = shared.clock.now();
        let _ = shared.contain("close", || customizer.on_release(value));
        shared.timed(Timed::Close, begun);
        conn.close.finish();
        conn.close.bury();
    }
    shared.drop_extensions(&mut conn);
    drop(conn);
    shared.transition(|core, now, fx| core.close_finished(now, permit, fx));
}

/// Shows an error to the handler and keeps it, or its text, for the callers.
fn share<M: ManageConnection>(shared: &Arc<Shared<M>>, failure: Failure<M::Error>) -> Cause {
    let error = match failure {
        Failure::Error(error) => error,
        Failure::Panic(what, said) => {
            return Arc::new(ErrorText::new(&format!("{what} panicked: {said}")));
        }
    };
    let handler = &shared.config.error_handler;
    if shared.contain("inspect_error", || handler.inspect_error(&error)) == Ok(false) {
        let text = ErrorText::of(&error);
        let _ = shared.contain("handle_error", || handler.handle_error(error));
        return Arc::new(text);
    }
    Arc::new(error)
}
