//! Who holds connections: for reports, to find leaks, and to find holders that
//! wait for themselves.

use std::time::Duration;

use super::slot::{Slot, State};
use super::{Answer, Core, Effects, End, Notice, Permit, Time, Types, WaiterId, Who};

/// At most so many of the threads that wait for themselves are listed.
const LISTED: usize = 32;

/// A connection that is, or was, lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held<C> {
    /// The connection's number.
    pub(crate) connection: u64,
    pub(crate) caller: C,
    pub(crate) held_for: Duration,
}

/// A thread that holds a connection and waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SelfWait<C> {
    pub(crate) held: Held<C>,
    pub(crate) waits: C,
}

impl<T: Types> Core<T> {
    /// Who holds connections, and for how long.
    pub(crate) fn holders(&self, now: Time) -> impl Iterator<Item = Held<T::Caller>> {
        self.busy_slots().filter_map(move |slot| slot.held(now))
    }

    /// Who has held a connection longest. Looks at all slots only when the one
    /// found last time has come back since: nobody else can have become the
    /// longest holder while it was out, but for a tick of the clock.
    pub(crate) fn longest_holder(&mut self, now: Time) -> Option<Held<T::Caller>> {
        let still_out = |&(index, since): &(u32, Time)| {
            let slot = &self.slots[index as usize];
            slot.state == State::Busy && slot.since == since
        };
        if !self.longest.as_ref().is_some_and(still_out) {
            let busy = |(_, slot): &(usize, &Slot<T>)| slot.state == State::Busy;
            let found = self.slots.iter().enumerate().filter(busy);
            self.longest = found
                .min_by_key(|(_, slot)| slot.since)
                .map(|(index, slot)| (index as u32, slot.since));
        }
        let (index, _) = self.longest?;
        self.slots[index as usize].held(now)
    }

    /// A connection is no longer with the thread that got it. Where it is, the
    /// core does not know from here on.
    pub(crate) fn moved(&mut self, permit: &Permit) {
        self.slot(permit).at_home = false;
    }

    /// The threads that wait for themselves, if every connection is held by one.
    pub(crate) fn self_deadlock(&self, now: Time) -> Vec<SelfWait<T::Caller>> {
        match self.deadlocked {
            Some(_) => self.self_waits(now),
            None => Vec::new(),
        }
    }

    /// A connection comes back, or is kept for good.
    pub(super) fn note_return(&mut self, permit: &Permit, now: Time, fx: &mut Effects<T>) {
        let slot = self.slot(permit);
        if std::mem::take(&mut slot.leaking) {
            fx.notices.extend(slot.held(now).map(Notice::LeakEnded));
        }
    }

    /// Reports each connection that is held too long, once.
    pub(super) fn look_for_leaks(&mut self, now: Time, fx: &mut Effects<T>) {
        let Some(threshold) = self.policy.leak_threshold else { return };
        for slot in &mut self.slots {
            let due = slot.state == State::Busy && now >= slot.since.after(threshold);
            if due && !slot.leaking {
                slot.leaking = true;
                self.counters.leaks += 1;
                fx.notices.extend(slot.held(now).map(Notice::Leak));
            }
        }
    }

    /// When the next of the connections that are lent now is held too long.
    pub(super) fn next_leak(&self) -> Time {
        let Some(threshold) = self.policy.leak_threshold else { return Time::NEVER };
        let watched = self.busy_slots().filter(|slot| !slot.leaking);
        watched.map(|slot| slot.since.after(threshold)).min().unwrap_or(Time::NEVER)
    }

    /// Called when anything has changed that callers wait for. Only a waiter
    /// that holds something can be the reason, so mostly this is one branch.
    pub(super) fn look_for_self_deadlock(&mut self, now: Time, fx: &mut Effects<T>) {
        if self.nested.is_empty() && self.deadlocked.is_none() {
            return;
        }
        let all_wait = self.policy.reports_self_deadlock
            && self.all_are_lent()
            && self.all_holders_wait_for_themselves();
        if !all_wait {
            self.deadlocked = None;
            return;
        }
        if self.deadlocked.is_none() {
            self.deadlocked = Some(now);
            self.counters.self_deadlocks += 1;
            fx.notices.push(Notice::SelfDeadlock(self.self_waits(now)));
        }
        let limit = self.self_deadlock_limit();
        if now < limit {
            return self.plan(limit, fx);
        }
        // One is enough: what it holds comes back while its error is dealt with.
        let waits = self.self_waits(now);
        if let Some(last) = self.last_self_waiter() {
            let waiter = self.dismiss(last, End::Deadlock, now).expect("BUG: it waits");
            fx.answer(waiter.cell, Answer::Deadlock(waits));
        }
        self.deadlocked = None;
    }

    /// When one of the threads that wait for themselves is to get an error.
    pub(super) fn self_deadlock_limit(&self) -> Time {
        match (self.deadlocked, self.policy.self_deadlock_limit) {
            (Some(since), Some(limit)) => since.after(limit),
            _ => Time::NEVER,
        }
    }

    /// All connections that there are, and may be, are lent.
    fn all_are_lent(&self) -> bool {
        self.busy > 0 && self.live() == self.busy && self.busy >= self.policy.max_size
    }

    /// Asks first the holder that was in the way of a yes last time: with many
    /// connections in the hands of threads that wait, it would take long to find
    /// it each time.
    fn all_holders_wait_for_themselves(&mut self) -> bool {
        let in_the_way =
            |slot: &Slot<T>| slot.state == State::Busy && self.waiter_of(slot).is_none();
        if in_the_way(&self.slots[self.in_the_way]) {
            return false;
        }
        let found = self.slots.iter().position(in_the_way);
        self.in_the_way = found.unwrap_or(self.in_the_way);
        found.is_none()
    }

    /// The wait of the thread that holds this, if it waits.
    fn waiter_of(&self, slot: &Slot<T>) -> Option<WaiterId> {
        let thread = slot.caller.filter(|_| slot.at_home)?.thread();
        self.nested.get(&thread).copied()
    }

    pub(super) fn self_waits(&self, now: Time) -> Vec<SelfWait<T::Caller>> {
        let wait = |slot: &Slot<T>| {
            let waits = self.queue.get(self.waiter_of(slot)?)?.caller;
            Some(SelfWait { held: slot.held(now)?, waits })
        };
        self.busy_slots().filter_map(wait).take(LISTED).collect()
    }

    fn last_self_waiter(&self) -> Option<WaiterId> {
        self.busy_slots().filter_map(|slot| self.waiter_of(slot)).max_by_key(|id| id.arrival())
    }

    pub(super) fn busy_slots(&self) -> impl Iterator<Item = &Slot<T>> {
        self.slots.iter().filter(|slot| slot.state == State::Busy)
    }
}

impl<T: Types> Slot<T> {
    pub(super) fn held(&self, now: Time) -> Option<Held<T::Caller>> {
        Some(Held {
            connection: self.number,
            caller: self.caller?,
            held_for: now.since(self.since),
        })
    }
}
