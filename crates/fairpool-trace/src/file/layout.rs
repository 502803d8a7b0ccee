//! Which piece is drawn on which row of which lane.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::piece::{Ended, Lane, Mark, NO_THREAD, Piece, What};
use crate::trace::Trace;

/// The first number of a lane: larger than those of the pools, which are processes.
const FIRST_LANE: u64 = 1000;

/// A piece and its row: lanes of threads may need several.
pub(super) struct Drawn {
    pub(super) piece: Piece,
    /// Its number, if it has ended.
    pub(super) number: Option<u64>,
    row: usize,
}

impl Drawn {
    fn new(piece: Piece, number: Option<u64>) -> Drawn {
        Drawn { piece, number, row: 0 }
    }

    fn lane(&self) -> (usize, Lane, usize) {
        (self.piece.pool, self.piece.lane, self.row)
    }

    pub(super) fn lane_name(&self) -> String {
        let call_site = match &self.piece.what {
            What::Wait { call_site, .. } | What::Hold { call_site, .. } => Some(call_site),
            What::Mark(mark) => mark.call_site.as_ref(),
            What::State { .. } => None,
        };
        let name = match (self.piece.lane, call_site) {
            (Lane::Pool, _) => "pool".to_string(),
            (Lane::Slot(slot), _) => format!("connection slot {slot}"),
            (Lane::Thread(_), Some(call_site)) => call_site.thread().to_string(),
            (Lane::Thread(number), None) => format!("thread {number}"),
        };
        if self.row == 0 { name } else { format!("{name} ({})", self.row + 1) }
    }
}

/// The numbers of all lanes in the file.
pub(super) struct Lanes(BTreeMap<(usize, Lane, usize), u64>);

impl Lanes {
    pub(super) fn of(drawn: &[Drawn]) -> Lanes {
        let mut lanes: BTreeMap<_, u64> = drawn.iter().map(|one| (one.lane(), 0)).collect();
        lanes.values_mut().zip(FIRST_LANE..).for_each(|(lane, number)| *lane = number);
        Lanes(lanes)
    }

    pub(super) fn number(&self, drawn: &Drawn) -> u64 {
        self.0[&drawn.lane()]
    }
}

/// All pieces of a trace, in the order of the lanes.
pub(super) fn drawn(trace: &Trace) -> Vec<Drawn> {
    let ended = trace.pieces.kept.iter().zip(trace.pieces.forgotten..);
    let ended = ended.map(|(piece, number)| Drawn::new(piece.clone(), Some(number)));
    let open = trace.pools.iter().flat_map(|pool| pool.open(trace.end));
    let mut all: Vec<Drawn> = ended.chain(open.map(|piece| Drawn::new(piece, None))).collect();
    if trace.forgotten() > 0 {
        all.extend((0..trace.pools.len()).map(|pool| Drawn::new(forgotten(trace, pool), None)));
    }
    all.sort_by_key(|Drawn { piece, .. }| {
        (piece.pool, piece.lane, piece.begin, Reverse(piece.end))
    });
    for lane in all.chunk_by_mut(|one, other| one.lane() == other.lane()) {
        choose_rows(lane);
    }
    all
}

/// A mark where the whole trace begins.
fn forgotten(trace: &Trace, pool: usize) -> Piece {
    let at = trace.pieces.whole_from;
    let mark = Mark {
        name: "earlier slices were forgotten".to_string(),
        call_site: None,
        args: json!({ "forgotten": trace.forgotten() }),
    };
    let (lane, ended, what) = (Lane::Pool, Ended::Seen, What::Mark(Box::new(mark)));
    Piece { pool, lane, begin: at, end: at, before: Duration::ZERO, ended, what }
}

/// Chooses a row for each slice of a lane: two slices may share a row if one contains the
/// other, but not if they overlap, or are of tasks. They are sorted by their beginning, the longer first.
fn choose_rows(lane: &mut [Drawn]) {
    let mut rows: Vec<Vec<i64>> = Vec::new();
    for Drawn { piece, row, .. } in lane {
        if matches!(piece.what, What::Mark(_)) {
            continue;
        }
        let fits = rows.iter_mut().position(|ends| {
            while ends.last().is_some_and(|&end| end <= piece.begin) {
                ends.pop();
            }
            // All tasks are on one lane, and none is within another.
            let nests = piece.lane != Lane::Thread(NO_THREAD);
            ends.last().is_none_or(|&end| nests && piece.end <= end)
        });
        *row = fits.unwrap_or(rows.len());
        if fits.is_none() {
            rows.push(Vec::new());
        }
        rows[*row].push(piece.end);
    }
}
