//! One get with settings of its own.

use std::any::Any;
use std::fmt;
use std::mem;
use std::panic::Location;
use std::time::{Duration, Instant};

use super::guard::PooledConnection;
use crate::runtime::shared::Shared;
use crate::runtime::wait::Checkout;
use crate::sync::Arc;
use crate::types::thread::Thread;
use crate::types::{Caller, CancelToken, ContextValue, Error, Label, ManageConnection};

/// The priority of callers that do not ask for another.
pub(crate) const DEFAULT_PRIORITY: u8 = 5;

/// One get with settings of its own, from [`Pool::request`](crate::Pool::request).
#[must_use = "a request does nothing until `get`"]
pub struct Request<'a, M: ManageConnection> {
    pub(super) shared: &'a Arc<Shared<M>>,
    /// `None`: the pool's `connection_timeout`.
    until: Option<Until>,
    priority: u8,
    cancel: Option<&'a CancelToken>,
    label: Label,
    /// `None`: that of the `get`.
    location: Option<&'static Location<'static>>,
    only_idle: bool,
    context: ContextValue,
}

#[derive(Debug, Clone, Copy)]
enum Until {
    Timeout(Duration),
    Deadline(Instant),
}

impl<'a, M: ManageConnection> Request<'a, M> {
    pub(super) fn new(shared: &'a Arc<Shared<M>>) -> Request<'a, M> {
        Request {
            shared,
            until: None,
            priority: DEFAULT_PRIORITY,
            cancel: None,
            label: Label::NONE,
            location: None,
            only_idle: false,
            context: ContextValue::default(),
        }
    }

    /// How long to wait. Zero takes an idle connection only if it needs no check.
    ///
    /// Default: the pool's `connection_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.until = Some(Until::Timeout(timeout));
        self
    }

    /// Until when to wait, instead of a timeout. A deadline that has passed is a timeout
    /// of zero.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.until = Some(Until::Deadline(deadline));
        self
    }

    /// The caller's priority: smaller numbers are served first.
    ///
    /// Default: 5. [`Builder::priority_ageing`](crate::Builder::priority_ageing) bounds
    /// how long callers with a smaller number can overtake this one.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Ends the wait as soon as the token is cancelled.
    pub fn cancel(mut self, token: &'a CancelToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// What the connection is for, to be shown in errors, logs, events, traces and snapshots: a
    /// literal, or any other string (see [`Label`]).
    ///
    /// No metric of the pool has it. If you pass labels on to a system of metrics, see to it
    /// that they are few: name kinds of work there, not single requests.
    pub fn label(mut self, label: impl Into<Label>) -> Self {
        self.label = label.into();
        self
    }

    /// The line that counts as the one that gets the connection.
    ///
    /// Default: the line that calls [`get`](Request::get). That is too far inside for a
    /// function that gets connections for others, or for a closure that runs on another
    /// thread. The function can have `#[track_caller]`, and pass its caller's line on.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::panic::Location;
    /// use std::thread;
    ///
    /// use fairpool::Pool;
    /// # use fairpool_testing::StubManager as Manager;
    ///
    /// /// Runs `work` with a connection on a thread of its own.
    /// #[track_caller]
    /// fn with_connection<R: Send>(pool: &Pool<Manager>, work: impl FnOnce() -> R + Send) -> R {
    ///     let caller = Location::caller();
    ///     let on_thread = move || {
    ///         let _conn = pool.request().location(caller).get().expect("a connection");
    ///         work()
    ///     };
    ///     thread::scope(|scope| scope.spawn(on_thread).join().expect("no panic"))
    /// }
    ///
    /// let pool = Pool::builder().build(Manager)?;
    /// let line = line!() + 1;
    /// let holder = with_connection(&pool, || pool.holders()[0].location());
    /// assert_eq!(holder.line(), line);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn location(mut self, location: &'static Location<'static>) -> Self {
        self.location = Some(location);
        self
    }

    /// What the pool's [`HandleUse`](crate::HandleUse) is to know of this use: the tenant of the
    /// caller, for example. A request has one such value, of any type; a second one replaces the
    /// first. The handler finds it with [`UseContext::get`](crate::UseContext::get), by its type.
    ///
    /// Default: none. A pool without a use handler ignores it. The pool shows it nowhere. It is
    /// dropped when the use is over, or on a worker thread.
    pub fn context<V: Any + Send + Sync>(mut self, value: V) -> Self {
        self.context = ContextValue::new(value);
        self
    }

    /// Gets a connection.
    ///
    /// # Errors
    ///
    /// As [`Pool::get_timeout`](crate::Pool::get_timeout), and
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// # Blocking
    ///
    /// Until the deadline at most, or until the token is cancelled.
    #[track_caller]
    pub fn get(mut self) -> Result<PooledConnection<M>, Error> {
        let location = self.location.unwrap_or(Location::caller());
        let caller = Caller::here(location, self.take_label(), self.priority);
        if let Some(guard) = self.try_fast_path(&caller) {
            return Ok(guard);
        }
        self.take_slow_path(caller)
    }

    fn take_label(&mut self) -> Label {
        mem::replace(&mut self.label, Label::NONE)
    }

    /// The task that polls this get.
    pub(super) fn task_caller(&mut self, location: &'static Location<'static>) -> Caller {
        let location = self.location.unwrap_or(location);
        Caller::task(location, self.take_label(), self.priority)
    }

    pub(super) fn try_fast_path(&self, caller: &Caller) -> Option<PooledConnection<M>> {
        if self.cancel.is_some_and(CancelToken::is_cancelled) {
            return None;
        }
        PooledConnection::try_fast_path(self.shared, || caller)
    }

    /// Takes only an idle connection. If it is due for a check, waits for the check.
    pub(super) fn only_idle(mut self) -> Self {
        self.only_idle = true;
        self
    }

    #[cold]
    fn take_slow_path(self, caller: Caller) -> Result<PooledConnection<M>, Error> {
        let shared = self.shared;
        let checkout = self.into_checkout(caller, false);
        let lease = shared.checkout(&checkout)?;
        Ok(PooledConnection::after_wait(shared, lease, checkout.start))
    }

    /// A get that begins now.
    pub(super) fn into_checkout(self, caller: Caller, is_task: bool) -> Checkout<'a> {
        let Request { shared, until, cancel, only_idle, context, .. } = self;
        let start = shared.clock.now();
        let deadline = match until {
            None if only_idle => start.after(shared.config.policy.validation_limit),
            None => start.after(shared.config.connection_timeout),
            Some(Until::Timeout(timeout)) => start.after(timeout),
            Some(Until::Deadline(at)) => shared.clock.time_of(at),
        };
        Checkout { caller, start, deadline, cancel, only_idle, is_task, context }
    }
}

