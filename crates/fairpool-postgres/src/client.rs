//! What a guard gives: the driver's client, and what is known of its session.

mod backend;
mod call;
mod cancel;
mod comment;
mod methods;
mod plan;
mod pooler;
mod role;
mod rows;
mod rules;
mod state;
mod statement;
mod statements;
mod transaction;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use postgres::types::{BorrowToSql, ToSql, Type};
use postgres::{CopyInWriter, CopyOutReader, Error, Notifications, Row, SimpleQueryMessage};
use tokio::runtime::Handle;

pub(crate) use self::backend::{Backend, Seat};
pub use self::cancel::CancelToken;
use self::comment::Comment;
use self::methods::statement_methods;
pub(crate) use self::pooler::{is_refusal, learn_own_types, refuse};
pub(crate) use self::role::ServerRole;
pub use self::rows::RowIter;
pub(crate) use self::rules::{Rules, is_lost_statement};
pub(crate) use self::state::{Failure, State, text_of, text_of_db};
pub use self::statement::{Statement, ToStatement};
pub use self::statements::StatementCounts;
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
/// # Prepared statements
///
/// The driver prepares a text anew for every call: of the 180 µs of a look-up by key on one
/// machine, 140 are for that. Here each connection keeps what it has prepared, for all its later
/// users: the statements of `execute`, `query`, `query_one` and `query_opt`, of
/// [`prepare`](Client::prepare), and of the same methods of a [`Transaction`]. It keeps the 256
/// last used ones (see [`statement_cache`](crate::PostgresConnectionManager::statement_cache)), of
/// texts up to 16 KiB. A reset leaves them.
///
/// - **When the schema changes**, the server refuses a statement whose columns have changed. Then
///   it is prepared again and executed: the caller sees no error, if the statement is alone or the
///   first in a [`Transaction`], which begins again. Later in a transaction, an error ends the
///   transaction, so there a statement with a `*` for columns is sent with its text, in one round
///   trip (30 to 60 µs more than a kept one). What remains is a column named in the statement whose
///   type changes while a transaction is under way: this one error (0A000) reaches its caller. The
///   first connection to notice a change tells all others, which then prepare anew.
/// - **A use that changes what texts mean** (`CREATE`, `ALTER`, `DROP`, temporary tables, `SET` of
///   a role, `search_path`, `TimeZone` and nearly all other parameters) has the driver's own calls
///   from there to its end, or to the reset after it. Time limits, `application_name`, the defaults
///   of transactions and parameters with a dot in their names (`app.tenant`) do not matter.
/// - **What neither the text nor the server tells:** a *function* that sets `TimeZone`, a role or a
///   planner's parameter (one that changes a table's columns costs an error later in its
///   transaction, each time); a function that is declared `IMMUTABLE` and reads a parameter; a
///   value of an enum that is renamed, in a text that has the old name in it.
///   [`Statement::columns`] of a kept statement are those from when the connection prepared it. If
///   one of that matters, use [`query_typed`](Client::query_typed), which prepares nothing, or
///   `statement_cache(0)`.
/// - **Values.** The sixth execution of a statement on a connection may use a plan that fits the
///   average value. If that is bad for some, set `plan_cache_mode` to `force_custom_plan` as a
///   [`session_setting`](crate::PostgresConnectionManager::session_setting): the planner then runs
///   for each execution.
/// - **Texts with values in them** never repeat, and only fill the cache. Pass values as
///   parameters.
/// - **Not kept** are `FETCH` and `EXECUTE`, whose columns are those of another statement; texts
///   with a time such as `'now'` or `'today'`, or a type such as `regtype`, which the server reads
///   when it prepares them; the statements of [`query_raw`](Client::query_raw) (it takes the types
///   of a kept one, and then needs one round trip), of the methods with `typed` in their names, of
///   `COPY`, of [`simple_query`](Client::simple_query) and
///   [`batch_execute`](Client::batch_execute), and of [`prepare_typed`](Client::prepare_typed).
/// - **Behind a transaction pooler** nothing can stay on the server: only the types of parameters
///   are kept, and a statement is sent with its text, in one round trip.
///
/// [`PostgresConnectionManager::statements`](crate::PostgresConnectionManager::statements) counts
/// hits, and so do the pool's [`Stats::driver`](fairpool::stats::Stats::driver) and its exporters.
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
///   `&mut **conn`. What is done with it is not seen, so the session is reset after that use, and
///   its statements are not kept.
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
    /// First, so that it is dropped before the connection: a pooler may give the session to the
    /// next client at once.
    seat: Option<Seat>,
    inner: postgres::Client,
    state: State,
}

