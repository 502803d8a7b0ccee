//! What a pool says unasked: connections held too long, threads that wait for
//! themselves, connects that fail, driver calls that were abandoned, its health.
//! One place tells the log, the handler and the subscribers.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use log::Level;
use log::kv::Value;

use crate::types::caller::{Holder, NestedGet};
use crate::runtime::conn::Kind;
use crate::core::{CallKind, Notice, Time};
use crate::types::error::{Cause, Chain, Nested};
use crate::types::event::{EventKind, HandleEvent, HealthEvent, LeakEvent, SelfDeadlockEvent};
use crate::runtime::health::{Health, HealthLevel};
use crate::types::manage::ManageConnection;
use crate::runtime::shared::Shared;
use crate::sync::Mutex;

/// So many wait to be told at the most. There are that many only if the handler,
/// or the logger, hangs.
const MOST_UNTOLD: usize = 1000;

/// What has not been told yet. A worker tells it, one at a time and in order: the
/// thread on which it came up may be the reaper, which nobody must hold up, or
/// somebody's who is to wait until a deadline.
pub(crate) struct Notices(Mutex<Untold>);

struct Untold {
    notices: VecDeque<(Time, Told)>,
    /// How many more there were.
    lost: usize,
    /// There is a worker that tells them, or will.
    has_teller: bool,
}

/// A notice with the names of its threads, which may have ended when it is told.
pub(crate) enum Told {
    Leak(Holder),
    LeakEnded(Holder),
    SelfDeadlock(Vec<NestedGet>),
    Outage(Option<Cause>),
    OutageEnded { failures: u32, lasted: Duration },
    Abandoned { kind: CallKind, connection_id: u64, after: Duration },
    Health { from: HealthLevel, health: Health },
}

impl<M: ManageConnection> From<Notice<Kind<M>>> for Told {
    fn from(notice: Notice<Kind<M>>) -> Told {
        match notice {
            Notice::Leak(held) => Told::Leak(held.into()),
            Notice::LeakEnded(held) => Told::LeakEnded(held.into()),
            Notice::SelfDeadlock(waits) => {
                Told::SelfDeadlock(waits.into_iter().map(NestedGet::from).collect())
            }
            Notice::Outage(cause) => Told::Outage(cause),
            Notice::OutageEnded { failures, lasted } => Told::OutageEnded { failures, lasted },
            Notice::Abandoned { kind, connection_id, after } => {
                Told::Abandoned { kind, connection_id, after }
            }
        }
    }
}

/// What became of new notices.
#[must_use = "a teller that is not sent for tells nothing"]
pub(crate) struct Added {
    /// A teller has to be sent for.
    pub(crate) tell: bool,
    /// Those for which there was no room: to be dropped outside of every lock, since
    /// a driver's error may be among them.
    pub(crate) lost: Vec<Told>,
}

impl Notices {
    pub(crate) fn new() -> Notices {
        Notices(Mutex::new(Untold { notices: VecDeque::new(), lost: 0, has_teller: false }))
    }

    /// Called under the pool's lock, so that notices are told in the order in which
    /// things happened.
    pub(crate) fn add<M: ManageConnection>(
        &self,
        new: Vec<Notice<Kind<M>>>,
        now: Time,
    ) -> Option<Added> {
        if new.is_empty() { None } else { Some(self.add_all(new.into_iter().map(Told::from), now)) }
    }

    pub(crate) fn add_one(&self, notice: Told, now: Time) -> Added {
        self.add_all([notice], now)
    }

    fn add_all(&self, new: impl IntoIterator<Item = Told>, now: Time) -> Added {
        let mut no_room = Vec::new();
        let mut untold = self.0.lock();
        for notice in new {
            match untold.notices.len() {
                MOST_UNTOLD.. => no_room.push(notice),
                _ => untold.notices.push_back((now, notice)),
            }
        }
        untold.lost += no_room.len();
        let tell = !std::mem::replace(&mut untold.has_teller, true);
        Added { tell, lost: no_room }
    }

    /// Whether there is nothing to tell, and nobody who tells it.
    pub(crate) fn are_told(&self) -> bool {
        !self.0.lock().has_teller
    }

    /// The next one, and how many were lost after it; the teller is done when
    /// there is none.
    fn next(&self) -> Option<(Time, Told, usize)> {
        let mut untold = self.0.lock();
        let next = untold.notices.pop_front();
        untold.has_teller = next.is_some();
        let lost = if untold.notices.is_empty() { std::mem::take(&mut untold.lost) } else { 0 };
        next.map(|(at, notice)| (at, notice, lost))
    }
}

