//! What the client knows about its session: what the use may have left, and whether the
//! connection has failed.

mod watch;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use postgres::error::SqlState;
use postgres::{Error, GenericClient};

use super::call::Source;
use super::cancel::ThisUse;
use super::comment::Comment;
use super::pooler::refuse;
use super::role::ServerRole;
use super::rules::{Rules, is_lost_statement, is_outdated};
use super::statements::Statements;
use crate::Reset;
use crate::left::{Effect, Left};
use crate::manager::{is_fatal, is_fatal_but_for_statements};

pub(crate) use self::watch::{Failure, Watch, text_of, text_of_db};

/// What the client knows about its session.
pub(crate) struct State {
    rules: Arc<Rules>,
    /// What the connection asked of its server when it was opened.
    role: ServerRole,
    /// The process of the server that it had then.
    pub(super) backend: Option<u32>,
    /// A call was refused because it writes: the server may have changed its role.
    is_role_in_doubt: bool,
    left: Left,
    /// The driver's client was lent, so that errors of calls were not seen.
    was_lent: bool,
    /// A call had a fatal error, so the connection must not be used again.
    has_failed: bool,
    /// What is appended to the texts of this use.
    pub(super) comment: Option<Comment>,
    /// In a transaction that may be run again.
    watch: Option<Watch>,
    /// Created with the first cancel token of a use.
    this_use: OnceCell<ThisUse>,
    /// What the last reset has undone, for the pool to log.
    pub(crate) left_behind: Option<&'static str>,
    /// Behind a transaction pooler only their types are kept.
    pub(super) statements: Statements,
    /// Texts may mean something else in this use: until its end, or the reset after it, no
    /// statement is taken from those that are kept, and none added.
    pub(super) meaning_changed: bool,
    /// The text that has begun the transaction, as long as nothing else was sent in it.
    pub(super) begin: Option<Cow<'static, str>>,
}

