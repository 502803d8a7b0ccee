//! Calls into the driver: on a worker's thread, or a check on its caller's. Each ends in
//! exactly one event of the core, whatever the driver does.

use std::time::Duration;

use log::Level;
use log::kv::Value;

use super::conn::{Failed, Failure, Unfinished};
use super::shared::{PoolConn, PoolCore, PoolJob, PoolLease, PoolRef, Runtime, Shared};
use super::wait::Checkout;
use crate::core::{Arrival, Check, Job, Lease, Leased, Permit, Reason, Time};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::{
    AcquireEvent, CallLimits, CallSite, Caller, Cause, Chain, ContextValue, ErrorText, HandleUse,
    ManageConnection, ReleaseEvent, Timed, UseContext,
};

/// A driver may notice a little early that a check has taken its time.
const EARLY: Duration = Duration::from_millis(5);

/// While callers have left this many checks to workers that are not finished, no caller begins one
/// of its own. (Callers that begin at the same time may leave more.)
const CHECKS_LEFT_AT_ONCE: u64 = 4;

static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

impl<M: ManageConnection> Shared<M> {
    /// Makes one driver call, and passes its result to the core.
    pub(crate) fn run_call(self: &Arc<Self>, job: Job<Runtime<M>>) {
        match job {
            Job::Connect(permit) => self.connect(permit),
            Job::Check(lease, check) => self.run_check(lease, check),
            Job::Begin(lease, caller, value) => self.begin_use(lease, &caller, value),
            Job::Close(lease, reason) => self.close_connection(*lease, reason),
        }
    }

    /// Lets the manager compare its limits with the pool's, and logs what does not fit.
    pub(crate) fn check_limits(&self) {
        let policy = &self.config.policy;
        let limits = CallLimits {
            open: policy.open_limit,
            validation: policy.validation_limit,
            reset: policy.reset_limit,
            close: policy.close_limit,
        };
        let check = || self.manager.check_limits(&limits);
        for misfit in self.logger.catch_panic("check_limits", check).unwrap_or_default() {
            self.logger.log(Level::Warn, &[], format_args!("{misfit}"));
        }
    }

    fn connect(self: &Arc<Self>, permit: Permit) {
        let begun = self.clock.now();
        let mut value = match self.call_driver("connect", || self.manager.connect()) {
            Ok(value) => value,
            Err(failure) => return self.connect_failed(permit, failure),
        };
        let customizer = &self.config.connection_customizer;
        match self.call_driver("on_acquire", || customizer.on_acquire(&mut value)) {
            Ok(()) => {
                let customized = || self.manager.customized(&mut value);
                let _ = self.logger.catch_panic("customized", customized);
                self.record_since(Timed::Connect, begun);
                self.connected(permit, value);
            }
            Err(failure) => {
                // In a guard of its own: a panic within a panic would abort the process.
                let _ = self.logger.catch_panic("close", || drop(value));
                self.connect_failed(permit, failure);
            }
        }
    }

    fn connected(self: &Arc<Self>, permit: Permit, mut value: M::Connection) {
        let backend_id = || self.manager.backend_id(&mut value);
        let backend_id = self.logger.catch_panic("backend_id", backend_id).unwrap_or(None);
        let backend_id = backend_id.filter(|&id| id != 0);
        let id = NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed);
        let event = AcquireEvent { id, backend_id };
        self.notify("handle_acquire", |handler| handler.handle_acquire(event));
        let pool = Arc::new(PoolRef { shared: Arc::clone(self) });
        // The odd factor lets consecutive numbers differ in all bits.
        let seed = self.config.policy.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let conn = PoolConn::<M>::new(pool, value, (id, backend_id), self.clock.now(), seed);
        let lease = Leased::new(permit, conn);
        self.give_back(|core, fx| core.connect_finished(lease, fx));
    }
}

