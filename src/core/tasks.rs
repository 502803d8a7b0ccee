//! Waits of tasks: no thread sleeps for them, so nobody but the pool keeps their deadlines,
//! and nobody knows when a task that was granted a connection is polled.
//!
//! A grant to a task is a grant: the connection is lent. But the core keeps it until the task is
//! polled and takes it up. If that does not happen within `take_up_limit`, the connection goes
//! to the next waiter, and the task is *absent*: it holds nobody up, and has its old place in
//! the line as soon as it is polled.

use std::cmp::Reverse;

use super::{Answer, Core, Effects, ErrorKind, Lease, PoolTypes, Step, Time, WaiterId};

/// How many entries of tasks that have left are kept, beside as many as there are waiters.
const SPARE: usize = 64;

impl<T: PoolTypes> Core<T> {
    /// A task has joined the line, or waits again.
    pub(super) fn keep_deadline(&mut self, id: WaiterId, at: Time, fx: &mut Effects<T>) {
        if at == Time::NEVER {
            return;
        }
        let deadlines = &mut self.task_times.deadlines;
        let waiters = (self.queue.waiting() + self.queue.granted()) as usize;
        if deadlines.len() > 2 * waiters + SPARE {
            let queue = &self.queue;
            deadlines.retain(|Reverse((_, id))| queue.get(*id).is_some());
        }
        deadlines.push(Reverse((at, id)));
        self.wake_reaper_at(at, fx);
    }

    /// Lends a connection to a task in the line. It is woken, and has it from then on if it is
    /// polled in time.
    pub(super) fn grant_to_task(
        &mut self,
        id: WaiterId,
        lease: Lease<T::Conn>,
        fx: &mut Effects<T>,
    ) {
        let waiter = self.queue.get(id).expect("BUG: granted to a task that has left");
        let (caller, cell, since) = (waiter.caller.clone(), waiter.cell.clone(), waiter.since);
        let waited = fx.now.since(since);
        let from = self.slots[lease.permit.index()].state;
        self.lend(&lease.permit, fx.now, caller);
        self.slot(&lease.permit).untaken = true;
        self.plan_for_lends(fx);
        self.counters.gets_waited += 1;
        self.counters.time_waited += self.queue.count_wait(id, fx.now);
        self.note_checkout(&lease.permit, Some(id.get_id()), from, waited, fx.now);
        self.queue.step_aside(id, lease);
        let until = fx.now.after(self.policy.take_up_limit);
        self.task_times.grants.push_back((until, id));
        self.wake_reaper_at(until, fx);
        fx.answers.push((cell, Answer::Nudged));
    }

    /// A task that was granted a connection is polled.
    pub(super) fn take_up(&mut self, id: WaiterId) -> Option<Lease<T::Conn>> {
        if !self.queue.is_granted(id) {
            return None;
        }
        let (_, lease) = self.queue.remove(id)?;
        self.forget_ended_grants();
        self.slot(&lease.as_ref()?.permit).untaken = false;
        lease
    }

    fn forget_ended_grants(&mut self) {
        let grants = &mut self.task_times.grants;
        while grants.front().is_some_and(|(_, id)| !self.queue.is_granted(*id)) {
            grants.pop_front();
        }
    }

    /// A task is polled that may be aside. If its connection was put in doubt meanwhile, that
    /// must be checked first.
    pub(super) fn come_back(&mut self, id: WaiterId, fx: &mut Effects<T>) {
        let in_doubt = self.queue.granted_lease(id).is_some_and(|l| self.is_in_doubt(&l.permit));
        if in_doubt {
            self.take_back(id, fx);
            // It may have another grant soon.
            self.task_times.grants.retain(|(_, other)| *other != id);
            if let Some(kind) = self.why_not_wait(id, fx.now) {
                return self.fail(id, kind, None, fx);
            }
        }
        self.queue.return_to_line(id);
    }

