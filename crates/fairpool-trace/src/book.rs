//! What is going on in one pool, from event to event.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serde_json::{Value, json};

use super::{How, Lane, Mark, Piece, Pieces, What, nanos};
use crate::caller::{Holder, CallSite};
use crate::core::{Spot as CoreSpot, Waiting};
use crate::error::Error;
use crate::event::{ConnectionState, Event, EventKind, ErrorKind, Reason};
use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::Arc;

/// How things are when a recording begins.
pub(crate) struct Scene {
    pub(super) pool: Arc<str>,
    pub(super) at: Instant,
    waits: Vec<(u64, CallSite, Duration)>,
    spots: Vec<SceneSpot>,
}

struct SceneSpot {
    place: u32,
    connection: Option<u64>,
    state: ConnectionState,
    lasted: Duration,
    holder: Option<CallSite>,
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn follow(&self, capacity: usize) -> Result<(Receiver<Event>, Scene), Error> {
        let (receiver, (now, waiting, spots)) = self.subscribe_looking(capacity, |core| {
            let now = self.clock.now();
            (now, core.waiting(now), core.spots(now))
        })?;
        let wait = |Waiting { get, caller, waited, .. }| (get, CallSite::from(caller), waited);
        let spot = |CoreSpot { which, place, lasted, caller }| SceneSpot {
            place: which.slot,
            connection: (which.connection != 0).then_some(which.connection),
            state: place.into(),
            lasted,
            holder: caller.map(CallSite::from),
        };
        let scene = Scene {
            pool: Arc::clone(&self.config.name),
            at: self.clock.instant_of(now).unwrap_or_else(crate::sync::instant),
            waits: waiting.into_iter().map(wait).collect(),
            spots: spots.into_iter().map(spot).collect(),
        };
        Ok((receiver, scene))
    }
}

pub(super) struct Book {
    name: Arc<str>,
    /// The pool's place among those of the trace.
    pool: usize,
    /// The latest decision. They come in order, but each tells the time at which it
    /// was about to be made, so that some times are a little early.
    now: i64,
    /// Everything is known from here on: from the beginning, or the last loss.
    known_from: Option<i64>,
    /// By the number of the thread: each waits for one thing at a time.
    waits: HashMap<u64, Wait>,
    /// By the number of the connection.
    holds: HashMap<u64, Hold>,
    /// By the place in the pool.
    spots: HashMap<u32, Spot>,
    /// The last hold of a connection: when it ended, and its number.
    returns: HashMap<u64, (i64, u64)>,
}

struct Wait {
    get: u64,
    call_site: CallSite,
    began: Began,
    /// It may have ended since then.
    doubtful: Option<i64>,
}

struct Hold {
    call_site: CallSite,
    began: Began,
    waited: Duration,
    woken_by: Option<u64>,
    doubtful: bool,
}

#[derive(Clone, Copy)]
struct Spot {
    state: ConnectionState,
    connection: Option<u64>,
    reason: Option<Reason>,
    began: Began,
}

#[derive(Clone, Copy)]
struct Began {
    at: i64,
    /// So long before that, which is not shown.
    before: Duration,
}

impl Began {
    fn at(at: i64) -> Began {
        Began { at, before: Duration::ZERO }
    }
}

