//! The words of the pool's vocabulary that users see: why a get failed, where a
//! connection is, why it moved, what a driver call is for.

use std::fmt;

/// What kind of failure an [`Error`](crate::Error) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No connection became available in time.
    Timeout,
    /// The pool was closed.
    Closed,
    /// As many callers wait as [`Builder::max_waiters`](crate::Builder::max_waiters) allows.
    QueueFull,
    /// The [`CancelToken`](crate::CancelToken) of the request was cancelled.
    Cancelled,
    /// Connecting fails, and callers do not wait for a success. Either it fails in a way that
    /// no retry cures (see
    /// [`ManageConnection::is_permanent`](crate::ManageConnection::is_permanent)), and has
    /// never succeeded: a configuration that has worked is not wrong. Or it has failed for
    /// [`fail_fast_after`](crate::Builder::fail_fast_after), and no connection is left.
    /// Callers get this error at once; the pool goes on trying, with
    /// [`connect_backoff`](crate::Builder::connect_backoff) between attempts, and the first
    /// success ends it.
    Connect,
    /// Every connection is held by a thread that itself waits here; only with
    /// [`SelfDeadlock::Fail`](crate::SelfDeadlock::Fail).
    SelfDeadlock,
    /// The [`HandleUse`](crate::HandleUse) could not begin this use, or panicked. The error's
    /// source is the handler's.
    UseHandler,
    /// A setting has an invalid value.
    Config,
    /// The pool was built in another process: this one is a child made by `fork`. Build
    /// the pool after the fork.
    Forked,
}

/// As in logs, spans and traces.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ErrorKind::Timeout => "timeout",
            ErrorKind::Closed => "closed",
            ErrorKind::QueueFull => "queue_full",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Connect => "connect",
            ErrorKind::SelfDeadlock => "self_deadlock",
            ErrorKind::UseHandler => "use_handler",
            ErrorKind::Config => "config",
            ErrorKind::Forked => "forked",
        })
    }
}

/// Where a connection is.
///
/// ```text
///          connected        lent            retired      close starts
/// Gone ──► Opening ──► Idle ⇄ Busy ──────► Retired ──────► Closing ──► Gone
///                       ▲ │                                   │
///                       │ ▼                                   │ overran
///                     Checking                                ▼
///        Opening and Checking that overran their limit ──► Abandoned ──► Gone
/// ```
///
/// An `Idle`, `Checking` or `Opening` connection may be retired too. With a
/// [`HandleUse`](crate::HandleUse) each connection goes through `Checking` on its way to `Busy`. If an abandoned call
/// succeeds late, its connection goes on as any other, provided there is room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The driver connects.
    Opening,
    /// It waits for a caller.
    Idle,
    /// A caller has it.
    Busy,
    /// It is being reset or validated, or a [`HandleUse`](crate::HandleUse) begins or ends a use.
    Checking,
    /// It is to be closed, and waits for a closer.
    Retired,
    /// The driver closes it.
    Closing,
    /// It is in a driver call that has overrun its limit.
    Abandoned,
    /// It is not, or no longer, the pool's.
    Gone,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ConnectionState::Opening => "opening",
            ConnectionState::Idle => "idle",
            ConnectionState::Busy => "busy",
            ConnectionState::Checking => "checking",
            ConnectionState::Retired => "retired",
            ConnectionState::Closing => "closing",
            ConnectionState::Abandoned => "abandoned",
            ConnectionState::Gone => "gone",
        })
    }
}

/// Why a connection moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Retired: broken, discarded, or its reset failed.
    Broken,
    /// Retired: it failed validation.
    Invalid,
    /// Retired: it reached `max_lifetime`.
    Expired,
    /// Retired: it was idle for `idle_timeout`.
    IdleTooLong,
    /// Retired: it was more than `max_size` or `max_idle` allow.
    Excess,
    /// Retired: it was opened before a `refresh`.
    Stale,
    /// Retired: the pool was closed.
    PoolClosed,
    /// Retired: the [`HandleUse`](crate::HandleUse) failed on it, or took too long.
    UseHandler,
    /// Gone: connecting failed.
    ConnectFailed,
    /// Abandoned: the driver call overran its limit.
    Overran,
    /// Gone: its holder keeps it.
    Detached,
}

/// As in logs and traces, and in the `reason` of metrics.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reason::Broken => "broken",
            Reason::Invalid => "invalid",
            Reason::Expired => "expired",
            Reason::IdleTooLong => "idle_too_long",
            Reason::Excess => "excess",
            Reason::Stale => "stale",
            Reason::PoolClosed => "pool_closed",
            Reason::UseHandler => "use_handler",
            Reason::ConnectFailed => "connect_failed",
            Reason::Overran => "overran",
            Reason::Detached => "detached",
        })
    }
}

/// What a driver call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CallKind {
    /// To open a connection.
    Connect,
    /// To reset or validate one, or to begin or end a use of it.
    Check,
    /// To close one.
    Close,
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallKind::Connect => "connect",
            CallKind::Check => "check",
            CallKind::Close => "close",
        })
    }
}
