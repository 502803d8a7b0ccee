//! What happens, step by step, for those who listen. Steps are noted under the
//! lock, so that their order is the order of the decisions; whoever empties the
//! journal delivers them. While nobody listens nothing is noted, and the fast
//! paths do not even ask: then the gate that they look at is open, and otherwise
//! shut, and the one for callers who note what they do is here.

use std::mem;
use std::time::Duration;

use super::slot::State;
use super::{Core, Gate, Lease, Permit, Reason, Time, Types};

/// Where a connection is: [`State`] as those who listen know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Opening,
    Idle,
    Busy,
    Checking,
    Retired,
    Closing,
    Abandoned,
    Gone,
}

impl From<State> for Place {
    fn from(state: State) -> Place {
        match state {
            State::Vacant => Place::Gone,
            State::Opening => Place::Opening,
            State::Idle => Place::Idle,
            State::Busy => Place::Busy,
            State::Checking(..) => Place::Checking,
            State::Queued => Place::Retired,
            State::Closing => Place::Closing,
            State::Abandoned => Place::Abandoned,
        }
    }
}

/// Why a connection moved, where its new place does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Retired(Reason),
    OpenFailed,
    Overran,
    Detached,
}

/// How a wait ended that brought no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    TimedOut,
    Cancelled,
    QueueFull,
    Closed,
    ConnectFailed,
    Deadlock,
}

/// A connection, by its place in the pool and by its number; that is zero until it
/// is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    pub(crate) slot: u32,
    pub(crate) connection: u64,
}

