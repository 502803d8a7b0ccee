//! What a use may have left behind on its session, as far as the text of its statements
//! shows.

mod functions;
mod lexer;
mod parameters;
mod scan;
mod statement;
#[cfg(test)]
mod tests;

use std::ops::{BitOr, BitOrAssign};

pub(crate) use self::functions::Harmless;

/// A set of kinds of state that a session may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left(u16);

impl Left {
    pub(crate) const NOTHING: Left = Left(0);
    /// An open transaction.
    pub(crate) const TRANSACTION: Left = Left(1);
    /// Rows or an answer that is not read yet.
    pub(crate) const UNREAD: Left = Left(1 << 1);
    /// Parameters, roles.
    pub(crate) const SETTINGS: Left = Left(1 << 2);
    /// `LISTEN`, and messages that have arrived.
    pub(crate) const LISTEN: Left = Left(1 << 3);
    /// Temporary tables and the like.
    pub(crate) const TEMPORARY: Left = Left(1 << 4);
    /// Cursors.
    pub(crate) const CURSOR: Left = Left(1 << 5);
    /// Advisory locks of the session.
    pub(crate) const LOCKS: Left = Left(1 << 6);
    /// Statements named by an SQL `PREPARE`.
    pub(crate) const PREPARED: Left = Left(1 << 7);
    /// What `currval` and `lastval` return, and cached values of sequences.
    pub(crate) const SEQUENCES: Left = Left(1 << 8);
    /// Anything of the above but a transaction, because an unknown function was called.
    pub(crate) const UNKNOWN: Left = Left(1 << 9);
    /// What only the end of the session removes. The connection is then closed as a broken one,
    /// which has the pool check the others: the trait has no way to say "this one alone".
    pub(crate) const BEYOND_RESET: Left = Left(1 << 10);

    /// Everything that a reset can undo: for a text that is unreadable, or was not seen.
    pub(crate) const ANYTHING: Left = Left((1 << 10) - 1);

    /// What is refused behind a transaction pooler, also inside a transaction.
    pub(crate) const NEEDS_OWN_SESSION: Left = Left(
        Left::SETTINGS.0 | Left::LISTEN.0 | Left::LOCKS.0 | Left::PREPARED.0 | Left::BEYOND_RESET.0,
    );

    pub(crate) const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn intersects(self, other: Left) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn without(self, other: Left) -> Left {
        Left(self.0 & !other.0)
    }
}

impl BitOr for Left {
    type Output = Left;

    fn bitor(self, other: Left) -> Left {
        Left(self.0 | other.0)
    }
}

impl BitOrAssign for Left {
    fn bitor_assign(&mut self, other: Left) {
        *self = *self | other;
    }
}

/// What the execution of a text may do to the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// What it may leave, whether it succeeds or fails.
    pub(crate) leaves: Left,
    /// After its success no transaction is open.
    pub(crate) ends_transaction: bool,
    /// Texts may mean something else afterwards: it changes the schema, or a parameter by which the
    /// server reads or plans them.
    pub(crate) changes_meaning: bool,
    /// The text itself may mean something else each time, of which the server does not tell: it
    /// names a cursor, or has `'now'` in it.
    pub(crate) is_fleeting: bool,
}

impl Effect {
    pub(crate) const ANYTHING: Effect = Effect {
        leaves: Left::ANYTHING,
        ends_transaction: false,
        changes_meaning: true,
        is_fleeting: true,
    };

    /// Reads the text of one or more statements.
    pub(crate) fn of(sql: &str, harmless: &Harmless) -> Effect {
        statement::read(sql, harmless).unwrap_or(Effect::ANYTHING)
    }
}

/// Whether the driver gives such names to the statements that it prepares: `s12`.
pub(crate) fn is_name_of_driver(name: &str) -> bool {
    let number = name.strip_prefix(['s', 'S']);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
