//! Which connections end, when their close starts, and what takes their places.
//!
//! A connection whose lifetime is nearly over, or that was opened before a refresh, is *old*.
//! It ends when its successor is there: the pool opens one successor at a time, while the old
//! ones go on serving. A pool without room for one ends one old connection first, so it is
//! short of one at the most. So neither age, nor a refresh, nor idleness brings a pool that
//! can connect below the smaller of `min_idle` and `max_size - 1` connections, and one that
//! cannot connect keeps what it has (P17).
//!
//! With `ends_on_time` that does not hold: what is past its lifetime ends at once.

use std::time::Duration;

use super::slot::Slot;
use super::state::Succession;
use super::{
    CallKind, ConnectionState, Core, Effects, Job, Lease, Permit, PoolTypes, Reason, Time,
};

/// The first successor is opened so early that there is time to replace all connections this
/// many times, one after another.
const LEAD_FACTOR: u32 = 2;

impl<T: PoolTypes> Core<T> {
    /// Draws when a new connection, whose connect has `begun` then, becomes old, and for how
    /// long it may be idle.
    pub(super) fn draw_ages(&mut self, permit: &Permit, begun: Time, fx: &mut Effects<T>) {
        let expires = fx.now.after_opt(self.draw_lifetime(fx.now.since(begun)));
        let idle_time = self.draw_idle_time();
        let slot = self.slot(permit);
        (slot.expires, slot.idle_time) = (expires, idle_time);
        self.wake_reaper_at(expires, fx);
    }

    /// So much shorter than `max_lifetime` that as many connections as the pool can have are
    /// replaced one after another by then, if each connect takes as long as this one took.
    fn draw_lifetime(&mut self, connect_took: Duration) -> Option<Duration> {
        let life = self.policy.max_lifetime?;
        let life = life - life.mul_f64(self.jitter());
        if self.policy.ends_on_time {
            return Some(life);
        }
        let lead = connect_took.saturating_mul(self.policy.max_size.saturating_mul(LEAD_FACTOR));
        Some(life - lead.min(life / 2))
    }

    /// Longer than `idle_timeout`, since no limit ends early.
    fn draw_idle_time(&mut self) -> Option<Duration> {
        let timeout = self.policy.idle_timeout?;
        let more = timeout.as_secs_f64() * self.jitter();
        Some(timeout.saturating_add(Duration::try_from_secs_f64(more).unwrap_or(Duration::MAX)))
    }

    fn jitter(&mut self) -> f64 {
        self.fraction() * f64::from(self.policy.lifetime_jitter_permille) / 1000.0
    }

    /// All connections that are open now are old.
    pub(super) fn make_all_old(&mut self) {
        self.make_old(Time::NEVER);
    }

    /// Those whose lifetime is nearly over are old.
    pub(super) fn find_old(&mut self, now: Time) {
        if self.policy.max_lifetime.is_some() {
            self.make_old(now);
        }
    }

    fn make_old(&mut self, end: Time) {
        for slot in &mut self.slots {
            if slot.is_open() && !slot.old && slot.expires <= end {
                slot.old = true;
                self.old += 1;
            }
        }
    }

    /// When the next connection becomes old.
    pub(super) fn next_old(&self) -> Time {
        if self.policy.max_lifetime.is_none() {
            return Time::NEVER;
        }
        let young = self.slots.iter().filter(|slot| slot.is_open() && !slot.old);
        young.map(|slot| slot.expires).min().unwrap_or(Time::NEVER)
    }

    /// An old connection is no longer open, for whatever reason: a successor that is there
    /// has taken its place.
    pub(super) fn forget_old(&mut self) {
        self.old -= 1;
        let opening_for_none = self.succession == Succession::Opening && self.old == 0;
        if self.succession == Succession::Ready || opening_for_none {
            self.succession = Succession::None;
        }
    }

    /// One connection more is open than before.
    pub(super) fn end_succession(&mut self) {
        self.succession = match self.succession {
            Succession::Opening => Succession::Ready,
            Succession::Short => Succession::None,
            other => other,
        };
    }

    /// A connect has ended: if it failed and was the last, the next successor is opened after
    /// the backoff.
    pub(super) fn stop_succession_without_connect(&mut self) {
        if self.succession == Succession::Opening && self.opening == 0 {
            self.succession = Succession::None;
        }
    }