/// Where a connection is when somebody begins to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot<C> {
    pub(crate) which: Which,
    pub(crate) place: Place,
    pub(crate) lasted: Duration,
    pub(crate) caller: Option<C>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<C> {
    /// A caller joins the queue.
    Started { get: u64, caller: C, priority: u8 },
    /// A caller gets a connection, which was at `from`.
    Lent { get: u64, caller: C, waited: Duration, which: Which, from: Place },
    /// A caller leaves without one.
    Left { get: u64, caller: C, waited: Duration, end: End },
    /// A connection moves otherwise than to a caller.
    Moved { which: Which, from: Place, to: Place, why: Option<Why> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<C> {
    pub(crate) at: Time,
    pub(crate) step: Step<C>,
}

/// What was noted since the journal was last emptied.
#[derive(Debug)]
pub(crate) struct Pages<C> {
    /// Never grows: there is room for as many as those who listen asked for.
    pub(crate) entries: Vec<Entry<C>>,
    /// How many more events there were.
    pub(crate) lost: u64,
    /// It was said that they should be read.
    said: bool,
}

impl<C> Pages<C> {
    pub(crate) fn of(capacity: usize) -> Pages<C> {
        Pages { entries: Vec::with_capacity(capacity), lost: 0, said: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.lost == 0
    }

    /// Whether it is time to read them, for a reader who rests or one who does not;
    /// says so once.
    fn call(&mut self, rests: bool) -> bool {
        let half_full = self.entries.len() * 2 >= self.entries.capacity();
        let due = !self.said && !self.is_empty() && (rests || half_full);
        self.said |= due;
        due
    }

    /// What was noted and how much more there was; the pages are blank then.
    pub(crate) fn take(&mut self) -> (impl Iterator<Item = Entry<C>>, u64) {
        self.said = false;
        (self.entries.drain(..), mem::take(&mut self.lost))
    }
}

pub(super) struct Journal<C> {
    /// `None` while nobody listens.
    pages: Option<Pages<C>>,
    /// There was nothing to read last time: whoever reads waits to be called.
    rests: bool,
    /// The gate for the fast paths of those who note what they do.
    gate: Gate,
}

impl<C> Journal<C> {
    pub(super) fn new() -> Journal<C> {
        Journal { pages: None, rests: true, gate: Gate::SHUT }
    }

    pub(super) fn is_open(&self) -> bool {
        self.pages.is_some()
    }

    fn note(&mut self, at: Time, step: Step<C>) {
        let Some(pages) = &mut self.pages else { return };
        if pages.entries.len() < pages.entries.capacity() {
            pages.entries.push(Entry { at, step });
        } else {
            // A connection that is lent makes two events.
            pages.lost += if matches!(step, Step::Lent { .. }) { 2 } else { 1 };
        }
    }
}

impl<T: Types> Core<T> {
    /// Notes every step from now on, on these pages, or stops. Returns what was
    /// noted until now.
    pub(crate) fn turn_page(
        &mut self,
        pages: Option<Pages<T::Caller>>,
    ) -> Option<Pages<T::Caller>> {
        let old = mem::replace(&mut self.journal.pages, pages);
        self.journal.rests = old.as_ref().is_none_or(Pages::is_empty);
        let gate = self.gate_now();
        self.open_gate(gate);
        old
    }

    /// Where every connection is, and for how long by now; with whom, if it is busy.
    pub(crate) fn spots(&self, now: Time) -> Vec<Spot<T::Caller>> {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.state != State::Vacant);
        let spot = |(index, slot): (usize, &super::slot::Slot<T>)| Spot {
            which: self.which(index),
            place: slot.state.into(),
            lasted: now.since(slot.since),
            caller: slot.caller.filter(|_| slot.state == State::Busy),
        };
        taken.map(spot).collect()
    }

    /// Whether the journal should be read now: whoever reads it rests, or it fills.
    /// Says so once until it is read.
    pub(crate) fn journal_calls(&mut self) -> bool {
        let rests = self.journal.rests;
        self.journal.pages.as_mut().is_some_and(|pages| pages.call(rests))
    }

    #[cfg(test)]
    pub(crate) fn is_noted(&self) -> bool {
        self.journal.is_open()
    }

    #[cfg(test)]
    pub(crate) fn journal_rests(&self) -> bool {
        self.journal.rests
    }

    /// Opens the gate that stands for the present.
    pub(super) fn open_gate(&mut self, gate: Gate) {
        self.journal.gate = gate;
        self.gate = if self.journal.is_open() { Gate::SHUT } else { gate };
    }

    pub(super) fn gate_in_force(&self) -> Gate {
        if self.journal.is_open() { self.journal.gate } else { self.gate }
    }

    /// [`acquire_fast`](Core::acquire_fast) and [`overtake`](Core::overtake) with a
    /// note; here `now` is exact.
    pub(crate) fn acquire_noted(&mut self, now: Time, caller: T::Caller) -> Option<Lease<T::Conn>> {
        let gate = self.gate_in_force();
        if now >= gate.until {
            return None;
        }
        let lease = self.take_top(gate, now, caller)?;
        self.counters.overtakes += u64::from(gate.until != Time::NEVER);
        self.note_lent(&lease.permit, None, State::Idle, Duration::ZERO, now);
        Some(lease)
    }

    /// [`checkin_fast`](Core::checkin_fast) with a note; here `now` is exact.
    pub(crate) fn checkin_noted(
        &mut self,
        now: Time,
        lease: Lease<T::Conn>,
    ) -> Result<(), Lease<T::Conn>> {
        let index = lease.permit.index();
        self.put_on_top(self.gate_in_force(), now, lease)?;
        self.note_move(index, State::Busy, State::Idle, None, now);
        Ok(())
    }

    /// Moves a connection to another state.
    pub(super) fn enter(&mut self, index: usize, state: State, why: Option<Why>, now: Time) {
        let slot = &mut self.slots[index];
        let from = mem::replace(&mut slot.state, state);
        slot.since = now;
        if self.journal.is_open() {
            self.note_move(index, from, state, why, now);
        }
    }

    #[cold]
    fn note_move(&mut self, index: usize, from: State, to: State, why: Option<Why>, now: Time) {
        let which = self.which(index);
        let step = Step::Moved { which, from: from.into(), to: to.into(), why };
        self.journal.note(now, step);
    }

    /// A connection that was in that state has been lent. Without a number, the
    /// caller had not joined the queue and is given one.
    pub(super) fn note_lent(
        &mut self,
        permit: &Permit,
        get: Option<u64>,
        from: State,
        waited: Duration,
        now: Time,
    ) {
        if !self.journal.is_open() {
            return;
        }
        let get = get.unwrap_or_else(|| self.queue.number());
        let which = self.which(permit.index());
        let Some(caller) = self.slots[permit.index()].caller else { return };
        self.journal.note(now, Step::Lent { get, caller, waited, which, from: from.into() });
    }

    pub(super) fn note_started(&mut self, get: u64, caller: T::Caller, priority: u8, now: Time) {
        self.journal.note(now, Step::Started { get, caller, priority });
    }

    pub(super) fn note_left(
        &mut self,
        get: u64,
        caller: T::Caller,
        waited: Duration,
        end: End,
        now: Time,
    ) {
        self.journal.note(now, Step::Left { get, caller, waited, end });
    }

    /// A caller that does not even join the queue gets no connection.
    pub(super) fn note_refused(&mut self, caller: T::Caller, end: End, now: Time) {
        if self.journal.is_open() {
            let get = self.queue.number();
            self.note_left(get, caller, Duration::ZERO, end, now);
        }
    }

    fn which(&self, index: usize) -> Which {
        Which { slot: index as u32, connection: self.slots[index].number }
    }
}
