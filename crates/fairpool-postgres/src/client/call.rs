//! One call of the driver. Its statement has a name on the server, or, behind a transaction
//! pooler, none.

use std::sync::Arc;

use postgres::types::{ToSql, Type};
use postgres::{Error, GenericClient, Row};

use super::state::State;
use super::statement::Statement;

/// How a statement is given.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Text(&'a str),
    Ours(&'a Statement),
    Drivers(&'a postgres::Statement),
    /// One that the connection keeps prepared, for a text or for one of ours.
    Kept(&'a Statement),
}

impl<'a> Source<'a> {
    /// The statement that has a name on the server, or else the text.
    pub(super) fn named(self) -> Result<&'a postgres::Statement, &'a str> {
        match self {
            Source::Text(sql) => Err(sql),
            Source::Ours(statement) | Source::Kept(statement) => statement.named(),
            Source::Drivers(statement) => Ok(statement),
        }
    }

    /// The text of a statement that the connection may keep.
    pub(super) fn kept_text(self) -> Option<&'a str> {
        match self {
            Source::Text(sql) => Some(sql),
            Source::Ours(statement) | Source::Kept(statement) => {
                statement.epoch().map(|_| &**statement.sql())
            }
            Source::Drivers(_) => None,
        }
    }
}

/// How it is executed.
pub(super) enum Plan<'a> {
    /// The driver prepares it for this one call, under a name.
    Text(&'a str),
    Named(&'a postgres::Statement),
    /// In one message, without a name, with parameters of these types.
    Unnamed(&'a str, Arc<[Type]>),
}

impl<'a> Plan<'a> {
    pub(super) fn of(source: Source<'a>, params: usize) -> Self {
        match source {
            Source::Text(sql) => Plan::Text(sql),
            Source::Drivers(statement) => Plan::Named(statement),
            Source::Ours(statement) | Source::Kept(statement) => match statement.named() {
                Ok(named) => Plan::Named(named),
                Err(sql) => Plan::unnamed(sql, statement.types(), params),
            },
        }
    }

    /// The same with this text, if there is one, instead of a name on the server or the usual text.
    pub(super) fn with_text(source: Source<'a>, text: Option<&'a str>, params: usize) -> Self {
        match (source, text) {
            (Source::Text(_), Some(text)) => Plan::Text(text),
            (Source::Ours(statement) | Source::Kept(statement), Some(text)) => {
                Plan::unnamed(text, statement.types(), params)
            }
            _ => Plan::of(source, params),
        }
    }

    /// If the number of parameters is wrong, the driver's own error says so.
    pub(super) fn unnamed(sql: &'a str, types: Arc<[Type]>, params: usize) -> Self {
        if types.len() == params { Plan::Unnamed(sql, types) } else { Plan::Text(sql) }
    }
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

fn typed<'a>(params: Params<'a>, types: &[Type]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    params.iter().copied().zip(types.iter().cloned()).collect()
}

pub(super) fn execute<C: GenericClient>(
    inner: &mut C,
    state: &mut State,
    source: Source<'_>,
    params: Params<'_>,
) -> Result<u64, Error> {
    state.call(inner, source, params.len(), |inner, plan| match plan {
        Plan::Text(sql) => inner.execute(sql, params),
        Plan::Named(statement) => inner.execute(statement, params),
        Plan::Unnamed(sql, types) => inner.execute_typed(sql, &typed(params, &types)),
    })
}

pub(super) fn query<C: GenericClient>(
    inner: &mut C,
    state: &mut State,
    source: Source<'_>,
    params: Params<'_>,
) -> Result<Vec<Row>, Error> {
    state.call(inner, source, params.len(), |inner, plan| match plan {
        Plan::Text(sql) => inner.query(sql, params),
        Plan::Named(statement) => inner.query(statement, params),
        Plan::Unnamed(sql, types) => inner.query_typed(sql, &typed(params, &types)),
    })
}

pub(super) fn query_one<C: GenericClient>(
    inner: &mut C,
    state: &mut State,
    source: Source<'_>,
    params: Params<'_>,
) -> Result<Row, Error> {
    state.call(inner, source, params.len(), |inner, plan| match plan {
        Plan::Text(sql) => inner.query_one(sql, params),
        Plan::Named(statement) => inner.query_one(statement, params),
        Plan::Unnamed(sql, types) => inner.query_typed_one(sql, &typed(params, &types)),
    })
}

pub(super) fn query_opt<C: GenericClient>(
    inner: &mut C,
    state: &mut State,
    source: Source<'_>,
    params: Params<'_>,
) -> Result<Option<Row>, Error> {
    state.call(inner, source, params.len(), |inner, plan| match plan {
        Plan::Text(sql) => inner.query_opt(sql, params),
        Plan::Named(statement) => inner.query_opt(statement, params),
        Plan::Unnamed(sql, types) => inner.query_typed_opt(sql, &typed(params, &types)),
    })
}
