//! Brings connections and waiters together.

use super::{
    Answer, Check, ConnectionState, Core, Effects, ErrorKind, Job, Lease, Permit, PoolTypes,
    Reason, Step, ThreadId, Time, Waiter, WaiterId,
};

impl<T: PoolTypes> Core<T> {
    /// Decides who is next, and what is opened or checked. Called at the end of every
    /// transition that may have made a connection, a waiter or room for a connection
    /// available (P3).
    pub(super) fn serve(&mut self, fx: &mut Effects<T>) {
        self.serve_from_idle(fx);
        if self.only_idle != 0 && self.idle.is_empty() && self.checking == 0 {
            self.dismiss_only_idle(fx);
        }
        self.fail_if_hopeless(fx);
        self.replace_old(fx);
        while self.queue.is_empty() && self.idle_len() > self.policy.max_idle_now() {
            let lease = self.idle.pop_front().expect("BUG: the bottom is gone");
            self.retire(lease, Reason::Excess, fx);
        }
        self.open_as_needed(fx);
        self.detect_self_deadlock(fx);
    }

    fn serve_from_idle(&mut self, fx: &mut Effects<T>) {
        while self.serving() {
            let Some(first) = self.queue.first() else { return };
            if self.idle.is_empty() {
                return;
            }
            if self.top_is_stale(fx.now) {
                if self.checking_soon() >= self.queue.len() {
                    return;
                }
                self.check_top(fx);
            } else if self.is_due(first, fx.now) {
                let lease = self.pop_fresh(fx.now).expect("BUG: the fit one is gone");
                self.grant(first, lease, fx);
            } else {
                if self.nudged.is_none() {
                    self.nudged = Some(first);
                    let cell = self.queue.get(first).expect("BUG: the first is gone").cell.clone();
                    fx.answers.push((cell, Answer::Nudged));
                }
                return;
            }
        }
    }

    /// The last check that some waiters waited for has failed.
    fn dismiss_only_idle(&mut self, fx: &mut Effects<T>) {
        let only_idle = self.queue.iter().filter(|(_, waiter)| waiter.only_idle);
        let ids: Vec<WaiterId> = only_idle.map(|(id, _)| id).collect();
        for id in ids {
            self.fail(id, ErrorKind::Timeout, None, fx);
        }
    }

    /// Gives a connection that was opened or validated for a waiter to the first waiter,
    /// unless doubt was cast on it meanwhile.
    pub(super) fn offer(&mut self, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        match self.queue.first() {
            Some(first) if self.serving() && !self.is_in_doubt(&lease.permit) => {
                self.grant(first, lease, fx);
            }
            _ => self.shelve(lease, fx),
        }
    }

    /// Gives a connection to a waiter, which leaves the line: at once, or when its use has begun.
    #[inline]
    pub(super) fn grant(&mut self, id: WaiterId, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        if self.policy.begins_uses {
            self.begin_use(id, lease, fx);
        } else {
            self.hand_out(id, lease, fx);
        }
    }

    /// Gives a connection to a waiter that may have it as it is.
    pub(super) fn hand_out(&mut self, id: WaiterId, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        if self.queue.get(id).is_some_and(|waiter| waiter.task.is_some()) {
            return self.grant_to_task(id, lease, fx);
        }
        let cell = self.lend_to(id, &lease.permit, fx);
        fx.answers.push((cell, Answer::Granted(lease)));
    }

    /// Lends a connection to a waiter, which leaves the queue. Returns its cell.
    pub(super) fn lend_to(
        &mut self,
        id: WaiterId,
        permit: &Permit,
        fx: &mut Effects<T>,
    ) -> T::Cell {
        let now = fx.now;
        let waiter = self.unqueue(id, now).expect("BUG: granted to a waiter that has left");
        let from = self.slots[permit.index()].state;
        self.lend(permit, now, waiter.caller);
        self.plan_for_lends(fx);
        self.counters.gets_waited += 1;
        self.note_checkout(permit, Some(id.get_id()), from, now.since(waiter.since), now);
        waiter.cell
    }

    /// Answers a waiter with an error.
    pub(super) fn fail(
        &mut self,
        id: WaiterId,
        kind: ErrorKind,
        cause: Option<T::Cause>,
        fx: &mut Effects<T>,
    ) {
        let waiter = self.dismiss(id, kind, fx.now).expect("BUG: failed a waiter that has left");
        fx.answers.push((waiter.cell, Answer::Failed(kind, cause)));
    }

    /// Removes a waiter that gets no connection. `None` if it has left.
    pub(super) fn dismiss(
        &mut self,
        id: WaiterId,
        kind: ErrorKind,
        now: Time,
    ) -> Option<Waiter<T>> {
        let waiter = self.unqueue(id, now)?;
        self.count_failure(kind, waiter.only_idle);
        let (get_id, caller, waited) =
            (id.get_id(), waiter.caller.clone(), now.since(waiter.since));
        self.journal.note(now, Step::GetFailed { get_id, caller, waited, kind });
        Some(waiter)
    }

    /// Takes a waiter out of the queue and counts its wait.
    fn unqueue(&mut self, id: WaiterId, now: Time) -> Option<Waiter<T>> {
        self.counters.time_waited += self.queue.count_wait(id, now);
        // Only waiters in the line count.
        let counts = self.only_idle != 0 && self.queue.is_in_line(id);
        let (waiter, lease) = self.queue.remove(id)?;
        debug_assert!(lease.is_none(), "BUG: a waiter leaves that has a connection");
        if self.nudged == Some(id) {
            self.nudged = None;
        }
        self.only_idle -= u32::from(waiter.only_idle && counts);
        let thread = waiter.caller.thread_id();
        if waiter.nested && self.nested.get(&thread) == Some(&id) {
            self.nested.remove(&thread);
        }
        Some(waiter)
    }

