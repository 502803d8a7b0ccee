//! Visits every state that a small pool can reach, and checks each one.
//!
//! A world is the core and its surroundings: callers, driver calls under way, a clock
//! that only the test moves. From the empty pool, every possible action is tried in
//! every new state, breadth first. A state is identified by its [`World::key`], in which
//! points in time count only by their age, up to the largest span that matters in the
//! setup.
//!
//! Checked on every step: the invariants of the core (P3, P4, P5), the order of service
//! (P2), that each connection has one owner and is closed once (P7), and that nobody gets one
//! that was not proved since another has proved dead (P13). Checked from
//! every state: when faults stop, every waiter is served. Some setups are explored again
//! with a subscriber: that changes nothing, and the events are what has happened.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use super::listener::Listener;
use super::toy::{Toy, policy};
use crate::core::state::Succession;
use crate::core::*;

fn buffer() -> EventBuffer<u8> {
    EventBuffer::with_capacity(64)
}

const fn nanos(n: u64) -> Duration {
    Duration::from_nanos(n)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Get(usize),
    /// A get without time to wait.
    GetAtOnce(usize),
    Claim(usize),
    TimeOut(usize),
    Cancel(usize),
    Return(usize, Verdict),
    /// A connection has proved dead, and is returned later.
    MarkBroken(usize),
    Detach(usize),
    /// A driver call ends.
    Finish(usize, Outcome),
    /// A check that a client makes itself succeeds, fails, or takes all its time: then it goes
    /// on, and the client waits.
    FinishOwn(usize, Option<Outcome>),
    Advance,
    Refresh,
    Prove,
    Pause,
    Resume,
    SetMax(u32),
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    Bad,
    Permanent,
}

/// A thread: it may hold connections, and may wait.
#[derive(Default)]
struct Client {
    held: Vec<Lease<u32>>,
    wait: Option<Wait>,
    own: Option<OwnCheck>,
}

/// A check that a client makes itself.
struct OwnCheck {
    lease: Lease<u32>,
    /// When the get came, and its number.
    since: Time,
    get_id: u64,
    /// The step at which the check began.
    begun: u64,
}

struct Wait {
    id: WaiterId,
    since: Time,
    nudged: bool,
}

/// One exploration: the policy, and what may happen besides gets, returns and results.
#[derive(Clone)]
struct Setup {
    name: &'static str,
    policy: Policy,
    priorities: &'static [u8],
    verdicts: &'static [Verdict],
    leave: bool,
    detach: bool,
    faults: bool,
    owner: &'static [Action],
    /// Points in time older than this are equal.
    horizon: u64,
    /// The last client waits for a check, but not for a connect.
    last_only_tries: bool,
    /// How many connections a client holds at most.
    most_held: usize,
    /// Clients make checks themselves.
    checks_itself: bool,
    /// Clients keep connections that have proved dead for a while.
    marks: bool,
    /// The journal is open.
    subscribed: bool,
}

impl Setup {
    fn only_idle(&self, client: usize) -> bool {
        self.last_only_tries && client + 1 == self.priorities.len()
    }
}

struct World {
    core: Core<Toy>,
    setup: Setup,
    now: Time,
    clients: Vec<Client>,
    jobs: Vec<Job<Toy>>,
    /// At which step each of the jobs began.
    begun: Vec<u64>,
    /// How many steps there were.
    steps: u64,
    /// At which step the call began that last showed each connection to work.
    proved: BTreeMap<u32, u64>,
    /// What was proved before this step must not be lent.
    doubted: u64,
    /// Each connection ever opened, and whether it is still open.
    conns: BTreeMap<u32, bool>,
    listener: Option<Listener>,
}

impl World {
    fn new(setup: &Setup) -> World {
        let mut core = Core::new(setup.policy.clone());
        let listener = setup.subscribed.then(|| Listener::new(&core));
        core.swap_events(setup.subscribed.then(buffer));
        let mut world = World {
            core,
            listener,
            setup: setup.clone(),
            now: Time::START,
            clients: setup.priorities.iter().map(|_| Client::default()).collect(),
            jobs: Vec::new(),
            begun: Vec::new(),
            steps: 0,
            proved: BTreeMap::new(),
            doubted: 0,
            conns: BTreeMap::new(),
        };
        world.tick();
        world
    }

    fn replay(setup: &Setup, path: &[Action]) -> World {
        let mut world = World::new(setup);
        path.iter().for_each(|&action| world.apply(action));
        world
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = vec![Action::Advance];
        for (index, client) in self.clients.iter().enumerate() {
            if client.own.is_some() {
                let ends = [Some(Outcome::Good), Some(Outcome::Bad), None];
                actions.extend(ends.map(|end| Action::FinishOwn(index, end)));
                continue;
            }
            if let Some(wait) = &client.wait {
                if wait.nudged {
                    actions.push(Action::Claim(index));
                }
                if self.setup.leave {
                    actions.extend([Action::TimeOut(index), Action::Cancel(index)]);
                }
                continue;
            }
            if client.held.len() < self.setup.most_held {
                actions.extend([Action::Get(index), Action::GetAtOnce(index)]);
            }
            if let Some(last) = client.held.last() {
                let verdicts = match self.is_dead(last) {
                    true => &[Verdict::Broken],
                    false => self.setup.verdicts,
                };
                actions.extend(verdicts.iter().map(|&verdict| Action::Return(index, verdict)));
                if self.setup.marks && !self.is_dead(last) {
                    actions.push(Action::MarkBroken(index));
                }
                if self.setup.detach {
                    actions.push(Action::Detach(index));
                }
            }
        }
        for (index, job) in self.jobs.iter().enumerate() {
            actions.push(Action::Finish(index, Outcome::Good));
            if self.setup.faults && !matches!(job, Job::Close(..)) {
                actions.push(Action::Finish(index, Outcome::Bad));
            }
            if self.setup.faults && matches!(job, Job::Connect(_)) {
                actions.push(Action::Finish(index, Outcome::Permanent));
            }
        }
        actions.extend(self.setup.owner.iter().filter(|action| match action {
            Action::Pause => !self.core.is_paused(),
            Action::Resume => self.core.is_paused(),
            Action::SetMax(size) => *size != self.core.policy.max_size,
            _ => !self.core.closed,
        }));
        actions
    }

