//! Who holds connections, and who has held one for too long.

use std::mem;

use super::slot::Slot;
use super::{ConnectionState, Core, Effects, Held, Notice, Permit, PoolTypes, Time};

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
