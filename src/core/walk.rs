//! Walks at random through the states of pools that are too large to explore.
//!
//! A walk follows from its seed alone: the settings, how often it does what, and
//! each of its steps. Every transition is judged by a naive reference model that
//! sees the events and the effects ([`reference`]): it says what must come of an
//! event ([`events`]), and what the pool may and must do about it ([`judge`]).
//!
//! First everything goes wrong that may. Then no more faults: calls succeed,
//! holders return, whoever is nudged comes; and everyone who waits has to be
//! served within a number of steps that is known beforehand. At last the pool is
//! closed, and nothing may be left.
//!
//! `FAIRPOOL_WALK_SEED=…` repeats one walk, `FAIRPOOL_WALKS=…` walks so many,
//! `FAIRPOOL_WALK_SECONDS=…` for so long.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::explore::Toy;
use super::*;

mod events;
mod judge;
mod reference;
mod setting;

use judge::How;
use reference::{Reference, Waiting};
use setting::{KINDS, Kind, Random, Setting};

/// With a permit of its own each, and each in a place of its own.
struct Held {
    lease: Lease<u32>,
    client: u8,
    at_home: bool,
}

#[derive(Clone, Copy, Default)]
struct Client {
    /// The last wait, and whether it still lasts.
    wait: Option<WaiterId>,
    waits: bool,
    nudged: bool,
}

/// How many walks there are without being told.
const WALKS: u64 = 300;

type Tally = BTreeMap<&'static str, u64>;

struct Walk {
    seed: u64,
    setting: Setting,
    random: Random,
    core: Core<Toy>,
    reference: Reference,
    now: Time,
    clients: Vec<Client>,
    held: Vec<Held>,
    jobs: Vec<Job<Toy>>,
    /// What happened last, to be printed if the walk fails.
    log: VecDeque<(u64, Kind, usize)>,
    did: [u64; KINDS.len()],
    most_waiters: usize,
    tally: Tally,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut random = Random::new(seed);
        let setting = Setting::draw(&mut random);
        let mut walk = Walk {
            core: Core::new(setting.policy.clone()),
            reference: Reference::new(setting.policy.clone()),
            clients: vec![Client::default(); setting.clients],
            seed,
            setting,
            random,
            now: Time::START,
            held: Vec::new(),
            jobs: Vec::new(),
            log: VecDeque::new(),
            did: [0; KINDS.len()],
            most_waiters: 0,
            tally: Tally::new(),
        };
        walk.tick();
        walk
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    // ---- the safety phase ----

    fn step(&mut self, last_tenth: bool) {
        let choices: Vec<(Kind, usize, usize)> = KINDS
            .iter()
            .zip(self.setting.weights)
            .filter(|((kind, _), _)| *kind != Kind::Close || last_tenth)
            .map(|((kind, _), weight)| (*kind, weight, self.targets(*kind).len()))
            .filter(|(_, weight, targets)| weight * targets > 0)
            .collect();
        let all: usize = choices.iter().map(|(_, weight, _)| weight).sum();
        if all == 0 {
            return self.apply(Kind::Advance, 0);
        }
        let mut at = self.random.below(all);
        for (kind, weight, _) in choices {
            if at < weight {
                let targets = self.targets(kind);
                let target = self.random.pick(&targets);
                return self.apply(kind, target);
            }
            at -= weight;
        }
    }