    fn apply(&mut self, action: Action) {
        self.steps += 1;
        let aged = self.ended_by_age();
        // What was being opened when a refresh came is not open yet.
        let opens = match action {
            Action::Finish(job, _) => matches!(self.jobs[job], Job::Connect(_)),
            _ => false,
        };
        self.take(action);
        if self.ended_by_age() > aged && !opens {
            let policy = &self.core.policy;
            let kept = policy.min_idle_now().min(policy.max_size - 1);
            assert!(self.core.open_count() >= kept, "P17: too few are left after {action:?}");
        }
        self.check(action);
    }

    /// How many connections the pool has ended without need.
    fn ended_by_age(&self) -> u64 {
        let by = [Reason::Expired, Reason::Stale, Reason::IdleTooLong];
        by.iter().map(|&reason| self.core.counters.closed[reason as usize]).sum()
    }

    fn take(&mut self, action: Action) {
        let mut fx = Effects::at(self.now);
        let (now, had_closed_unheld) = (self.now, self.core.has_closed_unheld());
        match action {
            Action::Get(client) => self.get(client, &mut fx),
            Action::GetAtOnce(client) => self.get_at_once(client, &mut fx),
            Action::Claim(client) => {
                let id = self.id_of(client);
                self.clients[client].wait.iter_mut().for_each(|wait| wait.nudged = false);
                if let Some(lease) = self.core.claim(id, &mut fx) {
                    self.served(client, lease);
                }
            }
            Action::TimeOut(client) => {
                let id = self.id_of(client);
                assert!(self.core.leave(id, ErrorKind::Timeout, &mut fx));
                self.clients[client].wait = None;
            }
            Action::Cancel(client) => {
                let id = self.id_of(client);
                assert!(self.core.leave(id, ErrorKind::Cancelled, &mut fx));
            }
            Action::Return(client, verdict) => {
                let lease = self.lease_of(client);
                if verdict == Verdict::Broken && !self.is_dead(&lease) {
                    self.doubted = self.steps;
                }
                let lease = match verdict {
                    Verdict::Keep if self.setup.subscribed => {
                        self.core.checkin_noted(now, lease).err()
                    }
                    Verdict::Keep => self.core.checkin_fast(now, lease).err(),
                    _ => Some(lease),
                };
                if let Some(lease) = lease {
                    self.core.checkin(lease, verdict, &mut fx);
                }
            }
            Action::MarkBroken(client) => {
                self.doubted = self.steps;
                let lease = self.clients[client].held.last().expect("it holds something");
                self.core.proved_dead(&lease.permit, Reason::Broken, &mut fx);
            }
            Action::Detach(client) => {
                let lease = self.lease_of(client);
                self.close_conn(lease.conn);
                self.core.detach(lease.permit, &mut fx);
            }
            Action::Finish(job, outcome) => self.finish(job, outcome, &mut fx),
            Action::FinishOwn(client, end) => self.finish_own(client, end, &mut fx),
            Action::Advance => self.now = Time(self.now.0 + 1),
            Action::Refresh => self.core.refresh(&mut fx),
            Action::Prove => self.core.prove(nanos(1), &mut fx),
            Action::Pause => self.core.pause(),
            Action::Resume => self.core.resume(&mut fx),
            Action::SetMax(size) => self.core.set_max_size(size, &mut fx),
            Action::Close => assert!(self.core.close(&mut fx), "it was open"),
        }
        self.check_leaving(had_closed_unheld, &fx);
        let at_once = match action {
            Action::GetAtOnce(client) => Some(client),
            _ => None,
        };
        self.carry_out(fx, at_once);
        // The reaper runs when it planned to, and at no other time.
        if self.core.wake_at <= self.now {
            self.tick();
        }
    }

    fn tick(&mut self) {
        let mut fx = Effects::at(self.now);
        let planned = self.core.wake_at;
        let had_closed_unheld = self.core.has_closed_unheld();
        let next = self.core.tick(&mut fx);
        self.see_overruns();
        assert!(next > self.now, "the reaper spins");
        self.check_leaving(had_closed_unheld, &fx);
        let core = &self.core;
        let nothing_is_lent = core.busy_slots().all(|slot| slot.leaking);
        let rests = nothing_is_lent && core.idle.is_empty() && core.queue.is_empty();
        let calls = !self.jobs.is_empty() || self.clients.iter().any(|c| c.own.is_some());
        if planned <= self.now && rests && !calls && core.outage.is_none() {
            let is_quiet = fx.jobs.is_empty() && next == Time::NEVER;
            assert!(!fx.jobs.is_empty() || is_quiet, "the reaper plans to run for nothing");
        }
        self.carry_out(fx, None);
    }

