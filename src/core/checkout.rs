//! What callers do: ask, wait, claim, leave, return.

use std::time::Duration;

use super::queue::Waiter;
use super::slot::State;
use super::{
    Answer, Check, Core, Effects, End, Gate, Job, Lease, Outage, Permit, Reason, Time, Types,
    WaiterId, Who, Why,
};

/// Why a caller may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    QueueFull,
    /// No connection is there, and opening fails for good.
    Hopeless,
}

/// Why a waiter leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    TimedOut,
    Cancelled,
}

/// What the returning side found out about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Check(Check),
    Broken,
}

impl<T: Types> Core<T> {
    /// The fast path of a checkout: the top of the stack, if nothing has to be
    /// done about taking it and nobody waits who must not be overtaken. `None`
    /// says: take the slow path.
    ///
    /// Taking an idle connection leaves no waiter worse served than before: if
    /// another is left, whoever was nudged still is.
    ///
    /// `now` may be a little in the past. Then it does not tell whether somebody
    /// has waited too long to be overtaken: see [`overtake`](Core::overtake).
    #[inline]
    pub(crate) fn acquire_fast(&mut self, now: Time, caller: T::Caller) -> Option<Lease<T::Conn>> {
        if self.gate.until != Time::NEVER { None } else { self.take_top(self.gate, now, caller) }
    }

    /// [`acquire_fast`](Core::acquire_fast) beside waiters; here `now` is exact.
    #[inline]
    pub(crate) fn overtake(&mut self, now: Time, caller: T::Caller) -> Option<Lease<T::Conn>> {
        if now >= self.gate.until {
            return None;
        }
        let lease = self.take_top(self.gate, now, caller)?;
        self.counters.overtakes += u64::from(self.gate.until != Time::NEVER);
        Some(lease)
    }

    #[inline]
    pub(super) fn take_top(
        &mut self,
        gate: Gate,
        now: Time,
        caller: T::Caller,
    ) -> Option<Lease<T::Conn>> {
        if self.idle.len() <= gate.floor {
            return None;
        }
        if now >= self.idle.back()?.fit_until {
            return None;
        }
        let lease = self.idle.pop_back()?;
        self.lend(&lease.permit, now, caller);
        Some(lease)
    }

    /// Takes an idle connection that can be handed out as it is, past those who
    /// wait if the fairness bound allows it.
    pub(crate) fn acquire(
        &mut self,
        now: Time,
        priority: u8,
        caller: T::Caller,
        fx: &mut Effects<T>,
    ) -> Option<Lease<T::Conn>> {
        // If the one who was nudged is slow to come, those past the bound get
        // theirs now, and what is left may be had.
        self.serve(now, fx);
        let lease = match self.may_overtake(now, priority) {
            true => self.pop_fresh(now, fx),
            false => None,
        };
        if let Some(lease) = &lease {
            self.counters.overtakes += u64::from(!self.queue.is_empty());
            self.lend(&lease.permit, now, caller);
            self.note_lent(&lease.permit, None, State::Idle, Duration::ZERO, now);
            self.serve(now, fx);
        }
        self.settle();
        lease
    }

    /// Whether a newcomer may take an idle connection past those who wait.
    fn may_overtake(&self, now: Time, priority: u8) -> bool {
        self.serving() && self.queue.may_be_overtaken(now, priority, self.policy.fairness_bound)
    }

    /// Whether a caller that will not wait for an open may wait for a check.
    pub(crate) fn may_await_check(&self, now: Time, priority: u8) -> bool {
        !self.idle.is_empty() && self.may_overtake(now, priority)
    }

