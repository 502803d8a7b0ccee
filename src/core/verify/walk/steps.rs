//! The steps of a walk: which may be next, and what they do.

use std::time::Duration;

use super::super::toy::Toy;
use super::judge::How;
use super::reference::{Granted, Holding, Waiting};
use super::setting::Kind;
use super::walker::{Client, Get, Held, TICK, Walk};
use crate::core::*;

impl Walk {
    /// The clients, held connections or calls that this kind of step can be about.
    pub(super) fn targets(&self, kind: Kind) -> Vec<usize> {
        let clients = |is: &dyn Fn(u8, &Client) -> bool| {
            let all = self.clients.iter().enumerate();
            all.filter(|(index, client)| is(*index as u8, client)).map(|(index, _)| index).collect()
        };
        let all_clients = || (0..self.clients.len()).collect();
        let most = self.setting.most_held;
        match kind {
            Kind::Get | Kind::TryGet | Kind::GetWithoutTime => clients(&|index, client| {
                let asks = !client.waits && !client.checks && self.held_by(index) < most;
                asks && !(kind == Kind::TryGet && self.is_task(index))
            }),
            Kind::Claim => clients(&|_, client| client.nudged),
            Kind::EndOwnCheck => (0..self.own_checks.len()).collect(),
            Kind::TimeOut => clients(&|index, client| client.waits && !self.is_task(index)),
            Kind::Cancel => clients(&|_, client| client.waits),
            Kind::Drop => clients(&|index, client| client.waits && self.is_task(index)),
            Kind::CancelTooLate => clients(&|_, client| !client.waits && client.wait.is_some()),
            Kind::CancelledBefore => all_clients(),
            // A thread that waits cannot return; but another may have its guard.
            Kind::Keep | Kind::Check | Kind::Break | Kind::MarkBroken | Kind::Detach => {
                let blocks = |client: &Client| client.waits || client.checks;
                let free = |held: &Held| held.moved || !blocks(&self.clients[held.client as usize]);
                (0..self.held.len()).filter(|&index| free(&self.held[index])).collect()
            }
            Kind::Move => (0..self.held.len()).filter(|&i| !self.held[i].moved).collect(),
            Kind::Succeed => (0..self.jobs.len()).collect(),
            Kind::Fail => {
                let fails = |&index: &usize| !matches!(self.jobs[index], Job::Close(..));
                (0..self.jobs.len()).filter(fails).collect()
            }
            Kind::FailForGood => {
                let fails =
                    |&index: &usize| matches!(self.jobs[index], Job::Connect(_) | Job::Begin(..));
                (0..self.jobs.len()).filter(fails).collect()
            }
            Kind::Pause if self.core.is_paused() => vec![],
            Kind::Resume if !self.core.is_paused() => vec![],
            _ => vec![0],
        }
    }

    fn is_task(&self, client: u8) -> bool {
        usize::from(client) < self.setting.tasks
    }

    fn held_by(&self, client: u8) -> usize {
        self.held.iter().filter(|held| held.client == client && !held.moved).count()
    }

