//! The callers that wait for a connection.
//!
//! One list per priority, in order of arrival. A waiter's place in the whole queue is
//! fixed when it joins, by its *turn*: its arrival plus one ageing step for each level of
//! priority. The smallest turn is served first. So a caller of priority 1 goes before one
//! of priority 5 that came up to four steps earlier, and a stream of important callers
//! cannot overtake a less important one for longer than the steps between them.
//!
//! A task is in the line until it is granted a connection, and again once it was polled too
//! late to have it: at its old place. In between it is *aside*, where nobody is held up by it. So
//! is any waiter while a handler begins its use on a connection.

use std::time::Duration;

use super::{Lease, PoolTypes, Time, WaiterId};

const NONE: u32 = u32::MAX;
const CLASSES: usize = 256;

/// When a get came, and its number: its place in the order of service, also if it has made a
/// check itself first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) get_id: u64,
    pub(crate) since: Time,
}

/// A caller in the queue.
pub(crate) struct Waiter<T: PoolTypes> {
    pub(crate) get_id: u64,
    pub(crate) since: Time,
    pub(crate) priority: u8,
    pub(crate) caller: T::Caller,
    /// Where the caller finds its answer.
    pub(crate) cell: T::Cell,
    /// It waits only for the check of an idle connection.
    pub(crate) only_idle: bool,
    /// Its thread holds connections, of this pool or another, and has used them.
    pub(crate) nested: bool,
    /// It is a task, for which no thread sleeps. So the pool keeps its deadline, which is this.
    pub(crate) task: Option<Time>,
    /// For the use handler.
    pub(crate) context: T::Context,
}

/// Where a waiter is.
enum Place<T: PoolTypes> {
    InLine,
    /// Aside: its use begins on a connection.
    Prepared,
    /// Aside: it was granted this connection, and has not been polled since.
    Granted(Lease<T::Conn>),
    /// Aside: it was not polled in time, so others have the connection.
    Absent,
}

/// A waiter that has left, and what it was granted.
type Left<T> = (Waiter<T>, Option<Lease<<T as PoolTypes>::Conn>>);

struct Node<T: PoolTypes> {
    /// `None` while the node is in the free list.
    waiter: Option<Waiter<T>>,
    place: Place<T>,
    /// It was cancelled while it had a grant: too late if it takes that up.
    cancelled: bool,
    /// Its wait is counted up to this time.
    counted_to: Time,
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

pub(crate) struct Queue<T: PoolTypes> {
    nodes: Vec<Node<T>>,
    free: u32,
    /// In the line.
    len: u32,
    granted: u32,
    prepared: u32,
    absent: u32,
    serial: u64,
    /// The sum of the times at which those in the line arrived.
    arrivals: u128,
    ageing: Duration,
    /// One bit for each class that has a waiter.
    occupied: [u64; CLASSES / 64],
    /// By class, up to the least important one that has ever had a waiter.
    lists: Vec<List>,
}

impl<T: PoolTypes> Queue<T> {
    pub(crate) fn new(ageing: Duration) -> Queue<T> {
        Queue {
            nodes: Vec::new(),
            free: NONE,
            len: 0,
            granted: 0,
            prepared: 0,
            absent: 0,
            serial: 0,
            arrivals: 0,
            ageing,
            occupied: [0; CLASSES / 64],
            lists: Vec::new(),
        }
    }

    /// How many are in the line.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Nobody is in the line.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Those that do not have a connection yet, in the line or aside.
    pub(crate) fn waiting(&self) -> u32 {
        self.len + self.absent + self.prepared
    }

    /// Those of them whose uses do not begin yet either.
    pub(crate) fn unprepared(&self) -> u32 {
        self.len + self.absent
    }

    /// Those that were granted a connection and were not polled since.
    pub(crate) fn granted(&self) -> u32 {
        self.granted
    }

    /// The waiter in the line with the smallest turn. The head of a class has the smallest turn of
    /// its class, and of equal turns the more important class wins.
    pub(crate) fn first(&self) -> Option<WaiterId> {
        let head = self.heads().min_by_key(|&index| self.nodes[index as usize].turn)?;
        Some(self.id_of(head))
    }

    pub(crate) fn get(&self, id: WaiterId) -> Option<&Waiter<T>> {
        let node = self.nodes.get(id.index as usize)?;
        if node.serial == id.serial { node.waiter.as_ref() } else { None }
    }

