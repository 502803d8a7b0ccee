//! The current state of one pool, from event to event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fairpool::ErrorKind;
use fairpool::event::{ConnectionAt, ConnectionState, Event, EventKind, Reason, Scene};
use fairpool::snapshot::CallSite;
use serde_json::{Value, json};

use crate::piece::{Ended, Lane, Mark, NO_THREAD, Piece, Pieces, What};

mod notices;

/// Turns the events of one pool into pieces.
pub(crate) struct Tracker {
    name: Arc<str>,
    /// The pool's index in the trace.
    pool: usize,
    /// The time of the latest decision of the pool. Decisions come in order, but each
    /// carries the time right before it was made, which may be a little too early.
    now: i64,
    /// Nothing is missing from here on: since the beginning, or the last loss.
    known_from: Option<i64>,
    waits: HashMap<Waiter, Wait>,
    /// By connection.
    holds: HashMap<u64, Hold>,
    /// The connection in each slot.
    slots: HashMap<u32, Slot>,
    /// The last hold of each connection: when it ended, and its number.
    returns: HashMap<u64, (i64, u64)>,
}

/// Who waits. A thread waits for one connection at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Waiter {
    Thread(u64),
    /// The task of this get: tasks have no thread.
    Task(u64),
}

impl Waiter {
    fn of(call_site: &CallSite, get_id: u64) -> Waiter {
        match call_site.thread_id() {
            NO_THREAD => Waiter::Task(get_id),
            thread => Waiter::Thread(thread),
        }
    }
}

struct Wait {
    get_id: u64,
    call_site: CallSite,
    began: Began,
    /// It may have ended at any time since then: events were lost.
    doubtful: Option<i64>,
}

struct Hold {
    backend_id: Option<u32>,
    call_site: CallSite,
    began: Began,
    waited: Duration,
    woken_by: Option<u64>,
    doubtful: bool,
}

#[derive(Clone, Copy)]
struct Slot {
    state: ConnectionState,
    connection_id: Option<u64>,
    backend_id: Option<u32>,
    reason: Option<Reason>,
    began: Began,
}

#[derive(Clone, Copy)]
struct Began {
    at: i64,
    /// How long it had lasted by then.
    before: Duration,
}

impl Began {
    fn at(at: i64) -> Began {
        Began { at, before: Duration::ZERO }
    }
}

