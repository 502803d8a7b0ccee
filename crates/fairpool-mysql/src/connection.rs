//! What a guard gives: the driver's connection, and what is known of its session.

mod deadline;
mod queryable;
mod rows;
mod state;
mod transaction;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use mysql::{Conn, Error, TxOpts};

pub(crate) use self::deadline::{Deadline, Timeouts};
pub(crate) use self::state::{Marks, Rules, Session, State};
pub use self::transaction::Transaction;

/// A [`mysql::Conn`] that knows what its user may have left behind on the session.
///
/// It implements [`Queryable`](mysql::prelude::Queryable), reads the text of each statement before it sends it (see
/// [`Reset`](crate::Reset)), and notes errors that end the connection or say that the server
/// allows no writes.
///
/// # Differences from the driver's connection
///
/// - [`start_transaction`](Connection::start_transaction) returns this crate's [`Transaction`].
/// - Where the driver's connection is asked for, as by `"SELECT 1".run(…)`, it can be lent: a guard
///   gives it as `&mut **guard`. What is done with it is not seen, so the session is reset after
///   that use.
/// - The rows of `query_iter` and `exec_iter` are the driver's own, and errors among them are not
///   seen (nor are those of an `exec_batch` that returns rows). So after such a use the connection
///   makes one round trip when it returns, and is closed if it does not answer as it should. All other
///   methods note errors among rows, and statements that return no rows cost no round trip.
/// - Do not call [`change_user`](Conn::change_user): the pool does not know of it, and the next
///   caller gets that user.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_mysql::mysql::{TxOpts, params, prelude::Queryable};
/// use fairpool_mysql::{Connection, MysqlConnectionManager, mysql};
///
/// fn rename(conn: &mut Connection, id: u32, name: &str) -> mysql::Result<()> {
///     let mut transaction = conn.start_transaction(TxOpts::default())?;
///     transaction.exec_drop("UPDATE item SET name = ? WHERE id = ?", (name, id))?;
///     transaction.commit()
/// }
///
/// let pool = Pool::new(MysqlConnectionManager::from_url("mysql://app@localhost/shop")?)?;
/// let mut conn = pool.get()?;
/// rename(&mut conn, 7, "seven")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Connection {
    inner: Conn,
    state: State,
}

impl Connection {
    pub(crate) fn new(inner: Conn, rules: Arc<Rules>, session: Session) -> Self {
        Self { inner, state: State::new(rules, session) }
    }

    pub(crate) fn parts(&mut self) -> (&mut Conn, &mut State) {
        (&mut self.inner, &mut self.state)
    }

    /// Begins a transaction, which is rolled back unless it is committed.
    ///
    /// # Errors
    ///
    /// As [`Conn::start_transaction`].
    pub fn start_transaction(&mut self, options: TxOpts) -> Result<Transaction<'_>, Error> {
        let state = &mut self.state;
        // Before the call: it may fail after the server has begun.
        state.begin();
        match self.inner.start_transaction(options) {
            Ok(inner) => Ok(Transaction::new(inner, state)),
            Err(error) => state.note(Err(error)),
        }
    }

    /// Makes a round trip, as [`Conn::ping`].
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn ping(&mut self) -> Result<(), Error> {
        let result = self.inner.ping();
        self.state.note(result)
    }

    /// Returns the driver's connection. For one that was taken out of its pool with
    /// [`PooledConnection::detach`](fairpool::PooledConnection::detach).
    #[must_use]
    pub fn into_inner(self) -> Conn {
        self.inner
    }
}

impl Deref for Connection {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.inner
    }
}

/// Lends the driver's connection: from here on anything may be left on the session.
impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Conn {
        self.state.lend();
        &mut self.inner
    }
}

/// Without the driver's own `Debug`, which shows the password.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("connection_id", &self.inner.connection_id())
            .finish_non_exhaustive()
    }
}