    /// The pool is full again: `max_size` has changed, or an abandoned call has succeeded.
    pub(super) fn forget_successor_without_room(&mut self) {
        let full = self.open_count() + self.opening >= self.policy.max_size;
        if self.succession == Succession::Short && full {
            self.succession = Succession::None;
        }
    }

    /// Whether a connect should be started only to replace an old connection. In an outage it
    /// follows the backoff, as any other.
    pub(super) fn wants_successor(&self) -> bool {
        let wanted = match self.succession {
            Succession::None => self.old > 0,
            Succession::Short => true,
            Succession::Opening => false,
            // Others needed the one that was opened.
            Succession::Ready => self.has_old_idle() && !self.may_end_old(self.idle_len()),
        };
        wanted && self.opening == 0
    }

    /// An old connection is idle.
    pub(super) fn has_old_idle(&self) -> bool {
        let is_old = |lease: &Lease<T::Conn>| self.slots[lease.permit.index()].old;
        self.old > 0 && self.idle.iter().any(is_old)
    }

    /// Whether an old connection that is idle, or would be idle, may end now; `idle` counts the
    /// idle connections with this one. Either its successor is there, or there is no room for one
    /// and connecting does not fail.
    fn may_end_old(&self, idle: u32) -> bool {
        let full = self.open_count() >= self.policy.max_size;
        match self.succession {
            Succession::Ready => full || idle > self.policy.min_idle_now(),
            Succession::None => full && self.opening == 0 && self.outage.is_none(),
            Succession::Opening | Succession::Short => false,
        }
    }

    /// It is past its lifetime, and does not wait for a successor.
    fn has_ended(&self, slot: &Slot<T>) -> bool {
        self.policy.ends_on_time && slot.old && slot.generation == self.generation
    }

    /// Ends old idle connections as far as that may be, from the bottom of the stack. One that
    /// nobody has used in all its life has no successor, unless `min_idle` needs one.
    pub(super) fn replace_old(&mut self, fx: &mut Effects<T>) {
        while self.old > 0 && self.queue.is_empty() {
            let surplus = self.idle_len() > self.policy.min_idle_now();
            let unneeded = |slot: &Slot<T>| surplus && slot.caller.is_none();
            let old = |lease: &Lease<T::Conn>| {
                let slot = &self.slots[lease.permit.index()];
                let may_end = || self.has_ended(slot) || self.may_end_old(self.idle_len());
                slot.old && (unneeded(slot) || may_end())
            };
            let Some(place) = self.idle.iter().position(old) else { return };
            let lease = self.idle.remove(place).expect("BUG: the old connection is gone");
            let reason = self.reason_of_age(&lease.permit);
            let kept = surplus || self.open_count() + 1 >= self.policy.max_size;
            debug_assert!(kept || (self.policy.ends_on_time && reason == Reason::Expired), "P17");
            if surplus && self.slot(&lease.permit).caller.is_none() {
                self.retire(lease, reason, fx);
            } else {
                self.retire_unfit(lease, reason, fx);
            }
        }
    }

    fn reason_of_age(&self, permit: &Permit) -> Reason {
        let generation = self.slots[permit.index()].generation;
        if generation == self.generation { Reason::Expired } else { Reason::Stale }
    }

    /// Why a connection that is in use, being opened or checked must not go on.
    pub(super) fn unfit(&self, permit: &Permit) -> Option<Reason> {
        let slot = &self.slots[permit.index()];
        let outdated = !slot.is_open() && slot.generation != self.generation;
        if self.closed {
            Some(Reason::PoolClosed)
        } else if outdated {
            Some(Reason::Stale)
        } else if self.open_count() + self.opening > self.policy.max_size {
            Some(Reason::Excess)
        } else if slot.old && (self.has_ended(slot) || self.may_end_old(self.idle_len() + 1)) {
            Some(self.reason_of_age(permit))
        } else {
            None
        }
    }

    /// Retires a connection for what [`unfit`](Core::unfit) says. If it is old and ends before
    /// there is a successor, one is opened.
    pub(super) fn retire_unfit(
        &mut self,
        lease: Lease<T::Conn>,
        reason: Reason,
        fx: &mut Effects<T>,
    ) {
        let ages = matches!(reason, Reason::Expired | Reason::Stale);
        let slot = &self.slots[lease.permit.index()];
        let leaves_gap = ages && slot.old && !self.has_ended(slot);
        if leaves_gap && self.succession == Succession::None {
            self.succession = Succession::Short;
        }
        self.retire(lease, reason, fx);
    }

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
