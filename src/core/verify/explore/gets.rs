//! How a client gets a connection, or comes to wait for one.

use super::super::toy::Toy;
use super::setups::{TASK_TIMEOUT, nanos};
use super::world::{Outcome, OwnCheck, Wait, World};
use crate::core::*;

impl World {
    /// A get that has time: it may make a check itself first.
    pub(super) fn get(&mut self, client: usize, fx: &mut Effects<Toy>) {
        if !self.take_fast(client) {
            let arrival = self.core.arrive(self.now);
            self.enqueue(client, arrival, fx);
        }
    }

    /// For the first time, or after a check of its own.
    fn enqueue(&mut self, client: usize, arrival: Arrival, fx: &mut Effects<Toy>) {
        if !self.acquire(client, arrival, fx) && !self.takes_to_check(client, arrival, fx) {
            self.join(client, arrival, false, fx);
        }
    }

    fn takes_to_check(&mut self, client: usize, arrival: Arrival, fx: &mut Effects<Toy>) -> bool {
        let priority = self.setup.priorities[client];
        if self.is_task(client)
            || !self.setup.checks_itself
            || !self.core.may_check(arrival, priority, self.now)
        {
            return false;
        }
        let lease = self.core.take_to_check(fx);
        self.assert_may_overtake(arrival.get_id, priority);
        self.clients[client].own = Some(OwnCheck { lease, arrival, begun: self.steps });
        true
    }

    pub(super) fn finish_own(
        &mut self,
        client: usize,
        end: Option<Outcome>,
        fx: &mut Effects<Toy>,
    ) {
        let own = self.clients[client].own.take().expect("it checks");
        let OwnCheck { lease, arrival, begun } = own;
        let (conn, priority, caller) = (lease.conn, self.setup.priorities[client], client as u8);
        if end == Some(Outcome::Good) {
            self.proved.insert(conn, begun);
            self.checked.insert(conn, self.now);
            if let Some(lease) = self.core.take_checked(lease, arrival, priority, &caller, fx) {
                self.assert_may_overtake(arrival.get_id, priority);
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
        self.enqueue(client, arrival, fx);
    }

    /// The fast paths. Returns whether the client got a connection.
    fn take_fast(&mut self, client: usize) -> bool {
        let (now, caller) = (self.now, client as u8);
        let noted = self.setup.subscribed.then(|| self.core.acquire_noted(now, &caller));
        let fast = noted.flatten().or_else(|| self.core.acquire_fast(now, &caller));
        let fast = fast.or_else(|| self.core.overtake(now, &caller));
        fast.is_some_and(|lease| self.got(client, u64::MAX, lease))
    }

    fn acquire(&mut self, client: usize, arrival: Arrival, fx: &mut Effects<Toy>) -> bool {
        let priority = self.setup.priorities[client];
        let lease = self.core.acquire(arrival, priority, &(client as u8), fx);
        lease.is_some_and(|lease| self.got(client, arrival.get_id, lease))
    }

    fn got(&mut self, client: usize, get_id: u64, lease: Lease<u32>) -> bool {
        assert!(!self.setup.policy.begins_uses, "taken without the use handler");
        self.assert_may_overtake(get_id, self.setup.priorities[client]);
        self.assert_proved(lease.conn);
        self.clients[client].held.push(lease);
        true
    }

    /// Returns the wait if the client joined the queue.
    fn join(
        &mut self,
        client: usize,
        arrival: Arrival,
        at_once: bool,
        fx: &mut Effects<Toy>,
    ) -> Option<WaiterId> {
        let (now, priority) = (self.now, self.setup.priorities[client]);
        let Arrival { get_id, since } = arrival;
        let cell = client as u8;
        let patience = nanos(if at_once { 0 } else { TASK_TIMEOUT });
        let deadline = self.is_task(client).then(|| now.after(patience));
        let waiter = Waiter {
            get_id,
            since,
            priority,
            caller: cell,
            cell,
            only_idle: self.setup.only_idle(client),
            nested: !self.is_task(client) && !self.clients[client].held.is_empty(),
            task: deadline,
            context: (),
        };
        if waiter.only_idle && !self.core.may_await_check(arrival, priority, now) {
            return None;
        }
        let joined = self.core.join(waiter, fx);
        match joined {
            Ok(id) => {
                let deadline = deadline.unwrap_or(Time::NEVER);
                self.clients[client].wait = Some(Wait { id, since, deadline, nudged: false });
            }
            Err(ErrorKind::Closed) => assert!(self.core.closed),
            Err(ErrorKind::Connect) => {
                assert!(self.core.open_count() == 0 && self.core.outage.is_some(), "P3: refused");
            }
            Err(ErrorKind::QueueFull) => {
                let (waiting, policy) = (self.core.queue.unprepared(), &self.setup.policy);
                let most = policy.max_waiters.expect("P8: refused without a limit");
                // Uses that did not begin in time may have brought back others.
                assert!(waiting == most || policy.begins_uses && waiting > most, "P8");
            }
            Err(kind) => panic!("refused with {kind:?}"),
        }
        joined.ok()
    }

    /// Joins, and claims or leaves in the same step.
    pub(super) fn get_at_once(&mut self, client: usize, fx: &mut Effects<Toy>) {
        let arrival = self.core.arrive(self.now);
        if self.take_fast(client) || self.acquire(client, arrival, fx) {
            return;
        }
        if self.core.refuses_without_time(self.now) {
            return self.core.refuse(ErrorKind::Timeout, self.now, client as u8);
        }
        let Some(id) = self.join(client, arrival, true, fx) else { return };
        if let Some(lease) = self.claim(client, id, fx) {
            self.served(client, lease);
        } else if self.core.leave(id, ErrorKind::Timeout, fx) {
            self.clients[client].wait = None;
        }
    }
}