    pub(super) fn apply(&mut self, kind: Kind, target: usize) {
        self.log.push_back((self.now.0, kind, target));
        if self.log.len() > 40 {
            self.log.pop_front();
        }
        self.did[kind as usize] += 1;
        match kind {
            Kind::Get => self.get(target, false, true),
            Kind::TryGet => self.get(target, true, true),
            Kind::GetWithoutTime => self.get(target, false, false),
            Kind::CancelledBefore => {
                let (now, client) = (self.now, target as u8);
                self.reference.cancelled_before(client);
                self.transition(How::Quiet, |core, _| {
                    core.refuse(ErrorKind::Cancelled, now, client)
                });
            }
            Kind::Claim => drop(self.claim(target)),
            Kind::EndOwnCheck => self.end_own_check(target),
            Kind::TimeOut => self.time_out(target),
            Kind::Drop => self.drop_task(target),
            Kind::Cancel | Kind::CancelTooLate => self.leave(target, ErrorKind::Cancelled),
            Kind::Keep => self.give_back(target, Verdict::Keep),
            Kind::Check => {
                let (reset, validate) =
                    self.random.pick(&[(true, false), (false, true), (true, true)]);
                self.give_back(target, Verdict::Check(Check { reset, validate, ..Check::NONE }));
            }
            Kind::Break => self.give_back(target, Verdict::Broken),
            Kind::MarkBroken => {
                let held = &mut self.held[target];
                if !std::mem::replace(&mut held.broken, true) {
                    let (conn, mut fx) = (held.lease.conn, Effects::at(self.now));
                    self.core.proved_dead(&held.lease.permit, Reason::Broken, &mut fx);
                    self.reference.proved_dead(conn, Reason::Broken);
                    self.judged(|_, judged| {
                        *judged = fx;
                        ((), How::Served)
                    });
                }
            }
            Kind::Detach => {
                let Held { lease, .. } = self.held.swap_remove(target);
                self.reference.detached(lease.conn);
                self.transition(How::Served, |core, fx| core.detach(lease.permit, fx));
            }
            Kind::Move => {
                let held = &mut self.held[target];
                held.moved = true;
                self.core.guard_moved(&held.lease.permit);
                let moved = |holding: &&mut Holding| holding.conn == held.lease.conn;
                let holding = self.reference.held.iter_mut().find(moved);
                holding.expect("it is held").moved = true;
            }
            Kind::Succeed => self.succeed(target),
            Kind::Fail => self.fail(target, false),
            Kind::FailForGood => self.fail(target, true),
            Kind::Advance => self.now = self.now.after(Duration::from_nanos(1)),
            Kind::Leap => {
                let span = self.random.pick(&[10, 50, 250, 1000]);
                self.now = self.now.after(Duration::from_nanos(span));
            }
            Kind::Tick => self.tick(),
            _ => self.command(kind),
        }
        self.reference.now = self.now;
        self.compare_picture();
        if matches!(kind, Kind::Advance | Kind::Leap) && self.random.one_in(8) {
            return; // The reaper's thread is late.
        }
        if self.reaper_is_due() {
            self.tick();
        }
        self.most_waiters = self.most_waiters.max(self.reference.queue.len());
    }

    pub(super) fn reaper_is_due(&self) -> bool {
        self.reference.woken || self.reference.next_tick <= self.now
    }

    /// Makes a transition, judges it, and carries out its effects.
    fn transition<R>(
        &mut self,
        how: How,
        step: impl FnOnce(&mut Core<Toy>, &mut Effects<Toy>) -> R,
    ) -> R {
        self.judged(|core, fx| (step(core, fx), how))
    }

