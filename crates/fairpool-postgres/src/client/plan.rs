//! How a statement is executed: as one that the connection keeps prepared, or else as the driver
//! does it.

use std::error::Error as _;
use std::sync::Arc;

use postgres::error::SqlState;
use postgres::types::{Type, WrongType};
use postgres::{Error, GenericClient};

use super::call::{Plan, Source};
use super::rules::{is_lost_statement, is_outdated};
use super::state::State;
use super::statement::Statement;
use crate::left::{Effect, Left};

/// Codes of errors that a statement may have because the schema is no longer the one that it was
/// prepared for: a column that a parameter is compared with has another type, for example. Most of
/// these errors have other causes.
const PERHAPS_OUTDATED: [SqlState; 7] = [
    SqlState::UNDEFINED_FUNCTION,
    SqlState::UNDEFINED_COLUMN,
    SqlState::UNDEFINED_TABLE,
    SqlState::UNDEFINED_OBJECT,
    SqlState::DATATYPE_MISMATCH,
    SqlState::CANNOT_COERCE,
    // "cache lookup failed for type"
    SqlState::INTERNAL_ERROR,
];

/// How often a call prepares a statement again that is outdated each time.
const RENEWALS: u32 = 5;

impl State {
    /// Executes a statement. If the connection keeps it prepared, and it turns out to be outdated
    /// before the server has done anything, prepares it again and executes that.
    pub(super) fn call<C: GenericClient, R>(
        &mut self,
        inner: &mut C,
        source: Source<'_>,
        params: usize,
        call: impl Fn(&mut C, Plan<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let begin = self.begin.take();
        let kept = self.kept(source);
        let source = match source.kept_text() {
            // Also in place of one of ours that is outdated.
            Some(sql) if kept.is_none() => Source::Text(sql),
            _ => source,
        };
        let effect = kept.as_ref().map_or_else(|| self.effect(source), Statement::effect);
        self.admit_effect(inner, effect)?;
        let commented = self.commented(source);
        let (source, result) = if let Some(kept) = &kept {
            // One that turns out to be outdated would end the transaction.
            let is_late = begin.is_none() && self.may_be_in_transaction();
            let text = (is_late && kept.selects_all()).then(|| &**kept.sql());
            let plan = Plan::with_text(Source::Kept(kept), commented.as_deref().or(text), params);
            let result = call(inner, plan);
            let anew = |error| self.call_anew(inner, kept, params, &call, begin.as_deref(), error);
            (Source::Kept(kept), result.or_else(anew))
        } else {
            let fresh = match source {
                Source::Text(sql) => self.prepare_to_keep(inner, sql, effect, Some(params)),
                _ => Ok(None),
            };
            let call = |fresh: Option<Statement>| {
                let source = fresh.as_ref().map_or(source, Source::Kept);
                let result = call(inner, Plan::with_text(source, commented.as_deref(), params));
                match (result, fresh) {
                    (Err(error), Some(fresh)) if is_outdated(&error) => {
                        self.call_anew(inner, &fresh, params, &call, None, error)
                    }
                    (result, _) => result,
                }
            };
            (source, fresh.and_then(call))
        };
        let result = self.note(source, effect, result);
        self.ask_at_once(inner);
        result
    }

    /// Executes a statement that had this error as another one, if it was outdated.
    #[cold]
    fn call_anew<C: GenericClient, R>(
        &mut self,
        inner: &mut C,
        outdated: &Statement,
        params: usize,
        call: &impl Fn(&mut C, Plan<'_>) -> Result<R, Error>,
        begin: Option<&str>,
        mut error: Error,
    ) -> Result<R, Error> {
        let mut statement = outdated.clone();
        for _ in 0..RENEWALS {
            let fresh = self.renew(inner, &statement, begin, error)?;
            match call(inner, Plan::of(Source::Kept(&fresh), params)) {
                // The schema has changed once more in between.
                Err(again) if is_outdated(&again) => (statement, error) = (fresh, again),
                result => return result.inspect_err(|error| self.note_second_error(error)),
            }
        }
        self.note_second_error(&error);
        Err(error)
    }

    /// Chooses how to execute a statement whose rows are read later. It is executed only once, so
    /// not as one that the connection keeps, which may be outdated; but with the types of that.
    pub(super) fn plan_of_stream<'s, C: GenericClient>(
        &mut self,
        inner: &mut C,
        source: Source<'s>,
        commented: Option<&'s str>,
        params: usize,
    ) -> Result<Plan<'s>, Error> {
        let Source::Text(sql) = source else {
            let text = commented.or(self.text_instead(source));
            return Ok(Plan::with_text(source, text, params));
        };
        let sent = commented.unwrap_or(sql);
        let types = match self.kept(source) {
            Some(kept) => kept.types(),
            None if !self.rules().transaction_pooler => return Ok(Plan::Text(sent)),
            None if params == 0 => Arc::new([]),
            None => self.ask_for_types(inner, sql, &[])?,
        };
        Ok(Plan::unnamed(sent, types, params))
    }

