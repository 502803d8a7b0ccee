//! Gets and returns that the fast path does not serve: acquire, join the queue, claim,
//! leave; check in, detach.

use std::time::Duration;

use super::{
    Answer, Arrival, Check, ConnectionState, Core, Effects, ErrorKind, Lease, Permit, PoolTypes,
    Reason, Step, ThreadId, Time, Waiter, WaiterId,
};

/// What the returning side knows about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Check(Check),
    Broken,
}

impl<T: PoolTypes> Core<T> {
    /// A get comes.
    pub(crate) fn arrive(&mut self, now: Time) -> Arrival {
        Arrival { get_id: self.queue.next_get_id(), since: now }
    }

    /// Takes an idle connection that needs no check, past waiters if the fairness bound
    /// allows it.
    pub(crate) fn acquire(
        &mut self,
        arrival: Arrival,
        priority: u8,
        caller: &T::Caller,
        fx: &mut Effects<T>,
    ) -> Option<Lease<T::Conn>> {
        // If the nudged waiter is slow, those past the bound are served now; the rest is
        // there for the taking.
        self.serve(fx);
        // With a use handler nobody takes a connection by itself.
        let takes = !self.policy.begins_uses;
        let may_overtake = takes && self.may_overtake(arrival, priority, fx.now);
        let lease = if may_overtake { self.pop_fresh(fx.now) } else { None };
        if let Some(lease) = &lease {
            self.lend_past_waiters(&lease.permit, arrival, caller, fx);
            self.serve(fx);
        }
        self.settle();
        lease
    }

    /// Lends a connection to a caller that is not in the queue. It has waited only if it has
    /// made a check itself.
    fn lend_past_waiters(
        &mut self,
        permit: &Permit,
        arrival: Arrival,
        caller: &T::Caller,
        fx: &mut Effects<T>,
    ) {
        let waited = fx.now.since(arrival.since);
        self.counters.gets_waited += u64::from(!waited.is_zero());
        self.counters.time_waited += waited;
        self.counters.overtakes += u64::from(!self.queue.is_empty());
        let from = self.slots[permit.index()].state;
        self.lend(permit, fx.now, caller.clone());
        self.plan_for_lends(fx);
        self.note_checkout(permit, Some(arrival.get_id), from, waited, fx.now);
    }

    /// Whether this caller may take a connection past the waiters.
    fn may_overtake(&self, arrival: Arrival, priority: u8, now: Time) -> bool {
        let bound = self.policy.fairness_bound;
        self.serving() && self.queue.may_be_overtaken(now, arrival, priority, bound)
    }

    /// Whether this caller could take the top of the stack if that were not due for a check.
    pub(crate) fn may_check(&self, arrival: Arrival, priority: u8, now: Time) -> bool {
        // With a use handler a worker is needed anyway.
        let takes = !self.policy.begins_uses;
        takes && self.top_is_stale(now) && self.may_overtake(arrival, priority, now)
    }

    /// Takes the top of the stack, for a caller that makes the check itself. Nobody else counts
    /// on it.
    pub(crate) fn take_to_check(&mut self, fx: &mut Effects<T>) -> Lease<T::Conn> {
        let lease = self.idle.pop_back().expect("BUG: the top is gone");
        self.begin_check(&lease.permit, Check::VALIDATE, None, fx.now);
        self.slot(&lease.permit).past_patience = true;
        self.past_patience.checks += 1;
        self.schedule_deadline(&lease.permit, fx);
        self.finish(fx);
        lease
    }

    /// The check that a caller has made itself has succeeded. The caller gets the connection,
    /// unless it must not be lent any more, or a waiter comes first: one whose own check has
    /// failed meanwhile, for example.
    pub(crate) fn take_checked(
        &mut self,
        lease: Lease<T::Conn>,
        arrival: Arrival,
        priority: u8,
        caller: &T::Caller,
        fx: &mut Effects<T>,
    ) -> Option<Lease<T::Conn>> {
        let slot = self.slot(&lease.permit);
        let is_counted = slot.state == ConnectionState::Checking;
        slot.check_succeeded(fx.now);
        let may_lend = is_counted && !self.is_in_doubt(&lease.permit);
        let may_lend = may_lend && self.may_overtake(arrival, priority, fx.now);
        if !may_lend || self.unfit(&lease.permit).is_some() {
            self.check_finished(lease, Ok(()), fx);
            return None;
        }
        self.end_check_call(&lease.permit, fx);
        self.lend_past_waiters(&lease.permit, arrival, caller, fx);
        self.check_another(fx);
        self.finish(fx);
        Some(lease)
    }

