//! The subscriber of a walk: there always, at times, or never. It must receive what the
//! reference says, and each step must follow from those before it.

use std::collections::BTreeMap;
use std::mem;

use super::super::listener::Listener;
use super::setting::Random;
use super::walker::Walk;
use crate::core::*;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    Never,
    AtTimes,
    Always,
}

pub(super) struct Subscriber {
    habit: Habit,
    capacity: usize,
    /// The buffer is swapped after one transition of this many.
    swaps: usize,
    listener: Option<Listener>,
    /// What should be in the buffer.
    expected: Vec<Entry<u8>>,
    /// The last buffer was empty.
    sleeps: bool,
    /// Delivery was asked for.
    announced: bool,
    /// The buffer that is not in use.
    spare: Option<EventBuffer<u8>>,
}

impl Subscriber {
    pub(super) fn draw(random: &mut Random) -> Subscriber {
        Subscriber {
            habit: random.pick(&[Habit::Never, Habit::AtTimes, Habit::Always]),
            // Small enough to lose steps, or so large that none is lost.
            capacity: random.pick(&[1, 2, 3, 5, 8, 4096, 4096, 4096, 4096]),
            swaps: random.pick(&[1, 1, 4, 20]),
            listener: None,
            expected: Vec::new(),
            sleeps: true,
            announced: false,
            spare: None,
        }
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.listener.is_some()
    }
}

impl Walk {
    /// Subscribes, or stops.
    pub(super) fn change_subscription(&mut self) {
        let subscribes = match self.subscriber.habit {
            Habit::Never => false,
            Habit::Always => true,
            Habit::AtTimes => self.subscriber.is_subscribed() != self.random.one_in(20),
        };
        if subscribes != self.subscriber.is_subscribed() {
            self.swap_events(subscribes);
        }
    }

    /// A transition was made and judged.
    pub(super) fn deliver(&mut self) {
        let steps = mem::take(&mut self.reference.steps);
        if !self.subscriber.is_subscribed() {
            return assert!(!self.core.wants_delivery(), "there is no subscriber");
        }
        let own = &mut self.subscriber;
        own.expected.extend(steps);
        let noted = own.expected.len().min(own.capacity);
        let due = noted > 0 && (own.sleeps || noted * 2 >= own.capacity);
        assert_eq!(self.core.wants_delivery(), due && !own.announced, "whether delivery is due");
        own.announced |= due;
        if self.random.one_in(self.subscriber.swaps) {
            self.swap_events(true);
        }
    }

    /// Receives what was noted, and goes on or stops.
    pub(super) fn swap_events(&mut self, subscribes: bool) {
        let capacity = self.subscriber.capacity;
        let spare = self.subscriber.spare.take();
        let buffer =
            subscribes.then(|| spare.unwrap_or_else(|| EventBuffer::with_capacity(capacity)));
        let received = self.core.swap_events(buffer);
        let expected = mem::take(&mut self.subscriber.expected);
        (self.subscriber.sleeps, self.subscriber.announced) = (expected.is_empty(), false);
        let mut listener = self.subscriber.listener.take();
        assert_eq!(received.is_some(), listener.is_some());
        if let (Some(mut buffer), Some(sceptic)) = (received, &mut listener) {
            let (steps, lost) = buffer.take();
            let steps: Vec<Entry<u8>> = steps.collect();
            compare(&steps, lost, capacity, &expected);
            steps.iter().for_each(|entry| sceptic.receive(entry));
            *self.tally.entry("steps received").or_default() += steps.len() as u64;
            if lost == 0 {
                sceptic.agrees_with(&self.core);
            } else {
                *self.tally.entry("events lost").or_default() += lost;
                listener = None;
            }
            assert!(buffer.is_empty(), "all was taken");
            let kept = steps.len().max(1).next_multiple_of(64);
            assert!(buffer.allocated() <= kept, "it keeps more than it used");
            self.subscriber.spare = Some(buffer);
        }
        if subscribes {
            self.subscriber.listener = listener.or_else(|| Some(Listener::new(&self.core)));
        }
    }
}

/// The buffer has the first of the expected steps: those of gets in their order, and
/// those of each connection in theirs. The others are lost, and counted.
fn compare(entries: &[Entry<u8>], lost: u64, capacity: usize, expected: &[Entry<u8>]) {
    assert_eq!(events(entries) + lost, events(expected), "how many events there were");
    assert!(lost == 0 || entries.len() == capacity, "lost, but there was room");
    assert!(gets(expected).starts_with(&gets(entries)), "what gets were received of");
    let expected = moves(expected);
    for (slot, received) in moves(entries) {
        let steps = expected.get(&slot).map_or(&[][..], |steps| steps);
        assert!(
            steps.starts_with(&received),
            "slot {slot}: {received:?} was received, {steps:?} was so"
        );
    }
}

/// A checkout makes two.
fn events(entries: &[Entry<u8>]) -> u64 {
    let lent = entries.iter().filter(|entry| matches!(entry.step, Step::CheckedOut { .. })).count();
    (entries.len() + lent) as u64
}

fn gets(entries: &[Entry<u8>]) -> Vec<Entry<u8>> {
    let gets = entries.iter().filter(|entry| !matches!(entry.step, Step::Moved { .. }));
    gets.map(anonymous).collect()
}

/// The steps of each connection, with its checkouts.
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
