//! What the pool's owner does at run time.

use super::{Answer, Core, Effects, End, Reason, Time, Types};

impl<T: Types> Core<T> {
    /// Grows at once; shrinks by retiring idle connections now, oldest first,
    /// and the others as they come back.
    pub(crate) fn set_max_size(&mut self, max_size: u32, now: Time, fx: &mut Effects<T>) {
        self.policy.max_size = max_size;
        while self.open() + self.opening > max_size {
            let Some(lease) = self.idle.pop_front() else { break };
            self.retire(lease, Reason::Excess, now, fx);
        }
        self.serve(now, fx);
        self.settle();
    }

    pub(crate) fn set_min_idle(&mut self, min_idle: Option<u32>, now: Time, fx: &mut Effects<T>) {
        self.policy.min_idle = min_idle;
        self.serve(now, fx);
        self.settle();
    }

    /// Serves nobody until `resume`.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        // Not `settle`: an open that a quick get made due is asked for by whoever
        // was nudged, and may be missing until then.
        let gate = self.gate_now();
        self.open_gate(gate);
    }

    /// A resumption that serves nobody by itself.
    #[cfg(test)]
    pub(crate) fn unpause(&mut self) {
        self.paused = false;
        let gate = self.gate_now();
        self.open_gate(gate);
    }

    pub(crate) fn resume(&mut self, now: Time, fx: &mut Effects<T>) {
        self.paused = false;
        self.serve(now, fx);
        self.settle();
    }

    /// Retires every connection that exists or is being opened now.
    pub(crate) fn refresh(&mut self, now: Time, fx: &mut Effects<T>) {
        self.generation = self.generation.wrapping_add(1);
        self.retire_idle(Reason::Stale, now, fx);
        self.serve(now, fx);
        self.settle();
    }

    /// Refuses new callers, answers the waiting ones, retires what is idle; the
    /// rest is retired as it comes back.
    pub(crate) fn close(&mut self, now: Time, fx: &mut Effects<T>) {
        if self.closed {
            return;
        }
        self.closed = true;
        while let Some(first) = self.queue.first() {
            let waiter = self.dismiss(first, End::Closed, now).expect("BUG: the first is gone");
            fx.answer(waiter.cell, Answer::Closed);
        }
        self.retire_idle(Reason::Closed, now, fx);
        fx.progress = true;
        self.settle();
    }

    fn retire_idle(&mut self, reason: Reason, now: Time, fx: &mut Effects<T>) {
        while let Some(lease) = self.idle.pop_front() {
            self.retire(lease, reason, now, fx);
        }
    }
}
