//! A pool, written as simply as possible: lists that are searched from end to end, and no
//! stored value that could be computed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::toy::Toy;
use super::walker::TICK;
use crate::core::state::Succession;
use crate::core::*;

pub(super) struct Waiting {
    pub(super) client: u8,
    pub(super) priority: u8,
    pub(super) since: Time,
    /// Its place in the order in which gets came.
    pub(super) came: u64,
    pub(super) only_idle: bool,
    pub(super) nested: bool,
    /// The deadline of a task.
    pub(super) task: Option<Time>,
    /// It was cancelled while it had a grant.
    pub(super) cancelled: bool,
    /// Its use begins on this connection. It is in the list of those absent.
    pub(super) prepared_on: Option<u32>,
    /// Its wait is counted up to this time.
    pub(super) counted_to: Time,
}

/// A task that was granted a connection, and was not polled since.
pub(super) struct Granted {
    pub(super) waiting: Waiting,
    pub(super) conn: u32,
    pub(super) until: Time,
}

pub(super) struct Holding {
    pub(super) conn: u32,
    pub(super) client: u8,
    pub(super) since: Time,
    /// When it was lent, truly.
    pub(super) truly_since: Time,
    pub(super) moved: bool,
    pub(super) leaking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Connect,
    /// `Some` for a keepalive: since then the connection has been idle.
    Check(Check, Option<Time>),
    Close,
}

/// A driver call that has not ended.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) permit: u32,
    pub(super) conn: Option<u32>,
    pub(super) what: What,
    pub(super) since: Time,
    pub(super) generation: u32,
    pub(super) patience_ends: Time,
    /// Its place in the order of all calls.
    pub(super) begun: u64,
    pub(super) slow: bool,
    pub(super) overdue: bool,
    pub(super) abandoned: bool,
}

impl Call {
    pub(super) fn kind(&self) -> CallKind {
        match self.what {
            What::Connect => CallKind::Connect,
            What::Check(..) => CallKind::Check,
            What::Close => CallKind::Close,
        }
    }
}

/// A connection, alive or not; its number is its index in the list.
pub(super) struct Facts {
    pub(super) permit: u32,
    pub(super) alive: bool,
    pub(super) expires: Time,
    pub(super) idle_time: Option<Duration>,
    /// It is to be replaced.
    pub(super) old: bool,
    /// A caller has had it.
    pub(super) used: bool,
    pub(super) fresh_at: Time,
    pub(super) idle_since: Time,
    /// When it was last known to work, and since when it is idle, truly.
    pub(super) truly_fresh_at: Time,
    pub(super) truly_idle_since: Time,
    /// When its last validation succeeded.
    pub(super) checked_at: Option<Time>,
    pub(super) retired_at: Time,
    pub(super) generation: u32,
    /// When the last connect or validation began that has succeeded.
    pub(super) proved: u64,
    /// It has proved dead while a caller had it or checked it.
    pub(super) dead: bool,
}

pub(super) struct Failing {
    pub(super) began: Time,
    /// All connects that failed since, also those that failed together.
    pub(super) failures: u32,
    pub(super) attempts: u32,
    pub(super) failed_at: Time,
    pub(super) retry_at: Time,
    /// When callers fail at once.
    pub(super) fails_fast_from: Time,
    pub(super) permanent: bool,
}