impl Book {
    pub(super) fn new(name: Arc<str>, pool: usize) -> Book {
        Book {
            name,
            pool,
            now: i64::MIN,
            known_from: None,
            waits: HashMap::new(),
            holds: HashMap::new(),
            spots: HashMap::new(),
            returns: HashMap::new(),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn begin(&mut self, scene: Scene, at: i64) {
        self.now = at;
        self.known_from = Some(at);
        for (get, call_site, waited) in scene.waits {
            let began = Began { at, before: waited };
            let wait = Wait { get, began, doubtful: None, call_site };
            self.waits.insert(wait.call_site.thread_number(), wait);
        }
        for SceneSpot { place, connection, state, lasted, holder } in scene.spots {
            let began = Began { at, before: lasted };
            if let (Some(connection), Some(call_site)) = (connection, holder) {
                let waited = Duration::ZERO;
                let hold = Hold { call_site, began, waited, woken_by: None, doubtful: false };
                self.holds.insert(connection, hold);
            }
            self.spots.insert(place, Spot { state, connection, reason: None, began });
        }
    }

    pub(super) fn add(&mut self, event: &Event, at: i64, pieces: &mut Pieces) {
        if event.lost_before > 0 {
            self.lost(event.lost_before, at, pieces);
        }
        match &event.kind {
            EventKind::Enqueued { get, call_site } => {
                let at = self.decided(at);
                self.end_stale_wait(call_site, pieces);
                let wait = Wait {
                    get: *get,
                    call_site: call_site.clone(),
                    began: Began::at(at),
                    doubtful: None,
                };
                self.waits.insert(call_site.thread_number(), wait);
            }
            EventKind::CheckedOut { get, call_site, waited, connection, .. } => {
                let at = self.decided(at);
                let waited_from = self.end_wait(*get, call_site, *waited, "acquired", at, pieces);
                self.end_hold(*connection, at, How::Unseen, pieces);
                let last = self.returns.get(connection);
                let woken_by = match (waited_from, last) {
                    // Whoever gave it back while this one waited woke it.
                    (Some(began), Some(&(returned, number))) if returned >= began => Some(number),
                    _ => None,
                };
                let (call_site, began) = (call_site.clone(), Began::at(at));
                let hold = Hold { call_site, began, waited: *waited, woken_by, doubtful: false };
                self.holds.insert(*connection, hold);
            }
            EventKind::GetFailed { get, call_site, waited, end } => {
                let at = self.decided(at);
                let result = name_of_end(*end);
                self.end_wait(*get, call_site, *waited, result, at, pieces);
                self.mark_thread(call_site, at, result, about(call_site), pieces);
            }
            EventKind::Moved { place, connection, from, to, reason } => {
                let at = self.decided(at);
                if let (ConnectionState::Busy, Some(connection)) = (from, connection) {
                    let number = self.end_hold(*connection, at, How::Ended, pieces);
                    self.returns.extend(number.map(|number| (*connection, (at, number))));
                }
                let to = Spot {
                    state: *to,
                    connection: *connection,
                    reason: *reason,
                    began: Began::at(at),
                };
                self.move_spot(*place, *from, to, pieces);
            }
            notice => self.notice(notice, at, pieces),
        }
    }

    fn decided(&mut self, at: i64) -> i64 {
        self.now = self.now.max(at);
        self.now
    }

    /// Returns when it began, if there was a wait.
    fn end_wait(
        &mut self,
        get: u64,
        call_site: &CallSite,
        waited: Duration,
        result: &'static str,
        at: i64,
        pieces: &mut Pieces,
    ) -> Option<i64> {
        let thread = call_site.thread_number();
        let began = match self.waits.remove(&thread) {
            Some(wait) if wait.get == get => wait.began,
            other => {
                self.waits.extend(other.map(|wait| (thread, wait)));
                self.end_stale_wait(call_site, pieces);
                if waited.is_zero() {
                    return None;
                }
                let began = at.saturating_sub(nanos(waited));
                Began::at(self.known_from.map_or(began, |known| began.max(known)))
            }
        };
        let what = What::Wait { get, call_site: call_site.clone(), result };
        self.slice(Lane::Thread(thread), began, at, How::Ended, what, pieces);
        Some(began.at)
    }

    /// A thread that does something else waits no more.
    fn end_stale_wait(&mut self, call_site: &CallSite, pieces: &mut Pieces) {
        let Some(wait) = self.waits.remove(&call_site.thread_number()) else { return };
        let (lane, began, end, how, what) = wait.slice(self.now);
        let how = if how == How::Open { How::Unseen } else { how };
        self.slice(lane, began, end, how, what, pieces);
    }

    /// Returns its number.
    fn end_hold(&mut self, connection: u64, at: i64, how: How, pieces: &mut Pieces) -> Option<u64> {
        let hold = self.holds.remove(&connection)?;
        let (lane, began, what) = hold.slice(connection);
        Some(self.slice(lane, began, at, how, what, pieces))
    }

    fn move_spot(&mut self, place: u32, from: ConnectionState, to: Spot, pieces: &mut Pieces) {
        let at = to.began.at;
        let was = self.spots.remove(&place).filter(|spot| spot.state == from).or_else(|| {
            // It was not seen how it came there.
            let began = Began::at(self.known_from.unwrap_or(0).min(at));
            let unknown = Spot { state: from, connection: to.connection, reason: None, began };
            Some(unknown).filter(|_| from != ConnectionState::Gone)
        });
        if let Some(Spot { state, connection, reason, began }) = was {
            let what = What::State { state, connection: connection.or(to.connection), reason };
            self.slice(Lane::Place(place), began, at, How::Ended, what, pieces);
        }
        if to.state != ConnectionState::Gone {
            self.spots.insert(place, to);
            return;
        }
        if let Some(connection) = to.connection {
            self.returns.remove(&connection);
        }
        if let Some(reason) = to.reason {
            let args = json!({ "connection": to.connection });
            self.mark(Lane::Place(place), at, name_of_reason(reason), args, pieces);
        }
    }

    /// From here on what was going on may have ended without a sign.
    fn lost(&mut self, events: u64, at: i64, pieces: &mut Pieces) {
        let at = self.decided(at);
        self.known_from = Some(at);
        self.waits.values_mut().for_each(|wait| wait.doubtful = wait.doubtful.or(Some(at)));
        self.holds.values_mut().for_each(|hold| hold.doubtful = true);
        self.mark(
            Lane::Pool,
            at,
            &format!("{events} events lost"),
            json!({ "lost": events }),
            pieces,
        );
    }

    fn notice(&self, notice: &EventKind, at: i64, pieces: &mut Pieces) {
        let mut mark = |lane, name: &str, args| self.mark(lane, at, name, args, pieces);
        match notice {
            EventKind::Leak(holder) => {
                self.mark_thread(holder.call_site(), at, "leak", about_holder(holder), pieces);
            }
            EventKind::LeakEnded(holder) => {
                self.mark_thread(holder.call_site(), at, "leak ended", about_holder(holder), pieces);
            }
            EventKind::SelfDeadlock(nested) => {
                let threads: Vec<String> = nested.iter().map(ToString::to_string).collect();
                mark(Lane::Pool, "threads wait for themselves", json!({ "threads": threads }));
            }
            EventKind::Outage(error) => {
                mark(Lane::Pool, "connecting fails", json!({ "error": error }));
            }
            EventKind::OutageEnded { failures, lasted } => {
                let args = json!({ "failures": failures, "lasted": format!("{lasted:.1?}") });
                mark(Lane::Pool, "connecting succeeds again", args);
            }
            EventKind::Abandoned { call, connection, after } => {
                let place = self
                    .spots
                    .iter()
                    .find(|(_, spot)| connection.is_some() && spot.connection == *connection);
                let lane = place.map_or(Lane::Pool, |(place, _)| Lane::Place(*place));
                let after = format!("{after:.1?}");
                let args = json!({ "connection": connection, "after": after });
                mark(lane, &format!("{call} abandoned"), args);
            }
            EventKind::Health { from, health } => {
                let args = json!({
                    "before": from.to_string(),
                    "waiting": health.waiting,
                    "mean_wait": format!("{:.1?}", health.mean_wait),
                    "oldest_wait": format!("{:.1?}", health.oldest_wait),
                });
                mark(Lane::Pool, &format!("health: {}", health.level), args);
            }
            EventKind::Enqueued { .. }
            | EventKind::CheckedOut { .. }
            | EventKind::GetFailed { .. }
            | EventKind::Moved { .. } => {}
        }
    }

    fn slice(
        &self,
        lane: Lane,
        began: Began,
        end: i64,
        how: How,
        what: What,
        pieces: &mut Pieces,
    ) -> u64 {
        pieces.push(self.piece(lane, began, end, how, what))
    }

    fn piece(&self, lane: Lane, began: Began, end: i64, how: How, what: What) -> Piece {
        let Began { at: begin, before } = began;
        Piece { pool: self.pool, lane, begin, end: end.max(begin), before, how, what }
    }

    fn mark(&self, lane: Lane, at: i64, name: &str, args: Value, pieces: &mut Pieces) {
        let mark = Mark { name: name.to_string(), call_site: None, args };
        let what = What::Mark(Box::new(mark));
        self.slice(lane, Began::at(at), at, How::Ended, what, pieces);
    }

    fn mark_thread(&self, call_site: &CallSite, at: i64, name: &str, args: Value, pieces: &mut Pieces) {
        let mark = Mark { name: name.to_string(), call_site: Some(call_site.clone()), args };
        let (lane, what) = (Lane::Thread(call_site.thread_number()), What::Mark(Box::new(mark)));
        self.slice(lane, Began::at(at), at, How::Ended, what, pieces);
    }

    /// What has not ended, as if it ended now.
    pub(super) fn open(&self, now: i64) -> impl Iterator<Item = Piece> {
        let waits = self.waits.values().map(move |wait| {
            let (lane, began, end, how, what) = wait.slice(now);
            self.piece(lane, began, end, how, what)
        });
        let holds = self.holds.iter().map(move |(connection, hold)| {
            let (lane, began, what) = hold.slice(*connection);
            let how = if hold.doubtful { How::Unseen } else { How::Open };
            self.piece(lane, began, now, how, what)
        });
        let spots = self.spots.iter().map(move |(place, spot)| {
            let Spot { state, connection, reason, began } = *spot;
            let what = What::State { state, connection, reason };
            self.piece(Lane::Place(*place), began, now, How::Open, what)
        });
        waits.chain(holds).chain(spots)
    }
}

impl Wait {
    /// The part of it that is beyond doubt.
    fn slice(&self, now: i64) -> (Lane, Began, i64, How, What) {
        let lane = Lane::Thread(self.call_site.thread_number());
        let (end, how) = match self.doubtful {
            Some(at) => (at, How::Unseen),
            None => (now, How::Open),
        };
        let what = What::Wait { get: self.get, call_site: self.call_site.clone(), result: "not seen" };
        (lane, self.began, end, how, what)
    }
}

impl Hold {
    fn slice(&self, connection: u64) -> (Lane, Began, What) {
        let Hold { call_site, began, waited, woken_by, .. } = self;
        let (waited, woken_by) = (*waited, *woken_by);
        let what = What::Hold { connection, call_site: call_site.clone(), waited, woken_by };
        (Lane::Thread(call_site.thread_number()), *began, what)
    }
}

pub(super) fn about(call_site: &CallSite) -> Value {
    json!({
        "location": call_site.location().to_string(),
        "label": call_site.label(),
        "priority": call_site.priority(),
    })
}

fn about_holder(holder: &Holder) -> Value {
    let mut args = about(holder.call_site());
    args["connection"] = holder.connection_id().into();
    args["held_for"] = format!("{:.1?}", holder.held_for()).into();
    args
}

fn name_of_end(end: ErrorKind) -> &'static str {
    match end {
        ErrorKind::Timeout => "timed out",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::QueueFull => "refused: the queue is full",
        ErrorKind::Closed => "refused: the pool is closed",
        ErrorKind::Connect => "refused: connecting fails for good",
        ErrorKind::SelfDeadlock => "waited for itself",
    }
}

pub(super) fn name_of_state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Opening => "opening",
        ConnectionState::Idle => "idle",
        ConnectionState::Busy => "busy",
        ConnectionState::Checking => "checking",
        ConnectionState::Retired => "retired",
        ConnectionState::Closing => "closing",
        ConnectionState::Abandoned => "abandoned",
        ConnectionState::Gone => "gone",
    }
}

pub(super) fn name_of_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Broken => "broken",
        Reason::Invalid => "invalid",
        Reason::Expired => "expired",
        Reason::IdleTooLong => "idle too long",
        Reason::Excess => "excess",
        Reason::Stale => "stale",
        Reason::PoolClosed => "pool closed",
        Reason::ConnectFailed => "connect failed",
        Reason::Overran => "overran its limit",
        Reason::Detached => "detached",
    }
}