    /// The clients, held connections or calls that such a step can be about.
    fn targets(&self, kind: Kind) -> Vec<usize> {
        let clients = |is: &dyn Fn(u8, &Client) -> bool| {
            let all = self.clients.iter().enumerate();
            all.filter(|(index, client)| is(*index as u8, client)).map(|(index, _)| index).collect()
        };
        let all_clients = || (0..self.clients.len()).collect();
        let most = self.setting.most_held;
        match kind {
            Kind::Get | Kind::TryGet | Kind::GetWithoutTime => {
                clients(&|index, client| !client.waits && self.held_by(index) < most)
            }
            Kind::Claim => clients(&|_, client| client.nudged),
            Kind::TimeOut | Kind::Cancel => clients(&|_, client| client.waits),
            Kind::CancelTooLate => clients(&|_, client| !client.waits && client.wait.is_some()),
            Kind::CancelledBefore => all_clients(),
            // Who waits cannot do anything else; but another may have its guard.
            Kind::Keep | Kind::Check | Kind::Break | Kind::Detach => {
                let free = |held: &Held| !held.at_home || !self.clients[held.client as usize].waits;
                (0..self.held.len()).filter(|&index| free(&self.held[index])).collect()
            }
            Kind::Move => (0..self.held.len()).filter(|&i| self.held[i].at_home).collect(),
            Kind::Succeed => (0..self.jobs.len()).collect(),
            Kind::Fail => {
                let fails = |&index: &usize| !matches!(self.jobs[index], Job::Close(..));
                (0..self.jobs.len()).filter(fails).collect()
            }
            Kind::FailForGood => {
                let opens = |&index: &usize| matches!(self.jobs[index], Job::Open(_));
                (0..self.jobs.len()).filter(opens).collect()
            }
            Kind::Pause if self.core.is_paused() => vec![],
            Kind::Resume if !self.core.is_paused() => vec![],
            _ => vec![0],
        }
    }

    fn held_by(&self, client: u8) -> usize {
        self.held.iter().filter(|held| held.client == client && held.at_home).count()
    }

    fn apply(&mut self, kind: Kind, target: usize) {
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
                self.core.count_cancelled();
                self.reference.counters.cancelled += 1;
            }
            Kind::Claim => drop(self.claim(target)),
            Kind::TimeOut => self.time_out(target),
            Kind::Cancel | Kind::CancelTooLate => self.leave(target, Left::Cancelled),
            Kind::Keep => self.give_back(target, Verdict::Keep),
            Kind::Check => {
                let (reset, validate) =
                    self.random.pick(&[(true, false), (false, true), (true, true)]);
                self.give_back(target, Verdict::Check(Check { reset, validate }));
            }
            Kind::Break => self.give_back(target, Verdict::Broken),
            Kind::Detach => {
                let Held { lease, .. } = self.held.swap_remove(target);
                self.reference.detached(lease.conn);
                let now = self.now;
                self.transition(How::Served, |core, fx| core.detached(now, lease.permit, fx));
            }
            Kind::Move => {
                let held = &mut self.held[target];
                held.at_home = false;
                self.core.moved(&held.lease.permit);
                let moved = |holding: &&mut reference::Holding| holding.conn == held.lease.conn;
                let holding = self.reference.held.iter_mut().find(moved);
                holding.expect("it is held").at_home = false;
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
        if matches!(kind, Kind::Advance | Kind::Leap) && self.random.one_in(8) {
            return; // the reaper's thread is late
        }
        if self.reaper_is_due() {
            self.tick();
        }
        self.most_waiters = self.most_waiters.max(self.reference.queue.len());
    }

    fn reaper_is_due(&self) -> bool {
        self.reference.rung || self.reference.look_at <= self.now
    }

    /// Makes a transition, has it judged, and carries out what it asked for.
    fn transition<R>(
        &mut self,
        how: How,
        step: impl FnOnce(&mut Core<Toy>, &mut Effects<Toy>) -> R,
    ) -> R {
        self.judged(|core, fx| (step(core, fx), how))
    }

