//! Whether a transition was legal: what it did, and what it failed to do.
//!
//! The reference has applied the event. Here it applies the effects one by one, and checks
//! whether each is allowed. Then it compares itself with the pool, number for number.

use std::time::Duration;

use super::super::toy::Toy;
use super::reference::{Call, Granted, Reference, Waiting, What};
use super::walker::TICK;
use crate::core::*;

/// The transition that has just been made.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// One that does not visit the queue.
    Quiet,
    /// A return by the fast path, which does not visit the queue either.
    ReturnedFast,
    Served,
    /// A newcomer asked, and got this connection or none.
    Asked {
        client: u8,
        priority: u8,
        /// When it came: earlier if it has made a check itself.
        arrival: Arrival,
        got: Option<u32>,
        fast: bool,
    },
    Claimed {
        client: u8,
        got: Option<u32>,
    },
    /// A newcomer checks this connection itself.
    Checks(u32),
    /// The reaper ran, and runs again at this time.
    Ticked(Time),
}

impl How {
    pub(super) fn serves(self) -> bool {
        !matches!(self, How::Quiet | How::ReturnedFast | How::Asked { fast: true, .. })
    }
}

/// What was taken from the stack of idle connections in this transition.
struct Taken {
    stack: Vec<u32>,
    /// From the top.
    upper: Vec<u32>,
    /// Those of them that callers got, in that order.
    handed: Vec<usize>,
    /// Old ones, from anywhere.
    old: Vec<u32>,
    /// From the bottom of the rest.
    lower: Vec<u32>,
}

impl Taken {
    fn hand(&mut self, conn: u32) {
        let place = self.stack.iter().position(|&idle| idle == conn);
        let place = place.expect("P7: handed out what was not idle");
        let in_order = self.handed.last().is_none_or(|&last| place < last);
        assert!(in_order, "one that was used longer ago is handed out first");
        self.handed.push(place);
        self.upper.push(conn);
    }

    /// The remaining stack, provided connections were only taken from its ends; or, by callers,
    /// from below others that are not fit.
    fn rest(self, is_fit: impl Fn(u32) -> bool) -> Vec<u32> {
        for (place, conn) in self.stack.iter().enumerate() {
            let above = &self.stack[place + 1..];
            let mut passed = above.iter().filter(|it| !self.upper.contains(it));
            let may_pass = |&it: &u32| self.handed.contains(&place) && !is_fit(it);
            let taken = self.upper.contains(conn);
            assert!(!taken || passed.all(may_pass), "taken, but not from the top of the stack");
        }
        self.stack.into_iter().filter(|conn| !self.upper.contains(conn)).collect()
    }
}

impl Reference {
    pub(super) fn settle(&mut self, core: &Core<Toy>, fx: &Effects<Toy>, how: How) {
        self.beginning = fx.jobs.iter().map(slot_of).collect();
        let own = match how {
            How::Checks(conn) => Some(conn),
            _ => None,
        };
        // Its check begins first.
        self.beginning.splice(0..0, own.map(|conn| self.conns[conn as usize].permit));
        let waiting = self.queue.len() as u32;
        let stack = self.idle.clone();
        let mut taken = Taken {
            stack,
            upper: Vec::new(),
            handed: Vec::new(),
            old: Vec::new(),
            lower: Vec::new(),
        };
        self.see_retired(core, fx, &mut taken);
        if let Some(conn) = own {
            self.see_own_check(conn, &mut taken);
        }
        let (dismissed, failed) = self.see_answers(core, fx, how, &mut taken);
        self.see_checks(fx, waiting, &mut taken);
        if let How::Asked { client, priority, arrival, got: Some(conn), fast } = how {
            let since = if fast { self.now } else { arrival.since };
            assert!(self.serving(), "served while paused or closed");
            let arrival = Arrival { since, ..arrival };
            assert!(self.may_pass(arrival, priority), "P2: overtaken past the bound");
            assert!(self.may_be_handed_out(conn), "a newcomer got what is not fit");
            taken.hand(conn);
            self.counters.overtakes += u64::from(!self.queue.is_empty());
            let waited = self.now.since(since);
            self.counters.gets_waited += u64::from(!waited.is_zero());
            self.counters.time_waited += waited;
            self.lend(conn, client, waited);
        }
        assert!(how.serves() || (waiting as usize == self.queue.len() && taken.upper.len() < 2));
        let (old, lower) = (std::mem::take(&mut taken.old), std::mem::take(&mut taken.lower));
        self.idle = taken.rest(|conn| !self.policy.fresh_by_check || !self.stale(conn));
        self.judge_dismissals(how, dismissed);
        self.judge_failures(how, failed);
        // A newcomer's connection was idle when the pool first looked.
        let came = u32::from(matches!(how, How::Asked { got: Some(_), .. }));
        self.replace_old(how, came, &old);
        self.trim(how, came as usize, &lower);
        self.see_opens(fx, how, came);
        self.see_closes(fx);
        self.see_deadlock(fx, how);
        self.see_notices(fx);
        assert_eq!(fx.progress, std::mem::take(&mut self.due.progress), "progress");
        self.compare(core);
        self.judge_service(how);
        let mut tasks = self.queue.iter().chain(&self.absent).filter_map(|waiting| waiting.task);
        let ticked = matches!(how, How::Ticked(_));
        assert!(!ticked || tasks.all(|at| at > self.now), "P1: a task waits past its deadline");
        self.judge_plan(core, fx, how);
        self.order += self.beginning.len() as u64;
    }

