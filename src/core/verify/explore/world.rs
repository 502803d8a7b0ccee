//! A world: the core and its surroundings, and what can happen in it.

use std::collections::BTreeMap;

use super::super::listener::Listener;
use super::super::toy::Toy;
use super::setups::{Setup, nanos};
use crate::core::*;

fn buffer() -> EventBuffer<u8> {
    EventBuffer::with_capacity(64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Get(usize),
    /// A get without time to wait.
    GetAtOnce(usize),
    Claim(usize),
    TimeOut(usize),
    Cancel(usize),
    /// A task is dropped.
    Drop(usize),
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
pub(super) enum Outcome {
    Good,
    Bad,
    /// Of a use that begins: its caller is refused.
    Permanent,
}

/// A thread: it may hold connections, and may wait.
#[derive(Default)]
pub(super) struct Client {
    pub(super) held: Vec<Lease<u32>>,
    pub(super) wait: Option<Wait>,
    pub(super) own: Option<OwnCheck>,
}

/// A check that a client makes itself.
pub(super) struct OwnCheck {
    pub(super) lease: Lease<u32>,
    pub(super) arrival: Arrival,
    /// The step at which the check began.
    pub(super) begun: u64,
}

pub(super) struct Wait {
    pub(super) id: WaiterId,
    pub(super) since: Time,
    /// `NEVER` for a thread, which keeps its deadline itself.
    pub(super) deadline: Time,
    pub(super) nudged: bool,
}

pub(super) struct World {
    pub(super) core: Core<Toy>,
    pub(super) setup: Setup,
    pub(super) now: Time,
    pub(super) clients: Vec<Client>,
    pub(super) jobs: Vec<Job<Toy>>,
    /// At which step each of the jobs began.
    pub(super) begun: Vec<u64>,
    /// How many steps there were.
    pub(super) steps: u64,
    /// At which step the call began that last showed each connection to work.
    pub(super) proved: BTreeMap<u32, u64>,
    /// When the last check of each connection succeeded, since it was opened.
    pub(super) checked: BTreeMap<u32, Time>,
    /// The connection that was opened last, and at which step.
    pub(super) opened: Option<(u32, u64)>,
    /// What was proved before this step must not be lent.
    pub(super) doubted: u64,
    /// Each connection ever opened, and whether it is still open.
    pub(super) conns: BTreeMap<u32, bool>,
    /// Whose use has begun on each connection since it was opened or reset last, and whether that
    /// one has had it.
    pub(super) uses: BTreeMap<u32, (usize, bool)>,
    pub(super) listener: Option<Listener>,
}

impl World {
    pub(super) fn new(setup: &Setup) -> World {
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
            checked: BTreeMap::new(),
            opened: None,
            doubted: 0,
            conns: BTreeMap::new(),
            uses: BTreeMap::new(),
        };
        world.tick();
        world
    }

    pub(super) fn is_task(&self, client: usize) -> bool {
        self.setup.is_task(client)
    }

    pub(super) fn is_granted(&self, client: &Client) -> bool {
        client.wait.as_ref().is_some_and(|wait| self.core.queue.is_granted(wait.id))
    }

    pub(super) fn replay(setup: &Setup, path: &[Action]) -> World {
        let mut world = World::new(setup);
        path.iter().for_each(|&action| world.apply(action));
        world
    }

    pub(super) fn actions(&self) -> Vec<Action> {
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
                if self.setup.leave && self.is_task(index) {
                    actions.extend([Action::Drop(index), Action::Cancel(index)]);
                } else if self.setup.leave {
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
            if self.setup.faults && matches!(job, Job::Connect(_) | Job::Begin(..)) {
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

    pub(super) fn apply(&mut self, action: Action) {
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
    pub(super) fn ended_by_age(&self) -> u64 {
        let by: &[Reason] = match self.core.policy.ends_on_time {
            false => &[Reason::Stale, Reason::Expired, Reason::IdleTooLong],
            true => &[Reason::Stale],
        };
        by.iter().map(|&reason| self.core.counters.closed[reason as usize]).sum()
    }

    pub(super) fn take(&mut self, action: Action) {
        let mut fx = Effects::at(self.now);
        let (now, had_closed_unheld) = (self.now, self.core.has_closed_unheld());
        match action {
            Action::Get(client) => self.get(client, &mut fx),
            Action::GetAtOnce(client) => self.get_at_once(client, &mut fx),
            Action::Claim(client) => {
                let id = self.id_of(client);
                self.clients[client].wait.iter_mut().for_each(|wait| wait.nudged = false);
                if let Some(lease) = self.claim(client, id, &mut fx) {
                    self.served(client, lease);
                }
            }
            Action::Drop(client) => {
                let id = self.id_of(client);
                self.clients[client].wait = None;
                self.core.drop_task(id, &mut fx);
            }
            Action::TimeOut(client) => {
                let id = self.id_of(client);
                assert!(self.core.leave(id, ErrorKind::Timeout, &mut fx));
                self.clients[client].wait = None;
            }
            Action::Cancel(client) => {
                let (id, is_late) = (self.id_of(client), self.is_granted(&self.clients[client]));
                assert_eq!(self.core.leave(id, ErrorKind::Cancelled, &mut fx), !is_late);
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

    pub(super) fn tick(&mut self) {
        let mut fx = Effects::at(self.now);
        let planned = self.core.wake_at;
        let had_closed_unheld = self.core.has_closed_unheld();
        let next = self.core.tick(&mut fx);
        self.see_overruns();
        assert!(next > self.now, "the reaper spins");
        self.check_leaving(had_closed_unheld, &fx);
        let core = &self.core;
        let nothing_is_lent = core.busy_slots().all(|slot| slot.leaking);
        let waits = core.queue.waiting() + core.queue.granted() > 0;
        let rests = nothing_is_lent && core.idle.is_empty() && !waits;
        let calls = !self.jobs.is_empty() || self.clients.iter().any(|c| c.own.is_some());
        if planned <= self.now && rests && !calls && core.outage.is_none() {
            let is_quiet = fx.jobs.is_empty() && next == Time::NEVER;
            assert!(!fx.jobs.is_empty() || is_quiet, "the reaper plans to run for nothing");
        }
        self.carry_out(fx, None);
    }

    pub(super) fn finish(&mut self, job: usize, outcome: Outcome, fx: &mut Effects<Toy>) {
        let begun = self.begun.swap_remove(job);
        let job = self.jobs.swap_remove(job);
        // A client's own check has failed already.
        let is_dead = matches!(&job, Job::Check(lease, _) if self.is_dead(lease));
        match (job, if is_dead { Outcome::Bad } else { outcome }) {
            (Job::Connect(permit), Outcome::Good) => {
                let conn = self.conns.len() as u32;
                self.conns.insert(conn, true);
                self.proved.insert(conn, begun);
                self.opened = Some((conn, self.steps));
                self.core.connect_finished(Leased::new(permit, conn), fx);
            }
            (Job::Connect(permit), outcome) => {
                let permanent = outcome == Outcome::Permanent;
                self.core.connect_failed(permit, 0, permanent, fx);
            }
            (Job::Check(lease, check), Outcome::Good) => {
                if check.reset {
                    self.uses.remove(&lease.conn);
                }
                if check.validate {
                    self.proved.insert(lease.conn, begun);
                    self.checked.insert(lease.conn, self.now);
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
            (Job::Begin(lease, client, ()), outcome) => {
                self.finish_begin(lease, client, outcome, fx)
            }
            (Job::Close(lease, _), _) => {
                self.close_conn(lease.conn);
                self.core.close_finished(lease.permit, fx);
            }
        }
    }

    fn finish_begin(
        &mut self,
        lease: Lease<u32>,
        client: u8,
        outcome: Outcome,
        fx: &mut Effects<Toy>,
    ) {
        let result = match outcome {
            Outcome::Good => Ok(()),
            Outcome::Bad => Err((Reason::Broken, 1)),
            Outcome::Permanent => Err((Reason::UseHandler, 1)),
        };
        if outcome == Outcome::Good {
            self.uses.insert(lease.conn, (usize::from(client), false));
        }
        let is_late = self.core.slots[lease.permit.index()].state != ConnectionState::Checking;
        if outcome == Outcome::Bad && !is_late {
            self.doubted = self.steps;
        }
        self.core.use_begun(lease, result, fx);
    }

    pub(super) fn carry_out(&mut self, fx: Effects<Toy>, at_once: Option<usize>) {
        // It may have joined, and have left already.
        if at_once.is_none() {
            self.check_successors(&fx);
        }
        for (cell, answer) in fx.answers {
            let client = usize::from(cell);
            match answer {
                Answer::Granted(lease) => {
                    self.granted_in_turn(client);
                    self.served(client, lease);
                }
                Answer::Nudged => match &mut self.clients[client].wait {
                    Some(wait) => {
                        wait.nudged = true;
                        if self.core.queue.is_granted(wait.id) {
                            self.granted_in_turn(client);
                        }
                    }
                    // It joined, was nudged for what lay below the top, and has claimed it.
                    None if at_once == Some(client) => {}
                    None => panic!("P4: nudged a client that does not wait"),
                },
                Answer::Failed(..) | Answer::SelfDeadlock(_) => {
                    assert!(self.clients[client].wait.take().is_some(), "P4: it does not wait");
                }
            }
        }
        for job in &fx.jobs {
            if let Job::Begin(lease, client, ()) = job {
                self.in_turn(usize::from(*client));
                let is_over = self.uses.get(&lease.conn).is_none_or(|&(_, was_had)| was_had);
                assert!(is_over, "a use begins, and the last one was not ended");
            }
        }
        self.jobs.extend(fx.jobs);
        self.begun.resize(self.jobs.len(), self.steps);
        self.deliver();
    }

    /// The listener receives the events of a transition.
    pub(super) fn deliver(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        let mut events = self.core.swap_events(Some(buffer())).expect("the journal is open");
        let (steps, lost) = events.take();
        assert_eq!(lost, 0, "there is room for all of a transition's steps");
        steps.for_each(|entry| listener.receive(&entry));
        listener.agrees_with(&self.core);
    }

    pub(super) fn close_conn(&mut self, conn: u32) {
        assert_eq!(self.conns.insert(conn, false), Some(true), "P7: closed twice");
    }

    /// It has proved dead, and that is known.
    pub(super) fn is_dead(&self, lease: &Lease<u32>) -> bool {
        self.core.slots[lease.permit.index()].proof == 0
    }

    pub(super) fn id_of(&self, client: usize) -> WaiterId {
        self.clients[client].wait.as_ref().expect("it waits").id
    }

    pub(super) fn lease_of(&mut self, client: usize) -> Lease<u32> {
        self.clients[client].held.pop().expect("it holds something")
    }
}
