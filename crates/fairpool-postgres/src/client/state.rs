//! What the client knows about its session: what the use may have left, and whether the
//! connection has failed.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use postgres::error::SqlState;
use postgres::types::Type;
use postgres::{Error, GenericClient};

use super::call::{Plan, Source};
use super::cancel::ThisUse;
use super::comment::Comment;
use super::pooler::refuse;
use super::role::ServerRole;
use super::rules::{Rules, is_lost_statement};
use crate::Reset;
use crate::left::{Effect, Left};
use crate::manager::is_fatal;

/// Behind a transaction pooler, a connection remembers the types of this many statements.
const REMEMBERED_STATEMENTS: usize = 256;

/// What the client knows about its session.
pub(crate) struct State {
    rules: Arc<Rules>,
    /// What the connection asked of its server when it was opened.
    role: ServerRole,
    /// A call was refused because it writes: the server may have changed its role.
    is_role_in_doubt: bool,
    left: Left,
    /// The driver's client was lent, so that errors of calls were not seen.
    was_lent: bool,
    /// A call had a fatal error, so the connection must not be used again.
    has_failed: bool,
    /// What is appended to the texts of this use.
    pub(super) comment: Option<Comment>,
    /// Created with the first cancel token of a use.
    this_use: OnceCell<ThisUse>,
    /// What the last reset has undone, for the pool to log.
    pub(crate) left_behind: Option<&'static str>,
    /// The types of parameters, by text. Only behind a transaction pooler.
    types: HashMap<Box<str>, Arc<[Type]>>,
}

