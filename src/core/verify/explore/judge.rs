//! What must hold in each state and on each step.

use super::super::toy::Toy;
use super::world::{Action, Client, Wait, World};
use crate::core::slot::Slot;
use crate::core::*;

impl World {
    /// Every connection has one owner, and the server sees no more than it may.
    pub(super) fn check(&self, action: Action) {
        let core = &self.core;
        let held = self.clients.iter().map(|client| client.held.len()).sum::<usize>() as u32;
        let granted = self.clients.iter().filter(|client| self.is_granted(client)).count() as u32;
        assert_eq!(held + granted, core.busy, "holders after {action:?}");
        let waiting = self.clients.iter().filter(|client| client.wait.is_some()).count() as u32;
        assert_eq!(waiting - granted, core.queue.waiting(), "P4: waiters after {action:?}");
        self.check_tasks(action);
        let calls = core.opening + core.checking + core.closers + core.abandoned;
        let own = self.clients.iter().filter(|client| client.own.is_some()).count();
        assert_eq!((self.jobs.len() + own) as u32, calls, "driver calls after {action:?}");
        let shrinks = self.setup.owner.iter().any(|a| matches!(a, Action::SetMax(_)));
        assert!(shrinks || core.occupied() <= core.policy.max_size, "P5 after {action:?}");
        let hopeless = core.is_hopeless(self.now);
        assert!(!hopeless || core.queue.waiting() == 0, "P9: a hopeless wait after {action:?}");
        let deadlocked = core.deadlocked.is_some();
        assert_eq!(deadlocked, self.is_deadlocked(), "a deadlock after {action:?}");
        for slot in core.slots.iter().filter(|slot| slot.is_open()) {
            let young = slot.expires > self.now;
            assert!(young || slot.old, "nobody saw a lifetime end after {action:?}");
        }
        let idle = core.idle.iter().map(|lease| &core.slots[lease.permit.index()]);
        let too_long = idle.filter(|slot| slot.idle_until() <= self.now).count();
        let kept = core.policy.kept_idle() as usize;
        assert!(too_long <= kept, "an idle connection outlived its time after {action:?}");
        if core.policy.ends_on_time && core.queue.is_empty() {
            let past = |slot: &Slot<Toy>| slot.old && slot.generation == core.generation;
            let idle = core.slots.iter().filter(|slot| slot.state == ConnectionState::Idle);
            assert_eq!(idle.filter(|slot| past(slot)).count(), 0, "goes on after {action:?}");
        }
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

    /// A validation that overruns its limit has failed, as far as the others are concerned.
    pub(super) fn see_overruns(&mut self) {
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
    pub(super) fn check_leaving(&self, had_closed_unheld: bool, fx: &Effects<Toy>) {
        use ConnectionState::*;
        if self.core.has_closed_unheld() {
            assert!(had_closed_unheld || fx.progress, "P6: nobody wakes the last handle");
            let unheld = |slot: &crate::core::slot::Slot<Toy>| {
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

    /// Connects that nobody needs but to replace old connections come one at a time.
    pub(super) fn check_successors(&self, fx: &Effects<Toy>) {
        let core = &self.core;
        let begun = fx.jobs.iter().filter(|job| matches!(job, Job::Connect(_))).count() as u32;
        let had = core.idle_len() + core.checking + core.opening - begun;
        let kept = had >= core.policy.min_idle_now();
        if begun > 0 && kept && core.queue.is_empty() && !core.tries_by_itself() {
            assert_eq!(core.opening, 1, "P17: a successor beside another connect");
        }
    }

    /// No task waits past its deadline, and none has a connection for long without being polled.
    fn check_tasks(&self, action: Action) {
        for client in &self.clients {
            let Some(wait) = &client.wait else { continue };
            let late = wait.deadline <= self.now && !self.is_granted(client);
            assert!(!late, "P1: a task waits past its deadline after {action:?}");
            let queue = &self.core.queue;
            let is_aside = wait.deadline != Time::NEVER
                && !queue.is_in_line(wait.id)
                && !queue.is_prepared(wait.id);
            assert!(!is_aside || wait.nudged, "P3: nobody wakes an absent task after {action:?}");
        }
        for slot in self.core.busy_slots().filter(|slot| slot.untaken) {
            let until = slot.since.after(self.core.policy.take_up_limit);
            assert!(until > self.now, "P3: not polled, and still granted after {action:?}");
        }
    }

    /// A client claims what is idle, or takes up what it was granted.
    pub(super) fn claim(
        &mut self,
        client: usize,
        id: WaiterId,
        fx: &mut Effects<Toy>,
    ) -> Option<Lease<u32>> {
        let was_granted = self.core.queue.is_granted(id);
        let lease = self.core.claim(id, fx)?;
        if !was_granted {
            self.in_turn(client);
        }
        Some(lease)
    }

    /// A waiter gets a connection.
    pub(super) fn served(&mut self, client: usize, lease: Lease<u32>) {
        let Some(Wait { id, .. }) = self.clients[client].wait.take() else {
            panic!("P4: a connection for a client that does not wait");
        };
        assert_eq!(self.conns.get(&lease.conn), Some(&true), "P7: granted a closed connection");
        self.assert_proved(lease.conn);
        if self.setup.policy.begins_uses {
            let whose = self.uses.insert(lease.conn, (client, true));
            assert_eq!(whose, Some((client, false)), "lent with the use of another");
        }
        // The answer came before the deadline: leaving now must find nothing.
        let mut fx = Effects::at(self.now);
        assert!(!self.core.leave(id, ErrorKind::Timeout, &mut fx), "P4");
        assert!(fx.answers.is_empty() && fx.jobs.is_empty());
        self.clients[client].held.push(lease);
    }

    /// Where uses begin first, the order was judged then.
    pub(super) fn granted_in_turn(&self, client: usize) {
        if !self.setup.policy.begins_uses {
            self.in_turn(client);
        }
    }

    /// A waiter is granted a connection: no waiter of its priority may be older.
    pub(super) fn in_turn(&self, client: usize) {
        let priority = self.setup.priorities[client];
        let Some(Wait { id, since, .. }) = self.clients[client].wait else {
            panic!("P4: a grant for a client that does not wait");
        };
        for (other, waiting) in self.clients.iter().enumerate() {
            let Some(Wait { id: other_id, since: theirs, .. }) = waiting.wait else { continue };
            if other == client || !self.core.queue.is_in_line(other_id) {
                continue; // answered in the same transition, or aside
            }
            let other_priority = self.setup.priorities[other];
            if other_priority == priority {
                assert!(id.get_id() < other_id.get_id(), "P2: served out of order");
            }
            let (own, theirs) = (self.turn(since, priority), self.turn(theirs, other_priority));
            assert!(own <= theirs, "P2: served before its turn");
        }
    }

    pub(super) fn turn(&self, since: Time, priority: u8) -> Time {
        since.after(self.setup.policy.priority_ageing * u32::from(priority))
    }

    /// No waiter of its priority that came before this get has waited for the bound.
    pub(super) fn assert_may_overtake(&self, get_id: u64, priority: u8) {
        let earlier = |(id, waiter): &(WaiterId, &Waiter<Toy>)| {
            waiter.priority == priority && id.get_id() < get_id
        };
        for (_, waiter) in self.core.queue.iter().filter(earlier) {
            let waited = self.now.since(waiter.since);
            assert!(waited < self.setup.policy.fairness_bound, "P2: overtaken past the bound");
        }
    }

    /// Nobody gets a connection that was not proved since another has proved dead.
    pub(super) fn assert_proved(&self, conn: u32) {
        let proved = self.proved[&conn];
        assert!(proved >= self.doubted, "P13: proved at {proved}, in doubt since {}", self.doubted);
        self.assert_checked(conn);
    }

    /// If only checks count, nobody gets a connection that was checked too long ago; or never,
    /// unless it was opened just now, for whoever waits first.
    fn assert_checked(&self, conn: u32) {
        let policy = &self.setup.policy;
        if !policy.fresh_by_check || self.opened == Some((conn, self.steps)) {
            return;
        }
        let checked = self.checked.get(&conn).expect("P13: lent, but never checked");
        let now = self.now.since(*checked).is_zero();
        assert!(now || self.now.since(*checked) < policy.fresh_for, "P13: checked at {checked:?}");
    }

    /// Whether all connections that may exist do, and are held by clients that wait.
    pub(super) fn is_deadlocked(&self) -> bool {
        let held_by = |clients: &mut dyn Iterator<Item = &Client>| {
            clients.map(|client| client.held.len() as u32).sum::<u32>()
        };
        let all = held_by(&mut self.clients.iter());
        let is_thread = |wait: &Wait| wait.deadline == Time::NEVER;
        let waits = |client: &&Client| client.wait.as_ref().is_some_and(is_thread);
        let by_waiters = held_by(&mut self.clients.iter().filter(waits));
        all > 0
            && all == by_waiters
            && all == self.core.occupied()
            && all >= self.core.policy.max_size
    }
}
