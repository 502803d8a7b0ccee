//! What a guard gives: the driver's connection, and what is known of its session.

mod deadline;
mod state;
mod transaction;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use mysql::prelude::{AsStatement, Queryable};
use mysql::{Binary, Conn, Error, Params, QueryResult, Statement, Text, TxOpts};

pub(crate) use self::deadline::{Deadline, Timeouts};
pub(crate) use self::state::{Marks, Rules, Session, State};
pub use self::transaction::Transaction;

/// A [`mysql::Conn`] that knows what its user may have left behind on the session.
///
/// It implements [`Queryable`], reads the text of each statement before it sends it (see
/// [`Reset`](crate::Reset)), and notes errors that end the connection or say that the server
/// allows no writes.
///
/// # Differences from the driver's connection
///
/// - [`start_transaction`](Connection::start_transaction) returns this crate's [`Transaction`].
/// - Where the driver's connection is asked for, as by `"SELECT 1".run(…)`, it can be lent: a guard
///   gives it as `&mut **guard`. What is done with it is not seen, so the session is reset after
///   that use.
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

impl Queryable for Connection {
    fn query_iter<Q: AsRef<str>>(
        &mut self,
        query: Q,
    ) -> Result<QueryResult<'_, '_, '_, Text>, Error> {
        self.state.read(query.as_ref());
        self.state.note(self.inner.query_iter(query))
    }

    fn prep<Q: AsRef<str>>(&mut self, query: Q) -> Result<Statement, Error> {
        self.state.read(query.as_ref());
        self.state.note(self.inner.prep(query))
    }

    fn close(&mut self, statement: Statement) -> Result<(), Error> {
        self.state.note(self.inner.close(statement))
    }

    fn exec_iter<S, P>(
        &mut self,
        statement: S,
        params: P,
    ) -> Result<QueryResult<'_, '_, '_, Binary>, Error>
    where
        S: AsStatement,
        P: Into<Params>,
    {
        // By `prep` of this type, which reads the text.
        let statement = statement.as_statement(self)?;
        self.state.note(self.inner.exec_iter(&*statement, params))
    }

    fn exec_batch<S, P, I>(&mut self, statement: S, params: I) -> Result<(), Error>
    where
        S: AsStatement,
        P: Into<Params>,
        I: IntoIterator<Item = P>,
    {
        let statement = statement.as_statement(self)?;
        self.state.note(self.inner.exec_batch(&*statement, params))
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
