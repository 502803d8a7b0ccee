//! Reads the journal of a walk: each step that the core took is in it, once and in
//! order, and what was read is what the core has come to.

use std::collections::BTreeMap;

use super::super::explore::Toy;
use super::super::*;

pub(super) struct Listener {
    /// The pages that the journal is not written on.
    spare: Option<Pages<u8>>,
    /// Where the connection of each place is.
    places: Vec<Place>,
    /// Who waits, by number.
    waiting: BTreeMap<u64, u8>,
    newest: u64,
    /// What the counters of the core have been raised by.
    gets: u64,
    gets_waited: u64,
    before: Counters,
}

impl Listener {
    /// From now on. What is known is what anybody can see.
    pub(super) fn of(core: &mut Core<Toy>) -> Listener {
        let room = || Pages::of(1 << 12);
        assert!(core.turn_page(Some(room())).is_none(), "it was noted before");
        Listener {
            spare: Some(room()),
            places: core.slots.iter().map(|slot| slot.state.into()).collect(),
            waiting: waiting(core),
            newest: core.queue.iter().map(|(id, _)| id.number()).max().unwrap_or(0),
            gets: 0,
            gets_waited: 0,
            before: *core.counters(),
        }
    }

    /// Called after each transition.
    pub(super) fn read(&mut self, core: &mut Core<Toy>) {
        let pages = core.turn_page(self.spare.take());
        let mut pages = pages.expect("the journal was closed");
        assert_eq!(pages.lost, 0);
        for entry in pages.entries.drain(..) {
            self.follow(entry.step);
        }
        self.spare = Some(pages);
        assert_eq!(self.waiting, waiting(core), "who waits, by the journal");
        for (index, slot) in core.slots.iter().enumerate() {
            assert_eq!(self.place(index), Place::from(slot.state), "place {index}, by the journal");
        }
        let counters = core.counters();
        assert_eq!(self.gets, counters.gets - self.before.gets, "gets, by the journal");
        let waited = counters.gets_waited - self.before.gets_waited;
        assert_eq!(self.gets_waited, waited, "gets that waited, by the journal");
    }

    fn follow(&mut self, step: Step<u8>) {
        match step {
            Step::Started { get, caller, .. } => {
                self.is_new(get);
                self.waiting.insert(get, caller);
            }
            Step::Lent { get, caller, waited, which, from } => {
                match self.waiting.remove(&get) {
                    Some(who) => {
                        assert_eq!(who, caller, "get {get}");
                        self.gets_waited += 1;
                    }
                    None => {
                        self.is_new(get);
                        assert!(waited.is_zero(), "get {get}");
                    }
                }
                self.gets += 1;
                self.go(which, from, Place::Busy);
            }
            Step::Left { get, caller, waited, .. } => match self.waiting.remove(&get) {
                Some(who) => assert_eq!(who, caller, "get {get}"),
                None => {
                    self.is_new(get);
                    assert!(waited.is_zero(), "get {get}");
                }
            },
            Step::Moved { which, from, to, why } => {
                let retired = matches!(why, Some(Why::Retired(_)));
                assert_eq!(retired, to == Place::Retired, "{which:?}: {why:?}");
                let overran = matches!(why, Some(Why::Overran));
                assert_eq!(overran, to == Place::Abandoned, "{which:?}: {why:?}");
                self.go(which, from, to);
            }
        }
    }

    fn is_new(&mut self, get: u64) {
        assert!(get > self.newest, "get {get} after {}", self.newest);
        self.newest = get;
    }

    fn go(&mut self, which: Which, from: Place, to: Place) {
        let index = which.slot as usize;
        assert_eq!(self.place(index), from, "a gap before {which:?} went to {to:?}");
        assert_ne!(from, to, "{which:?}");
        if self.places.len() <= index {
            self.places.resize(index + 1, Place::Gone);
        }
        self.places[index] = to;
    }

    fn place(&self, index: usize) -> Place {
        self.places.get(index).copied().unwrap_or(Place::Gone)
    }
}

fn waiting(core: &Core<Toy>) -> BTreeMap<u64, u8> {
    core.queue.iter().map(|(id, waiter)| (id.number(), waiter.caller)).collect()
}
