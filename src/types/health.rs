//! How a pool is, by how many callers wait and for how long.

use std::fmt;
use std::time::Duration;

use crate::core::Pressure;

/// How a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
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
/// let mut thresholds = HealthThresholds::default();
/// thresholds.waiters_critical = 50;
/// let pool = fairpool::Pool::builder().health_thresholds(thresholds).build(StubManager)?;
/// assert!(pool.health().is_healthy());
///
/// thresholds.waiters_critical = 1;
/// let error = fairpool::Pool::builder().health_thresholds(thresholds).build(StubManager).unwrap_err();
/// assert!(error.to_string().contains("waiters_critical (1) must be larger than waiters_warning (5)"));
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
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
    pub(crate) fn level(&self, figures: Pressure, part: f64) -> HealthLevel {
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