    /// Joins the queue.
    pub(crate) fn join(
        &mut self,
        waiter: Waiter<T>,
        fx: &mut Effects<T>,
    ) -> Result<WaiterId, Refusal> {
        let now = waiter.since;
        if self.closed {
            self.counters.failed += u64::from(!waiter.only_idle);
            self.note_refused(waiter.caller, End::Closed, now);
            return Err(Refusal::Closed);
        }
        if self.is_hopeless(now) {
            self.counters.failed += u64::from(!waiter.only_idle);
            self.note_refused(waiter.caller, End::ConnectFailed, now);
            return Err(Refusal::Hopeless);
        }
        // Each newcomer has one connection checked, if they need it, whatever
        // became of the checks before: those may hang.
        let checks = self.serving() && self.top_is_stale(now);
        // Nor is anybody refused for want of a connection while one is there.
        if !checks && self.policy.max_waiters.is_some_and(|max| self.queue.len() >= max) {
            self.counters.refused += u64::from(!waiter.only_idle);
            self.note_refused(waiter.caller, End::QueueFull, now);
            return Err(Refusal::QueueFull);
        }
        self.only_idle += u32::from(waiter.only_idle);
        let (caller, priority) = (waiter.caller, waiter.priority);
        let nested = waiter.nested.then(|| caller.thread());
        let id = self.queue.push(waiter);
        self.note_started(id.number(), caller, priority, now);
        if let Some(thread) = nested {
            // A thread that waits twice runs somebody's code on its way to its
            // first wait, and comes back to it: the first is the one that counts.
            self.nested.entry(thread).or_insert(id);
        }
        if checks {
            self.check_top(now, fx);
        }
        self.serve(now, fx);
        self.settle();
        Ok(id)
    }

    /// Nobody can be served before opening is tried again, and the last attempt
    /// failed in a way that only a change elsewhere can cure. Once the next
    /// attempt is due, a newcomer waits for what comes of it.
    fn is_hopeless(&self, now: Time) -> bool {
        let not_yet = |outage: &Outage| now < outage.retry_at;
        self.serving() && self.has_none_for_good() && self.outage.as_ref().is_some_and(not_yet)
    }

    /// A waiter comes for an idle connection: it was nudged, or its time is up
    /// and there may be one that somebody else was nudged for. It serves those
    /// who stand before it first, and may find nothing left: a newcomer was
    /// quicker. Then it keeps its place.
    pub(crate) fn claim(
        &mut self,
        now: Time,
        id: WaiterId,
        fx: &mut Effects<T>,
    ) -> Option<Lease<T::Conn>> {
        if self.nudged == Some(id) {
            self.nudged = None;
        }
        let mut claimed = None;
        while claimed.is_none() && self.serving() && self.queue.get(id).is_some() {
            let Some(lease) = self.pop_fresh(now, fx) else {
                // By a clock that lags, the top may be due for a check before what
                // lies below it.
                if self.top_is_stale(now) && self.checking_soon() < self.queue.len() {
                    self.check_top(now, fx);
                    continue;
                }
                break;
            };
            match self.queue.first() {
                Some(first) if first != id => self.grant(first, lease, now, fx),
                _ => {
                    self.lend_to(id, &lease.permit, now);
                    claimed = Some(lease);
                }
            }
        }
        self.serve(now, fx);
        self.settle();
        claimed
    }

    /// A waiter gives up. `false`: it was answered before, and finds the answer
    /// in its cell.
    pub(crate) fn leave(
        &mut self,
        now: Time,
        id: WaiterId,
        why: Left,
        fx: &mut Effects<T>,
    ) -> bool {
        let end = match why {
            Left::TimedOut => End::TimedOut,
            Left::Cancelled => End::Cancelled,
        };
        let Some(waiter) = self.dismiss(id, end, now) else { return false };
        match why {
            Left::TimedOut => self.counters.timeouts += u64::from(!waiter.only_idle),
            Left::Cancelled => {
                self.counters.cancelled += 1;
                fx.answer(waiter.cell, Answer::Cancelled);
            }
        }
        self.serve(now, fx);
        self.settle();
        true
    }

    /// A caller came with a token that was cancelled already.
    pub(crate) fn refuse_cancelled(&mut self, now: Time, caller: T::Caller) {
        self.counters.cancelled += 1;
        self.note_refused(caller, End::Cancelled, now);
    }

    /// The fast path of a return: back onto the stack, if nothing speaks against
    /// keeping it, its end is planned for, and nobody waits for it, or somebody
    /// who does is on the way and may still be overtaken. `now` may be a little in
    /// the past: so long, a connection may lie there that is to be handed over.
    #[inline]
    pub(crate) fn checkin_fast(
        &mut self,
        now: Time,
        lease: Lease<T::Conn>,
    ) -> Result<(), Lease<T::Conn>> {
        self.put_on_top(self.gate, now, lease)
    }

    #[inline]
    pub(super) fn put_on_top(
        &mut self,
        gate: Gate,
        now: Time,
        lease: Lease<T::Conn>,
    ) -> Result<(), Lease<T::Conn>> {
        let slot = &self.slots[lease.permit.index()];
        let keep = self.idle.len() < gate.ceiling
            && now < gate.until
            && slot.generation == self.generation
            && now < slot.expires
            && slot.expires >= self.wake_at
            && !slot.leaking;
        if !keep {
            return Err(lease);
        }
        self.busy -= 1;
        self.push_idle(lease, now);
        Ok(())
    }

