//! Probes a pool's health while callers wait or connecting fails, and reports a change of level.
//! Says whether the pool is ready.

use std::time::Duration;

use super::notifications::Notification;
use super::shared::{PoolJob, Shared};
use crate::core::{Pressure, Time};
use crate::sync::{self, Arc, PlainOrdering as Ordering};
use crate::types::{Chain, Health, HealthLevel, ManageConnection, Readiness};

/// How often the reaper probes while callers wait, and until the pool is healthy again. In an
/// outage without callers it probes until the level can rise no more. A change of level is
/// noticed within this time.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Whoever asks whether a pool is ready makes it find out, but not more often than this.
const PROOF_LASTS: Duration = Duration::from_secs(5);

impl<M: ManageConnection> Shared<M> {
    /// [`Pool::health`](crate::Pool::health).
    pub(crate) fn health(self: &Arc<Self>) -> Health {
        let now = self.clock.now();
        let figures = self.with_core(|core| core.pressure(now));
        self.judge_health(figures, now)
    }

    /// [`Pool::readiness`](crate::Pool::readiness).
    pub(crate) fn readiness(self: &Arc<Self>) -> Readiness {
        if self.process.is_forked() {
            return Readiness::Closed;
        }
        let (prospect, error) = self.transition_here(|core, fx| {
            core.prove(PROOF_LASTS, fx);
            (core.prospect(fx.now), core.last_error())
        });
        let text = error.map(|(_, cause)| {
            let text = Chain(&*cause).to_string();
            // The pool may have dropped its own reference meanwhile.
            self.drop_error(cause);
            text
        });
        Readiness::of(prospect, text)
    }

    /// Judges the figures, and reports a change of level.
    pub(crate) fn judge_health(self: &Arc<Self>, figures: Pressure, now: Time) -> Health {
        if self.process.is_forked() {
            return Health::of(HealthLevel::Healthy, figures, Duration::ZERO);
        }
        let (health, left, added) = {
            let mut probe = self.probe.probe.lock();
            let left = probe.judge(figures, &self.config.health_thresholds, now);
            let health = Health::of(probe.level, figures, now.since(probe.since));
            let change: Vec<_> =
                left.map(|from| Notification::Health { from, health }).into_iter().collect();
            // Under the probe's lock, so in the order of the changes.
            (health, left, self.notifications.add(change, now))
        };
        if added.is_some_and(|added| added.needs_worker) {
            self.submit(PoolJob::Announce);
        }
        if left.is_some() && !health.is_healthy() {
            self.keep_probing();
        }
        health
    }

    /// A caller is about to wait, or a connect has failed: the reaper probes from now on. Costs
    /// one load, and the first waiter a wake-up.
    #[inline]
    pub(crate) fn keep_probing(&self) {
        if sync::THREADS
            && !self.probe.probing.load(Ordering::Relaxed)
            && !self.probe.probing.swap(true, Ordering::AcqRel)
        {
            self.wake_reaper();
        }
    }

    /// The reaper's probe. Returns when to probe next; `None` if the pool is healthy and no
    /// caller waits.
    pub(crate) fn probe_health(self: &Arc<Self>) -> Option<Time> {
        if !self.probe.probing.load(Ordering::Acquire) {
            return None;
        }
        #[cfg(test)]
        self.probe.probes.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now();
        let is_at_rest = || {
            let health = self.health();
            let level_stays = match health.out_for {
                None => health.is_healthy(),
                Some(_) => health.level == HealthLevel::Critical,
            };
            health.waiting == 0 && level_stays
        };
        if is_at_rest() {
            // A caller that begins to wait from here on wakes the reaper again, and so do a level
            // that rises, a connect that fails, and the end of an outage. The second probe sees
            // what came just before.
            self.probe.probing.store(false, Ordering::Release);
            if is_at_rest() {
                return None;
            }
            self.probe.probing.store(true, Ordering::Release);
        }
        Some(now.after(PROBE_EVERY))
    }
}
