//! The order of the queue, by itself.

use std::time::Duration;

use super::super::queue::Queue;
use super::super::{Arrival, Time, Waiter, WaiterId};
use super::toy::Toy;

const STEP: Duration = Duration::from_nanos(100);

fn push(queue: &mut Queue<Toy>, since: u64, priority: u8) -> WaiterId {
    let get_id = queue.next_get_id();
    queue.push(Waiter {
        get_id,
        since: Time(since),
        priority,
        caller: 0,
        cell: since as u8,
        only_idle: false,
        nested: false,
        task: None,
        context: (),
    })
}

fn newcomer(since: u64) -> Arrival {
    Arrival { get_id: u64::MAX, since: Time(since) }
}

fn drain(queue: &mut Queue<Toy>) -> Vec<u64> {
    let mut order = Vec::new();
    while let Some(first) = queue.first() {
        order.push(queue.remove(first).expect("first is in the queue").0.since.0);
    }
    order
}

#[test]
fn p2_one_priority_is_first_in_first_out() {
    let mut queue = Queue::new(STEP);
    for since in [1, 2, 3, 3, 4] {
        push(&mut queue, since, 5);
    }
    assert_eq!(drain(&mut queue), [1, 2, 3, 3, 4]);
}

#[test]
fn p2_smaller_priorities_go_first_within_the_ageing_steps() {
    let mut queue = Queue::new(STEP);
    push(&mut queue, 0, 5);
    push(&mut queue, 399, 1); // four steps more important, less than four steps later
    push(&mut queue, 401, 1); // more than four steps later
    assert_eq!(drain(&mut queue), [399, 0, 401]);
}

#[test]
fn p2_every_priority_has_its_place_in_the_order() {
    let mut queue = Queue::new(STEP);
    for priority in [255, 64, 0, 128, 63, 1, 127, 192, 191] {
        push(&mut queue, u64::from(priority), priority);
    }
    assert_eq!(queue.iter().count(), 9);
    assert_eq!(drain(&mut queue), [0, 1, 63, 64, 127, 128, 191, 192, 255]);
}

#[test]
fn p4_removal_from_the_middle_leaves_the_rest_in_order() {
    let mut queue = Queue::new(STEP);
    let ids: Vec<_> = (0..6).map(|since| push(&mut queue, since, 5)).collect();
    for gone in [ids[3], ids[0], ids[5]] {
        assert!(queue.remove(gone).is_some());
        assert!(queue.remove(gone).is_none(), "a waiter leaves once");
    }
    let reused = push(&mut queue, 9, 5);
    assert!(queue.get(ids[5]).is_none(), "a reused place is another wait");
    assert_eq!(queue.get(reused).map(|waiter| waiter.since), Some(Time(9)));
    assert_eq!(queue.iter().count(), 4);
    assert_eq!(drain(&mut queue), [1, 2, 4, 9]);
    assert!(queue.is_empty());
}

#[test]
fn p2_nobody_is_overtaken_past_the_bound() {
    let bound = Duration::from_nanos(10);
    let mut queue = Queue::new(STEP);
    assert!(queue.may_be_overtaken(Time(0), newcomer(0), 5, bound));
    push(&mut queue, 0, 10);
    push(&mut queue, 5, 5);
    assert!(queue.may_be_overtaken(Time(9), newcomer(9), 5, bound));
    // Only the waiter of priority 10 is past the bound, but its turn is later.
    assert!(queue.may_be_overtaken(Time(12), newcomer(12), 5, bound));
    assert!(!queue.may_be_overtaken(Time(12), newcomer(12), 10, bound));
    assert!(!queue.may_be_overtaken(Time(15), newcomer(15), 5, bound));
    assert!(queue.may_be_overtaken(Time(15), newcomer(15), 4, bound));
    assert!(!queue.may_be_overtaken(Time(15), newcomer(15), 5, Duration::ZERO));
}
