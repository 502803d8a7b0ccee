//! What a guard gives: the driver's client, and what is known of its session.

mod call;
mod cancel;
mod methods;
mod pooler;
mod role;
mod rows;
mod rules;
mod state;
mod statement;
mod transaction;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use postgres::types::{BorrowToSql, ToSql, Type};
use postgres::{CopyInWriter, CopyOutReader, Error, Notifications, Row, SimpleQueryMessage};
use tokio::runtime::Handle;

pub use self::cancel::CancelToken;
use self::methods::statement_methods;
pub(crate) use self::pooler::{is_refusal, learn_own_types, refuse};
pub(crate) use self::role::ServerRole;
pub use self::rows::RowIter;
pub(crate) use self::rules::{Rules, is_lost_statement};
pub(crate) use self::state::{Failure, State, text_of, text_of_db};
pub use self::statement::{Statement, ToStatement};
pub(crate) use self::transaction::End;
pub use self::transaction::{Transaction, TransactionBuilder};

/// How long the server may take to answer when a connection returns on which a write was refused.
/// As long as a caller's own check may take: far more than a round trip needs.
const ANSWERS_WITHIN: Duration = Duration::from_millis(250);

/// A [`postgres::Client`] that knows what its user may have left behind on the session.
///
/// It has the methods of the driver's client, with the same errors and the same blocking, and
/// reads the text of each statement before it sends it: see [`Reset`](crate::Reset) for what is
/// looked for, and what it cannot see. A return that is known to leave nothing costs no round
/// trip.
///
/// # Differences from the driver's client
///
/// - Statements are given as `&str`, `String`, [`Statement`] or [`postgres::Statement`]: this
///   crate's [`ToStatement`] instead of the driver's, which is sealed.
/// - [`prepare`](Client::prepare), [`transaction`](Client::transaction),
///   [`query_raw`](Client::query_raw) and [`cancel_token`](Client::cancel_token) return this
///   crate's types of the same names.
/// - Where the driver's client is asked for, it can be lent: `&mut conn` coerces to
///   `&mut postgres::Client`, and generic code over [`postgres::GenericClient`] takes
///   `&mut **conn`. What is done with it is not seen, so the session is reset after that use.
///   Do not take a [`postgres::CancelToken`] from it: that one is not bound to the use.
///
/// # Panics
///
/// Like the driver's, all methods that talk to the server panic inside an async runtime.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_postgres::{Client, NoTls, PostgresConnectionManager, postgres};
///
/// fn rename(client: &mut Client, id: i32, name: &str) -> Result<u64, postgres::Error> {
///     let mut transaction = client.transaction()?;
///     let rows = transaction.execute("UPDATE item SET name = $1 WHERE id = $2", &[&name, &id])?;
///     transaction.commit()?;
///     Ok(rows)
/// }
///
/// let manager = PostgresConnectionManager::from_url("host=localhost user=postgres", NoTls)?;
/// let pool = Pool::new(manager)?;
/// let mut conn = pool.get()?;
/// rename(&mut conn, 7, "seven")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client {
    inner: postgres::Client,
    state: State,
}

impl Client {
    pub(crate) fn new(inner: postgres::Client, rules: Arc<Rules>, role: ServerRole) -> Self {
        Self { inner, state: State::new(rules, role) }
    }

    fn parts(&mut self) -> (&mut postgres::Client, &mut State) {
        (&mut self.inner, &mut self.state)
    }

    pub(crate) fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// The driver's client, for the manager itself.
    pub(crate) fn inner(&mut self) -> &mut postgres::Client {
        &mut self.inner
    }

    statement_methods!();

