//! A transaction whose statements are seen.

use std::fmt;

use mysql::Error;

use super::state::State;

/// A [`mysql::Transaction`] whose statements and errors the pool sees.
///
/// Dropping it rolls back. If that fails, or it is forgotten, the pool ends the transaction when
/// the connection returns.
pub struct Transaction<'a> {
    /// Taken by the end.
    inner: Option<mysql::Transaction<'a>>,
    state: &'a mut State,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(inner: mysql::Transaction<'a>, state: &'a mut State) -> Self {
        Self { inner: Some(inner), state }
    }

    pub(super) fn parts(&mut self) -> (&mut mysql::Transaction<'a>, &mut State) {
        (self.inner.as_mut().expect("BUG: used after its end"), self.state)
    }

    fn inner(&self) -> &mysql::Transaction<'a> {
        self.inner.as_ref().expect("BUG: used after its end")
    }

    fn end(
        &mut self,
        end: impl FnOnce(mysql::Transaction<'a>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.inner.take().map_or(Ok(()), |inner| self.state.ended(end(inner)))
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// As [`mysql::Transaction::commit`].
    pub fn commit(mut self) -> Result<(), Error> {
        self.end(mysql::Transaction::commit)
    }

    /// Rolls back.
    ///
    /// # Errors
    ///
    /// As [`mysql::Transaction::rollback`].
    pub fn rollback(mut self) -> Result<(), Error> {
        self.end(mysql::Transaction::rollback)
    }

    /// Returns the number of rows that the last statement affected.
    #[must_use]
    pub fn affected_rows(&self) -> u64 {
        self.inner().affected_rows()
    }

    /// Returns the last id that was generated, if any.
    #[must_use]
    pub fn last_insert_id(&self) -> Option<u64> {
        self.inner().last_insert_id()
    }

    /// Returns the number of warnings.
    #[must_use]
    pub fn warnings(&self) -> u16 {
        self.inner().warnings()
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // After an error the transaction counts as open.
        let _ = self.end(mysql::Transaction::rollback);
    }
}

/// Without the driver's own `Debug`, which shows the password.
impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}
