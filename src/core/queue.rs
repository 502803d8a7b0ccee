//! The callers that wait for a connection.
//!
//! One list per priority, in order of arrival. A waiter's place in the whole
//! queue is fixed when it joins, by its *turn*: its arrival plus one ageing
//! step for each level of priority. The smallest turn is served first. So a
//! caller of priority 1 goes before one of priority 5 that came up to four
//! steps earlier, and no stream of important callers can pass over a less
//! important one for longer than the steps between them.

use std::time::Duration;

use super::{Time, Types};

const NONE: u32 = u32::MAX;
const CLASSES: usize = 256;

/// Names one wait. Never reused, so that a late cancel cannot hit another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WaiterId {
    index: u32,
    serial: u64,
}

impl WaiterId {
    /// Grows in the order of arrival.
    pub(crate) fn arrival(self) -> u64 {
        self.serial
    }

    /// The number of the get that waits.
    pub(crate) fn number(self) -> u64 {
        self.serial
    }

    #[cfg(test)]
    pub(crate) fn arrived_before(self, other: WaiterId) -> bool {
        self.arrival() < other.arrival()
    }
}

/// A caller in the queue.
pub(crate) struct Waiter<T: Types> {
    pub(crate) since: Time,
    pub(crate) priority: u8,
    pub(crate) caller: T::Caller,
    /// Where the caller finds its answer.
    pub(crate) cell: T::Cell,
    /// It waits for the check of an idle connection, and for nothing else.
    pub(crate) only_idle: bool,
    /// Its thread holds connections, of this pool or another.
    pub(crate) nested: bool,
}

struct Node<T: Types> {
    /// `None` while the node is in the free list.
    waiter: Option<Waiter<T>>,
    turn: Time,
    serial: u64,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NONE, tail: NONE };

pub(crate) struct Queue<T: Types> {
    nodes: Vec<Node<T>>,
    free: u32,
    len: u32,
    serial: u64,
    /// The sum of the times at which those in the queue arrived.
    arrivals: u128,
    ageing: Duration,
    /// One bit for each class that has a waiter.
    occupied: [u64; CLASSES / 64],
    lists: Box<[List; CLASSES]>,
}

