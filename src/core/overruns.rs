//! Driver calls that take too long.
//!
//! Past its patience, a connect or a check is no longer counted on. Past its limit, a call is
//! abandoned: its slot no longer counts as occupied. At most `max_abandoned` calls are; others
//! past their limit only stop to count as calls at once.

use std::mem;

use super::slot::Slot;
use super::{CallKind, ConnectionState, Core, Effects, Notice, Permit, PoolTypes, Reason, Time};

impl<T: PoolTypes> Core<T> {
    /// Of the connects and checks that take longer than the shortest patience, the one that
    /// runs longest, and since when.
    pub(crate) fn slowest_call(&self, now: Time) -> Option<(CallKind, Time)> {
        if self.opening + self.checking == 0 {
            return None;
        }
        let is_slow = |slot: &&Slot<T>| {
            let patience = match slot.call() {
                Some(CallKind::Connect) => self.policy.patience_min,
                Some(CallKind::Check) => self.policy.check_patience,
                _ => return false,
            };
            now.since(slot.since) >= patience
        };
        let slowest = self.slots.iter().filter(is_slow).min_by_key(|slot| slot.since)?;
        Some((slowest.call()?, slowest.since))
    }

    /// Plans for the time at which the driver call of this slot takes too long.
    pub(super) fn schedule_deadline(&mut self, permit: &Permit, fx: &mut Effects<T>) {
        if let Some(at) = self.slots[permit.index()].next_deadline(&self.policy) {
            self.wake_reaper_at(at, fx);
        }
    }

    /// Stops to count on calls past their patience, and abandons those past their limit.
    pub(super) fn check_calls(&mut self, fx: &mut Effects<T>) {
        if self.opening + self.checking + self.closers == 0 {
            return;
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let Some(kind) = slot.call() else { continue };
            let is_late = slot.limit_ends(&self.policy).is_some_and(|at| at <= fx.now);
            if slot.is_counted_on() && (is_late || slot.patience_ends <= fx.now) {
                slot.past_patience = true;
                *self.past_patience.of(kind) += 1;
                if kind == CallKind::Connect {
                    self.pace.slow_down();
                }
            }
            if !is_late {
                continue;
            }
            self.give_up_begin(index);
            let slot = &mut self.slots[index];
            let check = slot.check;
            if self.abandoned < self.policy.max_abandoned {
                self.abandon(index, fx);
            } else if !slot.past_limit {
                slot.past_limit = true;
                *self.past_limit.of(kind) += 1;
            } else {
                continue; // It is known.
            }
            if kind == CallKind::Check {
                self.doubt_because_of(index, check.failure(), fx);
            }
        }
        self.start_closes(fx);
    }

    fn abandon(&mut self, index: usize, fx: &mut Effects<T>) {
        let kind = self.end_call(index, fx.now);
        // A wait for the end of the pool does not include this call.
        fx.progress = true;
        let (since, connection_id) = (self.slots[index].since, self.slots[index].connection_id);
        if kind == CallKind::Connect && self.count_connect_failure(since, fx.now, false) {
            fx.notices.push(Notice::Outage(None));
        }
        self.enter(index, ConnectionState::Abandoned, Some(Reason::Overran), fx.now);
        self.slots[index].abandoned = Some((kind, since));
        self.abandoned += 1;
        self.counters.abandoned += 1;
        fx.notices.push(Notice::Abandoned { kind, connection_id, after: fx.now.since(since) });
    }

    /// Uncounts the driver call of a slot, which has ended or is abandoned.
    pub(super) fn end_call(&mut self, index: usize, now: Time) -> CallKind {
        let slot = &mut self.slots[index];
        let kind = slot.call().expect("BUG: ended a call that was not made");
        if mem::take(&mut slot.past_patience) {
            *self.past_patience.of(kind) -= 1;
        }
        if mem::take(&mut slot.past_limit) {
            *self.past_limit.of(kind) -= 1;
        }
        match kind {
            CallKind::Connect => {
                self.opening -= 1;
                self.stop_succession_without_connect();
                self.pace.moved_at = now;
            }
            CallKind::Check => self.checking -= 1,
            CallKind::Close => self.closers -= 1,
        }
        kind
    }

    /// An abandoned call has ended, and left no connection.
    pub(super) fn vacate_abandoned(&mut self, permit: Permit, fx: &mut Effects<T>) {
        self.vacate(permit, None, fx.now);
        self.uncount_abandoned(fx);
    }

    /// One abandoned call fewer: another that overran its limit may take its place.
    pub(super) fn uncount_abandoned(&mut self, fx: &mut Effects<T>) {
        if self.abandoned == self.policy.max_abandoned {
            self.wake_reaper_at(fx.now, fx);
        }
        self.abandoned -= 1;
    }
}
