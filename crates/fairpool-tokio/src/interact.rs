//! The extension trait.

use fairpool::{ManageConnection, Pool, PooledConnection, Request};

use crate::Interaction;

mod sealed {
    pub trait Sealed {}

    impl<M: fairpool::ManageConnection> Sealed for &fairpool::Pool<M> {}
    impl<M: fairpool::ManageConnection> Sealed for fairpool::Request<'_, M> {}
}

/// Runs closures with connections, for a [`Pool`] and for a [`Request`].
pub trait Interact<'a, M: ManageConnection>: sealed::Sealed + Sized {
    /// Waits for a connection without blocking a thread, runs `work` with it on a thread that
    /// tokio keeps for blocking ([`spawn_blocking`](tokio::task::spawn_blocking)), and returns its
    /// result. When the result is there, the connection is back in the pool.
    ///
    /// It is a get of the line that calls this: holders, errors, events and traces show that. The
    /// wait begins with the first poll, and the pool keeps its deadline. No limit applies to `work`.
    ///
    /// `work` gets the guard, which is the driver's connection wherever that is asked for (some
    /// traits want `&mut **conn`). It may call [`PooledConnection::run`] or
    /// [`mark_broken`](PooledConnection::mark_broken), for example.
    ///
    /// # When it is dropped
    ///
    /// - while it waits: that cancels the get;
    /// - when it has a connection, but `work` has not started: `work` is never run, and the
    ///   connection is back in the pool at once;
    /// - while `work` runs: that goes on, the connection comes back at its end, and the result is
    ///   dropped there.
    ///
    /// # Errors
    ///
    /// - [`Error::Get`](crate::Error::Get): as [`Pool::get_async`].
    /// - [`Error::NoRuntime`](crate::Error::NoRuntime),
    ///   [`ShutDown`](crate::Error::ShutDown), [`NoThread`](crate::Error::NoThread): tokio ran no
    ///   closure. The connection, if there was one yet, is back in the pool.
    ///
    /// # Panics
    ///
    /// If `work` panics, its panic goes on in the caller. The connection is reset and validated
    /// before another caller gets it. And if the future is polled again after it was ready.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use fairpool::Pool;
    /// # use fairpool_testing::StubManager as Manager;
    /// use fairpool_tokio::Interact;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let pool = Pool::builder().max_size(2).build(Manager)?;
    /// let line = line!() + 1;
    /// let debug = pool.interact(|conn| format!("{:?}", **conn)).await?;
    /// assert_eq!(debug, "StubConnection");
    ///
    /// let there = pool.clone();
    /// let timeout = Duration::from_secs(1);
    /// let request = pool.request().label("orders").priority(1).timeout(timeout);
    /// let label = request.interact(move |_conn| {
    ///     there.holders()[0].label().map(String::from)
    /// });
    /// assert_eq!(label.await?.as_deref(), Some("orders"));
    /// # Ok::<(), fairpool_tokio::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A closure that returns a `Result`: the first `?` passes on the error of the get, the second
    /// that of the closure. The caller's error type needs a `From` for both; `Box<dyn Error>` and
    /// the like have it.
    ///
    /// ```
    /// use std::error::Error;
    ///
    /// use fairpool::{Pool, PooledConnection};
    /// # use fairpool_testing::stub::{Manager, Server};
    /// use fairpool_tokio::Interact;
    ///
    /// async fn answer(pool: &Pool<Manager>) -> Result<(), Box<dyn Error + Send + Sync>> {
    ///     pool.interact(|conn| conn.query()).await??;
    ///     // Fatal errors mark the connection as broken.
    ///     pool.interact(|conn| PooledConnection::run(conn, |conn| conn.query())).await??;
    ///     Ok(())
    /// }
    /// # let pool = Pool::new(Server::new().manager())?;
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(answer(&pool))?;
    /// # Ok::<(), Box<dyn Error + Send + Sync>>(())
    /// ```
    #[track_caller]
    fn interact<R, F>(self, work: F) -> Interaction<'a, M, F, R>
    where
        F: FnOnce(&mut PooledConnection<M>) -> R + Send + 'static,
        R: Send + 'static;
}

impl<'a, M: ManageConnection> Interact<'a, M> for &'a Pool<M> {
    #[track_caller]
    fn interact<R, F>(self, work: F) -> Interaction<'a, M, F, R>
    where
        F: FnOnce(&mut PooledConnection<M>) -> R + Send + 'static,
        R: Send + 'static,
    {
        Interaction::new(self.get_async(), work)
    }
}

impl<'a, M: ManageConnection> Interact<'a, M> for Request<'a, M> {
    #[track_caller]
    fn interact<R, F>(self, work: F) -> Interaction<'a, M, F, R>
    where
        F: FnOnce(&mut PooledConnection<M>) -> R + Send + 'static,
        R: Send + 'static,
    {
        Interaction::new(self.get_async(), work)
    }
}