    fn judged<R>(&mut self, step: impl FnOnce(&mut Core<Toy>, &mut Effects<Toy>) -> (R, How)) -> R {
        let mut fx = Effects::at(self.now);
        let (result, how) = step(&mut self.core, &mut fx);
        self.reference.settle(&self.core, &fx, how);
        self.reference.compare_reports(&mut self.core);
        self.deliver();
        for (client, answer) in fx.answers {
            self.count(match &answer {
                Answer::Granted(_) => "granted",
                Answer::Nudged if self.is_task(client) => "granted to a task",
                Answer::Nudged => "nudged",
                Answer::Failed(ErrorKind::Timeout, None) if self.is_task(client) => {
                    "tasks that timed out"
                }
                Answer::Failed(ErrorKind::Timeout, None) => "none idle",
                Answer::Failed(ErrorKind::Connect, Some(_)) => "failed",
                Answer::Failed(ErrorKind::Connect, None) => "failed without a cause",
                Answer::Failed(ErrorKind::Cancelled, None) => "cancelled",
                Answer::Failed(ErrorKind::Closed, None) => "closed",
                Answer::Failed(ErrorKind::UseHandler, Some(_)) => "uses refused",
                Answer::Failed(kind, _) => panic!("answered with {kind:?}"),
                Answer::SelfDeadlock(_) => "deadlock",
            });
            let state = &mut self.clients[usize::from(client)];
            assert!(state.waits, "P4: answered one that does not wait");
            state.nudged = matches!(answer, Answer::Nudged);
            state.waits = state.nudged;
            if let Answer::Granted(lease) = answer {
                self.held.push(Held::new(lease, client));
            }
        }
        for job in &fx.jobs {
            self.count(match job {
                Job::Connect(_) => "opens",
                Job::Check(..) => "checks",
                Job::Begin(..) => "uses that begin",
                Job::Close(..) => "closes",
            });
        }
        self.jobs.extend(fx.jobs);
        for notice in fx.notices {
            self.count(match notice {
                Notice::Leak(_) => "leaks",
                Notice::LeakEnded(_) => "leaks that ended",
                Notice::SelfDeadlock(_) => "deadlocks noticed",
                Notice::Outage(_) => "outages",
                Notice::OutageEnded { .. } => "outages that ended",
                Notice::Doubt { .. } => "doubts",
                Notice::Abandoned { .. } => "calls reported as abandoned",
            });
        }
        result
    }

    pub(super) fn tick(&mut self) {
        let mut fx = Effects::at(self.now);
        let abandoned = self.reference.abandoned();
        let next = self.core.tick(&mut fx);
        self.reference.tick(&self.core);
        let hung = self.reference.abandoned() - abandoned;
        *self.tally.entry("hung calls abandoned").or_default() += u64::from(hung);
        self.judged(|_, judged| {
            *judged = fx;
            ((), How::Ticked(next))
        });
    }

    /// The way of `Pool::get` through `wait::checkout`.
    fn get(&mut self, target: usize, only_idle: bool, has_time: bool) {
        let (now, client) = (self.now, target as u8);
        let priority = if self.random.one_in(10) { 5 } else { self.draw_priority() };
        let arrival = Arrival { get_id: u64::MAX, since: now };
        let asked = |got: &Option<Lease<u32>>, fast| {
            let got = got.as_ref().map(|lease| lease.conn);
            How::Asked { client, priority, arrival, got, fast }
        };
        if self.notes() {
            let got = self.judged(|core, _| {
                let got = core.acquire_noted(now, &client);
                let how = asked(&got, true);
                (got, how)
            });
            if let Some(lease) = got {
                let listens = self.subscriber.is_subscribed();
                self.count(if listens { "got and noted" } else { "got and needlessly noted" });
                return self.held.push(Held::new(lease, client));
            }
        }
        let recently = self.recently();
        let got = self.core.acquire_fast(recently, &client);
        if got.is_some() {
            assert!(!self.subscriber.is_subscribed(), "the checkout was not noted");
            self.count("got at once");
            (self.reference.now, self.reference.lagging) = (recently, Some(now));
            self.judged(|_, _| ((), asked(&got, true)));
            (self.reference.now, self.reference.lagging) = (now, None);
            return self.held.extend(got.map(|lease| Held::new(lease, client)));
        }
        let got = self.judged(|core, _| {
            let got = core.overtake(now, &client);
            let how = asked(&got, true);
            (got, how)
        });
        if let Some(lease) = got {
            assert!(!self.subscriber.is_subscribed(), "the checkout was not noted");
            self.count("got past waiters");
            return self.held.push(Held::new(lease, client));
        }
        let get = Get {
            client,
            priority,
            arrival: self.core.arrive(now),
            only_idle,
            has_time,
            checks_itself: has_time && !self.is_task(client) && self.random.one_in(2),
        };
        self.enqueue(get);
    }

