//! All figures of a pool at one instant, for exporters of metrics.

use std::time::Duration;

use crate::core::{Counters, Gauges, Prospect};
use crate::runtime::shared::Shared;
use crate::sync::Arc;
use crate::types::{Health, ManageConnection, Stats};
#[cfg(feature = "histograms")]
use crate::types::{Recorder, times::Distributions};

/// All figures of a pool at one instant, for exporters of metrics. It has no lists, unlike
/// a [`Snapshot`](crate::snapshot::Snapshot). From
/// [`Pool::reading`](crate::Pool::reading).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// let pool = fairpool::Pool::builder().max_size(3).build(StubManager)?;
/// let reading = pool.downgrade().reading().expect("the pool is there");
/// assert_eq!((reading.stats.open, reading.max_idle, reading.leaked), (3, 3, 0));
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reading {
    /// Gauges and counters. Its `times` are zero: the field `times` below has them.
    pub stats: Stats,
    /// The pool's health.
    pub health: Health,
    /// Connections that are now held for longer than
    /// [`leak_threshold`](crate::Builder::leak_threshold).
    pub leaked: u32,
    /// For how long connecting has failed; `None` if it does not fail.
    pub failing_for: Option<Duration>,
    /// Whether the pool is [`ready`](crate::Pool::readiness), as far as is known: a reading
    /// makes it find out nothing.
    pub ready: bool,
    /// How many connections the pool keeps idle.
    pub min_idle: u32,
    /// The maximum number of idle connections.
    pub max_idle: u32,
    /// How long waits, uses, connects, checks and closes take. They are read right after
    /// the other figures, so they may include a few later ones. (Feature `histograms`, on
    /// by default.)
    #[cfg(feature = "histograms")]
    pub times: Distributions,
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn stats(&self) -> Stats {
        let (gauges, counters) = self.with_core(|core| (core.gauges(), *core.counters()));
        self.stats_of(&gauges, &counters)
    }

    pub(super) fn stats_of(&self, gauges: &Gauges, counters: &Counters) -> Stats {
        Stats {
            #[cfg(feature = "histograms")]
            times: self.with_times(|times| times.times(counters)),
            ..self.counts_of(gauges, counters)
        }
    }

    /// [`stats_of`](Shared::stats_of) without the times.
    fn counts_of(&self, gauges: &Gauges, counters: &Counters) -> Stats {
        let driver = self.logger.catch_panic("counts", || self.manager.counts());
        Stats {
            events_lost: self.subscribers.lost(),
            driver: driver.unwrap_or_default(),
            ..Stats::new(gauges, counters)
        }
    }

    /// Reads the recorded times. A child has none: their locks may be locked there for ever.
    #[cfg(feature = "histograms")]
    fn with_times<R>(&self, read: impl FnOnce(&Recorder) -> R) -> R {
        if self.process.is_forked() { read(&Recorder::new()) } else { read(&self.times) }
    }
}

/// [`Pool::reading`](crate::Pool::reading).
pub(crate) fn take<M: ManageConnection>(shared: &Arc<Shared<M>>) -> Reading {
    let now = shared.clock.now();
    let (figures, min_idle, max_idle, prospect) = shared.with_core(|core| {
        let policy = core.policy();
        let (min_idle, max_idle) = (policy.min_idle_now(), policy.max_idle_now());
        (core.figures(now), min_idle, max_idle, core.prospect(now))
    });
    Reading {
        stats: shared.counts_of(&figures.gauges, &figures.counters),
        health: shared.judge_health(figures.pressure, now),
        leaked: figures.leaked,
        failing_for: figures.failing_for,
        ready: prospect == Prospect::Ready,
        min_idle,
        max_idle,
        #[cfg(feature = "histograms")]
        times: shared.with_times(|times| times.distributions(&figures.counters)),
    }
}
