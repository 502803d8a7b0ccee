//! What becomes of connections: opened, checked, retired, closed, abandoned.
//!
//! Each driver call that the core asked for is answered by exactly one of the
//! events here. An answer may come after the call was abandoned; then the
//! connection is taken in if there is room, and closed if not.

use super::slot::{Slot, State};
use super::{
    Answer, CallKind, Check, Core, Effects, End, Job, Lease, Notice, Outage, Permit, Reason, Time,
    Types, Why,
};

/// Keepalive checks are no hurry: at most this many at once.
const KEEPALIVES_AT_ONCE: u32 = 4;

impl<T: Types> Core<T> {
    /// A connection was opened.
    pub(crate) fn opened(&mut self, now: Time, lease: Lease<T::Conn>, fx: &mut Effects<T>) {
        self.counters.opened += 1;
        if let Some(outage) = self.outage.take() {
            let lasted = now.since(outage.began);
            fx.notices.push(Notice::OutageEnded { failures: outage.failures, lasted });
        }
        self.remember_error(None, fx);
        fx.progress = true;
        let lifetime = self.draw_lifetime();
        let late = self.slot(&lease.permit).state == State::Abandoned;
        let slot = self.slot(&lease.permit);
        slot.expires = now.after_opt(lifetime);
        slot.fresh_at = now;
        slot.number = T::number(&lease.conn);
        if late {
            self.take_in_late(lease, Reason::Excess, now, fx);
        } else {
            let reason = self.unfit(&lease.permit, now);
            self.forget_lateness(lease.permit.0 as usize);
            self.opening -= 1;
            match reason {
                Some(reason) => self.retire(lease, reason, now, fx),
                None => self.offer(lease, now, fx),
            }
        }
        self.serve(now, fx);
        self.settle();
    }

    /// Opening failed. `permanent`: trying again is pointless; if there is no
    /// connection that could serve them, the waiters are told so.
    pub(crate) fn open_failed(
        &mut self,
        now: Time,
        permit: Permit,
        cause: T::Cause,
        permanent: bool,
        fx: &mut Effects<T>,
    ) {
        fx.progress = true;
        if self.slot(&permit).state == State::Abandoned {
            fx.garbage.push(cause);
            self.forget_abandoned(permit, now, fx);
        } else {
            self.forget_lateness(permit.0 as usize);
            self.opening -= 1;
            let begun = self.slot(&permit).since;
            self.vacate(permit, Some(Why::OpenFailed), now);
            if self.note_open_failure(begun, now, permanent) {
                fx.notices.push(Notice::Outage(Some(cause.clone())));
            }
            if permanent && self.has_none_for_good() {
                while let Some(first) = self.queue.first() {
                    let gone = self.dismiss(first, End::ConnectFailed, now);
                    let waiter = gone.expect("BUG: the first is gone");
                    fx.answer(waiter.cell, Answer::Failed(cause.clone()));
                }
            }
            self.note_error(now, cause, permanent, fx);
        }
        self.serve(now, fx);
        self.settle();
    }

    /// A check has ended. `Err`: the connection is not to be used, and why.
    pub(crate) fn checked(
        &mut self,
        now: Time,
        lease: Lease<T::Conn>,
        result: Result<(), (Reason, T::Cause)>,
        fx: &mut Effects<T>,
    ) {
        fx.progress = true;
        let late = self.slot(&lease.permit).state == State::Abandoned;
        match result {
            Ok(()) if late => {
                self.slot(&lease.permit).fresh_at = now;
                self.take_in_late(lease, Reason::Invalid, now, fx);
            }
            Err((reason, cause)) if late => {
                fx.garbage.push(cause);
                self.close_late(lease, reason, now, fx);
            }
            result => {
                self.check_ended(now, lease, result, fx);
                self.check_another(now, fx);
            }
        }
        self.serve(now, fx);
        self.settle();
    }

