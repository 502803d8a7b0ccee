//! The slot of one connection, and the permit for it.

use std::time::Duration;

use super::{CallKind, ConnectionState, Policy, PoolTypes, Reason, Time, WaiterId};

/// The right to one live connection, as the server counts them.
///
/// Only the core makes permits, when it asks for a connect. A permit cannot be copied,
/// and its owner gives it back in exactly one way: `connect_finished`,
/// `connect_failed`, `checkin`, `take_checked`, `check_finished`, `use_begun`, `close_finished` or
/// `detach`.
#[must_use = "a permit that is dropped is a slot that is lost"]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Permit(pub(super) u32);

impl Permit {
    #[inline]
    pub(super) fn index(&self) -> usize {
        self.0 as usize
    }
}

/// A connection together with its permit, wherever it goes. One word to move.
pub(crate) type Lease<C> = Box<Leased<C>>;

#[must_use = "a lease that is dropped is a slot that is lost"]
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leased<C> {
    pub(crate) permit: Permit,
    /// Until then it may be handed out without a check, if it is idle: it is neither in
    /// doubt nor due for validation. Kept here because a checkout reads the lease anyway.
    pub(super) fit_until: Time,
    pub(crate) conn: C,
}

impl<C> Leased<C> {
    pub(crate) fn new(permit: Permit, conn: C) -> Lease<C> {
        Box::new(Leased { permit, fit_until: Time::START, conn })
    }
}

/// Which parts of a check are due before a connection may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Check {
    /// A handler begins a use of it. Then nothing else is due.
    pub(crate) begin: bool,
    /// A handler ends a use of it, before it is reset. Whether a reset is due is only known then.
    pub(crate) end: bool,
    pub(crate) reset: bool,
    pub(crate) validate: bool,
}

impl Check {
    pub(crate) const NONE: Check =
        Check { begin: false, end: false, reset: false, validate: false };
    pub(crate) const BEGIN: Check = Check { begin: true, ..Check::NONE };
    pub(crate) const VALIDATE: Check = Check { validate: true, ..Check::NONE };

    /// Why a connection is retired whose check has failed, as far as is known.
    pub(super) fn failure(self) -> Reason {
        if self.validate { Reason::Invalid } else { Reason::Broken }
    }
}

/// A connection that is, or was, lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held<C> {
    pub(crate) connection_id: u64,
    /// Zero if it is not known.
    pub(crate) backend_id: u32,
    pub(crate) caller: C,
    pub(crate) held_for: Duration,
    /// It was granted to a task, which was not polled since.
    pub(crate) untaken: bool,
}

/// What the core knows of one connection.
pub(super) struct Slot<T: PoolTypes> {
    /// `Gone` if the slot is vacant.
    pub(super) state: ConnectionState,
    /// When it entered this state.
    pub(super) since: Time,
    /// What is being checked (while `Checking`).
    pub(super) check: Check,
    /// For whom a use of it begins (while `Checking`), if that one still waits for it.
    pub(super) begins_for: Option<WaiterId>,
    /// A keepalive is under way, which is not a use: the connection has been idle since
    /// then and remains so if nobody needs it (while `Checking`).
    pub(super) idle_since: Option<Time>,
    /// When it was last known to work: opened, returned or checked.
    pub(super) fresh_at: Time,
    /// When its last validation succeeded.
    pub(super) checked_at: Option<Time>,
    /// From then on it is old: the end of its lifetime, less the time that it takes to open
    /// successors. Drawn once.
    pub(super) expires: Time,
    /// For how long it may be idle, drawn once.
    pub(super) idle_time: Option<Duration>,
    /// It is to be replaced (while it is open).
    pub(super) old: bool,
    pub(super) generation: u32,
    /// The number of the last connect or validation that showed it to work, or is about to.
    pub(super) proof: u64,
    /// Zero until it is open.
    pub(super) connection_id: u64,
    /// Its session at the server. Zero until it is open, and if it is not known.
    pub(super) backend_id: u32,
    /// The abandoned driver call, or the close of the connection that it brought too late
    /// (while `Abandoned`).
    pub(super) abandoned: Option<(CallKind, Time)>,
    /// From then on the pool does not count on its connect or check.
    pub(super) patience_ends: Time,
    /// That time has come.
    pub(super) past_patience: bool,
    /// Its driver call has overrun its limit, but cannot be abandoned since
    /// `max_abandoned` calls are. Counts as occupied, but not as a call at once.
    pub(super) past_limit: bool,
    /// Who has it (while `Busy`), or had it last. `None` if nobody has ever had it.
    pub(super) caller: Option<T::Caller>,
    /// Its guard has moved to another thread than the one that got it.
    pub(super) moved: bool,
    /// It is reported as leaked.
    pub(super) leaking: bool,
    /// Its task has not been polled since it was granted (while `Busy`).
    pub(super) untaken: bool,
}