    /// A newcomer takes the top of the stack to check it. No waiter counts on that.
    fn see_own_check(&mut self, conn: u32, taken: &mut Taken) {
        assert_eq!(taken.stack.last(), Some(&conn), "not the top of the stack");
        assert!(self.stale(conn), "checked early");
        taken.upper.push(conn);
        let permit = self.conns[conn as usize].permit;
        self.start(permit, Some(conn), What::Check(Check::VALIDATE, None), false);
        self.calls.last_mut().expect("it has begun").slow = true;
    }

    /// Old idle connections end if they may, from the bottom; those that nobody has used and
    /// nobody needs end too. What came for a newcomer was idle then.
    fn replace_old(&mut self, how: How, came: u32, actual: &[u32]) {
        let mut ended = Vec::new();
        while how.serves() && self.queue.is_empty() {
            let may_end = self.may_end_old(came);
            let surplus = self.idle.len() as u32 + came > self.kept();
            let ends = |&conn: &u32| {
                let facts = &self.conns[conn as usize];
                let ends = may_end || self.is_past_its_life(conn);
                facts.old && (ends || (surplus && !facts.used))
            };
            let Some(place) = self.idle.iter().position(ends) else { break };
            let conn = self.idle.remove(place);
            let reason = self.reason_of_age(conn);
            self.end_old(conn, !surplus || self.conns[conn as usize].used);
            self.retire(conn, reason);
            let kept = self.idle.len() as u32 + came >= self.kept();
            let on_time = self.policy.ends_on_time && reason == Reason::Expired;
            assert!(kept || on_time || self.open(1) >= self.policy.max_size, "P17: too few");
            ended.push(conn);
        }
        assert_eq!(actual, ended, "P17: the old connections that ended");
    }

    fn trim(&mut self, how: How, came: usize, actual: &[u32]) {
        let most = self.policy.max_idle.unwrap_or(self.policy.max_size) as usize;
        let mut excess = Vec::new();
        while self.queue.is_empty()
            && how.serves()
            && self.idle.len() + came > most
            && !self.idle.is_empty()
        {
            let conn = self.idle.remove(0);
            self.retire(conn, Reason::Excess);
            excess.push(conn);
        }
        assert_eq!(actual, excess, "idle connections that were trimmed");
    }

    /// The connections that the event itself retired are known. More may be old, or too many
    /// idle ones.
    fn see_retired(&mut self, core: &Core<Toy>, fx: &Effects<Toy>, taken: &mut Taken) {
        let late = &self.due.late_closes;
        let mut closing: Vec<(u32, Reason)> =
            closes(fx).filter(|close| !late.contains(close)).collect();
        closing.extend(core.retired.iter().map(|(lease, reason)| (lease.conn, *reason)));
        let known = self.retired.len();
        assert!(closing.starts_with(&self.retired), "P7: not what was retired first is closed");
        for &(conn, reason) in &closing[known..] {
            match reason {
                Reason::Expired | Reason::Stale => {
                    assert!(self.conns[conn as usize].old, "retired before its time");
                    assert_eq!(reason, self.reason_of_age(conn));
                    taken.old.push(conn);
                }
                Reason::Excess => taken.lower.push(conn),
                _ => panic!("connection {conn} is retired as {reason:?}, and nothing says so"),
            }
        }
    }