    /// The way of `Shared::enqueue`, the first time or after a check of its own.
    fn enqueue(&mut self, get: Get) {
        let Get { client, priority, arrival, only_idle, .. } = get;
        let now = self.now;
        let got = self.judged(|core, fx| {
            let got = core.acquire(arrival, priority, &client, fx);
            let conn = got.as_ref().map(|lease| lease.conn);
            (got, How::Asked { client, priority, arrival, got: conn, fast: false })
        });
        if let Some(lease) = got {
            self.count("got on the slow path");
            return self.held.push(Held::new(lease, client));
        }
        if get.checks_itself && self.takes_to_check(get) {
            return;
        }
        let reference = &self.reference;
        let expected = reference.serving()
            && !reference.idle.is_empty()
            && reference.may_pass(arrival, priority);
        assert_eq!(self.core.may_await_check(arrival, priority, now), expected);
        if only_idle && !expected {
            return;
        }
        if !get.has_time && self.core.refuses_without_time(now) {
            self.reference.refused_without_time(client);
            let refuse = |core: &mut Core<Toy>| core.refuse(ErrorKind::Timeout, now, client);
            return self.transition(How::Quiet, |core, _| refuse(core));
        }
        self.join(get);
    }

    fn takes_to_check(&mut self, get: Get) -> bool {
        let may_check = self.core.may_check(get.arrival, get.priority, self.now);
        assert_eq!(may_check, self.reference.may_check(get.arrival, get.priority));
        if !may_check {
            return false;
        }
        let lease = self.judged(|core, fx| {
            let lease = core.take_to_check(fx);
            let how = How::Checks(lease.conn);
            (lease, how)
        });
        self.clients[usize::from(get.client)].checks = true;
        self.own_checks.push((get, lease));
        true
    }

    fn end_own_check(&mut self, target: usize) {
        let (get, lease) = self.own_checks.swap_remove(target);
        self.clients[usize::from(get.client)].checks = false;
        let (conn, mut fx) = (lease.conn, Effects::at(self.now));
        let end = if self.recovers { 2 } else { self.random.below(6) };
        match end {
            0 => {
                self.count("own checks that failed");
                self.core.proved_dead(&lease.permit, Reason::Invalid, &mut fx);
                self.reference.proved_dead(conn, Reason::Invalid);
                self.judged(|_, judged| {
                    *judged = fx;
                    ((), How::Served)
                });
                self.jobs.push(Job::Check(lease, Check::VALIDATE));
            }
            1 => {
                self.count("own checks that took too long");
                self.jobs.push(Job::Check(lease, Check::VALIDATE));
            }
            _ => {
                let Get { arrival, priority, client, .. } = get;
                let got = self.core.take_checked(lease, arrival, priority, &client, &mut fx);
                let expected =
                    self.reference.own_checked(conn, client, arrival, priority, &self.core, &fx);
                assert_eq!(got.is_some(), expected, "whether its own check was of use");
                self.judged(|_, judged| {
                    *judged = fx;
                    ((), How::Served)
                });
                if let Some(lease) = got {
                    self.count("checked itself");
                    return self.held.push(Held::new(lease, get.client));
                }
                self.count("own checks that succeeded too late");
            }
        }
        self.count("joined after an own check");
        self.enqueue(get);
    }