impl<M: ManageConnection> Shared<M> {
    fn connect_failed(self: &Arc<Self>, permit: Permit, failure: Failure<M::Error>) {
        let permanent = match &failure {
            Failure::Error(error) => {
                let is_permanent = || self.manager.is_permanent(error);
                self.logger.catch_panic("is_permanent", is_permanent).unwrap_or(false)
            }
            Failure::Panic(..) => false,
        };
        let cause = self.cause_of(failure);
        self.give_back(|core, fx| core.connect_failed(permit, cause, permanent, fx));
        if !self.process.is_forked() {
            self.keep_probing();
        }
    }

    fn run_check(self: &Arc<Self>, mut lease: Lease<PoolConn<M>>, check: Check) {
        let begun = self.clock.now();
        let result = self.reset_and_validate(&mut lease, check);
        self.end_check(lease, begun, result);
    }

    /// Whether a check may run on this thread, a caller's. Not if workers have several to finish:
    /// each would take another thread.
    pub(crate) fn checks_here(&self) -> bool {
        if self.checks_left.load(Ordering::Relaxed) >= CHECKS_LEFT_AT_ONCE {
            return false;
        }
        let keeps_limit = || self.manager.checks_within_limit();
        self.logger.catch_panic("checks_within_limit", keeps_limit).unwrap_or(false)
    }

    /// Validates a connection on the thread of the caller that is to get it, for as long as a
    /// waiter would count on a check by a worker at most; or as long as checks may take, if the
    /// caller waits for nothing else. Everything but success is left to a worker: the log, the
    /// error handler and an error's destructor are user code, which may take long.
    pub(crate) fn check_here(
        self: &Arc<Self>,
        mut lease: PoolLease<M>,
        checkout: &Checkout<'_>,
        arrival: Arrival,
    ) -> Option<PoolLease<M>> {
        let begun = self.clock.now();
        let share = self.validation_share();
        let left = checkout.deadline.since(begun);
        let patience = self.config.policy.check_patience;
        let limit = share.min(left).min(if checkout.only_idle { share } else { patience });
        let rest = match self.validate(&mut lease, limit) {
            Ok(()) => {
                self.record_since(Timed::Validate, begun);
                let (caller, priority) = (&checkout.caller, checkout.caller.priority());
                return self.transition_here(|core, fx| {
                    core.take_checked(lease, arrival, priority, caller, fx)
                });
            }
            // Out of the caller's time, which says nothing of the connection: a worker goes on.
            Err(failed)
                if limit < share && failed.is_error() && self.ago(begun) + EARLY >= limit =>
            {
                Unfinished::Validation(failed)
            }
            Err(failed) => {
                // Before this caller takes another that is no better.
                let doubt = |core: &mut PoolCore<M>, fx: &mut _| {
                    core.proved_dead(&lease.permit, failed.reason, fx);
                };
                self.transition_here(doubt);
                Unfinished::Failure(failed)
            }
        };
        self.checks_left.fetch_add(1, Ordering::Relaxed);
        self.submit(PoolJob::RestOfCheck(lease, begun, rest));
        None
    }

    /// Finishes a check that a caller has begun on its own thread.
    pub(crate) fn finish_check(
        self: &Arc<Self>,
        mut lease: PoolLease<M>,
        begun: Time,
        rest: Unfinished<M::Error>,
    ) {
        let result = match rest {
            Unfinished::Failure(failed) => Err(failed),
            Unfinished::Validation(failed) => {
                self.drop_error(failed);
                let left = self.validation_share().saturating_sub(self.ago(begun));
                self.validate(&mut lease, left)
            }
        };
        self.end_check(lease, begun, result);
        self.checks_left.fetch_sub(1, Ordering::Relaxed);
    }

