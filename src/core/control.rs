//! Commands of the pool's owner.

use std::time::Duration;

use super::{Check, Core, Effects, ErrorKind, Policy, PoolTypes, Reason, Time};

impl<T: PoolTypes> Core<T> {
    /// A core that is closed from the beginning.
    pub(crate) fn closed(policy: Policy) -> Core<T> {
        Core { closed: true, ..Core::new(policy) }
    }

    /// Grows at once; shrinks by retiring idle connections now, from the bottom of the stack, and
    /// the others as they are returned.
    pub(crate) fn set_max_size(&mut self, max_size: u32, fx: &mut Effects<T>) {
        self.policy.max_size = max_size;
        while self.open_count() + self.opening > max_size {
            let Some(lease) = self.idle.pop_front() else { break };
            self.retire(lease, Reason::Excess, fx);
        }
        self.forget_successor_without_room();
        if self.open_count() >= max_size
            && let Some(outage) = &mut self.outage
        {
            // Nothing is tried any more, so it may have ended when the last connection ends.
            outage.fails_fast_from = Time::NEVER;
        }
        self.finish(fx);
    }

    pub(crate) fn set_min_idle(&mut self, min_idle: Option<u32>, fx: &mut Effects<T>) {
        self.policy.min_idle = min_idle;
        // Those that have been idle too long may be too many now.
        let idle_end = self.next_idle_end();
        self.wake_reaper_at(idle_end, fx);
        self.finish(fx);
    }

    /// Serves nobody until `resume`.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        // Not `settle`: a connect that a fast get made due is asked for by the nudged
        // waiter, and may be missing until then.
        self.update_gate();
    }

    /// Resumes without serving anybody.
    #[cfg(test)]
    pub(crate) fn unpause(&mut self) {
        self.paused = false;
        self.update_gate();
    }

    pub(crate) fn resume(&mut self, fx: &mut Effects<T>) {
        self.paused = false;
        self.finish(fx);
    }

    /// Replaces every connection that is open or being opened now, one after another.
    pub(crate) fn refresh(&mut self, fx: &mut Effects<T>) {
        self.generation = self.generation.wrapping_add(1);
        self.make_all_old();
        self.finish(fx);
    }

    /// Somebody wants to know whether the pool works. If no connection has shown that for
    /// `proof_lasts`, an idle one is checked; if none is open, one is opened.
    pub(crate) fn prove(&mut self, proof_lasts: Duration, fx: &mut Effects<T>) {
        let proved = self.proved_at().is_some_and(|at| fx.now.since(at) < proof_lasts);
        let comes = self.checking + self.opening > 0 || self.missing() > 0;
        if !self.serving() || !self.queue.is_empty() || proved || comes {
            return;
        }
        if let Some(lease) = self.idle.pop_front() {
            let since = self.slot(&lease.permit).since;
            self.start_check(lease, Check::VALIDATE, Some(since), fx);
        } else if self.open_count() == 0 && self.may_retry(fx.now) && !self.is_full() {
            self.open_one(fx);
        }
        self.finish(fx);
    }

    /// Refuses new callers, fails the waiters, retires idle connections now and the others
    /// as they are returned. Returns `false` if the pool was closed before.
    pub(crate) fn close(&mut self, fx: &mut Effects<T>) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        self.fail_all(ErrorKind::Closed, None, fx);
        self.retire_idle(Reason::PoolClosed, fx);
        fx.progress = true;
        self.settle();
        true
    }

    /// Whether the pool is closed, and no connection is idle, being checked or being closed.
    /// The drop of the last handle waits for this. So it waits neither for holders, nor for
    /// connects, nor for abandoned calls.
    pub(crate) fn has_closed_unheld(&self) -> bool {
        self.closed && self.checking + self.closing() == 0
    }
}