impl Client {
    pub(crate) fn new(
        inner: postgres::Client,
        rules: Arc<Rules>,
        role: ServerRole,
        seat: Option<Seat>,
    ) -> Self {
        let state = State::new(rules, role, seat.as_ref().map(Seat::id));
        Self { seat, inner, state }
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

    /// Returns the id of the server's process for this connection, as in `pg_stat_activity`. `None`
    /// behind a transaction pooler, and for a client that no manager has opened.
    #[must_use]
    pub fn backend_id(&self) -> Option<u32> {
        self.seat.as_ref().map(Seat::id)
    }

    /// Names this session in `pg_stat_activity` and the server's log, in the place of the manager's
    /// [`application_name`](crate::PostgresConnectionManager::application_name), until the
    /// connection returns. The server takes 63 bytes, and replaces what is not printable ASCII.
    ///
    /// It costs a round trip now, and the reset when the connection returns: together 90 µs on one
    /// machine, over loopback. [`set_comment`](Client::set_comment) costs no round trip.
    ///
    /// In a transaction that is rolled back the name goes with it. With
    /// [`Reset::Off`](crate::Reset::Off) and [`Reset::Rollback`](crate::Reset::Rollback), which
    /// reset no parameters, it stays for the next caller.
    ///
    /// # Errors
    ///
    /// If the server refuses, in a failed transaction for example. Behind a
    /// [`transaction_pooler`](crate::PostgresConnectionManager::transaction_pooler), always.
    ///
    /// # Blocking
    ///
    /// One round trip.
    pub fn set_application_name(&mut self, name: &str) -> Result<(), Error> {
        const SET: &str = "SELECT pg_catalog.set_config('application_name', $1, false)";
        // Sent as it is: the comment of this use would only hide the name.
        let (inner, state) = self.parts();
        let set = |inner: &mut postgres::Client| inner.query_typed(SET, &[(&name, Type::TEXT)]);
        state.bare_call(inner, SET, set).map(drop)
    }

    /// Appends a comment with these tags to each statement of this use, in the form of
    /// [sqlcommenter](https://google.github.io/sqlcommenter/spec/): `SELECT 1
    /// /*label='orders',traceparent='00-…'*/`. So `pg_stat_activity`, the server's log and
    /// `auto_explain` show for whom a statement runs. No tags: no comment.
    ///
    /// Names and values may be any text: what is no letter, digit or one of `-._~` is
    /// percent-encoded, so nothing in them can end the comment. The tags are sorted; of two with
    /// one name the last counts. The comment ends with the use.
    ///
    /// It is not added to a text that has a comment already (`--` or `/*` anywhere), as the
    /// specification asks, nor to prepared [`Statement`]s, which are sent by name, the `BEGIN` and
    /// `COMMIT` of a [`Transaction`], and what is sent through the driver's own client.
    ///
    /// # What it costs
    ///
    /// No round trip, 0.5 µs here, and as much or twice that for each statement. A text with a
    /// comment of its own is another text to the server, which parses and plans it anew: 30 to 60
    /// µs more than for one that the connection [keeps](Client#prepared-statements). With the types
    /// of that, it is sent in one round trip. `pg_stat_statements` goes by the parsed statement,
    /// and still counts it as one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use fairpool::Pool;
    /// use fairpool_postgres::{NoTls, PostgresConnectionManager};
    ///
    /// let manager = PostgresConnectionManager::from_url("host=localhost user=postgres", NoTls)?;
    /// let pool = Pool::new(manager)?;
    /// let mut conn = pool.get()?;
    /// let traceparent = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01";
    /// conn.set_comment(&[("label", "GET /orders/{id}"), ("traceparent", traceparent)]);
    /// // … /*label='GET%20%2Forders%2F%7Bid%7D',traceparent='00-5bd6…-01'*/
    /// let orders: i64 = conn.query_one("SELECT count(*) FROM orders", &[])?.get(0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_comment(&mut self, tags: &[(&str, &str)]) {
        self.state.comment = Comment::of(tags);
    }

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

    /// The pool's check: whether the server answers and still has its role. One round trip. If it
    /// runs out of time it may be made again: so its failure is not noted, which would end the
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
        drop(self.seat);
        self.inner.close()
    }
}

/// For functions that take a [`Client`] but are given a connection from no pool.
impl From<postgres::Client> for Client {
    fn from(inner: postgres::Client) -> Self {
        Self::new(inner, Arc::default(), ServerRole::Any, None)
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
