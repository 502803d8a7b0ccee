//! What a look at a pool brings.

use std::time::Duration;

use crate::health::Health;
use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::stats::Stats;
use crate::sync::Arc;
use crate::times::Distributions;

/// A pool's figures at one instant. What was timed since may be in the distributions
/// already.
pub(crate) struct Reading {
    /// But for its times.
    pub(crate) stats: Stats,
    pub(crate) health: Health,
    pub(crate) leaked: u32,
    pub(crate) failing_for: Option<Duration>,
    pub(crate) min_idle: u32,
    pub(crate) max_idle: u32,
    pub(crate) times: Distributions,
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn reading(self: &Arc<Self>) -> Reading {
        let now = self.clock.now();
        let (figures, min_idle, max_idle) = self.quick(|core| {
            let policy = core.policy();
            (core.figures(now), policy.min_idle_now(), policy.max_idle_now())
        });
        let mut stats = Stats::new(&figures.gauges, &figures.counters);
        stats.events_lost = self.subscribers.lost();
        Reading {
            stats,
            health: self.judge_health(figures.pressure, now),
            leaked: figures.leaked,
            failing_for: figures.failing_for,
            min_idle,
            max_idle,
            times: self.times.all(&figures.counters),
        }
    }
}
