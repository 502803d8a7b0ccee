//! Builds a pool from its settings.

use super::builder::Builder;
use super::pool::Pool;
use crate::core::Time;
use crate::runtime::refusal::Refusal;
use crate::runtime::shared::{PoolCore, Shared};
use crate::sync::Arc;
use crate::types::{Error, ErrorKind, ManageConnection};

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
