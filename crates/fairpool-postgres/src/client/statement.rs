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
        Self { kind: Kind::Named(statement), effect, sql: sql.into(), epoch: None }
    }

    pub(super) fn unnamed(sql: &str, effect: Effect, types: Arc<[Type]>) -> Self {
        Self { kind: Kind::Unnamed(types), effect, sql: sql.into(), epoch: None }
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