    /// Returns the clients that failed because no idle connection is fit, and those that
    /// failed because connecting does.
    fn see_answers(
        &mut self,
        core: &Core<Toy>,
        fx: &Effects<Toy>,
        how: How,
        taken: &mut Taken,
    ) -> (Vec<u8>, Vec<u8>) {
        let (mut dismissed, mut failed) = (Vec::new(), Vec::new());
        let mut actual = Vec::new();
        let mut claimed = match how {
            How::Claimed { client, got } => got.map(|conn| (client, conn)),
            _ => None,
        };
        for (client, answer) in &fx.answers {
            self.see_claim(&mut claimed, taken);
            match answer {
                Answer::Granted(lease) => {
                    assert_eq!(lease.permit.0, self.conns[lease.conn as usize].permit, "permit");
                    let _ = self.see_grant(*client, lease.conn, taken);
                }
                Answer::Nudged if self.is_task(*client) => {
                    self.see_grant_to_task(*client, core, taken);
                }
                Answer::Nudged => self.see_nudge(*client, taken),
                Answer::Failed(ErrorKind::Timeout, None) if self.is_task(*client) => {
                    self.see_timeout(*client, how, taken);
                }
                Answer::Failed(ErrorKind::Timeout, None) if self.waiting(*client).is_none() => {
                    actual.push((*client, "timed out"));
                }
                Answer::Failed(ErrorKind::Timeout, None) => dismissed.push(*client),
                Answer::Failed(ErrorKind::Connect, cause) => {
                    assert_eq!(*cause, self.last_error.map(|(_, cause)| cause), "P9: the cause");
                    failed.push(*client);
                }
                Answer::Failed(ErrorKind::Cancelled, None) => actual.push((*client, "cancelled")),
                Answer::Failed(ErrorKind::Closed, None) => actual.push((*client, "closed")),
                Answer::Failed(ErrorKind::UseHandler, Some(_)) => actual.push((*client, "refused")),
                Answer::Failed(kind, _) => panic!("answered with {kind:?}"),
                Answer::SelfDeadlock(_) => {} // see `see_deadlock`
            }
        }
        self.see_claim(&mut claimed, taken);
        assert!(claimed.is_none(), "P2: claimed out of turn");
        self.see_begins(fx, taken);
        assert_eq!(self.due.begun, None, "P3: a use has begun, and nobody has it");
        assert_eq!(self.due.grant, None, "P3: nobody got what was opened or checked for them");
        assert_eq!(actual, std::mem::take(&mut self.due.answers), "P4: answers");
        (dismissed, failed)
    }

    /// A claim is served when its waiter is first: after those before it, and before those
    /// behind it.
    fn see_claim(&mut self, claimed: &mut Option<(u8, u32)>, taken: &mut Taken) {
        let first = self.first().map(|waiting| waiting.client);
        if let Some((client, conn)) = claimed.take_if(|(client, _)| Some(*client) == first) {
            let _ = self.see_grant(client, conn, taken);
        }
    }

    /// A task that waits, in the line or aside.
    fn is_task(&self, client: u8) -> bool {
        let mut all = self.queue.iter().chain(&self.absent);
        all.any(|waiting| waiting.client == client && waiting.task.is_some())
    }

    /// The pool tells which connection it was.
    fn see_grant_to_task(&mut self, client: u8, core: &Core<Toy>, taken: &mut Taken) {
        let is_its = |slot: &&crate::core::slot::Slot<Toy>| {
            slot.untaken && slot.caller == Some(client) && slot.state == ConnectionState::Busy
        };
        let slot = core.slots.iter().find(is_its).expect("P3: woken without a connection");
        let conn = (slot.connection_id - 1) as u32;
        let waiting = self.see_grant(client, conn, taken);
        let until = self.now.after(self.policy.take_up_limit);
        let waiting = Waiting { counted_to: self.now, ..waiting };
        self.granted.push(Granted { waiting, conn, until });
    }

