//! Whether a transition was legal: what it did, and what it left undone.
//!
//! The reference has taken note of the event; the effects are taken in here one
//! by one, each with the question whether it may be. What is then left is
//! compared with the pool itself, number for number.

use super::super::explore::Toy;
use super::super::*;
use super::reference::{Call, Reference, What};

/// The transition that has just been made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// One that does not look at the queue.
    Quiet,
    Served,
    /// A newcomer asked, and got this or nothing.
    Asked {
        client: u8,
        priority: u8,
        got: Option<u32>,
        fast: bool,
    },
    Claimed {
        client: u8,
        got: Option<u32>,
    },
    /// The reaper will look again at this time.
    Ticked(Time),
}

impl How {
    fn serves(self) -> bool {
        !matches!(self, How::Quiet | How::Asked { fast: true, .. })
    }
}

/// What was taken from the stack of idle connections in this transition.
struct Taken {
    stack: Vec<u32>,
    /// From the top.
    upper: Vec<u32>,
    /// Those of them that went to callers, in the order in which they did.
    handed: Vec<usize>,
    /// From the bottom.
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

    /// What is left, if what is gone was taken from the ends.
    fn rest(mut self) -> Vec<u32> {
        assert!(self.stack.starts_with(&self.lower), "trimmed, but not the oldest");
        let mut rest = self.stack.split_off(self.lower.len());
        let upper = rest.split_off(rest.len() - self.upper.len());
        self.upper.sort_unstable();
        let mut expected = upper;
        expected.sort_unstable();
        assert_eq!(self.upper, expected, "taken, but not from the top of the stack");
        rest
    }
}

impl Reference {
    pub(super) fn settle(&mut self, core: &Core<Toy>, fx: &Effects<Toy>, how: How) {
        let waiting = self.queue.len() as u32;
        let stack = self.idle.clone();
        let mut taken = Taken { stack, upper: Vec::new(), handed: Vec::new(), lower: Vec::new() };
        let expired_on_the_way = self.see_retired(core, fx, &mut taken);
        let dismissed = self.see_answers(fx, how, &mut taken);
        self.see_checks(fx, waiting, &mut taken);
        let before_newcomer = taken.stack.len() - taken.upper.len();
        if let How::Asked { client, priority, got: Some(conn), .. } = how {
            assert!(self.serving(), "served while paused or closed");
            assert!(self.may_overtake(priority), "P2: overtaken past the bound");
            assert!(self.may_be_handed_out(conn), "a newcomer got what is not fit");
            taken.hand(conn);
            self.lend(conn, client);
        }
        assert!(how.serves() || (waiting as usize == self.queue.len() && taken.upper.len() < 2));
        let trimmed = taken.lower.len();
        self.idle = taken.rest();
        self.judge_dismissals(how, dismissed);
        let most = self.policy.max_idle.unwrap_or(self.policy.max_size) as usize;
        let excess = match self.queue.is_empty() && how.serves() {
            true => before_newcomer.saturating_sub(most),
            false => 0,
        };
        assert_eq!(trimmed, excess, "idle connections that were trimmed");
        self.see_opens(fx, how, expired_on_the_way);
        self.see_closes(fx);
        self.see_deadlock(fx, how);
        self.see_notices(fx);
        assert_eq!(fx.progress, std::mem::take(&mut self.due.progress), "progress");
        self.compare(core);
        self.judge_service(how);
        self.judge_plan(core, fx, how);
    }

    /// Those that the event itself retired are known; more may have expired on
    /// the way to one that is fit, or be too many idle ones.
    fn see_retired(&mut self, core: &Core<Toy>, fx: &Effects<Toy>, taken: &mut Taken) -> bool {
        let late = &self.due.late_closes;
        let mut closing: Vec<(u32, Reason)> =
            closes(fx).filter(|close| !late.contains(close)).collect();
        closing.extend(core.retired.iter().map(|(lease, reason)| (lease.conn, *reason)));
        let known = self.retired.len();
        assert!(closing.starts_with(&self.retired), "P7: not what was retired first is closed");
        for &(conn, reason) in &closing[known..] {
            match reason {
                Reason::Expired => {
                    assert!(self.expired(conn), "retired before its time");
                    taken.upper.push(conn);
                }
                Reason::Excess => taken.lower.push(conn),
                _ => panic!("connection {conn} is retired as {reason:?}, and nothing says so"),
            }
            self.retire(conn, reason);
        }
        !taken.upper.is_empty()
    }