    fn judged<R>(&mut self, step: impl FnOnce(&mut Core<Toy>, &mut Effects<Toy>) -> (R, How)) -> R {
        let mut fx = Effects::new();
        let (result, how) = step(&mut self.core, &mut fx);
        self.reference.settle(&self.core, &fx, how);
        for (client, answer) in fx.answers {
            self.count(match &answer {
                Answer::Granted(_) => "granted",
                Answer::Nudged => "nudged",
                Answer::NoneIdle => "none idle",
                Answer::Failed(_) => "failed",
                Answer::Cancelled => "cancelled",
                Answer::Closed => "closed",
                Answer::Deadlock(_) => "deadlock",
            });
            let state = &mut self.clients[usize::from(client)];
            assert!(state.waits, "P4: answered one that does not wait");
            state.nudged = matches!(answer, Answer::Nudged);
            state.waits = state.nudged;
            if let Answer::Granted(lease) = answer {
                self.held.push(Held { lease, client, at_home: true });
            }
        }
        for job in &fx.jobs {
            self.count(match job {
                Job::Open(_) => "opens",
                Job::Check(..) => "checks",
                Job::Close(..) => "closes",
            });
        }
        self.jobs.extend(fx.jobs);
        for notice in fx.notices {
            self.count(match notice {
                Notice::Leak(_) => "leaks",
                Notice::LeakEnded(_) => "leaks that ended",
                Notice::SelfDeadlock(_) => "deadlocks noticed",
            });
        }
        result
    }

    fn tick(&mut self) {
        let now = self.now;
        let mut fx = Effects::new();
        let abandoned = self.reference.abandoned();
        let next = self.core.tick(now, &mut fx);
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
        let asked = |got: &Option<Lease<u32>>, fast| {
            let got = got.as_ref().map(|lease| lease.conn);
            How::Asked { client, priority, got, fast }
        };
        let got = self.judged(|core, _| {
            let got = core.acquire_fast(now, priority, client);
            let how = asked(&got, true);
            (got, how)
        });
        if let Some(lease) = got {
            self.count("got at once");
            return self.held.push(Held { lease, client, at_home: true });
        }
        let got = self.judged(|core, fx| {
            let got = core.acquire(now, priority, client, fx);
            let how = asked(&got, false);
            (got, how)
        });
        if let Some(lease) = got {
            self.count("got on the slow path");
            return self.held.push(Held { lease, client, at_home: true });
        }
        let reference = &self.reference;
        let expected =
            reference.serving() && !reference.idle.is_empty() && reference.may_overtake(priority);
        assert_eq!(self.core.may_await_check(now, priority), expected);
        if only_idle && !expected {
            return;
        }
        // A guard of another pool, or one that has moved on, may count too.
        let holds = self.held_by(client) > 0 || self.random.one_in(20);
        let nested = holds && has_time && !only_idle;
        let waiting = Waiting { client, priority, since: now, only_idle, nested };
        let expected = self.reference.join(waiting);
        let waiter =
            Waiter { since: now, priority, caller: client, cell: client, only_idle, nested };
        // Set first: it may be answered before `join` returns.
        self.clients[target].waits = expected.is_ok();
        let joined = self.judged(|core, fx| {
            let joined = core.join(waiter, fx);
            let how = if joined.is_ok() { How::Served } else { How::Quiet };
            (joined, how)
        });
        assert_eq!(joined.map(|_| ()), expected, "P8: a refusal");
        match joined {
            Ok(id) => self.clients[target].wait = Some(id),
            Err(Refusal::Closed) => self.count("refused: closed"),
            Err(Refusal::QueueFull) => self.count("refused: full"),
            Err(Refusal::Hopeless) => self.count("refused: hopeless"),
        }
        if !has_time && joined.is_ok() && !(self.clients[target].waits && self.claim(target)) {
            self.leave(target, Left::TimedOut);
        }
    }

    fn draw_priority(&mut self) -> u8 {
        let priorities = &self.setting.priorities;
        self.random.pick(priorities)
    }

    fn claim(&mut self, target: usize) -> bool {
        let (now, client) = (self.now, target as u8);
        let id = self.clients[target].wait.expect("it waits");
        self.clients[target].nudged = false;
        if self.reference.nudged == Some(client) {
            self.reference.nudged = None;
        }
        let lease = self.judged(|core, fx| {
            let lease = core.claim(now, id, fx);
            let got = lease.as_ref().map(|lease| lease.conn);
            (lease, How::Claimed { client, got })
        });
        let Some(lease) = lease else { return false };
        self.count("claimed");
        self.clients[target].waits = false;
        self.held.push(Held { lease, client, at_home: true });
        true
    }

