//! Slices and marks: what a viewer draws.

use std::collections::VecDeque;
use std::time::Duration;

use fairpool::ErrorKind;
use fairpool::event::{ConnectionState, Reason};
use fairpool::snapshot::CallSite;

/// The number of no thread: the call sites of tasks have it.
pub(crate) const NO_THREAD: u64 = 0;

/// Where a piece is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    Pool,
    Thread(u64),
    Slot(u32),
}

/// A slice of time on a lane, or a mark, which has no length.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The pool's index in the trace.
    pub(crate) pool: usize,
    pub(crate) lane: Lane,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    /// How long it had lasted before the trace began.
    pub(crate) before: Duration,
    pub(crate) ended: Ended,
    pub(crate) what: What,
}

/// What is known about the end of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ended at `end`.
    Seen,
    /// It lasts longer than the trace.
    Open,
    /// Its end was among the lost events.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The result is `None` if it was not seen.
    Wait {
        get_id: u64,
        call_site: CallSite,
        result: Option<Result<(), ErrorKind>>,
    },
    Hold {
        connection_id: u64,
        backend_id: Option<u32>,
        call_site: CallSite,
        waited: Duration,
        woken_by: Option<u64>,
    },
    State {
        state: ConnectionState,
        connection_id: Option<u64>,
        backend_id: Option<u32>,
        reason: Option<Reason>,
    },
    Mark(Box<Mark>),
}

#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) name: String,
    /// The call site whose thread it concerns.
    pub(crate) call_site: Option<CallSite>,
    pub(crate) args: serde_json::Value,
}

/// The pieces that have ended, in the order in which they did. Each has a number, which
/// stays the same when older pieces are dropped.
pub(crate) struct Pieces {
    pub(crate) kept: VecDeque<Piece>,
    limit: usize,
    pub(crate) forgotten: u64,
    /// The end of the last piece that was dropped: from there on, nothing is missing.
    pub(crate) whole_from: i64,
}

impl Pieces {
    pub(crate) fn new(limit: usize) -> Pieces {
        Pieces { kept: VecDeque::new(), limit, forgotten: 0, whole_from: i64::MIN }
    }

    /// Adds a piece and returns its number.
    pub(crate) fn push(&mut self, piece: Piece) -> u64 {
        self.kept.push_back(piece);
        while self.kept.len() > self.limit {
            let oldest = self.kept.pop_front();
            self.whole_from = oldest.map_or(self.whole_from, |oldest| oldest.end);
            self.forgotten += 1;
        }
        self.forgotten + self.kept.len() as u64 - 1
    }
}
