//! What a statement answers. Errors that come with its rows are noted, too.

use std::mem;

use mysql::prelude::Protocol;
use mysql::{Error, QueryResult, Row};

use super::state::State;

/// The answer to a statement, and the state that has to know of its errors.
///
/// The driver's own methods read the rows that nobody asked for when a result is dropped, and tell
/// nobody of errors there. So these methods read to the end themselves.
pub(super) struct Answer<'a, P: Protocol> {
    result: Result<QueryResult<'a, 'a, 'a, P>, Error>,
    state: &'a mut State,
}

impl<'a, P: Protocol> Answer<'a, P> {
    pub(super) fn new(
        result: Result<QueryResult<'a, 'a, 'a, P>, Error>,
        state: &'a mut State,
    ) -> Self {
        Self { result, state }
    }

    /// Gives the rows to the user, if there are any. Their errors are not seen.
    pub(super) fn lend(self) -> Result<QueryResult<'a, 'a, 'a, P>, Error> {
        let result = self.state.note(self.result)?;
        self.state.has_lent_rows |= !result.columns().as_ref().is_empty();
        Ok(result)
    }

    /// Folds the rows of the first result.
    pub(super) fn fold<U>(self, init: U, mut f: impl FnMut(U, Row) -> U) -> Result<U, Error> {
        let Self { result, state } = self;
        let mut result = state.note(result)?;
        // If `f` panics, the driver reads the rest.
        let had_lent = mem::replace(&mut state.has_lent_rows, true);
        let folded = result.try_fold(init, |folded, row| row.map(|row| f(folded, row)));
        let folded = state.note(folded);
        read_to_end(result, state);
        state.has_lent_rows = had_lent;
        folded
    }

    /// Returns the first row of the first result.
    pub(super) fn first(self) -> Result<Option<Row>, Error> {
        let Self { result, state } = self;
        let mut result = state.note(result)?;
        let first = state.note(result.next().transpose());
        read_to_end(result, state);
        first
    }

    /// Reads all rows. As with the driver, an error among them is not returned.
    pub(super) fn finish(self) -> Result<(), Error> {
        let Self { result, state } = self;
        let result = state.note(result)?;
        read_to_end(result, state);
        Ok(())
    }
}

fn read_to_end<P: Protocol>(mut result: QueryResult<'_, '_, '_, P>, state: &mut State) {
    while let Some(rows) = result.iter() {
        for row in rows {
            let _ = state.note(row);
        }
    }
}