    /// A task times out in the line, or aside, where no connection could be its.
    fn see_timeout(&mut self, client: u8, how: How, taken: &Taken) {
        assert!(matches!(how, How::Ticked(_)), "only the reaper looks at deadlines");
        let in_line = self.waiting(client).is_some();
        let gone = |conn| taken.upper.contains(conn) || taken.old.contains(conn);
        let mut left = taken.stack.iter().filter(|&conn| !gone(conn));
        let fit = left.any(|&conn| self.may_be_handed_out(conn));
        assert!(!in_line || !self.serving() || !fit, "P1: timed out beside an idle connection");
        let waiting = self.dismiss(client, ErrorKind::Timeout);
        assert!(waiting.task.is_some_and(|at| at <= self.now), "P1: timed out early");
        self.counters.timeouts += 1;
    }

    fn see_grant(&mut self, client: u8, conn: u32, taken: &mut Taken) -> Waiting {
        assert!(self.serving(), "served while paused or closed");
        if self.policy.begins_uses {
            let due = self.due.begun.take();
            assert_eq!(due, Some((client, conn)), "lent, but its use has not begun");
        } else {
            self.see_choice(client, conn, taken);
        }
        let waiting = Waiting { prepared_on: None, ..self.dequeue(client) };
        self.lend(conn, client, self.now.since(waiting.since));
        self.counters.gets_waited += 1;
        waiting
    }

    /// This connection is for this waiter.
    fn see_choice(&mut self, client: u8, conn: u32, taken: &mut Taken) {
        assert!(self.serving(), "served while paused or closed");
        let first = self.first().map(|waiting| waiting.client);
        assert_eq!(Some(client), first, "P2: served out of turn");
        if let Some(due) = self.due.grant.take() {
            assert_eq!(due, conn, "P3: not the one that was opened or checked for it");
        } else {
            assert!(self.may_be_handed_out(conn), "granted what is not fit");
            taken.hand(conn);
        }
    }

    /// Waiters step aside until their uses have begun. Nobody else counts on those connections.
    fn see_begins(&mut self, fx: &Effects<Toy>, taken: &mut Taken) {
        for job in &fx.jobs {
            let Job::Begin(lease, client, ()) = job else { continue };
            let conn = lease.conn;
            self.see_choice(*client, conn, taken);
            let place = self.queue.iter().position(|waiting| waiting.client == *client);
            let mut waiting = self.queue.remove(place.expect("it is the first"));
            waiting.prepared_on = Some(conn);
            let place = self.absent.partition_point(|other| other.came < waiting.came);
            self.absent.insert(place, waiting);
            self.start(lease.permit.0, Some(conn), What::Check(Check::BEGIN, None), false);
            self.calls.last_mut().expect("it has begun").slow = true;
        }
    }

    fn see_nudge(&mut self, client: u8, taken: &Taken) {
        assert_eq!(self.nudged, None, "one nudge under way is enough");
        let first = self.first().expect("P4: nudged, but nobody waits");
        assert_eq!(client, first.client, "P2: nudged out of turn");
        assert!(!self.passed_bound(first), "P2: it may not be overtaken any more");
        let gone = |conn| taken.upper.contains(conn) || taken.old.contains(conn);
        let mut left = taken.stack.iter().filter(|&conn| !gone(conn));
        assert!(left.any(|&conn| self.may_be_handed_out(conn)), "nudged for nothing");
        self.nudged = Some(client);
    }

    fn see_checks(&mut self, fx: &Effects<Toy>, waiting: u32, taken: &mut Taken) {
        let mut due = std::mem::take(&mut self.due.checks);
        let forced = u32::from(std::mem::take(&mut self.due.another_check));
        let in_time = self.checking_in_time() + due.len() as u32;
        let mut others = 0;
        for job in &fx.jobs {
            let Job::Check(lease, check) = job else { continue };
            let conn = lease.conn;
            let known = due.iter().position(|&(due, what, _)| (due, what) == (conn, *check));
            let idle_since = known.and_then(|place| due.swap_remove(place).2);
            if known.is_none() {
                others += 1;
                assert!(*check == Check::VALIDATE && self.stale(conn));
                let worked_at = self.conns[conn as usize].truly_fresh_at;
                assert!(self.is_due(conn, worked_at) || self.in_doubt(conn), "checked early");
                assert!(self.serving() && waiting > 0, "checked for nobody");
                taken.upper.push(conn);
            }
            self.start(lease.permit.0, Some(conn), What::Check(*check, idle_since), false);
        }
        assert!(due.is_empty(), "what had to be checked is not: {due:?}");
        assert!(others >= forced, "P1: the next is not checked while others hang");
        assert!(others <= forced + waiting.saturating_sub(in_time), "more checks than waiters");
    }

