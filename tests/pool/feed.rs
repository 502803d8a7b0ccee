//! Reads a pool's events, and checks what must be true of every series of events.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use fairpool::event::{ConnectionState, Event, EventKind, Reason, Subscription};
use fairpool::snapshot::CallSite;
use fairpool::{ErrorKind, ManageConnection, Pool};
use fairpool_testing::stub::WATCHDOG;

/// A subscription, and the events read so far.
pub struct Feed {
    pub events: Subscription,
    pub seen: Vec<Event>,
}

impl Feed {
    pub fn of<M: ManageConnection>(pool: &Pool<M>) -> Feed {
        Feed::with_room_for(pool, 1 << 16)
    }

    pub fn with_room_for<M: ManageConnection>(pool: &Pool<M>, capacity: usize) -> Feed {
        Feed { events: pool.subscribe(capacity).unwrap(), seen: Vec::new() }
    }

    /// The next event.
    #[track_caller]
    pub fn next(&mut self) -> &Event {
        match self.events.recv_timeout(WATCHDOG) {
            Ok(event) => self.seen.push(event),
            Err(error) => panic!("no event: {error}; seen: {:#?}", self.kinds()),
        }
        self.seen.last().unwrap()
    }

    /// Reads until an event like this has come, and returns where it is.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_it: impl Fn(&EventKind) -> bool) -> usize {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.seen.push(event),
                Err(error) => panic!("{what} never came: {error}; seen: {:#?}", self.kinds()),
            }
            if is_it(&self.seen.last().unwrap().kind) {
                return self.seen.len() - 1;
            }
        }
    }

    #[track_caller]
    pub fn until_moved(&mut self, to: ConnectionState, reason: Option<Reason>) -> usize {
        self.until(&format!("a move to {to:?} for {reason:?}"), |kind| match kind {
            EventKind::Moved { to: other, reason: why, .. } => (*other, *why) == (to, reason),
            _ => false,
        })
    }

    /// Reads to the end of the channel.
    #[track_caller]
    pub fn read_to_end(&mut self) {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the channel does not end; seen: {:#?}", self.kinds())
                }
            }
        }
    }

    pub fn kinds(&self) -> Vec<&EventKind> {
        self.seen.iter().map(|event| &event.kind).collect()
    }

    /// The gets that failed, and why.
    pub fn ends(&self) -> Vec<(u64, ErrorKind)> {
        let end = |event: &Event| match event.kind {
            EventKind::GetFailed { get_id, kind, .. } => Some((get_id, kind)),
            _ => None,
        };
        self.seen.iter().filter_map(end).collect()
    }

    /// All moves of connections.
    pub fn states(&self) -> Vec<(ConnectionState, ConnectionState, Option<Reason>)> {
        let moved = |event: &Event| match event.kind {
            EventKind::Moved { from, to, reason, .. } => Some((from, to, reason)),
            _ => None,
        };
        self.seen.iter().filter_map(moved).collect()
    }
}

#[derive(Default)]
struct Slot {
    state: Option<ConnectionState>,
    connection: Option<u64>,
    holder: Option<CallSite>,
}

/// How many of each there were.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub started: u64,
    pub acquired: u64,
    pub acquired_waited: u64,
    /// Of those, the ones that never joined the queue: they were to make a check themselves.
    pub unqueued: u64,
    pub left: u64,
    pub timed_out: u64,
    pub returned: u64,
    pub opened: u64,
}

/// Checks what is true of every complete series of events. `fresh`: the subscription is older
/// than the first connection.
#[track_caller]
pub fn check(events: &[Event], fresh: bool) -> Sums {
    use ConnectionState::{Busy, Gone, Idle, Opening, Retired};
    let mut slots: HashMap<u32, Slot> = HashMap::new();
    let mut waiting: HashMap<u64, CallSite> = HashMap::new();
    let mut sums = Sums::default();
    let (mut known, mut lent) = (HashSet::new(), HashSet::new());
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event.lost_before, 0, "event {at}: {event:?}");
        match &event.kind {
            EventKind::Enqueued { get_id, call_site } => {
                // A task that was not polled in time waits again.
                let is_new = known.insert(*get_id) || lent.contains(get_id);
                assert!(is_new, "event {at}: not a new number: {event:?}");
                assert!(
                    waiting.insert(*get_id, call_site.clone()).is_none(),
                    "event {at}: {event:?}"
                );
                sums.started += 1;
            }
            EventKind::CheckedOut { get_id, call_site, waited, connection_id, from, .. } => {
                match waiting.remove(get_id) {
                    Some(who) => {
                        assert_eq!(who, *call_site, "event {at}: {event:?}");
                        sums.acquired_waited += 1;
                    }
                    None => {
                        assert!(known.insert(*get_id), "event {at}: not a new number: {event:?}");
                        let checked = !waited.is_zero();
                        sums.acquired_waited += u64::from(checked);
                        sums.unqueued += u64::from(checked);
                    }
                }
                sums.acquired += 1;
                lent.insert(*get_id);
                // The next event is the move of its connection.
                let Some(Event {
                    kind: EventKind::Moved { slot, connection_id: id, to, .. }, ..
                }) = events.get(at + 1)
                else {
                    assert_eq!(at + 1, events.len(), "event {at} without its move: {event:?}");
                    continue;
                };
                assert_eq!((*id, *to), (Some(*connection_id), Busy), "event {at}: {event:?}");
                let slot = slots.entry(*slot).or_default();
                if fresh || slot.holder.is_some() {
                    assert_eq!(*from, slot.holder, "event {at}: {event:?}");
                }
                slot.holder = Some(call_site.clone());
            }
            EventKind::GetFailed { get_id, call_site, waited, kind } => {
                match waiting.remove(get_id) {
                    Some(who) => assert_eq!(who, *call_site, "event {at}: {event:?}"),
                    None => {
                        // Refused at once, or after it has made a check itself.
                        let refused = matches!(kind, ErrorKind::Closed | ErrorKind::Connect);
                        let starts = waited.is_zero() || refused;
                        assert!(starts, "event {at}: without a start: {event:?}");
                        assert!(known.insert(*get_id), "event {at}: not a new number: {event:?}");
                    }
                }
                sums.left += 1;
                sums.timed_out += u64::from(*kind == ErrorKind::Timeout);
            }
            EventKind::Moved { slot, connection_id, from, to, .. } => {
                let slot = slots.entry(*slot).or_default();
                match slot.state {
                    Some(state) => assert_eq!(state, *from, "event {at}: {event:?}"),
                    None if fresh => assert_eq!(*from, Gone, "event {at}: {event:?}"),
                    None => {}
                }
                assert_ne!(from, to, "event {at}: {event:?}");
                if slot.connection.is_some() && *from != Gone {
                    assert_eq!(slot.connection, *connection_id, "event {at}: {event:?}");
                }
                slot.state = Some(*to);
                slot.connection = *connection_id;
                if matches!(to, Gone | Opening) {
                    slot.holder = None;
                }
                sums.returned += u64::from((*from, *to) == (Busy, Idle));
                // Retired at once if the pool was closed meanwhile.
                let opened = matches!(to, Idle | Busy | Retired);
                sums.opened += u64::from(*from == Opening && opened);
            }
            _ => {}
        }
    }
    sums
}
