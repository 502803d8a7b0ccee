//! Checks a builder's settings and turns them into the pool's own.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::builder::Builder;
use crate::core::Policy;
use crate::types::config::{Config, Fairness, SelfDeadlock};
use crate::types::error::Error;
use crate::types::manage::ManageConnection;

/// An open or a check that takes longer is no longer counted on: the next caller
/// gets an attempt of its own. Long enough for most connects over a network, and
/// short enough that one that hangs is noticed by few callers.
const PATIENCE: Duration = Duration::from_millis(250);

/// More is taken for a mistake.
const MOST_CONNECTIONS: u32 = 1_000_000;

/// Longer than this is taken for a mistake in a unit.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl<M: ManageConnection> Builder<M> {
    pub(crate) fn config(self) -> Result<Config<M>, Error> {
        if let Some(min_idle) = self.min_idle {
            assert!(
                min_idle <= self.max_size,
                "min_idle ({min_idle}) must be no larger than max_size ({})",
                self.max_size
            );
        }
        self.check().map_err(Error::config)?;
        let policy = self.policy();
        Ok(Config {
            name: self.name.into(),
            policy,
            connection_timeout: self.connection_timeout,
            slow_get_threshold: self.slow_get_threshold,
            health_thresholds: self.health_thresholds,
            test_on_check_out: self.test_on_check_out != Some(false),
            error_handler: self.hooks.error_handler,
            event_handler: self.hooks.event_handler,
            connection_customizer: self.hooks.connection_customizer,
        })
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            max_size: self.max_size,
            min_idle: self.min_idle,
            max_idle: self.max_idle,
            max_waiters: self.max_waiters,
            fairness_bound: match self.fairness {
                Fairness::Strict => Duration::ZERO,
                Fairness::Bounded(bound) => bound,
            },
            priority_ageing: self.priority_ageing,
            max_lifetime: self.max_lifetime,
            lifetime_jitter_permille: (self.lifetime_jitter * 1000.0) as u32,
            idle_timeout: self.idle_timeout,
            keepalive: self.keepalive,
            fresh_for: match self.test_on_check_out {
                Some(true) => Duration::ZERO,
                Some(false) => Duration::MAX,
                None => self.skip_check_within,
            },
            patience: PATIENCE,
            open_limit: self.open_timeout,
            validation_limit: self.validation_timeout,
            reset_limit: self.reset_timeout,
            close_limit: self.close_timeout,
            max_opening: self.max_opening,
            max_closers: self.max_closers,
            max_abandoned: self.max_abandoned,
            backoff_min: self.connect_backoff.0,
            backoff_max: self.connect_backoff.1,
            leak_threshold: self.leak_threshold,
            reports_self_deadlock: self.on_self_deadlock != SelfDeadlock::Ignore,
            self_deadlock_limit: match self.on_self_deadlock {
                SelfDeadlock::Fail(after) => Some(after),
                SelfDeadlock::Ignore | SelfDeadlock::Warn => None,
            },
            seed: RandomState::new().hash_one(&self.name),
        }
    }

    /// The first setting that has a value which it cannot have.
    fn check(&self) -> Result<(), String> {
        let optional = |name, span: Option<Duration>| span.map_or(Ok(()), |s| positive(name, s));
        optional("max_lifetime", self.max_lifetime)?;
        optional("idle_timeout", self.idle_timeout)?;
        optional("keepalive", self.keepalive)?;
        optional("leak_threshold", self.leak_threshold)?;
        optional("slow_get_threshold", self.slow_get_threshold)?;
        self.health_thresholds.check()?;
        positive("connection_timeout", self.connection_timeout)?;
        positive("open_timeout", self.open_timeout)?;
        positive("validation_timeout", self.validation_timeout)?;
        positive("reset_timeout", self.reset_timeout)?;
        positive("close_timeout", self.close_timeout)?;
        positive("priority_ageing", self.priority_ageing)?;
        positive("connect_backoff's first", self.connect_backoff.0)?;
        positive("connect_backoff's longest", self.connect_backoff.1)?;
        not_too_long("skip_check_within", self.skip_check_within)?;
        if let Fairness::Bounded(bound) = self.fairness {
            not_too_long("fairness", bound)?;
        }
        if let SelfDeadlock::Fail(after) = self.on_self_deadlock {
            not_too_long("on_self_deadlock", after)?;
        }
        at_least_one("max_opening", Some(self.max_opening))?;
        at_least_one("max_closers", Some(self.max_closers))?;
        at_least_one("max_abandoned", Some(self.max_abandoned))?;
        at_least_one("max_waiters", self.max_waiters)?;
        if !(0.0..=0.9).contains(&self.lifetime_jitter) {
            return Err(format!(
                "lifetime_jitter must be between 0 and 0.9, but is {}",
                self.lifetime_jitter
            ));
        }
        let (first, longest) = self.connect_backoff;
        if first > longest {
            return Err(format!(
                "connect_backoff: the first delay ({first:?}) must be no longer than the longest \
                 ({longest:?})"
            ));
        }
        check_sizes(self.max_size, self.min_idle, self.max_idle)?;
        if self.name.contains('\0') {
            return Err(format!("name must not contain a NUL, but is {:?}", self.name));
        }
        Ok(())
    }
}

/// The sizes have to fit each other, at the start and whenever one is changed.
pub(crate) fn check_sizes(
    max_size: u32,
    min_idle: Option<u32>,
    max_idle: Option<u32>,
) -> Result<(), String> {
    at_least_one("max_size", Some(max_size))?;
    if max_size > MOST_CONNECTIONS {
        return Err(format!("max_size must be at most {MOST_CONNECTIONS}, but is {max_size}"));
    }
    if let Some(min_idle) = min_idle.filter(|&min_idle| min_idle > max_size) {
        return Err(format!("min_idle ({min_idle}) must be no larger than max_size ({max_size})"));
    }
    match (min_idle, max_idle) {
        (Some(min_idle), Some(max_idle)) if min_idle > max_idle => {
            Err(format!("min_idle ({min_idle}) must be no larger than max_idle ({max_idle})"))
        }
        _ => Ok(()),
    }
}

fn positive(name: &str, span: Duration) -> Result<(), String> {
    if span.is_zero() {
        return Err(format!("{name} must be positive, but is {span:?}"));
    }
    not_too_long(name, span)
}

fn not_too_long(name: &str, span: Duration) -> Result<(), String> {
    if span > LONGEST {
        return Err(format!("{name} must be at most 100 years, but is {span:?}"));
    }
    Ok(())
}

fn at_least_one(name: &str, number: Option<u32>) -> Result<(), String> {
    match number {
        Some(0) => Err(format!("{name} must be at least 1, but is 0")),
        _ => Ok(()),
    }
}