    /// A task is dropped, or cancelled. What it was granted goes to the next.
    pub(crate) fn drop_task(&mut self, id: WaiterId, fx: &mut Effects<T>) {
        match self.queue.is_granted(id).then(|| self.queue.remove(id)).flatten() {
            Some((_, Some(lease))) => self.return_unused(lease, fx),
            _ => drop(self.dismiss(id, ErrorKind::Cancelled, fx.now)),
        }
        self.finish(fx);
    }

    /// Takes back what was not taken up in time.
    pub(super) fn end_grants(&mut self, fx: &mut Effects<T>) {
        loop {
            self.forget_ended_grants();
            let Some(&(until, id)) = self.task_times.grants.front() else { return };
            if fx.now < until {
                return;
            }
            self.task_times.grants.pop_front();
            self.take_back(id, fx);
            if let Some(kind) = self.why_not_wait(id, fx.now) {
                self.fail(id, kind, None, fx);
            }
        }
    }

    /// Why a task that has lost its connection must not wait again.
    fn why_not_wait(&self, id: WaiterId, now: Time) -> Option<ErrorKind> {
        let deadline = self.queue.get(id).and_then(|waiter| waiter.task);
        if self.closed {
            Some(ErrorKind::Closed)
        } else if self.queue.is_cancelled(id) {
            Some(ErrorKind::Cancelled)
        } else {
            deadline.is_some_and(|at| at <= now).then_some(ErrorKind::Timeout)
        }
    }

    /// Ends the waits of tasks whose deadlines have come.
    pub(super) fn end_task_waits(&mut self, fx: &mut Effects<T>) {
        while let Some(&Reverse((at, id))) = self.task_times.deadlines.peek() {
            if at > fx.now && self.queue.get(id).is_some() {
                return;
            }
            self.task_times.deadlines.pop();
            // If it has a grant, it may be polled any moment; `end_grants` sees to the rest.
            if self.queue.get(id).is_none() || self.queue.is_granted(id) {
                continue;
            }
            // As a thread does: it takes what one that was nudged is slow to claim.
            match self.claim_for(id, fx) {
                Some(lease) => self.grant_to_task(id, lease, fx),
                None => self.fail(id, ErrorKind::Timeout, None, fx),
            }
        }
    }

    /// When the next of these is due.
    pub(super) fn next_task_time(&mut self) -> Time {
        self.forget_ended_grants();
        let deadlines = &mut self.task_times.deadlines;
        while deadlines.peek().is_some_and(|Reverse((_, id))| self.queue.get(*id).is_none()) {
            deadlines.pop();
        }
        let grant = self.task_times.grants.front().map_or(Time::NEVER, |(until, _)| *until);
        let deadlines = self.task_times.deadlines.peek();
        grant.min(deadlines.map_or(Time::NEVER, |Reverse((at, _))| *at))
    }

    /// Takes its connection from a task, which waits again.
    fn take_back(&mut self, id: WaiterId, fx: &mut Effects<T>) {
        let lease = self.queue.take_back(id).expect("BUG: took what was not granted");
        self.return_unused(lease, fx);
        if let Some(waiter) = self.queue.get(id) {
            let (caller, priority) = (waiter.caller.clone(), waiter.priority);
            self.journal.note(fx.now, Step::Enqueued { get_id: id.get_id(), caller, priority });
        }
    }

    /// A connection comes back whose task has never had it.
    fn return_unused(&mut self, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        let unfit = self.unfit(&lease.permit);
        self.busy -= 1;
        self.end_leak(&lease.permit, fx);
        self.slot(&lease.permit).untaken = false;
        self.counters.untaken += 1;
        match unfit {
            _ if self.policy.begins_uses => self.end_unused(lease, unfit, fx),
            Some(reason) => self.retire_unfit(lease, reason, fx),
            None => {
                // It may be due for a check before those that were used.
                let fresh_at = self.slot(&lease.permit).fresh_at;
                self.wake_reaper_at(fresh_at.after_opt(self.policy.keepalive), fx);
                self.shelve_unused(lease, fx);
            }
        }
    }
}
