//! The pool's reports of one instant are what the reference knows.

use std::time::Duration;

use super::super::toy::Toy;
use super::judge::summary;
use super::reference::{Reference, connection_ref};
use super::walker::Walk;
use crate::core::picture::{Figures, Picture};
use crate::core::*;

impl Walk {
    pub(super) fn compare_picture(&self) {
        let (core, reference, now) = (&self.core, &self.reference, self.now);
        let Picture { figures, paused, closed, .. } = core.picture(now);
        let Figures { gauges, counters, pressure, .. } = figures;
        assert_eq!((gauges, counters), (reference.gauges(), reference.counters));
        assert_eq!((paused, closed), (reference.paused, reference.closed));
        assert_eq!(pressure, reference.pressure());
        assert_eq!(core.pressure(now), pressure);
        self.compare_waiting(core.picture(now).waiting);
        self.compare_waiting(core.waiting(now));
        reference.compare_lists(&core.picture(now));
    }

    /// The waiters, in the order of service.
    fn compare_waiting(&self, mut shown: Vec<Waiting<u8>>) {
        let (reference, now) = (&self.reference, self.now);
        let mut queue: Vec<_> = reference.queue.iter().collect();
        queue.sort_by_key(|w| (reference.turn(w.since, w.priority), w.priority));
        queue.extend(&reference.absent);
        queue.sort_by_key(|w| reference.turn(w.since, w.priority));
        let queue = queue.into_iter().map(|waiting| {
            let id = self.clients[usize::from(waiting.client)].wait.expect("it waits");
            Waiting {
                get_id: id.get_id(),
                caller: waiting.client,
                waited: now.since(waiting.since),
                turn: reference.turn(waiting.since, waiting.priority),
            }
        });
        Waiting::put_in_order(&mut shown);
        assert_eq!(shown, queue.collect::<Vec<_>>(), "those who wait");
    }
}

impl Reference {
    fn pressure(&self) -> Pressure {
        let ages = || self.queue.iter().map(|waiting| self.now.since(waiting.since));
        let sum: Duration = ages().sum();
        let waiting = self.queue.len() as u32;
        let mean = (sum.as_nanos() as u64).div_ceil(u64::from(waiting.max(1)));
        Pressure {
            waiting,
            opening: if self.failing.is_some() { 0 } else { self.opening_in_time() },
            mean_age: Duration::from_nanos(mean),
            oldest_age: ages().max().unwrap_or_default(),
            out_for: self
                .failing
                .as_ref()
                .filter(|_| self.open(0) == 0)
                .map(|failing| self.now.since(failing.began)),
        }
    }

    fn compare_lists(&self, picture: &Picture<Toy>) {
        let now = self.now;
        let mut held: Vec<_> =
            picture.held.iter().map(|h| (h.connection_id, h.caller, h.held_for)).collect();
        let mut holders: Vec<_> = self
            .held
            .iter()
            .map(|h| (Toy::connection_id(&h.conn), h.client, now.since(h.since)))
            .collect();
        held.sort_unstable();
        holders.sort_unstable();
        assert_eq!(held, holders, "who holds what");

        let text = |call: &Call| format!("{call:?}");
        let mut shown: Vec<String> = picture.calls.iter().map(text).collect();
        let mut calls = self.all_calls();
        shown.sort_unstable();
        calls.sort_unstable();
        assert_eq!(shown, calls, "driver calls");

        let error = self.last_error.map(|(at, cause)| (now.since(at), cause));
        assert_eq!(picture.last_error, error, "the last error");
        let failing_for = self.failing.as_ref().map(|failing| now.since(failing.began));
        assert_eq!(picture.figures.failing_for, failing_for, "since when connecting fails");
        let waits = if self.deadlocked.is_some() { self.self_waits() } else { Vec::new() };
        assert_eq!(summary(&picture.nested), waits, "who waits for itself");
    }

    /// The calls under way, and the closes that wait for a closer.
    fn all_calls(&self) -> Vec<String> {
        let text = |kind, connection_id, since, queued, abandoned| {
            let running_for = self.now.since(since);
            format!("{:?}", Call { kind, connection_id, running_for, queued, abandoned })
        };
        let under_way = self.calls.iter().map(|call| {
            let connection_id = connection_ref(call.permit, call.conn).connection_id;
            text(call.kind(), connection_id, call.since, false, call.abandoned)
        });
        let queued = self.retired.iter().map(|&(conn, _)| {
            let since = self.conns[conn as usize].retired_at;
            text(CallKind::Close, Toy::connection_id(&conn), since, true, false)
        });
        under_way.chain(queued).collect()
    }
}
