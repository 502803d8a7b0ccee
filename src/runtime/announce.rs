//! Announces what the pool reports by itself: to the log, the subscribers and the event
//! handler, in this one place.

use std::fmt;
use std::time::Duration;

use log::Level;
use log::kv::Value;

use super::logger::millis;
use super::notifications::Notification;
use super::shared::Shared;
use crate::core::{CallKind, Reason, Time};
use crate::types::{
    Chain, EventKind, Health, HealthEvent, HealthLevel, Holder, LeakEvent, ManageConnection,
    NestedGet, NestedList, SelfDeadlockEvent,
};

impl<M: ManageConnection> Shared<M> {
    /// Announces all pending notifications. Runs on a worker.
    pub(crate) fn announce_all(&self) {
        while let Some((at, notification, lost)) = self.notifications.next() {
            self.announce(at, notification);
            if lost > 0 {
                self.logger.log(
                    Level::Warn,
                    &[],
                    format_args!(
                        "{lost} notifications were lost: an event handler or the logger was blocked"
                    ),
                );
                self.lose_events(lost);
            }
        }
        self.end_events_when_done();
        self.notify_progress();
    }

    fn announce(&self, at: Time, notification: Notification) {
        match notification {
            Notification::Leak(holder) => self.announce_leak(at, holder),
            Notification::LeakEnded(holder) => self.announce_leak_end(at, holder),
            Notification::SelfDeadlock(nested) => self.announce_self_deadlock(at, nested),
            Notification::Outage(cause) => {
                let text = match &cause {
                    Some(cause) => Chain(&**cause).to_string(),
                    None => "the driver's connect does not return".to_string(),
                };
                // This may be the last reference, and the destructor is the driver's.
                self.drop_error(cause);
                self.logger.log(Level::Error, &[], format_args!("connecting fails: {text}"));
                self.publish(at, || EventKind::Outage(text));
            }
            Notification::OutageEnded { failures, lasted } => {
                self.logger.log(
                    Level::Info,
                    &[("failures", failures.into()), ("lasted_ms", millis(lasted).into())],
                    format_args!(
                        "connecting succeeds again, after {lasted:.1?} and {failures} failures"
                    ),
                );
                self.publish(at, || EventKind::OutageEnded { failures, lasted });
            }
            Notification::Doubt { connection_id, reason, idle } => {
                self.announce_doubt(at, connection_id, reason, idle);
            }
            Notification::Abandoned { kind, connection_id, after } => {
                self.announce_abandoned(at, kind, connection_id, after);
            }
            Notification::Health { from, health } => self.announce_health(at, from, health),
        }
    }

    fn announce_leak(&self, at: Time, holder: Holder) {
        self.log_holder(&holder, format_args!("a connection may be leaked: held by {holder}"));
        self.publish(at, || EventKind::Leak(holder.clone()));
        self.notify("handle_leak", |handler| handler.handle_leak(LeakEvent { holder }));
    }

    fn announce_leak_end(&self, at: Time, holder: Holder) {
        self.log_holder(
            &holder,
            format_args!("not a leak: a connection came back, held by {holder}"),
        );
        self.publish(at, || EventKind::LeakEnded(holder.clone()));
        self.notify("handle_leak_end", |handler| handler.handle_leak_end(LeakEvent { holder }));
    }

    fn announce_self_deadlock(&self, at: Time, nested: Vec<NestedGet>) {
        self.logger.log(Level::Warn, &[], format_args!("{}", NestedList(&nested)));
        self.publish(at, || EventKind::SelfDeadlock(nested.clone()));
        self.notify("handle_self_deadlock", |handler| {
            handler.handle_self_deadlock(SelfDeadlockEvent { nested });
        });
    }

    /// Once per second at most: each of a burst of errors may cast doubt on what was opened
    /// since the one before. Only to the log: subscribers see the connection that is retired.
    fn announce_doubt(&self, at: Time, connection_id: u64, reason: Reason, idle: u32) {
        let Some(suppressed) = self.doubts.admit(at) else { return };
        let more = match suppressed {
            0 => String::new(),
            more => format!("; {more} more such reports since the last one"),
        };
        let connections = if idle == 1 { "connection is" } else { "connections are" };
        self.logger.log(
            Level::Info,
            &[
                ("connection_id", connection_id.into()),
                ("reason", Value::from_display(&reason)),
                ("idle", idle.into()),
            ],
            format_args!(
                "connection {connection_id} is {reason}: {idle} idle {connections} checked before \
                 the next use{more}"
            ),
        );
    }

    fn announce_abandoned(&self, at: Time, call: CallKind, connection_id: u64, after: Duration) {
        let connection_id = (connection_id != 0).then_some(connection_id);
        let of = connection_id.map(|id| format!(" of connection {id}")).unwrap_or_default();
        self.logger.log(
            Level::Warn,
            &[
                ("call", Value::from_display(&call)),
                ("connection_id", connection_id.unwrap_or_default().into()),
                ("after_ms", millis(after).into()),
            ],
            format_args!("the {call}{of} was abandoned: it has not returned for {after:.1?}"),
        );
        self.publish(at, || EventKind::Abandoned { call, connection_id, after });
    }

    fn announce_health(&self, at: Time, from: HealthLevel, health: Health) {
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
        self.logger.log(level, key_values, format_args!("was {from}, is {health}"));
        self.publish(at, || EventKind::Health { from, health });
        self.notify("handle_health", |handler| {
            handler.handle_health(HealthEvent { from, health });
        });
    }

    fn log_holder(&self, holder: &Holder, message: fmt::Arguments<'_>) {
        let location = holder.location().to_string();
        let key_values: &[_] = &[
            ("connection_id", holder.connection_id().into()),
            ("thread", holder.thread().into()),
            ("location", location.as_str().into()),
            ("held_ms", millis(holder.held_for()).into()),
            ("backend_id", holder.backend_id().unwrap_or_default().into()),
        ];
        self.logger.log(Level::Warn, key_values, message);
    }
}