impl<M: ManageConnection> Shared<M> {
    /// Tells all there is to tell.
    pub(crate) fn tell_owner(&self) {
        while let Some((at, notice, lost)) = self.notices.next() {
            self.announce(at, notice);
            if lost > 0 {
                let reason = "since the handler of one did not return for so long";
                self.say(Level::Warn, &[], format_args!("{lost} notices were lost, {reason}"));
                self.miss(lost);
            }
        }
        self.end_when_all_is_told();
    }

    /// Says it to the log, to the subscribers and to the handler.
    fn announce(&self, at: Time, notice: Told) {
        match notice {
            Told::Leak(holder) => {
                self.say_of(&holder, format_args!("a connection may be leaked: held by {holder}"));
                self.publish(at, || EventKind::Leak(holder.clone()));
                let event = LeakEvent { holder };
                self.tell("handle_leak", |handler| handler.handle_leak(event));
            }
            Told::LeakEnded(holder) => {
                self.say_of(&holder, format_args!("it was not leaked, but held by {holder}"));
                self.publish(at, || EventKind::LeakEnded(holder.clone()));
                let event = LeakEvent { holder };
                self.tell("handle_leak_end", |handler| handler.handle_leak_end(event));
            }
            Told::SelfDeadlock(nested) => {
                self.say(Level::Warn, &[], format_args!("{}", Nested(&nested)));
                self.publish(at, || EventKind::SelfDeadlock(nested.clone()));
                let event = SelfDeadlockEvent { nested };
                self.tell("handle_self_deadlock", |handler| handler.handle_self_deadlock(event));
            }
            Told::Outage(cause) => {
                let text = match &cause {
                    Some(cause) => Chain(&**cause).to_string(),
                    None => "the driver's connect does not return".to_string(),
                };
                // Nobody else may have it any more, and its destructor is the driver's.
                let _ = self.contain("dropping an error", || drop(cause));
                self.say(Level::Error, &[], format_args!("connecting fails: {text}"));
                self.publish(at, || EventKind::Outage(text));
            }
            Told::OutageEnded { failures, lasted } => {
                self.say(
                    Level::Info,
                    &[("failures", failures.into()), ("lasted_ms", millis(lasted).into())],
                    format_args!(
                        "connecting succeeds again, {lasted:.1?} and {failures} failures later"
                    ),
                );
                self.publish(at, || EventKind::OutageEnded { failures, lasted });
            }
            Told::Abandoned { kind, connection_id, after } => {
                let connection_id = (connection_id != 0).then_some(connection_id);
                let of = connection_id.map(|id| format!(" of connection {id}")).unwrap_or_default();
                let facts: &[_] = &[
                    ("call", Value::from_display(&kind)),
                    ("connection_id", connection_id.unwrap_or_default().into()),
                    ("after_ms", millis(after).into()),
                ];
                self.say(
                    Level::Warn,
                    facts,
                    format_args!(
                        "the {kind}{of} was abandoned: it has not returned for {after:.1?}"
                    ),
                );
                self.publish(at, || EventKind::Abandoned { call: kind, connection_id, after });
            }
            Told::Health { from, health } => {
                let level = match health.level {
                    HealthLevel::Healthy => Level::Info,
                    HealthLevel::Warning => Level::Warn,
                    HealthLevel::Critical => Level::Error,
                };
                let facts: &[_] = &[
                    ("health", Value::from_display(&health.level)),
                    ("waiting", health.waiting.into()),
                    ("mean_wait_ms", millis(health.mean_wait).into()),
                    ("oldest_wait_ms", millis(health.oldest_wait).into()),
                ];
                self.say(level, facts, format_args!("was {from}, is {health}"));
                self.publish(at, || EventKind::Health { from, health });
                let event = HealthEvent { from, health };
                self.tell("handle_health", |handler| handler.handle_health(event));
            }
        }
    }

    fn say_of(&self, holder: &Holder, what: fmt::Arguments<'_>) {
        let location = holder.location().to_string();
        let facts: &[_] = &[
            ("connection_id", holder.connection_id().into()),
            ("thread", holder.thread().into()),
            ("location", location.as_str().into()),
            ("held_ms", millis(holder.held_for()).into()),
        ];
        self.say(Level::Warn, facts, what);
    }

    fn tell(&self, what: &str, tell: impl FnOnce(&dyn HandleEvent)) {
        if let Some(handler) = self.config.event_handler.as_deref() {
            let _ = self.contain(what, || tell(handler));
        }
    }
}

/// For the log: whole milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
