//! The guard of a connection that a caller has.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::manager::Adapter;
use crate::{Extensions, ManageConnection, Pool};

type Inner<M> = fairpool::PooledConnection<Adapter<M>>;

/// A connection, which goes back to its pool when this is dropped.
///
/// If it is broken then, the drop waits until it is closed, for one second at most. It keeps the
/// pool open.
pub struct PooledConnection<M: ManageConnection> {
    /// `None` only within `drop`.
    conn: Option<Inner<M>>,
    // After the connection, so that the pool is there when it comes back.
    _pool: Pool<M>,
}

const GONE: &str = "BUG: a guard without its connection";

impl<M: ManageConnection> PooledConnection<M> {
    pub(crate) fn new(conn: Inner<M>, pool: Pool<M>) -> PooledConnection<M> {
        PooledConnection { conn: Some(conn), _pool: pool }
    }

    fn inner(&self) -> &Inner<M> {
        self.conn.as_ref().expect(GONE)
    }

    fn inner_mut(&mut self) -> &mut Inner<M> {
        self.conn.as_mut().expect(GONE)
    }

    /// The user's own data that is kept with the connection.
    pub fn extensions(this: &Self) -> &Extensions {
        fairpool::PooledConnection::extensions(this.inner())
    }

    /// The user's own data that is kept with the connection, to change it.
    pub fn extensions_mut(this: &mut Self) -> &mut Extensions {
        fairpool::PooledConnection::extensions_mut(this.inner_mut())
    }
}

impl<M: ManageConnection> Drop for PooledConnection<M> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let ending = Arc::clone(&conn.ending);
        ending.announce_wait();
        drop(conn);
        ending.wait_for_close();
    }
}

impl<M: ManageConnection> Deref for PooledConnection<M> {
    type Target = M::Connection;

    fn deref(&self) -> &M::Connection {
        self.inner()
    }
}

impl<M: ManageConnection> DerefMut for PooledConnection<M> {
    fn deref_mut(&mut self) -> &mut M::Connection {
        self.inner_mut()
    }
}

impl<M> fmt::Debug for PooledConnection<M>
where
    M: ManageConnection,
    M::Connection: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conn: &M::Connection = self;
        fmt::Debug::fmt(conn, f)
    }
}
