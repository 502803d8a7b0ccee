//! What a transition asks the runtime to do.

use std::time::Duration;

use super::{CallKind, Check, ErrorKind, Held, Lease, Permit, PoolTypes, Reason, Time};

/// What a waiter finds in its cell.
pub(crate) enum Answer<T: PoolTypes> {
    /// The waiter owns this connection.
    Granted(Lease<T::Conn>),
    /// A connection is idle; claim it before a newcomer takes it.
    Nudged,
    /// The get failed. If connecting cannot succeed, the driver's error is the cause; if its use
    /// cannot begin, the handler's.
    Failed(ErrorKind, Option<T::Cause>),
    /// Every connection is held by a thread that itself waits here: these, and this
    /// waiter came last.
    SelfDeadlock(Vec<NestedWait<T::Caller>>),
}

/// A thread that holds a connection and waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NestedWait<C> {
    pub(crate) held: Held<C>,
    pub(crate) waits: C,
}

/// A driver call for a worker thread to make.
pub(crate) enum Job<T: PoolTypes> {
    /// Connect; then report `connect_finished` or `connect_failed`.
    Connect(Permit),
    /// End a use, reset and validate; then report `check_finished`.
    Check(Lease<T::Conn>, Check),
    /// Begin a use for this caller; then report `use_begun`.
    Begin(Lease<T::Conn>, T::Caller, T::Context),
    /// Close; then report `close_finished`.
    Close(Lease<T::Conn>, Reason),
}

/// News for the pool's owner.
pub(crate) enum Notice<T: PoolTypes> {
    /// A connection has been held for longer than `leak_threshold`.
    Leak(Held<T::Caller>),
    /// It has come back after all.
    LeakEnded(Held<T::Caller>),
    /// Every connection is held by a thread that itself waits here.
    SelfDeadlock(Vec<NestedWait<T::Caller>>),
    /// Connecting has begun to fail, with this error; `None` if it overran its limit.
    Outage(Option<T::Cause>),
    /// It has succeeded again.
    OutageEnded { failures: u32, lasted: Duration },
    /// A connection has proved dead for this reason, and so many idle ones are in doubt now.
    Doubt { connection_id: u64, reason: Reason, idle: u32 },
    /// A driver call has overrun its limit. The id is zero if it was never open.
    Abandoned { kind: CallKind, connection_id: u64, after: Duration },
}

/// Everything that one transition asks for. The runtime puts answers into their cells
/// before it releases the lock, and does the rest afterwards.
#[must_use = "an effect that is not carried out is a lost wake-up or a lost slot"]
pub(crate) struct Effects<T: PoolTypes> {
    /// When the step happens.
    pub(crate) now: Time,
    pub(crate) answers: Vec<(T::Cell, Answer<T>)>,
    pub(crate) jobs: Vec<Job<T>>,
    /// The reaper must run earlier than planned.
    pub(crate) wake_reaper: bool,
    /// Something that `build` or `close` may wait for has changed.
    pub(crate) progress: bool,
    /// Errors that are no longer needed. Their destructors are the driver's code, which
    /// must not run under the lock.
    pub(crate) garbage: Vec<T::Cause>,
    pub(crate) notices: Vec<Notice<T>>,
}

impl<T: PoolTypes> Effects<T> {
    /// None so far, of a step at this time.
    pub(crate) fn at(now: Time) -> Effects<T> {
        Effects {
            now,
            answers: Vec::new(),
            jobs: Vec::new(),
            wake_reaper: false,
            progress: false,
            garbage: Vec::new(),
            notices: Vec::new(),
        }
    }
}
