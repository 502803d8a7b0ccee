//! The slow path of a get: check an idle connection or join the queue, wait, and leave in time.

use std::time::Duration;

use log::Level;

use super::logger::millis;
use super::refusal::Refusal;
use super::shared::{FastPath, PoolCell, PoolCore, PoolLease, Runtime, Shared};
use crate::core::{Answer, Arrival, Effects, Time, Waiter, WaiterId};
use crate::sync::{Arc, WaitCell};
use crate::types::thread;
use crate::types::{
    CallSite, Caller, CancelToken, ContextValue, Error, ErrorKind, ManageConnection, Registration,
    Timed, TimeoutEvent,
};

/// What one get asks for.
pub(crate) struct Checkout<'a> {
    pub(crate) caller: Caller,
    pub(crate) start: Time,
    pub(crate) deadline: Time,
    pub(crate) cancel: Option<&'a CancelToken>,
    /// Waits for the check of an idle connection, but not for a connect.
    pub(crate) only_idle: bool,
    /// The caller is polled: see `task_wait`.
    pub(crate) is_task: bool,
    /// For the use handler.
    pub(crate) context: ContextValue,
}

/// A caller with less time leaves checks to workers: nobody could tell a connection that is
/// dead from one that is slow.
const LEAST_CHECK: Duration = Duration::from_millis(10);

pub(super) type Got<M> = Result<PoolLease<M>, Error>;

/// Where a get stands after a transition.
pub(super) enum Outcome<M: ManageConnection> {
    Taken(PoolLease<M>),
    /// Taken in the queue, but without waiting.
    Claimed(PoolLease<M>),
    /// A connection is idle that is due for a check. The caller may make it, if the manager
    /// allows that.
    MayCheck,
    Enqueued(WaiterId, Arc<PoolCell<M>>),
    Refused(Refusal),
}

fn has_time_to_check(checkout: &Checkout<'_>, now: Time) -> bool {
    checkout.deadline > now.after(LEAST_CHECK)
}

fn is_cancelled(checkout: &Checkout<'_>) -> bool {
    checkout.cancel.is_some_and(CancelToken::is_cancelled)
}

impl<M: ManageConnection> Shared<M> {
    /// A get that the fast path could not serve.
    pub(crate) fn checkout(self: &Arc<Self>, checkout: &Checkout<'_>) -> Got<M> {
        if let Some(got) = self.overtake_or_refuse(checkout) {
            return got;
        }
        let got = self.enqueue_and_wait(checkout);
        self.notify_timeout(checkout, &got);
        got
    }

    /// What ends a get before it comes near the queue.
    pub(super) fn overtake_or_refuse(self: &Arc<Self>, checkout: &Checkout<'_>) -> Option<Got<M>> {
        // Overtakes waiters, if the fairness bound allows it. This is nearly a fast path, so it
        // checks the process as rarely as a fast path does.
        if self.fast_path(self.clock.recently()) != FastPath::Forked && !is_cancelled(checkout) {
            let overtake = |core: &mut PoolCore<M>| core.overtake(checkout.start, &checkout.caller);
            if let Some(lease) = self.try_core(overtake).flatten() {
                return Some(Ok(lease));
            }
        }
        if self.process.is_forked() {
            return Some(Err(self.forked()));
        }
        if is_cancelled(checkout) {
            let kind = ErrorKind::Cancelled;
            self.transition_here(|core, fx| core.refuse(kind, fx.now, checkout.caller.clone()));
            let refusal = Refusal::of(self, ErrorKind::Cancelled, checkout.start);
            return Some(Err(refusal.into_error(checkout.caller.label())));
        }
        None
    }

    pub(super) fn notify_timeout(&self, checkout: &Checkout<'_>, got: &Got<M>) {
        if let Err(error) = got
            && error.is_timeout()
            && !checkout.only_idle
        {
            let event = TimeoutEvent { timeout: checkout.deadline.since(checkout.start) };
            self.notify("handle_timeout", |handler| handler.handle_timeout(event));
        }
    }

    #[cold]
    pub(crate) fn enqueue_and_wait(self: &Arc<Self>, checkout: &Checkout<'_>) -> Got<M> {
        // A caller that may be cancelled leaves checks to workers: a cancel ends a wait at once,
        // but no check.
        let may_check = checkout.cancel.is_none();
        let mut arrival = Arrival { get_id: 0, since: Time::START };
        let outcome = self.transition_here(|core, fx| {
            arrival = core.arrive(fx.now);
            self.enqueue(core, checkout, arrival, may_check, fx)
        });
        match outcome {
            Outcome::Taken(lease) => Ok(lease),
            Outcome::Claimed(lease) => {
                self.times.record(Timed::Wait, Duration::ZERO, 1);
                Ok(lease)
            }
            Outcome::Refused(refusal) => Err(refusal.into_error(checkout.caller.label())),
            Outcome::Enqueued(id, cell) => {
                let wait = || self.await_answer(checkout, id, &cell);
                self.report_wait(checkout, arrival.get_id, &wait)
            }
            Outcome::MayCheck => {
                let wait = || self.check_or_wait(checkout, arrival);
                self.report_wait(checkout, arrival.get_id, &wait)
            }
        }
    }

