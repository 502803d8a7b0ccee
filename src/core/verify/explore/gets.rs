//! How a client gets a connection, or comes to wait for one.

use super::super::toy::Toy;
use super::world::{Outcome, OwnCheck, Wait, World};
use crate::core::*;

impl World {
    /// A get that has time: it may make a check itself first.
    pub(super) fn get(&mut self, client: usize, fx: &mut Effects<Toy>) {
        let (since, get_id) = (self.now, self.core.next_get_id());
        if self.take_now(client, fx) || self.takes_to_check(client, since, get_id, fx) {
            return;
        }
        self.join(client, since, get_id, fx);
    }

    pub(super) fn takes_to_check(
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
        if !self.core.may_check(self.now, priority) {
            return false;
        }
        let lease = self.core.take_to_check(fx);
        self.assert_may_overtake(priority);
        self.clients[client].own = Some(OwnCheck { lease, since, get_id, begun: self.steps });
        true
    }

    pub(super) fn finish_own(
        &mut self,
        client: usize,
        end: Option<Outcome>,
        fx: &mut Effects<Toy>,
    ) {
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
    pub(super) fn take_now(&mut self, client: usize, fx: &mut Effects<Toy>) -> bool {
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
    pub(super) fn join(
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
    pub(super) fn get_at_once(&mut self, client: usize, fx: &mut Effects<Toy>) {
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
}
