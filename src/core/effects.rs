//! What a transition asks of the world outside the lock.

use std::time::Duration;

use super::{CallKind, Held, Lease, Permit, Reason, SelfWait, Types};

/// What a waiter finds in its cell.
pub(crate) enum Answer<T: Types> {
    /// A connection is its own.
    Granted(Lease<T::Conn>),
    /// There is an idle connection; come and claim it before a newcomer does.
    Nudged,
    /// No idle connection has passed its check, and it waits for no other.
    NoneIdle,
    /// Connecting cannot succeed.
    Failed(T::Cause),
    /// Its token was cancelled.
    Cancelled,
    /// The pool was closed.
    Closed,
    /// All connections are held by threads that wait here themselves, this one
    /// among them; it came last.
    Deadlock(Vec<SelfWait<T::Caller>>),
}

/// Which parts of a check are due before a connection may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Check {
    pub(crate) reset: bool,
    pub(crate) validate: bool,
}

impl Check {
    pub(crate) const VALIDATE: Check = Check { reset: false, validate: true };
}

/// A call into the driver that a worker thread is to make.
pub(crate) enum Job<T: Types> {
    /// Connect; then `opened` or `open_failed`.
    Open(Permit),
    /// Reset and validate; then `checked`.
    Check(Lease<T::Conn>, Check),
    /// Close; then `closed`.
    Close(Lease<T::Conn>, Reason),
}

/// Something that the pool's owner should be told.
pub(crate) enum Notice<T: Types> {
    /// A connection has been held for longer than `leak_threshold`.
    Leak(Held<T::Caller>),
    /// It has come back after all.
    LeakEnded(Held<T::Caller>),
    /// Every connection is held by a thread that itself waits here.
    SelfDeadlock(Vec<SelfWait<T::Caller>>),
    /// Connecting has begun to fail, with this error, or by taking too long.
    Outage(Option<T::Cause>),
    /// It has succeeded again, after so many failures.
    OutageEnded { failures: u32, lasted: Duration },
    /// A driver call has overrun its limit. Zero is a connection that was never open.
    Abandoned { kind: CallKind, connection: u64, after: Duration },
}

/// Everything that one transition asked for. The shell carries it out: answers
/// are put into their cells before the lock is released, all else happens after.
#[must_use = "an effect that is not carried out is a lost wake-up or a lost slot"]
pub(crate) struct Effects<T: Types> {
    pub(crate) answers: Vec<(T::Cell, Answer<T>)>,
    pub(crate) jobs: Vec<Job<T>>,
    /// The reaper has to look earlier than it planned.
    pub(crate) wake_reaper: bool,
    /// Something that `build` or `close` may be waiting for has changed.
    pub(crate) progress: bool,
    /// Errors that are no longer needed. Their destructors are not ours, so
    /// they must not run under the lock.
    pub(crate) garbage: Vec<T::Cause>,
    pub(crate) notices: Vec<Notice<T>>,
}

impl<T: Types> Effects<T> {
    pub(crate) fn new() -> Effects<T> {
        Effects {
            answers: Vec::new(),
            jobs: Vec::new(),
            wake_reaper: false,
            progress: false,
            garbage: Vec::new(),
            notices: Vec::new(),
        }
    }

    pub(super) fn answer(&mut self, cell: T::Cell, answer: Answer<T>) {
        self.answers.push((cell, answer));
    }

    pub(super) fn job(&mut self, job: Job<T>) {
        self.jobs.push(job);
    }
}
