//! Announces what the pool reports by itself: to the log, the subscribers and the event
//! handler, in this one place.

use std::fmt;

use log::Level;
use log::kv::Value;

use super::logger::millis;
use super::notifications::Notification;
use super::publish;
use super::shared::Shared;
use crate::core::{CallKind, Time};
use crate::sync::Arc;
use crate::types::error::NestedList;
use crate::types::error_text::Chain;
use crate::types::event::EventKind;
use crate::types::handler::{HandleEvent, HealthEvent, LeakEvent, SelfDeadlockEvent};
use crate::types::health::{Health, HealthLevel};
use crate::types::holder::{Holder, NestedGet};
use crate::types::manage::ManageConnection;

/// Announces all pending notifications. Runs on a worker.
pub(crate) fn run<M: ManageConnection>(shared: &Arc<Shared<M>>) {
    while let Some((at, notification, lost)) = shared.notifications.next() {
        announce(shared, at, notification);
        if lost > 0 {
            let message = format_args!(
                "{lost} notifications were lost: an event handler or the logger was blocked"
            );
            shared.logger.log(Level::Warn, &[], message);
            publish::lose(shared, lost);
        }
    }
    publish::end_when_done(shared);
}

fn announce<M: ManageConnection>(shared: &Arc<Shared<M>>, at: Time, notification: Notification) {
    match notification {
        Notification::Leak(holder) => leak(shared, at, holder),
        Notification::LeakEnded(holder) => leak_ended(shared, at, holder),
        Notification::SelfDeadlock(nested) => self_deadlock(shared, at, nested),
        Notification::Outage(cause) => {
            let text = match &cause {
                Some(cause) => Chain(&**cause).to_string(),
                None => "the driver's connect does not return".to_string(),
            };
            // This may be the last reference, and the destructor is the driver's.
            let _ = shared.logger.catch_panic("dropping an error", || drop(cause));
            shared.logger.log(Level::Error, &[], format_args!("connecting fails: {text}"));
            publish::publish(shared, at, || EventKind::Outage(text));
        }
        Notification::OutageEnded { failures, lasted } => {
            shared.logger.log(
                Level::Info,
                &[("failures", failures.into()), ("lasted_ms", millis(lasted).into())],
                format_args!(
                    "connecting succeeds again, after {lasted:.1?} and {failures} failures"
                ),
            );
            publish::publish(shared, at, || EventKind::OutageEnded { failures, lasted });
        }
        Notification::Abandoned { kind, connection_id, after } => {
            abandoned(shared, at, kind, connection_id, after);
        }
        Notification::Health { from, health } => health_changed(shared, at, from, health),
    }
}

fn leak<M: ManageConnection>(shared: &Arc<Shared<M>>, at: Time, holder: Holder) {
    log_holder(shared, &holder, format_args!("a connection may be leaked: held by {holder}"));
    publish::publish(shared, at, || EventKind::Leak(holder.clone()));
    notify(shared, "handle_leak", |handler| handler.handle_leak(LeakEvent { holder }));
}

fn leak_ended<M: ManageConnection>(shared: &Arc<Shared<M>>, at: Time, holder: Holder) {
    log_holder(
        shared,
        &holder,
        format_args!("not a leak: a connection came back, held by {holder}"),
    );
    publish::publish(shared, at, || EventKind::LeakEnded(holder.clone()));
    notify(shared, "handle_leak_end", |handler| handler.handle_leak_end(LeakEvent { holder }));
}

fn self_deadlock<M: ManageConnection>(shared: &Arc<Shared<M>>, at: Time, nested: Vec<NestedGet>) {
    shared.logger.log(Level::Warn, &[], format_args!("{}", NestedList(&nested)));
    publish::publish(shared, at, || EventKind::SelfDeadlock(nested.clone()));
    notify(shared, "handle_self_deadlock", |handler| {
        handler.handle_self_deadlock(SelfDeadlockEvent { nested });
    });
}

fn abandoned<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    at: Time,
    call: CallKind,
    connection_id: u64,
    after: std::time::Duration,
) {
    let connection_id = (connection_id != 0).then_some(connection_id);
    let of = connection_id.map(|id| format!(" of connection {id}")).unwrap_or_default();
    shared.logger.log(
        Level::Warn,
        &[
            ("call", Value::from_display(&call)),
            ("connection_id", connection_id.unwrap_or_default().into()),
            ("after_ms", millis(after).into()),
        ],
        format_args!("the {call}{of} was abandoned: it has not returned for {after:.1?}"),
    );
    publish::publish(shared, at, || EventKind::Abandoned { call, connection_id, after });
}

fn health_changed<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    at: Time,
    from: HealthLevel,
    health: Health,
) {
    let level = match health.level {
        HealthLevel::Healthy => Level::Info,
        HealthLevel::Warning => Level::Warn,
        HealthLevel::Critical => Level::Error,
    };
    let key_values: &[_] = &[
        ("health", Value::from_display(&health.level)),
        ("waiting", health.waiting.into()),
        ("mean_wait_ms", millis(health.mean_wait).into()),
        ("oldest_wait_ms", millis(health.oldest_wait).into()),
    ];
    shared.logger.log(level, key_values, format_args!("was {from}, is {health}"));
    publish::publish(shared, at, || EventKind::Health { from, health });
    notify(shared, "handle_health", |handler| {
        handler.handle_health(HealthEvent { from, health });
    });
}

fn log_holder<M: ManageConnection>(
    shared: &Shared<M>,
    holder: &Holder,
    message: fmt::Arguments<'_>,
) {
    let location = holder.location().to_string();
    let key_values: &[_] = &[
        ("connection_id", holder.connection_id().into()),
        ("thread", holder.thread().into()),
        ("location", location.as_str().into()),
        ("held_ms", millis(holder.held_for()).into()),
    ];
    shared.logger.log(Level::Warn, key_values, message);
}

fn notify<M: ManageConnection>(
    shared: &Shared<M>,
    method: &str,
    call: impl FnOnce(&dyn HandleEvent),
) {
    if let Some(handler) = shared.config.event_handler.as_deref() {
        let _ = shared.logger.catch_panic(method, || call(handler));
    }
}
