//! Which connections end, and when their close starts.

use super::{
    CallKind, ConnectionState, Core, Effects, Job, Lease, Permit, PoolTypes, Reason, Time,
};

impl<T: PoolTypes> Core<T> {
    /// Retires a connection that is in no list. Its close starts when a closer is free.
    pub(super) fn retire(&mut self, lease: Lease<T::Conn>, reason: Reason, fx: &mut Effects<T>) {
        self.counters.closed[reason as usize] += 1;
        self.doubt_because_of(lease.permit.index(), reason, fx);
        self.enter(lease.permit.index(), ConnectionState::Retired, Some(reason), fx.now);
        self.retired.push_back((lease, reason));
        self.start_closes(fx);
    }

    pub(super) fn retire_idle(&mut self, reason: Reason, fx: &mut Effects<T>) {
        while let Some(lease) = self.idle.pop_front() {
            self.retire(lease, reason, fx);
        }
    }

    /// Why a connection that is in use, being opened or checked must not go on.
    pub(super) fn unfit(&mut self, permit: &Permit, now: Time) -> Option<Reason> {
        let (generation, expires) = (self.slot(permit).generation, self.slot(permit).expires);
        if self.closed {
            Some(Reason::PoolClosed)
        } else if generation != self.generation {
            Some(Reason::Stale)
        } else if now >= expires {
            Some(Reason::Expired)
        } else if self.open_count() + self.opening > self.policy.max_size {
            Some(Reason::Excess)
        } else {
            None
        }
    }

    pub(super) fn start_closes(&mut self, fx: &mut Effects<T>) {
        while self.closers - self.past_limit.closes < self.policy.max_closers {
            let Some((lease, reason)) = self.retired.pop_front() else { return };
            self.enter(lease.permit.index(), ConnectionState::Closing, None, fx.now);
            self.closers += 1;
            self.schedule_deadline(&lease.permit, fx);
            fx.jobs.push(Job::Close(lease, reason));
        }
    }

    /// Closes a connection that an abandoned call brought; it counts as abandoned until it
    /// is closed.
    pub(super) fn close_late(
        &mut self,
        lease: Lease<T::Conn>,
        reason: Reason,
        fx: &mut Effects<T>,
    ) {
        self.counters.closed[reason as usize] += 1;
        self.slot(&lease.permit).abandoned = Some((CallKind::Close, fx.now));
        fx.jobs.push(Job::Close(lease, reason));
    }
}
