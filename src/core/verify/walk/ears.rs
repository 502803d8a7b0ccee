//! Those who listen during a walk: all the time, at times, or never. What they are
//! told has to be what the reference says that they should be, and has to follow, step
//! by step, from what they were told before.

use std::collections::BTreeMap;
use std::mem;

use super::super::listener::Listener;
use super::Walk;
use super::setting::Random;
use crate::core::*;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    Never,
    AtTimes,
    Always,
}

pub(super) struct Ears {
    habit: Habit,
    capacity: usize,
    /// The pages are turned after every so many transitions.
    turns: usize,
    listener: Option<Listener>,
    /// What should be on the pages.
    expected: Vec<Entry<u8>>,
    /// There was nothing on the last page.
    rests: bool,
    /// It was said that the page should be read.
    called: bool,
    /// The pages that are not written on.
    spare: Option<EventBuffer<u8>>,
}

impl Ears {
    pub(super) fn draw(random: &mut Random) -> Ears {
        Ears {
            habit: random.pick(&[Habit::Never, Habit::AtTimes, Habit::Always]),
            // Small enough for steps to be lost, or so large that none ever is.
            capacity: random.pick(&[1, 2, 3, 5, 8, 4096, 4096, 4096, 4096]),
            turns: random.pick(&[1, 1, 4, 20]),
            listener: None,
            expected: Vec::new(),
            rests: true,
            called: false,
            spare: None,
        }
    }

    pub(super) fn listen(&self) -> bool {
        self.listener.is_some()
    }
}

impl Walk {
    /// Begins to listen, or stops.
    pub(super) fn change_ears(&mut self) {
        let listens = match self.ears.habit {
            Habit::Never => false,
            Habit::Always => true,
            Habit::AtTimes => self.ears.listen() != self.random.one_in(20),
        };
        if listens != self.ears.listen() {
            self.swap_events(listens);
        }
    }

    /// A transition has been made, and judged.
    pub(super) fn hear(&mut self) {
        let steps = mem::take(&mut self.reference.steps);
        if !self.ears.listen() {
            return assert!(!self.core.wants_delivery(), "nobody listens");
        }
        let ears = &mut self.ears;
        ears.expected.extend(steps);
        let noted = ears.expected.len().min(ears.capacity);
        let due = noted > 0 && (ears.rests || noted * 2 >= ears.capacity);
        assert_eq!(self.core.wants_delivery(), due && !ears.called, "whether it should be read");
        ears.called |= due;
        if self.random.one_in(self.ears.turns) {
            self.swap_events(true);
        }
    }

    /// Hears what was noted, and goes on listening or not.
    pub(super) fn swap_events(&mut self, listens: bool) {
        let capacity = self.ears.capacity;
        let spare = self.ears.spare.take();
        let pages = listens.then(|| spare.unwrap_or_else(|| EventBuffer::with_capacity(capacity)));
        let told = self.core.swap_events(pages);
        let expected = mem::take(&mut self.ears.expected);
        (self.ears.rests, self.ears.called) = (expected.is_empty(), false);
        let mut listener = self.ears.listener.take();
        assert_eq!(told.is_some(), listener.is_some());
        if let (Some(mut pages), Some(informed)) = (told, &mut listener) {
            compare(&pages, &expected);
            pages.entries.iter().for_each(|entry| informed.hear(entry));
            *self.tally.entry("steps told").or_default() += pages.entries.len() as u64;
            if pages.lost == 0 {
                informed.agrees_with(&self.core);
            } else {
                *self.tally.entry("events lost").or_default() += pages.lost;
                listener = None;
            }
            drop(pages.take());
            self.ears.spare = Some(pages);
        }
        if listens {
            self.ears.listener = listener.or_else(|| Some(Listener::new(&self.core)));
        }
    }
}

/// What was told are the first of the steps that were made: the gets in their order,
/// and each connection's in theirs. The others are lost, and counted.
fn compare(pages: &EventBuffer<u8>, expected: &[Entry<u8>]) {
    let EventBuffer { entries, lost, .. } = pages;
    assert_eq!(events(entries) + lost, events(expected), "how many events there were");
    assert!(*lost == 0 || entries.len() == entries.capacity(), "lost, but there was room");
    assert!(gets(expected).starts_with(&gets(entries)), "what gets were told of");
    let expected = moves(expected);
    for (slot, told) in moves(entries) {
        let steps = expected.get(&slot).map_or(&[][..], |steps| steps);
        assert!(steps.starts_with(&told), "slot {slot}: {told:?} was told, {steps:?} was so");
    }
}

/// A connection that is lent makes two.
fn events(entries: &[Entry<u8>]) -> u64 {
    let lent = entries.iter().filter(|entry| matches!(entry.step, Step::CheckedOut { .. })).count();
    (entries.len() + lent) as u64
}

fn gets(entries: &[Entry<u8>]) -> Vec<Entry<u8>> {
    let gets = entries.iter().filter(|entry| !matches!(entry.step, Step::Moved { .. }));
    gets.map(anonymous).collect()
}

/// The steps of each connection, those to a caller too.
fn moves(entries: &[Entry<u8>]) -> BTreeMap<u32, Vec<Entry<u8>>> {
    let mut moves: BTreeMap<u32, Vec<Entry<u8>>> = BTreeMap::new();
    for entry in entries {
        if let Step::CheckedOut { connection, .. } | Step::Moved { connection, .. } = entry.step {
            moves.entry(connection.slot).or_default().push(anonymous(entry));
        }
    }
    moves
}

/// Without the number of the get, which the reference does not know.
fn anonymous(entry: &Entry<u8>) -> Entry<u8> {
    let mut entry = *entry;
    match &mut entry.step {
        Step::Enqueued { get_id, .. }
        | Step::CheckedOut { get_id, .. }
        | Step::GetFailed { get_id, .. } => *get_id = 0,
        Step::Moved { .. } => {}
    }
    entry
}
