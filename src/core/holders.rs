//! Who holds connections, who has held one for too long, and whether every connection is held by a
//! thread that itself waits for one.

use std::mem;

use super::slot::Slot;
use super::{
    Answer, ConnectionState, Core, Effects, ErrorKind, Held, NestedWait, Notice, Permit, PoolTypes,
    ThreadId, Time, WaiterId,
};

/// How many of the threads in a self-deadlock are listed at most.
const LISTED: usize = 32;

impl<T: PoolTypes> Core<T> {
    /// Who holds connections, and for how long.
    pub(crate) fn holders(&self, now: Time) -> impl Iterator<Item = Held<T::Caller>> {
        self.busy_slots().filter_map(move |slot| slot.held(now))
    }

    /// Who has held a connection longest. Visits all slots only if the connection found
    /// last time has been returned: while it is out, no other holder can have become the
    /// longest, but for a tick of the clock.
    pub(crate) fn longest_holder(&mut self, now: Time) -> Option<Held<T::Caller>> {
        let still_out = |&(index, since): &(u32, Time)| {
            let slot = &self.slots[index as usize];
            slot.state == ConnectionState::Busy && slot.since == since
        };
        if !self.longest.as_ref().is_some_and(still_out) {
            let busy = |(_, slot): &(usize, &Slot<T>)| slot.state == ConnectionState::Busy;
            let found = self.slots.iter().enumerate().filter(busy);
            self.longest = found
                .min_by_key(|(_, slot)| slot.since)
                .map(|(index, slot)| (index as u32, slot.since));
        }
        let (index, _) = self.longest?;
        self.slots[index as usize].held(now)
    }

    /// The caller that got this connection last, even if it has returned it.
    pub(crate) fn last_caller(&self, permit: &Permit) -> Option<T::Caller> {
        self.slots[permit.index()].caller.clone()
    }

    /// A guard is used by another thread than the one that got it. The core does not know
    /// by which from here on.
    pub(crate) fn guard_moved(&mut self, permit: &Permit) {
        self.slot(permit).moved = true;
    }

    pub(super) fn busy_slots(&self) -> impl Iterator<Item = &Slot<T>> {
        self.slots.iter().filter(|slot| slot.state == ConnectionState::Busy)
    }

    /// Reports each connection that is held too long, once.
    pub(super) fn report_leaks(&mut self, fx: &mut Effects<T>) {
        let Some(threshold) = self.policy.leak_threshold else { return };
        for slot in &mut self.slots {
            let due = slot.state == ConnectionState::Busy && fx.now >= slot.since.after(threshold);
            if due && !slot.leaking {
                slot.leaking = true;
                self.counters.leaks += 1;
                fx.notices.extend(slot.held(fx.now).map(Notice::Leak));
            }
        }
    }

    /// A connection was returned or detached.
    pub(super) fn end_leak(&mut self, permit: &Permit, fx: &mut Effects<T>) {
        let slot = self.slot(permit);
        if mem::take(&mut slot.leaking) {
            fx.notices.extend(slot.held(fx.now).map(Notice::LeakEnded));
        }
    }

    /// When the next of the connections that are lent now is held too long.
    pub(super) fn next_leak(&self) -> Time {
        let Some(threshold) = self.policy.leak_threshold else { return Time::NEVER };
        let not_reported = self.busy_slots().filter(|slot| !slot.leaking);
        not_reported.map(|slot| slot.since.after(threshold)).min().unwrap_or(Time::NEVER)
    }
}

/// Self-deadlocks.
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