    /// Remembers an error, unless it says less than the last one: why none can be
    /// opened for good.
    fn note_error(&mut self, now: Time, cause: T::Cause, permanent: bool, fx: &mut Effects<T>) {
        match self.fails_permanently() && !permanent {
            true => fx.garbage.push(cause),
            false => self.remember_error(Some((now, cause)), fx),
        }
    }

    /// Replaces the last error; the old one is dropped outside the lock.
    fn remember_error(&mut self, error: Option<(Time, T::Cause)>, fx: &mut Effects<T>) {
        let old = std::mem::replace(&mut self.last_error, error);
        fx.garbage.extend(old.map(|(_, cause)| cause));
    }

    fn check_ended(
        &mut self,
        now: Time,
        mut lease: Lease<T::Conn>,
        result: Result<(), (Reason, T::Cause)>,
        fx: &mut Effects<T>,
    ) {
        let unfit = self.unfit(&lease.permit, now);
        let State::Checking(check, idle_since) = self.slot(&lease.permit).state else {
            unreachable!("BUG: checked a connection that was not being checked");
        };
        let held_back = self.checking == KEEPALIVES_AT_ONCE && self.policy.keepalive.is_some();
        self.forget_lateness(lease.permit.0 as usize);
        self.checking -= 1;
        if held_back && !self.start_next_keepalive(now, fx) {
            self.plan(now, fx);
        }
        if let Err((reason, cause)) = result {
            self.counters.check_failures += 1;
            self.note_error(now, cause, false, fx);
            return self.retire(lease, reason, now, fx);
        }
        if let Some(reason) = unfit {
            return self.retire(lease, reason, now, fx);
        }
        match idle_since {
            // Nobody asked for it: it goes on being idle, at the bottom.
            Some(idle_since) if self.queue.is_empty() => {
                self.enter(lease.permit.index(), State::Idle, None, now);
                let slot = &mut self.slots[lease.permit.index()];
                slot.since = idle_since;
                slot.fresh_at = now;
                let expires = slot.expires;
                lease.fit_until = slot.fit_until(self.fresh_nanos);
                self.plan(expires.min(idle_since.after_opt(self.policy.idle_timeout)), fx);
                self.idle.push_front(lease);
            }
            // Validated for a waiter: to the first of them, at once.
            _ if check.validate => self.offer(lease, now, fx),
            // Only reset: as if it came back now.
            _ => self.stack(lease, now, fx),
        }
    }

    /// A driver's close has ended.
    pub(crate) fn closed(&mut self, now: Time, permit: Permit, fx: &mut Effects<T>) {
        fx.progress = true;
        if self.slot(&permit).state == State::Abandoned {
            self.forget_abandoned(permit, now, fx);
        } else {
            self.forget_lateness(permit.0 as usize);
            self.closers -= 1;
            self.vacate(permit, None, now);
            self.start_closes(now, fx);
        }
        self.serve(now, fx);
        self.settle();
    }

    /// The reaper's look at everything that time alone changes. Returns when to
    /// look again.
    pub(crate) fn tick(&mut self, now: Time, fx: &mut Effects<T>) -> Time {
        self.wake_at = now; // No plan of a transition below can be earlier.
        self.look_at_calls(now, fx);
        self.reap_idle(now, fx);
        self.look_for_leaks(now, fx);
        self.serve(now, fx);
        self.settle();
        fx.wake_reaper = false;
        self.wake_at = self.next_look(now);
        self.wake_at
    }

    /// Decides to close a connection that the caller has taken from where it
    /// was; the close itself waits for a closer.
    pub(super) fn retire(
        &mut self,
        lease: Lease<T::Conn>,
        reason: Reason,
        now: Time,
        fx: &mut Effects<T>,
    ) {
        self.counters.closed[reason as usize] += 1;
        self.enter(lease.permit.index(), State::Queued, Some(Why::Retired(reason)), now);
        self.retired.push_back((lease, reason));
        self.start_closes(now, fx);
    }