/// What the effects of this transition must include.
#[derive(Default)]
pub(super) struct Due {
    /// The first waiter gets this connection.
    pub(super) grant: Option<u32>,
    /// This client gets this connection, on which its use has begun.
    pub(super) begun: Option<(u8, u32)>,
    /// For a keepalive, with the time since which the connection has been idle.
    pub(super) checks: Vec<(u32, Check, Option<Time>)>,
    /// One connect, to see whether connecting works.
    pub(super) proof: bool,
    /// At least one connection from the top of the stack must be checked.
    pub(super) another_check: bool,
    /// Closes of connections that abandoned calls brought.
    pub(super) late_closes: Vec<(u32, Reason)>,
    pub(super) answers: Vec<(u8, &'static str)>,
    pub(super) notices: Vec<String>,
    pub(super) progress: bool,
}

pub(super) struct Reference {
    pub(super) policy: Policy,
    pub(super) now: Time,
    /// The true time, while `now` is that of a clock that lags.
    pub(super) lagging: Option<Time>,
    /// In the order of arrival.
    pub(super) queue: Vec<Waiting>,
    /// In the order of the grants.
    pub(super) granted: Vec<Granted>,
    /// Tasks that were not polled in time, and those whose uses begin, in the order of arrival.
    pub(super) absent: Vec<Waiting>,
    /// Was nudged and has not claimed.
    pub(super) nudged: Option<u8>,
    /// From the bottom to the top.
    pub(super) idle: Vec<u32>,
    pub(super) held: Vec<Holding>,
    pub(super) calls: Vec<Call>,
    /// To be closed, in this order.
    pub(super) retired: Vec<(u32, Reason)>,
    pub(super) conns: Vec<Facts>,
    pub(super) closed: bool,
    pub(super) paused: bool,
    pub(super) generation: u32,
    pub(super) succession: Succession,
    /// How many calls have begun before this transition.
    pub(super) order: u64,
    /// The slots of the calls that begin in this transition, in order.
    pub(super) beginning: Vec<u32>,
    /// What was proved by a call that began no later than this, must be checked before use.
    pub(super) doubted: u64,
    pub(super) failing: Option<Failing>,
    /// How long connects usually take, times three, within the policy's limits.
    pub(super) usual: Option<Duration>,
    /// How many connects that are not slow there may be at once.
    pub(super) at_once: u32,
    /// When a connect last began or ended.
    pub(super) moved_at: Time,
    pub(super) last_error: Option<(Time, u8)>,
    pub(super) deadlocked: Option<Time>,
    pub(super) counters: Counters,
    /// When the reaper runs next, and whether it was woken before that.
    pub(super) next_tick: Time,
    /// The plan before this transition.
    pub(super) planned: Time,
    pub(super) woken: bool,
    pub(super) live_before: u32,
    pub(super) due: Due,
    /// The state of each slot, by the steps so far.
    pub(super) states: BTreeMap<u32, ConnectionState>,
    /// The steps that a subscriber must receive of this transition. The numbers of gets are
    /// zero: the reference does not have them.
    pub(super) steps: Vec<Entry<u8>>,
}

impl Reference {
    pub(super) fn new(policy: Policy) -> Reference {
        Reference {
            usual: None,
            at_once: policy.max_opening,
            moved_at: Time::START,
            policy,
            now: Time::START,
            lagging: None,
            queue: Vec::new(),
            granted: Vec::new(),
            absent: Vec::new(),
            nudged: None,
            idle: Vec::new(),
            held: Vec::new(),
            calls: Vec::new(),
            retired: Vec::new(),
            conns: Vec::new(),
            closed: false,
            paused: false,
            generation: 0,
            succession: Succession::None,
            order: 0,
            beginning: Vec::new(),
            doubted: 0,
            failing: None,
            last_error: None,
            deadlocked: None,
            counters: Counters::default(),
            next_tick: Time::NEVER,
            planned: Time::NEVER,
            woken: false,
            live_before: 0,
            due: Due::default(),
            states: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// The true time.
    pub(super) fn truth(&self) -> Time {
        self.lagging.unwrap_or(self.now)
    }

    /// The time that the pool keeps of this step.
    pub(super) fn stamp(&self) -> Time {
        let lag = if self.lagging.is_some() { TICK } else { 0 };
        let stamp = Time(self.now.0 + lag);
        assert!(stamp >= self.truth(), "what counts from it would be early");
        stamp
    }

    /// It was used within `fresh_for`, or, by a clock that lags, not much longer ago.
    pub(super) fn is_truly_fresh(&self, conn: u32) -> bool {
        let lag = Duration::from_nanos(2 * TICK);
        let fresh_for = self.policy.fresh_for.saturating_add(lag);
        let truly_fresh_at = self.conns[conn as usize].truly_fresh_at;
        self.fresh_since(conn, truly_fresh_at).is_some_and(|at| self.truth().since(at) < fresh_for)
    }

    /// Since when it counts as fresh, if it was known to work at this time.
    pub(super) fn fresh_since(&self, conn: u32, worked_at: Time) -> Option<Time> {
        match self.policy.fresh_by_check {
            true => self.conns[conn as usize].checked_at,
            false => Some(worked_at),
        }
    }

    /// Its freshness has ended, if it was known to work at this time.
    pub(super) fn is_due(&self, conn: u32, worked_at: Time) -> bool {
        let since = self.fresh_since(conn, worked_at);
        since.is_none_or(|at| self.now.since(at) >= self.policy.fresh_for)
    }

    /// Until then it needs no check.
    pub(super) fn fit_until(&self, conn: u32) -> Time {
        let since = self.fresh_since(conn, self.conns[conn as usize].fresh_at);
        let since = since.filter(|_| !self.in_doubt(conn));
        since.map_or(Time::START, |at| at.after(self.policy.fresh_for))
    }

    pub(super) fn serving(&self) -> bool {
        !self.closed && !self.paused
    }

    /// Who is next: the smallest turn; of equal turns the more important; then the earlier.
    pub(super) fn first(&self) -> Option<&Waiting> {
        self.queue.iter().min_by_key(|w| (self.turn(w.since, w.priority), w.priority))
    }

    pub(super) fn waiting(&self, client: u8) -> Option<&Waiting> {
        self.queue.iter().find(|waiting| waiting.client == client)
    }

    /// One ageing step for each level of priority, added up one by one.
    pub(super) fn turn(&self, since: Time, priority: u8) -> Time {
        (0..priority).fold(since, |turn, _| turn.after(self.policy.priority_ageing))
    }

    pub(super) fn passed_bound(&self, waiting: &Waiting) -> bool {
        self.now.since(waiting.since) >= self.policy.fairness_bound
    }

    /// Whether one that came then may take a connection past the waiters.
    pub(super) fn may_pass(&self, arrival: Arrival, priority: u8) -> bool {
        let own = (self.turn(arrival.since, priority), arrival.get_id);
        let before = |w: &&Waiting| (self.turn(w.since, w.priority), w.came) < own;
        !self.queue.iter().filter(before).any(|waiting| self.passed_bound(waiting))
    }

    pub(super) fn stale(&self, conn: u32) -> bool {
        self.is_due(conn, self.conns[conn as usize].fresh_at) || self.in_doubt(conn)
    }

    /// Another connection has proved dead, and this one was not proved since.
    pub(super) fn in_doubt(&self, conn: u32) -> bool {
        self.conns[conn as usize].proved <= self.doubted
    }

    /// Whether a newcomer finds nothing but a connection that is due for a check.
    pub(super) fn may_check(&self, arrival: Arrival, priority: u8) -> bool {
        let takes = self.serving() && !self.policy.begins_uses;
        takes && self.may_pass(arrival, priority) && self.top_needs_check()
    }

    pub(super) fn may_be_handed_out(&self, conn: u32) -> bool {
        let facts = &self.conns[conn as usize];
        facts.alive && !self.stale(conn) && self.is_truly_fresh(conn)
    }

    /// Nothing idle is fit. Only if nothing but a check makes it fit, it may lie below the top.
    pub(super) fn top_needs_check(&self) -> bool {
        let looks_at = if self.policy.fresh_by_check { self.idle.len() } else { 1 };
        !self.idle.is_empty() && self.idle.iter().rev().take(looks_at).all(|&it| self.stale(it))
    }

    fn calls(&self, is: impl Fn(&Call) -> bool) -> u32 {
        self.calls.iter().filter(|call| !call.abandoned && is(call)).count() as u32
    }

    pub(super) fn opening(&self) -> u32 {
        self.calls(|call| call.what == What::Connect)
    }

    pub(super) fn opening_in_time(&self) -> u32 {
        self.calls(|call| call.what == What::Connect && !call.slow)
    }

    pub(super) fn checking(&self) -> u32 {
        self.calls(|call| matches!(call.what, What::Check(..)))
    }

    pub(super) fn checking_in_time(&self) -> u32 {
        self.calls(|call| matches!(call.what, What::Check(..)) && !call.slow)
    }

    pub(super) fn closing_on_record(&self) -> u32 {
        self.calls(|call| call.what == What::Close && !call.overdue)
    }

    pub(super) fn abandoned(&self) -> u32 {
        self.calls.iter().filter(|call| call.abandoned).count() as u32
    }

    /// Connections that callers have or can get; `loose` of them are in no list.
    pub(super) fn open(&self, loose: u32) -> u32 {
        self.idle.len() as u32 + self.held.len() as u32 + self.checking() + loose
    }

    /// Connections as the server counts them, without those in abandoned calls.
    pub(super) fn live(&self) -> u32 {
        self.open(0)
            + self.opening()
            + self.retired.len() as u32
            + self.calls(|call| call.what == What::Close)
    }

    pub(super) fn gauges(&self) -> Gauges {
        Gauges {
            max_size: self.policy.max_size,
            idle: self.idle.len() as u32,
            busy: self.held.len() as u32,
            checking: self.checking(),
            opening: self.opening(),
            closing: self.retired.len() as u32 + self.calls(|call| call.what == What::Close),
            abandoned: self.abandoned(),
            waiting: (self.queue.len() + self.absent.len()) as u32,
            old: self.old(),
        }
    }

    pub(super) fn prospect(&self) -> Prospect {
        let held = self.held.iter().map(|holding| holding.conn);
        let known = self.idle.iter().copied().chain(held).filter(|&conn| !self.in_doubt(conn));
        let proofs: Vec<Time> = known.map(|conn| self.conns[conn as usize].fresh_at).collect();
        match &self.failing {
            _ if self.closed => Prospect::Closed,
            _ if self.paused => Prospect::Paused,
            Some(failing) if proofs.iter().all(|&at| at < failing.began) => {
                Prospect::Failing(self.now.since(failing.began))
            }
            _ if self.open(0) == 0 => Prospect::Empty,
            _ => Prospect::Ready,
        }
    }

    /// From when on callers fail at once.
    pub(super) fn hopeless_from(&self) -> Time {
        match &self.failing {
            Some(_) if self.open(0) > 0 || !self.serving() => Time::NEVER,
            Some(failing) if failing.permanent => Time::START,
            Some(failing) => failing.fails_fast_from,
            None => Time::NEVER,
        }
    }

    pub(super) fn is_hopeless(&self) -> bool {
        self.now >= self.hopeless_from()
    }

    pub(super) fn fails_for_good(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.permanent)
    }

    pub(super) fn limit(&self, call: &Call) -> Time {
        let policy = &self.policy;
        match call.what {
            What::Connect => call.since.after(policy.open_limit),
            What::Close => call.since.after(policy.close_limit),
            What::Check(Check { begin: true, .. }, _) => call.since.after(policy.validation_limit),
            What::Check(check, _) => {
                let reset = u32::from(check.reset || check.end);
                let rest = u32::from(check.end) + u32::from(check.validate);
                let validations = policy.validation_limit.saturating_mul(rest);
                call.since.after(policy.reset_limit.saturating_mul(reset)).after(validations)
            }
        }
    }

    pub(super) fn note(&mut self, step: Step<u8>) {
        self.steps.push(Entry { at: self.now, step });
    }

    /// Returns the state before.
    pub(super) fn put(&mut self, slot: u32, to: ConnectionState) -> ConnectionState {
        self.states.insert(slot, to).unwrap_or(ConnectionState::Gone)
    }

    pub(super) fn note_move(
        &mut self,
        slot: u32,
        conn: Option<u32>,
        to: ConnectionState,
        reason: Option<Reason>,
    ) {
        let from = self.put(slot, to);
        if from == to {
            return; // A use begins after a check.
        }
        self.note(Step::Moved { connection: connection_ref(slot, conn), from, to, reason });
    }

    pub(super) fn note_move_of(&mut self, conn: u32, to: ConnectionState, reason: Option<Reason>) {
        self.note_move(self.conns[conn as usize].permit, Some(conn), to, reason);
    }

    /// Of a connection that a connect or an abandoned call brought.
    pub(super) fn unfit_new(&self, generation: u32, too_many: bool) -> Option<Reason> {
        match () {
            () if self.closed => Some(Reason::PoolClosed),
            () if generation != self.generation => Some(Reason::Stale),
            () if too_many => Some(Reason::Excess),
            () => None,
        }
    }

    /// Of a connection that was in use or checked.
    pub(super) fn unfit(&self, conn: u32) -> Option<Reason> {
        let too_many = self.open(0) + self.opening() > self.policy.max_size;
        let may_end = || self.is_past_its_life(conn) || self.may_end_old(1);
        let ends = || self.conns[conn as usize].old && may_end();
        match () {
            () if self.closed => Some(Reason::PoolClosed),
            () if too_many => Some(Reason::Excess),
            () if ends() => Some(self.reason_of_age(conn)),
            () => None,
        }
    }

    pub(super) fn reason_of_age(&self, conn: u32) -> Reason {
        match self.conns[conn as usize].generation == self.generation {
            true => Reason::Expired,
            false => Reason::Stale,
        }
    }

    /// How many of the open connections are to be replaced.
    pub(super) fn old(&self) -> u32 {
        self.conns.iter().filter(|facts| facts.old).count() as u32
    }

    /// It ends as soon as nobody needs it, with or without a successor.
    pub(super) fn is_past_its_life(&self, conn: u32) -> bool {
        let facts = &self.conns[conn as usize];
        self.policy.ends_on_time && facts.old && facts.generation == self.generation
    }

    /// How many connections stay idle, however long they are.
    pub(super) fn kept_idle(&self) -> u32 {
        if self.policy.ends_on_time { 0 } else { self.kept() }
    }

    /// How many connections should be idle.
    pub(super) fn kept(&self) -> u32 {
        let max_size = self.policy.max_size;
        let most = self.policy.max_idle.unwrap_or(max_size);
        self.policy.min_idle.unwrap_or(max_size).min(most)
    }

    /// Whether an old connection may end: its successor is there, or there is no room for
    /// one. `back` comes back just now, and would be idle too.
    pub(super) fn may_end_old(&self, back: u32) -> bool {
        let full = self.open(0) >= self.policy.max_size;
        match self.succession {
            Succession::Ready => full || self.idle.len() as u32 + back > self.kept(),
            Succession::None => full && self.failing.is_none() && self.opening() == 0,
            _ => false,
        }
    }

    pub(super) fn idle_until(&self, conn: u32) -> Time {
        let facts = &self.conns[conn as usize];
        facts.idle_since.after_opt(facts.idle_time)
    }
}

pub(super) fn connection_ref(slot: u32, conn: Option<u32>) -> ConnectionRef {
    let (connection_id, backend_id) =
        conn.map_or((0, 0), |conn| (Toy::connection_id(&conn), Toy::backend_id(&conn)));
    ConnectionRef { slot, backend_id, connection_id }
}
