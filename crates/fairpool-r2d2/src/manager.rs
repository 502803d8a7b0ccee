//! A manager of r2d2 as one of fairpool.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use crate::TextError;
use crate::hooks::{Customizer, ErrorHandler};

/// Makes a manager of r2d2 one of fairpool.
///
/// `E` is the error that the pool gets. It is the manager's own, or its text
/// ([`errors_as_text`](Manager::errors_as_text)).
///
/// All methods of `M` are called as r2d2 calls them, but `connect` and `is_valid` on threads of
/// the pool and with its limits ([`open_timeout`](fairpool::Builder::open_timeout),
/// [`validation_timeout`](fairpool::Builder::validation_timeout)), since a manager of r2d2 need
/// not keep any. A panic in it is a failure of the call.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_r2d2::Manager;
///
/// let client = redis::Client::open("redis://127.0.0.1")?;
/// let pool = Pool::builder().max_size(8).build(Manager::new(client))?;
/// let answer: String = redis::cmd("PING").query(&mut pool.get()?)?;
/// assert_eq!(answer, "PONG");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Manager<M, E = <M as r2d2::ManageConnection>::Error>
where
    M: r2d2::ManageConnection,
{
    inner: M,
    error: PhantomData<fn() -> E>,
}

impl<M: r2d2::ManageConnection> Manager<M> {
    /// Takes a manager of r2d2.
    ///
    /// The result is a manager of fairpool if `M::Error` is `Send + Sync`. It is so in all
    /// published managers that we know. If yours is not, the compiler says that it "cannot be
    /// sent (or shared) between threads safely" where the pool is built: add
    /// [`errors_as_text`](Manager::errors_as_text).
    pub fn new(inner: M) -> Manager<M> {
        Manager { inner, error: PhantomData }
    }

    /// Lets the pool have only the texts of errors, for a manager whose errors must stay on
    /// their thread.
    ///
    /// Each error is printed, with its sources, and dropped on the thread where it happened. The
    /// [`source`](std::error::Error::source) of a [`fairpool::Error`] is then a [`TextError`].
    /// So if `M::Error` is `Send + Sync`, do without this: then the source is the driver's own
    /// error, which can be downcast.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::error::Error as _;
    /// use std::fmt;
    /// use std::rc::Rc;
    /// use std::time::Duration;
    ///
    /// use fairpool::Pool;
    /// use fairpool_r2d2::Manager;
    ///
    /// #[derive(Debug)]
    /// struct Refused(Rc<str>); // neither `Send` nor `Sync`
    /// # impl fmt::Display for Refused {
    /// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    /// #         write!(f, "refused by {}", self.0)
    /// #     }
    /// # }
    /// # impl std::error::Error for Refused {}
    ///
    /// struct Driver;
    ///
    /// impl r2d2::ManageConnection for Driver {
    ///     type Connection = ();
    ///     type Error = Refused;
    ///
    ///     fn connect(&self) -> Result<(), Refused> {
    ///         Err(Refused("the server".into()))
    ///     }
    /// #   fn is_valid(&self, _: &mut ()) -> Result<(), Refused> {
    /// #       Ok(())
    /// #   }
    /// #   fn has_broken(&self, _: &mut ()) -> bool {
    /// #       false
    /// #   }
    /// }
    ///
    /// let manager = Manager::new(Driver).errors_as_text();
    /// let pool = Pool::builder().min_idle(Some(0)).build(manager)?;
    /// let error = pool.get_timeout(Duration::from_millis(100)).unwrap_err();
    /// assert_eq!(error.source().unwrap().to_string(), "refused by the server");
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn errors_as_text(self) -> Manager<M, TextError<M::Error>> {
        Manager { inner: self.inner, error: PhantomData }
    }
}

impl<M: r2d2::ManageConnection, E> Manager<M, E> {
    /// The manager of r2d2. For that of a pool: `pool.manager().get_ref()`.
    pub fn get_ref(&self) -> &M {
        &self.inner
    }

