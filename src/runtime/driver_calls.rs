//! Calls into the driver, on a worker's thread. Each ends in exactly one event of the
//! core, whatever the driver does.

use log::Level;
use log::kv::Value;

use super::shared::{PoolConn, PoolRef, Runtime, Shared};
use crate::core::{Check, Job, Lease, Leased, Permit, Reason};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::error::Cause;
use crate::types::error_text::{Chain, ErrorText};
use crate::types::handler::{AcquireEvent, ReleaseEvent};
use crate::types::manage::ManageConnection;
use crate::types::times::Timed;

static NEXT_CONNECTION_ID: AtomicU64 = AtomicU64::new(1);

/// Makes one driver call, and passes its result to the core.
pub(crate) fn run<M: ManageConnection>(shared: &Arc<Shared<M>>, job: Job<Runtime<M>>) {
    match job {
        Job::Connect(permit) => connect(shared, permit),
        Job::Check(lease, check) => run_check(shared, lease, check),
        Job::Close(lease, reason) => close(shared, *lease, reason),
    }
}

fn connect<M: ManageConnection>(shared: &Arc<Shared<M>>, permit: Permit) {
    let begun = shared.clock.now();
    let mut value = match call(shared, "connect", || shared.manager.connect()) {
        Ok(value) => value,
        Err(failure) => return connect_failed(shared, permit, failure),
    };
    let customizer = &shared.config.connection_customizer;
    match call(shared, "on_acquire", || customizer.on_acquire(&mut value)) {
        Ok(()) => {
            shared.record_since(Timed::Connect, begun);
            connected(shared, permit, value);
        }
        Err(failure) => {
            // In a guard of its own: a panic within a panic would abort the process.
            let _ = shared.logger.catch_panic("close", || drop(value));
            connect_failed(shared, permit, failure);
        }
    }
}

fn connected<M: ManageConnection>(shared: &Arc<Shared<M>>, permit: Permit, value: M::Connection) {
    let id = NEXT_CONNECTION_ID.fetch_add(1, Ordering::Relaxed);
    if let Some(handler) = &shared.config.event_handler {
        let notify = || handler.handle_acquire(AcquireEvent { id });
        let _ = shared.logger.catch_panic("handle_acquire", notify);
    }
    let pool = Arc::new(PoolRef { shared: Arc::clone(shared) });
    let lease = Leased::new(permit, PoolConn::<M>::new(pool, value, id, shared.clock.now()));
    shared.transition(|core, fx| core.connect_finished(lease, fx));
}

/// Why a driver call failed.
enum Failure<E> {
    Error(E),
    /// Which call panicked, and the panic's message.
    Panic(&'static str, String),
}

fn connect_failed<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    permit: Permit,
    failure: Failure<M::Error>,
) {
    let permanent = match &failure {
        Failure::Error(error) => {
            let is_permanent = || shared.manager.is_permanent(error);
            shared.logger.catch_panic("is_permanent", is_permanent).unwrap_or(false)
        }
        Failure::Panic(..) => false,
    };
    let cause = share(shared, failure);
    shared.transition(|core, fx| core.connect_failed(permit, cause, permanent, fx));
}

fn run_check<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    mut lease: Lease<PoolConn<M>>,
    check: Check,
) {
    let begun = shared.clock.now();
    let result = reset_and_validate(shared, lease.conn.value_mut(), check)
        .map_err(|(reason, failure)| (reason, share(shared, failure)));
    shared.record_since(Timed::Validate, begun);
    if let Err((_, cause)) = &result {
        let id = lease.conn.id;
        let message = format_args!("connection {id} failed its check: {}", Chain(&**cause));
        shared.logger.log(Level::Warn, &[("connection_id", id.into())], message);
    }
    shared.transition(|core, fx| core.check_finished(lease, result, fx));
}

/// Resets and validates, as far as that is due. A failed reset makes the connection
/// broken, a failed validation invalid.
fn reset_and_validate<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    value: &mut M::Connection,
    check: Check,
) -> Result<(), (Reason, Failure<M::Error>)> {
    let manager = &shared.manager;
    if check.reset {
        call(shared, "reset", || manager.reset(value))
            .map_err(|failure| (Reason::Broken, failure))?;
    }
    if check.validate {
        let limit = shared.config.policy.validation_limit;
        call(shared, "is_valid", || manager.is_valid_within(value, limit))
            .map_err(|failure| (Reason::Invalid, failure))?;
    }
    Ok(())
}

fn close<M: ManageConnection>(shared: &Arc<Shared<M>>, lease: Leased<PoolConn<M>>, reason: Reason) {
    let Leased { permit, mut conn, .. } = lease;
    shared.logger.log(
        Level::Debug,
        &[("connection_id", conn.id.into()), ("reason", Value::from_debug(&reason))],
        format_args!("closing connection {}: {reason:?}", conn.id),
    );
    if let Some(handler) = &shared.config.event_handler {
        let event = ReleaseEvent { id: conn.id, age: shared.ago(conn.opened_at) };
        let notify = || handler.handle_release(event);
        let _ = shared.logger.catch_panic("handle_release", notify);
    }
    // The state moves under the close mutex. The driver closes after it is released.
    if let Some(value) = conn.take() {
        let customizer = &shared.config.connection_customizer;
        let begun = shared.clock.now();
        let _ = shared.logger.catch_panic("close", || customizer.on_release(value));
        shared.record_since(Timed::Close, begun);
        conn.close.finish();
        conn.close.bury();
    }
    shared.drop_extensions(&mut conn);
    drop(conn);
    shared.transition(|core, fx| core.close_finished(permit, fx));
}

fn call<M: ManageConnection, R>(
    shared: &Shared<M>,
    what: &'static str,
    call: impl FnOnce() -> Result<R, M::Error>,
) -> Result<R, Failure<M::Error>> {
    match shared.logger.catch_panic(what, call) {
        Ok(result) => result.map_err(Failure::Error),
        Err(message) => Err(Failure::Panic(what, message)),
    }
}

/// Shows an error to the error handler, and keeps it for the callers; or its text, if
/// the handler takes the error.
fn share<M: ManageConnection>(shared: &Arc<Shared<M>>, failure: Failure<M::Error>) -> Cause {
    let error = match failure {
        Failure::Error(error) => error,
        Failure::Panic(what, message) => {
            return Arc::new(ErrorText::new(&format!("{what} panicked: {message}")));
        }
    };
    let handler = &shared.config.error_handler;
    let inspected = shared.logger.catch_panic("inspect_error", || handler.inspect_error(&error));
    if inspected == Ok(false) {
        let text = ErrorText::of(&error);
        let _ = shared.logger.catch_panic("handle_error", || handler.handle_error(error));
        return Arc::new(text);
    }
    Arc::new(error)
}
