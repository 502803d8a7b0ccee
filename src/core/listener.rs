//! Somebody who listens to a pool and believes nothing: each step has to follow from
//! those before it, and the pool has to be as the steps say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::explore::Toy;
use super::*;

#[derive(Debug)]
pub(crate) struct Listener {
    /// Where each connection is, and its number, by its place in the pool.
    places: BTreeMap<u32, (Place, u64)>,
    /// The gets under way: who, and since when.
    gets: BTreeMap<u64, (u8, Time)>,
    /// The number of the get that began last.
    newest: u64,
    /// When the last step was.
    at: Time,
}

impl Listener {
    /// Begins to listen: how things are now is known.
    pub(crate) fn new(core: &Core<Toy>) -> Listener {
        let slots = core.slots.iter().zip(0..);
        let gets = gets_of(core);
        Listener {
            places: slots.map(|(slot, index)| (index, (slot.state.into(), slot.number))).collect(),
            newest: gets.keys().max().copied().unwrap_or_default(),
            gets,
            at: Time::START,
        }
    }

    pub(crate) fn hear(&mut self, entry: &Entry<u8>) {
        assert!(self.at <= entry.at, "steps out of order");
        self.at = entry.at;
        match entry.step {
            Step::Started { get, caller, .. } => {
                self.begins(get);
                self.gets.insert(get, (caller, entry.at));
            }
            Step::Lent { get, caller, waited, which, from } => {
                self.ends(get, caller, waited);
                assert!(
                    matches!(
                        from,
                        Place::Idle | Place::Opening | Place::Checking | Place::Abandoned
                    ),
                    "P7: lent from {from:?}"
                );
                self.moves(which, from, Place::Busy);
            }
            Step::Left { get, caller, waited, .. } => self.ends(get, caller, waited),
            Step::Moved { which, from, to, why } => {
                assert!(is_legal(from, to, why), "P7: from {from:?} to {to:?}: {why:?}");
                self.moves(which, from, to);
            }
        }
    }

    fn begins(&mut self, get: u64) {
        assert!(get > self.newest, "get {get} begins after {}", self.newest);
        self.newest = get;
    }

    fn ends(&mut self, get: u64, caller: u8, waited: Duration) {
        match self.gets.remove(&get) {
            Some((who, since)) => {
                assert_eq!((caller, waited), (who, self.at.since(since)), "the end of get {get}");
            }
            None => {
                self.begins(get);
                assert_eq!(waited, Duration::ZERO, "get {get} did not wait");
            }
        }
    }

    fn moves(&mut self, which: Which, from: Place, to: Place) {
        let (place, number) = self.place(which.slot);
        assert_eq!(place, from, "P7: the place of {which:?} that goes to {to:?}");
        match number {
            // It has none before it is open.
            0 => {
                let may_be_open = matches!(from, Place::Opening | Place::Abandoned);
                let has_to_be = !matches!(to, Place::Opening | Place::Abandoned | Place::Gone);
                assert!(which.connection == 0 || may_be_open, "{which:?} from {from:?}");
                assert!(which.connection != 0 || !has_to_be, "{which:?} to {to:?}");
            }
            number => assert_eq!(which.connection, number, "another is in its place"),
        }
        let number = if to == Place::Gone { 0 } else { which.connection };
        self.places.insert(which.slot, (to, number));
    }

    fn place(&self, slot: u32) -> (Place, u64) {
        self.places.get(&slot).copied().unwrap_or((Place::Gone, 0))
    }

    /// The pool is as the steps have said.
    pub(crate) fn agrees_with(&self, core: &Core<Toy>) {
        assert_eq!(self.gets, gets_of(core), "the gets under way");
        for (slot, index) in core.slots.iter().zip(0..) {
            let (place, number) = self.place(index);
            assert_eq!(place, slot.state.into(), "the place of slot {index}");
            // What an abandoned call opened does not move before it is of use.
            let untold = place == Place::Abandoned && number == 0;
            assert!(number == slot.number || untold, "the number of slot {index}");
        }
    }
}

fn gets_of(core: &Core<Toy>) -> BTreeMap<u64, (u8, Time)> {
    let queue = core.queue.iter();
    queue.map(|(id, waiter)| (id.number(), (waiter.caller, waiter.since))).collect()
}

/// The moves of the table at `State`, with what may be the reason.
fn is_legal(from: Place, to: Place, why: Option<Why>) -> bool {
    use Place::*;
    match (from, to) {
        (Opening | Idle | Busy | Checking, Retired) => matches!(why, Some(Why::Retired(_))),
        (Opening, Gone) => why == Some(Why::OpenFailed),
        (Busy, Gone) => why == Some(Why::Detached),
        (Opening | Checking | Closing, Abandoned) => why == Some(Why::Overran),
        (Gone, Opening)
        | (Opening | Busy | Checking | Abandoned, Idle)
        | (Idle | Busy, Checking)
        | (Retired, Closing)
        | (Closing | Abandoned, Gone) => why.is_none(),
        _ => false,
    }
}
