//! A pool's health, by how many callers wait and for how long; and whether it is ready.

use std::fmt;
use std::time::Duration;

use crate::core::{Pressure, Prospect};

/// A level of a pool's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HealthLevel {
    /// Few callers wait, and not for long.
    #[default]
    Healthy,
    /// At least one figure has reached its warning threshold.
    Warning,
    /// At least one figure has reached its critical threshold.
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

/// The thresholds of a pool's health. For
/// [`Builder::health_thresholds`](crate::Builder::health_thresholds).
///
/// A level is entered as soon as one figure reaches the level's threshold. It is left when
/// all figures have been below four fifths of the level's thresholds for `calm_for`.
///
/// A waiter for whom a connection is being opened does not count, as long as that takes no
/// longer than usual and connecting has not failed: a first get of half a second on a server
/// far away is no alarm. If all waiters are such, their waits do not count either; else the
/// average is that of all of them.
///
/// The time for which no connection is open and connecting fails counts as a wait, whether a
/// caller waits or not.
///
/// Times are serialised as seconds.
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
    /// With this many waiters or more, the health is a warning. Default: 5.
    pub waiters_warning: u32,
    /// With this many waiters or more, the health is critical. Default: 15.
    pub waiters_critical: u32,
    /// If the waiters have waited this long on average, the health is a warning. Default:
    /// 100 ms, which users of an interactive service notice.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub wait_warning: Duration,
    /// If the waiters have waited this long on average, the health is critical. Default:
    /// 500 ms.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub wait_critical: Duration,
    /// How long all figures must have been lower before a level is left. Default: 1 s, so
    /// that a pool at a threshold does not report many changes per second.
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

    /// The level of these figures, with each threshold multiplied by `part`.
    pub(crate) fn level(&self, figures: Pressure, part: f64) -> HealthLevel {
        // Not with `Duration::mul_f64`, which can panic for very long times.
        let without_connect = figures.waiting.saturating_sub(figures.opening);
        let reached = |waiters: u32, wait: Duration| {
            let long = |age: Duration| age.as_secs_f64() >= wait.as_secs_f64() * part;
            f64::from(without_connect) >= f64::from(waiters) * part
                || without_connect > 0 && long(figures.mean_age)
                || figures.out_for.is_some_and(long)
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

/// A pool's health, with the figures that it is judged by. From
/// [`Pool::health`](crate::Pool::health).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Health {
    /// The level. It may be worse than the figures, because a level is left only after
    /// [`calm_for`](HealthThresholds::calm_for).
    pub level: HealthLevel,
    /// How many callers wait, without tasks that were granted a connection and not polled in time:
    /// not the pool keeps them waiting. (They are in [`Stats::waiting`](crate::stats::Stats::waiting) and
    /// in snapshots.)
    pub waiting: u32,
    /// How long these callers have waited on average. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub mean_wait: Duration,
    /// How long the caller that came first has waited. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub oldest_wait: Duration,
    /// For how long connecting has failed while no connection is open, whether callers wait
    /// or not; `None` if it does not fail. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds_or_none"))]
    pub out_for: Option<Duration>,
    /// For how long the pool has been at this level. Serialised as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub lasted: Duration,
}

impl Health {
    pub(crate) fn of(level: HealthLevel, figures: Pressure, lasted: Duration) -> Health {
        Health {
            level,
            waiting: figures.waiting,
            mean_wait: figures.mean_age,
            oldest_wait: figures.oldest_age,
            out_for: figures.out_for,
            lasted,
        }
    }

    /// Whether the level is [`HealthLevel::Healthy`].
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
        if let Some(out_for) = self.out_for {
            write!(f, "; no connection, and connecting has failed for {out_for:.1?}")?;
        }
        Ok(())
    }
}

/// Whether a pool can be expected to serve its next caller, or why not. From
/// [`Pool::readiness`](crate::Pool::readiness).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Readiness {
    /// A connection is open. Connecting does not fail, or a connection has worked since it
    /// began to fail.
    Ready,
    /// No connection is open. No attempt to open one has failed since the last success.
    Opening,
    /// Connecting has failed for some time, and no connection has worked since.
    Failing {
        /// For how long. Serialised as seconds.
        #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
        lasted: Duration,
        /// The text of the last error and of its sources; `None` if the last connect overran
        /// its limit. It may name hosts and users.
        cause: Option<String>,
    },
    /// The pool is paused.
    Paused,
    /// The pool was closed, or this is a child made by `fork`.
    Closed,
}

impl Readiness {
    pub(crate) fn of(prospect: Prospect, cause: Option<String>) -> Readiness {
        match prospect {
            Prospect::Ready => Readiness::Ready,
            Prospect::Empty => Readiness::Opening,
            Prospect::Failing(lasted) => Readiness::Failing { lasted, cause },
            Prospect::Paused => Readiness::Paused,
            Prospect::Closed => Readiness::Closed,
        }
    }

    /// Whether it is [`Readiness::Ready`].
    pub fn is_ready(&self) -> bool {
        *self == Readiness::Ready
    }
}

/// Without the cause.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Readiness::Ready => f.write_str("ready"),
            Readiness::Opening => f.write_str("no connection is open yet"),
            Readiness::Failing { lasted, .. } => {
                write!(f, "connecting has failed for {lasted:.1?}")
            }
            Readiness::Paused => f.write_str("paused"),
            Readiness::Closed => f.write_str("closed"),
        }
    }
}
