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
            let got = match self.cell.poll(context.waker()) {
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
        // Before its waker is dropped, which is foreign code and may panic.
        if !self.is_over {
            self.shared.give_back(|core, fx| core.drop_task(self.id, fx));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::task::{Wake, Waker};
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::api::get_async::GetAsync;
    use crate::api::guard::PooledConnection;
    use crate::api::pool::Pool;
    use crate::stub::StubManager;
    use crate::sync::{PlainBool, PlainOrdering, PlainU64};
    use crate::types::Error;

    type Polled = Poll<Result<PooledConnection<StubManager>, Error>>;

    fn poll<W: Wake + Send + Sync + 'static>(
        get: &mut GetAsync<'_, StubManager>,
        waker: &Arc<W>,
    ) -> Polled {
        let waker = Waker::from(Arc::clone(waker));
        Pin::new(get).poll(&mut Context::from_waker(&waker))
    }

    fn exhausted() -> (Pool<StubManager>, PooledConnection<StubManager>) {
        let pool = Pool::builder().max_size(1).build(StubManager).expect("a stub");
        let held = pool.get().expect("the stub's connection");
        (pool, held)
    }

    #[derive(Default)]
    struct Counts(PlainU64);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, PlainOrdering::Relaxed);
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker, on purpose");
        }
    }

    #[test]
    fn p10_a_waker_that_panics_keeps_no_other_from_being_woken() {
        let (pool, held) = exhausted();
        let counts = Arc::new(Counts::default());
        let (mut first, mut second) = (pool.get_async(), pool.get_async());
        assert!(poll(&mut first, &Arc::new(Panics)).is_pending());
        assert!(poll(&mut second, &counts).is_pending());
        // Answers both at once.
        let _ = pool.close(Instant::now());
        assert_eq!(counts.0.load(PlainOrdering::Relaxed), 1);
        for get in [&mut first, &mut second] {
            let Poll::Ready(Err(error)) = poll(get, &counts) else { panic!("it has its answer") };
            assert!(error.is_closed(), "{error}");
        }
        drop(held);
    }

    /// Asks the pool, on another thread: if the lock is held, there is no answer.
    struct Asks {
        pool: Pool<StubManager>,
        answered: PlainBool,
    }

    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            let (sender, receiver) = mpsc::channel();
            let pool = self.pool.clone();
            thread::spawn(move || sender.send(pool.state().idle_connections));
            let answer = receiver.recv_timeout(Duration::from_secs(10)); // a watchdog
            self.answered.store(answer.is_ok(), PlainOrdering::Relaxed);
        }
    }

    #[test]
    fn a_waker_is_called_after_the_lock_is_released() {
        let (pool, held) = exhausted();
        let asks = Arc::new(Asks { pool: pool.clone(), answered: PlainBool::new(false) });
        let mut get = pool.get_async();
        assert!(poll(&mut get, &asks).is_pending());
        drop(held);
        assert!(asks.answered.load(PlainOrdering::Relaxed), "it found the pool locked");
        assert!(matches!(poll(&mut get, &asks), Poll::Ready(Ok(_))));
    }

    struct PanicsAtItsEnd;

    impl Wake for PanicsAtItsEnd {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for PanicsAtItsEnd {
        fn drop(&mut self) {
            panic!("a waker's destructor, on purpose");
        }
    }

    #[test]
    fn p10_a_waker_whose_destructor_panics_leaves_no_waiter_behind() {
        let (pool, held) = exhausted();
        let mut get = pool.get_async();
        let waker = Arc::new(PanicsAtItsEnd);
        assert!(poll(&mut get, &waker).is_pending());
        drop(waker); // The pool has the last one.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(get)));
        assert!(dropped.is_err(), "the panic is the caller's to see");
        assert_eq!(pool.stats().waiting, 0);
        drop(held);
        assert_eq!(pool.state().idle_connections, 1);
    }
}
