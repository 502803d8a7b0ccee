//! The settings of a pool.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::manager::{Adapter, Parts};
use crate::{
    CustomizeConnection, Error, HandleError, HandleEvent, LoggingErrorHandler, ManageConnection,
    NopConnectionCustomizer, NopEventHandler, Pool,
};

/// Builds a pool.
pub struct Builder<M: ManageConnection> {
    config: Config<M::Connection, M::Error>,
}

/// The settings, which the pool keeps.
pub(crate) struct Config<C, E> {
    pub(crate) max_size: u32,
    pub(crate) min_idle: Option<u32>,
    /// `None`: not set by the user.
    test_on_check_out: Option<bool>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) connection_timeout: Duration,
    pub(crate) error_handler: Box<dyn HandleError<E>>,
    /// `None` is `NopEventHandler`, without its cost: fairpool notes the exact time of each get
    /// and return for a handler.
    event_handler: Option<Box<dyn HandleEvent>>,
    pub(crate) connection_customizer: Box<dyn CustomizeConnection<C, E>>,
}

impl<C, E> Config<C, E> {
    pub(crate) fn events(&self) -> &dyn HandleEvent {
        self.event_handler.as_deref().unwrap_or(&NopEventHandler)
    }

    pub(crate) fn tests_on_check_out(&self) -> bool {
        self.test_on_check_out.unwrap_or(true)
    }

    fn fields(&self, out: &mut fmt::DebugStruct<'_, '_>) -> fmt::Result {
        out.field("max_size", &self.max_size)
            .field("min_idle", &self.min_idle)
            .field("test_on_check_out", &self.tests_on_check_out())
            .field("max_lifetime", &self.max_lifetime)
            .field("idle_timeout", &self.idle_timeout)
            .field("connection_timeout", &self.connection_timeout)
            .field("error_handler", &self.error_handler)
            .field("event_handler", &self.events())
            .field("connection_customizer", &self.connection_customizer)
            .finish()
    }
}

impl<C, E> fmt::Debug for Config<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields(&mut f.debug_struct("Config"))
    }
}

impl<M: ManageConnection> fmt::Debug for Builder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fields(&mut f.debug_struct("Builder"))
    }
}

impl<M: ManageConnection> Default for Builder<M> {
    fn default() -> Builder<M> {
        let minutes = |n: u64| Some(Duration::from_secs(n * 60));
        Builder {
            config: Config {
                max_size: 10,
                min_idle: None,
                test_on_check_out: None,
                max_lifetime: minutes(30),
                idle_timeout: minutes(10),
                connection_timeout: Duration::from_secs(30),
                error_handler: Box::new(LoggingErrorHandler),
                event_handler: None,
                connection_customizer: Box::new(NopConnectionCustomizer),
            },
        }
    }
}

impl<M: ManageConnection> Builder<M> {
    /// A builder with the default settings.
    pub fn new() -> Builder<M> {
        Builder::default()
    }