impl<T: PoolTypes> Slot<T> {
    pub(super) fn vacant() -> Slot<T> {
        Slot {
            state: ConnectionState::Gone,
            since: Time::START,
            check: Check::NONE,
            begins_for: None,
            idle_since: None,
            fresh_at: Time::START,
            checked_at: None,
            expires: Time::NEVER,
            idle_time: None,
            old: false,
            generation: 0,
            proof: 0,
            connection_id: 0,
            backend_id: 0,
            abandoned: None,
            patience_ends: Time::NEVER,
            past_patience: false,
            past_limit: false,
            caller: None,
            moved: false,
            leaking: false,
            untaken: false,
        }
    }

    /// Until then this connection may be handed out without a check. (If every checkout is
    /// checked, the gate is shut.)
    #[inline]
    pub(super) fn fit_until(&self, fresh_nanos: u64, by_check: bool) -> Time {
        let fresh_at = if by_check { self.checked_at } else { Some(self.fresh_at) };
        fresh_at.map_or(Time::START, |at| at.after_nanos(fresh_nanos))
    }

    /// Its check has succeeded.
    pub(super) fn check_succeeded(&mut self, now: Time) {
        if self.check.validate {
            self.checked_at = Some(now);
        }
    }

    /// A caller has it or can get it.
    pub(super) fn is_open(&self) -> bool {
        use ConnectionState::*;
        matches!(self.state, Idle | Busy | Checking)
    }

    /// If it is idle, it has been so for long enough from then on.
    pub(super) fn idle_until(&self) -> Time {
        self.since.after_opt(self.idle_time)
    }

    pub(super) fn held(&self, now: Time) -> Option<Held<T::Caller>> {
        let held_for = now.since(self.since);
        let (connection_id, backend_id) = (self.connection_id, self.backend_id);
        let (caller, untaken) = (self.caller.clone()?, self.untaken);
        Some(Held { connection_id, backend_id, caller, held_for, untaken })
    }

    /// The driver call that is under way and not abandoned.
    pub(super) fn call(&self) -> Option<CallKind> {
        match self.state {
            ConnectionState::Opening => Some(CallKind::Connect),
            ConnectionState::Checking => Some(CallKind::Check),
            ConnectionState::Closing => Some(CallKind::Close),
            _ => None,
        }
    }

    /// When the driver call changes what the pool does next, merely by taking long.
    pub(super) fn next_deadline(&self, policy: &Policy) -> Option<Time> {
        let limit = self.limit_ends(policy).filter(|_| !self.past_limit);
        let patience = self.is_counted_on().then_some(self.patience_ends);
        [limit, patience].into_iter().flatten().min()
    }

    /// It is in a connect or a check from which waiters may hope for a connection.
    pub(super) fn is_counted_on(&self) -> bool {
        matches!(self.call(), Some(CallKind::Connect | CallKind::Check)) && !self.past_patience
    }

    /// When the driver call overruns its limit.
    pub(super) fn limit_ends(&self, policy: &Policy) -> Option<Time> {
        let part = |due, limit| if due { limit } else { Duration::ZERO };
        let limit = match self.call()? {
            CallKind::Connect => policy.open_limit,
            CallKind::Check => {
                let Check { begin, end, reset, validate } = self.check;
                part(begin || end, policy.validation_limit)
                    .saturating_add(part(reset || end, policy.reset_limit))
                    .saturating_add(part(validate, policy.validation_limit))
            }
            CallKind::Close => policy.close_limit,
        };
        Some(self.since.after(limit))
    }
}
