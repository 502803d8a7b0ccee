//! The probe: how a pool is, by how many wait and for how long.

use std::fmt;
use std::time::Duration;

use crate::core::{Pressure, Time};
use crate::types::manage::ManageConnection;
use crate::runtime::notices::Told;
use crate::runtime::shared::Shared;
use crate::sync::{self, Arc, PlainBool, PlainMutex, PlainOrdering as Ordering};
use crate::runtime::workers::Task;

/// How often the resident thread looks while callers wait, and until the pool is
/// healthy again: a level is known within this time.
pub(crate) const PROBE_EVERY: Duration = Duration::from_millis(100);

/// A level is left when the figures have been below this part of its thresholds …
const CALM: f64 = 0.8;

/// How a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HealthLevel {
    /// Few wait, and not for long.
    #[default]
    Healthy,
    /// Callers notice.
    Warning,
    /// Callers suffer.
    Critical,
}

impl fmt::Display for HealthLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HealthLevel::Healthy => "healthy",
            HealthLevel::Warning => "warning",
            HealthLevel::Critical => "critical",
        })
    }
}

/// From when on a pool is no longer healthy: either figure is enough.
///
/// A level is entered as soon as a figure reaches its threshold, and left when for
/// `calm_for` no figure was at four fifths of it or more. Times are serialised as
/// seconds.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool::health::HealthThresholds;
///
/// let thresholds = HealthThresholds { waiters_critical: 50, ..HealthThresholds::default() };
/// let pool = fairpool::Pool::builder().health_thresholds(thresholds).build(StubManager)?;
/// assert!(pool.health().is_healthy());
///
/// let confused = HealthThresholds { waiters_critical: 1, ..HealthThresholds::default() };
/// let error = fairpool::Pool::builder().health_thresholds(confused).build(StubManager).unwrap_err();
/// assert!(error.to_string().contains("waiters_critical (1) must be larger than waiters_warning (5)"));
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct HealthThresholds {
    /// So many callers wait: warning. Default: 5.
    pub waiters_warning: u32,
    /// So many callers wait: critical. Default: 15.
    pub waiters_critical: u32,
    /// Those who wait have waited so long on average: warning. Default: 100 ms.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub wait_warning: Duration,
    /// Those who wait have waited so long on average: critical. Default: 500 ms.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub wait_critical: Duration,
    /// How long it must have been calm before a level is left. Default: 1 s, so that
    /// a pool at a threshold does not report twenty changes a second.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub calm_for: Duration,
}

impl Default for HealthThresholds {
    fn default() -> HealthThresholds {
        HealthThresholds {
            waiters_warning: 5,
            waiters_critical: 15,
            wait_warning: Duration::from_millis(100),
            wait_critical: Duration::from_millis(500),
            calm_for: Duration::from_secs(1),
        }
    }
}

impl HealthThresholds {
    pub(crate) fn check(&self) -> Result<(), String> {
        let HealthThresholds {
            waiters_warning, waiters_critical, wait_warning, wait_critical, ..
        } = *self;
        if waiters_warning == 0 {
            return Err("health_thresholds: waiters_warning must be at least 1, but is 0".into());
        }
        if wait_warning.is_zero() {
            return Err("health_thresholds: wait_warning must be positive, but is 0ns".into());
        }
        if waiters_critical <= waiters_warning {
            return Err(format!(
                "health_thresholds: waiters_critical ({waiters_critical}) must be larger than \
                 waiters_warning ({waiters_warning})"
            ));
        }
        if wait_critical <= wait_warning {
            return Err(format!(
                "health_thresholds: wait_critical ({wait_critical:?}) must be longer than \
                 wait_warning ({wait_warning:?})"
            ));
        }
        Ok(())
    }

    /// The level of these figures, with thresholds at this part of theirs.
    fn level(&self, figures: Pressure, part: f64) -> HealthLevel {
        // Not as a `Duration`: a part of the longest one may be out of its range.
        let reached = |waiters: u32, wait: Duration| {
            f64::from(figures.waiting) >= f64::from(waiters) * part
                || figures.waiting > 0
                    && figures.mean_age.as_secs_f64() >= wait.as_secs_f64() * part
        };
        if reached(self.waiters_critical, self.wait_critical) {
            HealthLevel::Critical
        } else if reached(self.waiters_warning, self.wait_warning) {
            HealthLevel::Warning
        } else {
            HealthLevel::Healthy
        }
    }
}

/// How a pool is, with the figures that say so. From
/// [`Pool::health`](crate::Pool::health).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Health {
    /// How it is. It may lag behind the figures: a level is left with hysteresis.
    pub level: HealthLevel,
    /// How many callers wait.
    pub waiting: u32,
    /// How long those have waited on average. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub mean_wait: Duration,
    /// How long the one has waited who has waited longest. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub oldest_wait: Duration,
    /// For how long it has been at this level. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub lasted: Duration,
}

impl Health {
    /// Whether it is at [`HealthLevel::Healthy`].
    pub fn is_healthy(&self) -> bool {
        self.level == HealthLevel::Healthy
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} waiting", self.level, self.waiting)?;
        if self.waiting > 0 {
            let (mean, oldest) = (self.mean_wait, self.oldest_wait);
            write!(f, ", for {mean:.1?} on average and {oldest:.1?} at most")?;
        }
        Ok(())
    }
}

/// What the probe remembers between two looks.
#[derive(Clone, Copy, Debug)]
struct Probe {
    level: HealthLevel,
    since: Time,
    /// When a figure last was so high that the level is kept.
    tense_at: Time,
}