    /// A validation that overruns its limit has failed, as far as the others are concerned.
    fn see_overruns(&mut self) {
        let by_workers = self.jobs.iter().zip(&self.begun).filter_map(|(job, begun)| match job {
            Job::Check(lease, Check { validate: true, .. }) => Some((lease, *begun)),
            _ => None,
        });
        let own = self.clients.iter().filter_map(|client| client.own.as_ref());
        for (lease, begun) in by_workers.chain(own.map(|own| (&own.lease, own.begun))) {
            let slot = &self.core.slots[lease.permit.index()];
            if slot.past_limit || slot.state == ConnectionState::Abandoned {
                self.doubted = self.doubted.max(begun);
            }
        }
    }

    /// What the last handle waits for: it is woken when that comes, and until then a call
    /// is under way that brings it nearer. It waits for no holder and no connect.
    fn check_leaving(&self, had_closed_unheld: bool, fx: &Effects<Toy>) {
        use ConnectionState::*;
        if self.core.has_closed_unheld() {
            assert!(had_closed_unheld || fx.progress, "P6: nobody wakes the last handle");
            let unheld = |slot: &super::super::slot::Slot<Toy>| {
                matches!(slot.state, Idle | Checking | Retired | Closing)
            };
            assert!(!self.core.slots.iter().any(unheld), "P6: left behind");
        } else if self.core.closed {
            let mut jobs = self.jobs.iter().chain(&fx.jobs);
            let is_checked = self.clients.iter().any(|client| client.own.is_some());
            let closes = jobs.any(|job| !matches!(job, Job::Connect(_)));
            assert!(closes || is_checked, "P6: waits for nothing");
        }
    }

    /// A get that has time: it may make a check itself first.
    fn get(&mut self, client: usize, fx: &mut Effects<Toy>) {
        let (since, get_id) = (self.now, self.core.next_get_id());
        if self.take_now(client, fx) || self.takes_to_check(client, since, get_id, fx) {
            return;
        }
        self.join(client, since, get_id, fx);
    }

    fn takes_to_check(
        &mut self,
        client: usize,
        since: Time,
        get_id: u64,
        fx: &mut Effects<Toy>,
    ) -> bool {
        if !self.setup.checks_itself {
            return false;
        }
        let priority = self.setup.priorities[client];
        let Some(lease) = self.core.take_to_check(priority, fx) else { return false };
        self.assert_may_overtake(priority);
        self.clients[client].own = Some(OwnCheck { lease, since, get_id, begun: self.steps });
        true
    }

    fn finish_own(&mut self, client: usize, end: Option<Outcome>, fx: &mut Effects<Toy>) {
        let own = self.clients[client].own.take().expect("it checks");
        let OwnCheck { lease, since, get_id, begun } = own;
        let conn = lease.conn;
        if end == Some(Outcome::Good) {
            self.proved.insert(conn, begun);
            let arrival = (get_id, since);
            if let Some(lease) = self.core.take_checked(lease, arrival, client as u8, fx) {
                assert_eq!(self.conns.get(&conn), Some(&true), "P7: took a closed connection");
                self.assert_proved(conn);
                return self.clients[client].held.push(lease);
            }
        } else {
            if end.is_some() {
                // If it has overrun its limit, that is known.
                if self.core.slots[lease.permit.index()].state == ConnectionState::Checking {
                    self.doubted = self.doubted.max(begun);
                }
                self.core.proved_dead(&lease.permit, Reason::Invalid, fx);
            }
            self.jobs.push(Job::Check(lease, Check::VALIDATE));
            self.begun.push(begun);
        }
        if !self.take_now(client, fx) && !self.takes_to_check(client, since, get_id, fx) {
            self.join(client, since, get_id, fx);
        }
    }

    /// Returns whether the client got a connection without a wait.
    fn take_now(&mut self, client: usize, fx: &mut Effects<Toy>) -> bool {
        let (now, priority) = (self.now, self.setup.priorities[client]);
        let noted = self.setup.subscribed.then(|| self.core.acquire_noted(now, client as u8));
        let fast = noted.flatten().or_else(|| self.core.acquire_fast(now, client as u8));
        let fast = fast.or_else(|| self.core.overtake(now, client as u8));
        let lease = fast.or_else(|| self.core.acquire(priority, client as u8, fx));
        let Some(lease) = lease else { return false };
        self.assert_may_overtake(priority);
        self.assert_proved(lease.conn);
        self.clients[client].held.push(lease);
        true
    }

    /// Returns the wait if the client joined the queue.
    fn join(
        &mut self,
        client: usize,
        since: Time,
        get_id: u64,
        fx: &mut Effects<Toy>,
    ) -> Option<WaiterId> {
        let (now, priority) = (self.now, self.setup.priorities[client]);
        let cell = client as u8;
        let waiter = Waiter {
            get_id,
            since,
            priority,
            caller: cell,
            cell,
            only_idle: self.setup.only_idle(client),
            nested: !self.clients[client].held.is_empty(),
        };
        if waiter.only_idle && !self.core.may_await_check(now, priority) {
            return None;
        }
        let joined = self.core.join(waiter, fx);
        match joined {
            Ok(id) => self.clients[client].wait = Some(Wait { id, since, nudged: false }),
            Err(ErrorKind::Closed) => assert!(self.core.closed),
            Err(ErrorKind::Connect) => {
                assert!(self.core.open_count() == 0 && self.core.outage.is_some(), "P3: refused");
            }
            Err(ErrorKind::QueueFull) => {
                assert_eq!(Some(self.core.queue.len()), self.setup.policy.max_waiters, "P8");
            }
            Err(kind) => panic!("refused with {kind:?}"),
        }
        joined.ok()
    }