    /// A connection comes back from its holder.
    pub(crate) fn checkin(
        &mut self,
        now: Time,
        lease: Lease<T::Conn>,
        verdict: Verdict,
        fx: &mut Effects<T>,
    ) {
        // Asked while it still counts as busy.
        let unfit = self.unfit(&lease.permit, now);
        self.busy -= 1;
        self.note_return(&lease.permit, now, fx);
        match (verdict, unfit) {
            (Verdict::Broken, _) => self.retire(lease, Reason::Broken, now, fx),
            (_, Some(reason)) => self.retire(lease, reason, now, fx),
            (Verdict::Check(check), None) => self.start_check(lease, check, None, now, fx),
            (Verdict::Keep, None) => self.stack(lease, now, fx),
        }
        self.serve(now, fx);
        self.settle();
    }

    /// A holder keeps its connection for good; the pool no longer counts it.
    pub(crate) fn detached(&mut self, now: Time, permit: Permit, fx: &mut Effects<T>) {
        self.busy -= 1;
        self.note_return(&permit, now, fx);
        self.counters.detached += 1;
        self.vacate(permit, Some(Why::Detached), now);
        fx.progress = true;
        self.serve(now, fx);
        self.settle();
    }

    /// Brings connections and waiters together; the one place that decides who
    /// is next. Called at the end of every transition that may have made a
    /// connection, a waiter or room for a connection available (P3).
    pub(super) fn serve(&mut self, now: Time, fx: &mut Effects<T>) {
        while self.serving() {
            let (Some(first), Some(top)) = (self.queue.first(), self.idle.back()) else { break };
            let slot = &self.slots[top.permit.0 as usize];
            if now >= slot.expires {
                self.retire_top(Reason::Expired, now, fx);
            } else if now.since(slot.fresh_at) >= self.policy.fresh_for {
                if self.checking_soon() >= self.queue.len() {
                    break;
                }
                self.check_top(now, fx);
            } else if self.waited(first, now) >= self.policy.fairness_bound {
                let lease = self.idle.pop_back().expect("BUG: the top is gone");
                self.grant(first, lease, now, fx);
            } else {
                if self.nudged.is_none() {
                    self.nudged = Some(first);
                    let cell = self.queue.get(first).expect("BUG: the first is gone").cell.clone();
                    fx.answer(cell, Answer::Nudged);
                }
                break;
            }
        }
        if self.only_idle > 0 && self.idle.is_empty() && self.checking == 0 {
            self.dismiss_only_idle(now, fx);
        }
        while self.queue.is_empty() && self.idle_len() > self.policy.max_idle_now() {
            let lease = self.idle.pop_front().expect("BUG: the bottom is gone");
            self.retire(lease, Reason::Excess, now, fx);
        }
        self.open_by_need(now, fx);
        self.look_for_self_deadlock(now, fx);
    }

    /// The last check that some waited for has failed.
    fn dismiss_only_idle(&mut self, now: Time, fx: &mut Effects<T>) {
        let only_idle = self.queue.iter().filter(|(_, waiter)| waiter.only_idle);
        let ids: Vec<WaiterId> = only_idle.map(|(id, _)| id).collect();
        for id in ids {
            let waiter = self.dismiss(id, End::TimedOut, now).expect("BUG: it was in the queue");
            fx.answer(waiter.cell, Answer::NoneIdle);
        }
    }

    /// Gives a connection to a waiter: it is out of the queue from here on.
    pub(super) fn grant(
        &mut self,
        id: WaiterId,
        lease: Lease<T::Conn>,
        now: Time,
        fx: &mut Effects<T>,
    ) {
        let cell = self.lend_to(id, &lease.permit, now);
        fx.answer(cell, Answer::Granted(lease));
    }

    /// Lends a connection to a waiter, which leaves the queue. Returns its cell.
    fn lend_to(&mut self, id: WaiterId, permit: &Permit, now: Time) -> T::Cell {
        let waiter = self.unqueue(id, now).expect("BUG: granted to a waiter that has left");
        let from = self.slots[permit.index()].state;
        self.lend(permit, now, waiter.caller);
        self.counters.gets_waited += 1;
        self.note_lent(permit, Some(id.number()), from, now.since(waiter.since), now);
        waiter.cell
    }