    /// Whether a caller that does not wait for a connect may wait for a check.
    pub(crate) fn may_await_check(&self, arrival: Arrival, priority: u8, now: Time) -> bool {
        !self.idle.is_empty() && self.may_overtake(arrival, priority, now)
    }

    /// Joins the queue, or fails at once.
    pub(crate) fn join(
        &mut self,
        waiter: Waiter<T>,
        fx: &mut Effects<T>,
    ) -> Result<WaiterId, ErrorKind> {
        let now = fx.now;
        // Each newcomer starts a check if it needs one, whatever checks are under way:
        // those may hang. Nor is it refused while a connection is idle.
        let checks = self.serving() && self.top_is_stale(now);
        // With a use handler it joins the queue even then.
        let is_served = self.policy.begins_uses && self.serving() && !self.idle.is_empty();
        let waiting = self.queue.unprepared();
        let is_full = || self.policy.max_waiters.is_some_and(|max| waiting >= max);
        let refusal = if self.closed {
            Some(ErrorKind::Closed)
        } else if self.is_hopeless(now) {
            Some(ErrorKind::Connect)
        } else {
            // One that came earlier, and made a check itself, keeps its place.
            let is_new = waiter.since >= now;
            (is_new && !checks && !is_served && is_full()).then_some(ErrorKind::QueueFull)
        };
        if let Some(kind) = refusal {
            self.count_failure(kind, waiter.only_idle);
            let (get_id, caller, waited) = (waiter.get_id, waiter.caller, now.since(waiter.since));
            self.journal.note(now, Step::GetFailed { get_id, caller, waited, kind });
            return Err(kind);
        }
        self.only_idle += u32::from(waiter.only_idle);
        let (caller, priority) = (waiter.caller.clone(), waiter.priority);
        let nested = waiter.nested.then(|| caller.thread_id());
        let deadline = waiter.task;
        let id = self.queue.push(waiter);
        self.journal.note(now, Step::Enqueued { get_id: id.get_id(), caller, priority });
        if let Some(thread) = nested {
            // A thread waits twice if it runs user code on the way to its first wait. It
            // returns to that one, so the first counts.
            self.nested.entry(thread).or_insert(id);
        }
        // One without time leaves in the same transition.
        if let Some(at) = deadline.filter(|&at| at > now) {
            self.keep_deadline(id, at, fx);
        }
        if checks {
            self.check_top(fx);
        }
        self.finish(fx);
        Ok(id)
    }

    /// A waiter claims an idle connection: it was nudged, or its deadline has come while
    /// another waiter is nudged. It first serves those before it, and may find nothing
    /// left if a newcomer was quicker. Then it keeps its place. A task takes up what it was
    /// granted.
    pub(crate) fn claim(&mut self, id: WaiterId, fx: &mut Effects<T>) -> Option<Lease<T::Conn>> {
        self.come_back(id, fx);
        let claimed = self.take_up(id).or_else(|| {
            let lease = self.claim_for(id, fx)?;
            self.lend_to(id, &lease.permit, fx);
            Some(lease)
        });
        self.finish(fx);
        claimed
    }