    /// Joins, and claims or leaves in the same step.
    fn get_at_once(&mut self, client: usize, fx: &mut Effects<Toy>) {
        if self.take_now(client, fx) {
            return;
        }
        let get_id = self.core.next_get_id();
        let Some(id) = self.join(client, self.now, get_id, fx) else { return };
        if let Some(lease) = self.core.claim(id, fx) {
            self.served(client, lease);
        } else if self.core.leave(id, ErrorKind::Timeout, fx) {
            self.clients[client].wait = None;
        }
    }

    fn finish(&mut self, job: usize, outcome: Outcome, fx: &mut Effects<Toy>) {
        let begun = self.begun.swap_remove(job);
        let job = self.jobs.swap_remove(job);
        // A client's own check has failed already.
        let is_dead = matches!(&job, Job::Check(lease, _) if self.is_dead(lease));
        match (job, if is_dead { Outcome::Bad } else { outcome }) {
            (Job::Connect(permit), Outcome::Good) => {
                let conn = self.conns.len() as u32;
                self.conns.insert(conn, true);
                self.proved.insert(conn, begun);
                self.core.connect_finished(Leased::new(permit, conn), fx);
            }
            (Job::Connect(permit), outcome) => {
                let permanent = outcome == Outcome::Permanent;
                self.core.connect_failed(permit, 0, permanent, fx);
            }
            (Job::Check(lease, check), Outcome::Good) => {
                if check.validate {
                    self.proved.insert(lease.conn, begun);
                }
                self.core.check_finished(lease, Ok(()), fx);
            }
            (Job::Check(lease, check), _) => {
                // Dead when the check began, or at any time until the reset failed. If it has
                // overrun its limit, that is known.
                let slot = &self.core.slots[lease.permit.index()];
                if slot.state == ConnectionState::Checking {
                    let since = if check.validate { begun } else { self.steps };
                    self.doubted = self.doubted.max(since);
                }
                self.core.check_finished(lease, Err((check.failure(), 1)), fx);
            }
            (Job::Close(lease, _), _) => {
                self.close_conn(lease.conn);
                self.core.close_finished(lease.permit, fx);
            }
        }
    }

    /// Connects that nobody needs but to replace old connections come one at a time.
    fn check_successors(&self, fx: &Effects<Toy>) {
        let core = &self.core;
        let begun = fx.jobs.iter().filter(|job| matches!(job, Job::Connect(_))).count() as u32;
        let had = core.idle_len() + core.checking + core.opening - begun;
        let kept = had >= core.policy.min_idle_now();
        if begun > 0 && kept && core.queue.is_empty() && !core.tries_by_itself() {
            assert_eq!(core.opening, 1, "P17: a successor beside another connect");
        }
    }

    fn carry_out(&mut self, fx: Effects<Toy>, at_once: Option<usize>) {
        // It may have joined, and have left already.
        if at_once.is_none() {
            self.check_successors(&fx);
        }
        for (cell, answer) in fx.answers {
            let client = usize::from(cell);
            match answer {
                Answer::Granted(lease) => self.served(client, lease),
                Answer::Nudged => match &mut self.clients[client].wait {
                    Some(wait) => wait.nudged = true,
                    // It joined, was nudged for what lay below the top, and has claimed it.
                    None if at_once == Some(client) => {}
                    None => panic!("P4: nudged a client that does not wait"),
                },
                Answer::Failed(..) | Answer::SelfDeadlock(_) => {
                    assert!(self.clients[client].wait.take().is_some(), "P4: it does not wait");
                }
            }
        }
        self.jobs.extend(fx.jobs);
        self.begun.resize(self.jobs.len(), self.steps);
        self.deliver();
    }

    /// The listener receives the events of a transition.
    fn deliver(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        let mut events = self.core.swap_events(Some(buffer())).expect("the journal is open");
        let (steps, lost) = events.take();
        assert_eq!(lost, 0, "there is room for all of a transition's steps");
        steps.for_each(|entry| listener.receive(&entry));
        listener.agrees_with(&self.core);
    }

    /// A waiter gets a connection: no waiter of its priority may be older.
    fn served(&mut self, client: usize, lease: Lease<u32>) {
        let priority = self.setup.priorities[client];
        let Some(Wait { id, since, .. }) = self.clients[client].wait.take() else {
            panic!("P4: a connection for a client that does not wait");
        };
        assert_eq!(self.conns.get(&lease.conn), Some(&true), "P7: granted a closed connection");
        self.assert_proved(lease.conn);
        for (other, waiting) in self.clients.iter().enumerate() {
            let Some(Wait { id: other_id, since: theirs, .. }) = waiting.wait else { continue };
            if self.core.queue.get(other_id).is_none() {
                continue; // answered in the same transition
            }
            let other_priority = self.setup.priorities[other];
            if other_priority == priority {
                assert!(id.get_id() < other_id.get_id(), "P2: served out of order");
            }
            let (own, theirs) = (self.turn(since, priority), self.turn(theirs, other_priority));
            assert!(own <= theirs, "P2: served before its turn");
        }
        // The answer came before the deadline: leaving now must find nothing.
        let mut fx = Effects::at(self.now);
        assert!(!self.core.leave(id, ErrorKind::Timeout, &mut fx), "P4");
        assert!(fx.answers.is_empty() && fx.jobs.is_empty());
        self.clients[client].held.push(lease);
    }

    fn turn(&self, since: Time, priority: u8) -> Time {
        since.after(self.setup.policy.priority_ageing * u32::from(priority))
    }

    fn assert_may_overtake(&self, priority: u8) {
        for (_, waiter) in self.core.queue.iter().filter(|(_, w)| w.priority == priority) {
            let waited = self.now.since(waiter.since);
            assert!(waited < self.setup.policy.fairness_bound, "P2: overtaken past the bound");
        }
    }

