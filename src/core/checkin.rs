//! Returns that are not done by the fast path.

use super::{Check, Core, Effects, Lease, Permit, PoolTypes, Reason};

/// What the returning side knows about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Check(Check),
    Broken,
}

impl<T: PoolTypes> Core<T> {
    /// A holder returns its connection.
    pub(crate) fn checkin(&mut self, lease: Lease<T::Conn>, verdict: Verdict, fx: &mut Effects<T>) {
        // Asked while it still counts as busy.
        let unfit = self.unfit(&lease.permit, fx.now);
        self.busy -= 1;
        self.end_leak(&lease.permit, fx);
        match (verdict, unfit) {
            (Verdict::Broken, _) => self.retire(lease, Reason::Broken, fx),
            (_, Some(reason)) => self.retire(lease, reason, fx),
            (Verdict::Check(check), None) => self.start_check(lease, check, None, fx),
            (Verdict::Keep, None) => self.shelve(lease, fx),
        }
        self.finish(fx);
    }

    /// A holder keeps its connection for good; the pool no longer counts it.
    pub(crate) fn detach(&mut self, permit: Permit, fx: &mut Effects<T>) {
        self.busy -= 1;
        self.end_leak(&permit, fx);
        self.counters.closed[Reason::Detached as usize] += 1;
        self.vacate(permit, Some(Reason::Detached), fx.now);
        fx.progress = true;
        self.finish(fx);
    }
}
