//! What happens in a transaction that may be run again: from the errors and effects of its calls,
//! whatever becomes of them in the closure.

use std::error::Error as _;

use fairpool::text::Plain;
use postgres::Error;
use postgres::error::{DbError, SqlState};

use super::State;
use crate::left::{Effect, Left};
use crate::manager::is_fatal;

/// Why a transaction has failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// With 40001 or 40P01: another transaction was in the way.
    Conflict(Box<DbError>),
    /// Its connection cannot be used any more, as this text says.
    Lost(String, Option<Box<DbError>>),
    /// With another error of the server.
    Other(Box<DbError>),
}

impl Failure {
    /// `None` for an error of the client itself, of which the server does not know.
    pub(crate) fn of(error: &Error) -> Option<Failure> {
        let db = error.as_db_error().map(|db| Box::new(db.clone()));
        if is_fatal(error) {
            return Some(Failure::Lost(text_of(error), db));
        }
        let db = db?;
        let is_conflict = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED]
            .contains(db.code());
        Some(if is_conflict { Failure::Conflict(db) } else { Failure::Other(db) })
    }

    /// Whether another attempt may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self, Failure::Other(_))
    }

    pub(crate) fn db_error(&self) -> Option<&DbError> {
        match self {
            Failure::Conflict(db) | Failure::Other(db) => Some(db),
            Failure::Lost(_, db) => db.as_deref(),
        }
    }

    /// One line, without details, which have values of rows.
    pub(crate) fn text(&self) -> String {
        match self {
            Failure::Conflict(db) | Failure::Other(db) => text_of_db(db),
            Failure::Lost(text, _) => text.clone(),
        }
    }
}

/// An error in one line, with its code or its cause.
pub(crate) fn text_of(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        return text_of_db(db);
    }
    match error.source() {
        Some(cause) => Plain(&format!("{error}: {cause}")).to_string(),
        None => Plain(&error.to_string()).to_string(),
    }
}

pub(crate) fn text_of_db(db: &DbError) -> String {
    format!("{} ({})", Plain(db.message()), Plain(db.code().code()))
}

impl State {
    /// From here to the end of the use, notes what happens.
    pub(crate) fn start_watch(&mut self) {
        self.watch = Some(Watch::default());
    }

    pub(crate) fn watch(&mut self) -> &mut Watch {
        self.watch.get_or_insert_default()
    }

    /// Whether the transaction may have failed or ended unseen.
    pub(in crate::client) fn is_transaction_in_doubt(&self) -> bool {
        self.was_lent
            || !self.left.intersects(Left::TRANSACTION)
            || self.watch.as_ref().is_none_or(Watch::is_in_doubt)
    }
}

/// What was seen since the transaction began.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Why the transaction has failed, unless a call has succeeded since: then it has not, or a
    /// savepoint before the failure was rolled back to.
    failure: Option<Failure>,
    /// The answers on this connection cannot be trusted.
    is_out_of_step: bool,
    /// A call had an error, or may have had one that was not read.
    may_have_failed: bool,
    /// A text has ended the transaction, or begun another one.
    was_controlled: bool,
}

impl Watch {
    /// A statement with this effect is sent. A text that is unreadable probably controls nothing,
    /// but may have a ROLLBACK in it, so COMMIT comes with a question.
    pub(in crate::client) fn sends(&mut self, effect: Effect) {
        let is_readable = !Left::ANYTHING.without(effect.leaves).is_nothing();
        let controls = effect.ends_transaction || effect.leaves.intersects(Left::TRANSACTION);
        self.was_controlled |= is_readable && controls;
        self.may_have_failed |= !is_readable;
    }

    pub(in crate::client) fn succeeded(&mut self) {
        if !self.is_out_of_step {
            self.failure = None;
        }
    }

    /// The answer is read later, if at all.
    pub(in crate::client) fn streams(&mut self) {
        self.may_have_failed = true;
    }

    #[cold]
    pub(in crate::client) fn failed(&mut self, error: &Error) {
        self.may_have_failed = true;
        // In a failed transaction each statement fails with 25P02, which is not the reason.
        let is_reason = error.code() != Some(&SqlState::IN_FAILED_SQL_TRANSACTION);
        if self.failure.is_none() || is_reason && !self.is_out_of_step {
            self.failure = Failure::of(error).or(self.failure.take());
        }
    }

    /// The server is no longer the one that was asked for, as this text says.
    pub(in crate::client) fn lost(&mut self, why: String) {
        self.failure = Some(Failure::Lost(why, None));
    }

    /// After the error that was noted last.
    pub(in crate::client) fn out_of_step(&mut self) {
        self.is_out_of_step = true;
        let unnamed = || Failure::Lost("the driver is out of step".to_owned(), None);
        self.failure.get_or_insert_with(unnamed);
    }

    pub(in crate::client) fn was_controlled(&self) -> bool {
        self.was_controlled
    }

    /// Whether the transaction may have failed, or ended.
    pub(in crate::client) fn is_in_doubt(&self) -> bool {
        self.may_have_failed || self.was_controlled
    }

    /// Whether COMMIT must not be sent, because its answer would never come, or be another one's.
    pub(in crate::client) fn cannot_commit(&self) -> bool {
        self.is_out_of_step || matches!(self.failure, Some(Failure::Lost(..)))
    }

    pub(in crate::client) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }
}