impl State {
    pub(crate) fn new(rules: Arc<Rules>, role: ServerRole) -> Self {
        Self {
            rules,
            role,
            is_role_in_doubt: false,
            left: Left::NOTHING,
            was_lent: false,
            has_failed: false,
            comment: None,
            this_use: OnceCell::new(),
            left_behind: None,
            types: HashMap::new(),
        }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn this_use(&self) -> &ThisUse {
        self.this_use.get_or_init(ThisUse::default)
    }

    /// Ends a use. Returns whether it is known that the connection must not be used again.
    pub(super) fn end_use(&mut self) -> bool {
        self.comment = None;
        let is_cancelled = self.this_use.take().is_some_and(ThisUse::end);
        let is_beyond_reset =
            self.left.intersects(Left::BEYOND_RESET) && self.rules.level() >= Reset::Session;
        is_cancelled || is_beyond_reset || self.has_failed
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn is_role_in_doubt(&self) -> bool {
        self.is_role_in_doubt
    }

    /// So that a reset follows.
    pub(super) fn doubt_role(&mut self) {
        self.is_role_in_doubt = true;
    }

    /// Whether a question at the return is answered at once: a pooler may let it wait for a session.
    pub(super) fn may_ask_at_return(&self) -> bool {
        !self.rules.transaction_pooler || self.left.intersects(Left::TRANSACTION)
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.is_role_in_doubt || self.has_left_something()
    }

    fn has_left_something(&self) -> bool {
        match self.rules.level() {
            Reset::Off => false,
            Reset::Rollback => self.left.intersects(Left::TRANSACTION | Left::UNREAD),
            Reset::Session => !self.left.is_nothing(),
            Reset::Always => true,
        }
    }

    /// What a reset has to undo. If nothing was seen, the pool resets because the holder
    /// panicked, or always: then anything may be left.
    pub(crate) fn left(&self) -> Left {
        let is_sure = !self.left.is_nothing()
            && matches!(self.rules.level(), Reset::Rollback | Reset::Session);
        if is_sure { self.left } else { Left::ANYTHING }
    }

    pub(crate) fn role(&self) -> ServerRole {
        self.role
    }

    /// The role that a reset has to ask for. A transaction that its user made read-only has ended
    /// by then. What was not seen, or not read, may be a refused write too.
    pub(crate) fn role_in_doubt(&self) -> ServerRole {
        let is_unseen = self.was_lent || self.left.intersects(Left::UNREAD);
        if self.is_role_in_doubt || is_unseen { self.role } else { ServerRole::Any }
    }

    pub(crate) fn set_clean(&mut self) {
        self.left = Left::NOTHING;
        self.was_lent = false;
        self.is_role_in_doubt = false;
    }

    /// Notes that the driver's client is lent: from here on anything may be left.
    pub(super) fn lend(&mut self) {
        self.mark(Left::ANYTHING);
        self.was_lent = true;
    }

    pub(super) fn mark(&mut self, left: Left) {
        self.left |= left;
    }

    pub(super) fn effect_of(&self, sql: &str) -> Effect {
        if self.rules.reset == Reset::Off && !self.rules.transaction_pooler {
            return Effect::default();
        }
        Effect::of(sql, &self.rules.harmless)
    }

    fn effect(&self, source: Source<'_>) -> Effect {
        match source {
            Source::Text(sql) => self.effect_of(sql),
            Source::Ours(statement) => statement.effect(),
            Source::Drivers(_) => Effect::ANYTHING,
        }
    }

    /// Marks what a statement may leave, before it is sent. Refuses what cannot work.
    pub(super) fn admit<C: GenericClient>(
        &mut self,
        inner: &mut C,
        source: Source<'_>,
    ) -> Result<Effect, Error> {
        let effect = self.effect(source);
        if self.rules.transaction_pooler {
            self.refuse_session_state(inner, effect.leaves)?;
        }
        self.mark(effect.leaves);
        Ok(effect)
    }

    fn refuse_session_state<C: GenericClient>(
        &self,
        inner: &mut C,
        leaves: Left,
    ) -> Result<(), Error> {
        let is_inside = self.left.intersects(Left::TRANSACTION);
        let ends_with_transaction = Left::TEMPORARY | Left::CURSOR;
        // Unreadable texts are sent: the server decides.
        let is_readable = !Left::ANYTHING.without(leaves).is_nothing();
        let needs_session = leaves.intersects(Left::NEEDS_OWN_SESSION)
            || leaves.intersects(ends_with_transaction)
                && !(is_inside || leaves.intersects(Left::TRANSACTION));
        if is_readable && needs_session {
            return Err(refuse(inner, "this statement needs a session of its own"));
        }
        Ok(())
    }

    /// As [`admit`](Self::admit), for a COPY, which takes several messages.
    pub(super) fn admit_copy<C: GenericClient>(
        &mut self,
        inner: &mut C,
        source: Source<'_>,
    ) -> Result<Effect, Error> {
        if self.rules.transaction_pooler && !self.left.intersects(Left::TRANSACTION) {
            return Err(refuse(inner, "COPY needs a transaction around it"));
        }
        self.admit(inner, source)
    }

    /// Chooses how to execute a statement with this number of parameters.
    pub(super) fn plan<'s, C: GenericClient>(
        &mut self,
        inner: &mut C,
        source: Source<'s>,
        params: usize,
    ) -> Result<Plan<'s>, Error> {
        let sql = match source.named() {
            Ok(statement) => return Ok(Plan::Named(statement)),
            Err(sql) => sql,
        };
        let types = match source {
            Source::Ours(statement) => statement.unnamed_types().cloned(),
            _ => None,
        };
        let types = match types {
            Some(types) => types,
            None if !self.rules.transaction_pooler => return Ok(Plan::Text(sql)),
            None if params == 0 => Arc::new([]),
            None => self.types_of(inner, sql, &[])?,
        };
        // If the number is wrong, the driver's own error says so.
        Ok(if types.len() == params { Plan::Unnamed(sql, types) } else { Plan::Text(sql) })
    }

    /// The types of a statement's parameters. The server is asked for them once per text, inside
    /// a transaction, during which the pooler stays on one session.
    pub(super) fn types_of<C: GenericClient>(
        &mut self,
        inner: &mut C,
        sql: &str,
        given: &[Type],
    ) -> Result<Arc<[Type]>, Error> {
        if let Some(types) = self.types.get(sql) {
            return Ok(Arc::clone(types));
        }
        let types: Arc<[Type]> = if self.left.intersects(Left::TRANSACTION) {
            inner.prepare_typed(sql, given)?.params().into()
        } else {
            let mut transaction = inner.transaction()?;
            let types = transaction.prepare_typed(sql, given)?.params().into();
            transaction.commit()?;
            types
        };
        if self.types.len() >= REMEMBERED_STATEMENTS {
            self.types.clear();
        }
        self.types.insert(sql.into(), Arc::clone(&types));
        Ok(types)
    }

