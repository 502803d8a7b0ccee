//! Results of driver calls.
//!
//! Each driver call that the core asked for is answered by exactly one of these events,
//! maybe after the call was abandoned. Then its connection is taken in if there is room,
//! and closed if not.

use super::reap::KEEPALIVES_AT_ONCE;
use super::{ConnectionState, Core, Effects, Lease, Notice, Permit, PoolTypes, Reason, Time};

impl<T: PoolTypes> Core<T> {
    /// A connection was opened.
    pub(crate) fn connect_finished(&mut self, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        self.counters.opened += 1;
        if let Some(outage) = self.outage.take() {
            let lasted = fx.now.since(outage.began);
            fx.notices.push(Notice::OutageEnded { failures: outage.failures, lasted });
        }
        self.replace_error(None, fx);
        fx.progress = true;
        let slot = &self.slots[lease.permit.index()];
        let begun = slot.abandoned.map_or(slot.since, |(_, since)| since);
        self.draw_ages(&lease.permit, begun, fx);
        let slot = self.slot(&lease.permit);
        slot.fresh_at = fx.now;
        slot.connection_id = T::connection_id(&lease.conn);
        slot.backend_id = T::backend_id(&lease.conn);
        if slot.state == ConnectionState::Abandoned {
            self.take_in_late(lease, Reason::Excess, fx);
        } else {
            let unfit = self.unfit(&lease.permit);
            if unfit.is_none() {
                self.end_succession();
            }
            self.end_call(lease.permit.index(), fx.now);
            match unfit {
                Some(reason) => self.retire(lease, reason, fx),
                None => self.offer(lease, fx),
            }
        }
        self.learn_from_connect(begun, fx);
        self.finish(fx);
    }

    /// Connecting failed.
    pub(crate) fn connect_failed(
        &mut self,
        permit: Permit,
        cause: T::Cause,
        permanent: bool,
        fx: &mut Effects<T>,
    ) {
        fx.progress = true;
        if self.slot(&permit).state == ConnectionState::Abandoned {
            fx.garbage.push(cause);
            self.vacate_abandoned(permit, fx);
        } else {
            self.end_call(permit.index(), fx.now);
            let begun = self.slot(&permit).since;
            self.vacate(permit, Some(Reason::ConnectFailed), fx.now);
            let permanent = permanent && self.never_connected();
            if self.count_connect_failure(begun, fx.now, permanent) {
                fx.notices.push(Notice::Outage(Some(cause.clone())));
            }
            self.keep_error(cause, permanent, fx);
        }
        self.finish(fx);
    }

    /// A check has ended. `Err` says why the connection must not be used.
    pub(crate) fn check_finished(
        &mut self,
        lease: Lease<T::Conn>,
        result: Result<(), (Reason, T::Cause)>,
        fx: &mut Effects<T>,
    ) {
        fx.progress = true;
        let slot = self.slot(&lease.permit);
        let late = slot.state == ConnectionState::Abandoned;
        if result.is_ok() {
            slot.check_succeeded(fx.now);
        }
        match result {
            Ok(()) if late => {
                self.slot(&lease.permit).fresh_at = fx.now;
                self.take_in_late(lease, Reason::Invalid, fx);
            }
            Err((reason, cause)) if late => {
                fx.garbage.push(cause);
                self.close_late(lease, reason, fx);
            }
            result => {
                self.end_check(lease, result, fx);
                self.check_another(fx);
            }
        }
        self.finish(fx);
    }

    /// A driver's close has ended.
    pub(crate) fn close_finished(&mut self, permit: Permit, fx: &mut Effects<T>) {
        fx.progress = true;
        if self.slot(&permit).state == ConnectionState::Abandoned {
            self.vacate_abandoned(permit, fx);
        } else {
            self.end_call(permit.index(), fx.now);
            self.vacate(permit, None, fx.now);
            self.start_closes(fx);
        }
        self.finish(fx);
    }

    fn end_check(
        &mut self,
        lease: Lease<T::Conn>,
        result: Result<(), (Reason, T::Cause)>,
        fx: &mut Effects<T>,
    ) {
        let unfit = self.unfit(&lease.permit);
        let slot = self.slot(&lease.permit);
        let (validated, idle_since) = (slot.check.validate, slot.idle_since);
        self.end_check_call(&lease.permit, fx);
        if let Err((reason, cause)) = result {
            self.counters.check_failures += 1;
            if reason == Reason::UseHandler {
                // What is wrong with one use is no other caller's business.
                fx.garbage.push(cause);
            } else {
                self.keep_error(cause, false, fx);
            }
            return self.retire(lease, reason, fx);
        }
        if let Some(reason) = unfit {
            return self.retire_unfit(lease, reason, fx);
        }
        match idle_since {
            Some(idle_since) if self.queue.is_empty() => {
                self.end_keepalive(lease, idle_since, fx);
            }
            // Validated for a waiter: the first gets it.
            _ if validated => self.offer(lease, fx),
            // Only reset: as if it were returned now.
            _ => self.shelve(lease, fx),
        }
    }

    /// Uncounts a check. A keepalive that waited for that starts.
    pub(super) fn end_check_call(&mut self, permit: &Permit, fx: &mut Effects<T>) {
        let held_back = self.checking == KEEPALIVES_AT_ONCE && self.policy.keepalive.is_some();
        self.end_call(permit.index(), fx.now);
        if held_back && !self.start_next_keepalive(fx) {
            self.wake_reaper_at(fx.now, fx);
        }
    }

    /// Nobody asked for the check: the connection remains idle, at the bottom, but above those
    /// that are in doubt.
    fn end_keepalive(&mut self, mut lease: Lease<T::Conn>, idle_since: Time, fx: &mut Effects<T>) {
        self.enter(lease.permit.index(), ConnectionState::Idle, None, fx.now);
        let in_doubt = self.is_in_doubt(&lease.permit);
        let slot = &mut self.slots[lease.permit.index()];
        slot.since = idle_since;
        slot.fresh_at = fx.now;
        let idle_until = slot.idle_until();
        let fit_until = slot.fit_until(self.fresh_nanos, self.fresh_by_check);
        lease.fit_until = if in_doubt { Time::START } else { fit_until };
        let is_doubted = |other: &&Lease<T::Conn>| self.is_in_doubt(&other.permit);
        let place = if in_doubt { 0 } else { self.idle.iter().take_while(is_doubted).count() };
        self.idle.insert(place, lease);
        if self.idle_len() > self.policy.kept_idle() {
            self.wake_reaper_at(idle_until, fx);
        }
        self.plan_for_returns(fx);
    }

    /// An abandoned call succeeded after all: takes its connection in if there is room,
    /// otherwise closes it for this reason.
    fn take_in_late(&mut self, lease: Lease<T::Conn>, otherwise: Reason, fx: &mut Effects<T>) {
        let room = self.occupied() < self.policy.max_size;
        match self.unfit(&lease.permit) {
            None if room => {
                let expires = self.slot(&lease.permit).expires;
                self.wake_reaper_at(expires, fx);
                self.uncount_abandoned(fx);
                self.offer(lease, fx);
                self.forget_successor_without_room();
            }
            None | Some(Reason::Excess) => self.close_late(lease, otherwise, fx),
            Some(reason) => self.close_late(lease, reason, fx),
        }
    }
}