    /// Adds a waiter behind those of its priority that have come before it. Usually these are
    /// all; a caller that first made a check of its own finds others that came meanwhile.
    pub(crate) fn push(&mut self, waiter: Waiter<T>) -> WaiterId {
        let (class, serial) = (usize::from(waiter.priority), waiter.get_id);
        let (turn, since) = (self.turn(waiter.since, waiter.priority), waiter.since);
        if class >= self.lists.len() {
            self.lists.resize(class + 1, EMPTY);
        }
        let (mut prev, mut next) = (self.lists[class].tail, NONE);
        while prev != NONE && self.nodes[prev as usize].serial > serial {
            (prev, next) = (self.nodes[prev as usize].prev, prev);
        }
        let index = self.allocate(Node {
            waiter: Some(waiter),
            place: Place::InLine,
            cancelled: false,
            counted_to: since,
            turn,
            serial,
            prev: NONE,
            next: NONE,
        });
        self.link(index, class, since, (prev, next));
        self.id_of(index)
    }

    /// Removes a waiter from any place, in constant time, with the connection that it was granted.
    /// `None` if it has left already. This is the only way out of the queue.
    pub(crate) fn remove(&mut self, id: WaiterId) -> Option<Left<T>> {
        self.get(id)?;
        let lease = match self.put(id, Place::Absent) {
            Place::InLine => {
                self.unlink(id.index);
                None
            }
            Place::Granted(lease) => {
                self.granted -= 1;
                Some(lease)
            }
            Place::Absent => {
                self.absent -= 1;
                None
            }
            Place::Prepared => {
                self.prepared -= 1;
                None
            }
        };
        let node = &mut self.nodes[id.index as usize];
        let waiter = node.waiter.take()?;
        node.next = self.free;
        self.free = id.index;
        Some((waiter, lease))
    }

    /// A task is granted a connection, and steps aside until it is polled.
    pub(crate) fn step_aside(&mut self, id: WaiterId, lease: Lease<T::Conn>) {
        match self.put(id, Place::Granted(lease)) {
            Place::Prepared => self.prepared -= 1,
            _ => self.unlink(id.index),
        }
        self.granted += 1;
    }

    /// A use of a waiter in the line begins, which steps aside until it has.
    pub(crate) fn prepare(&mut self, id: WaiterId) {
        self.unlink(id.index);
        self.put(id, Place::Prepared);
        self.prepared += 1;
    }

    pub(crate) fn is_prepared(&self, id: WaiterId) -> bool {
        self.get(id).is_some() && matches!(self.nodes[id.index as usize].place, Place::Prepared)
    }

    /// Takes its connection from a task that was not polled. `None`: it has none.
    pub(crate) fn take_back(&mut self, id: WaiterId) -> Option<Lease<T::Conn>> {
        if !self.is_granted(id) {
            return None;
        }
        let Place::Granted(lease) = self.put(id, Place::Absent) else { unreachable!() };
        self.granted -= 1;
        self.absent += 1;
        Some(lease)
    }

    /// A task that was absent is polled, and is in the line again.
    pub(crate) fn return_to_line(&mut self, id: WaiterId) {
        let is_there = self.get(id).is_some();
        if is_there && matches!(self.nodes[id.index as usize].place, Place::Absent) {
            self.line_up_again(id);
        }
    }

    /// One that is aside without a connection is in the line again: before those that came later,
    /// of whom there are usually many.
    pub(crate) fn line_up_again(&mut self, id: WaiterId) {
        let Some(waiter) = self.get(id) else { return };
        let (class, since) = (usize::from(waiter.priority), waiter.since);
        match self.put(id, Place::InLine) {
            Place::Prepared => self.prepared -= 1,
            _ => self.absent -= 1,
        }
        let (mut prev, mut next) = (NONE, self.lists[class].head);
        while next != NONE && self.nodes[next as usize].serial < id.serial {
            (prev, next) = (next, self.nodes[next as usize].next);
        }
        self.link(id.index, class, since, (prev, next));
    }

    pub(crate) fn is_in_line(&self, id: WaiterId) -> bool {
        let is_there = self.get(id).is_some();
        is_there && matches!(self.nodes[id.index as usize].place, Place::InLine)
    }

    pub(crate) fn is_granted(&self, id: WaiterId) -> bool {
        self.granted_lease(id).is_some()
    }

    /// What a task was granted, and has not been polled since.
    pub(crate) fn granted_lease(&self, id: WaiterId) -> Option<&Lease<T::Conn>> {
        self.get(id)?;
        match &self.nodes[id.index as usize].place {
            Place::Granted(lease) => Some(lease),
            Place::InLine | Place::Absent | Place::Prepared => None,
        }
    }