    /// The text of a statement that is executed only once, so that it must not turn out to be
    /// outdated: its user has got one that the connection had kept, maybe for long.
    pub(super) fn text_instead<'s>(&mut self, source: Source<'s>) -> Option<&'s str> {
        let Source::Ours(statement) = source else { return None };
        let may_be_outdated = statement.epoch().is_some()
            && (statement.selects_all() || !self.statements.is_current(statement));
        may_be_outdated.then(|| &**statement.sql())
    }

    /// Prepares a statement for its user, or takes one that the connection keeps.
    pub(super) fn prepare<C: GenericClient>(
        &mut self,
        inner: &mut C,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        let source = Source::Text(sql);
        if types.is_empty()
            && let Some(kept) = self.kept(source)
        {
            // The server was not asked, so this tells nothing of the session.
            return Ok(kept);
        }
        let result = self.prepare_for_user(inner, sql, types);
        self.note(source, Effect::default(), result)
    }

    fn prepare_for_user<C: GenericClient>(
        &mut self,
        inner: &mut C,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, Error> {
        let effect = self.effect(Source::Text(sql));
        if types.is_empty()
            && let Some(kept) = self.prepare_to_keep(inner, sql, effect, None)?
        {
            return Ok(kept);
        }
        if self.rules().transaction_pooler {
            let types = self.ask_for_types(inner, sql, types)?;
            return Ok(Statement::unnamed(sql, effect, types));
        }
        let statement = inner.prepare_typed(sql, types)?;
        Ok(Statement::new(sql, effect, statement))
    }

    /// The statement that the connection keeps, unless names mean something else now.
    fn kept(&mut self, source: Source<'_>) -> Option<Statement> {
        match source {
            Source::Ours(statement) if self.statements.is_current(statement) => {
                Some(statement.clone())
            }
            _ if self.meaning_changed => None,
            source => self.statements.get(source.kept_text()?),
        }
    }

    /// Prepares a statement, and keeps it if it may be kept. `None`: the driver is to prepare it
    /// itself. Behind a transaction pooler always `Some`, for its types.
    fn prepare_to_keep<C: GenericClient>(
        &mut self,
        inner: &mut C,
        sql: &str,
        effect: Effect,
        params: Option<usize>,
    ) -> Result<Option<Statement>, Error> {
        let epoch = self.statements.epoch();
        let statement = if self.rules().transaction_pooler {
            if params == Some(0) {
                return Ok(Some(Statement::unnamed(sql, effect, Arc::new([]))));
            }
            Statement::unnamed(sql, effect, self.ask_for_types(inner, sql, &[])?)
        } else if self.meaning_changed || effect.is_fleeting || !self.statements.takes(sql) {
            return Ok(None);
        } else {
            Statement::new(sql, effect, inner.prepare(sql)?)
        };
        if !self.statements.takes(sql) {
            return Ok(Some(statement));
        }
        let statement = statement.kept_since(epoch);
        self.statements.keep(&statement);
        Ok(Some(statement))
    }

    /// The types of a statement's parameters. The server is asked for them inside a transaction,
    /// during which the pooler stays on one session.
    fn ask_for_types<C: GenericClient>(
        &mut self,
        inner: &mut C,
        sql: &str,
        given: &[Type],
    ) -> Result<Arc<[Type]>, Error> {
        if self.may_be_in_transaction() {
            return Ok(inner.prepare_typed(sql, given)?.params().into());
        }
        let mut transaction = inner.transaction()?;
        let types = transaction.prepare_typed(sql, given)?.params().into();
        transaction.commit()?;
        Ok(types)
    }

    /// What to execute instead of this statement, whose execution had this error. In a transaction
    /// nothing, as the error has ended that: unless the statement was the first in it, so that it
    /// can begin again.
    #[cold]
    fn renew<C: GenericClient>(
        &mut self,
        inner: &mut C,
        kept: &Statement,
        begin: Option<&str>,
        error: Error,
    ) -> Result<Statement, Error> {
        let is_lost = is_lost_statement(&error);
        let is_suspect = is_lost
            || error.code().is_some_and(|code| PERHAPS_OUTDATED.contains(code))
            || has_wrong_type(&error);
        // From inside a procedure, which may have committed, or a function. There is a context too if
        // the server is to log the parameters of errors.
        let is_nested = kept.effect().leaves.intersects(Left::UNKNOWN)
            && error.as_db_error().is_some_and(|db| db.where_().is_some());
        if !is_suspect || is_nested || kept.named().is_err() {
            return Err(error);
        }
        if is_lost {
            self.statements.end_epoch_of(kept);
        }
        self.statements.forget(kept.sql());
        if let (true, Some(begin)) = (is_lost, begin)
            && let Err(other) = inner.batch_execute(&format!("ROLLBACK; {begin}"))
        {
            self.note_error(&other);
            return Err(error);
        }
        // Refused in a transaction that has failed.
        let fresh = match inner.prepare(kept.sql()) {
            Ok(fresh) => fresh,
            Err(other) => {
                if other.code() == Some(&SqlState::DUPLICATE_PSTATEMENT) {
                    self.lost_statement(&other);
                }
                return Err(error);
            }
        };
        if error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME) {
            self.compare_backend(inner);
        }
        let fresh = Statement::new(kept.sql(), kept.effect(), fresh);
        let is_renewed = is_lost || !fresh.is_like(kept);
        if is_renewed {
            self.statements.end_epoch_of(kept);
        }
        let fresh = fresh.kept_since(self.statements.epoch());
        self.statements.keep(&fresh);
        if is_renewed { Ok(fresh) } else { Err(error) }
    }

    /// After a kept statement was not there: if the session is another one, a pooler gives it to
    /// several clients, and a kept name may be another client's statement.
    fn compare_backend<C: GenericClient>(&mut self, inner: &mut C) {
        let row = inner.query_typed("SELECT pg_catalog.pg_backend_pid()", &[]);
        let id = row.ok().and_then(|rows| rows.first()?.try_get::<_, i32>(0).ok());
        let id = id.and_then(|id| u32::try_from(id).ok());
        if id.is_some() && self.backend.is_some() && id != self.backend {
            self.rules().session_moved();
        }
    }

    /// The statement had been prepared just before.
    #[cold]
    fn note_second_error(&mut self, error: &Error) {
        if is_lost_statement(error) {
            self.lost_statement(error);
        }
    }
}

/// Whether the driver itself has refused a value, by the type that its parameter had.
fn has_wrong_type(error: &Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<WrongType>())
}
