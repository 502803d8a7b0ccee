//! A prepared statement, and what can be executed.

use std::fmt;
use std::sync::Arc;

use postgres::Column;
use postgres::types::Type;

use super::call::Source;
use crate::left::Effect;

/// A prepared statement, which remembers what its execution may leave on the session.
///
/// It belongs to the connection that prepared it, like the driver's
/// [`Statement`](postgres::Statement). If the schema changes, the connection prepares it again, as
/// it does for texts: see [`Client`](crate::Client#prepared-statements).
#[derive(Clone)]
pub struct Statement {
    kind: Kind,
    effect: Effect,
    selects_all: bool,
    sql: Arc<str>,
    /// In which the connection keeps it; `None`: not at all.
    epoch: Option<u64>,
}

#[derive(Clone)]
enum Kind {
    Named(postgres::Statement),
    /// Behind a pooler that pools transactions: only types.
    Unnamed(Arc<[Type]>),
}

impl Statement {
    pub(super) fn new(sql: &str, effect: Effect, statement: postgres::Statement) -> Self {
        let selects_all = !statement.columns().is_empty() && selects_all(sql);
        Self { kind: Kind::Named(statement), effect, selects_all, sql: sql.into(), epoch: None }
    }

    pub(super) fn unnamed(sql: &str, effect: Effect, types: Arc<[Type]>) -> Self {
        let kind = Kind::Unnamed(types);
        Self { kind, effect, selects_all: false, sql: sql.into(), epoch: None }
    }

    pub(super) fn kept_since(self, epoch: u64) -> Self {
        Self { epoch: Some(epoch), ..self }
    }

    /// Of the time when the connection prepared it to keep it.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    pub(super) fn effect(&self) -> Effect {
        self.effect
    }

    pub(super) fn sql(&self) -> &Arc<str> {
        &self.sql
    }

    /// The driver's statement; or the text, if there is none.
    pub(super) fn named(&self) -> Result<&postgres::Statement, &str> {
        match &self.kind {
            Kind::Named(statement) => Ok(statement),
            Kind::Unnamed(_) => Err(&self.sql),
        }
    }

    /// Whether its columns may be all those of a table, so that they change when the table does.
    pub(super) fn selects_all(&self) -> bool {
        self.selects_all
    }

    /// The types of the parameters, to be shared.
    pub(super) fn types(&self) -> Arc<[Type]> {
        match &self.kind {
            Kind::Named(statement) => statement.params().into(),
            Kind::Unnamed(types) => Arc::clone(types),
        }
    }

    /// Whether both have the same types: as far as these go, the schema has not changed.
    pub(super) fn is_like(&self, other: &Statement) -> bool {
        let columns = |statement: &Statement| {
            let columns = statement.columns().iter();
            columns.map(|column| column.type_().clone()).collect::<Vec<_>>()
        };
        self.params() == other.params() && columns(self) == columns(other)
    }

    /// Returns the types of the parameters.
    #[must_use]
    pub fn params(&self) -> &[Type] {
        match &self.kind {
            Kind::Named(statement) => statement.params(),
            Kind::Unnamed(types) => types,
        }
    }

    /// Returns the columns of the result. Behind a
    /// [transaction pooler](crate::PostgresConnectionManager::transaction_pooler) they are not
    /// known before the execution, and this is empty.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        match &self.kind {
            Kind::Named(statement) => statement.columns(),
            Kind::Unnamed(_) => &[],
        }
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statement").field("params", &self.params()).finish_non_exhaustive()
    }
}

/// Whether a text may have a `*` that stands for columns. At worst it is another: `(a) * b`.
fn selects_all(sql: &str) -> bool {
    let is_columns = |(at, _): (usize, &str)| {
        let before = sql[..at].trim_end();
        let word = before.rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        before.ends_with([',', '.', ')'])
            || ["select", "all", "distinct", "returning"]
                .iter()
                .any(|other| word.eq_ignore_ascii_case(other))
    };
    sql.match_indices('*').any(is_columns) || sql.to_ascii_lowercase().contains("table")
}

/// What can be executed: a text, a [`Statement`], or a [`postgres::Statement`].
///
/// The text of a statement that was prepared with the driver's own client is not known, so the
/// session is reset after its execution.
///
/// The trait is sealed. The driver's own [`postgres::ToStatement`] does not give the text.
pub trait ToStatement: sealed::Sealed {}

pub(super) mod sealed {
    use super::super::call::Source;

    pub trait Sealed {
        fn source(&self) -> Source<'_>;
    }
}

use sealed::Sealed;

impl ToStatement for str {}
impl ToStatement for String {}
impl ToStatement for Statement {}
impl ToStatement for postgres::Statement {}

impl Sealed for str {
    fn source(&self) -> Source<'_> {
        Source::Text(self)
    }
}

impl Sealed for String {
    fn source(&self) -> Source<'_> {
        Source::Text(self)
    }
}

impl Sealed for Statement {
    fn source(&self) -> Source<'_> {
        Source::Ours(self)
    }
}

impl Sealed for postgres::Statement {
    fn source(&self) -> Source<'_> {
        Source::Drivers(self)
    }
}

#[cfg(test)]
mod tests {
    use super::selects_all;

    #[test]
    fn a_star_that_stands_for_columns_is_told_from_others() {
        let all = [
            "SELECT * FROM t",
            "select distinct * from t",
            "SELECT ALL\n* FROM t",
            "SELECT a, * FROM t",
            "SELECT t.* FROM t",
            "SELECT DISTINCT ON (a) * FROM t",
            "INSERT INTO t VALUES (1) RETURNING *",
            "TABLE t",
        ];
        assert!(all.iter().all(|sql| selects_all(sql)));
        let others = ["SELECT count(*) FROM t", "SELECT a * b FROM t", "SELECT 2*3", "SELECT a"];
        assert!(!others.iter().any(|sql| selects_all(sql)));
    }
}
