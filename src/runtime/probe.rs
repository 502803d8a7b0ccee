//! The health probe's memory: levels with hysteresis.

use crate::core::{Pressure, Time};
use crate::sync::{PlainBool, PlainMutex};
use crate::types::{HealthLevel, HealthThresholds};

/// A level is left when the figures have been below this part of its thresholds for
/// `calm_for`.
const CALM: f64 = 0.8;

/// The level, between two probes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probe {
    pub(super) level: HealthLevel,
    pub(super) since: Time,
    /// When a figure was last high enough to keep the level.
    tense_at: Time,
}

impl Probe {
    /// Judges the figures. Returns the level that was left, if it changed.
    pub(super) fn judge(
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

#[derive(Default)]
pub(crate) struct HealthProbe {
    pub(super) probe: PlainMutex<Probe>,
    /// The reaper probes from time to time.
    pub(super) probing: PlainBool,
    /// How often it has probed.
    #[cfg(test)]
    pub(super) probes: crate::sync::PlainU64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000_000;

    fn figures(waiting: u32, mean: u64) -> Pressure {
        let age = Duration::from_millis(mean);
        Pressure { waiting, opening: 0, mean_age: age, oldest_age: age }
    }

    fn levels(looks: &[(u64, u32, u64)]) -> Vec<HealthLevel> {
        let thresholds = HealthThresholds::default();
        let mut probe = Probe::default();
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
    #[test]
    fn waiters_whose_connects_are_under_way_are_no_alarm() {
        let level = |waiting, opening| {
            let figures = Pressure { opening, ..figures(waiting, 600) };
            HealthThresholds::default().level(figures, 1.0)
        };
        assert_eq!(level(4, 4), HealthLevel::Healthy);
        assert_eq!(level(4, 3), HealthLevel::Critical, "one waits for something else");
        assert_eq!(level(2, 4), HealthLevel::Healthy);
    }
}
