//! The fast paths of a get and of a return: those that need no decision.
//!
//! A get takes the top of the stack of idle connections, a return puts it back there,
//! if the [`Gate`] allows it. Everything that could forbid it was decided when the gate
//! was computed. While there are subscribers the gate that `acquire_fast` and
//! `checkin_fast` read is shut, so that they need not ask; callers then use the variants
//! that note what they do, with the gate kept in the journal.

use std::time::Duration;

use super::Gate;
use super::{ConnectionState, Core, Lease, Permit, PoolTypes, Time};

impl<T: PoolTypes> Core<T> {
    /// Takes the top idle connection if nothing has to be done about it and nobody
    /// waits. `None` means: take the slow path.
    ///
    /// No waiter is worse off afterwards: if another connection remains, a nudged waiter
    /// is still on its way.
    ///
    /// `now` may lag a little. So it cannot tell who has waited too long to be overtaken:
    /// see [`overtake`](Core::overtake).
    #[inline]
    pub(crate) fn acquire_fast(&mut self, now: Time, caller: &T::Caller) -> Option<Lease<T::Conn>> {
        if self.gate.until != Time::NEVER {
            return None;
        }
        self.take_top(self.gate, now, self.stamp(now), caller)
    }

    /// [`acquire_fast`](Core::acquire_fast) past waiters, if they may be overtaken; `now`
    /// is exact.
    #[inline]
    pub(crate) fn overtake(&mut self, now: Time, caller: &T::Caller) -> Option<Lease<T::Conn>> {
        if now >= self.gate.until {
            return None;
        }
        let lease = self.take_top(self.gate, now, now, caller)?;
        self.counters.overtakes += u64::from(self.gate.until != Time::NEVER);
        Some(lease)
    }

    /// [`overtake`](Core::overtake) with a note in the journal.
    pub(crate) fn acquire_noted(
        &mut self,
        now: Time,
        caller: &T::Caller,
    ) -> Option<Lease<T::Conn>> {
        let gate = self.gate_in_force();
        if now >= gate.until {
            return None;
        }
        let lease = self.take_top(gate, now, now, caller)?;
        self.counters.overtakes += u64::from(gate.until != Time::NEVER);
        self.note_checkout(&lease.permit, None, ConnectionState::Idle, Duration::ZERO, now);
        Some(lease)
    }

    /// Puts a connection back onto the stack if it need not be replaced, and
    /// nobody waits for it, or the first waiter is on its way and may still be overtaken.
    /// Otherwise returns it for [`checkin`](Core::checkin). `now` may lag a little; that
    /// long, a connection may be idle that a waiter should have.
    #[inline]
    pub(crate) fn checkin_fast(
        &mut self,
        now: Time,
        lease: Lease<T::Conn>,
    ) -> Result<(), Lease<T::Conn>> {
        self.put_on_top(self.gate, now, self.stamp(now), lease)
    }

    /// [`checkin_fast`](Core::checkin_fast) with a note in the journal; `now` is exact.
    pub(crate) fn checkin_noted(
        &mut self,
        now: Time,
        lease: Lease<T::Conn>,
    ) -> Result<(), Lease<T::Conn>> {
        let index = lease.permit.index();
        self.put_on_top(self.gate_in_force(), now, now, lease)?;
        self.note_move(index, ConnectionState::Busy, ConnectionState::Idle, None, now);
        Ok(())
    }

    /// A time at or after the true one, by a clock that lags.
    #[inline]
    fn stamp(&self, now: Time) -> Time {
        Time(now.0 + self.lag_nanos)
    }

    /// `now` is at or before the true time, and `stamp` at or after it.
    #[inline]
    fn take_top(
        &mut self,
        gate: Gate,
        now: Time,
        stamp: Time,
        caller: &T::Caller,
    ) -> Option<Lease<T::Conn>> {
        if self.idle.len() <= gate.floor {
            return None;
        }
        if now >= self.idle.back()?.fit_until {
            return None;
        }
        let lease = self.idle.pop_back()?;
        self.lend(&lease.permit, stamp, caller.clone());
        Some(lease)
    }

    /// `now` is at or before the true time, and `stamp` at or after it.
    #[inline]
    fn put_on_top(
        &mut self,
        gate: Gate,
        now: Time,
        stamp: Time,
        lease: Lease<T::Conn>,
    ) -> Result<(), Lease<T::Conn>> {
        let slot = &self.slots[lease.permit.index()];
        let keep = self.idle.len() < gate.ceiling
            && now < gate.until
            && slot.proof > self.doubted
            && !slot.old
            && !slot.leaking;
        if !keep {
            return Err(lease);
        }
        self.busy -= 1;
        self.push_idle(lease, stamp);
        Ok(())
    }

    /// [`enter`](Core::enter) for `Busy`; the caller notes it.
    #[inline]
    pub(super) fn lend(&mut self, permit: &Permit, stamp: Time, caller: T::Caller) {
        debug_assert!(self.has_begun_use(permit), "BUG: lent without the use handler");
        let slot = self.slot(permit);
        slot.state = ConnectionState::Busy;
        slot.since = stamp;
        slot.caller = Some(caller);
        slot.moved = false;
        self.busy += 1;
        self.counters.gets += 1;
    }

    /// [`enter`](Core::enter) for `Idle`, of a connection that is not in doubt; the caller notes
    /// it.
    #[inline]
    pub(super) fn push_idle(&mut self, mut lease: Lease<T::Conn>, stamp: Time) {
        let slot = &mut self.slots[lease.permit.index()];
        slot.state = ConnectionState::Idle;
        slot.since = stamp;
        slot.fresh_at = stamp;
        lease.fit_until = slot.fit_until(self.fresh_nanos, self.fresh_by_check);
        self.idle.push_back(lease);
    }

    /// Computes the gate anew. If there are subscribers, the paths that note nothing stay
    /// shut.
    pub(super) fn update_gate(&mut self) {
        let gate = self.gate_now();
        self.journal.gate = gate;
        self.gate = if self.journal.is_open() { Gate::SHUT } else { gate };
    }

    pub(super) fn gate_in_force(&self) -> Gate {
        if self.journal.is_open() { self.journal.gate } else { self.gate }
    }

    pub(super) fn gate_now(&self) -> Gate {
        if self.closed {
            return Gate::SHUT;
        }
        let until = self.queue.overtaken_until(self.policy.fairness_bound);
        // A caller may not take what must be checked or prepared first.
        let always_checks = self.fresh_nanos == 0 || self.policy.begins_uses;
        let floor = if self.paused || always_checks || !self.lends_are_planned {
            usize::MAX
        } else if self.occupied() < self.policy.max_size {
            // A get may leave fewer idle connections than the pool should keep.
            self.policy.min_idle_now() as usize
        } else {
            0
        };
        // A returned connection is for the first waiter, unless that has been nudged: it
        // claims one and serves the others.
        let wanted = self.queue.first() != self.nudged;
        let too_many = self.occupied() > self.policy.max_size;
        let ends = self.policy.ends_uses;
        let ceiling = if wanted || too_many || ends || !self.returns_are_planned {
            0
        } else {
            let most = self.policy.max_idle_now();
            // With more than `min_idle`, an old one may end.
            let kept = if self.has_old_idle() { self.policy.min_idle_now() } else { most };
            most.min(kept) as usize
        };
        Gate { until, floor, ceiling }
    }
}