    /// Returns those who were told that no idle connection is fit.
    fn see_answers(&mut self, fx: &Effects<Toy>, how: How, taken: &mut Taken) -> Vec<u8> {
        let mut dismissed = Vec::new();
        let mut told = Vec::new();
        let mut claimed = match how {
            How::Claimed { client, got } => got.map(|conn| (client, conn)),
            _ => None,
        };
        for (client, answer) in &fx.answers {
            self.see_claim(&mut claimed, taken);
            match answer {
                Answer::Granted(lease) => {
                    assert_eq!(lease.permit.0, self.conns[lease.conn as usize].permit, "permit");
                    self.see_grant(*client, lease.conn, taken);
                }
                Answer::Nudged => self.see_nudge(*client, taken),
                Answer::NoneIdle => dismissed.push(*client),
                Answer::Failed(_) => told.push((*client, "failed")),
                Answer::Cancelled => told.push((*client, "cancelled")),
                Answer::Closed => told.push((*client, "closed")),
                Answer::Deadlock(_) => {} // judged by itself
            }
        }
        self.see_claim(&mut claimed, taken);
        assert!(claimed.is_none(), "P2: claimed out of turn");
        assert_eq!(self.due.grant, None, "P3: nobody got what was opened or checked for them");
        assert_eq!(told, std::mem::take(&mut self.due.answers), "P4: answers");
        dismissed
    }

    /// Whoever claims is served when it is first, after those before it and
    /// before those behind it.
    fn see_claim(&mut self, claimed: &mut Option<(u8, u32)>, taken: &mut Taken) {
        let first = self.first().map(|waiting| waiting.client);
        if let Some((client, conn)) = claimed.take_if(|(client, _)| Some(*client) == first) {
            self.see_grant(client, conn, taken);
        }
    }

    fn see_grant(&mut self, client: u8, conn: u32, taken: &mut Taken) {
        assert!(self.serving(), "served while paused or closed");
        let first = self.first().map(|waiting| waiting.client);
        assert_eq!(Some(client), first, "P2: served out of turn");
        if let Some(due) = self.due.grant.take() {
            assert_eq!(due, conn, "P3: not the one that was opened or checked for it");
        } else {
            assert!(self.may_be_handed_out(conn), "granted what is not fit");
            taken.hand(conn);
        }
        self.dequeue(client);
        self.lend(conn, client);
        self.counters.gets_waited += 1;
    }