    pub(super) fn start(&mut self, permit: u32, conn: Option<u32>, what: What, abandoned: bool) {
        let (slow, overdue, since) = (false, false, self.now);
        let place = self.beginning.iter().position(|&it| it == permit).expect("it begins");
        let generation = self.generation;
        let patience_ends = since.after(self.patience(what));
        self.moved_at = if what == What::Connect { since } else { self.moved_at };
        self.calls.push(Call {
            permit,
            conn,
            what,
            since,
            generation,
            patience_ends,
            begun: self.order + place as u64 + 1,
            slow,
            overdue,
            abandoned,
        });
        // The connection of an abandoned call makes no step.
        match what {
            _ if abandoned => {}
            What::Connect => self.note_move(permit, conn, ConnectionState::Opening, None),
            What::Check(..) => self.note_move(permit, conn, ConnectionState::Checking, None),
            What::Close => self.note_move(permit, conn, ConnectionState::Closing, None),
        }
    }

    fn judge_dismissals(&mut self, how: How, dismissed: Vec<u8>) {
        let hopeless = how.serves() && self.idle.is_empty() && self.checking() == 0;
        let only_idle = self.queue.iter().filter(|waiting| waiting.only_idle && hopeless);
        let mut expected: Vec<u8> = only_idle.map(|waiting| waiting.client).collect();
        expected.sort_unstable();
        let mut actual = dismissed.clone();
        actual.sort_unstable();
        assert_eq!(actual, expected, "actual that none is idle");
        for client in dismissed {
            self.dismiss(client, ErrorKind::Timeout);
        }
    }

    /// Nobody waits for what cannot come.
    fn judge_failures(&mut self, how: How, failed: Vec<u8>) {
        let mut expected = Vec::new();
        while how.serves()
            && self.is_hopeless()
            && let Some(client) = self.first().map(|first| first.client)
        {
            self.dismiss(client, ErrorKind::Connect);
            expected.push(client);
        }
        while how.serves()
            && self.is_hopeless()
            && let Some(client) = self.absent.first().map(|waiting| waiting.client)
        {
            self.dismiss(client, ErrorKind::Connect);
            expected.push(client);
        }
        assert_eq!(failed, expected, "P9: those that fail because connecting does");
    }

    fn see_closes(&mut self, fx: &Effects<Toy>) {
        let mut late = std::mem::take(&mut self.due.late_closes);
        let may = self.policy.max_closers - self.closing_on_record();
        let mut expected = self.retired.len().min(may as usize);
        for close in closes(fx) {
            let permit = self.conns[close.0 as usize].permit;
            assert!(self.conns[close.0 as usize].alive, "P7: closed twice");
            if let Some(place) = late.iter().position(|&it| it == close) {
                late.remove(place);
                self.start(permit, Some(close.0), What::Close, true);
            } else {
                assert_eq!(self.retired.remove(0), close);
                expected = expected.checked_sub(1).expect("P6: too many closers");
                self.start(permit, Some(close.0), What::Close, false);
            }
        }
        assert!(expected == 0 && late.is_empty(), "P6: a close is not started");
    }

    fn see_notices(&mut self, fx: &Effects<Toy>) {
        let text = |notice: &Notice<Toy>| match notice {
            Notice::Leak(held) => format!("leak of {} after {:?}", held.caller, held.held_for),
            Notice::LeakEnded(held) => {
                format!("leak of {} ended after {:?}", held.caller, held.held_for)
            }
            Notice::SelfDeadlock(waits) => format!("deadlock of {:?}", summary(waits)),
            Notice::Outage(cause) => format!("outage {cause:?}"),
            Notice::OutageEnded { failures, lasted } => {
                format!("outage ended after {failures}, {lasted:?}")
            }
            Notice::Doubt { connection_id, reason, idle } => {
                format!("{connection_id} is {reason}: {idle} in doubt")
            }
            Notice::Abandoned { kind, connection_id, after } => {
                format!("abandoned {kind:?} of {connection_id} after {after:?}")
            }
        };
        let mut actual: Vec<String> = fx.notices.iter().map(text).collect();
        let mut expected = std::mem::take(&mut self.due.notices);
        actual.sort_unstable();
        expected.sort_unstable();
        assert_eq!(actual, expected, "notices");
    }