    /// Nobody gets a connection that was not proved since another has proved dead.
    fn assert_proved(&self, conn: u32) {
        let proved = self.proved[&conn];
        assert!(proved >= self.doubted, "P13: proved at {proved}, in doubt since {}", self.doubted);
    }

    fn close_conn(&mut self, conn: u32) {
        assert_eq!(self.conns.insert(conn, false), Some(true), "P7: closed twice");
    }

    /// It has proved dead, and that is known.
    fn is_dead(&self, lease: &Lease<u32>) -> bool {
        self.core.slots[lease.permit.index()].proof == 0
    }

    fn id_of(&self, client: usize) -> WaiterId {
        self.clients[client].wait.as_ref().expect("it waits").id
    }

    fn lease_of(&mut self, client: usize) -> Lease<u32> {
        self.clients[client].held.pop().expect("it holds something")
    }

    /// Whether all connections that may exist do, and are held by clients that wait.
    fn is_deadlocked(&self) -> bool {
        let held_by = |clients: &mut dyn Iterator<Item = &Client>| {
            clients.map(|client| client.held.len() as u32).sum::<u32>()
        };
        let all = held_by(&mut self.clients.iter());
        let by_waiters = held_by(&mut self.clients.iter().filter(|client| client.wait.is_some()));
        all > 0
            && all == by_waiters
            && all == self.core.occupied()
            && all >= self.core.policy.max_size
    }

    /// Every connection has one owner, and the server sees no more than it may.
    fn check(&self, action: Action) {
        let core = &self.core;
        let held = self.clients.iter().map(|client| client.held.len()).sum::<usize>() as u32;
        assert_eq!(held, core.busy, "holders after {action:?}");
        let waiting = self.clients.iter().filter(|client| client.wait.is_some()).count();
        assert_eq!(waiting as u32, core.queue.len(), "P4: waiters after {action:?}");
        let calls = core.opening + core.checking + core.closers + core.abandoned;
        let own = self.clients.iter().filter(|client| client.own.is_some()).count();
        assert_eq!((self.jobs.len() + own) as u32, calls, "driver calls after {action:?}");
        let shrinks = self.setup.owner.iter().any(|a| matches!(a, Action::SetMax(_)));
        assert!(shrinks || core.occupied() <= core.policy.max_size, "P5 after {action:?}");
        let hopeless = core.is_hopeless(self.now);
        assert!(!hopeless || core.queue.is_empty(), "P9: a hopeless wait after {action:?}");
        let deadlocked = core.deadlocked.is_some();
        assert_eq!(deadlocked, self.is_deadlocked(), "a deadlock after {action:?}");
        for slot in core.slots.iter().filter(|slot| slot.is_open()) {
            let young = slot.expires > self.now;
            assert!(young || slot.old, "nobody saw a lifetime end after {action:?}");
        }
        let idle = core.idle.iter().map(|lease| &core.slots[lease.permit.index()]);
        let too_long = idle.filter(|slot| slot.idle_until() <= self.now).count();
        let kept = core.policy.min_idle_now() as usize;
        assert!(too_long <= kept, "an idle connection outlived its time after {action:?}");
        for slot in core.busy_slots().filter(|slot| !slot.leaking) {
            let until = slot.since.after_opt(core.policy.leak_threshold);
            assert!(until > self.now, "a leak is not reported in time after {action:?}");
        }
        let alive = self.conns.values().filter(|open| **open).count() as u32;
        assert!(alive >= core.open_count() + core.closing(), "lost a connection after {action:?}");
        assert!(
            alive <= core.open_count() + core.closing() + core.abandoned,
            "leaked a connection after {action:?}"
        );
    }