    /// The way of `wait::give_up`.
    fn time_out(&mut self, target: usize) {
        if !self.claim(target) {
            self.leave(target, Left::TimedOut);
        }
    }

    /// What was answered before stays answered.
    fn leave(&mut self, target: usize, why: Left) {
        let id = self.clients[target].wait.expect("it has waited");
        let now = self.now;
        let expected = self.reference.leave(target as u8, why);
        if expected && why == Left::TimedOut {
            let client = &mut self.clients[target];
            (client.waits, client.nudged) = (false, false);
        }
        let how = if expected { How::Served } else { How::Quiet };
        let left = self.transition(how, |core, fx| core.leave(now, id, why, fx));
        assert_eq!(left, expected, "P4: answered and gone, or neither");
    }

    /// The way of a guard that is dropped.
    fn give_back(&mut self, target: usize, verdict: Verdict) {
        let now = self.now;
        let Held { mut lease, .. } = self.held.swap_remove(target);
        self.reference.returned(lease.conn, verdict);
        if verdict == Verdict::Keep {
            match self.core.checkin_fast(now, lease) {
                Ok(()) => {
                    self.count("returned at once");
                    return self.transition(How::Quiet, |_, _| ());
                }
                Err(back) => lease = back,
            }
        }
        self.transition(How::Served, |core, fx| core.checkin(now, lease, verdict, fx));
    }

    fn succeed(&mut self, target: usize) {
        let now = self.now;
        match self.jobs.swap_remove(target) {
            Job::Open(permit) => {
                let (place, conn) = (permit.0, self.reference.conns.len() as u32);
                let mut fx = Effects::new();
                self.core.opened(now, Lease { permit, conn }, &mut fx);
                let expires = self.core.slots[place as usize].expires;
                self.reference.opened(place, conn, expires);
                self.judged(|_, judged| {
                    *judged = fx;
                    ((), How::Served)
                });
            }
            Job::Check(lease, _) => {
                self.reference.checked(lease.conn, Ok(()));
                self.transition(How::Served, |core, fx| core.checked(now, lease, Ok(()), fx));
            }
            Job::Close(lease, _) => {
                self.reference.close_ended(lease.conn);
                self.transition(How::Served, |core, fx| core.closed(now, lease.permit, fx));
            }
        }
    }

    fn fail(&mut self, target: usize, permanent: bool) {
        let now = self.now;
        let cause = self.random.below(250) as u8;
        match self.jobs.swap_remove(target) {
            Job::Open(permit) => {
                self.count("failed opens");
                let place = permit.0;
                let mut fx = Effects::new();
                self.core.open_failed(now, permit, cause, permanent, &mut fx);
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
                let reason = if in_reset { Reason::Broken } else { Reason::Invalid };
                let failed = Err((reason, cause));
                self.reference.checked(lease.conn, failed);
                self.transition(How::Served, |core, fx| core.checked(now, lease, failed, fx));
            }
            Job::Close(..) => unreachable!("a close cannot fail"),
        }
    }