    /// Finds an idle connection for a waiter in the line, after it has served those before it. With
    /// a use handler there is none that it could take.
    pub(super) fn claim_for(
        &mut self,
        id: WaiterId,
        fx: &mut Effects<T>,
    ) -> Option<Lease<T::Conn>> {
        if self.nudged == Some(id) {
            self.nudged = None;
        }
        let takes = !self.policy.begins_uses;
        while takes && self.serving() && self.queue.is_in_line(id) {
            let Some(lease) = self.pop_fresh(fx.now) else {
                // If its return read a clock that lags, the top may be due for a check
                // before the connections below it.
                if self.top_is_stale(fx.now) && self.checking_soon() < self.queue.len() {
                    self.check_top(fx);
                    continue;
                }
                break;
            };
            match self.queue.first() {
                Some(first) if first != id => self.grant(first, lease, fx),
                _ => return Some(lease),
            }
        }
        None
    }

    /// A waiter gives up: `Timeout`, or `Cancelled`, which is also answered. Returns
    /// `false` if it was answered before; then the answer is in its cell.
    pub(crate) fn leave(&mut self, id: WaiterId, kind: ErrorKind, fx: &mut Effects<T>) -> bool {
        if self.queue.is_granted(id) {
            if kind == ErrorKind::Cancelled {
                self.queue.cancel_granted(id);
            }
            return false;
        }
        let Some(waiter) = self.dismiss(id, kind, fx.now) else { return false };
        if kind == ErrorKind::Cancelled {
            fx.answers.push((waiter.cell, Answer::Failed(kind, None)));
        }
        self.finish(fx);
        true
    }

    /// Whether a get without time is hopeless, since a use must begin first. If the pool is closed,
    /// or connecting fails, it fails for that.
    pub(crate) fn refuses_without_time(&self, now: Time) -> bool {
        self.policy.begins_uses && !self.closed && !self.is_hopeless(now)
    }

    /// A get fails before it joins the queue: its token was cancelled before, or it has no time.
    pub(crate) fn refuse(&mut self, kind: ErrorKind, now: Time, caller: T::Caller) {
        self.count_failure(kind, false);
        let (get_id, waited) = (self.queue.next_get_id(), Duration::ZERO);
        self.journal.note(now, Step::GetFailed { get_id, caller, waited, kind });
    }

    /// A caller that waits only for an idle connection does not count as failed, unless
    /// it was cancelled.
    pub(super) fn count_failure(&mut self, kind: ErrorKind, only_idle: bool) {
        let counter = match kind {
            ErrorKind::Timeout => &mut self.counters.timeouts,
            ErrorKind::Cancelled => &mut self.counters.cancelled,
            ErrorKind::QueueFull => &mut self.counters.refused,
            _ => &mut self.counters.failed,
        };
        *counter += u64::from(!only_idle || kind == ErrorKind::Cancelled);
    }

    /// A holder returns its connection.
    pub(crate) fn checkin(&mut self, lease: Lease<T::Conn>, verdict: Verdict, fx: &mut Effects<T>) {
        // Asked while it still counts as busy.
        let unfit = self.unfit(&lease.permit);
        self.busy -= 1;
        self.end_leak(&lease.permit, fx);
        let end = self.policy.ends_uses;
        match (verdict, unfit) {
            (Verdict::Broken, _) => self.retire(lease, Reason::Broken, fx),
            (_, Some(reason)) => self.retire_unfit(lease, reason, fx),
            (Verdict::Keep, None) if !end => self.shelve(lease, fx),
            (Verdict::Keep, None) => self.check_returned(lease, Check { end, ..Check::NONE }, fx),
            (Verdict::Check(check), None) => {
                self.check_returned(lease, Check { end, ..check }, fx);
            }
        }
        self.finish(fx);
    }

    fn check_returned(&mut self, lease: Lease<T::Conn>, check: Check, fx: &mut Effects<T>) {
        // If it is in doubt, a reset alone would leave a check to the next caller.
        let validate = check.validate || self.is_in_doubt(&lease.permit);
        self.start_check(lease, Check { validate, ..check }, None, fx);
    }

    /// A holder keeps its connection for good; the pool no longer counts it.
    pub(crate) fn detach(&mut self, permit: Permit, fx: &mut Effects<T>) {
        self.busy -= 1;
        self.end_leak(&permit, fx);
        self.counters.closed[Reason::Detached as usize] += 1;
        self.vacate(permit, Some(Reason::Detached), fx.now);
        fx.progress = true;
        self.finish(fx);
    }
}