    /// Worlds with the same key are equal but for the absolute time, the numbers of slots and
    /// connections, and the counters.
    fn key(&self) -> String {
        let age = |time: Time| match time {
            Time::NEVER => "n".to_string(),
            time if time > self.now => format!("+{}", time.0 - self.now.0),
            time => (self.now.0 - time.0).min(self.setup.horizon).to_string(),
        };
        let validating: Vec<u64> = self
            .core
            .slots
            .iter()
            .filter_map(|slot| {
                let validates = slot.state == ConnectionState::Checking && slot.check.validate;
                validates.then_some(slot.proof)
            })
            .collect();
        let slot = |permit: &Permit| {
            let slot = &self.core.slots[permit.index()];
            let stale = slot.generation != self.core.generation;
            // Of its proof matters whether it counts, and which checks would put it in doubt.
            let closes = slot.call() == Some(CallKind::Close)
                || slot.abandoned.is_some_and(|(kind, _)| kind == CallKind::Close);
            let fresh_for = self.core.policy.fresh_for;
            let is_due =
                slot.state == ConnectionState::Idle && self.now.since(slot.fresh_at) >= fresh_for;
            let proof = if closes {
                String::new()
            } else if slot.proof == 0 {
                "x".to_string()
            } else if is_due || slot.proof <= self.core.doubted {
                "d".to_string()
            } else {
                let is_later = |proof: &&u64| **proof > slot.proof;
                validating.iter().filter(is_later).count().to_string()
            };
            let (slow, overran, old) = (slot.past_patience, slot.past_limit, slot.old);
            let ages = self.setup.policy.max_lifetime.is_some()
                || self.setup.owner.contains(&Action::Refresh);
            let unused = ages && slot.caller.is_none();
            format!(
                "{:?},{},{},{},{},{proof}{stale},{slow},{overran},{old}{unused}",
                match slot.state {
                    ConnectionState::Checking => (9, Some(slot.check), slot.idle_since.map(age)),
                    ConnectionState::Busy => (1, None, None),
                    ConnectionState::Abandoned => (2, None, None),
                    _ => (0, None, None),
                },
                // Only the times that matter in this state.
                match slot.state {
                    ConnectionState::Busy if self.core.policy.leak_threshold.is_none() => {
                        String::new()
                    }
                    _ => format!("{}{}", age(slot.since), slot.leaking),
                },
                if matches!(slot.state, ConnectionState::Idle) {
                    age(slot.fresh_at)
                } else {
                    String::new()
                },
                age(slot.expires),
                if slot.is_counted_on() { age(slot.patience_ends) } else { String::new() },
            )
        };
        let place = |get_id: u64| {
            let waits = self.clients.iter().filter_map(|c| Some(c.wait.as_ref()?.id.get_id()));
            let checks = self.clients.iter().filter_map(|c| Some(c.own.as_ref()?.get_id));
            waits.chain(checks).filter(|&other| other < get_id).count()
        };
        let wait = |wait: &Wait| {
            let place = place(wait.id.get_id());
            let first = self.core.nudged == Some(wait.id);
            format!("w{},{place},{},{first}", age(wait.since), wait.nudged)
        };
        let client = |(client, priority): (&Client, &u8)| {
            let held: Vec<String> = client.held.iter().map(|lease| slot(&lease.permit)).collect();
            let own = client.own.as_ref();
            let own = own.map(|own| {
                format!("o{},{},{}", age(own.since), place(own.get_id), slot(&own.lease.permit))
            });
            let wait = client.wait.as_ref().map(wait);
            format!("{priority}{wait:?}{own:?}{};", held.join("+"))
        };
        // Clients of one priority are interchangeable.
        let mut clients: Vec<String> =
            self.clients.iter().zip(self.setup.priorities).map(client).collect();
        clients.sort();
        let mut key = clients.concat();
        for lease in &self.core.idle {
            let _ = write!(key, "i{};", slot(&lease.permit));
        }
        for (lease, _) in &self.core.retired {
            let _ = write!(key, "q{};", slot(&lease.permit).len().min(1));
        }
        let mut jobs: Vec<String> = self
            .jobs
            .iter()
            .map(|job| match job {
                Job::Connect(permit) => format!("o{}", slot(permit)),
                Job::Check(lease, check) => format!("v{check:?}{}", slot(&lease.permit)),
                Job::Close(lease, _) => format!("c{}", slot(&lease.permit)),
            })
            .collect();
        jobs.sort();
        let _ = write!(
            key,
            "{jobs:?}{:?}{}{}{}{}{:?}{:?}{:?}{:?}{:?}",
            self.core.succession,
            self.core.never_connected(),
            self.core.closed,
            self.core.paused,
            self.core.policy.max_size,
            self.core.outage.as_ref().map(|o| {
                let failed_at = age(o.failed_at);
                let fails_fast_from = age(o.fails_fast_from);
                (age(o.retry_at), failed_at, o.attempts.min(2), o.permanent, fails_fast_from)
            }),
            (
                self.core.pace.at_once,
                self.core.pace.patience,
                // Matters only where connects hold up others.
                (self.core.opening_soon() >= self.core.policy.max_opening)
                    .then(|| age(self.core.pace.moved_at)),
            ),
            // When the reaper runs next: a plan that is too late must show.
            age(self.core.wake_at),
            (self.core.lends_are_planned, self.core.returns_are_planned),
            self.core.deadlocked.map(age),
        );
        key
    }

    /// From here on nothing fails: calls succeed, holders return, nudged waiters claim. Every
    /// waiter must be served.
    fn recover(&mut self) {
        let waiting = |world: &World| world.clients.iter().any(|client| client.wait.is_some());
        if self.core.is_paused() && !self.core.closed {
            self.apply(Action::Resume);
        }
        for _ in 0..50 {
            loop {
                let own = self.clients.iter().position(|client| client.own.is_some());
                if let Some(client) = own {
                    self.apply(Action::FinishOwn(client, Some(Outcome::Good)));
                } else if !self.jobs.is_empty() {
                    self.apply(Action::Finish(0, Outcome::Good));
                } else {
                    break;
                }
            }
            for client in 0..self.clients.len() {
                match &self.clients[client] {
                    Client { wait: Some(Wait { nudged: true, .. }), .. } => {
                        self.apply(Action::Claim(client));
                    }
                    Client { wait: None, held, .. } if !held.is_empty() => {
                        let is_dead = held.last().is_some_and(|last| self.is_dead(last));
                        let verdict = if is_dead { Verdict::Broken } else { Verdict::Keep };
                        self.apply(Action::Return(client, verdict));
                    }
                    _ => {}
                }
            }
            // Whoever fails fast relies on the pool to find the end of an outage.
            let tries = self.core.tries_by_itself() && !self.core.closed;
            let checks = self.clients.iter().any(|client| client.own.is_some());
            let calls = checks || !self.jobs.is_empty();
            if !waiting(self) && !calls && self.core.busy == 0 && !tries {
                assert_eq!(self.core.abandoned, 0, "P5: an abandoned call was not accounted for");
                assert!(!self.core.closed || self.core.is_drained(), "P11: not drained");
                let core = &self.core;
                let done = core.old == 0 && core.succession == Succession::None;
                assert!(
                    done || core.closed || core.outage.is_some(),
                    "P17: nobody replaces what is old"
                );
                return;
            }
            self.apply(Action::Advance);
        }
        panic!("P3: a waiter is never served");
    }
}