    /// Checks idle connections on this thread until one is fit, or joins the queue.
    fn check_or_wait(self: &Arc<Self>, checkout: &Checkout<'_>, arrival: Arrival) -> Got<M> {
        let priority = checkout.caller.priority();
        loop {
            let checks_here = self.checks_here();
            let step = self.transition_here(|core, fx| {
                if checks_here
                    && has_time_to_check(checkout, fx.now)
                    && core.may_check(arrival, priority, fx.now)
                {
                    return Err(core.take_to_check(fx));
                }
                Ok(self.enqueue(core, checkout, arrival, false, fx))
            });
            match step {
                Ok(Outcome::Taken(lease) | Outcome::Claimed(lease)) => return Ok(lease),
                Ok(Outcome::Refused(refusal)) => {
                    return Err(refusal.into_error(checkout.caller.label()));
                }
                Ok(Outcome::Enqueued(id, cell)) => return self.await_answer(checkout, id, &cell),
                Ok(Outcome::MayCheck) => {}
                Err(lease) => {
                    if let Some(lease) = self.check_here(lease, checkout, arrival) {
                        return Ok(lease);
                    }
                }
            }
        }
    }

    /// Takes what is there, or joins the queue. A caller without time leaves the queue at
    /// once: its need is known then, to the benefit of later callers.
    pub(super) fn enqueue(
        &self,
        core: &mut PoolCore<M>,
        checkout: &Checkout<'_>,
        arrival: Arrival,
        may_check: bool,
        fx: &mut Effects<Runtime<M>>,
    ) -> Outcome<M> {
        let (now, caller, priority) = (fx.now, &checkout.caller, checkout.caller.priority());
        if let Some(lease) = core.acquire(arrival, priority, caller, fx) {
            return Outcome::Taken(lease);
        }
        let has_time = checkout.deadline > now;
        if may_check && has_time_to_check(checkout, now) && core.may_check(arrival, priority, now) {
            return Outcome::MayCheck;
        }
        let refuse = |core: &mut PoolCore<M>, kind| {
            Outcome::Refused(Refusal::collect(self, core, kind, now, checkout.start))
        };
        if checkout.only_idle && !core.may_await_check(arrival, priority, now) {
            return refuse(core, ErrorKind::Timeout);
        }
        if !has_time && core.refuses_without_time(now) {
            core.refuse(ErrorKind::Timeout, now, caller.clone());
            return refuse(core, ErrorKind::Timeout);
        }
        let is_task = checkout.is_task;
        let cell = Arc::new(if is_task { WaitCell::of_task() } else { WaitCell::new() });
        let waiter = Waiter {
            get_id: arrival.get_id,
            since: arrival.since,
            priority,
            caller: caller.clone(),
            cell: Arc::clone(&cell),
            only_idle: checkout.only_idle,
            // A get that does not really wait cannot deadlock.
            nested: !is_task && !checkout.only_idle && has_time && thread::holds_used(),
            task: is_task.then_some(checkout.deadline),
            context: checkout.context.clone(),
        };
        match core.join(waiter, fx) {
            Err(kind) => refuse(core, kind),
            Ok(id) if !has_time => match core.claim(id, fx) {
                Some(lease) => Outcome::Claimed(lease),
                None if core.leave(id, ErrorKind::Timeout, fx) => refuse(core, ErrorKind::Timeout),
                None => Outcome::Enqueued(id, cell),
            },
            Ok(id) => Outcome::Enqueued(id, cell),
        }
    }

    /// Waits, and reports the wait on the caller's thread, so within the caller's own trace.
    fn report_wait(
        self: &Arc<Self>,
        checkout: &Checkout<'_>,
        get_id: u64,
        wait: &dyn Fn() -> Got<M>,
    ) -> Got<M> {
        #[cfg(feature = "tracing")]
        let span =
            super::span::WaitSpan::begin(&self.logger, &self.config.name, &checkout.caller, get_id);
        let got = wait();
        let (_waited, _connection_id) = self.record_wait(checkout, get_id, &got);
        #[cfg(feature = "tracing")]
        {
            span.record(&self.logger, _waited, _connection_id, got.as_ref().err());
            span.end(&self.logger);
        }
        got
    }

