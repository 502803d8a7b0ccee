//! Probes a pool's health while callers wait, and reports a change of level.

use std::time::Duration;

use super::notifications::Notification;
use super::shared::{Shared, Task};
use crate::core::{Pressure, Time};
use crate::sync::{self, Arc, PlainOrdering as Ordering};
use crate::types::{Health, HealthLevel, ManageConnection};

/// How often the reaper probes while callers wait, and until the pool is healthy again. A
/// change of level is noticed within this time.
const PROBE_EVERY: Duration = Duration::from_millis(100);

impl<M: ManageConnection> Shared<M> {
    /// [`Pool::health`](crate::Pool::health).
    pub(crate) fn health(self: &Arc<Self>) -> Health {
        let now = self.clock.now();
        let figures = self.with_core(|core| core.pressure(now));
        self.judge_health(figures, now)
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
            self.submit(Task::Announce);
        }
        if left.is_some() && !health.is_healthy() {
            self.keep_probing();
        }
        health
    }

    /// A caller is about to wait: the reaper probes from now on. Costs one load, and the
    /// first waiter a wake-up.
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
            health.waiting == 0 && health.is_healthy()
        };
        if is_at_rest() {
            // A caller that begins to wait from here on wakes the reaper again, and so does a
            // level that rises. The second probe sees what came just before.
            self.probe.probing.store(false, Ordering::Release);
            if is_at_rest() {
                return None;
            }
            self.probe.probing.store(true, Ordering::Release);
        }
        Some(now.after(PROBE_EVERY))
    }
}
