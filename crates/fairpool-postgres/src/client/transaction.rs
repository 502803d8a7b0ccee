//! Transactions: what their statements leave on the session may outlive them.

mod end;

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use postgres::types::{BorrowToSql, ToSql, Type};
use postgres::{
    CopyInWriter, CopyOutReader, Error, IsolationLevel, Portal, Row, SimpleQueryMessage,
};

use super::call::{self, Source};
use super::cancel::CancelToken;
use super::methods::statement_methods;
use super::rows::RowIter;
use super::state::State;
use super::statement::{Statement, ToStatement};
use crate::left::{Effect, Left};

pub(crate) use self::end::End;

/// A transaction of a [`Client`](crate::Client), or a savepoint in one. Its drop rolls back.
///
/// [`transaction`](crate::transaction) gives one to a closure, and runs it again if need be.
///
/// It has the methods of the driver's [`Transaction`](postgres::Transaction), which can be
/// lent like the driver's client.
pub struct Transaction<'a> {
    /// `None` only after its end.
    inner: Option<postgres::Transaction<'a>>,
    state: &'a mut State,
    /// Not a savepoint: its end is the end of the transaction.
    is_outermost: bool,
}

const BEGIN: &str = "START TRANSACTION";
const ENDED: &str = "BUG: a transaction that has ended";

impl<'a> Transaction<'a> {
    fn parts(&mut self) -> (&mut postgres::Transaction<'a>, &mut State) {
        (self.inner.as_mut().expect(ENDED), self.state)
    }

    statement_methods!();

    /// Commits.
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::commit`].
    pub fn commit(mut self) -> Result<(), Error> {
        self.ask_for_role();
        self.end(postgres::Transaction::commit)
    }

    /// Rolls back, as a drop does, and returns the error if that fails.
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::rollback`].
    pub fn rollback(mut self) -> Result<(), Error> {
        self.ask_for_role();
        self.end(postgres::Transaction::rollback)
    }

    fn ask_for_role(&mut self) {
        if let (Some(inner), true) = (&mut self.inner, self.is_outermost) {
            self.state.ask_at_end(inner);
        }
    }

    fn end(
        mut self,
        end: impl FnOnce(postgres::Transaction<'a>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inner = self.inner.take().expect(ENDED);
        self.state.ended(end(inner), self.is_outermost)
    }

    /// Binds a statement to its parameters; see [`postgres::Transaction::bind`].
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::bind`].
    pub fn bind<T>(&mut self, query: &T, params: &[&(dyn ToSql + Sync)]) -> Result<Portal, Error>
    where
        T: ?Sized + ToStatement,
    {
        let (inner, state) = self.parts();
        let effect = state.admit(inner, query.source())?;
        let text = state.text_instead(query.source());
        let result = match text.map_or_else(|| query.source().named(), Err) {
            Ok(statement) => inner.bind(statement, params),
            Err(sql) => inner.bind(sql, params),
        };
        // Bound, and not executed yet: not even a COMMIT has ended anything.
        state.note(query.source(), Effect { ends_transaction: false, ..effect }, result)
    }

    /// Returns the next rows of a portal; all of them if `max_rows` is not above zero.
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::query_portal`].
    pub fn query_portal(&mut self, portal: &Portal, max_rows: i32) -> Result<Vec<Row>, Error> {
        let (inner, state) = self.parts();
        let result = inner.query_portal(portal, max_rows);
        state.answered(result)
    }

    /// As [`query_portal`](Transaction::query_portal), with rows as they arrive.
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::query_portal_raw`].
    pub fn query_portal_raw(
        &mut self,
        portal: &Portal,
        max_rows: i32,
    ) -> Result<RowIter<'_>, Error> {
        let (inner, state) = self.parts();
        let result = inner.query_portal_raw(portal, max_rows);
        let rows = state.streams(Source::Text(""), Effect::default(), result)?;
        Ok(RowIter::new(rows, state))
    }

    /// Returns a token that can cancel this use's queries from another thread.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        let inner = self.inner.as_ref().expect(ENDED);
        CancelToken::new(inner.cancel_token(), self.state.this_use())
    }

    /// Begins a savepoint, which is rolled back unless it is committed.
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::transaction`].
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let (inner, state) = self.parts();
        let inner = Some(state.answered(inner.transaction())?);
        Ok(Transaction { inner, state, is_outermost: false })
    }

    /// As [`transaction`](Transaction::transaction), with a name.
    ///
    /// # Errors
    ///
    /// As [`postgres::Transaction::savepoint`].
    pub fn savepoint<I>(&mut self, name: I) -> Result<Transaction<'_>, Error>
    where
        I: Into<String>,
    {
        let (inner, state) = self.parts();
        let inner = Some(state.answered(inner.savepoint(name))?);
        Ok(Transaction { inner, state, is_outermost: false })
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.ask_for_role();
        if let Some(inner) = self.inner.take() {
            // If it fails, the transaction stays marked as open.
            let _ = self.state.ended(inner.rollback(), self.is_outermost);
        }
    }
}