    /// The pool's counts are the reference's.
    fn compare(&mut self, core: &Core<Toy>) {
        assert!(core.idle.iter().map(|lease| &lease.conn).eq(&self.idle), "the idle connections");
        let retired = core.retired.iter().map(|(lease, reason)| (lease.conn, *reason));
        assert!(retired.eq(self.retired.iter().copied()), "those that wait for a closer");
        assert_eq!(core.gauges(), self.gauges());
        assert_eq!(core.succession, self.succession, "P17: the succession");
        assert_eq!(*core.counters(), self.counters);
        assert_eq!(core.last_error(), self.last_error, "P9: the last error");
        assert_eq!(core.is_hopeless(self.now), self.is_hopeless(), "P9: hopeless");
        assert_eq!(core.is_drained(), self.closed && self.live() == 0, "P11");
        assert_eq!(core.nudged.is_some(), self.nudged.is_some(), "a nudge under way");
        // A pool that shrinks may have too many, but never more than before.
        let live = self.live();
        assert!(live <= self.policy.max_size.max(self.live_before), "P5: too many are live");
        self.live_before = live;
        assert!(self.abandoned() <= self.policy.max_abandoned, "P5: too many abandoned");
        // Each connection is in exactly one place.
        let alive = self.conns.iter().filter(|facts| facts.alive).count();
        let in_calls = self.calls.iter().filter(|call| call.conn.is_some()).count();
        let known = self.idle.len() + self.held.len() + self.retired.len() + in_calls;
        assert_eq!(alive, known, "P7: a connection is lost, or in two places");
    }
}

impl Reference {
    /// Errors and statistics report the truth.
    pub(super) fn compare_reports(&self, core: &mut Core<Toy>) {
        let now = self.now;
        let mut holders: Vec<_> = core.holders(now).map(|h| (h.caller, h.held_for)).collect();
        let mut held: Vec<_> = self.held.iter().map(|h| (h.client, now.since(h.since))).collect();
        holders.sort_unstable();
        held.sort_unstable();
        assert_eq!(holders, held, "P9: who holds what");
        let longest = core.longest_holder(now).map(|held| held.held_for);
        let expected = held.iter().map(|held| held.1).max();
        assert_eq!(longest.is_some(), expected.is_some(), "P9: the longest holder");
        // By a clock that ticks, a later holder may seem to be earlier.
        let short = expected.unwrap_or_default().saturating_sub(longest.unwrap_or_default());
        assert!(short.as_nanos() <= u128::from(TICK), "P9: not the longest holder");
        assert_eq!(core.prospect(now), self.prospect(), "P9: whether it is ready");
        let slow = self.calls.iter().filter(|call| {
            let patience = match call.what {
                What::Connect => self.policy.patience_min,
                What::Check(..) => self.policy.check_patience,
                What::Close => return false,
            };
            !call.abandoned && now.since(call.since) >= patience
        });
        let slowest = core.slowest_call(now).map(|(_, since)| since);
        assert_eq!(slowest, slow.map(|call| call.since).min(), "P9: the slowest call");
        let waits = if self.deadlocked.is_some() { self.self_waits() } else { Vec::new() };
        assert_eq!(summary(&core.self_deadlock(now)), waits, "P9: who waits for itself");
    }
}

fn slot_of(job: &Job<Toy>) -> u32 {
    match job {
        Job::Connect(permit) => permit.0,
        Job::Begin(lease, ..) => lease.permit.0,
        Job::Check(lease, _) | Job::Close(lease, _) => lease.permit.0,
    }
}

fn closes(fx: &Effects<Toy>) -> impl Iterator<Item = (u32, Reason)> {
    fx.jobs.iter().filter_map(|job| match job {
        Job::Close(lease, reason) => Some((lease.conn, *reason)),
        _ => None,
    })
}

pub(super) fn summary(waits: &[NestedWait<u8>]) -> Vec<(u8, Duration)> {
    let mut summary: Vec<_> = waits.iter().map(|w| (w.held.caller, w.held.held_for)).collect();
    summary.sort_unstable();
    summary
}