impl<T: Types> Queue<T> {
    pub(crate) fn new(ageing: Duration) -> Queue<T> {
        Queue {
            nodes: Vec::new(),
            free: NONE,
            len: 0,
            serial: 0,
            arrivals: 0,
            ageing,
            occupied: [0; CLASSES / 64],
            lists: Box::new([EMPTY; CLASSES]),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whoever has the smallest turn. The head of a class has the smallest turn
    /// of its class, and among equal turns the more important class wins.
    pub(crate) fn first(&self) -> Option<WaiterId> {
        let head = self.heads().min_by_key(|&index| self.nodes[index as usize].turn)?;
        Some(self.id_of(head))
    }

    pub(crate) fn get(&self, id: WaiterId) -> Option<&Waiter<T>> {
        let node = self.nodes.get(id.index as usize)?;
        if node.serial == id.serial { node.waiter.as_ref() } else { None }
    }

    /// Adds a waiter behind all others of its priority.
    pub(crate) fn push(&mut self, waiter: Waiter<T>) -> WaiterId {
        let class = usize::from(waiter.priority);
        let turn = self.turn(waiter.since, waiter.priority);
        self.arrivals += u128::from(waiter.since.0);
        self.serial += 1;
        let tail = self.lists[class].tail;
        let node = Node { waiter: Some(waiter), turn, serial: self.serial, prev: tail, next: NONE };
        let index = self.allocate(node);
        match tail {
            NONE => self.lists[class].head = index,
            tail => self.nodes[tail as usize].next = index,
        }
        self.lists[class].tail = index;
        self.occupied[class / 64] |= 1 << (class % 64);
        self.len += 1;
        self.id_of(index)
    }

    /// Takes a waiter out, wherever it stands, in constant time. `None` if it
    /// has left already. This is the only way out of the queue.
    pub(crate) fn remove(&mut self, id: WaiterId) -> Option<Waiter<T>> {
        let node = self.nodes.get_mut(id.index as usize)?;
        if node.serial != id.serial {
            return None;
        }
        let waiter = node.waiter.take()?;
        let (prev, next) = (node.prev, node.next);
        node.next = self.free;
        self.free = id.index;
        self.len -= 1;
        self.arrivals -= u128::from(waiter.since.0);

        let class = usize::from(waiter.priority);
        match prev {
            NONE => self.lists[class].head = next,
            prev => self.nodes[prev as usize].next = next,
        }
        match next {
            NONE => self.lists[class].tail = prev,
            next => self.nodes[next as usize].prev = prev,
        }
        if self.lists[class].head == NONE {
            self.occupied[class / 64] &= !(1 << (class % 64));
        }
        Some(waiter)
    }

    /// Whether a newcomer of this priority may take an idle connection past
    /// those who wait: not past anyone before it in turn who has waited for
    /// `bound` or longer. The oldest of each class speaks for its class.
    #[inline]
    pub(crate) fn may_be_overtaken(&self, now: Time, priority: u8, bound: Duration) -> bool {
        if self.is_empty() {
            return true;
        }
        let turn = self.turn(now, priority);
        self.heads().all(|index| {
            let head = &self.nodes[index as usize];
            let since = head.waiter.as_ref().map_or(now, |waiter| waiter.since);
            head.turn > turn || now.since(since) < bound
        })
    }

    /// Until when newcomers of whatever priority may take an idle connection
    /// past all who wait; `NEVER` if nobody does, and only then.
    pub(crate) fn overtaken_until(&self, bound: Duration) -> Time {
        let heads = self.heads().filter_map(|index| self.nodes[index as usize].waiter.as_ref());
        let until = heads.map(|waiter| waiter.since.after(bound)).min();
        until.map_or(Time::NEVER, |until| until.min(Time(Time::NEVER.0 - 1)))
    }

    /// A number for a get that does not join the queue.
    pub(crate) fn number(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// How long those in the queue have waited, on average.
    pub(crate) fn mean_age(&self, now: Time) -> Duration {
        match self.arrivals.checked_div(u128::from(self.len)) {
            Some(mean) => now.since(Time(mean as u64)),
            None => Duration::ZERO,
        }
    }

    /// When the one arrived who has waited longest.
    pub(crate) fn oldest(&self) -> Option<Time> {
        let heads = self.heads().filter_map(|index| self.nodes[index as usize].waiter.as_ref());
        heads.map(|waiter| waiter.since).min()
    }

    /// The place of a waiter in the order of service: smaller is served first.
    pub(crate) fn turn_of(&self, id: WaiterId) -> Time {
        self.nodes[id.index as usize].turn
    }

    /// All waiters, class by class in order of arrival.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WaiterId, &Waiter<T>)> {
        self.heads().flat_map(move |head| {
            let follow = move |&index: &u32| match self.nodes[index as usize].next {
                NONE => None,
                next => Some(next),
            };
            std::iter::successors(Some(head), follow).filter_map(move |index| {
                Some((self.id_of(index), self.nodes[index as usize].waiter.as_ref()?))
            })
        })
    }

    fn turn(&self, since: Time, priority: u8) -> Time {
        since.after(self.ageing.saturating_mul(u32::from(priority)))
    }

    fn id_of(&self, index: u32) -> WaiterId {
        WaiterId { index, serial: self.nodes[index as usize].serial }
    }

    /// The first waiter of each class that has one, most important class first.
    fn heads(&self) -> impl Iterator<Item = u32> {
        self.occupied.iter().enumerate().flat_map(move |(word, &bits)| {
            std::iter::successors((bits != 0).then_some(bits), |&bits| {
                let rest = bits & (bits - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |bits| self.lists[word * 64 + bits.trailing_zeros() as usize].head)
        })
    }

    fn allocate(&mut self, node: Node<T>) -> u32 {
        if self.free == NONE {
            self.nodes.push(node);
            return u32::try_from(self.nodes.len() - 1).expect("BUG: four billion waiters");
        }
        let index = self.free;
        let vacant = &mut self.nodes[index as usize];
        self.free = vacant.next;
        *vacant = node;
        index
    }
}

#[cfg(test)]
mod tests {
    use super::super::explore::Toy;
    use super::*;

    const STEP: Duration = Duration::from_nanos(100);

    fn push(queue: &mut Queue<Toy>, since: u64, priority: u8) -> WaiterId {
        queue.push(Waiter {
            since: Time(since),
            priority,
            caller: 0,
            cell: since as u8,
            only_idle: false,
            nested: false,
        })
    }

    fn drain(queue: &mut Queue<Toy>) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some(first) = queue.first() {
            order.push(queue.remove(first).expect("first is in the queue").since.0);
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
        assert!(queue.may_be_overtaken(Time(0), 5, bound));
        push(&mut queue, 0, 10);
        push(&mut queue, 5, 5);
        assert!(queue.may_be_overtaken(Time(9), 5, bound));
        // Only the waiter of priority 10 is past the bound, but its turn is later.
        assert!(queue.may_be_overtaken(Time(12), 5, bound));
        assert!(!queue.may_be_overtaken(Time(12), 10, bound));
        assert!(!queue.may_be_overtaken(Time(15), 5, bound));
        assert!(queue.may_be_overtaken(Time(15), 4, bound));
        assert!(!queue.may_be_overtaken(Time(15), 5, Duration::ZERO));
    }
}
