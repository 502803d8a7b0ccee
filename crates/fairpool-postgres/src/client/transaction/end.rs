//! The end of a transaction that may be run again, and what is known of its outcome.

use std::mem;

use postgres::error::SqlState;
use postgres::{Error, SimpleQueryMessage};

use super::{ENDED, Transaction};
use crate::client::state::Failure;
use crate::manager::{IS_OUTSIDE_TRANSACTION, is_fatal};

/// How a transaction ended.
pub(crate) enum End {
    Committed,
    /// Nothing of it is committed.
    Aborted(Failure),
    /// The closure had ended it by a statement of its own.
    ByClosure,
    /// The connection failed after COMMIT was sent.
    Unknown(Error),
}

impl Transaction<'_> {
    /// Commits, and knows whether it did.
    pub(crate) fn commit_surely(self) -> End {
        let was_controlled = self.state.watch().was_controlled();
        match self.commit_or_abort() {
            End::Aborted(_) if was_controlled => End::ByClosure,
            end => end,
        }
    }

    fn commit_or_abort(self) -> End {
        let is_in_doubt = self.state.is_transaction_in_doubt();
        let cannot_commit = self.state.watch().cannot_commit();
        match self.state.watch().take_failure() {
            // The drop rolls back, as far as the connection still can.
            Some(failure) if cannot_commit => End::Aborted(failure),
            failure if is_in_doubt => self.ask_and_commit(failure),
            _ => match self.end(postgres::Transaction::commit) {
                Ok(()) => End::Committed,
                Err(error) => refused(error, None),
            },
        }
    }

    /// To the COMMIT of a transaction that has failed the server answers with a ROLLBACK, which the
    /// driver takes for a success. So a question goes before it, in the same message: in such a
    /// transaction it fails with 25P02, and what comes after it is not executed.
    fn ask_and_commit(mut self, failure: Option<Failure>) -> End {
        let sql = format!("{IS_OUTSIDE_TRANSACTION}; COMMIT");
        let result = self.inner.as_mut().expect(ENDED).simple_query(&sql);
        match self.state.answered(result) {
            Ok(answer) => {
                // It has ended, so the driver's object must not roll back. It owns nothing.
                mem::forget(self.inner.take());
                let _ = self.state.ended(Ok(()), true);
                let is_outside = |message: &SimpleQueryMessage| match message {
                    SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
                    _ => false,
                };
                if answer.iter().any(is_outside) { End::ByClosure } else { End::Committed }
            }
            Err(error) => {
                // Not before: this question rolls back what has failed, and begins anew.
                self.ask_for_role();
                match self.state.watch().take_failure() {
                    Some(lost @ Failure::Lost(..)) if !is_unknown(&error) => End::Aborted(lost),
                    // The drop rolls back.
                    _ => refused(error, failure),
                }
            }
        }
    }

    /// Rolls back. Returns why the transaction had failed, if it had and the closure had not ended
    /// it itself.
    pub(crate) fn abort(mut self) -> Option<Failure> {
        self.ask_for_role();
        let was_controlled = self.state.watch().was_controlled();
        let failure = self.state.watch().take_failure().filter(|_| !was_controlled);
        // If it fails, the connection is lost, and the transaction with it.
        let _ = self.end(postgres::Transaction::rollback);
        failure
    }
}

/// Whether the server may have committed, although the COMMIT has this error.
fn is_unknown(error: &Error) -> bool {
    is_fatal(error) || error.code() == Some(&SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN)
}

/// What the error of a COMMIT means. `failure`: why the transaction had failed before, if that was
/// seen.
fn refused(error: Error, failure: Option<Failure>) -> End {
    if is_unknown(&error) {
        return End::Unknown(error);
    }
    let had_failed = error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION);
    let failure = failure.filter(|_| had_failed).or_else(|| Failure::of(&error));
    failure.map_or(End::Unknown(error), End::Aborted)
}
