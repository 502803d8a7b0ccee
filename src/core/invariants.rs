//! The promises that can be read off a state.

use super::slot::Slot;
use super::state::Succession;
use super::{ConnectionState, Core, PoolTypes, ThreadId, Time};

impl<T: PoolTypes> Core<T> {
    /// Asserts the invariants, in debug builds; not of large pools, since it visits every
    /// slot.
    pub(super) fn check_invariants(&self) {
        if !cfg!(debug_assertions) || self.slots.len() > 256 {
            return;
        }
        assert_eq!(self.gate_in_force(), self.gate_now(), "the gate of the fast paths is outdated");
        self.check_counts();
        let at_once = self.pace.at_once;
        assert!((1..=self.policy.max_opening).contains(&at_once), "{at_once} connects at once");
        assert!(self.outage.is_none() || at_once == 1, "{at_once} connects at once in an outage");
        assert!(self.abandoned <= self.policy.max_abandoned, "P5: too many abandoned calls");
        let closers = self.closers - self.past_limit.closes;
        assert!(closers <= self.policy.max_closers, "too many closers");
        assert!(self.retired.is_empty() || closers > 0, "P6: retired, but nothing closes it");
        if self.closed {
            assert!(self.queue.is_empty() && self.idle.is_empty(), "P11: left behind in close");
            return;
        }
        if let Some(id) = self.nudged {
            assert!(self.queue.get(id).is_some(), "P4: nudged a waiter that has left");
        }
        for (thread, &id) in &self.nested {
            let waiter = self.queue.get(id).expect("P4: a nested waiter that has left");
            assert_eq!(waiter.caller.thread_id(), *thread, "nested");
        }
        if self.policy.begins_uses {
            self.check_uses();
        }
        let gives_up = self.fails_permanently();
        assert!(!gives_up || self.never_connected(), "P9: gave up what has worked");
        match self.succession {
            Succession::None | Succession::Short => {}
            Succession::Opening => assert!(self.old > 0 && self.opening > 0, "P17: opens nothing"),
            Succession::Ready => assert!(self.old > 0, "P17: a successor of none"),
        }
        if let Some(outage) = self.outage.as_ref().filter(|_| self.tries_by_itself()) {
            let tries = self.opening_soon() > 0 || self.wake_at <= outage.retry_at;
            let room = self.occupied() < self.policy.max_size;
            assert!(tries || !room, "P9: nobody tries to end an outage in which callers fail");
        }
        for lease in &self.idle {
            let fit_until = match self.is_in_doubt(&lease.permit) {
                true => Time::START,
                false => self.slots[lease.permit.index()]
                    .fit_until(self.fresh_nanos, self.fresh_by_check),
            };
            assert_eq!(lease.fit_until, fit_until, "P13: lent without a check that is due");
        }
        if !self.queue.is_empty() {
            self.check_that_waiters_are_served();
        }
    }

    /// The counts are those of the slots.
    fn check_counts(&self) {
        use ConnectionState::*;
        let count =
            |is: &dyn Fn(&Slot<T>) -> bool| self.slots.iter().filter(|slot| is(slot)).count();
        for (state, counted) in [
            (Gone, self.free.len()),
            (Opening, self.opening as usize),
            (Idle, self.idle.len()),
            (Busy, self.busy as usize),
            (Checking, self.checking as usize),
            (Retired, self.retired.len()),
            (Closing, self.closers as usize),
            (Abandoned, self.abandoned as usize),
        ] {
            assert_eq!(count(&|slot| slot.state == state), counted, "{state:?}");
        }
        let past_patience = count(&|slot| slot.past_patience) as u32;
        assert_eq!(past_patience, self.past_patience.total(), "past patience");
        assert_eq!(count(&|slot| slot.old) as u32, self.old, "old ones");
        assert!(self.slots.iter().all(|slot| slot.is_open() || !slot.old), "old, but not open");
        let past_limit = count(&|slot| slot.past_limit) as u32;
        assert_eq!(past_limit, self.past_limit.total(), "past their limit");
    }

    fn check_that_waiters_are_served(&self) {
        if !self.paused && !self.idle.is_empty() {
            let served = self.nudged.is_some() || self.checking_soon() >= self.queue.len();
            assert!(served, "P3: a waiter sleeps beside an idle connection");
        }
        if self.unserved() == 0 || self.occupied() >= self.policy.max_size {
            return;
        }
        // Each end of a connect starts the next, and so does a connect that takes too long.
        let is_retried = self.outage.as_ref().is_some_and(|outage| self.wake_at <= outage.retry_at);
        let comes = self.opening_soon() >= self.pace.at_once || is_retried;
        assert!(comes, "P3: a waiter sleeps beside room to open");
        // In an outage nothing starts before the backoff is over, whatever hangs.
        let retry_at = self.outage.as_ref().map_or(Time::START, |outage| outage.retry_at);
        let starts = self.held_up_until().max(retry_at);
        assert!(self.wake_at <= starts, "P3: connects that hang hold up a waiter");
    }
}
