//! Finds out when every connection is held by a thread that itself waits for one.

use super::slot::Slot;
use super::{
    Answer, ConnectionState, Core, Effects, ErrorKind, NestedWait, Notice, PoolTypes, ThreadId,
    Time, WaiterId,
};

/// How many of the threads are listed at most.
const LISTED: usize = 32;

impl<T: PoolTypes> Core<T> {
    /// The threads that hold all connections and wait for another; empty if that is not so.
    pub(crate) fn self_deadlock(&self, now: Time) -> Vec<NestedWait<T::Caller>> {
        if self.deadlocked.is_some() { self.nested_waits(now) } else { Vec::new() }
    }

    /// Called whenever something has changed that waiters wait for. Only a waiter whose
    /// thread holds a connection can be the reason, so usually this is one branch.
    pub(super) fn detect_self_deadlock(&mut self, fx: &mut Effects<T>) {
        if self.nested.is_empty() && self.deadlocked.is_none() {
            return;
        }
        let is_deadlocked =
            self.policy.reports_self_deadlock && self.all_are_lent() && self.all_holders_wait();
        if !is_deadlocked {
            self.deadlocked = None;
            return;
        }
        if self.deadlocked.is_none() {
            self.deadlocked = Some(fx.now);
            self.counters.self_deadlocks += 1;
            fx.notices.push(Notice::SelfDeadlock(self.nested_waits(fx.now)));
        }
        let limit = self.self_deadlock_limit();
        if fx.now < limit {
            return self.wake_reaper_at(limit, fx);
        }
        // One error is enough: its thread returns what it holds.
        let waits = self.nested_waits(fx.now);
        if let Some(last) = self.last_nested_waiter() {
            let waiter = self.dismiss(last, ErrorKind::SelfDeadlock, fx.now);
            let waiter = waiter.expect("BUG: a nested waiter that has left");
            fx.answers.push((waiter.cell, Answer::SelfDeadlock(waits)));
        }
        self.deadlocked = None;
    }

    /// When one of the threads gets an error.
    pub(super) fn self_deadlock_limit(&self) -> Time {
        match (self.deadlocked, self.policy.self_deadlock_limit) {
            (Some(since), Some(limit)) => since.after(limit),
            _ => Time::NEVER,
        }
    }

    /// All connections that there are, and may be, are lent.
    fn all_are_lent(&self) -> bool {
        self.busy != 0 && self.occupied() == self.busy && self.busy >= self.policy.max_size
    }

    /// Tests the last counter-example first: if many holders wait, it would take long to
    /// find it each time.
    fn all_holders_wait(&mut self) -> bool {
        let does_not_wait =
            |slot: &Slot<T>| slot.state == ConnectionState::Busy && self.waiter_of(slot).is_none();
        if does_not_wait(&self.slots[self.not_nested]) {
            return false;
        }
        let found = self.slots.iter().position(does_not_wait);
        self.not_nested = found.unwrap_or(self.not_nested);
        found.is_none()
    }

    /// The wait of the thread that holds this connection.
    fn waiter_of(&self, slot: &Slot<T>) -> Option<WaiterId> {
        let thread = slot.caller.as_ref().filter(|_| !slot.moved)?.thread_id();
        self.nested.get(&thread).copied()
    }

    fn nested_waits(&self, now: Time) -> Vec<NestedWait<T::Caller>> {
        let nested_wait = |slot: &Slot<T>| {
            let waits = self.queue.get(self.waiter_of(slot)?)?.caller.clone();
            Some(NestedWait { held: slot.held(now)?, waits })
        };
        self.busy_slots().filter_map(nested_wait).take(LISTED).collect()
    }

    fn last_nested_waiter(&self) -> Option<WaiterId> {
        self.busy_slots().filter_map(|slot| self.waiter_of(slot)).max_by_key(|id| id.get_id())
    }
}