    fn end_check(
        self: &Arc<Self>,
        lease: PoolLease<M>,
        begun: Time,
        result: Result<(), Failed<M::Error>>,
    ) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(Failed { reason, failure, level }) => {
                let (id, cause) = (lease.conn.id, self.cause_of(failure));
                self.logger.log(
                    level,
                    &[("connection_id", id.into())],
                    format_args!("connection {id} failed its check: {}", Chain(&*cause)),
                );
                Err((reason, cause))
            }
        };
        self.record_since(Timed::Validate, begun);
        self.give_back(|core, fx| core.check_finished(lease, result, fx));
    }

    /// Ends the use, resets and validates, as far as that is due. A failed reset makes the connection
    /// broken, a failed validation invalid.
    fn reset_and_validate(
        self: &Arc<Self>,
        lease: &mut Leased<PoolConn<M>>,
        check: Check,
    ) -> Result<(), Failed<M::Error>> {
        let manager = &self.manager;
        let reset_after_end = check.end && self.end_use(lease)?;
        if check.reset || reset_after_end {
            let result = self.call_driver("reset", || manager.reset(lease.conn.value_mut()));
            // What was left behind is in a warning of its own, once per second at most.
            let level = if self.warn_of_leftovers(lease) { Level::Debug } else { Level::Warn };
            result.map_err(|failure| Failed { reason: Reason::Broken, failure, level })?;
        }
        if check.validate {
            self.validate(lease, self.validation_share())?;
        }
        Ok(())
    }

    /// Begins the use of the caller that is to have this connection.
    fn begin_use(self: &Arc<Self>, mut lease: PoolLease<M>, caller: &Caller, value: ContextValue) {
        let begun = self.clock.now();
        let context = UseContext::new(caller, value);
        let value = lease.conn.value_mut();
        let result = self.call_driver("begin", || self.use_handler().begin(value, &context));
        self.record_since(Timed::Validate, begun);
        let mut context = Some(Box::new(context));
        let result = result.map_err(|failure| {
            let reason = self.reason_of_use(&failure);
            let (id, cause) = (lease.conn.id, self.cause_of(failure));
            // Who is refused gets the error. Of a dead connection nobody else says anything.
            let level = if reason == Reason::Broken { Level::Warn } else { Level::Debug };
            self.logger.log(
                level,
                &[("connection_id", id.into())],
                format_args!("no use of connection {id} has begun: {}", Chain(&*cause)),
            );
            (reason, cause)
        });
        if result.is_ok() && self.config.policy.ends_uses {
            lease.conn.context = context.take();
        }
        self.give_back(|core, fx| core.use_begun(lease, result, fx));
        self.drop_context(context);
    }

    /// Ends the use of whoever had this connection. Returns whether a reset is due then.
    fn end_use(&self, lease: &mut Leased<PoolConn<M>>) -> Result<bool, Failed<M::Error>> {
        let Some(context) = lease.conn.context.take() else { return Ok(false) };
        let value = lease.conn.value_mut();
        let result = self.call_driver("end", || self.use_handler().end(value, &context));
        self.drop_context(Some(context));
        let ended = result.and_then(|()| {
            let needs_reset = || self.manager.needs_reset(value);
            let needed = self.logger.catch_panic("needs_reset", needs_reset);
            needed.map_err(|message| Failure::Panic("needs_reset", message))
        });
        ended.map_err(|failure| {
            let reason = self.reason_of_use(&failure);
            Failed { reason, failure, level: Level::Warn }
        })
    }

    fn use_handler(&self) -> &dyn HandleUse<M::Connection, M::Error> {
        self.config.use_handler.as_deref().expect("BUG: a use without its handler")
    }

    /// Why a connection ends on which the use handler has failed.
    fn reason_of_use(&self, failure: &Failure<M::Error>) -> Reason {
        let is_dead = match failure {
            Failure::Error(error) => {
                let is_fatal = || self.manager.is_fatal(error);
                self.logger.catch_panic("is_fatal", is_fatal).unwrap_or(true)
            }
            Failure::Panic(..) => false,
        };
        if is_dead { Reason::Broken } else { Reason::UseHandler }
    }

    /// How long the driver's validation may take. A fifth less than the pool's own limit: the
    /// driver must be able to say what is wrong before the pool abandons the call.
    fn validation_share(&self) -> Duration {
        self.config.policy.validation_limit / 5 * 4
    }

    fn validate(
        &self,
        lease: &mut Leased<PoolConn<M>>,
        limit: Duration,
    ) -> Result<(), Failed<M::Error>> {
        let value = lease.conn.value_mut();
        let result = self.call_driver("is_valid", || self.manager.is_valid_within(value, limit));
        result.map_err(|failure| Failed { reason: Reason::Invalid, failure, level: Level::Warn })
    }

    /// Logs what the last holder left behind, once per second at most. Returns whether there
    /// was anything.
    fn warn_of_leftovers(&self, lease: &mut Leased<PoolConn<M>>) -> bool {
        let value = lease.conn.value_mut();
        let found = self.logger.catch_panic("left_behind", || self.manager.left_behind(value));
        let Ok(Some(found)) = found else { return false };
        let Some(suppressed) = self.leftovers.admit(self.clock.now()) else { return true };
        let Some(holder) = self.with_core(|core| core.last_caller(&lease.permit)) else {
            return true;
        };
        let holder = CallSite::from(&holder);
        let (id, location) = (lease.conn.id, holder.location().to_string());
        let more = match suppressed {
            0 => String::new(),
            more => format!("; {more} more came back so since the last such line"),
        };
        self.logger.log(
            Level::Warn,
            &[
                ("connection_id", id.into()),
                ("thread", holder.thread().into()),
                ("location", location.as_str().into()),
            ],
            format_args!("connection {id} came back with {found}: got by {holder}{more}"),
        );
        true
    }

    fn close_connection(self: &Arc<Self>, lease: Leased<PoolConn<M>>, reason: Reason) {
        let Leased { permit, mut conn, .. } = lease;
        self.logger.log(
            Level::Debug,
            &[("connection_id", conn.id.into()), ("reason", Value::from_display(&reason))],
            format_args!("closing connection {}: {reason}", conn.id),
        );
        if !conn.release_notified {
            self.notify_release(self.release_event(&conn));
        }
        self.record_uses(conn.sampler.flush(conn.uses));
        // The state moves under the close mutex. The driver closes after it is released.
        if let Some(value) = conn.take() {
            let customizer = &self.config.connection_customizer;
            let begun = self.clock.now();
            let _ = self.logger.catch_panic("close", || customizer.on_release(value));
            self.record_since(Timed::Close, begun);
            conn.close.finish();
            conn.close.bury();
        }
        self.drop_extensions(&mut conn);
        drop(conn);
        self.give_back(|core, fx| core.close_finished(permit, fx));
    }

    /// The event that this connection leaves the pool.
    pub(crate) fn release_event(&self, conn: &PoolConn<M>) -> ReleaseEvent {
        ReleaseEvent { id: conn.id, age: self.ago(conn.opened_at) }
    }

    pub(crate) fn notify_release(&self, event: ReleaseEvent) {
        self.notify("handle_release", |handler| handler.handle_release(event));
    }

    fn call_driver<R>(
        &self,
        what: &'static str,
        call: impl FnOnce() -> Result<R, M::Error>,
    ) -> Result<R, Failure<M::Error>> {
        match self.logger.catch_panic(what, call) {
            Ok(result) => result.map_err(Failure::Error),
            Err(message) => Err(Failure::Panic(what, message)),
        }
    }

    /// Passes an error to the error handler, and returns it for the waiting callers; or only
    /// its text, if the handler takes the error.
    fn cause_of(self: &Arc<Self>, failure: Failure<M::Error>) -> Cause {
        let error = match failure {
            Failure::Error(error) => error,
            Failure::Panic(what, message) => {
                return Arc::new(ErrorText::new(&format!("{what} panicked: {message}")));
            }
        };
        let handler = &self.config.error_handler;
        let inspected = self.logger.catch_panic("inspect_error", || handler.inspect_error(&error));
        if inspected == Ok(false) {
            let text = ErrorText::of(&error);
            let _ = self.logger.catch_panic("handle_error", || handler.handle_error(error));
            return Arc::new(text);
        }
        Arc::new(error)
    }
}