impl<'a> Deref for Transaction<'a> {
    type Target = postgres::Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        self.inner.as_ref().expect(ENDED)
    }
}

/// Lends the driver's transaction: from here on anything may be left on the session.
impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.state.lend();
        self.inner.as_mut().expect(ENDED)
    }
}

/// A builder of a [`Transaction`]. From [`Client::build_transaction`](crate::Client).
#[must_use = "nothing happens before `start`"]
pub struct TransactionBuilder<'a> {
    inner: postgres::TransactionBuilder<'a>,
    state: &'a mut State,
    /// What was set, in SQL.
    modes: Vec<&'static str>,
}

impl<'a> TransactionBuilder<'a> {
    pub(super) fn new(inner: postgres::TransactionBuilder<'a>, state: &'a mut State) -> Self {
        Self { inner, state, modes: Vec::new() }
    }

    /// Sets the isolation level; the default is the server's.
    pub fn isolation_level(mut self, isolation_level: IsolationLevel) -> Self {
        self.inner = self.inner.isolation_level(isolation_level);
        self.modes.push(match isolation_level {
            IsolationLevel::ReadUncommitted => "ISOLATION LEVEL READ UNCOMMITTED",
            IsolationLevel::ReadCommitted => "ISOLATION LEVEL READ COMMITTED",
            IsolationLevel::RepeatableRead => "ISOLATION LEVEL REPEATABLE READ",
            // The strictest, whatever the driver adds.
            _ => "ISOLATION LEVEL SERIALIZABLE",
        });
        self
    }

    /// Sets whether it may only read; the default is the server's.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.inner = self.inner.read_only(read_only);
        self.modes.push(if read_only { "READ ONLY" } else { "READ WRITE" });
        self
    }

    /// Sets whether it may wait at its start, so that it cannot fail later: for serializable
    /// transactions that only read; the default is the server's.
    pub fn deferrable(mut self, deferrable: bool) -> Self {
        self.inner = self.inner.deferrable(deferrable);
        self.modes.push(if deferrable { "DEFERRABLE" } else { "NOT DEFERRABLE" });
        self
    }

    /// Begins the transaction.
    ///
    /// # Errors
    ///
    /// As [`postgres::TransactionBuilder::start`].
    pub fn start(self) -> Result<Transaction<'a>, Error> {
        // If one is open already, this is no beginning, and what came before must not be lost.
        let is_first = !self.state.may_be_in_transaction();
        self.state.mark(Left::TRANSACTION);
        let inner = self.inner.start();
        let inner = Some(self.state.answered(inner)?);
        self.state.begin = is_first.then(|| match self.modes.as_slice() {
            [] => Cow::Borrowed(BEGIN),
            modes => Cow::Owned(format!("{BEGIN} {}", modes.join(", "))),
        });
        Ok(Transaction { inner, state: self.state, is_outermost: true })
    }
}
