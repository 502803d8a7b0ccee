//! What the pool reports by itself, until it is announced: leaks, self-deadlocks,
//! outages, doubt, abandoned calls, changes of health.

use std::collections::VecDeque;
use std::time::Duration;

use crate::core::{CallKind, Notice, PoolTypes, Reason, Time};
use crate::sync::Mutex;
use crate::types::{Caller, Cause, Health, HealthLevel, Holder, NestedGet};

/// Capacity of the queue. It fills only if the handler or the logger hangs.
const CAPACITY: usize = 1000;

/// A core's notice, with names of threads, which may have ended when it is announced.
pub(crate) enum Notification {
    Leak(Holder),
    LeakEnded(Holder),
    SelfDeadlock(Vec<NestedGet>),
    Outage(Option<Cause>),
    OutageEnded { failures: u32, lasted: Duration },
    Doubt { connection_id: u64, reason: Reason, idle: u32 },
    Abandoned { kind: CallKind, connection_id: u64, after: Duration },
    Health { from: HealthLevel, health: Health },
}

impl<T: PoolTypes<Caller = Caller, Cause = Cause>> From<Notice<T>> for Notification {
    fn from(notice: Notice<T>) -> Notification {
        match notice {
            Notice::Leak(held) => Notification::Leak(held.into()),
            Notice::LeakEnded(held) => Notification::LeakEnded(held.into()),
            Notice::SelfDeadlock(nested) => {
                Notification::SelfDeadlock(nested.into_iter().map(NestedGet::from).collect())
            }
            Notice::Outage(cause) => Notification::Outage(cause),
            Notice::OutageEnded { failures, lasted } => {
                Notification::OutageEnded { failures, lasted }
            }
            Notice::Doubt { connection_id, reason, idle } => {
                Notification::Doubt { connection_id, reason, idle }
            }
            Notice::Abandoned { kind, connection_id, after } => {
                Notification::Abandoned { kind, connection_id, after }
            }
        }
    }
}

/// Notifications that are not announced yet. A worker announces them one at a time and
/// in order. The thread on which they came up does not: it may be the reaper, which
/// nothing may delay, or a caller with a deadline.
#[derive(Default)]
pub(crate) struct Notifications(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    queue: VecDeque<(Time, Notification)>,
    /// How many more there were.
    lost: usize,
    /// A worker announces them, or is about to.
    has_worker: bool,
}

/// What became of new notifications.
#[must_use = "without a worker nothing is announced"]
pub(crate) struct Added {
    /// A worker must be asked to announce them.
    pub(crate) needs_worker: bool,
    /// Those for which there was no room. They may hold a driver's error, so they must
    /// be dropped outside every lock.
    pub(crate) lost: Vec<Notification>,
}

impl Notifications {
    /// Called under the pool's lock, so that they are announced in the order of the
    /// decisions.
    #[inline]
    pub(crate) fn add<N: Into<Notification>>(&self, new: Vec<N>, now: Time) -> Option<Added> {
        if new.is_empty() { None } else { Some(self.add_all(new, now)) }
    }

    #[cold]
    fn add_all<N: Into<Notification>>(&self, new: Vec<N>, now: Time) -> Added {
        let mut no_room = Vec::new();
        let mut pending = self.0.lock();
        for notification in new.into_iter().map(Into::into) {
            if pending.queue.len() < CAPACITY {
                pending.queue.push_back((now, notification));
            } else {
                no_room.push(notification);
            }
        }
        pending.lost += no_room.len();
        let needs_worker = !std::mem::replace(&mut pending.has_worker, true);
        Added { needs_worker, lost: no_room }
    }

    /// Whether everything is announced, and no worker is at it.
    pub(crate) fn are_done(&self) -> bool {
        !self.0.lock().has_worker
    }

    /// The next one, and how many were lost after it. `None`: the worker is done.
    pub(crate) fn next(&self) -> Option<(Time, Notification, usize)> {
        let mut pending = self.0.lock();
        let next = pending.queue.pop_front();
        pending.has_worker = next.is_some();
        let lost = if pending.queue.is_empty() { std::mem::take(&mut pending.lost) } else { 0 };
        next.map(|(at, notification)| (at, notification, lost))
    }
}