/// Explores a setup; returns the numbers of states and transitions.
fn explore(setup: &Setup) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut frontier = VecDeque::from([Vec::new()]);
    seen.insert(World::new(setup).key());
    let mut transitions = 0;
    while let Some(path) = frontier.pop_front() {
        let guard = PrintOnPanic(setup.name, &path, None);
        World::replay(setup, &path).recover();
        let actions = World::replay(setup, &path).actions();
        drop(guard);
        for action in actions {
            let guard = PrintOnPanic(setup.name, &path, Some(action));
            let mut world = World::replay(setup, &path);
            world.apply(action);
            drop(guard);
            transitions += 1;
            if seen.insert(world.key()) {
                let mut longer = path.clone();
                longer.push(action);
                frontier.push_back(longer);
            }
            assert!(seen.len() < 2_000_000, "{}: the state space does not close", setup.name);
        }
    }
    (seen.len(), transitions)
}

/// Prints the shortest path to a failure.
struct PrintOnPanic<'a>(&'static str, &'a [Action], Option<Action>);

impl Drop for PrintOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in setup {:?}, after {:?}, then {:?}", self.0, self.1, self.2);
        }
    }
}

const KEEP: &[Verdict] = &[Verdict::Keep];
const KEEP_OR_BREAK: &[Verdict] = &[Verdict::Keep, Verdict::Broken];

fn plain(name: &'static str, max_size: u32, priorities: &'static [u8]) -> Setup {
    Setup {
        name,
        policy: policy(max_size),
        priorities,
        verdicts: KEEP,
        leave: false,
        detach: false,
        faults: false,
        owner: &[],
        horizon: 2,
        last_only_tries: false,
        most_held: 1,
        checks_itself: false,
        marks: false,
        subscribed: false,
    }
}

fn setups() -> Vec<Setup> {
    let strict = Setup {
        leave: true,
        verdicts: KEEP_OR_BREAK,
        ..plain("strict order, cancel, broken returns", 2, &[5, 5, 5, 5])
    };

    let mut bounded = Setup {
        leave: true,
        horizon: 3,
        ..plain("bounded overtaking, priorities, cancel", 2, &[1, 2, 2, 2])
    };
    bounded.policy.fairness_bound = nanos(2);
    bounded.policy.priority_ageing = nanos(1);

    let mut full = Setup { leave: true, ..plain("a bounded queue", 2, &[5, 5, 5, 5, 5]) };
    full.policy.max_waiters = Some(2);
    full.policy.fairness_bound = nanos(1);

    let mut faults = Setup {
        faults: true,
        leave: true,
        verdicts: KEEP_OR_BREAK,
        ..plain("failing and hanging opens and closes", 2, &[5, 5, 5])
    };
    faults.policy.open_limit = nanos(1);
    faults.policy.close_limit = nanos(1);

    let mut slow =
        Setup { leave: true, ..plain("connects that are no longer counted on", 3, &[5, 5, 5]) };
    (slow.policy.patience_min, slow.policy.patience_max) = (nanos(1), nanos(1));
    slow.policy.open_limit = nanos(2);

    let mut hedges = Setup {
        leave: true,
        horizon: 5,
        ..plain("connects of all lengths, and more where they hang", 3, &[5, 5, 5])
    };
    hedges.policy.max_opening = 1;
    (hedges.policy.patience_min, hedges.policy.patience_max) = (nanos(1), nanos(3));
    hedges.policy.open_limit = nanos(4);

    let mut ramp = Setup {
        faults: true,
        ..plain("an outage, and more connects again after it", 3, &[5, 5, 5])
    };
    ramp.policy.max_opening = 3;
    (ramp.policy.patience_min, ramp.policy.patience_max) = (nanos(2), nanos(2));

    let mut fails_fast = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        horizon: 3,
        owner: &[Action::Pause, Action::Resume],
        ..plain("failing fast", 2, &[5, 5])
    };
    fails_fast.policy.fail_fast_after = Some(nanos(2));
    fails_fast.policy.open_limit = nanos(2);

    let owner = Setup {
        owner: &[
            Action::Refresh,
            Action::Pause,
            Action::Resume,
            Action::SetMax(1),
            Action::SetMax(3),
            Action::Close,
        ],
        detach: true,
        leave: true,
        ..plain("refresh, pause, resize, close, detach", 2, &[5, 5])
    };

    let mut leaving = Setup {
        owner: &[Action::Close],
        faults: true,
        verdicts: &[
            Verdict::Keep,
            Verdict::Broken,
            Verdict::Check(Check { reset: true, validate: false }),
        ],
        ..plain("the last handle is dropped", 2, &[5, 5])
    };
    leaving.policy.max_closers = 1;
    leaving.policy.close_limit = nanos(1);
    leaving.policy.reset_limit = nanos(1);

    let mut checks =
        Setup { faults: true, leave: true, ..plain("failing and hanging checks", 2, &[5, 5]) };
    checks.policy.fresh_for = nanos(1);
    checks.policy.validation_limit = nanos(1);

    let mut resets = Setup {
        verdicts: &[Verdict::Keep, Verdict::Check(Check { reset: true, validate: false })],
        leave: true,
        ..plain("hanging resets", 2, &[5, 5])
    };
    resets.policy.validation_limit = nanos(1);
    resets.policy.reset_limit = nanos(1);

    // Its priority tells the client that only tries from the others in the key.
    let mut always = Setup {
        faults: true,
        leave: true,
        last_only_tries: true,
        ..plain("check always, and one that only tries", 2, &[5, 5, 6])
    };
    always.policy.fresh_for = Duration::ZERO;
    always.policy.fairness_bound = nanos(1);

    let mut ageing = Setup {
        horizon: 5,
        verdicts: KEEP,
        ..plain("lifetime, idle timeout, keepalive, min and max idle", 2, &[5, 5])
    };
    ageing.policy.max_lifetime = Some(nanos(4));
    ageing.policy.idle_timeout = Some(nanos(3));
    ageing.policy.keepalive = Some(nanos(2));
    ageing.policy.min_idle = Some(1);
    ageing.policy.max_idle = Some(1);

    let mut nested = Setup {
        most_held: 2,
        leave: true,
        verdicts: KEEP_OR_BREAK,
        owner: &[Action::SetMax(1), Action::SetMax(2), Action::Refresh],
        ..plain("holders that wait for another, and deadlock", 2, &[5, 5, 5])
    };
    nested.policy.self_deadlock_limit = Some(nanos(1));

    let mut leaks = Setup {
        horizon: 5,
        verdicts: KEEP_OR_BREAK,
        ..plain("leaks, and an idle time", 2, &[5, 5])
    };
    leaks.policy.leak_threshold = Some(nanos(2));
    leaks.policy.idle_timeout = Some(nanos(3));

    let mut replaced = Setup {
        faults: true,
        owner: &[Action::Refresh, Action::Prove],
        ..plain("successors, refresh, proofs, faults", 2, &[5])
    };
    replaced.policy.min_idle = Some(1);

    let mut all_kept = Setup { horizon: 5, ..plain("lifetimes in a full pool", 2, &[5, 5]) };
    all_kept.policy.min_idle = None;
    all_kept.policy.max_lifetime = Some(nanos(4));

    let mut replaced_late = Setup {
        faults: true,
        horizon: 1,
        owner: &[Action::Refresh],
        ..plain("successors, connects that hang, failing fast", 3, &[5])
    };
    replaced_late.policy.fail_fast_after = Some(nanos(2));
    replaced_late.policy.open_limit = nanos(2);
    let patience = (nanos(1), nanos(1));
    (replaced_late.policy.patience_min, replaced_late.policy.patience_max) = patience;

    vec![
        strict,
        bounded,
        full,
        faults,
        slow,
        hedges,
        ramp,
        fails_fast,
        owner,
        leaving,
        checks,
        resets,
        always,
        ageing,
        nested,
        leaks,
        replaced,
        replaced_late,
        all_kept,
    ]
}

