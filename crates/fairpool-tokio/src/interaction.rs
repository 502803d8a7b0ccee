//! The future of an interaction.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use fairpool::{GetAsync, ManageConnection, PooledConnection};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use crate::Error;
use crate::slot::Slot;

/// A closure's result to come, from [`Interact::interact`](crate::Interact::interact). It does
/// nothing until it is polled.
///
/// The closure runs on the runtime in which this is first polled.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "an interaction does nothing until it is polled"]
pub struct Interaction<'a, M: ManageConnection, F, R> {
    state: State<'a, M, F, R>,
}

enum State<'a, M: ManageConnection, F, R> {
    New(GetAsync<'a, M>, F),
    Waits(GetAsync<'a, M>, F, Handle),
    /// The closure is queued, or runs.
    Works(Job<PooledConnection<M>, F, R>),
    Done,
}

/// A closure on its way to a thread.
struct Job<C, F, R> {
    /// Empty once the closure has started.
    _not_started: Slot<(C, F)>,
    /// `None`: it was taken back before it started.
    result: JoinHandle<Option<R>>,
}

impl<'a, M: ManageConnection, F, R> Interaction<'a, M, F, R> {
    pub(crate) fn new(get: GetAsync<'a, M>, work: F) -> Interaction<'a, M, F, R> {
        Interaction { state: State::New(get, work) }
    }
}

impl<M, F, R> Future for Interaction<'_, M, F, R>
where
    M: ManageConnection,
    F: FnOnce(&mut PooledConnection<M>) -> R + Send + 'static,
    R: Send + 'static,
{
    type Output = Result<R, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            // What follows leaves it done, unless it has to wait.
            this.state = match mem::replace(&mut this.state, State::Done) {
                // Before the wait, not after it.
                State::New(get, work) => match Handle::try_current() {
                    Ok(runtime) => State::Waits(get, work, runtime),
                    Err(_) => return Poll::Ready(Err(Error::NoRuntime)),
                },
                State::Waits(mut get, work, runtime) => match Pin::new(&mut get).poll(context) {
                    Poll::Ready(conn) => State::Works(Job::start(&runtime, conn?, work)?),
                    Poll::Pending => {
                        this.state = State::Waits(get, work, runtime);
                        return Poll::Pending;
                    }
                },
                State::Works(mut job) => {
                    let result = Pin::new(&mut job.result).poll(context);
                    if result.is_pending() {
                        this.state = State::Works(job);
                    }
                    return Poll::Ready(result_of(ready!(result)));
                }
                State::Done => panic!("an Interaction was polled after it was ready"),
            };
        }
    }
}

impl<C, F, R> Job<C, F, R>
where
    C: Send + 'static,
    F: FnOnce(&mut C) -> R + Send + 'static,
    R: Send + 'static,
{
    fn start(runtime: &Handle, conn: C, work: F) -> Result<Job<C, F, R>, Error> {
        let (not_started, to_start) = Slot::pair((conn, work));
        let run = move || {
            let (mut conn, work) = to_start.take()?;
            // The connection comes back before the result is known, also if this panics.
            Some(work(&mut conn))
        };
        // It panics if the system has no thread, and keeps the closure.
        let spawn = || runtime.spawn_blocking(run);
        match panic::catch_unwind(AssertUnwindSafe(spawn)) {
            Ok(result) => Ok(Job { _not_started: not_started, result }),
            Err(panic) => Err(Error::NoThread(io::Error::other(text_of(&*panic)))),
        }
    }
}

/// A closure that has not started is dropped here, with its connection: both are in the slot. What
/// is left in tokio's queue is aborted. A closure that runs is not stopped by this.
impl<C, F, R> Drop for Job<C, F, R> {
    fn drop(&mut self) {
        self.result.abort();
    }
}

fn result_of<R>(joined: Result<Option<R>, JoinError>) -> Result<R, Error> {
    match joined.map_err(JoinError::try_into_panic) {
        Ok(result) => Ok(result.expect("BUG: a closure was taken back from a caller that waits")),
        Err(Ok(panic)) => panic::resume_unwind(panic),
        Err(Err(_cancelled)) => Err(Error::ShutDown),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| String::from(*text)))
        .unwrap_or_else(|| String::from("a panic"))
}

/// Nothing in here is pinned.
impl<M: ManageConnection, F, R> Unpin for Interaction<'_, M, F, R> {}

impl<M: ManageConnection, F, R> fmt::Debug for Interaction<'_, M, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::New(..) => "not polled",
            State::Waits(..) => "waits",
            State::Works(job) if job.result.is_finished() => "has its result",
            State::Works(_) => "works",
            State::Done => "done",
        };
        f.debug_struct("Interaction").field("state", &state).finish_non_exhaustive()
    }
}