    /// Those aside that have no connection, in order of arrival: tasks that were not polled in time,
    /// and waiters whose uses begin. Visits all waiters if there are any.
    pub(crate) fn aside_without_connection(&self) -> Vec<(WaiterId, &Waiter<T>)> {
        let all = if self.absent + self.prepared == 0 { &[] } else { &self.nodes[..] };
        let absent = all.iter().enumerate().filter_map(|(index, node)| {
            let waiter = node.waiter.as_ref()?;
            let id = WaiterId { index: index as u32, serial: node.serial };
            matches!(node.place, Place::Absent | Place::Prepared).then_some((id, waiter))
        });
        let mut absent: Vec<_> = absent.collect();
        absent.sort_unstable_by_key(|(id, _)| *id);
        absent
    }

    /// How long it has waited that was not counted yet.
    pub(crate) fn count_wait(&mut self, id: WaiterId, now: Time) -> Duration {
        if self.get(id).is_none() {
            return Duration::ZERO;
        }
        now.since(std::mem::replace(&mut self.nodes[id.index as usize].counted_to, now))
    }

    /// A task that has a grant is cancelled: it must not wait again.
    pub(crate) fn cancel_granted(&mut self, id: WaiterId) {
        if self.is_granted(id) {
            self.nodes[id.index as usize].cancelled = true;
        }
    }

    pub(crate) fn is_cancelled(&self, id: WaiterId) -> bool {
        self.get(id).is_some() && self.nodes[id.index as usize].cancelled
    }

    fn put(&mut self, id: WaiterId, place: Place<T>) -> Place<T> {
        std::mem::replace(&mut self.nodes[id.index as usize].place, place)
    }

    /// Links a node into the line of its class, between these two.
    fn link(&mut self, index: u32, class: usize, since: Time, (prev, next): (u32, u32)) {
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next) = (prev, next);
        match prev {
            NONE => self.lists[class].head = index,
            prev => self.nodes[prev as usize].next = index,
        }
        match next {
            NONE => self.lists[class].tail = index,
            next => self.nodes[next as usize].prev = index,
        }
        self.occupied[class / 64] |= 1 << (class % 64);
        self.len += 1;
        self.arrivals += u128::from(since.0);
    }

    fn unlink(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let waiter = node.waiter.as_ref().expect("BUG: no waiter in the line");
        let (class, since) = (usize::from(waiter.priority), waiter.since);
        let (prev, next) = (node.prev, node.next);
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
        self.len -= 1;
        self.arrivals -= u128::from(since.0);
    }

    /// Whether a caller of this priority may take a connection past the waiters: not if one with
    /// a smaller turn has waited for `bound` or longer. The head of each class, its oldest
    /// waiter, stands for the class.
    #[inline]
    pub(crate) fn may_be_overtaken(
        &self,
        now: Time,
        arrival: Arrival,
        priority: u8,
        bound: Duration,
    ) -> bool {
        if self.is_empty() {
            return true;
        }
        let own = (self.turn(arrival.since, priority), arrival.get_id);
        self.heads().all(|index| {
            let head = &self.nodes[index as usize];
            let since = head.waiter.as_ref().map_or(now, |waiter| waiter.since);
            (head.turn, head.serial) > own || now.since(since) < bound
        })
    }

    /// Newcomers of any priority may take an idle connection past all waiters until then;
    /// `NEVER` if, and only if, nobody is in the line.
    pub(crate) fn overtaken_until(&self, bound: Duration) -> Time {
        let latest = Time(Time::NEVER.0 - 1);
        self.oldest().map_or(Time::NEVER, |since| since.after(bound).min(latest))
    }

    /// A number for a get.
    pub(crate) fn next_get_id(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// How long those in the line have waited, on average.
    pub(crate) fn mean_age(&self, now: Time) -> Duration {
        match self.arrivals.checked_div(u128::from(self.len)) {
            Some(mean) => now.since(Time(mean as u64)),
            None => Duration::ZERO,
        }
    }

    /// The arrival of the oldest in the line.
    pub(crate) fn oldest(&self) -> Option<Time> {
        let heads = self.heads().filter_map(|index| self.nodes[index as usize].waiter.as_ref());
        heads.map(|waiter| waiter.since).min()
    }

    /// A waiter's place in the order of service: the smallest is served first.
    pub(crate) fn turn_of(&self, id: WaiterId) -> Time {
        self.nodes[id.index as usize].turn
    }

    /// All in the line, class by class in order of arrival.
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