/// [`Request::get`] for a request without a label and a priority. The request is built
/// only if the fast path finds nothing: building it earlier would cost a tenth of the
/// instructions of a get and its return.
#[inline]
pub(super) fn get<'a, M: ManageConnection>(
    shared: &'a Arc<Shared<M>>,
    location: &'static Location<'static>,
    request: impl FnOnce(Request<'a, M>) -> Request<'a, M>,
) -> Result<PooledConnection<M>, Error> {
    let thread = Thread::current();
    let caller = || Caller::on(thread, location, Label::NONE, DEFAULT_PRIORITY);
    if let Some(guard) = PooledConnection::try_fast_path(shared, caller) {
        return Ok(guard);
    }
    request(Request::new(shared)).take_slow_path(caller())
}

impl<M: ManageConnection> fmt::Debug for Request<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("until", &self.until)
            .field("priority", &self.priority)
            .field("cancel", &self.cancel)
            .field("label", &self.label.text())
            .field("location", &self.location)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pool::Pool;
    use crate::core::{Answer, Time, Waiter};
    use crate::stub::StubManager;
    use crate::sync::WaitCell;
    use crate::types::config::Fairness;

    #[test]
    fn p4_a_cancel_between_the_first_look_and_the_wait_is_not_lost() {
        let pool = Pool::builder().max_size(1).build(StubManager).expect("a stub");
        let _held = pool.get().expect("the stub's connection");
        let token = CancelToken::new();
        let request = pool.request();
        let start = request.shared.clock.now();
        let checkout = Checkout {
            caller: Caller::here(Location::caller(), Label::NONE, DEFAULT_PRIORITY),
            start,
            deadline: start.after(Duration::from_secs(10)), // a watchdog
            cancel: Some(&token),
            only_idle: false,
            is_task: false,
            context: ContextValue::default(),
        };
        // After the check of the token with which `checkout` begins.
        token.cancel();
        let error = request.shared.enqueue_and_wait(&checkout).err().expect("cancelled");
        assert!(error.is_cancelled(), "{error}");
        assert_eq!(pool.stats().waiting, 0);
    }

    /// A waiter of priority 10 has waited too long to be overtaken. A waiter of priority
    /// 1 has only just come, but is served first. So a get without time joins the queue,
    /// serves the two waiters, and takes the connection that is left.
    #[test]
    fn a_get_without_time_that_claims_counts_once() {
        let pool = Pool::builder()
            .max_size(3)
            .fairness(Fairness::Bounded(Duration::from_nanos(1)))
            .priority_ageing(Duration::from_secs(3600))
            .build(StubManager)
            .expect("a stub");
        let shared = &pool.shared;
        let soon = shared.clock.now().after(Duration::from_secs(3600));
        let cells = [(Time::START, 10), (soon, 1)].map(|(since, priority)| {
            let caller = Caller::here(Location::caller(), Label::NONE, priority);
            let cell = Arc::new(WaitCell::new());
            let waiter = Waiter {
                get_id: u64::from(priority),
                since,
                priority,
                caller,
                cell: Arc::clone(&cell),
                only_idle: false,
                nested: false,
                task: None,
                context: ContextValue::default(),
            };
            // Paused, so that both waiters stay in the queue.
            shared.transition(|core, fx| {
                core.pause();
                assert!(core.join(waiter, fx).is_ok());
            });
            cell
        });
        shared.with_core(|core| core.unpause());
        let got = pool.request().priority(255).timeout(Duration::ZERO).get();
        let got = got.expect("the third connection");
        let others = cells.map(|cell| match cell.wait_until(Some(std::time::Instant::now())) {
            Some(Answer::Granted(lease)) => PooledConnection::new(shared, lease, soon, soon),
            _ => panic!("it was not served"),
        });
        let stats = pool.stats();
        assert_eq!((stats.gets, stats.gets_waited, stats.timeouts), (3, 3, 0));
        // The two waiters are not awake yet to record their waits.
        #[cfg(feature = "histograms")]
        assert_eq!((stats.times.wait.count, stats.times.wait.max), (1, Duration::ZERO));
        drop((got, others));
    }
}
