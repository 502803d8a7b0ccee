//! The slow path of a get by a task: join the queue, be polled, and leave in time or when dropped.
//!
//! The cell has one kind of answer beside errors: that the task should come. What it was granted,
//! and for how long, is the core's to know (`core/tasks.rs`).

use std::task::{Context, Poll};
use std::time::Duration;

use super::refusal::Refusal;
use super::shared::{PoolCell, Shared};
use super::wait::{Checkout, Got, Outcome};
use crate::core::{Answer, Arrival, Time, WaiterId};
use crate::sync::Arc;
use crate::types::{ManageConnection, Registration, Timed};

/// A task in the queue. Dropping it is a cancel.
pub(crate) struct TaskWait<'a, M: ManageConnection> {
    pub(crate) shared: &'a Arc<Shared<M>>,
    pub(crate) checkout: Checkout<'a>,
    id: WaiterId,
    cell: Arc<PoolCell<M>>,
    /// It has its answer.
    is_over: bool,
    _registration: Option<Registration>,
    #[cfg(feature = "tracing")]
    span: super::span::TaskSpan,
}

/// How a get by a task begins.
pub(crate) enum TaskGet<'a, M: ManageConnection> {
    Ready(Got<M>),
    Waits(TaskWait<'a, M>),
}

/// Begins a get that the fast path could not serve.
pub(crate) fn begin<'a, M: ManageConnection>(
    shared: &'a Arc<Shared<M>>,
    checkout: Checkout<'a>,
) -> TaskGet<'a, M> {
    if let Some(got) = shared.overtake_or_refuse(&checkout) {
        return TaskGet::Ready(got);
    }
    let mut arrival = Arrival { get_id: 0, since: Time::START };
    let outcome = shared.transition_here(|core, fx| {
        arrival = core.arrive(fx.now);
        shared.enqueue(core, &checkout, arrival, false, fx)
    });
    let got = match outcome {
        Outcome::Taken(lease) => Ok(lease),
        Outcome::Claimed(lease) => {
            shared.times.record(Timed::Wait, Duration::ZERO, 1);
            Ok(lease)
        }
        Outcome::Refused(refusal) => Err(refusal.into_error(checkout.caller.label())),
        Outcome::MayCheck => unreachable!("BUG: a task makes no checks"),
        Outcome::Enqueued(id, cell) => {
            shared.keep_probing();
            return TaskGet::Waits(TaskWait::new(shared, checkout, id, cell));
        }
    };
    shared.notify_timeout(&checkout, &got);
    TaskGet::Ready(got)
}

impl<'a, M: ManageConnection> TaskWait<'a, M> {
    fn new(
        shared: &'a Arc<Shared<M>>,
        checkout: Checkout<'a>,
        id: WaiterId,
        cell: Arc<PoolCell<M>>,
    ) -> TaskWait<'a, M> {
        // From here on a panic cancels the wait.
        let mut wait = TaskWait {
            shared,
            id,
            cell,
            is_over: false,
            _registration: None,
            #[cfg(feature = "tracing")]
            span: super::span::TaskSpan::begin(
                &shared.logger,
                &shared.config.name,
                &checkout.caller,
                id.get_id(),
            ),
            checkout,
        };
        wait._registration =
            wait.checkout.cancel.and_then(|token| shared.register_cancel(token, id));
        wait
    }

    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<Got<M>> {
        let shared = self.shared;
        if shared.process.is_forked() {
            self.is_over = true;
            return Poll::Ready(Err(shared.forked()));
        }
        loop {
            let got = match self.cell.poll(Some(context.waker())) {
                None => return Poll::Pending,
                Some(Answer::Nudged) => {
                    match shared.transition_here(|core, fx| core.claim(self.id, fx)) {
                        Some(lease) => Ok(lease),
                        None => continue,
                    }
                }
                Some(Answer::Failed(kind, cause)) => {
                    let refusal = Refusal::of(shared, kind, self.checkout.start);
                    Err(refusal.caused_by(cause).into_error(self.checkout.caller.label()))
                }
                Some(Answer::Granted(_) | Answer::SelfDeadlock(_)) => {
                    unreachable!("BUG: a task was answered like a thread")
                }
            };
            self.is_over = true;
            self.report(&got);
            return Poll::Ready(got);
        }
    }

    fn report(&mut self, got: &Got<M>) {
        let (_waited, _connection_id) =
            self.shared.record_wait(&self.checkout, self.id.get_id(), got);
        #[cfg(feature = "tracing")]
        self.span.end(&self.shared.logger, _waited, _connection_id, got.as_ref().err());
        self.shared.notify_timeout(&self.checkout, got);
    }
}

impl<M: ManageConnection> Drop for TaskWait<'_, M> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if !self.shared.process.is_forked() {
            // Whatever comes now, nobody is woken for it.
            drop(self.cell.poll(None));
        }
        self.shared.give_back(|core, fx| core.drop_task(self.id, fx));
    }
}
