//! Uses that a handler begins and ends.
//!
//! With a use handler no caller takes a connection by itself. The waiter that is first steps aside,
//! a worker begins its use on the connection that it was to have, and then it has it. Nobody
//! else counts on that connection meanwhile.
//!
//! - If the connection proves dead, or the handler overruns its limit, the waiter is in the line
//!   again, at its old place. If the handler refuses the use, the waiter gets its error.
//! - If the waiter has left by then, or must not have that connection any more, the use is ended
//!   as if it had been returned at once. So nobody else meets what the handler has set.
//!
//! A return ends the use by a check with [`Check::end`](super::Check), before the reset.

use super::{Check, ConnectionState, Core, Effects, ErrorKind, Job, Lease, Permit, PoolTypes};
use super::{Reason, WaiterId};

impl<T: PoolTypes> Core<T> {
    /// A waiter in the line is to have this connection, which is in no list.
    #[cold]
    pub(super) fn begin_use(&mut self, id: WaiterId, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        let waiter = self.queue.get(id).expect("BUG: begins the use of a waiter that has left");
        let (caller, context) = (waiter.caller.clone(), waiter.context.clone());
        self.only_idle -= u32::from(waiter.only_idle);
        self.queue.prepare(id);
        self.begin_check(&lease.permit, Check::BEGIN, None, fx.now);
        let slot = self.slot(&lease.permit);
        slot.begins_for = Some(id);
        slot.past_patience = true;
        self.past_patience.checks += 1;
        self.schedule_deadline(&lease.permit, fx);
        fx.jobs.push(Job::Begin(lease, caller, context));
    }

    /// A use has begun. `Err` says why it has not: as [`Reason::Broken`] if the connection is dead,
    /// else the caller is refused.
    pub(crate) fn use_begun(
        &mut self,
        lease: Lease<T::Conn>,
        result: Result<(), (Reason, T::Cause)>,
        fx: &mut Effects<T>,
    ) {
        fx.progress = true;
        if self.slot(&lease.permit).state == ConnectionState::Abandoned {
            // Whose use it was has gone on without it.
            let reason = result.as_ref().err().map_or(Reason::UseHandler, |(reason, _)| *reason);
            fx.garbage.extend(result.err().map(|(_, cause)| cause));
            self.close_late(lease, reason, fx);
        } else {
            self.end_begin(lease, result, fx);
        }
        self.finish(fx);
    }

    fn end_begin(
        &mut self,
        lease: Lease<T::Conn>,
        result: Result<(), (Reason, T::Cause)>,
        fx: &mut Effects<T>,
    ) {
        let unfit = self.unfit(&lease.permit);
        let waiter = self.slot(&lease.permit).begins_for.take();
        let waiter = waiter.filter(|&id| self.queue.is_prepared(id));
        self.end_check_call(&lease.permit, fx);
        let Err((reason, cause)) = result else {
            let may_have = self.serving() && unfit.is_none() && !self.is_in_doubt(&lease.permit);
            match waiter {
                Some(id) if may_have => self.hand_out(id, lease, fx),
                _ => {
                    self.wait_again(waiter);
                    self.end_unused(lease, unfit, fx);
                }
            }
            return;
        };
        self.counters.check_failures += 1;
        match waiter {
            // What is wrong with one caller's use is no other's business.
            Some(id) if reason != Reason::Broken => {
                self.fail(id, ErrorKind::UseHandler, Some(cause), fx);
            }
            None if reason != Reason::Broken => fx.garbage.push(cause),
            _ => {
                self.wait_again(waiter);
                self.keep_error(cause, false, fx);
            }
        }
        self.retire(lease, reason, fx);
    }

    /// The handler has overrun its limit. Its waiter gets another connection.
    pub(super) fn give_up_begin(&mut self, index: usize) {
        let waiter = self.slots[index].begins_for.take();
        self.wait_again(waiter.filter(|&id| self.queue.is_prepared(id)));
    }

    /// One whose use was to begin is in the line again.
    fn wait_again(&mut self, waiter: Option<WaiterId>) {
        let Some(id) = waiter else { return };
        self.queue.line_up_again(id);
        self.only_idle += u32::from(self.queue.get(id).is_some_and(|waiter| waiter.only_idle));
    }

    /// A connection on which a use has begun that nobody has had.
    pub(super) fn end_unused(
        &mut self,
        lease: Lease<T::Conn>,
        unfit: Option<Reason>,
        fx: &mut Effects<T>,
    ) {
        if let Some(reason) = unfit {
            return self.retire_unfit(lease, reason, fx);
        }
        let (end, validate) = (self.policy.ends_uses, self.is_in_doubt(&lease.permit));
        let check = Check { end, reset: true, validate, ..Check::NONE };
        self.start_check(lease, check, None, fx);
    }

    /// Whether it may be lent, as far as the use handler is concerned.
    pub(super) fn has_begun_use(&self, permit: &Permit) -> bool {
        let slot = &self.slots[permit.index()];
        let has_begun = slot.state == ConnectionState::Checking && slot.check == Check::BEGIN;
        has_begun || !self.policy.begins_uses
    }

    /// Each waiter whose use begins has one connection on which it does.
    pub(super) fn check_uses(&self) {
        for (id, _) in self.queue.aside_without_connection() {
            let begins = |slot: &&super::slot::Slot<T>| {
                slot.begins_for == Some(id) && slot.state == ConnectionState::Checking
            };
            let count = self.slots.iter().filter(begins).count();
            assert_eq!(count, usize::from(self.queue.is_prepared(id)), "P4: uses that begin");
        }
    }
}
