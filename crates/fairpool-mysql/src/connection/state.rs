//! What a connection knows about its session: what the use may have left, and whether the
//! connection has failed.

use std::sync::Arc;

use mysql::Error;

use super::Timeouts;
use crate::left::{Effect, Harmless};
use crate::manager::{Reset, is_fatal, is_refused_write};

/// The manager's rules, the same for all its connections.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    pub(crate) reset: Reset,
    pub(crate) harmless: Harmless,
}

/// What was found when the connection was opened.
pub(crate) struct Session {
    /// The socket's own limits, which hold for the user's calls.
    pub(crate) timeouts: Timeouts,
    /// Whether the server allowed writes.
    pub(crate) was_writable: bool,
    pub(crate) is_mariadb: bool,
    /// Without it each statement may begin a transaction.
    pub(crate) autocommit: bool,
    /// The statement that sets the character sets that were agreed upon.
    pub(crate) character_sets: String,
}

/// What a use may have left.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// A transaction, or another default database: a statement was not one of the usual ones.
    pub(crate) transaction: bool,
    /// Anything else on the session.
    pub(crate) session: bool,
    /// Errors may have gone unseen, and a refused write may be one of them.
    pub(crate) unseen: bool,
}

impl Marks {
    pub(crate) const ANYTHING: Marks = Marks { transaction: true, session: true, unseen: true };
}

/// What the connection knows about its session.
pub(crate) struct State {
    rules: Arc<Rules>,
    pub(crate) session: Session,
    marks: Marks,
    /// This crate's own transaction has begun and not ended.
    is_open: bool,
    /// A call was refused because it writes: the server may have changed its role.
    pub(crate) is_role_in_doubt: bool,
    /// Rows were read where their errors are not seen: by the user, or by the driver.
    pub(crate) has_lent_rows: bool,
    /// A call had a fatal error, so the connection must not be used again.
    pub(crate) has_failed: bool,
    /// What the last reset has undone, for the pool to log.
    pub(crate) left_behind: Option<&'static str>,
}

impl State {
    pub(super) fn new(rules: Arc<Rules>, session: Session) -> Self {
        Self {
            rules,
            session,
            marks: Marks::default(),
            is_open: false,
            is_role_in_doubt: false,
            has_lent_rows: false,
            has_failed: false,
            left_behind: None,
        }
    }

    /// Reads a statement before it is sent.
    pub(super) fn read(&mut self, sql: &str) {
        self.execute();
        match Effect::of(sql, &self.rules.harmless) {
            Effect::Nothing => {}
            Effect::Session => self.marks.session = true,
            Effect::Anything => {
                self.marks.transaction = true;
                self.marks.session = true;
            }
            // The driver reports the errors of all but the first with their rows.
            Effect::Several => self.marks = Marks::ANYTHING,
        }
    }

    /// Notes that a statement is executed. The text of one that was kept from an earlier use is not
    /// read again.
    pub(super) fn execute(&mut self) {
        self.marks.transaction |= !self.session.autocommit;
    }

    /// Notes what an error of a call says of the connection.
    pub(super) fn note<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|error| {
            self.has_failed |= is_fatal(error);
            self.is_role_in_doubt |= is_refused_write(error) && self.session.was_writable;
        })
    }

    /// Notes that the driver's connection is lent.
    pub(super) fn lend(&mut self) {
        self.marks = Marks::ANYTHING;
    }

    pub(super) fn begin(&mut self) {
        self.is_open = true;
    }

    pub(super) fn ended(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.is_open = result.is_err();
        self.note(result)
    }

    /// Whether only the server can tell what the errors of the use mean, or that there were none.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.is_role_in_doubt
            || self.has_lent_rows
            || self.marks.unseen && !self.is_asked_by_reset()
    }

    /// A reset to a new session notices a connection that does not answer as it should.
    fn is_asked_by_reset(&self) -> bool {
        self.rules.reset >= Reset::Session
    }

    /// Notes that the server has answered as it should.
    pub(crate) fn answered(&mut self) {
        self.has_lent_rows = false;
        self.marks.unseen &= self.is_asked_by_reset();
    }

    pub(crate) fn needs_reset(&self) -> bool {
        let Marks { transaction, session, unseen } = self.marks;
        self.is_role_in_doubt
            || match self.rules.reset {
                Reset::Off => false,
                Reset::Rollback => transaction || self.is_open,
                Reset::Session => transaction || session || unseen || self.is_open,
                Reset::Always => true,
            }
    }

    /// What a reset has to undo. If nothing was seen, the pool resets because the holder panicked,
    /// or always: then anything may be left.
    pub(crate) fn left(&self) -> Marks {
        let mut left = self.marks;
        left.transaction |= self.is_open;
        let is_sure = left != Marks::default() && self.rules.reset != Reset::Always;
        if is_sure { left } else { Marks::ANYTHING }
    }

    /// Whether a reset has to ask for the server's role.
    pub(crate) fn asks_role(&self) -> bool {
        self.session.was_writable && (self.is_role_in_doubt || self.marks.unseen)
    }

    pub(crate) fn set_clean(&mut self) {
        self.marks = Marks::default();
        self.is_open = false;
        self.is_role_in_doubt = false;
    }
}