impl Tracker {
    pub(crate) fn new(name: Arc<str>, pool: usize) -> Tracker {
        Tracker {
            name,
            pool,
            now: i64::MIN,
            known_from: None,
            waits: HashMap::new(),
            holds: HashMap::new(),
            slots: HashMap::new(),
            returns: HashMap::new(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn begin(&mut self, scene: Scene, at: i64) {
        self.now = at;
        self.known_from = Some(at);
        for waiter in scene.waiters {
            let began = Began { at, before: waiter.waited() };
            let call_site = waiter.call_site().clone();
            let get_id = waiter.get_id();
            let who = Waiter::of(&call_site, get_id);
            self.waits.insert(who, Wait { get_id, call_site, began, doubtful: None });
        }
        for connection in scene.connections {
            let ConnectionAt { slot, connection_id, backend_id, .. } = connection;
            let began = Began { at, before: connection.lasted };
            if let (Some(connection_id), Some(call_site)) = (connection_id, connection.holder) {
                let (waited, woken_by, doubtful) = (Duration::ZERO, None, false);
                let hold = Hold { backend_id, call_site, began, waited, woken_by, doubtful };
                self.holds.insert(connection_id, hold);
            }
            let (state, reason) = (connection.state, None);
            self.slots.insert(slot, Slot { state, connection_id, backend_id, reason, began });
        }
    }

    pub(crate) fn add(&mut self, event: &Event, at: i64, pieces: &mut Pieces) {
        if event.lost_before > 0 {
            self.lost(event.lost_before, at, pieces);
        }
        match &event.kind {
            EventKind::Enqueued { get_id, call_site } => {
                let began = Began::at(self.decided(at));
                let who = Waiter::of(call_site, *get_id);
                self.end_stale_wait(who, pieces);
                let call_site = call_site.clone();
                let wait = Wait { get_id: *get_id, call_site, began, doubtful: None };
                self.waits.insert(who, wait);
            }
            EventKind::CheckedOut {
                get_id, call_site, waited, connection_id, backend_id, ..
            } => {
                let at = self.decided(at);
                let wait = self.end_wait(*get_id, call_site, *waited, Ok(()), at, pieces);
                self.end_hold(*connection_id, at, Ended::Lost, pieces);
                let woken_by = match (wait, self.returns.get(connection_id)) {
                    // The caller that returned it during the wait ended the wait.
                    (Some(began), Some(&(returned, hold))) if returned >= began => Some(hold),
                    _ => None,
                };
                let hold = Hold {
                    backend_id: *backend_id,
                    call_site: call_site.clone(),
                    began: Began::at(at),
                    waited: *waited,
                    woken_by,
                    doubtful: false,
                };
                self.holds.insert(*connection_id, hold);
            }
            EventKind::GetFailed { get_id, call_site, waited, kind } => {
                let at = self.decided(at);
                self.end_wait(*get_id, call_site, *waited, Err(*kind), at, pieces);
                self.mark_thread(call_site, at, &kind.to_string(), about(call_site), pieces);
            }
            EventKind::Moved { slot, connection_id, backend_id, from, to, reason } => {
                let at = self.decided(at);
                if let (ConnectionState::Busy, Some(connection_id)) = (from, connection_id) {
                    let hold = self.end_hold(*connection_id, at, Ended::Seen, pieces);
                    self.returns.extend(hold.map(|hold| (*connection_id, (at, hold))));
                }
                let to = Slot {
                    state: *to,
                    connection_id: *connection_id,
                    backend_id: *backend_id,
                    reason: *reason,
                    began: Began::at(at),
                };
                self.move_to(*slot, *from, to, pieces);
            }
            notice => self.add_notice(notice, at, pieces),
        }
    }

    fn decided(&mut self, at: i64) -> i64 {
        self.now = self.now.max(at);
        self.now
    }

    /// Returns when the wait began, if the caller had to wait.
    fn end_wait(
        &mut self,
        get_id: u64,
        call_site: &CallSite,
        waited: Duration,
        result: Result<(), ErrorKind>,
        at: i64,
        pieces: &mut Pieces,
    ) -> Option<i64> {
        let (thread, who) = (call_site.thread_id(), Waiter::of(call_site, get_id));
        let began = match self.waits.remove(&who) {
            Some(wait) if wait.get_id == get_id => wait.began,
            other => {
                self.waits.extend(other.map(|wait| (who, wait)));
                self.end_stale_wait(who, pieces);
                if waited.is_zero() {
                    return None;
                }
                let began = at.saturating_sub(nanos(waited));
                Began::at(self.known_from.map_or(began, |known| began.max(known)))
            }
        };
        let what = What::Wait { get_id, call_site: call_site.clone(), result: Some(result) };
        pieces.push(self.piece(Lane::Thread(thread), began, at, Ended::Seen, what));
        Some(began.at)
    }

    /// Ends the wait of a thread that does something else now.
    fn end_stale_wait(&mut self, who: Waiter, pieces: &mut Pieces) {
        let Some(wait) = self.waits.remove(&who) else { return };
        let mut piece = self.piece_of_wait(&wait, self.now);
        if piece.ended == Ended::Open {
            piece.ended = Ended::Lost;
        }
        pieces.push(piece);
    }

    /// Returns the number of the hold's piece.
    fn end_hold(
        &mut self,
        connection_id: u64,
        at: i64,
        ended: Ended,
        pieces: &mut Pieces,
    ) -> Option<u64> {
        let hold = self.holds.remove(&connection_id)?;
        Some(pieces.push(self.piece_of_hold(connection_id, &hold, at, ended)))
    }

    fn move_to(&mut self, slot: u32, from: ConnectionState, to: Slot, pieces: &mut Pieces) {
        let at = to.began.at;
        let before = self.slots.remove(&slot).filter(|slot| slot.state == from).or_else(|| {
            // The event with which that state began is missing.
            let began = Began::at(self.known_from.unwrap_or(0).min(at));
            let (connection_id, backend_id, reason) = (None, None, None);
            let missed = Slot { state: from, connection_id, backend_id, reason, began };
            Some(missed).filter(|_| from != ConnectionState::Gone)
        });
        if let Some(Slot { state, connection_id, backend_id, reason, began }) = before {
            let connection_id = connection_id.or(to.connection_id);
            let backend_id = backend_id.or(to.backend_id);
            let what = What::State { state, connection_id, backend_id, reason };
            pieces.push(self.piece(Lane::Slot(slot), began, at, Ended::Seen, what));
        }
        if to.state != ConnectionState::Gone {
            self.slots.insert(slot, to);
            return;
        }
        if let Some(connection_id) = to.connection_id {
            self.returns.remove(&connection_id);
        }
        if let Some(reason) = to.reason {
            let args = json!({ "connection": to.connection_id });
            self.mark(Lane::Slot(slot), at, &reason.to_string(), args, pieces);
        }
    }

    /// Whatever is under way may end in the lost events.
    fn lost(&mut self, events: u64, at: i64, pieces: &mut Pieces) {
        let at = self.decided(at);
        self.known_from = Some(at);
        self.waits.values_mut().for_each(|wait| wait.doubtful = wait.doubtful.or(Some(at)));
        self.holds.values_mut().for_each(|hold| hold.doubtful = true);
        let name = format!("{events} events lost");
        self.mark(Lane::Pool, at, &name, json!({ "lost": events }), pieces);
    }

    /// What has not ended, as if it ended now.
    pub(crate) fn open(&self, now: i64) -> impl Iterator<Item = Piece> {
        let waits = self.waits.values().map(move |wait| self.piece_of_wait(wait, now));
        let holds = self.holds.iter().map(move |(connection_id, hold)| {
            let ended = if hold.doubtful { Ended::Lost } else { Ended::Open };
            self.piece_of_hold(*connection_id, hold, now, ended)
        });
        let slots = self.slots.iter().map(move |(slot, connection)| {
            let Slot { state, connection_id, backend_id, reason, began } = *connection;
            let what = What::State { state, connection_id, backend_id, reason };
            self.piece(Lane::Slot(*slot), began, now, Ended::Open, what)
        });
        waits.chain(holds).chain(slots)
    }

    /// The part of a wait that is certain.
    fn piece_of_wait(&self, wait: &Wait, now: i64) -> Piece {
        let lane = Lane::Thread(wait.call_site.thread_id());
        let (end, ended) = match wait.doubtful {
            Some(at) => (at, Ended::Lost),
            None => (now, Ended::Open),
        };
        let (get_id, call_site) = (wait.get_id, wait.call_site.clone());
        let what = What::Wait { get_id, call_site, result: None };
        self.piece(lane, wait.began, end, ended, what)
    }

    fn piece_of_hold(&self, connection_id: u64, hold: &Hold, end: i64, ended: Ended) -> Piece {
        let Hold { backend_id, call_site, began, waited, woken_by, .. } = hold;
        let lane = Lane::Thread(call_site.thread_id());
        let (backend_id, call_site) = (*backend_id, call_site.clone());
        let (waited, woken_by) = (*waited, *woken_by);
        let what = What::Hold { connection_id, backend_id, call_site, waited, woken_by };
        self.piece(lane, *began, end, ended, what)
    }

    fn piece(&self, lane: Lane, began: Began, end: i64, ended: Ended, what: What) -> Piece {
        let Began { at: begin, before } = began;
        Piece { pool: self.pool, lane, begin, end: end.max(begin), before, ended, what }
    }

    fn mark(&self, lane: Lane, at: i64, name: &str, args: Value, pieces: &mut Pieces) {
        let mark = Mark { name: name.to_string(), call_site: None, args };
        let what = What::Mark(Box::new(mark));
        pieces.push(self.piece(lane, Began::at(at), at, Ended::Seen, what));
    }

    fn mark_thread(
        &self,
        call_site: &CallSite,
        at: i64,
        name: &str,
        args: Value,
        pieces: &mut Pieces,
    ) {
        let mark = Mark { name: name.to_string(), call_site: Some(call_site.clone()), args };
        let (lane, what) = (Lane::Thread(call_site.thread_id()), What::Mark(Box::new(mark)));
        pieces.push(self.piece(lane, Began::at(at), at, Ended::Seen, what));
    }
}

/// The arguments that every piece of a thread has.
pub(crate) fn about(call_site: &CallSite) -> Value {
    json!({
        "location": call_site.location().to_string(),
        "label": call_site.label(),
        "priority": call_site.priority(),
    })
}

pub(crate) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