    /// Why a connection that is in use, being opened or checked must not go on,
    /// if there is a reason.
    pub(super) fn unfit(&mut self, permit: &Permit, now: Time) -> Option<Reason> {
        let (generation, expires) = (self.slot(permit).generation, self.slot(permit).expires);
        if self.closed {
            Some(Reason::Closed)
        } else if generation != self.generation {
            Some(Reason::Stale)
        } else if now >= expires {
            Some(Reason::Expired)
        } else if self.open() + self.opening > self.policy.max_size {
            Some(Reason::Excess)
        } else {
            None
        }
    }

    pub(super) fn vacate(&mut self, permit: Permit, why: Option<Why>, now: Time) {
        self.enter(permit.index(), State::Vacant, why, now);
        *self.slot(&permit) = Slot::vacant();
        self.free.push(permit.0);
    }

    /// Asks for as many opens as there is need for, room for, and leave for.
    pub(super) fn open_by_need(&mut self, now: Time, fx: &mut Effects<T>) {
        let wanted = self.wanted();
        if wanted == 0 {
            return;
        }
        let may = self.policy.max_opening.saturating_sub(self.opening - self.overdue.opening);
        // While connecting fails, one attempt at a time is enough to find out.
        let may = match &self.outage {
            Some(outage) if now < outage.retry_at => {
                let retry_at = outage.retry_at;
                return self.plan(retry_at, fx);
            }
            Some(_) => may.min(1_u32.saturating_sub(self.opening_soon())),
            None => may,
        };
        for _ in 0..wanted.min(may) {
            let permit = self.occupy(now);
            self.watch(&permit, fx);
            fx.job(Job::Open(permit));
        }
    }

    /// Has the reaper look when the driver call of this slot is late.
    pub(super) fn watch(&mut self, permit: &Permit, fx: &mut Effects<T>) {
        if let Some(at) = self.slots[permit.0 as usize].look_at(&self.policy) {
            self.plan(at, fx);
        }
    }

    /// A connection that was opened or validated because somebody waits goes to
    /// whoever is first, at once.
    fn offer(&mut self, lease: Lease<T::Conn>, now: Time, fx: &mut Effects<T>) {
        match self.queue.first() {
            Some(first) if self.serving() => self.grant(first, lease, now, fx),
            _ => self.stack(lease, now, fx),
        }
    }

    /// How many connections are missing, as far as there is room for them.
    fn wanted(&self) -> u32 {
        if self.closed {
            return 0;
        }
        let waiting = self.queue.len() - self.only_idle;
        let soon = self.idle_len() + self.opening_soon() + self.checking_soon();
        // What waits for nobody can wait for a slow call too.
        let kept = waiting.saturating_add(self.policy.min_idle_now());
        let later = self.idle_len() + self.opening + self.checking;
        let room = self.policy.max_size.saturating_sub(self.live());
        waiting.saturating_sub(soon).max(kept.saturating_sub(later)).min(room)
    }

