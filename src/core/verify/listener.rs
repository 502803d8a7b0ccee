//! A sceptical subscriber: each step must follow from those before it, and the pool must
//! be as the steps say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::toy::Toy;
use crate::core::*;

#[derive(Debug)]
pub(crate) struct Listener {
    /// The state and the number of each connection, by slot.
    places: BTreeMap<u32, (ConnectionState, u64)>,
    /// The gets under way: the caller, and since when it waits.
    gets: BTreeMap<u64, (u8, Time)>,
    /// The numbers of all gets so far.
    known: BTreeSet<u64>,
    /// Those that have got a connection. A task that is not polled in time waits again.
    lent: BTreeSet<u64>,
    /// The time of the last step.
    at: Time,
}

impl Listener {
    /// Subscribes, and knows the state of now.
    pub(crate) fn new(core: &Core<Toy>) -> Listener {
        let slots = core.slots.iter().zip(0..);
        let gets = gets_of(core);
        Listener {
            places: slots.map(|(slot, index)| (index, (slot.state, slot.connection_id))).collect(),
            known: gets.keys().copied().collect(),
            gets,
            lent: granted(core),
            at: Time::START,
        }
    }

    pub(crate) fn receive(&mut self, entry: &Entry<u8>) {
        assert!(self.at <= entry.at, "steps out of order");
        self.at = entry.at;
        match entry.step {
            Step::Enqueued { get_id, caller, .. } => {
                if !self.lent.remove(&get_id) {
                    self.begins(get_id);
                }
                self.gets.insert(get_id, (caller, entry.at));
            }
            Step::CheckedOut { get_id, caller, waited, connection, from } => {
                self.ends(get_id, caller, waited);
                self.lent.insert(get_id);
                assert!(
                    matches!(
                        from,
                        ConnectionState::Idle
                            | ConnectionState::Opening
                            | ConnectionState::Checking
                            | ConnectionState::Abandoned
                    ),
                    "P7: lent from {from:?}"
                );
                self.moves(connection, from, ConnectionState::Busy);
            }
            Step::GetFailed { get_id, caller, waited, .. } => self.ends(get_id, caller, waited),
            Step::Moved { connection, from, to, reason } => {
                assert!(is_legal(from, to, reason), "P7: from {from:?} to {to:?}: {reason:?}");
                self.moves(connection, from, to);
            }
        }
    }

    fn begins(&mut self, get: u64) {
        assert!(self.known.insert(get), "get {get} begins twice");
    }

    fn ends(&mut self, get: u64, caller: u8, waited: Duration) {
        match self.gets.remove(&get) {
            Some((who, since)) => {
                assert_eq!(caller, who, "the end of get {get}");
                // It may have made a check itself before.
                assert!(waited >= self.at.since(since), "get {get} waited for {waited:?}");
            }
            None => self.begins(get),
        }
    }

    fn moves(&mut self, connection: ConnectionRef, from: ConnectionState, to: ConnectionState) {
        let (place, number) = self.place(connection.slot);
        assert_eq!(place, from, "P7: the place of {connection:?} that goes to {to:?}");
        match number {
            // Zero until it is open.
            0 => {
                let may_be_open =
                    matches!(from, ConnectionState::Opening | ConnectionState::Abandoned);
                let has_to_be = !matches!(
                    to,
                    ConnectionState::Opening | ConnectionState::Abandoned | ConnectionState::Gone
                );
                assert!(
                    connection.connection_id == 0 || may_be_open,
                    "{connection:?} from {from:?}"
                );
                assert!(connection.connection_id != 0 || !has_to_be, "{connection:?} to {to:?}");
            }
            number => assert_eq!(connection.connection_id, number, "another is in its place"),
        }
        let number = if to == ConnectionState::Gone { 0 } else { connection.connection_id };
        self.places.insert(connection.slot, (to, number));
    }

    fn place(&self, slot: u32) -> (ConnectionState, u64) {
        self.places.get(&slot).copied().unwrap_or((ConnectionState::Gone, 0))
    }

    /// Asserts that the pool is as the steps say.
    pub(crate) fn agrees_with(&self, core: &Core<Toy>) {
        let gets = gets_of(core);
        assert!(self.gets.keys().eq(gets.keys()), "the gets under way: {gets:?}, not {self:?}");
        for ((caller, seen), (who, since)) in self.gets.values().zip(gets.values()) {
            // It may have made a check itself before.
            assert!(caller == who && seen >= since, "{gets:?}, not {self:?}");
        }
        for (slot, index) in core.slots.iter().zip(0..) {
            let (place, number) = self.place(index);
            assert_eq!(place, slot.state, "the place of slot {index}");
            // A connection that an abandoned call opened makes no step before it is used.
            let no_step_yet = place == ConnectionState::Abandoned && number == 0;
            assert!(number == slot.connection_id || no_step_yet, "the number of slot {index}");
        }
    }
}

fn gets_of(core: &Core<Toy>) -> BTreeMap<u64, (u8, Time)> {
    let queue = core.queue.iter().chain(core.queue.aside_without_connection());
    queue.map(|(id, waiter)| (id.get_id(), (waiter.caller, waiter.since))).collect()
}

/// The gets of tasks that have a connection and were not polled yet.
fn granted(core: &Core<Toy>) -> BTreeSet<u64> {
    let of_tasks = core.task_times.granted().filter(|id| core.queue.is_granted(*id));
    of_tasks.map(WaiterId::get_id).collect()
}

/// The moves of the diagram at [`ConnectionState`], with the reasons that they may have.
fn is_legal(from: ConnectionState, to: ConnectionState, reason: Option<Reason>) -> bool {
    use ConnectionState::*;
    match (from, to) {
        (Opening | Idle | Busy | Checking, Retired) => {
            let others = [Reason::ConnectFailed, Reason::Overran, Reason::Detached];
            reason.is_some_and(|reason| !others.contains(&reason))
        }
        (Opening, Gone) => reason == Some(Reason::ConnectFailed),
        (Busy, Gone) => reason == Some(Reason::Detached),
        (Opening | Checking | Closing, Abandoned) => reason == Some(Reason::Overran),
        (Gone, Opening)
        | (Opening | Busy | Checking | Abandoned, Idle)
        | (Opening | Idle | Busy | Abandoned, Checking)
        | (Retired, Closing)
        | (Closing | Abandoned, Gone) => reason.is_none(),
        _ => false,
    }
}
