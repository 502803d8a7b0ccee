//! How many connects start, when, and how long each is counted on.
//!
//! As many as are missing start at once, up to `max_opening`. After a failure, or a connect
//! that takes unusually long, one starts; each success allows one more, so that there are
//! 1, 2, 4 … at a time. A server that has just come back is not run over by all its clients.
//!
//! A waiter counts on a connect for a while: the *patience*, three times what connects have
//! usually taken. Then another is started for it. And waiters that have no connect at all do not
//! wait for long for those of others, which may hang (`held_up_until`).

use std::time::Duration;

use super::state::{Pace, Succession};
use super::{CallKind, Core, Effects, Job, Policy, PoolTypes, Time};

/// A connect is usual if it takes at most this many times what most have taken.
const USUAL: u32 = 3;

/// If each waiter has a late connect already, another one is tried this often. So a waiter loses
/// less than a second to each further one that hangs.
const HEDGE_EVERY: Duration = Duration::from_millis(900);

impl Pace {
    /// A connect has failed, or takes unusually long.
    pub(super) fn slow_down(&mut self) {
        self.at_once = 1;
    }

    /// A connect has succeeded. The patience moves towards what fits this one, by a factor of
    /// two at most. So it settles where half of the connects would have it longer and half
    /// shorter, one that hung for once changes little, and three teach that a server has
    /// become slow. (Frugal streaming: Ma, Muthukrishnan and Sandler, 2013.)
    fn learn(&mut self, took: Duration, policy: &Policy) {
        self.at_once = self.at_once.saturating_add(1).min(policy.max_opening);
        let fits = took.saturating_mul(USUAL).clamp(policy.patience_min, policy.patience_max);
        self.patience = Some(match self.patience {
            None => fits,
            Some(patience) => fits.clamp(patience / 2, patience.saturating_mul(2)),
        });
    }
}

impl<T: PoolTypes> Core<T> {
    /// Starts the missing connects, as many as may start now, and plans for the others.
    pub(super) fn open_as_needed(&mut self, fx: &mut Effects<T>) {
        let missing = self.missing();
        if missing == 0 {
            return;
        }
        let start = missing.min(self.may_start(fx.now));
        let only_succeeds = self.needed() == 0 && self.wants_successor();
        if start > 0 && only_succeeds && self.succession == Succession::None {
            self.succession = Succession::Opening;
        }
        for _ in 0..start {
            self.open_one(fx);
        }
        self.wake_reaper_at(self.next_start(fx.now), fx);
    }

    pub(super) fn open_one(&mut self, fx: &mut Effects<T>) {
        let patience_ends = fx.now.after(self.patience());
        let permit = self.occupy(fx.now);
        self.slot(&permit).patience_ends = patience_ends;
        self.pace.moved_at = fx.now;
        self.schedule_deadline(&permit, fx);
        fx.jobs.push(Job::Connect(permit));
    }

    /// How many connections should be opened, if there is room for them.
    pub(super) fn missing(&self) -> u32 {
        let room = self.policy.max_size.saturating_sub(self.occupied());
        if room == 0 || self.closed {
            return 0;
        }
        let attempts = u32::from(self.tries_by_itself()).saturating_sub(self.opening_soon());
        self.needed().max(attempts).max(u32::from(self.wants_successor())).min(room)
    }

    /// Those that waiters and `min_idle` need: not those that only end an outage, or only take
    /// the place of an old connection.
    fn needed(&self) -> u32 {
        // A connection for which nobody waits can wait for a slow call too.
        let kept = self.waiting_to_open().saturating_add(self.policy.min_idle_now());
        let later = self.idle_len() + self.opening + self.checking;
        self.unserved().max(kept.saturating_sub(later))
    }

    fn waiting_to_open(&self) -> u32 {
        self.queue.len() - self.only_idle
    }

    /// How many waiters have no connection on its way.
    pub(super) fn unserved(&self) -> u32 {
        let soon = self.idle_len() + self.opening_soon() + self.checking_soon();
        self.waiting_to_open().saturating_sub(soon)
    }

    /// How many connects may start now.
    fn may_start(&self, now: Time) -> u32 {
        let most = self.policy.max_opening;
        let free = self.pace.at_once.saturating_sub(self.opening_soon());
        match &self.outage {
            Some(outage) if now < outage.retry_at => 0,
            _ if now < self.held_up_until() => free,
            // A pool that has slowed down begins with one. It takes as many again, up to twice
            // `max_opening`; then one more each time.
            _ if self.is_slowed_down() => {
                let room = most.saturating_mul(2).saturating_sub(self.opening);
                free.max(self.opening.min(room)).max(1)
            }
            _ => free.max(1),
        }
    }

    /// A connect has failed or is late, and not enough have succeeded since.
    fn is_slowed_down(&self) -> bool {
        self.pace.at_once < self.policy.max_opening
    }

    /// When the next missing connect may start, if that is only a matter of time.
    pub(super) fn next_start(&self, now: Time) -> Time {
        match &self.outage {
            _ if self.missing() == 0 => Time::NEVER,
            Some(outage) if now < outage.retry_at => outage.retry_at,
            _ => self.held_up_until(),
        }
    }

    /// Until when waiters without a connect wait for the connects under way, of which there are
    /// as many as may be. Those may hang: if none begins or ends until this time, others start.
    /// `NEVER` if there are no such waiters. A pool that has slowed down waits for as long as a
    /// connect is counted on: a server that is known to be slow gets no more connects because
    /// it is slow.
    pub(super) fn held_up_until(&self) -> Time {
        if self.opening == 0 || self.unserved() == 0 {
            return Time::NEVER;
        }
        let usual = self.pace.patience.filter(|_| self.is_slowed_down());
        self.pace.moved_at.after(usual.unwrap_or(self.policy.patience_min))
    }

    /// How long a connect that starts now is counted on.
    fn patience(&self) -> Duration {
        let (usual, longest) = (self.pace.patience, self.policy.patience_max);
        let late = self.past_patience.connects;
        if late == 0 {
            return usual.unwrap_or(longest);
        }
        let hedge = HEDGE_EVERY.clamp(self.policy.patience_min, longest);
        let usual = usual.unwrap_or(hedge);
        // If each waiter has a late one, this one comes on top: many more would make a server
        // slower that is only slow.
        if late < self.waiting_to_open() { usual } else { usual.max(hedge) }
    }

    /// A connect has succeeded that began then.
    pub(super) fn learn_from_connect(&mut self, begun: Time, fx: &mut Effects<T>) {
        let is_first = self.pace.patience.is_none();
        self.pace.learn(fx.now.since(begun), &self.policy);
        if is_first && self.opening > 0 {
            self.shorten_patience(fx);
        }
    }

    /// The first success tells what is usual, also for the others under way.
    fn shorten_patience(&mut self, fx: &mut Effects<T>) {
        let Some(patience) = self.pace.patience else { return };
        for slot in self.slots.iter_mut().filter(|slot| slot.call() == Some(CallKind::Connect)) {
            slot.patience_ends = slot.patience_ends.min(slot.since.after(patience));
        }
        self.wake_reaper_at(fx.now, fx);
    }
}
