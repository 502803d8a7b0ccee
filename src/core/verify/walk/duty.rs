//! What a transition must have done: connects, the answer to a deadlock, a waiter on its
//! way to each idle connection that is needed, and a plan for what time will change.

use std::time::Duration;

use super::super::toy::Toy;
use super::judge::{How, summary};
use super::reference::{Call, Reference, What};
use super::walker::TICK;
use crate::core::state::Succession;
use crate::core::*;

impl Reference {
    /// How many connects are missing, and may be started now.
    fn opens_due(&self, wants_successor: bool) -> u32 {
        let room = self.policy.max_size.saturating_sub(self.live());
        let free = self.at_once.saturating_sub(self.opening_in_time());
        let most = self.policy.max_opening;
        let may = match &self.failing {
            Some(failing) if self.now < failing.retry_at => 0,
            _ if self.now < self.held_up_until() => free,
            _ if self.at_once == most => free.max(1),
            _ => free.max(self.opening().min((2 * most).saturating_sub(self.opening()))).max(1),
        };
        self.opens_wanted(wants_successor).min(room).min(may)
    }

    /// Callers have no connect because of others that may hang: until then.
    fn held_up_until(&self) -> Time {
        if self.opening() > 0 && self.without_any(0) > 0 {
            let usual = self.usual.filter(|_| self.at_once < self.policy.max_opening);
            self.moved_at.after(usual.unwrap_or(self.policy.patience_min))
        } else {
            Time::NEVER
        }
    }

    fn waiting_to_open(&self) -> u32 {
        self.queue.iter().filter(|waiting| !waiting.only_idle).count() as u32
    }

    /// How many callers wait for which there is neither a connection nor a call in time.
    /// `more` connections are idle than the list has.
    fn without_any(&self, more: u32) -> u32 {
        let in_time = self.opening_in_time() + self.checking_in_time();
        self.waiting_to_open().saturating_sub(self.idle.len() as u32 + more + in_time)
    }

    /// How long a call that starts now is counted on.
    pub(super) fn patience(&self, what: What) -> Duration {
        let hedge = Duration::from_millis(900);
        let hedge = hedge.max(self.policy.patience_min).min(self.policy.patience_max);
        let slow = self.calls.iter().filter(|call| call.slow && !call.abandoned);
        let slow = slow.filter(|call| call.what == What::Connect).count() as u32;
        match what {
            What::Connect if slow > 0 && slow >= self.waiting_to_open() => {
                self.usual.map_or(hedge, |usual| usual.max(hedge))
            }
            What::Connect if slow > 0 => self.usual.unwrap_or(hedge),
            What::Connect => self.usual.unwrap_or(self.policy.patience_max),
            What::Check(..) => self.policy.check_patience,
            What::Close => Duration::MAX,
        }
    }

    /// How many connects are missing, though none may be started now.
    pub(super) fn opens_missing(&self) -> u32 {
        let room = self.policy.max_size.saturating_sub(self.live());
        self.opens_wanted(self.wants_successor()).min(room)
    }

    fn opens_wanted(&self, wants_successor: bool) -> u32 {
        let fails_fast = self.policy.fail_fast_after.is_some();
        let tries = self.failing.as_ref().is_some_and(|failing| failing.permanent || fails_fast);
        let attempts = u32::from(tries && !self.closed && self.opening_in_time() == 0);
        self.opens_needed(0).max(attempts).max(u32::from(wants_successor))
    }

    /// [`wants_successor`](Reference::wants_successor) when a newcomer asked, before it got this
    /// connection, and before checks began because none like it was left.
    fn wanted_successor(&mut self, conn: u32, fx: &Effects<Toy>) -> bool {
        let checked = fx.jobs.iter().filter_map(|job| match job {
            Job::Check(lease, _) => Some(lease.conn),
            _ => None,
        });
        let before: Vec<u32> = checked.chain([conn]).collect();
        let left = self.idle.len();
        // The last calls that have begun are these checks.
        let calls = self.calls.split_off(self.calls.len() + 1 - before.len());
        let holding = self.held.pop();
        assert_eq!(holding.as_ref().map(|holding| holding.conn), Some(conn), "the last one lent");
        self.idle.extend(before);
        let wanted = self.wants_successor();
        self.idle.truncate(left);
        self.calls.extend(calls);
        self.held.extend(holding);
        wanted
    }

    fn wants_successor(&self) -> bool {
        let wanted = match self.succession {
            Succession::None => self.old() > 0,
            Succession::Short => true,
            Succession::Opening => false,
            Succession::Ready => {
                let old_idle = self.idle.iter().any(|&conn| self.conns[conn as usize].old);
                old_idle && !self.may_end_old(0)
            }
        };
        wanted && !self.closed && self.opening() == 0
    }

