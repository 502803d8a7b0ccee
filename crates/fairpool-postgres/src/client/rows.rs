//! Rows as they arrive.

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Error, Row};

use super::state::State;

/// The rows of a [`query_raw`](crate::Client::query_raw), as they arrive; see
/// [`postgres::RowIter`].
///
/// A statement may fail only when its rows are asked for. So this notes errors as
/// [`Client`](crate::Client) does, and the pool knows of them when the connection returns.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
/// use fairpool_postgres::{NoTls, PostgresConnectionManager};
///
/// let manager = PostgresConnectionManager::from_url("host=localhost user=postgres", NoTls)?;
/// let mut conn = Pool::new(manager)?.get()?;
/// let mut rows = conn.query_raw("SELECT generate_series(1, $1)", [1_000_000])?;
/// while let Some(row) = rows.next()? {
///     println!("{}", row.get::<_, i32>(0));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RowIter<'a> {
    inner: postgres::RowIter<'a>,
    state: &'a mut State,
}

impl<'a> RowIter<'a> {
    pub(super) fn new(inner: postgres::RowIter<'a>, state: &'a mut State) -> RowIter<'a> {
        RowIter { inner, state }
    }

    /// Returns the number of rows that the statement changed or returned; `None` before all rows
    /// were read.
    #[must_use]
    pub fn rows_affected(&self) -> Option<u64> {
        self.inner.rows_affected()
    }
}

impl FallibleIterator for RowIter<'_> {
    type Item = Row;
    type Error = Error;

    fn next(&mut self) -> Result<Option<Row>, Error> {
        self.inner.next().inspect_err(|error| self.state.note_error(error))
    }
}
