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
        let gives_up = self.fails_permanently();
        assert!(!gives_up || self.never_connected(), "P9: gave up what has worked");
        match self.succession {
            Succession::None | Succession::Short => {}
            Succession::Opening => assert!(self.old > 0 && self.opening > 0, "P17: opens nothing"),
            Succession::Ready => assert!(self.old > 0, "P17: a successor of none"),
        }
        for lease in self.idle.iter().filter(|lease| self.is_in_doubt(&lease.permit)) {
            assert_eq!(lease.fit_until, Time::START, "P13: in doubt, and lent without a check");
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
        let coming = self.opening_soon() + self.checking_soon() + self.idle_len();
        let served = coming >= self.queue.len() - self.only_idle
            || self.opening - self.past_limit.connects >= self.policy.max_opening
            || self.outage.is_some();
        assert!(
            served || self.occupied() >= self.policy.max_size,
            "P3: a waiter sleeps beside room to open"
        );
    }
}