impl Probe {
    /// Returns the level that was left, if one was.
    fn judge(
        &mut self,
        figures: Pressure,
        thresholds: &HealthThresholds,
        now: Time,
    ) -> Option<HealthLevel> {
        let raised = thresholds.level(figures, 1.0);
        let kept = thresholds.level(figures, CALM).min(self.level);
        if kept == self.level {
            self.tense_at = now;
        }
        let calm = now.since(self.tense_at) >= thresholds.calm_for;
        let level = if calm { raised.max(kept) } else { raised.max(self.level) };
        let left = std::mem::replace(&mut self.level, level);
        (left != level).then(|| {
            self.since = now;
            self.tense_at = now;
            left
        })
    }
}

pub(crate) struct HealthProbe {
    probe: PlainMutex<Probe>,
    /// The resident thread looks from time to time.
    probing: PlainBool,
}

impl HealthProbe {
    pub(crate) fn new() -> HealthProbe {
        let probe =
            Probe { level: HealthLevel::Healthy, since: Time::START, tense_at: Time::START };
        HealthProbe { probe: PlainMutex::new(probe), probing: PlainBool::new(false) }
    }
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn health(self: &Arc<Self>) -> Health {
        let now = self.clock.now();
        let figures = self.quick(|core| core.pressure(now));
        self.judge_health(figures, now)
    }

    /// Judges the figures; a change of level is told to whoever wants to know.
    pub(crate) fn judge_health(self: &Arc<Self>, figures: Pressure, now: Time) -> Health {
        let thresholds = &self.config.health_thresholds;
        let (health, left, tell) = {
            let mut probe = self.watcher.probe.lock();
            let left = probe.judge(figures, thresholds, now);
            let health = Health {
                level: probe.level,
                waiting: figures.waiting,
                mean_wait: figures.mean_age,
                oldest_wait: figures.oldest_age,
                lasted: now.since(probe.since),
            };
            // In the order of the changes: under the probe's lock.
            let tell = left
                .is_some_and(|from| self.notices.add_one(Told::Health { from, health }, now).tell);
            (health, left, tell)
        };
        if tell {
            self.workers.submit(self, Task::Tell);
        }
        if left.is_some() && !health.is_healthy() {
            self.keep_probing();
        }
        health
    }

    /// A caller is about to wait: from now on the resident thread looks now and
    /// then. It costs a caller that sleeps one load, and the first of them a wake-up.
    #[inline]
    pub(crate) fn keep_probing(&self) {
        if sync::THREADS
            && !self.watcher.probing.load(Ordering::Relaxed)
            && !self.watcher.probing.swap(true, Ordering::AcqRel)
        {
            self.reaper.wake();
        }
    }

    /// The resident thread's look. When to look again; `None` if nothing is wrong
    /// and nobody waits.
    pub(crate) fn probe(self: &Arc<Self>) -> Option<Time> {
        if !self.watcher.probing.load(Ordering::Acquire) {
            return None;
        }
        let now = self.clock.now();
        let is_at_rest = || {
            let health = self.health();
            health.waiting == 0 && health.is_healthy()
        };
        if is_at_rest() {
            // Whoever begins to wait from here on, or finds that the level has risen,
            // rings again; who did so just before, the second look sees.
            self.watcher.probing.store(false, Ordering::Release);
            if is_at_rest() {
                return None;
            }
            self.watcher.probing.store(true, Ordering::Release);
        }
        Some(now.after(PROBE_EVERY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn figures(waiting: u32, mean: u64) -> Pressure {
        let age = Duration::from_millis(mean);
        Pressure { waiting, mean_age: age, oldest_age: age }
    }

    fn levels(looks: &[(u64, u32, u64)]) -> Vec<HealthLevel> {
        let thresholds = HealthThresholds::default();
        let mut probe =
            Probe { level: HealthLevel::Healthy, since: Time::START, tense_at: Time::START };
        let judge = |&(at, waiting, mean): &(u64, u32, u64)| {
            probe.judge(figures(waiting, mean), &thresholds, Time(at * MS));
            probe.level
        };
        looks.iter().map(judge).collect()
    }

    #[test]
    fn either_figure_raises_the_level_at_once() {
        use HealthLevel::*;
        assert_eq!(levels(&[(0, 4, 99), (1, 5, 0), (2, 15, 0)]), [Healthy, Warning, Critical]);
        assert_eq!(levels(&[(0, 1, 100), (1, 1, 500)]), [Warning, Critical]);
        assert_eq!(levels(&[(0, 1, 499), (1, 14, 499)]), [Warning, Warning]);
    }

    #[test]
    fn a_level_is_left_after_a_calm_second_and_step_by_step() {
        use HealthLevel::*;
        let looks = [
            (0, 20, 0),
            (100, 14, 0),  // above four fifths of 15: tense
            (900, 11, 0),  // calm for 800 ms
            (1050, 12, 0), // tense again
            (1900, 11, 0),
            (2050, 11, 0), // calm for a second: a warning still
            (2900, 0, 0),
            (3050, 0, 0),
        ];
        let expected =
            [Critical, Critical, Critical, Critical, Critical, Warning, Warning, Healthy];
        assert_eq!(levels(&looks), expected);
    }

    #[test]
    fn a_pool_at_a_threshold_does_not_flap() {
        let looks: Vec<_> = (0..100).map(|i| (i * 100, 4 + (i % 2) as u32, 0)).collect();
        let levels = levels(&looks);
        let changes = levels.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes, 1, "{levels:?}");
    }
}