    /// Those that callers and `min_idle` need. `more` connections are idle than the list has.
    fn opens_needed(&self, more: u32) -> u32 {
        if self.closed {
            return 0;
        }
        let in_all = self.idle.len() as u32 + more + self.opening() + self.checking();
        let kept = (self.waiting_to_open() + self.kept()).saturating_sub(in_all);
        self.without_any(more).max(kept)
    }

    pub(super) fn see_opens(&mut self, fx: &Effects<Toy>, how: How, came: u32) {
        let opens = fx.jobs.iter().filter_map(|job| match job {
            Job::Connect(permit) => Some(permit.0),
            _ => None,
        });
        let opens: Vec<u32> = opens.collect();
        let proof = u32::from(std::mem::take(&mut self.due.proof));
        let mut wants_successor = self.wants_successor();
        if let How::Asked { got: Some(conn), fast: false, .. } = how {
            wants_successor |= self.wanted_successor(conn, fx);
        }
        let expected = if how.serves() { self.opens_due(wants_successor) + proof } else { 0 };
        assert_eq!(opens.len() as u32, expected, "P3: opens");
        let only_for_age = self.opens_needed(came) == 0 && wants_successor;
        if expected > proof && only_for_age && self.succession == Succession::None {
            self.succession = Succession::Opening;
        }
        for permit in opens {
            let calls = self.calls.iter().map(|call| call.permit);
            let conns = self.conns.iter().filter(|facts| facts.alive).map(|facts| facts.permit);
            assert!(!calls.chain(conns).any(|used| used == permit), "P5: a permit is out twice");
            self.start(permit, None, What::Connect, false);
        }
    }