    fn command(&mut self, kind: Kind) {
        let now = self.now;
        match kind {
            Kind::Refresh => {
                self.reference.generation += 1;
                self.reference.retire_idle(Reason::Stale);
                self.transition(How::Served, |core, fx| core.refresh(now, fx));
            }
            Kind::Pause => {
                self.reference.paused = true;
                self.transition(How::Quiet, |core, _| core.pause());
            }
            Kind::Resume => {
                self.reference.paused = false;
                self.transition(How::Served, |core, fx| core.resume(now, fx));
            }
            Kind::SetMaxSize => {
                // As the builder checks it.
                let least = self.reference.policy.min_idle.unwrap_or(0).max(1) as usize;
                let max_size = self.random.between(least, 24) as u32;
                self.reference.set_max_size(max_size);
                self.transition(How::Served, |core, fx| core.set_max_size(max_size, now, fx));
            }
            Kind::SetMinIdle => {
                let policy = &self.reference.policy;
                let most = policy.max_idle.unwrap_or(u32::MAX).min(policy.max_size) as usize;
                let min_idle = self.random.between(0, most) as u32;
                let min_idle = Some(min_idle).filter(|_| !self.random.one_in(4));
                self.reference.policy.min_idle = min_idle;
                self.transition(How::Served, |core, fx| core.set_min_idle(min_idle, now, fx));
            }
            Kind::Close => {
                self.reference.close();
                self.transition(How::Quiet, |core, fx| core.close(now, fx));
            }
            _ => unreachable!("not one of the owner's commands"),
        }
    }

    // ---- the liveness phase ----

    /// From here on nothing fails, and nobody new comes. Returns how many steps
    /// it took until nobody waited, and how many it may have taken.
    fn recover(&mut self) -> (usize, usize) {
        let work = self.reference.queue.len()
            + self.jobs.len()
            + self.held.len()
            + self.reference.retired.len()
            + self.reference.idle.len()
            + self.reference.policy.max_size as usize;
        let bound = 4 * work + 20;
        let (mut steps, mut served_after) = (0, 0);
        if self.core.is_paused() {
            self.apply(Kind::Resume, 0);
        }
        loop {
            let waits = !self.reference.queue.is_empty();
            if waits {
                served_after = steps;
                assert!(steps <= bound, "P3: waiters are not served within {bound} steps");
            }
            assert!(steps <= 50 * bound, "the pool does not come to rest");
            steps += 1;
            if self.reaper_is_due() {
                self.apply(Kind::Tick, 0);
            } else if !self.advance_one_thing() {
                if !waits {
                    break;
                }
                assert_ne!(self.reference.look_at, Time::NEVER, "P3: a waiter is never served");
                // Opening is tried again after this long at the latest.
                self.now = self.now.after(self.setting.policy.backoff_max);
                self.now = self.now.max(self.reference.look_at);
                self.reference.now = self.now;
            }
        }
        (served_after, bound)
    }

    /// Somebody returns, comes, or gets an answer from the driver.
    fn advance_one_thing(&mut self) -> bool {
        let nudged = self.targets(Kind::Claim);
        let (jobs, held) = (self.jobs.len(), self.held.len());
        let all = nudged.len() + jobs + held;
        if all == 0 {
            return false;
        }
        let place = self.random.below(all);
        if place < nudged.len() {
            self.apply(Kind::Claim, nudged[place]);
        } else if place < nudged.len() + jobs {
            self.apply(Kind::Succeed, place - nudged.len());
        } else {
            let place = place - nudged.len() - jobs;
            let held = &self.held[place];
            // One that waits for another while it holds this one: somebody else
            // has it, then, or nobody could be served.
            if held.at_home && self.clients[held.client as usize].waits {
                self.apply(Kind::Move, place);
            }
            self.apply(Kind::Keep, place);
        }
        true
    }

    fn check_that_all_is_accounted_for(&self) {
        let core = &self.core;
        assert!(self.jobs.is_empty() && self.held.is_empty());
        assert_eq!(core.gauges().abandoned, 0, "P5: an abandoned call is not accounted for");
        assert_eq!(core.free.len() + core.idle.len(), core.slots.len(), "P5: a slot is lost");
        let alive = self.reference.conns.iter().filter(|facts| facts.alive).count();
        assert_eq!(alive, core.idle.len(), "P7: a connection is lost");
    }