    fn join(&mut self, get: Get) {
        let Get { client, priority, arrival, only_idle, has_time, .. } = get;
        let Arrival { get_id, since } = arrival;
        let target = usize::from(client);
        // A guard of another pool, or one that has moved, may count too.
        let holds = self.held_by(client) > 0 || self.random.one_in(20);
        let nested = holds && has_time && !only_idle && !self.is_task(client);
        let patience = self.random.pick(&[5, 50, 500, u64::MAX]);
        let deadline = self.now.after(Duration::from_nanos(if has_time { patience } else { 0 }));
        let task = self.is_task(client).then_some(deadline);
        let waiting = Waiting {
            client,
            priority,
            since,
            came: get_id,
            only_idle,
            nested,
            task,
            cancelled: false,
            prepared_on: None,
            counted_to: since,
        };
        let expected = self.reference.join(waiting);
        let (caller, cell) = (client, client);
        let context = ();
        let waiter =
            Waiter { get_id, since, priority, caller, cell, only_idle, nested, task, context };
        // Set first, because it may be answered before `join` returns.
        self.clients[target].waits = expected.is_ok();
        let joined = self.judged(|core, fx| {
            let joined = core.join(waiter, fx);
            let how = if joined.is_ok() { How::Served } else { How::Quiet };
            (joined, how)
        });
        assert_eq!(joined.map(|_| ()), expected, "P8: a refusal");
        match joined {
            Ok(id) => self.clients[target].wait = Some(id),
            Err(ErrorKind::Closed) => self.count("refused: closed"),
            Err(ErrorKind::QueueFull) => self.count("refused: full"),
            Err(ErrorKind::Connect) => self.count("refused: hopeless"),
            Err(kind) => panic!("refused with {kind:?}"),
        }
        if !has_time && joined.is_ok() && !(self.clients[target].waits && self.claim(target)) {
            self.leave(target, ErrorKind::Timeout);
        }
    }

    /// Whether a thread acts as if there were a subscriber; it may be unaware of a change.
    fn notes(&mut self) -> bool {
        self.subscriber.is_subscribed() != self.random.one_in(8)
    }

    /// The time by a clock that ticks: at most now.
    fn recently(&mut self) -> Time {
        Time(self.now.0.saturating_sub(self.random.below(TICK as usize + 1) as u64))
    }

    fn draw_priority(&mut self) -> u8 {
        let priorities = &self.setting.priorities;
        self.random.pick(priorities)
    }

    fn claim(&mut self, target: usize) -> bool {
        let client = target as u8;
        let id = self.clients[target].wait.expect("it waits");
        self.clients[target].nudged = false;
        if self.reference.nudged == Some(client) {
            self.reference.nudged = None;
        }
        let is_absent = |w: &Waiting| w.client == client && w.prepared_on.is_none();
        let was_absent = self.reference.absent.iter().any(is_absent);
        if was_absent {
            self.count("polled too late");
            self.reference.polled(client);
        }
        if self.is_task(client) && !was_absent && self.takes_up(target, id) {
            return true;
        }
        let waits = self.reference.waiting(client).is_some();
        let lease = self.judged(|core, fx| {
            let lease = core.claim(id, fx);
            let got = lease.as_ref().map(|lease| lease.conn);
            // A task that had a grant may not wait again.
            (lease, if waits { How::Claimed { client, got } } else { How::Served })
        });
        let Some(lease) = lease else { return false };
        self.count("claimed");
        self.clients[target].waits = false;
        self.held.push(Held::new(lease, client));
        true
    }

    /// Returns whether a task has got what it was granted.
    fn takes_up(&mut self, target: usize, id: WaiterId) -> bool {
        let client = target as u8;
        let granted = |granted: &&Granted| granted.waiting.client == client;
        let Some(granted) = self.reference.granted.iter().find(granted) else { return false };
        let conn = granted.conn;
        if !self.reference.polled(client) {
            self.count("polled, and in doubt");
            return false;
        }
        let lease = self.transition(How::Served, |core, fx| core.claim(id, fx));
        let lease = lease.expect("P3: it was granted");
        assert_eq!(lease.conn, conn, "P3: not what it was granted");
        self.count("taken up");
        self.clients[target].waits = false;
        self.held.push(Held::new(lease, client));
        true
    }

    fn drop_task(&mut self, target: usize) {
        let client = target as u8;
        let id = self.clients[target].wait.expect("it waits");
        let has_one = self.reference.granted.iter().any(|g| g.waiting.client == client);
        self.count(if has_one { "dropped with a connection" } else { "dropped while it waits" });
        self.reference.dropped(client);
        (self.clients[target].waits, self.clients[target].nudged) = (false, false);
        self.transition(How::Served, |core, fx| core.drop_task(id, fx));
    }

