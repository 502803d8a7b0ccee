//! What the manager's settings ask of every connection, and the symptoms of one that is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fairpool::text::Plain;
use postgres::Error;
use postgres::error::SqlState;

use super::backend::{Backend, Backends, Seat};
use super::statements::{DEFAULT_SIZE, SharedStatements};
use crate::Reset;
use crate::left::{Harmless, is_name_of_driver};

/// What the manager's settings ask of every connection.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) reset: Reset,
    pub(crate) harmless: Harmless,
    pub(crate) transaction_pooler: bool,
    /// How many statements a connection keeps prepared.
    pub(crate) statement_cache: usize,
    pub(crate) statements: Arc<SharedStatements>,
    pub(super) backends: Arc<Backends>,
    /// Whether a warning has named the symptoms of a pooler. A manager warns once.
    warned: Arc<AtomicBool>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            reset: Reset::default(),
            harmless: Harmless::default(),
            transaction_pooler: false,
            statement_cache: DEFAULT_SIZE,
            statements: Arc::default(),
            backends: Arc::default(),
            warned: Arc::default(),
        }
    }
}

impl Rules {
    /// Whether anything depends on what a text may do to the session.
    pub(super) fn reads_texts(&self) -> bool {
        self.reset != Reset::Off || self.transaction_pooler || self.statement_cache > 0
    }

    /// Behind a pooler that pools transactions there is no session to reset.
    pub(crate) fn level(&self) -> Reset {
        match self.reset {
            Reset::Off => Reset::Off,
            _ if self.transaction_pooler => Reset::Rollback,
            level => level,
        }
    }

    /// Notes which process of the server a new connection has.
    pub(crate) fn join(&self, backend: Backend) -> Seat {
        let seat = self.backends.join(backend);
        if self.backends.are_shared() {
            self.warn_of_pooler("two connections have the same process of the server");
        }
        seat
    }

    /// The server has lost what was prepared just before, if the error quotes a name of the
    /// driver's. A connection that keeps statements could execute another process's under that
    /// name.
    pub(super) fn suspect_pooler(&self, error: &Error) {
        if quotes_driver_name(error) {
            self.statements.switch_off();
            let message = error.as_db_error().map_or("", |db| db.message());
            self.warn_of_pooler(&format!(
                "the server lost a prepared statement between two messages: {}",
                Plain(message)
            ));
        }
    }

    /// A connection has another session than when it was opened.
    pub(super) fn session_moved(&self) {
        self.statements.switch_off();
        self.warn_of_pooler("a connection has changed to another process of the server");
    }

    /// A new connection's session has statements of another client, maybe of another process, whose
    /// names are those that this one will use.
    pub(crate) fn found_used_session(&self) {
        self.statements.switch_off();
        self.warn_of_pooler("the session of a new connection has another client's statements");
    }

    fn warn_of_pooler(&self, symptom: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{symptom}. Probably a pooler stands between that pools transactions, such as \
                 PgBouncer with pool_mode = transaction: set \
                 PostgresConnectionManager::transaction_pooler(true), or let it pool sessions. \
                 Meanwhile statements may not be kept prepared"
            );
        }
    }
}

/// Whether the server no longer has a prepared statement, or one whose result has changed. All
/// later executions on this connection would fail likewise.
pub(crate) fn is_lost_statement(error: &Error) -> bool {
    is_outdated(error) || error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME)
}

/// Whether the server refuses a prepared statement because its result has changed.
pub(super) fn is_outdated(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        db.code() == &SqlState::FEATURE_NOT_SUPPORTED
            && db.routine() == Some("RevalidateCachedQuery")
    })
}

/// Whether the error quotes a name that the driver gives to statements, such as `"s12"`.
fn quotes_driver_name(error: &Error) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    db.message().split('"').nth(1).is_some_and(is_name_of_driver)
}