/// Those in which connections die, and others are in doubt because of it.
fn setups_with_doubt() -> Vec<Setup> {
    let mut doubt = Setup {
        faults: true,
        verdicts: &[
            Verdict::Keep,
            Verdict::Broken,
            Verdict::Check(Check { reset: true, validate: false }),
        ],
        last_only_tries: true,
        ..plain("doubt: errors, failed checks, and one that only tries", 2, &[5, 5, 6])
    };
    doubt.policy.fairness_bound = nanos(1);
    doubt.policy.priority_ageing = nanos(1);

    let three = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        most_held: 2,
        marks: true,
        horizon: 1,
        ..plain("doubt: three connections", 3, &[5, 5])
    };

    let mut late = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        horizon: 2,
        ..plain("doubt: checks that hang, keepalives", 2, &[5, 5])
    };
    late.policy.validation_limit = nanos(1);
    late.policy.keepalive = Some(nanos(2));

    let mut own = Setup {
        faults: true,
        verdicts: KEEP_OR_BREAK,
        checks_itself: true,
        leave: true,
        ..plain("doubt: callers that check themselves", 2, &[5, 5, 5])
    };
    own.policy.fresh_for = nanos(1);
    own.policy.fairness_bound = nanos(1);

    let mut own_late = Setup {
        checks_itself: true,
        last_only_tries: true,
        owner: &[Action::Close, Action::Pause, Action::Resume],
        ..plain("doubt: callers' own checks that hang, close, pause", 2, &[5, 6])
    };
    own_late.policy.fresh_for = Duration::ZERO;
    own_late.policy.validation_limit = nanos(1);

    vec![doubt, three, late, own, own_late]
}

/// A subscriber receives what happened, and changes nothing.
#[test]
fn p7_listeners_hear_the_truth_in_every_reachable_state() {
    let chosen = [
        "bounded overtaking, priorities, cancel",
        "failing and hanging opens and closes",
        "check always, and one that only tries",
    ];
    let chosen = setups().into_iter().filter(|setup| chosen.contains(&setup.name));
    for setup in chosen {
        let without = explore(&setup);
        let with = explore(&Setup { subscribed: true, ..setup });
        assert_eq!(with, without, "states and transitions with and without a subscriber");
    }
}

#[test]
fn p2_p3_p4_p5_p7_hold_in_every_reachable_state() {
    explore_all(setups());
}

#[test]
fn p13_nobody_gets_what_was_not_proved_since_in_every_reachable_state() {
    explore_all(setups_with_doubt());
}

fn explore_all(setups: Vec<Setup>) {
    let started = std::time::Instant::now();
    let (mut states, mut transitions) = (0, 0);
    for setup in setups {
        let begun = std::time::Instant::now();
        let (some_states, some_transitions) = explore(&setup);
        println!(
            "{:50} {some_states:>7} states {some_transitions:>8} transitions {:>6.2} s",
            setup.name,
            begun.elapsed().as_secs_f64()
        );
        assert!(some_states > 100, "{}: too few states to mean anything", setup.name);
        states += some_states;
        transitions += some_transitions;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{:50} {states:>7} states {transitions:>8} transitions {seconds:>6.2} s", "all");
}
