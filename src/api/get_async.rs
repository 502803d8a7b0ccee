//! A get for tasks.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::guard::PooledConnection;
use super::request::Request;
use crate::runtime::task_wait::{self, TaskGet, TaskWait};
use crate::types::{Caller, Error, ManageConnection};

/// A connection to come, from [`Pool::get_async`](crate::Pool::get_async) or
/// [`Request::get_async`].
///
/// It does nothing until it is polled. To drop it is to cancel the get, in constant time: what it
/// was granted goes to the next caller.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "a get does nothing until it is polled"]
pub struct GetAsync<'a, M: ManageConnection> {
    caller: Caller,
    state: State<'a, M>,
}

enum State<'a, M: ManageConnection> {
    New(Request<'a, M>),
    Waits(TaskWait<'a, M>),
    Done,
}

impl<'a, M: ManageConnection> Request<'a, M> {
    /// Gets a connection for a task: see [`Pool::get_async`](crate::Pool::get_async). The wait
    /// begins with the first poll.
    ///
    /// # Errors
    ///
    /// As [`get`](Request::get), without
    /// [`ErrorKind::SelfDeadlock`](crate::ErrorKind::SelfDeadlock).
    #[track_caller]
    pub fn get_async(mut self) -> GetAsync<'a, M> {
        let caller = self.task_caller(Location::caller());
        GetAsync { caller, state: State::New(self) }
    }
}

impl<M: ManageConnection> Future for GetAsync<'_, M> {
    type Output = Result<PooledConnection<M>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut wait = match std::mem::replace(&mut this.state, State::Done) {
            State::New(request) => {
                let shared = request.shared;
                if let Some(guard) = request.try_fast_path(&this.caller) {
                    return Poll::Ready(Ok(guard.of_task()));
                }
                let checkout = request.into_checkout(this.caller.clone(), true);
                let start = checkout.start;
                match task_wait::begin(shared, checkout) {
                    TaskGet::Waits(wait) => wait,
                    TaskGet::Ready(got) => {
                        let guard = |lease| PooledConnection::after_wait(shared, lease, start);
                        return Poll::Ready(got.map(guard).map(PooledConnection::of_task));
                    }
                }
            }
            State::Waits(wait) => wait,
            State::Done => panic!("a GetAsync was polled after it was ready"),
        };
        match wait.poll(context) {
            Poll::Pending => {
                this.state = State::Waits(wait);
                Poll::Pending
            }
            Poll::Ready(got) => {
                let (shared, start) = (wait.shared, wait.checkout.start);
                let guard = |lease| PooledConnection::after_wait(shared, lease, start);
                Poll::Ready(got.map(guard).map(PooledConnection::of_task))
            }
        }
    }
}

/// The wait is in the pool, and refers to nothing in here.
impl<M: ManageConnection> Unpin for GetAsync<'_, M> {}

impl<M: ManageConnection> fmt::Debug for GetAsync<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::New(_) => "not polled",
            State::Waits(_) => "waits",
            State::Done => "done",
        };
        f.debug_struct("GetAsync").field("state", &state).finish_non_exhaustive()
    }
}