    pub(super) fn see_deadlock(&mut self, fx: &Effects<Toy>, how: How) {
        let mut answers = fx.answers.iter().filter_map(|(client, answer)| match answer {
            Answer::SelfDeadlock(waits) => Some((*client, waits)),
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
            || !self.held.iter().all(|h| !h.moved && waits_for_itself(h.client))
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
        assert_eq!(summary(waits), self.self_waits(), "P9: who waits for itself");
        self.dismiss(client, ErrorKind::SelfDeadlock);
        self.deadlocked = None;
    }

    fn deadlock_ends(&self) -> Time {
        match (self.deadlocked, self.policy.self_deadlock_limit) {
            (Some(since), Some(limit)) => since.after(limit),
            _ => Time::NEVER,
        }
    }

    /// The holders that wait for another connection.
    pub(super) fn self_waits(&self) -> Vec<(u8, Duration)> {
        let nested = |client| self.waiting(client).is_some_and(|waiting| waiting.nested);
        let held = self.held.iter().filter(|holding| !holding.moved && nested(holding.client));
        let mut held: Vec<_> = held.map(|h| (h.client, self.now.since(h.since))).collect();
        held.sort_unstable();
        held
    }

    /// No waiter sleeps beside an idle connection. That none sleeps beside room to open is
    /// judged in `see_opens`.
    pub(super) fn judge_service(&self, how: How) {
        let nothing_fit = self.idle.is_empty() || self.top_needs_check();
        let nothing = match how {
            How::Asked { priority, arrival, got: None, fast: false, .. } => {
                !self.serving() || nothing_fit || !self.may_pass(arrival, priority)
            }
            How::Claimed { got: None, .. } => !self.serving() || nothing_fit,
            _ => true,
        };
        // With a use handler, all join the queue.
        let nothing = nothing || self.policy.begins_uses;
        assert!(nothing, "P3: one that asked got nothing, and there is something");
        let most = self.policy.max_idle.unwrap_or(self.policy.max_size) as usize;
        assert!(!self.queue.is_empty() || self.idle.len() <= most, "too many are idle");
        let (Some(&top), Some(first)) = (self.idle.last(), self.first()) else { return };
        if !self.serving() {
            return;
        }
        let checks = self.checking_in_time() >= self.queue.len() as u32;
        if !how.serves() {
            assert!(checks || self.nudged.is_some(), "P3: idle, and nobody is coming");
            // A nudged waiter may be slow, which the next transition notices; but a return
            // takes the fast path only if the first waiter is the nudged one.
            let lag = Duration::from_nanos(TICK);
            let bound = self.policy.fairness_bound.saturating_add(lag);
            let passed = self.now.since(first.since) >= bound;
            let coming = self.nudged == Some(first.client) && !passed;
            // The first may come for one that lies below.
            let late = !coming || (self.stale(top) && !self.policy.fresh_by_check);
            return assert!(!matches!(how, How::ReturnedFast) || !late, "P3: not for who waits");
        }
        if self.top_needs_check() {
            assert!(checks, "P3: idle, and nobody checks it");
        } else {
            assert!(self.nudged.is_some(), "P3: idle, and nobody is coming for it");
            assert!(first.task.is_none(), "P3: a task waits beside an idle connection");
            assert!(!self.passed_bound(first), "P2: it may still be overtaken past its bound");
        }
    }

    /// The reaper runs in time for everything that time alone changes.
    pub(super) fn judge_plan(&mut self, core: &Core<Toy>, fx: &Effects<Toy>, how: How) {
        let next = self.next_change(matches!(how, How::Ticked(_)));
        if let How::Ticked(next_tick) = how {
            // A plan stands until its time.
            let planned = if self.planned > self.now { self.planned } else { Time::NEVER };
            assert!(next_tick > self.now, "the reaper spins");
            assert_eq!(next_tick, next.min(planned), "the reaper's plan");
            (self.next_tick, self.woken) = (next_tick, false);
        }
        self.planned = core.wake_at;
        self.woken |= fx.wake_reaper;
        assert!(self.woken || self.next_tick == core.wake_at, "the reaper was not told of a plan");
        // Once due it may be late: its thread is not scheduled.
        let next = next.max(self.truth());
        assert!(
            self.woken || self.next_tick <= next,
            "the reaper comes too late: at {:?}, not {next:?}",
            self.next_tick
        );
    }

    fn next_old(&self) -> Option<Time> {
        let held = self.held.iter().map(|holding| holding.conn);
        let is_check = |call: &&Call| matches!(call.what, What::Check(..)) && !call.abandoned;
        let checked = self.calls.iter().filter(is_check).filter_map(|call| call.conn);
        let open = self.idle.iter().copied().chain(held).chain(checked);
        let young = open.map(|conn| &self.conns[conn as usize]).filter(|facts| !facts.old);
        young.map(|facts| facts.expires).min()
    }

    fn next_change(&self, ticked: bool) -> Time {
        let policy = &self.policy;
        let keepalive = policy.keepalive.filter(|_| self.checking() < 4);
        let fresh = |&conn: &u32| self.conns[conn as usize].fresh_at.after_opt(keepalive);
        let mut idle_ends: Vec<Time> =
            self.idle.iter().map(|&conn| self.idle_until(conn)).collect();
        idle_ends.sort_unstable();
        let idle_end = idle_ends.into_iter().nth(self.kept_idle() as usize);
        let idle = self.idle.iter().map(fresh).chain(idle_end).chain(self.next_old());
        let calls = self.calls.iter().filter(|call| !call.abandoned).flat_map(|call| {
            let slows = call.what != What::Close && !call.slow;
            let slows = if slows { call.patience_ends } else { Time::NEVER };
            let overruns = match call.overdue {
                false => self.limit(call),
                true if self.abandoned() < policy.max_abandoned => self.now,
                true => Time::NEVER,
            };
            [slows, overruns]
        });
        let leaks = self.held.iter().filter(|holding| !holding.leaking);
        let leaks = leaks.map(|holding| holding.since.after_opt(policy.leak_threshold));
        // The claim of the nudged waiter starts the missing connects.
        let comes = self.nudged.is_some() && !ticked;
        let room = self.live() < policy.max_size && !comes;
        let successor = self.wants_successor();
        let wanted = room && self.opens_wanted(successor) > 0;
        let opens = match &self.failing {
            Some(failing) if wanted && self.now < failing.retry_at => failing.retry_at,
            _ if wanted && self.opens_due(successor) > 0 => self.now,
            _ if wanted => self.held_up_until(),
            _ => Time::NEVER,
        };
        let waits = !self.queue.is_empty() || !self.absent.is_empty();
        let hopeless = if waits { self.hopeless_from() } else { Time::NEVER };
        let tasks = self.queue.iter().chain(&self.absent);
        let tasks = tasks.chain(self.granted.iter().map(|granted| &granted.waiting));
        // Who has a connection at its deadline keeps it.
        let deadlines = tasks.filter_map(|waiting| waiting.task).filter(|&at| at > self.truth());
        let grants = self.granted.iter().map(|granted| granted.until);
        let task_time = deadlines.chain(grants).min().unwrap_or(Time::NEVER);
        let others = [self.deadlock_ends(), opens, hopeless, task_time];
        idle.chain(calls).chain(leaks).chain(others).min().unwrap_or(Time::NEVER)
    }
}