    /// The way of `wait::give_up`.
    fn time_out(&mut self, target: usize) {
        if !self.claim(target) {
            self.leave(target, ErrorKind::Timeout);
        }
    }

    /// A waiter that was answered before stays answered.
    fn leave(&mut self, target: usize, kind: ErrorKind) {
        let id = self.clients[target].wait.expect("it has waited");
        let expected = self.reference.leave(target as u8, kind);
        if expected && kind == ErrorKind::Timeout {
            let client = &mut self.clients[target];
            (client.waits, client.nudged) = (false, false);
        }
        let how = if expected { How::Served } else { How::Quiet };
        let left = self.transition(how, |core, fx| core.leave(id, kind, fx));
        assert_eq!(left, expected, "P4: answered and gone, or neither");
    }

    /// The way of a guard that is dropped.
    fn give_back(&mut self, target: usize, verdict: Verdict) {
        let now = self.now;
        let Held { mut lease, broken, .. } = self.held.swap_remove(target);
        let conn = lease.conn;
        let verdict = if broken { Verdict::Broken } else { verdict };
        if verdict == Verdict::Keep && self.notes() {
            match self.core.checkin_noted(now, lease) {
                Ok(()) => {
                    let listens = self.subscriber.is_subscribed();
                    self.count(if listens {
                        "returned and noted"
                    } else {
                        "returned and needlessly noted"
                    });
                    self.reference.returned(conn, verdict);
                    return self.transition(How::ReturnedFast, |_, _| ());
                }
                Err(back) => lease = back,
            }
        } else if verdict == Verdict::Keep {
            let recently = self.recently();
            match self.core.checkin_fast(recently, lease) {
                Ok(()) => {
                    assert!(!self.subscriber.is_subscribed(), "the return was not noted");
                    self.count("returned at once");
                    (self.reference.now, self.reference.lagging) = (recently, Some(now));
                    self.reference.returned(conn, verdict);
                    (self.reference.now, self.reference.lagging) = (now, None);
                    return self.transition(How::ReturnedFast, |_, _| ());
                }
                Err(back) => lease = back,
            }
        }
        self.reference.returned(conn, verdict);
        self.transition(How::Served, |core, fx| core.checkin(lease, verdict, fx));
    }

    fn succeed(&mut self, target: usize) {
        match self.jobs.swap_remove(target) {
            Job::Connect(permit) => {
                let (place, conn) = (permit.0, self.reference.conns.len() as u32);
                let mut fx = Effects::at(self.now);
                self.core.connect_finished(Leased::new(permit, conn), &mut fx);
                let slot = &self.core.slots[place as usize];
                self.reference.opened(place, conn, slot.expires, slot.idle_time);
                self.judged(|_, judged| {
                    *judged = fx;
                    ((), How::Served)
                });
            }
            Job::Check(lease, _) if self.reference.conns[lease.conn as usize].dead => {
                self.check_ended(lease, Err((Reason::Invalid, 0)));
            }
            Job::Check(lease, _) => {
                self.check_ended(lease, Ok(()));
            }
            Job::Begin(lease, ..) => self.use_begun(lease, Ok(())),
            Job::Close(lease, _) => {
                self.reference.close_ended(lease.conn);
                self.transition(How::Served, |core, fx| core.close_finished(lease.permit, fx));
            }
        }
    }

    fn check_ended(&mut self, lease: Lease<u32>, result: Result<(), (Reason, u8)>) {
        let (conn, mut fx) = (lease.conn, Effects::at(self.now));
        self.core.check_finished(lease, result, &mut fx);
        self.reference.checked(conn, result, &self.core, &fx);
        self.judged(|_, judged| {
            *judged = fx;
            ((), How::Served)
        });
    }

