//! Whether the fast paths may be taken.

use super::Time;

/// The conditions of the fast paths, computed at the end of every other transition.
/// The fast paths only move connections between the stack and their holders, which
/// changes none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    /// Newcomers may overtake waiters until then; `NEVER` if the queue is empty.
    pub(super) until: Time,
    /// A newcomer may take an idle connection while more than this many are idle.
    pub(super) floor: usize,
    /// A connection may be returned while fewer than this many are idle.
    pub(super) ceiling: usize,
}

impl Gate {
    pub(super) const SHUT: Gate = Gate { until: Time::START, floor: usize::MAX, ceiling: 0 };
}