    fn see_nudge(&mut self, client: u8, taken: &Taken) {
        assert_eq!(self.nudged, None, "one nudge under way is enough");
        let first = self.first().expect("P4: nudged, but nobody waits");
        assert_eq!(client, first.client, "P2: nudged out of turn");
        assert!(!self.passed_bound(first), "P2: it may not be overtaken any more");
        let mut left = taken.stack.iter().filter(|conn| !taken.upper.contains(conn));
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
                assert!(*check == Check::VALIDATE && self.stale(conn) && !self.expired(conn));
                assert!(self.serving() && waiting > 0, "checked for nobody");
                taken.upper.push(conn);
            }
            self.start(lease.permit.0, Some(conn), What::Check(*check, idle_since), false);
        }
        assert!(due.is_empty(), "what had to be checked is not: {due:?}");
        assert!(others >= forced, "P1: the next is not checked while others hang");
        assert!(others <= forced + waiting.saturating_sub(in_time), "more checks than waiters");
    }

    fn start(&mut self, permit: u32, conn: Option<u32>, what: What, abandoned: bool) {
        let (slow, overdue, since) = (false, false, self.now);
        let generation = self.generation;
        self.calls.push(Call { permit, conn, what, since, generation, slow, overdue, abandoned });
    }

    fn judge_dismissals(&mut self, how: How, mut dismissed: Vec<u8>) {
        let hopeless = how.serves() && self.idle.is_empty() && self.checking() == 0;
        let only_idle = self.queue.iter().filter(|waiting| waiting.only_idle && hopeless);
        let mut expected: Vec<u8> = only_idle.map(|waiting| waiting.client).collect();
        expected.sort_unstable();
        dismissed.sort_unstable();
        assert_eq!(dismissed, expected, "told that none is idle");
        for client in dismissed {
            self.dequeue(client);
        }
    }

    /// How many opens are missing, and may be asked for now.
    fn opens_due(&self) -> u32 {
        let room = self.policy.max_size.saturating_sub(self.live());
        let may = self.policy.max_opening.saturating_sub(self.opening_on_record());
        let may = match &self.failing {
            Some(failing) if self.now < failing.retry_at => 0,
            Some(_) => may.min(1u32.saturating_sub(self.opening_in_time())),
            None => may,
        };
        self.opens_wanted().min(room).min(may)
    }

    fn opens_wanted(&self) -> u32 {
        let waiting = self.queue.iter().filter(|waiting| !waiting.only_idle).count() as u32;
        let max_size = self.policy.max_size;
        let most = self.policy.max_idle.unwrap_or(max_size);
        let kept = self.policy.min_idle.unwrap_or(max_size).min(most);
        let idle = self.idle.len() as u32;
        let in_time = idle + self.opening_in_time() + self.checking_in_time();
        let in_all = idle + self.opening() + self.checking();
        if self.closed {
            return 0;
        }
        waiting.saturating_sub(in_time).max((waiting + kept).saturating_sub(in_all))
    }

    fn see_opens(&mut self, fx: &Effects<Toy>, how: How, expired_on_the_way: bool) {
        let opens = fx.jobs.iter().filter_map(|job| match job {
            Job::Open(permit) => Some(permit.0),
            _ => None,
        });
        let opens: Vec<u32> = opens.collect();
        let expected = if how.serves() { self.opens_due() } else { 0 };
        // One that looks for itself and finds only expired ones will join, and
        // be served then.
        let asks_on = matches!(how, How::Asked { got: None, .. }) && expired_on_the_way;
        if asks_on {
            assert!(opens.len() as u32 <= expected, "P5: opens");
        } else {
            assert_eq!(opens.len() as u32, expected, "P3: opens");
        }
        for permit in opens {
            let calls = self.calls.iter().map(|call| call.permit);
            let conns = self.conns.iter().filter(|facts| facts.alive).map(|facts| facts.permit);
            assert!(!calls.chain(conns).any(|used| used == permit), "P5: a permit is out twice");
            self.start(permit, None, What::Open, false);
        }
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

    fn see_deadlock(&mut self, fx: &Effects<Toy>, how: How) {
        let mut answers = fx.answers.iter().filter_map(|(client, answer)| match answer {
            Answer::Deadlock(waits) => Some((*client, waits)),
            _ => None,
        });
        let answered = answers.next();
        assert!(answers.next().is_none(), "one error is enough");
        if !how.serves() {
            return assert!(answered.is_none());
        }
        let held = self.held.len() as u32;
        let waits_for_itself = |client| self.waiting(client).is_some_and(|w| w.nested);
        if !self.policy.reports_self_deadlock
            || held == 0
            || held != self.live()
            || held < self.policy.max_size
            || !self.held.iter().all(|h| h.at_home && waits_for_itself(h.client))
        {
            self.deadlocked = None;
            return assert!(answered.is_none(), "P9: this is no deadlock");
        }
        if self.deadlocked.is_none() {
            self.deadlocked = Some(self.now);
            self.counters.self_deadlocks += 1;
            self.due.notices.push(format!("deadlock of {:?}", self.self_waits()));
        }
        if self.now < self.deadlock_ends() {
            return assert!(answered.is_none(), "P9: too early");
        }
        let (client, waits) = answered.expect("P9: nobody was told of the deadlock");
        let mut holders =
            self.queue.iter().filter(|w| self.held.iter().any(|h| h.client == w.client));
        assert_eq!(holders.next_back().map(|w| w.client), Some(client), "P9: not the last");
        assert_eq!(said(waits), self.self_waits(), "P9: who waits for itself");
        self.dequeue(client);
        self.deadlocked = None;
    }

    fn deadlock_ends(&self) -> Time {
        match (self.deadlocked, self.policy.self_deadlock_limit) {
            (Some(since), Some(limit)) => since.after(limit),
            _ => Time::NEVER,
        }
    }

    /// Who holds what and waits for another.
    fn self_waits(&self) -> Vec<(u8, Duration)> {
        let nested = |client| self.waiting(client).is_some_and(|waiting| waiting.nested);
        let held = self.held.iter().filter(|holding| holding.at_home && nested(holding.client));
        let mut held: Vec<_> = held.map(|h| (h.client, self.now.since(h.since))).collect();
        held.sort_unstable();
        held
    }

    fn see_notices(&mut self, fx: &Effects<Toy>) {
        let text = |notice: &Notice<Toy>| match notice {
            Notice::Leak(held) => format!("leak of {} after {:?}", held.caller, held.held_for),
            Notice::LeakEnded(held) => {
                format!("leak of {} ended after {:?}", held.caller, held.held_for)
            }
            Notice::SelfDeadlock(waits) => format!("deadlock of {:?}", said(waits)),
        };
        let mut told: Vec<String> = fx.notices.iter().map(text).collect();
        let mut expected = std::mem::take(&mut self.due.notices);
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "notices");
    }

    /// The pool counts as the reference does.
    fn compare(&mut self, core: &Core<Toy>) {
        assert!(core.idle.iter().map(|lease| &lease.conn).eq(&self.idle), "the idle connections");
        let retired = core.retired.iter().map(|(lease, reason)| (lease.conn, *reason));
        assert!(retired.eq(self.retired.iter().copied()), "those that wait for a closer");
        assert_eq!(core.gauges(), self.gauges());
        assert_eq!(*core.counters(), self.counters);
        assert_eq!(core.last_error(), self.last_error, "P9: the last error");
        assert_eq!(core.has_none_for_good(), self.has_none_for_good());
        assert_eq!(core.is_drained(), self.closed && self.live() == 0, "P11");
        assert_eq!(core.nudged.is_some(), self.nudged.is_some(), "a nudge under way");
        // While it shrinks there are more than may be, but never more than before.
        let live = self.live();
        assert!(live <= self.policy.max_size.max(self.live_before), "P5: too many are live");
        self.live_before = live;
        assert!(self.abandoned() <= self.policy.max_abandoned, "P5: too many abandoned");
        // Each connection is in one place.
        let alive = self.conns.iter().filter(|facts| facts.alive).count();
        let in_calls = self.calls.iter().filter(|call| call.conn.is_some()).count();
        let known = self.idle.len() + self.held.len() + self.retired.len() + in_calls;
        assert_eq!(alive, known, "P7: a connection is lost, or in two places");
    }

    /// Nobody sleeps beside what could serve them. That nobody sleeps beside
    /// room for an open is judged where the opens are seen.
    fn judge_service(&self, how: How) {
        let nothing_fit = self.idle.is_empty() || self.top_needs_check();
        let nothing = match how {
            How::Asked { priority, got: None, fast: false, .. } => {
                !self.serving() || nothing_fit || !self.may_overtake(priority)
            }
            How::Claimed { got: None, .. } => !self.serving() || nothing_fit,
            _ => true,
        };
        assert!(nothing, "P3: one that asked got nothing, and there is something");
        let (Some(&top), Some(first)) = (self.idle.last(), self.first()) else { return };
        if !self.serving() {
            return;
        }
        let checks = self.checking_in_time() >= self.queue.len() as u32;
        if !how.serves() {
            return assert!(checks || self.nudged.is_some(), "P3: idle, and nobody is coming");
        }
        assert!(!self.expired(top), "P3: what has expired hides what is fit");
        if self.stale(top) {
            assert!(checks, "P3: idle, and nobody checks it");
        } else {
            assert!(self.nudged.is_some(), "P3: idle, and nobody is coming for it");
            assert!(!self.passed_bound(first), "P2: it may still be overtaken past its bound");
        }
    }

    /// The reaper looks in time at everything that time alone changes.
    fn judge_plan(&mut self, core: &Core<Toy>, fx: &Effects<Toy>, how: How) {
        let next = self.next_change(matches!(how, How::Ticked(_)));
        if let How::Ticked(look_at) = how {
            let policy = &self.policy;
            let spans = [policy.idle_timeout, policy.keepalive, policy.leak_threshold];
            // What becomes idle or is lent later is not planned for one by one.
            let at_least = self.now.after_opt(spans.into_iter().flatten().min());
            assert!(look_at > self.now, "the reaper spins");
            assert_eq!(look_at, next.min(at_least), "the reaper's plan");
            (self.look_at, self.rung) = (look_at, false);
        }
        self.rung |= fx.wake_reaper;
        assert!(self.rung || self.look_at == core.wake_at, "the reaper was not told of a plan");
        // Once it is due it may be late: its thread has not come to run.
        let next = next.max(self.now);
        assert!(
            self.rung || self.look_at <= next,
            "the reaper comes too late: at {:?}, not {next:?}",
            self.look_at
        );
    }

    fn next_change(&self, ticked: bool) -> Time {
        let policy = &self.policy;
        let keepalive = policy.keepalive.filter(|_| self.checking() < 4);
        let idle = self.idle.iter().flat_map(|&conn| {
            let facts = &self.conns[conn as usize];
            let idle_until = facts.idle_since.after_opt(policy.idle_timeout);
            [facts.expires, idle_until, facts.fresh_at.after_opt(keepalive)]
        });
        let calls = self.calls.iter().filter(|call| !call.abandoned).flat_map(|call| {
            let slows = call.what != What::Close && !call.slow;
            let slows = if slows { call.since.after(policy.patience) } else { Time::NEVER };
            let overruns = match call.overdue {
                false => self.limit(call),
                true if self.abandoned() < policy.max_abandoned => self.now,
                true => Time::NEVER,
            };
            [slows, overruns]
        });
        let leaks = self.held.iter().filter(|holding| !holding.leaking);
        let leaks = leaks.map(|holding| holding.since.after_opt(policy.leak_threshold));
        // Whoever was nudged and comes has the opens made that are missing.
        let comes = self.nudged.is_some() && !ticked;
        let room = self.live() < policy.max_size && !comes;
        let opens = match &self.failing {
            Some(failing) if room && self.opens_wanted() > 0 && self.now < failing.retry_at => {
                failing.retry_at
            }
            _ if room && self.opens_due() > 0 => self.now,
            _ => Time::NEVER,
        };
        let others = [self.deadlock_ends(), opens];
        idle.chain(calls).chain(leaks).chain(others).min().unwrap_or(Time::NEVER)
    }
}

fn closes(fx: &Effects<Toy>) -> impl Iterator<Item = (u32, Reason)> {
    fx.jobs.iter().filter_map(|job| match job {
        Job::Close(lease, reason) => Some((lease.conn, *reason)),
        _ => None,
    })
}

fn said(waits: &[SelfWait<u8>]) -> Vec<(u8, Duration)> {
    let mut said: Vec<_> = waits.iter().map(|w| (w.held.caller, w.held.held_for)).collect();
    said.sort_unstable();
    said
}
