//! Doubt: what a dead connection says of the others.
//!
//! What ended one connection may have ended all: the server restarted, or is the primary
//! no longer. So when one proves dead, every connection that has not been proved since is
//! in doubt, and is checked before it is lent again, however short a time ago it was used.
//!
//! A *proof* is a connect or a validation that succeeds. Proofs are numbered when they
//! begin: what begins after the doubt was cast is a proof, also if the server died a moment
//! before; what ends after it is none, since the server's answer may be older. To cast doubt
//! is to raise one number, [`Core::doubted`]: the proofs up to it count no more. The fast
//! path of a return compares each connection's proof with it; that of a get finds that the
//! connection on top is not fit.
//!
//! Nothing is checked because of the doubt alone. Callers check what they need, and the
//! keepalive what is due. A connection that nobody needs stays in doubt.

use super::{Core, Effects, Lease, Notice, Permit, PoolTypes, Reason, Time};

/// The number of no proof: a connection that has proved dead.
const NONE: u64 = 0;

impl<T: PoolTypes> Core<T> {
    /// The number of a connect or a validation that begins now.
    pub(super) fn number_proof(&mut self) -> u64 {
        self.proofs += 1;
        self.proofs
    }

    /// It must be checked before it is lent.
    #[inline]
    pub(super) fn is_in_doubt(&self, permit: &Permit) -> bool {
        self.slots[permit.index()].proof <= self.doubted
    }

    /// A connection has proved dead while a caller has it, or checks it itself. What is proved
    /// from now on is not in doubt because of it, also when it comes back.
    #[cold]
    pub(crate) fn proved_dead(&mut self, permit: &Permit, reason: Reason, fx: &mut Effects<T>) {
        self.doubt_because_of(permit.index(), reason, fx);
        self.slot(permit).proof = NONE;
        self.finish(fx);
    }

    /// A connection is retired for this reason; or its check, which could have retired it so,
    /// has overrun its limit.
    #[cold]
    pub(super) fn doubt_because_of(&mut self, index: usize, reason: Reason, fx: &mut Effects<T>) {
        let slot = &self.slots[index];
        if slot.proof == NONE {
            return;
        }
        let up_to = match reason {
            // It may have died at any time until now.
            Reason::Broken => self.proofs,
            // It was dead when its validation began, or very soon after. So what began later is
            // not in doubt. Otherwise, where every validation fails, each failure would put the
            // connects under way in doubt, and nobody would ever be served.
            Reason::Invalid => slot.proof - 1,
            _ => return,
        };
        let connection_id = slot.connection_id;
        let idle = self.doubt(up_to);
        if idle > 0 {
            fx.notices.push(Notice::Doubt { connection_id, reason, idle });
        }
    }

    /// The proofs up to this number count no more. Idle connections in doubt go below those
    /// that are not. Returns how many are in doubt that were not before.
    ///
    /// Visits them only if a connect or a validation has begun since the last time: so a
    /// burst of errors does not visit them again and again.
    pub(super) fn doubt(&mut self, up_to: u64) -> u32 {
        if up_to <= self.doubted {
            return 0;
        }
        let before = std::mem::replace(&mut self.doubted, up_to);
        let mut newly = 0;
        for lease in &mut self.idle {
            let proof = self.slots[lease.permit.index()].proof;
            if proof <= up_to {
                lease.fit_until = Time::START;
                newly += u32::from(proof > before);
            }
        }
        if newly > 0 {
            let slots = &self.slots;
            let is_proved = |lease: &Lease<T::Conn>| slots[lease.permit.index()].proof > up_to;
            self.idle.make_contiguous().sort_by_key(is_proved);
        }
        newly
    }
}