    /// Has a waiter leave without a connection.
    pub(super) fn dismiss(&mut self, id: WaiterId, end: End, now: Time) -> Option<Waiter<T>> {
        let waiter = self.unqueue(id, now)?;
        let failed = matches!(end, End::Closed | End::ConnectFailed | End::Deadlock);
        self.counters.failed += u64::from(failed && !waiter.only_idle);
        self.note_left(id.number(), waiter.caller, now.since(waiter.since), end, now);
        Some(waiter)
    }

    /// Takes a waiter out of the queue and counts its wait.
    fn unqueue(&mut self, id: WaiterId, now: Time) -> Option<Waiter<T>> {
        let waiter = self.queue.remove(id)?;
        if self.nudged == Some(id) {
            self.nudged = None;
        }
        self.only_idle -= u32::from(waiter.only_idle);
        if waiter.nested && self.nested.get(&waiter.caller.thread()) == Some(&id) {
            self.nested.remove(&waiter.caller.thread());
        }
        self.counters.time_waited += now.since(waiter.since);
        Some(waiter)
    }

    fn waited(&self, id: WaiterId, now: Time) -> Duration {
        self.queue.get(id).map_or(Duration::ZERO, |waiter| now.since(waiter.since))
    }

    /// A check has ended. The next one is due for those who still wait, also if
    /// other checks are under way: those may hang, this one did not.
    pub(super) fn check_another(&mut self, now: Time, fx: &mut Effects<T>) {
        if self.serving() && !self.queue.is_empty() && self.top_is_stale(now) {
            self.check_top(now, fx);
        }
    }

    fn top_is_stale(&self, now: Time) -> bool {
        self.idle.back().is_some_and(|top| {
            let slot = &self.slots[top.permit.0 as usize];
            now < slot.expires && now.since(slot.fresh_at) >= self.policy.fresh_for
        })
    }

    fn check_top(&mut self, now: Time, fx: &mut Effects<T>) {
        let lease = self.idle.pop_back().expect("BUG: the top is gone");
        self.start_check(lease, Check::VALIDATE, None, now, fx);
    }

    /// The top of the stack if it can be handed out as it is. Expired ones on
    /// the way there are retired.
    fn pop_fresh(&mut self, now: Time, fx: &mut Effects<T>) -> Option<Lease<T::Conn>> {
        loop {
            let slot = &self.slots[self.idle.back()?.permit.0 as usize];
            if now >= slot.expires {
                self.retire_top(Reason::Expired, now, fx);
            } else if now.since(slot.fresh_at) >= self.policy.fresh_for {
                return None;
            } else {
                return self.idle.pop_back();
            }
        }
    }

    fn retire_top(&mut self, reason: Reason, now: Time, fx: &mut Effects<T>) {
        let lease = self.idle.pop_back().expect("BUG: the top is gone");
        self.retire(lease, reason, now, fx);
    }

    /// Puts a connection onto the stack, to be looked at when it expires.
    pub(super) fn stack(&mut self, lease: Lease<T::Conn>, now: Time, fx: &mut Effects<T>) {
        let expires = self.slot(&lease.permit).expires;
        self.plan(expires, fx);
        self.enter(lease.permit.index(), State::Idle, None, now);
        self.push_idle(lease, now);
    }

    fn push_idle(&mut self, mut lease: Lease<T::Conn>, now: Time) {
        let slot = &mut self.slots[lease.permit.index()];
        slot.state = State::Idle;
        slot.since = now;
        slot.fresh_at = now;
        lease.fit_until = slot.fit_until(self.fresh_nanos);
        self.idle.push_back(lease);
    }

    fn lend(&mut self, permit: &Permit, now: Time, caller: T::Caller) {
        let slot = self.slot(permit);
        slot.state = State::Busy;
        slot.since = now;
        slot.caller = Some(caller);
        slot.at_home = true;
        self.busy += 1;
        self.counters.gets += 1;
    }

    /// Asks for a check of a connection that the caller has taken from where it
    /// was.
    pub(super) fn start_check(
        &mut self,
        lease: Lease<T::Conn>,
        check: Check,
        idle_since: Option<Time>,
        now: Time,
        fx: &mut Effects<T>,
    ) {
        self.enter(lease.permit.index(), State::Checking(check, idle_since), None, now);
        self.checking += 1;
        self.watch(&lease.permit, fx);
        fx.job(Job::Check(lease, check));
    }
}