    /// Begins a transaction, which is rolled back unless it is committed. For one that runs again
    /// after a conflict or the loss of the connection see [`transaction`](crate::transaction).
    ///
    /// # Errors
    ///
    /// As [`postgres::Client::transaction`].
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        self.build_transaction().start()
    }

    /// Returns a builder of a transaction with other settings than the default ones.
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_> {
        let (inner, state) = self.parts();
        TransactionBuilder::new(inner.build_transaction(), state)
    }

    /// Makes a round trip of at most `timeout`; see [`postgres::Client::is_valid`].
    ///
    /// # Errors
    ///
    /// If the server did not answer in time, or the connection is lost.
    pub fn is_valid(&mut self, timeout: Duration) -> Result<(), Error> {
        let result = self.inner.is_valid(timeout);
        self.state.answered(result)
    }

    /// The pool's check: whether the server answers and still has its role. One round trip.
    /// If it runs out of time it may be made again: so its failure is not noted, which would end the
    /// connection.
    pub(crate) fn check(&mut self, limit: Duration) -> Result<(), Error> {
        match self.state.role() {
            // The only call of the driver that has a limit.
            ServerRole::Any => self.inner.is_valid(limit)?,
            role => role.check(&mut self.inner)?,
        }
        self.state.answered(Ok(()))
    }

    /// Ends the use. Returns whether the connection must not be used again.
    pub(crate) fn end_use(&mut self) -> bool {
        self.state.end_use()
            || self.is_closed()
            || self.state.is_role_in_doubt() && self.has_lost_role()
    }

    /// Asks for the role before the pool lends this connection or another one: the reset would only
    /// find out while others are lent. Keeps nobody on a silent server: the empty query is the
    /// only call of the driver that has a limit, and the question follows its answer at once.
    #[cold]
    fn has_lost_role(&mut self) -> bool {
        // The driver would panic in an async context.
        let answers = self.state.may_ask_at_return()
            && Handle::try_current().is_err()
            && self.inner.is_valid(ANSWERS_WITHIN).is_ok();
        if !answers {
            return true;
        }
        self.state.ask_at_end(&mut self.inner);
        // A transaction may be open: the reset ends it, on every level, and reports it.
        self.state.doubt_role();
        self.state.has_failed()
    }

    /// Asks the server whether it has this role, in a reset.
    pub(crate) fn check_role(&mut self, role: ServerRole) -> Result<(), Error> {
        let result = role.check_used(&mut self.inner);
        self.state.answered(result)
    }

    /// Makes a round trip without a limit; see [`postgres::Client::check_connection`].
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub fn check_connection(&mut self) -> Result<(), Error> {
        let result = self.inner.check_connection();
        self.state.answered(result)
    }

    /// Returns the notifications that have arrived, and waits for others. Those that nobody
    /// takes before the connection returns are lost.
    pub fn notifications(&mut self) -> Notifications<'_> {
        self.inner.notifications()
    }

    /// Returns a token that can cancel this use's queries from another thread. Once it was used,
    /// the connection is closed when it returns, and the pool checks each of the others before its
    /// next use: see [`CancelToken`].
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken::new(self.inner.cancel_token(), self.state.this_use())
    }

    /// Forgets what the client knows of the database's own types.
    pub fn clear_type_cache(&self) {
        self.inner.clear_type_cache();
    }

    /// Returns whether the client has noticed the end of its connection. It does not look.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Returns the driver's client. For a client that was taken out of its pool with
    /// [`PooledConnection::detach`](fairpool::PooledConnection::detach).
    #[must_use]
    pub fn into_inner(self) -> postgres::Client {
        self.inner
    }

    /// Closes the connection. See [`postgres::Client::close`].
    ///
    /// # Errors
    ///
    /// If the connection failed before it was closed.
    pub fn close(self) -> Result<(), Error> {
        self.inner.close()
    }
}

/// For functions that take a [`Client`] but are given a connection from no pool.
impl From<postgres::Client> for Client {
    fn from(inner: postgres::Client) -> Self {
        Self::new(inner, Arc::default(), ServerRole::Any)
    }
}

impl Deref for Client {
    type Target = postgres::Client;

    fn deref(&self) -> &postgres::Client {
        &self.inner
    }
}

/// Lends the driver's client: from here on anything may be left on the session.
impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut postgres::Client {
        self.state.lend();
        &mut self.inner
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}