    pub(super) fn call<C: GenericClient, R>(
        &mut self,
        inner: &mut C,
        source: Source<'_>,
        params: usize,
        call: impl FnOnce(&mut C, Plan<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let effect = self.admit(inner, source)?;
        let commented = self.commented(source);
        let plan = self.plan_commented(inner, source, commented.as_deref(), params);
        let result = plan.and_then(|plan| call(inner, plan));
        let result = self.note(source, effect, result);
        self.ask_at_once(inner);
        result
    }

    /// A call whose text is sent as it is, with the comment of this use.
    pub(super) fn text_call<C: GenericClient, R>(
        &mut self,
        inner: &mut C,
        sql: &str,
        call: impl FnOnce(&mut C, &str) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let commented = self.commented(Source::Text(sql));
        let sent = commented.as_deref().unwrap_or(sql);
        self.bare_call(inner, sql, |inner| call(inner, sent))
    }

    /// A call whose text is sent without the comment of this use.
    pub(super) fn bare_call<C: GenericClient, R>(
        &mut self,
        inner: &mut C,
        sql: &str,
        call: impl FnOnce(&mut C) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let effect = self.admit(inner, Source::Text(sql))?;
        let result = call(inner);
        let result = self.note(Source::Text(sql), effect, result);
        self.ask_at_once(inner);
        result
    }

    /// After a refused write outside a transaction: asks for the role. So the pool knows of a change
    /// when the connection returns, before it lends the next one.
    fn ask_at_once<C: GenericClient>(&mut self, inner: &mut C) {
        if self.is_role_in_doubt && !self.left.intersects(Left::TRANSACTION) {
            self.settle_role(self.role.holds(inner));
        }
    }

    /// The same before the end of a transaction, and at the end of a use.
    pub(super) fn ask_at_end<C: GenericClient>(&mut self, inner: &mut C) {
        if self.is_role_in_doubt && !self.has_failed {
            self.settle_role(self.role.holds_at_end(inner));
        }
    }

    #[cold]
    fn settle_role(&mut self, holds: Result<bool, Error>) {
        match holds {
            Ok(true) => self.is_role_in_doubt = false,
            Ok(false) => {
                log::warn!("a write was refused: {}", self.role.fault());
                self.has_failed = true;
            }
            // It was not outside a transaction after all, so the reset has to ask.
            Err(error) => self.has_failed |= is_fatal(&error),
        }
    }

    /// Takes note of a call's result.
    pub(super) fn note<R>(
        &mut self,
        source: Source<'_>,
        effect: Effect,
        result: Result<R, Error>,
    ) -> Result<R, Error> {
        match &result {
            Ok(_) if effect.ends_transaction => {
                self.left = self.left.without(Left::TRANSACTION | Left::UNREAD);
            }
            // Answers come in order: with this one, all earlier ones are read.
            Ok(_) => self.left = self.left.without(Left::UNREAD),
            Err(error) => self.failed(source, effect, error),
        }
        result
    }

    /// As [`note`](Self::note), for a call whose answer is read later.
    pub(super) fn streams<R>(
        &mut self,
        source: Source<'_>,
        effect: Effect,
        result: Result<R, Error>,
    ) -> Result<R, Error> {
        if let Err(error) = &result {
            self.failed(source, effect, error);
        }
        self.mark(Left::UNREAD);
        result
    }

    /// As [`streams`](Self::streams), for a `COPY FROM STDIN`. After one that the server refuses the
    /// driver is out of step: it has asked for the end of the answer twice, and takes each further
    /// answer for that of the next request.
    pub(super) fn copies_in<R>(
        &mut self,
        source: Source<'_>,
        effect: Effect,
        result: Result<R, Error>,
    ) -> Result<R, Error> {
        self.has_failed |= result.is_err();
        self.streams(source, effect, result)
    }

    /// Takes note of the result of a call without a statement.
    pub(super) fn answered<R>(&mut self, result: Result<R, Error>) -> Result<R, Error> {
        self.note(Source::Text(""), Effect::default(), result)
    }

    /// Takes note of the end of a transaction or a savepoint.
    pub(super) fn ended(
        &mut self,
        result: Result<(), Error>,
        is_outermost: bool,
    ) -> Result<(), Error> {
        let effect = Effect { leaves: Left::NOTHING, ends_transaction: is_outermost };
        self.note(Source::Text(""), effect, result)
    }

    /// Takes note of an error of a call that went well so far.
    #[cold]
    pub(super) fn note_error(&mut self, error: &Error) {
        self.has_failed |= is_fatal(error);
        self.is_role_in_doubt |= self.role.is_questioned_by(error);
    }

    #[cold]
    fn failed(&mut self, source: Source<'_>, effect: Effect, error: &Error) {
        if let Source::Text(sql) = source {
            // The types may have changed.
            self.types.remove(sql);
        }
        let is_duplicate = error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT)
            && !effect.leaves.intersects(Left::PREPARED);
        self.has_failed |= is_duplicate;
        self.note_error(error);
        if matches!(source, Source::Text(_)) && (is_duplicate || is_lost_statement(error)) {
            self.rules.warn_of_pooler(error);
        }
    }
}