    /// The maximum number of connections. Default: 10.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_size(mut self, max_size: u32) -> Builder<M> {
        assert!(max_size > 0, "max_size must be positive");
        self.config.max_size = max_size;
        self
    }

    /// How many connections the pool keeps idle, within `max_size`. Default: `None`, as many as
    /// `max_size`.
    pub fn min_idle(mut self, min_idle: Option<u32>) -> Builder<M> {
        self.config.min_idle = min_idle;
        self
    }

    /// Does nothing: the pools of a process share the threads of fairpool. The type of the thread
    /// pool is left open, so that this package needs none.
    #[doc(hidden)]
    pub fn thread_pool<T: ?Sized>(self, thread_pool: Arc<T>) -> Builder<M> {
        drop(thread_pool);
        self
    }

    /// Whether each connection is checked before it is handed out.
    ///
    /// Default: `true`, but a check that succeeded within the last 5 ms (exact to a tick of the
    /// system's clock) serves for the gets of that time too. So a connection that is used again
    /// and again does not wait for a worker each time. It is still checked before its first use,
    /// and when it comes back after a longer one. With an explicit `true` there is a check for each
    /// get. The table in `docs/coming-from-r2d2.md` has what that costs. In both cases a connection
    /// that was opened just now for a caller that waited goes to it without a check.
    ///
    /// In any case, also with `false`, connections that are in doubt, since another has proved
    /// broken, are checked.
    pub fn test_on_check_out(mut self, test_on_check_out: bool) -> Builder<M> {
        self.config.test_on_check_out = Some(test_on_check_out);
        self
    }

    /// The maximum lifetime of a connection, which ends then, or when it comes back. Default: 30
    /// minutes.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_lifetime(mut self, max_lifetime: Option<Duration>) -> Builder<M> {
        assert_ne!(max_lifetime, Some(Duration::ZERO), "max_lifetime must be positive");
        self.config.max_lifetime = max_lifetime;
        self
    }

    /// How long a connection may be idle, before it is closed. Default: 10 minutes.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn idle_timeout(mut self, idle_timeout: Option<Duration>) -> Builder<M> {
        assert_ne!(idle_timeout, Some(Duration::ZERO), "idle_timeout must be positive");
        self.config.idle_timeout = idle_timeout;
        self
    }

    /// How long [`Pool::get`] and [`build`](Builder::build) wait. Default: 30 seconds.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn connection_timeout(mut self, connection_timeout: Duration) -> Builder<M> {
        assert!(connection_timeout > Duration::ZERO, "connection_timeout must be positive");
        self.config.connection_timeout = connection_timeout;
        self
    }

    /// The handler of the driver's errors. Default: [`LoggingErrorHandler`].
    pub fn error_handler(mut self, error_handler: Box<dyn HandleError<M::Error>>) -> Builder<M> {
        self.config.error_handler = error_handler;
        self
    }

    /// The handler of events. Default: [`NopEventHandler`].
    pub fn event_handler(mut self, event_handler: Box<dyn HandleEvent>) -> Builder<M> {
        self.config.event_handler = Some(event_handler);
        self
    }

    /// The hook for new connections and for those that leave. Default:
    /// [`NopConnectionCustomizer`].
    pub fn connection_customizer(
        mut self,
        connection_customizer: Box<dyn CustomizeConnection<M::Connection, M::Error>>,
    ) -> Builder<M> {
        self.config.connection_customizer = connection_customizer;
        self
    }

    /// r2d2's own tests set how often it looks for old connections. fairpool closes each at its
    /// time.
    #[cfg(test)]
    #[allow(dead_code)]
    pub(crate) fn reaper_rate(self, _: Duration) -> Builder<M> {
        self
    }

    /// Builds the pool, and waits until it has `min_idle` connections.
    ///
    /// # Errors
    ///
    /// If they are not open within `connection_timeout`.
    ///
    /// # Panics
    ///
    /// If `min_idle` is greater than `max_size`.
    pub fn build(self, manager: M) -> Result<Pool<M>, Error> {
        let parts = self.into_parts(manager);
        match settings(&parts).build(Adapter(Arc::clone(&parts))) {
            Ok(pool) => Ok(Pool::new_handle(parts, pool)),
            Err(error) => Err(Error::of(&error, parts.take_last_error())),
        }
    }

    /// Builds the pool, and does not wait for its connections.
    ///
    /// # Panics
    ///
    /// If `min_idle` is greater than `max_size`.
    pub fn build_unchecked(self, manager: M) -> Pool<M> {
        let parts = self.into_parts(manager);
        let pool = settings(&parts).build_unchecked(Adapter(Arc::clone(&parts)));
        Pool::new_handle(parts, pool)
    }

    fn into_parts(self, manager: M) -> Arc<Parts<M>> {
        let Config { max_size, min_idle, .. } = self.config;
        let fits = min_idle.is_none_or(|min_idle| min_idle <= max_size);
        assert!(fits, "min_idle must be no larger than max_size");
        Parts::new(manager, self.config)
    }
}

/// The pools of a process have numbers, since nobody gives them names.
static POOLS: AtomicU64 = AtomicU64::new(1);

/// By default a connection that was checked within this time is handed out without another
/// check. Long against what a check costs, which is two switches of threads and a round trip: a
/// connection that spends less than this time on a get and its work is checked so rarely that it
/// costs little, and one that spends more notices little of a check. Short against what matters
/// to a user: a query may take longer.
const TRUSTS_CHECKS_FOR: Duration = Duration::from_millis(5);

fn settings<M: ManageConnection>(parts: &Arc<Parts<M>>) -> fairpool::Builder<Adapter<M>> {
    let config = &parts.config;
    let builder = fairpool::Pool::builder()
        .name(format!("r2d2-{}", POOLS.fetch_add(1, Ordering::Relaxed)))
        .max_size(config.max_size)
        .min_idle(config.min_idle)
        .max_lifetime(config.max_lifetime)
        .idle_timeout(config.idle_timeout)
        .ends_on_time(true)
        .connection_timeout(config.connection_timeout)
        .connection_customizer(Box::new(Adapter(Arc::clone(parts))));
    let builder = match config.test_on_check_out {
        Some(tests) => builder.test_on_check_out(tests),
        None => builder.trusts_checks_for(TRUSTS_CHECKS_FOR),
    };
    match config.event_handler {
        Some(_) => builder.event_handler(Box::new(Adapter(Arc::clone(parts)))),
        None => builder,
    }
}
