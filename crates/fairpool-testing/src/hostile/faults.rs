//! What can go wrong in which call, and how often it did.

/// The calls that a pool makes to code that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `ManageConnection::connect`.
    Connect,
    /// `ManageConnection::is_valid`.
    IsValid,
    /// `ManageConnection::has_broken`.
    HasBroken,
    /// `ManageConnection::needs_reset`.
    NeedsReset,
    /// `ManageConnection::reset`.
    Reset,
    /// `ManageConnection::is_permanent`.
    IsPermanent,
    /// `ManageConnection::is_fatal`.
    IsFatal,
    /// The connection's `Drop`.
    Close,
    /// `CustomizeConnection::on_acquire`.
    OnAcquire,
    /// `CustomizeConnection::on_release`.
    OnRelease,
    /// `HandleUse::begin`.
    BeginUse,
    /// `HandleUse::end`.
    EndUse,
    /// `HandleError::inspect_error`.
    InspectError,
    /// `HandleError::handle_error`.
    HandleError,
    /// `HandleEvent::handle_acquire`.
    HandleAcquire,
    /// `HandleEvent::handle_release`.
    HandleRelease,
    /// `HandleEvent::handle_checkout`.
    HandleCheckout,
    /// `HandleEvent::handle_checkin`.
    HandleCheckin,
    /// `HandleEvent::handle_timeout`.
    HandleTimeout,
    /// `HandleEvent::handle_leak`.
    HandleLeak,
    /// `HandleEvent::handle_leak_end`.
    HandleLeakEnd,
    /// `HandleEvent::handle_self_deadlock`.
    HandleSelfDeadlock,
    /// The `Drop` of a connection's extension.
    ExtensionDrop,
}

/// How many kinds of calls there are.
pub const CALLS: usize = 23;

impl Call {
    /// All of them, in order.
    pub const ALL: [Call; CALLS] = [
        Call::Connect,
        Call::IsValid,
        Call::HasBroken,
        Call::NeedsReset,
        Call::Reset,
        Call::IsPermanent,
        Call::IsFatal,
        Call::Close,
        Call::OnAcquire,
        Call::OnRelease,
        Call::BeginUse,
        Call::EndUse,
        Call::InspectError,
        Call::HandleError,
        Call::HandleAcquire,
        Call::HandleRelease,
        Call::HandleCheckout,
        Call::HandleCheckin,
        Call::HandleTimeout,
        Call::HandleLeak,
        Call::HandleLeakEnd,
        Call::HandleSelfDeadlock,
        Call::ExtensionDrop,
    ];

    /// Whether its result can be a failure.
    pub fn can_fail(self) -> bool {
        use Call::*;
        matches!(
            self,
            Connect
                | IsValid
                | HasBroken
                | NeedsReset
                | Reset
                | IsPermanent
                | IsFatal
                | OnAcquire
                | BeginUse
                | EndUse
                | InspectError
        )
    }

    /// Whether it can run on a thread of the pool's callers, where a hang has no limit.
    pub fn runs_on_callers(self) -> bool {
        use Call::*;
        matches!(
            self,
            HasBroken
                | NeedsReset
                | IsFatal
                | HandleCheckout
                | HandleCheckin
                | HandleTimeout
                | HandleRelease
                | HandleLeak
                | HandleLeakEnd
                | HandleSelfDeadlock
                | ExtensionDrop
        )
    }

    /// How often it goes wrong, in tenths of the [`Rates`]. Calls that run on callers'
    /// threads at each turn go wrong rarely, or no caller would make progress; rare calls go
    /// wrong often, or the test would never see it.
    pub fn weight(self) -> u64 {
        use Call::*;
        match self {
            HasBroken | NeedsReset | HandleCheckout | HandleCheckin => 2,
            IsFatal | HandleTimeout | HandleRelease | ExtensionDrop => 10,
            HandleLeak | HandleLeakEnd | HandleSelfDeadlock | HandleError => 40,
            _ => 20,
        }
    }
}

/// The ways in which a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, if it [can](Call::can_fail).
    Fail,
    /// A connect fails with an error that no retry cures.
    FailForGood,
    /// It panics.
    Panic,
    /// It takes up to 20 ms.
    Slow,
    /// It hangs until [`World::release`](super::World::release).
    Hang,
}

/// All faults, in order.
pub const FAULTS: [Fault; 5] =
    [Fault::Fail, Fault::FailForGood, Fault::Panic, Fault::Slow, Fault::Hang];

/// How often calls go wrong: parts of 100,000 for each of [`FAULTS`].
pub type Rates = [u64; FAULTS.len()];

/// What a [`World`](super::World) counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Calls, by `Call as usize`.
    pub calls: [u64; CALLS],
    /// Faults, by `Call as usize` and `Fault as usize`.
    pub faults: [[u64; FAULTS.len()]; CALLS],
    /// Connections opened.
    pub opened: u64,
    /// Connections closed.
    pub closed: u64,
    /// Connects that began with more connections than the ceiling, so that some of them had
    /// to be abandoned ones.
    pub beside_abandoned: u64,
    /// How many of those began with too few calls past half of their limit: the pool
    /// abandoned one too early, or the thread of a call started late.
    pub abandoned_early: u64,
    /// The most abandoned calls at once, by the pool's count.
    pub most_abandoned: u32,
}

impl Counts {
    /// Adds the counts of another world.
    pub fn add(&mut self, other: &Counts) {
        for (call, faults) in self.faults.iter_mut().enumerate() {
            self.calls[call] += other.calls[call];
            for (fault, count) in faults.iter_mut().enumerate() {
                *count += other.faults[call][fault];
            }
        }
        self.opened += other.opened;
        self.closed += other.closed;
        self.beside_abandoned += other.beside_abandoned;
        self.abandoned_early += other.abandoned_early;
        self.most_abandoned = self.most_abandoned.max(other.most_abandoned);
    }
}
