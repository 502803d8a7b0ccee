//! When two worlds are the same.

use std::fmt::Write;

use super::super::toy::Toy;
use super::world::{Action, Client, Wait, World};
use crate::core::slot::Slot;
use crate::core::*;

impl World {
    /// Worlds with the same key are equal but for the absolute time, the numbers of slots and
    /// connections, and the counters.
    pub(super) fn key(&self) -> String {
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
            let by_check = self.core.fresh_by_check;
            let fit_until = slot.fit_until(self.core.fresh_nanos, by_check);
            let is_due = slot.state == ConnectionState::Idle && self.now >= fit_until;
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
            ) + &slot.checked_at.filter(|_| by_check).map_or(String::new(), age)
        };
        let place = |get_id: u64| {
            let waits = self.clients.iter().filter_map(|c| Some(c.wait.as_ref()?.id.get_id()));
            let checks = self.clients.iter().filter_map(|c| Some(c.own.as_ref()?.arrival.get_id));
            waits.chain(checks).filter(|&other| other < get_id).count()
        };
        let wait = |wait: &Wait| {
            let place = place(wait.id.get_id());
            let first = self.core.nudged == Some(wait.id);
            let lease = self.core.queue.granted_lease(wait.id).map(|lease| {
                let since = self.core.slots[lease.permit.index()].since;
                format!("{}{}", slot(&lease.permit), age(since))
            });
            let begins = |slot: &&Slot<Toy>| slot.begins_for == Some(wait.id);
            let prepared = self.core.slots.iter().position(|slot| begins(&slot));
            let prepared = prepared.map(|index| slot(&Permit(index as u32)));
            let is_cancelled = self.core.queue.is_cancelled(wait.id);
            let aside = (
                lease,
                self.core.queue.is_in_line(wait.id),
                age(wait.deadline),
                is_cancelled,
                prepared,
            );
            format!("w{},{place},{},{first}{aside:?}", age(wait.since), wait.nudged)
        };
        let client = |(client, priority): (&Client, &u8)| {
            let held: Vec<String> = client.held.iter().map(|lease| slot(&lease.permit)).collect();
            let own = client.own.as_ref();
            let own = own.map(|own| {
                format!(
                    "o{},{},{}",
                    age(own.arrival.since),
                    place(own.arrival.get_id),
                    slot(&own.lease.permit)
                )
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
                Job::Begin(lease, ..) => {
                    let id = self.core.slots[lease.permit.index()].begins_for;
                    let waits = id.is_some_and(|id| self.core.queue.is_prepared(id));
                    format!("b{waits}{}", slot(&lease.permit))
                }
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
                (self.core.held_up_until() != Time::NEVER).then(|| age(self.core.pace.moved_at)),
            ),
            // When the reaper runs next: a plan that is too late must show.
            age(self.core.wake_at),
            (self.core.lends_are_planned, self.core.returns_are_planned),
            self.core.deadlocked.map(age),
        );
        key
    }
}