    /// Gives the manager of r2d2 back.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M, E> Manager<M, E>
where
    M: r2d2::ManageConnection,
    E: From<M::Error> + 'static,
{
    /// Makes a customizer of r2d2 one of fairpool, for
    /// [`connection_customizer`](fairpool::Builder::connection_customizer).
    ///
    /// Its `on_acquire` runs on a thread of the pool, after `connect` and within the same limit;
    /// an error of it fails the connect. Its `on_release` closes the connection, on a thread of
    /// the pool. A panic in either is caught.
    ///
    /// It takes `self` only for the types.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use fairpool::Pool;
    /// use fairpool_r2d2::Manager;
    ///
    /// #[derive(Debug)]
    /// struct Name;
    ///
    /// impl r2d2::CustomizeConnection<redis::Connection, redis::RedisError> for Name {
    ///     fn on_acquire(&self, conn: &mut redis::Connection) -> Result<(), redis::RedisError> {
    ///         redis::cmd("CLIENT").arg("SETNAME").arg("orders").query(conn)
    ///     }
    /// }
    ///
    /// let manager = Manager::new(redis::Client::open("redis://127.0.0.1")?);
    /// let pool = Pool::builder()
    ///     .connection_customizer(manager.customizer(Box::new(Name)))
    ///     .build(manager)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn customizer(
        &self,
        customizer: Box<dyn r2d2::CustomizeConnection<M::Connection, M::Error>>,
    ) -> Box<dyn fairpool::CustomizeConnection<M::Connection, E>> {
        Box::new(Customizer(customizer))
    }

    /// Makes an error handler of r2d2 one of fairpool, for
    /// [`error_handler`](fairpool::Builder::error_handler).
    ///
    /// It takes each error, so callers get only the text of what it took: the source of their
    /// [`fairpool::Error`] cannot be downcast. A handler written for fairpool can leave the error
    /// to the pool ([`inspect_error`](fairpool::HandleError::inspect_error)). You need none to
    /// have errors in the log: the pool logs outages and failed checks by itself.
    ///
    /// It takes `self` only for the types.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// use fairpool::Pool;
    /// use fairpool_r2d2::Manager;
    ///
    /// #[derive(Debug)]
    /// struct Send(mpsc::Sender<redis::RedisError>);
    ///
    /// impl r2d2::HandleError<redis::RedisError> for Send {
    ///     fn handle_error(&self, error: redis::RedisError) {
    ///         let _ = self.0.send(error);
    ///     }
    /// }
    ///
    /// // Nothing listens there.
    /// let manager = Manager::new(redis::Client::open("redis://127.0.0.1:1")?);
    /// let (sender, errors) = mpsc::channel();
    /// let pool = Pool::builder()
    ///     .error_handler(manager.error_handler(Box::new(Send(sender))))
    ///     .build_unchecked(manager);
    /// assert!(errors.recv()?.is_connection_refusal());
    /// # drop(pool);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn error_handler(
        &self,
        handler: Box<dyn r2d2::HandleError<E>>,
    ) -> Box<dyn fairpool::HandleError<E>> {
        Box::new(ErrorHandler(handler))
    }
}

impl<M, E> fairpool::ManageConnection for Manager<M, E>
where
    M: r2d2::ManageConnection,
    E: From<M::Error> + Error + Send + Sync + 'static,
{
    type Connection = M::Connection;
    type Error = E;

    fn connect(&self) -> Result<M::Connection, E> {
        Ok(self.inner.connect()?)
    }

    fn is_valid(&self, conn: &mut M::Connection) -> Result<(), E> {
        Ok(self.inner.is_valid(conn)?)
    }

    fn has_broken(&self, conn: &mut M::Connection) -> bool {
        self.inner.has_broken(conn)
    }
}

impl<M: r2d2::ManageConnection + Clone, E> Clone for Manager<M, E> {
    fn clone(&self) -> Manager<M, E> {
        Manager { inner: self.inner.clone(), error: PhantomData }
    }
}

impl<M: r2d2::ManageConnection + fmt::Debug, E> fmt::Debug for Manager<M, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Manager").field(&self.inner).finish()
    }
}