    /// Records a wait that has ended, and logs it if it was slow. Returns how long it was, and
    /// which connection it has brought.
    pub(super) fn record_wait(
        &self,
        checkout: &Checkout<'_>,
        get_id: u64,
        got: &Got<M>,
    ) -> (Duration, Option<u64>) {
        let now = self.clock.now();
        let waited = now.since(checkout.start);
        self.times.record(Timed::Wait, waited, 1);
        let connection_id = got.as_ref().map(|lease| lease.conn.id).ok();
        if let Some(slow) = self.config.slow_get_threshold
            && waited >= slow
            && let Some(suppressed) = self.slow_gets.admit(now)
        {
            self.log_slow_get(checkout, get_id, waited, connection_id, suppressed);
        }
        (waited, connection_id)
    }

    /// Blocks until there is an answer, or until the deadline.
    fn await_answer(
        self: &Arc<Self>,
        checkout: &Checkout<'_>,
        id: WaiterId,
        cell: &PoolCell<M>,
    ) -> Got<M> {
        self.keep_probing();
        let deadline = self.clock.instant_of(checkout.deadline);
        // Dropped on every way out, so that a token does not collect dead waits.
        let _registration = checkout.cancel.map(|token| self.register_cancel(token, id));
        loop {
            let until = self.executor.sleep_limit(deadline);
            match cell.wait_until(until) {
                Some(Answer::Granted(lease)) => return Ok(lease),
                Some(Answer::Nudged) => {
                    if let Some(lease) = self.transition_here(|core, fx| core.claim(id, fx)) {
                        return Ok(lease);
                    }
                }
                Some(Answer::Failed(kind, cause)) => {
                    let refusal = Refusal::of(self, kind, checkout.start);
                    return Err(refusal.caused_by(cause).into_error(checkout.caller.label()));
                }
                Some(Answer::SelfDeadlock(nested)) => {
                    let refusal = Refusal::of(self, ErrorKind::SelfDeadlock, checkout.start);
                    return Err(refusal.with_nested(nested).into_error(checkout.caller.label()));
                }
                None if until != deadline => self.ensure_reaper(),
                None => match self.withdraw(checkout, id) {
                    Some(got) => return got,
                    // Answered at the same instant: decided under the lock, so the answer is
                    // in the cell, and it wins over the deadline.
                    None => debug_assert!(cell.is_filled(), "BUG: left without an answer"),
                },
            }
        }
    }

    /// Leaves the queue at the deadline. Before that it claims an idle connection, even one
    /// that another waiter was nudged for and has not claimed yet. `None`: an answer came
    /// first.
    fn withdraw(self: &Arc<Self>, checkout: &Checkout<'_>, id: WaiterId) -> Option<Got<M>> {
        let (lease, refusal) = self.transition_here(|core, fx| {
            let lease = core.claim(id, fx);
            // Read before this caller leaves: it may be one of them.
            let nested = core.self_deadlock(fx.now);
            let left = lease.is_none() && core.leave(id, ErrorKind::Timeout, fx);
            let refusal = left.then(|| {
                Refusal::collect(self, core, ErrorKind::Timeout, fx.now, checkout.start)
                    .with_nested(nested)
            });
            (lease, refusal)
        });
        let refused = refusal.map(|refusal| Err(refusal.into_error(checkout.caller.label())));
        lease.map(Ok).or(refused)
    }

    /// Lets the waiter leave when its token is cancelled; at once if it was before.
    pub(super) fn register_cancel(
        self: &Arc<Self>,
        token: &CancelToken,
        id: WaiterId,
    ) -> Option<Registration> {
        let cancel = move |shared: &Arc<Shared<M>>| {
            shared.transition(|core, fx| core.leave(id, ErrorKind::Cancelled, fx));
        };
        let of_token = Arc::clone(self);
        let registration = token.register(Box::new(move || cancel(&of_token)));
        if registration.is_none() {
            cancel(self);
        }
        registration
    }

    #[cold]
    fn log_slow_get(
        &self,
        checkout: &Checkout<'_>,
        get_id: u64,
        waited: Duration,
        connection_id: Option<u64>,
        suppressed: u64,
    ) {
        let call_site = CallSite::from(&checkout.caller);
        let location = call_site.location().to_string();
        let key_values = [
            ("get_id", get_id.into()),
            ("thread", call_site.thread().into()),
            ("location", location.as_str().into()),
            ("waited_ms", millis(waited).into()),
            ("connection_id", connection_id.unwrap_or_default().into()),
        ];
        let outcome = if connection_id.is_some() { "got a connection" } else { "got none" };
        let others = match suppressed {
            0 => String::new(),
            more => format!("; {more} more slow gets since the last such line"),
        };
        self.logger.log(
            Level::Warn,
            &key_values,
            format_args!("slow get: {call_site} {outcome} after {waited:.1?}{others}"),
        );
    }
}
