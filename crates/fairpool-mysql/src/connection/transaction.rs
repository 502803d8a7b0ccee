//! A transaction whose statements are seen.

use std::fmt;

use mysql::prelude::{AsStatement, Queryable};
use mysql::{Binary, Error, Params, QueryResult, Statement, Text};

use super::state::State;

/// A [`mysql::Transaction`] whose statements and errors the pool sees.
///
/// Dropping it rolls back. If that fails, or it is forgotten, the pool ends the transaction when
/// the connection returns.
pub struct Transaction<'a> {
    inner: mysql::Transaction<'a>,
    state: &'a mut State,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(inner: mysql::Transaction<'a>, state: &'a mut State) -> Self {
        Self { inner, state }
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// As [`mysql::Transaction::commit`].
    pub fn commit(self) -> Result<(), Error> {
        self.state.ended(self.inner.commit())
    }

    /// Rolls back.
    ///
    /// # Errors
    ///
    /// As [`mysql::Transaction::rollback`].
    pub fn rollback(self) -> Result<(), Error> {
        self.state.ended(self.inner.rollback())
    }

    /// Returns the number of rows that the last statement affected.
    #[must_use]
    pub fn affected_rows(&self) -> u64 {
        self.inner.affected_rows()
    }

    /// Returns the last id that was generated, if any.
    #[must_use]
    pub fn last_insert_id(&self) -> Option<u64> {
        self.inner.last_insert_id()
    }

    /// Returns the number of warnings.
    #[must_use]
    pub fn warnings(&self) -> u16 {
        self.inner.warnings()
    }
}

impl Queryable for Transaction<'_> {
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

/// Without the driver's own `Debug`, which shows the password.
impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}
