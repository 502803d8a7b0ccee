//! One place for one connection.

use std::time::Duration;

use super::{CallKind, Check, Policy, Time, Types};

/// The right to one live connection, as the server counts them.
///
/// Made only by the core, when it asks for an open. It cannot be copied, and
/// whoever has it gives it back in exactly one way: `opened`, `open_failed`,
/// `checkin`, `checked`, `closed` or `detached`.
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
    /// Until when it may be handed out as it is, if it is idle: neither expired
    /// nor due for a check. Kept here, where a checkout looks anyway.
    pub(super) fit_until: Time,
    pub(crate) conn: C,
}

impl<C> Leased<C> {
    pub(crate) fn new(permit: Permit, conn: C) -> Lease<C> {
        Box::new(Leased { permit, fit_until: Time::START, conn })
    }
}

/// Why a connection leaves the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    Broken,
    Invalid,
    Expired,
    IdleTooLong,
    Excess,
    Stale,
    Closed,
}

/// What the core knows of a slot's connection.
///
/// ```text
///            open            lend              retire       start of the close
///   Vacant ───────► Opening ─────► Idle ⇄ Busy ─────► Queued ─────► Closing ──► Vacant
///                                   ▲ │                                │
///                                   │ ▼                                │ overrun
///                                 Checking                             ▼
///             Opening and Checking that overrun their limit ────► Abandoned ──► Vacant
/// ```
///
/// `Idle` is retired too; and what comes of an abandoned call goes on as what comes
/// of any other, if there is room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Vacant,
    Opening,
    Idle,
    /// Lent to a caller.
    Busy,
    /// A worker resets or validates it. `Some`: it was idle since then, and
    /// stays so if nobody wants it (a keepalive is not a use).
    Checking(Check, Option<Time>),
    /// Retired; waits for a closer.
    Queued,
    /// In the driver's close.
    Closing,
    /// In a driver call that overran its limit; no longer counted.
    Abandoned,
}

pub(super) struct Slot<T: Types> {
    pub(super) state: State,
    /// When it came into this state.
    pub(super) since: Time,
    /// When it was last known to work: opened, returned or checked.
    pub(super) fresh_at: Time,
    /// The end of its lifetime, drawn once.
    pub(super) expires: Time,
    pub(super) generation: u32,
    /// The connection's number; zero until it is open.
    pub(super) number: u64,
    /// The driver call that was abandoned, or the close of what came of it (while
    /// `Abandoned`).
    pub(super) abandoned: Option<(CallKind, Time)>,
    /// Its driver call takes so long that nobody counts on it any more.
    pub(super) slow: bool,
    /// Its driver call has overrun its limit, but as many calls are abandoned
    /// as may be. It counts as live, but not toward the calls at once.
    pub(super) overdue: bool,
    /// Who has it (while `Busy`).
    pub(super) caller: Option<T::Caller>,
    /// It is still with the thread that got it, as far as is known.
    pub(super) at_home: bool,
    /// Its holder has been reported for keeping it too long.
    pub(super) leaking: bool,
}

impl<T: Types> Slot<T> {
    pub(super) fn vacant() -> Slot<T> {
        Slot {
            state: State::Vacant,
            since: Time::START,
            fresh_at: Time::START,
            expires: Time::NEVER,
            generation: 0,
            number: 0,
            abandoned: None,
            slow: false,
            overdue: false,
            caller: None,
            at_home: true,
            leaking: false,
        }
    }

    /// Until when this connection may be handed out as it is. One that is checked
    /// every time never may, also when the clock lags.
    #[inline]
    pub(super) fn fit_until(&self, fresh_nanos: u64) -> Time {
        match fresh_nanos {
            0 => Time::START,
            nanos => self.expires.min(self.fresh_at.after_nanos(nanos)),
        }
    }

    /// When the driver call in which this slot is has to be looked at next.
    pub(super) fn look_at(&self, policy: &Policy) -> Option<Time> {
        let overruns = self.overrun_at(policy).filter(|_| !self.overdue);
        let slows = self.slows_at(policy).filter(|_| !self.slow);
        [overruns, slows].into_iter().flatten().min()
    }

    /// When an open or a check is no longer counted on.
    pub(super) fn slows_at(&self, policy: &Policy) -> Option<Time> {
        matches!(self.state, State::Opening | State::Checking(..))
            .then(|| self.since.after(policy.patience))
    }

    /// When the driver call in which this slot is overruns its limit.
    pub(super) fn overrun_at(&self, policy: &Policy) -> Option<Time> {
        let limit = match self.state {
            State::Opening => policy.open_limit,
            State::Checking(check, _) => {
                let part = |due, limit| if due { limit } else { Duration::ZERO };
                part(check.reset, policy.reset_limit)
                    .saturating_add(part(check.validate, policy.validation_limit))
            }
            State::Closing => policy.close_limit,
            _ => return None,
        };
        Some(self.since.after(limit))
    }
}
