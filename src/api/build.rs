//! Checks a builder's settings, and builds the pool.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::builder::Builder;
use super::pool::Pool;
use crate::core::{Policy, Time};
use crate::runtime::refusal::Refusal;
use crate::runtime::shared::{PoolCore, Shared};
use crate::sync::Arc;
use crate::types::{Config, Error, ErrorKind, ManageConnection};

impl<M: ManageConnection> Builder<M> {
    /// Builds the pool and waits until it has `min_idle` connections.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Config`](crate::ErrorKind::Config), at once, if the value of a
    ///   setting is not allowed.
    /// - [`ErrorKind::Connect`](crate::ErrorKind::Connect), as soon as it is known, if
    ///   connecting fails permanently (see [`ManageConnection::is_permanent`]).
    /// - [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if the connections are not open
    ///   within `connection_timeout`.
    ///
    /// # Panics
    ///
    /// If `min_idle` is greater than `max_size`.
    ///
    /// # Blocking
    ///
    /// For up to `connection_timeout`. The pool's own threads open the connections.
    pub fn build(self, manager: M) -> Result<Pool<M>, Error> {
        let pool = Pool::start(self.config()?, manager);
        wait_until_ready(&pool.shared)?;
        Ok(pool)
    }

    /// Builds the pool without waiting for its connections, which are opened in the
    /// background.
    ///
    /// # Panics
    ///
    /// If `min_idle` is greater than `max_size`, or if [`build`](Builder::build) would
    /// return an [`ErrorKind::Config`](crate::ErrorKind::Config).
    pub fn build_unchecked(self, manager: M) -> Pool<M> {
        match self.config() {
            Ok(config) => Pool::start(config, manager),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits for the first `min_idle` connections.
fn wait_until_ready<M: ManageConnection>(shared: &Arc<Shared<M>>) -> Result<(), Error> {
    let start = Time::START;
    let wanted = shared.config.policy.min_idle_now();
    let is_ready = |core: &PoolCore<M>| core.open_count() >= wanted;
    let deadline = shared.clock.instant_of(start.after(shared.config.connection_timeout));
    shared.wait_for(deadline, |core| is_ready(core) || core.fails_permanently());
    let refusal = shared.transition(|core, fx| {
        if is_ready(core) {
            return None;
        }
        let permanent = core.fails_permanently();
        let kind = if permanent { ErrorKind::Connect } else { ErrorKind::Timeout };
        Some(Refusal::collect(shared, core, kind, fx.now, start))
    });
    match refusal {
        Some(refusal) => Err(refusal.into_build_error(wanted)),
        None => Ok(()),
    }
}

impl<M: ManageConnection> Builder<M> {
    pub(crate) fn config(mut self) -> Result<Config<M>, Error> {
        let Policy { max_size, min_idle, .. } = self.config.policy;
        if let Some(min_idle) = min_idle {
            assert!(
                min_idle <= max_size,
                "min_idle ({min_idle}) must be no larger than max_size ({max_size})"
            );
        }
        self.check().map_err(Error::config)?;
        self.config.policy.seed = RandomState::new().hash_one(&self.config.name);
        Ok(self.config)
    }

    /// Checks every setting. No time is too long: `Duration::MAX` is no limit. `Err` describes
    /// the first setting whose value is not allowed.
    fn check(&self) -> Result<(), String> {
        let (config, policy) = (&self.config, &self.config.policy);
        positive_if_set("max_lifetime", policy.max_lifetime)?;
        positive_if_set("idle_timeout", policy.idle_timeout)?;
        positive_if_set("keepalive", policy.keepalive)?;
        positive_if_set("leak_threshold", policy.leak_threshold)?;
        positive_if_set("slow_get_threshold", config.slow_get_threshold)?;
        config.health_thresholds.check()?;
        positive("connection_timeout", config.connection_timeout)?;
        positive("open_timeout", policy.open_limit)?;
        positive("validation_timeout", policy.validation_limit)?;
        positive("reset_timeout", policy.reset_limit)?;
        positive("close_timeout", policy.close_limit)?;
        positive("priority_ageing", policy.priority_ageing)?;
        positive("connect_patience's shortest", policy.patience_min)?;
        positive("connect_backoff's first", policy.backoff_min)?;
        positive("connect_backoff's longest", policy.backoff_max)?;
        at_least_one("max_opening", Some(policy.max_opening))?;
        at_least_one("max_closers", Some(policy.max_closers))?;
        at_least_one("max_abandoned", Some(policy.max_abandoned))?;
        at_least_one("max_waiters", policy.max_waiters)?;
        if !(0.0..=0.9).contains(&self.lifetime_jitter) {
            return Err(format!(
                "lifetime_jitter must be between 0 and 0.9, but is {}",
                self.lifetime_jitter
            ));
        }
        let (shortest, longest) = (policy.patience_min, policy.patience_max);
        if shortest > longest {
            return Err(format!(
                "connect_patience: the shortest ({shortest:?}) must be no longer than the longest \
                 ({longest:?})"
            ));
        }
        let (first, longest) = (policy.backoff_min, policy.backoff_max);
        if first > longest {
            return Err(format!(
                "connect_backoff: the first delay ({first:?}) must be no longer than the longest \
                 ({longest:?})"
            ));
        }
        check_sizes(policy.max_size, policy.min_idle, policy.max_idle)?;
        if config.name.contains('\0') {
            return Err(format!("name must not contain a NUL, but is {:?}", config.name));
        }
        Ok(())
    }
}

/// Checks that the sizes fit together: in the builder, and when a size is changed later.
pub(crate) fn check_sizes(
    max_size: u32,
    min_idle: Option<u32>,
    max_idle: Option<u32>,
) -> Result<(), String> {
    at_least_one("max_size", Some(max_size))?;
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

fn positive_if_set(name: &str, span: Option<Duration>) -> Result<(), String> {
    match span {
        Some(span) => positive(name, span),
        None => Ok(()),
    }
}

fn positive(name: &str, span: Duration) -> Result<(), String> {
    if span.is_zero() {
        return Err(format!("{name} must be positive, but is {span:?}"));
    }
    Ok(())
}

fn at_least_one(name: &str, number: Option<u32>) -> Result<(), String> {
    match number {
        Some(0) => Err(format!("{name} must be at least 1, but is 0")),
        _ => Ok(()),
    }
}
