//! The pool's handle.

use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use crate::manager::{Adapter, Parts};
use crate::{Builder, Error, ManageConnection, PooledConnection};

/// A pool of connections. Clones are handles of the same pool.
///
/// When the last handle is dropped, and the guards of its connections too, the pool closes all
/// connections, and that drop waits for it, one second at most.
pub struct Pool<M: ManageConnection>(Arc<Handle<M>>);

struct Handle<M: ManageConnection> {
    parts: Arc<Parts<M>>,
    pool: fairpool::Pool<Adapter<M>>,
}

impl<M: ManageConnection> Clone for Pool<M> {
    fn clone(&self) -> Pool<M> {
        Pool(Arc::clone(&self.0))
    }
}

impl<M: ManageConnection> Pool<M> {
    pub(crate) fn new_handle(parts: Arc<Parts<M>>, pool: fairpool::Pool<Adapter<M>>) -> Pool<M> {
        Pool(Arc::new(Handle { parts, pool }))
    }

    /// Builds a pool with the default settings.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`].
    pub fn new(manager: M) -> Result<Pool<M>, Error> {
        Pool::builder().build(manager)
    }

    /// A builder with the default settings.
    pub fn builder() -> Builder<M> {
        Builder::new()
    }

    /// Gets a connection within the pool's `connection_timeout`.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    #[track_caller]
    pub fn get(&self) -> Result<PooledConnection<M>, Error> {
        self.guard(self.0.pool.get())
    }

    /// Gets a connection within `timeout`.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    #[track_caller]
    pub fn get_timeout(&self, timeout: Duration) -> Result<PooledConnection<M>, Error> {
        self.guard(self.0.pool.get_timeout(timeout))
    }

    /// Gets a connection if one is idle now. It waits for its check, if it needs one, but for no
    /// connect.
    #[track_caller]
    pub fn try_get(&self) -> Option<PooledConnection<M>> {
        Some(PooledConnection::new(self.0.pool.try_get()?, self.clone()))
    }

    fn guard(
        &self,
        got: Result<fairpool::PooledConnection<Adapter<M>>, fairpool::Error>,
    ) -> Result<PooledConnection<M>, Error> {
        match got {
            Ok(conn) => Ok(PooledConnection::new(conn, self.clone())),
            Err(error) => Err(Error::of(&error, self.0.parts.take_last_error())),
        }
    }

    /// How many connections there are now.
    pub fn state(&self) -> State {
        let state = self.0.pool.state();
        State { connections: state.connections, idle_connections: state.idle_connections }
    }

    /// The maximum number of connections.
    pub fn max_size(&self) -> u32 {
        self.0.parts.config.max_size
    }

    /// How many connections are kept idle; `None`: as many as `max_size`.
    pub fn min_idle(&self) -> Option<u32> {
        self.0.parts.config.min_idle
    }

    /// Whether connections are checked before they are handed out.
    pub fn test_on_check_out(&self) -> bool {
        self.0.parts.config.tests_on_check_out()
    }

    /// The maximum lifetime of a connection.
    pub fn max_lifetime(&self) -> Option<Duration> {
        self.0.parts.config.max_lifetime
    }

    /// How long a connection may be idle.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.0.parts.config.idle_timeout
    }

    /// How long [`get`](Pool::get) waits at most.
    pub fn connection_timeout(&self) -> Duration {
        self.0.parts.config.connection_timeout
    }

    /// The pool of fairpool below this one, with all that it offers: `snapshot`, `diagnose`,
    /// `stats`, `subscribe`, `close`, or `request` for a get with a priority or a cancel token.
    /// Exporters and the inspector take it too. r2d2 has no such method.
    ///
    /// A handle that is cloned from it keeps the pool open, as a [`Pool`] does. A guard that
    /// comes from it does not, nor does its drop wait for the close of a broken connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # struct Manager;
    /// # impl r2d2::ManageConnection for Manager {
    /// #     type Connection = Vec<u8>;
    /// #     type Error = Infallible;
    /// #     fn connect(&self) -> Result<Vec<u8>, Infallible> { Ok(Vec::new()) }
    /// #     fn is_valid(&self, _: &mut Vec<u8>) -> Result<(), Infallible> { Ok(()) }
    /// #     fn has_broken(&self, _: &mut Vec<u8>) -> bool { false }
    /// # }
    /// use std::time::{Duration, Instant};
    ///
    /// let pool = r2d2::Pool::builder().max_size(2).build(Manager)?;
    /// let mut urgent = pool.fairpool().request().priority(1).get().expect("two are idle");
    /// urgent.push(1); // the driver's connection, here a `Vec`
    /// drop(urgent);
    /// println!("{}", pool.fairpool().stats());
    /// let report = pool.fairpool().close(Instant::now() + Duration::from_secs(5));
    /// assert!(report.is_complete(), "{report}");
    /// # Ok::<(), r2d2::Error>(())
    /// ```
    pub fn fairpool(
        &self,
    ) -> &fairpool::Pool<
        impl fairpool::ManageConnection<Connection: DerefMut<Target = M::Connection>> + use<M>,
    > {
        &self.0.pool
    }
}

impl<M: ManageConnection + fmt::Debug> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("state", &self.state())
            .field("config", &self.0.parts.config)
            .field("manager", &self.0.parts.manager)
            .finish()
    }
}

/// How many connections a pool has.
#[non_exhaustive]
pub struct State {
    /// Connections that exist and are not being closed.
    pub connections: u32,
    /// Connections that are idle.
    pub idle_connections: u32,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("connections", &self.connections)
            .field("idle_connections", &self.idle_connections)
            .finish()
    }
}