    /// This waiter has a connection handed to it: a thread that has waited for the fairness
    /// bound, and any task, since it may take long until that is polled; and everybody whose use
    /// begins first.
    fn is_due(&self, id: WaiterId, now: Time) -> bool {
        if self.policy.begins_uses {
            return true;
        }
        let bound = self.policy.fairness_bound;
        let is_due = |waiter: &Waiter<T>| waiter.task.is_some() || now.since(waiter.since) >= bound;
        self.queue.get(id).is_some_and(is_due)
    }

    /// Fails everybody who waits, in the line or aside.
    pub(super) fn fail_all(
        &mut self,
        kind: ErrorKind,
        cause: Option<&T::Cause>,
        fx: &mut Effects<T>,
    ) {
        while let Some(first) = self.queue.first() {
            self.fail(first, kind, cause.cloned(), fx);
        }
        let absent: Vec<WaiterId> =
            self.queue.aside_without_connection().iter().map(|(id, _)| *id).collect();
        for id in absent {
            self.fail(id, kind, cause.cloned(), fx);
        }
    }

    /// A check has ended. The next starts if callers still wait, even if other checks are
    /// under way: those may hang, this one did not.
    pub(super) fn check_another(&mut self, fx: &mut Effects<T>) {
        if self.serving() && !self.queue.is_empty() && self.top_is_stale(fx.now) {
            self.check_top(fx);
        }
    }

    /// The top of the stack is due for a check, or in doubt, and so are those below it.
    pub(super) fn top_is_stale(&self, now: Time) -> bool {
        let stale = |top: &Lease<T::Conn>| !self.is_fit(top, now);
        self.idle.back().is_some_and(stale)
            && !(self.fresh_by_check && self.fit_below(now).is_some())
    }

    fn is_fit(&self, lease: &Lease<T::Conn>, now: Time) -> bool {
        now < lease.fit_until && self.fresh_nanos != 0
    }

    /// Where a connection lies that needs no check, below others that do. If a use makes them fit
    /// too, there is none.
    #[cold]
    fn fit_below(&self, now: Time) -> Option<usize> {
        self.idle.iter().rposition(|lease| self.is_fit(lease, now))
    }

    pub(super) fn check_top(&mut self, fx: &mut Effects<T>) {
        let lease = self.idle.pop_back().expect("BUG: the top is gone");
        self.start_check(lease, Check::VALIDATE, None, fx);
    }

    /// Takes the first connection from the top of the stack that needs no check.
    pub(super) fn pop_fresh(&mut self, now: Time) -> Option<Lease<T::Conn>> {
        if self.is_fit(self.idle.back()?, now) {
            return self.idle.pop_back();
        }
        let below = if self.fresh_by_check { self.fit_below(now) } else { None };
        self.idle.remove(below?)
    }

    /// Puts a connection onto the stack, and plans for its time there. One that is in doubt
    /// goes to the bottom: those above it need no check.
    pub(super) fn shelve(&mut self, mut lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        self.plan_for_returns(fx);
        self.enter(lease.permit.index(), ConnectionState::Idle, None, fx.now);
        if self.is_in_doubt(&lease.permit) {
            self.slot(&lease.permit).fresh_at = fx.now;
            lease.fit_until = Time::START;
            self.idle.push_front(lease);
        } else {
            self.push_idle(lease, fx.now);
        }
    }

    /// [`shelve`](Core::shelve) for one that was not used, which proves nothing: it goes below
    /// those that need no check for longer.
    pub(super) fn shelve_unused(&mut self, mut lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        self.plan_for_returns(fx);
        self.enter(lease.permit.index(), ConnectionState::Idle, None, fx.now);
        let slot = &self.slots[lease.permit.index()];
        let fit_until = slot.fit_until(self.fresh_nanos, self.fresh_by_check);
        let in_doubt = self.is_in_doubt(&lease.permit);
        lease.fit_until = if in_doubt { Time::START } else { fit_until };
        let is_before = |other: &Lease<T::Conn>| other.fit_until <= lease.fit_until;
        let below = self.idle.iter().rposition(is_before);
        let place = if in_doubt { 0 } else { below.map_or(0, |below| below + 1) };
        self.idle.insert(place, lease);
    }

    /// Starts the check of a connection that is in no list. `idle_since` is set for a
    /// keepalive.
    pub(super) fn start_check(
        &mut self,
        lease: Lease<T::Conn>,
        check: Check,
        idle_since: Option<Time>,
        fx: &mut Effects<T>,
    ) {
        self.begin_check(&lease.permit, check, idle_since, fx.now);
        self.slot(&lease.permit).patience_ends = fx.now.after(self.policy.check_patience);
        self.schedule_deadline(&lease.permit, fx);
        fx.jobs.push(Job::Check(lease, check));
    }

    pub(super) fn begin_check(
        &mut self,
        permit: &Permit,
        check: Check,
        idle_since: Option<Time>,
        now: Time,
    ) {
        self.enter(permit.index(), ConnectionState::Checking, None, now);
        if check.validate {
            self.slot(permit).proof = self.number_proof();
        }
        let slot = self.slot(permit);
        (slot.check, slot.idle_since) = (check, idle_since);
        self.checking += 1;
    }
}