    fn use_begun(&mut self, lease: Lease<u32>, result: Result<(), (Reason, u8)>) {
        let (conn, mut fx) = (lease.conn, Effects::at(self.now));
        self.core.use_begun(lease, result, &mut fx);
        if result.is_ok() {
            let is_had = self.reference.is_prepared(conn);
            self.count(if is_had { "uses begun" } else { "uses begun for nobody" });
        }
        self.reference.use_begun(conn, result, &self.core, &fx);
        self.judged(|_, judged| {
            *judged = fx;
            ((), How::Served)
        });
    }

    fn fail(&mut self, target: usize, permanent: bool) {
        let now = self.now;
        let cause = self.random.below(250) as u8;
        match self.jobs.swap_remove(target) {
            Job::Connect(permit) => {
                self.count("failed opens");
                let place = permit.0;
                let mut fx = Effects::at(self.now);
                self.core.connect_failed(permit, cause, permanent, &mut fx);
                let retry_at = self.core.outage.as_ref().map_or(now, |outage| outage.retry_at);
                self.reference.open_failed(place, cause, permanent, retry_at);
                self.judged(|_, judged| {
                    *judged = fx;
                    ((), How::Served)
                });
            }
            Job::Check(lease, check) => {
                self.count("failed checks");
                let in_reset = check.reset && (!check.validate || self.random.one_in(2));
                let in_end =
                    check.end && (!(check.reset || check.validate) || self.random.one_in(2));
                let reason = match () {
                    () if in_end => self.random.pick(&[Reason::UseHandler, Reason::Broken]),
                    () if in_reset => Reason::Broken,
                    () => Reason::Invalid,
                };
                let failed = Err((reason, cause));
                self.check_ended(lease, failed);
            }
            Job::Begin(lease, ..) => {
                let reason = if permanent { Reason::UseHandler } else { Reason::Broken };
                self.use_begun(lease, Err((reason, cause)));
            }
            Job::Close(..) => unreachable!("a close cannot fail"),
        }
    }

    fn command(&mut self, kind: Kind) {
        match kind {
            Kind::Refresh => {
                self.reference.generation += 1;
                self.reference.make_old(Time::NEVER);
                self.transition(How::Served, |core, fx| core.refresh(fx));
            }
            Kind::Prove => {
                let proof_lasts = Duration::from_nanos(self.random.pick(&[0, 4, 32]));
                let due = self.reference.prove(proof_lasts);
                let how = if due { How::Served } else { How::Quiet };
                self.transition(how, |core, fx| core.prove(proof_lasts, fx));
            }
            Kind::Pause => {
                self.reference.paused = true;
                self.transition(How::Quiet, |core, _| core.pause());
            }
            Kind::Resume => {
                self.reference.paused = false;
                self.transition(How::Served, |core, fx| core.resume(fx));
            }
            Kind::SetMaxSize => {
                // The builder allows nothing else.
                let least = self.reference.policy.min_idle.unwrap_or(0).max(1) as usize;
                let max_size = self.random.between(least, 24) as u32;
                self.reference.set_max_size(max_size);
                self.transition(How::Served, |core, fx| core.set_max_size(max_size, fx));
            }
            Kind::SetMinIdle => {
                let policy = &self.reference.policy;
                let most = policy.max_idle.unwrap_or(u32::MAX).min(policy.max_size) as usize;
                let min_idle = self.random.between(0, most) as u32;
                let min_idle = Some(min_idle).filter(|_| !self.random.one_in(4));
                self.reference.policy.min_idle = min_idle;
                self.transition(How::Served, |core, fx| core.set_min_idle(min_idle, fx));
            }
            Kind::Close => {
                self.reference.close();
                self.transition(How::Quiet, |core, fx| core.close(fx));
            }
            _ => unreachable!("not one of the owner's commands"),
        }
    }
}