    fn occupy(&mut self, now: Time) -> Permit {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::vacant());
            self.slots.len() as u32 - 1
        });
        let generation = self.generation;
        self.enter(index as usize, State::Opening, None, now);
        self.slots[index as usize].generation = generation;
        self.opening += 1;
        Permit(index)
    }

    fn draw_lifetime(&mut self) -> Option<std::time::Duration> {
        let life = self.policy.max_lifetime?;
        let cut = self.fraction() * f64::from(self.policy.lifetime_jitter_permille) / 1000.0;
        Some(life - life.mul_f64(cut))
    }

    /// Returns whether this is the beginning of an outage.
    fn note_open_failure(&mut self, begun: Time, now: Time, permanent: bool) -> bool {
        self.counters.open_failures += 1;
        if let Some(outage) = &mut self.outage {
            outage.failures += 1;
        }
        if let Some(outage) = self.outage.as_mut().filter(|outage| begun <= outage.failed_at) {
            // Begun before that was known, so it says nothing new.
            outage.permanent |= permanent;
            return false;
        }
        let before = self.outage.as_ref();
        let (attempts, failures) = before.map_or((0, 1), |o| (o.attempts, o.failures));
        let began = before.map_or(now, |outage| outage.began);
        let policy = &self.policy;
        let doubled = policy.backoff_min.saturating_mul(1 << attempts.min(20));
        let longest = doubled.min(policy.backoff_max);
        // Between half and all of it, so that many pools do not knock together.
        let delay = longest.mul_f64(0.5 + self.fraction() / 2.0);
        self.outage = Some(Outage {
            began,
            failures,
            attempts: attempts.saturating_add(1),
            failed_at: now,
            retry_at: now.after(delay),
            permanent,
        });
        failures == 1
    }

    pub(super) fn start_closes(&mut self, now: Time, fx: &mut Effects<T>) {
        while self.closers - self.overdue.closers < self.policy.max_closers {
            let Some((lease, reason)) = self.retired.pop_front() else { return };
            self.enter(lease.permit.index(), State::Closing, None, now);
            self.closers += 1;
            self.watch(&lease.permit, fx);
            fx.job(Job::Close(lease, reason));
        }
    }

    /// The late but good result of an abandoned call: taken in if there is
    /// room, else closed for the reason given.
    fn take_in_late(
        &mut self,
        lease: Lease<T::Conn>,
        otherwise: Reason,
        now: Time,
        fx: &mut Effects<T>,
    ) {
        let room = self.live() < self.policy.max_size;
        match self.unfit(&lease.permit, now) {
            None if room => {
                self.forget_abandonment(now, fx);
                self.offer(lease, now, fx);
            }
            None | Some(Reason::Excess) => self.close_late(lease, otherwise, now, fx),
            Some(reason) => self.close_late(lease, reason, now, fx),
        }
    }

    /// Closes what came of an abandoned call; it goes on counting as abandoned
    /// until it is closed.
    fn close_late(
        &mut self,
        lease: Lease<T::Conn>,
        reason: Reason,
        now: Time,
        fx: &mut Effects<T>,
    ) {
        self.counters.closed[reason as usize] += 1;
        self.slot(&lease.permit).abandoned = Some((CallKind::Close, now));
        fx.job(Job::Close(lease, reason));
    }

    fn forget_abandoned(&mut self, permit: Permit, now: Time, fx: &mut Effects<T>) {
        self.vacate(permit, None, now);
        self.forget_abandonment(now, fx);
    }

    /// One abandoned call fewer: another that overran may take its place.
    fn forget_abandonment(&mut self, now: Time, fx: &mut Effects<T>) {
        if self.abandoned == self.policy.max_abandoned {
            self.plan(now, fx);
        }
        self.abandoned -= 1;
    }

    /// Looks at the driver calls under way: slow ones are not counted on any
    /// more, those that overran are abandoned.
    fn look_at_calls(&mut self, now: Time, fx: &mut Effects<T>) {
        if self.opening + self.checking + self.closers == 0 {
            return;
        }
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let state = slot.state;
            if !slot.slow && slot.slows_at(&self.policy).is_some_and(|at| at <= now) {
                self.slots[index].slow = true;
                *self.slow.of(state) += 1;
            }
            let slot = &self.slots[index];
            if slot.overrun_at(&self.policy).is_none_or(|at| at > now) {
                continue;
            }
            if self.abandoned < self.policy.max_abandoned {
                self.abandon(index, now, fx);
            } else if !slot.overdue {
                self.slots[index].overdue = true;
                *self.overdue.of(state) += 1;
            }
        }
        self.start_closes(now, fx);
    }

    fn abandon(&mut self, index: usize, now: Time, fx: &mut Effects<T>) {
        self.forget_lateness(index);
        let Slot { state, since, number, .. } = self.slots[index];
        let kind = match state {
            State::Opening => {
                self.opening -= 1;
                if self.note_open_failure(since, now, false) {
                    fx.notices.push(Notice::Outage(None));
                }
                CallKind::Open
            }
            State::Checking(..) => {
                self.checking -= 1;
                CallKind::Check
            }
            State::Closing => {
                self.closers -= 1;
                CallKind::Close
            }
            _ => unreachable!("BUG: abandoned a slot without a driver call"),
        };
        self.enter(index, State::Abandoned, Some(Why::Overran), now);
        self.slots[index].abandoned = Some((kind, since));
        self.abandoned += 1;
        self.counters.abandoned += 1;
        fx.notices.push(Notice::Abandoned { kind, connection: number, after: now.since(since) });
    }

    /// The driver call of a slot has ended or is abandoned.
    fn forget_lateness(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if std::mem::take(&mut slot.slow) {
            *self.slow.of(slot.state) -= 1;
        }
        if std::mem::take(&mut slot.overdue) {
            *self.overdue.of(slot.state) -= 1;
        }
    }

    /// Retires what is too old, and starts keepalives: one turn of the whole
    /// stack, which keeps its order.
    fn reap_idle(&mut self, now: Time, fx: &mut Effects<T>) {
        for _ in 0..self.idle.len() {
            let Some(lease) = self.idle.pop_front() else { return };
            let slot = &self.slots[lease.permit.0 as usize];
            let idle_until = slot.since.after_opt(self.policy.idle_timeout);
            let check_at = slot.fresh_at.after_opt(self.policy.keepalive);
            if now >= slot.expires {
                self.retire(lease, Reason::Expired, now, fx);
            } else if now >= idle_until {
                self.retire(lease, Reason::IdleTooLong, now, fx);
            } else if now >= check_at && self.checking < KEEPALIVES_AT_ONCE {
                let since = slot.since;
                self.start_check(lease, Check::VALIDATE, Some(since), now, fx);
            } else {
                self.idle.push_back(lease);
            }
        }
    }

    /// Starts the check that waited for one to end, without a look at everything.
    /// Whatever was checked goes to the bottom of the stack, so the next in need
    /// of it stands where the last one stood, or a little above. `false`: there
    /// is none from there on; whether there is one at all, the reaper finds out.
    fn start_next_keepalive(&mut self, now: Time, fx: &mut Effects<T>) -> bool {
        let due = |lease: &Lease<T::Conn>| {
            let fresh_at = self.slots[lease.permit.0 as usize].fresh_at;
            now >= fresh_at.after_opt(self.policy.keepalive)
        };
        let from = std::mem::take(&mut self.keepalive_from).min(self.idle.len());
        let Some(above) = self.idle.range(from..).position(due) else { return false };
        self.keepalive_from = from + above;
        let lease = self.idle.remove(from + above).expect("BUG: it was just there");
        let since = self.slot(&lease.permit).since;
        self.start_check(lease, Check::VALIDATE, Some(since), now, fx);
        true
    }

    /// The earliest time at which the passing of time will change something.
    fn next_look(&self, now: Time) -> Time {
        let mut next = now.after_opt(self.policy.shortest_span());
        // With as many checks under way as there may be, the end of one of them
        // calls for the next look.
        let keepalive = self.policy.keepalive.filter(|_| self.checking < KEEPALIVES_AT_ONCE);
        for lease in &self.idle {
            let slot = &self.slots[lease.permit.0 as usize];
            next = next
                .min(slot.expires)
                .min(slot.since.after_opt(self.policy.idle_timeout))
                .min(slot.fresh_at.after_opt(keepalive));
        }
        if self.opening + self.checking + self.closers > 0 {
            let looks = self.slots.iter().filter_map(|slot| slot.look_at(&self.policy));
            next = looks.fold(next, Time::min);
        }
        next = next.min(self.next_leak()).min(self.self_deadlock_limit());
        match &self.outage {
            Some(outage) if self.wanted() > 0 && outage.retry_at > now => next.min(outage.retry_at),
            _ => next,
        }
    }

    pub(super) fn plan(&mut self, at: Time, fx: &mut Effects<T>) {
        if at < self.wake_at {
            self.wake_at = at;
            fx.wake_reaper = true;
        }
    }
}