impl State {
    pub(crate) fn new(rules: Arc<Rules>, role: ServerRole, backend: Option<u32>) -> Self {
        let statements = Statements::new(&rules);
        Self {
            rules,
            role,
            backend,
            is_role_in_doubt: false,
            left: Left::NOTHING,
            was_lent: false,
            has_failed: false,
            comment: None,
            watch: None,
            this_use: OnceCell::new(),
            left_behind: None,
            statements,
            meaning_changed: false,
            begin: None,
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
        self.watch = None;
        let is_cancelled = self.this_use.take().is_some_and(ThisUse::end);
        let is_beyond_reset =
            self.left.intersects(Left::BEYOND_RESET) && self.rules.level() >= Reset::Session;
        self.end_changes();
        is_cancelled || is_beyond_reset || self.has_failed
    }

    /// At the end of a use. If what it has changed stays, a reset changes it back; without one that
    /// is the usual meaning from now on.
    fn end_changes(&mut self) {
        let is_reset = self.rules.level() >= Reset::Session;
        let stays = self.left.intersects(Left::SETTINGS | Left::TEMPORARY);
        if self.meaning_changed && stays && !is_reset {
            self.statements.clear();
        }
        self.meaning_changed &= stays && is_reset;
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

    /// Whether a question at the return is answered at once: a pooler may let it wait for a
    /// session.
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
        self.meaning_changed = false;
        self.begin = None;
        self.is_role_in_doubt = false;
    }

    /// Notes that the driver's client is lent: from here on anything may be left.
    pub(super) fn lend(&mut self) {
        self.mark(Left::ANYTHING);
        self.was_lent = true;
        self.meaning_changed = true;
        self.begin = None;
    }

    pub(super) fn mark(&mut self, left: Left) {
        self.left |= left;
    }

    pub(super) fn may_be_in_transaction(&self) -> bool {
        self.left.intersects(Left::TRANSACTION)
    }

    pub(super) fn effect(&self, source: Source<'_>) -> Effect {
        match source {
            Source::Text(sql) if self.rules.reads_texts() || self.watch.is_some() => {
                Effect::of(sql, &self.rules.harmless)
            }
            Source::Text(_) => Effect::default(),
            Source::Ours(statement) | Source::Kept(statement) => statement.effect(),
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
        self.admit_effect(inner, effect)?;
        Ok(effect)
    }

    pub(super) fn admit_effect<C: GenericClient>(
        &mut self,
        inner: &mut C,
        effect: Effect,
    ) -> Result<(), Error> {
        self.begin = None;
        if self.rules.transaction_pooler {
            let refused = self.refuse_session_state(inner, effect.leaves);
            refused.inspect_err(|error| self.note_error(error))?;
        }
        self.mark(effect.leaves);
        self.meaning_changed |= effect.changes_meaning;
        if effect.leaves.intersects(Left::BEYOND_RESET) {
            // Maybe DISCARD ALL or DEALLOCATE ALL.
            self.statements.clear();
        }
        if let Some(watch) = &mut self.watch {
            watch.sends(effect);
        }
        Ok(())
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

    /// After a refused write outside a transaction: asks for the role. So the pool knows of a
    /// change when the connection returns, before it lends the next one.
    pub(super) fn ask_at_once<C: GenericClient>(&mut self, inner: &mut C) {
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
                if let Some(watch) = &mut self.watch {
                    watch.lost(self.role.fault());
                }
            }
            // It was not outside a transaction after all, so the reset has to ask.
            Err(error) => self.note_error(&error),
        }
    }

    /// Takes note of a call's result.
    pub(super) fn note<R>(
        &mut self,
        source: Source<'_>,
        effect: Effect,
        result: Result<R, Error>,
    ) -> Result<R, Error> {
        self.begin = None;
        if let (Ok(_), Some(watch)) = (&result, &mut self.watch) {
            watch.succeeded();
        }
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
        if let Some(watch) = &mut self.watch {
            watch.streams();
        }
        self.mark(Left::UNREAD);
        result
    }

    /// As [`streams`](Self::streams), for a `COPY FROM STDIN`. After one that the server refuses
    /// the driver is out of step: it has asked for the end of the answer twice, and takes each
    /// further answer for that of the next request.
    pub(super) fn copies_in<R>(
        &mut self,
        source: Source<'_>,
        effect: Effect,
        result: Result<R, Error>,
    ) -> Result<R, Error> {
        self.has_failed |= result.is_err();
        let result = self.streams(source, effect, result);
        if let (Err(_), Some(watch)) = (&result, &mut self.watch) {
            watch.out_of_step();
        }
        result
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
        let effect = Effect { ends_transaction: is_outermost, ..Effect::default() };
        self.note(Source::Text(""), effect, result)
    }

    /// Takes note of an error of a call that went well so far.
    #[cold]
    pub(super) fn note_error(&mut self, error: &Error) {
        self.has_failed |= is_fatal(error);
        self.is_role_in_doubt |= self.role.is_questioned_by(error);
        if let Some(watch) = &mut self.watch {
            watch.failed(error);
        }
    }

    #[cold]
    fn failed(&mut self, source: Source<'_>, effect: Effect, error: &Error) {
        let is_lost = is_lost_statement(error);
        let is_duplicate = error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT)
            && !effect.leaves.intersects(Left::PREPARED);
        match source {
            // It was forgotten, and is prepared again when it is next used.
            Source::Kept(statement) if statement.named().is_ok() => {}
            // All connections have it like this.
            Source::Ours(statement) if is_outdated(error) && statement.epoch().is_some() => {
                self.statements.end_epoch_of(statement);
            }
            _ if is_duplicate || is_lost && matches!(source, Source::Text(_)) => {
                self.lost_statement(error);
            }
            _ => self.has_failed |= is_lost,
        }
        self.has_failed |= is_fatal_but_for_statements(error);
        self.is_role_in_doubt |= self.role.is_questioned_by(error);
        if let Some(watch) = &mut self.watch {
            watch.failed(error);
        }
        if let (Some(sql), true) = (source.kept_text(), self.rules.transaction_pooler) {
            // The types may have changed.
            self.statements.forget(sql);
        }
    }

    /// What was prepared for this call is not there, or something else of its name is.
    pub(super) fn lost_statement(&mut self, error: &Error) {
        self.has_failed = true;
        self.rules.suspect_pooler(error);
    }
}