    fn run(&mut self) -> (usize, usize) {
        let steps = self.setting.steps;
        for step in 0..steps {
            self.step(step * 10 > steps * 9);
        }
        let (served_after, bound) = self.recover();
        self.check_that_all_is_accounted_for();
        if !self.core.is_closed() {
            self.apply(Kind::Close, 0);
        }
        while self.reaper_is_due() || self.advance_one_thing() {
            if self.reaper_is_due() {
                self.tick();
            }
        }
        self.check_that_all_is_accounted_for();
        assert!(self.core.is_drained(), "P11: not drained");
        (served_after, bound)
    }
}

/// Tells how to walk there again.
impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FAIRPOOL_WALK_SEED={}", self.seed);
            eprintln!("{:?}", self.setting.policy);
            for (at, kind, target) in &self.log {
                eprintln!("    at {at:>6}  {kind:?} {target}");
            }
        }
    }
}

fn setting_of(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value:?}")))
}

/// Everything that has to happen in some walk, or walking proves nothing.
const HAPPENS: [&str; 23] = [
    "got at once",
    "got on the slow path",
    "claimed",
    "granted",
    "nudged",
    "none idle",
    "failed",
    "cancelled",
    "closed",
    "deadlock",
    "refused: closed",
    "refused: full",
    "refused: hopeless",
    "returned at once",
    "opens",
    "checks",
    "closes",
    "failed opens",
    "failed checks",
    "hung calls abandoned",
    "leaks",
    "leaks that ended",
    "deadlocks noticed",
];

const REASONS: [Reason; 7] = [
    Reason::Broken,
    Reason::Invalid,
    Reason::Expired,
    Reason::IdleTooLong,
    Reason::Excess,
    Reason::Stale,
    Reason::Closed,
];

#[test]
fn p2_p3_p4_p5_p7_hold_on_long_random_walks() {
    let begun = Instant::now();
    if let Some(seed) = setting_of("FAIRPOOL_WALK_SEED") {
        let (served_after, bound) = Walk::new(seed).run();
        return println!("walk {seed}: all served after {served_after} steps of {bound}");
    }
    let walks = setting_of("FAIRPOOL_WALKS").unwrap_or(WALKS);
    let seconds = setting_of("FAIRPOOL_WALK_SECONDS").map(Duration::from_secs);
    let mut tally = Tally::new();
    let mut did = [0; KINDS.len()];
    let mut closed = [0; REASONS.len()];
    let (mut most_waiters, mut longest, mut seed) = (0, (0, 0), 0);
    while seconds.map_or(seed < walks, |limit| begun.elapsed() < limit) {
        let mut walk = Walk::new(seed);
        longest = longest.max(walk.run());
        seed += 1;
        most_waiters = walk.most_waiters.max(most_waiters);
        did.iter_mut().zip(walk.did).for_each(|(all, some)| *all += some);
        closed.iter_mut().zip(walk.core.counters().closed).for_each(|(all, some)| *all += some);
        walk.tally.iter().for_each(|(what, times)| *tally.entry(what).or_default() += times);
    }
    let steps: u64 = did.iter().sum();
    let elapsed = begun.elapsed().as_secs_f64();
    println!("steps:   {:?}", KINDS.iter().map(|(kind, _)| kind).zip(did).collect::<Vec<_>>());
    println!("effects: {tally:?}");
    println!("closed:  {:?}", REASONS.iter().zip(closed).collect::<Vec<_>>());
    println!(
        "figure: random walks: {seed} walks, {steps} steps, up to {most_waiters} waiters; the last \
         of them served after at most {} steps (of {} that it may take); {elapsed:.1} s",
        longest.0, longest.1
    );
    if seed >= WALKS {
        for ((kind, _), times) in KINDS.iter().zip(did) {
            assert!(times > 0, "no walk has a step {kind:?}");
        }
        for what in HAPPENS {
            assert!(tally.contains_key(what), "{what:?} happens in no walk");
        }
        for (reason, times) in REASONS.iter().zip(closed) {
            assert!(times > 0, "no connection was closed as {reason:?}");
        }
    }
}
