//! What can go wrong in which call, and how often it did.

/// Everything that a pool calls and that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Connect,
    IsValid,
    HasBroken,
    NeedsReset,
    Reset,
    IsPermanent,
    IsFatal,
    /// The connection's `Drop`.
    Close,
    OnAcquire,
    OnRelease,
    InspectError,
    HandleError,
    HandleAcquire,
    HandleRelease,
    HandleCheckout,
    HandleCheckin,
    HandleTimeout,
    HandleLeak,
    HandleLeakEnd,
    HandleSelfDeadlock,
    ExtensionDrop,
}

pub const CALLS: usize = 21;

impl Call {
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

    /// Can say no, or yes where that is the bad answer.
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
                | InspectError
        )
    }

    /// Runs on the threads of callers, if only sometimes: what hangs there has no
    /// limit.
    pub fn is_callers(self) -> bool {
        use Call::*;
        matches!(
            self,
            HasBroken
                | NeedsReset
                | IsFatal
                | HandleCheckout
                | HandleCheckin
                | HandleTimeout
                | HandleLeak
                | HandleLeakEnd
                | HandleSelfDeadlock
                | ExtensionDrop
        )
    }

    /// How many times as often as others it goes wrong, in tenths: what runs on
    /// the threads of callers at each turn would leave none of them moving, and
    /// what is rare would never be met.
    pub fn tenths(self) -> u64 {
        use Call::*;
        match self {
            HasBroken | NeedsReset | HandleCheckout | HandleCheckin => 2,
            IsFatal | HandleTimeout | ExtensionDrop => 10,
            HandleLeak | HandleLeakEnd | HandleSelfDeadlock | HandleError => 40,
            _ => 20,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Fail,
    FailForGood,
    Panic,
    Slow,
    Hang,
}

pub const FAULTS: [Fault; 5] =
    [Fault::Fail, Fault::FailForGood, Fault::Panic, Fault::Slow, Fault::Hang];

/// How often calls go wrong, in parts of 100,000, one number for each fault.
pub type Rates = [u64; FAULTS.len()];

/// What was counted.
#[derive(Clone, Default)]
pub struct Counted {
    pub calls: [u64; CALLS],
    pub faults: [[u64; FAULTS.len()]; CALLS],
    pub opened: u64,
    pub closed: u64,
    /// Connects that began while so many connections were there that some of
    /// them had to be abandoned ones.
    pub over: u64,
    /// How many of those found fewer calls past half of their limit.
    pub early: u64,
    pub most_abandoned: u32,
}

impl Counted {
    pub fn add(&mut self, other: &Counted) {
        for (call, faults) in self.faults.iter_mut().enumerate() {
            self.calls[call] += other.calls[call];
            for (fault, count) in faults.iter_mut().enumerate() {
                *count += other.faults[call][fault];
            }
        }
        self.opened += other.opened;
        self.closed += other.closed;
        self.over += other.over;
        self.early += other.early;
        self.most_abandoned = self.most_abandoned.max(other.most_abandoned);
    }
}
