//! The calls, and what a script makes of them.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::Gate;

/// The calls that a pool makes to its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `ManageConnection::connect`.
    Connect,
    /// `ManageConnection::is_valid`.
    IsValid,
    /// `ManageConnection::reset`.
    Reset,
    /// `ManageConnection::has_broken`.
    HasBroken,
    /// `ManageConnection::needs_reset`.
    NeedsReset,
    /// `ManageConnection::is_permanent`.
    IsPermanent,
    /// `ManageConnection::is_fatal`.
    IsFatal,
    /// The connection's `Drop`.
    Close,
}

/// What a call does.
#[derive(Clone, Debug)]
pub enum Does {
    /// Returns `Ok`, or `false`.
    Succeed,
    /// Returns an error; `has_broken`, `needs_reset`, `is_permanent` and `is_fatal` return
    /// `true`.
    Fail,
    /// Returns a connect error that no retry cures. In other calls like `Fail`.
    FailForGood,
    /// Panics, without a message on the terminal.
    Panic,
    /// Waits at the gate, then does what the gate was opened with.
    Hang(Gate),
    /// Takes this long, then succeeds.
    Take(Duration),
}

/// The driver's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StubError {
    /// A connect failed: the number of the attempt.
    Refused(usize),
    /// A connect failed for good.
    WrongPassword,
    /// A check failed.
    Invalid,
    /// A reset failed.
    ResetFailed,
    /// For tests that need an error of a query.
    Query,
}

impl fmt::Display for StubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StubError::Refused(attempt) => write!(f, "attempt {attempt} was refused"),
            StubError::WrongPassword => f.write_str("wrong password"),
            StubError::Invalid => f.write_str("the connection is dead"),
            StubError::ResetFailed => f.write_str("the reset failed"),
            StubError::Query => f.write_str("the query failed"),
        }
    }
}

impl StdError for StubError {}
