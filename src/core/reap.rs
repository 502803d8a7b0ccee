//! What time alone changes.

use std::mem;
use std::time::Duration;

use super::slot::Slot;
use super::{Check, Core, Effects, Lease, PoolTypes, Reason, Time};

/// Keepalives are not urgent: at most this many checks at once.
pub(super) const KEEPALIVES_AT_ONCE: u32 = 4;

impl<T: PoolTypes> Core<T> {
    /// Does everything that is due. Returns when the reaper must run again.
    pub(crate) fn tick(&mut self, fx: &mut Effects<T>) -> Time {
        let planned = mem::replace(&mut self.wake_at, fx.now); // No plan below is earlier.
        self.check_calls(fx);
        self.find_old(fx.now);
        self.end_grants(fx);
        self.reap_idle(fx);
        self.report_leaks(fx);
        self.end_task_waits(fx);
        self.serve(fx);
        fx.wake_reaper = false;
        self.wake_at = self.next_deadline(fx.now).min(self.next_task_time());
        // A plan stands until its time. If it were given up whenever its connection is in
        // use, each return could have to plan anew, and wake the reaper.
        if planned > fx.now {
            self.wake_at = self.wake_at.min(planned);
        }
        let covers = |span: Option<Duration>| self.wake_at <= fx.now.after_opt(span);
        self.lends_are_planned = covers(self.policy.leak_threshold);
        self.returns_are_planned = covers(self.policy.idle_span());
        self.settle();
        self.wake_at
    }

    /// Plans for the connections that are lent from now on.
    pub(super) fn plan_for_lends(&mut self, fx: &mut Effects<T>) {
        if !mem::replace(&mut self.lends_are_planned, true) {
            self.wake_reaper_at(fx.now.after_opt(self.policy.leak_threshold), fx);
        }
    }

    /// Plans for the connections that become idle from now on.
    pub(super) fn plan_for_returns(&mut self, fx: &mut Effects<T>) {
        if !mem::replace(&mut self.returns_are_planned, true) {
            self.wake_reaper_at(fx.now.after_opt(self.policy.idle_span()), fx);
        }
    }

    pub(super) fn wake_reaper_at(&mut self, at: Time, fx: &mut Effects<T>) {
        if at < self.wake_at {
            self.wake_at = at;
            fx.wake_reaper = true;
        }
    }

    /// Retires connections that have been idle too long, and starts keepalives. Visits each
    /// once, and keeps their order.
    fn reap_idle(&mut self, fx: &mut Effects<T>) {
        let mut too_many = self.idle_too_long(fx.now);
        for _ in 0..self.idle.len() {
            let Some(lease) = self.idle.pop_front() else { return };
            let slot = &self.slots[lease.permit.index()];
            let check_at = slot.fresh_at.after_opt(self.policy.keepalive);
            if too_many > 0 && fx.now >= slot.idle_until() {
                too_many -= 1;
                self.retire(lease, Reason::IdleTooLong, fx);
            } else if fx.now >= check_at && self.checking < KEEPALIVES_AT_ONCE {
                let since = slot.since;
                self.start_check(lease, Check::VALIDATE, Some(since), fx);
            } else {
                self.idle.push_back(lease);
            }
        }
    }

    /// How many connections have been idle too long, without those that the pool keeps: so
    /// many as were not needed for all this time, while `min_idle` others were idle too.
    fn idle_too_long(&self, now: Time) -> usize {
        let idle = self.idle.iter().map(|lease| &self.slots[lease.permit.index()]);
        let long = idle.filter(|slot| now >= slot.idle_until()).count();
        long.saturating_sub(self.policy.kept_idle() as usize)
    }

    /// When the next connection has been idle too long: those that end first are kept.
    pub(super) fn next_idle_end(&self) -> Time {
        let kept = self.policy.kept_idle() as usize;
        if self.policy.idle_timeout.is_none() || self.idle.len() <= kept {
            return Time::NEVER;
        }
        let idle = self.idle.iter().map(|lease| &self.slots[lease.permit.index()]);
        let mut ends: Vec<Time> = idle.map(Slot::idle_until).collect();
        *ends.select_nth_unstable(kept).1
    }

    /// Starts the keepalive that waited for a check to end, without visiting all idle
    /// connections. Those that were checked go to the bottom of the stack, so the next one
    /// due is where the last one was, or a little above. Returns `false` if there is none
    /// from there on; the reaper finds out whether there is one at all.
    pub(super) fn start_next_keepalive(&mut self, fx: &mut Effects<T>) -> bool {
        let due = |lease: &Lease<T::Conn>| {
            let fresh_at = self.slots[lease.permit.index()].fresh_at;
            fx.now >= fresh_at.after_opt(self.policy.keepalive)
        };
        let from = mem::take(&mut self.keepalive_from).min(self.idle.len());
        let Some(above) = self.idle.range(from..).position(due) else { return false };
        self.keepalive_from = from + above;
        let lease = self.idle.remove(from + above).expect("BUG: the due connection is gone");
        let since = self.slot(&lease.permit).since;
        self.start_check(lease, Check::VALIDATE, Some(since), fx);
        true
    }

    /// The earliest time at which the passing of time changes something.
    fn next_deadline(&self, now: Time) -> Time {
        let mut next = self.next_old().min(self.next_idle_end());
        // If as many checks are under way as may be, the end of one starts the next.
        let keepalive = self.policy.keepalive.filter(|_| self.checking < KEEPALIVES_AT_ONCE);
        for lease in &self.idle {
            let slot = &self.slots[lease.permit.index()];
            next = next.min(slot.fresh_at.after_opt(keepalive));
        }
        if self.opening + self.checking + self.closers != 0 {
            let calls = self.slots.iter().filter_map(|slot| slot.next_deadline(&self.policy));
            next = calls.fold(next, Time::min);
        }
        let hopeless = if self.queue.waiting() == 0 { Time::NEVER } else { self.hopeless_from() };
        let others = [self.next_leak(), self.self_deadlock_limit(), self.next_start(now), hopeless];
        others.into_iter().fold(next, Time::min)
    }
}
