//! How a caller waits, and leaves in time.

use std::time::{Duration, Instant};

use log::Level;

use crate::types::caller::{self, Caller, NestedGet, CallSite};
use crate::types::cancel::{CancelToken, Registration};
use crate::runtime::conn::{Conn, Kind};
use crate::core::{Answer, Effects, Lease, NestedWait, Time, Waiter, WaiterId};
use crate::types::error::{Cause, Error, ErrorKind, Report};
use crate::types::event::TimeoutEvent;
use crate::types::manage::ManageConnection;
use crate::runtime::notices::millis;
use crate::api::guard::PooledConnection;
use crate::runtime::shared::{PoolCore, Shared};
use crate::sync::{Arc, Condvar, Mutex};
use crate::types::times::Timed;

/// Where a waiter finds its answer.
///
/// It is filled under the pool's lock, together with the decision, so that a
/// waiter that gives up under the pool's lock knows for certain whether it was
/// answered before. The waiter itself does not need the pool's lock to read it.
pub(crate) struct WaitCell<M: ManageConnection> {
    answer: Mutex<Option<Answer<Kind<M>>>>,
    filled: Condvar,
}

impl<M: ManageConnection> WaitCell<M> {
    fn new() -> WaitCell<M> {
        WaitCell { answer: Mutex::new(None), filled: Condvar::new() }
    }

    /// Called under the pool's lock. A later answer replaces a nudge that was
    /// not taken yet; nothing ever replaces another answer, since whoever got
    /// one is out of the queue.
    pub(crate) fn fill(&self, answer: Answer<Kind<M>>) {
        let replaced = self.answer.lock().replace(answer);
        debug_assert!(matches!(replaced, None | Some(Answer::Nudged)), "BUG: answered twice");
    }

    /// Called after the pool's lock was released. The wake-up cannot be lost:
    /// the waiter looks into the cell under the cell's lock before it sleeps,
    /// and the cell was filled before this call.
    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Waits for an answer. `None`: the deadline has come first.
    fn wait_until(&self, deadline: Option<Instant>) -> Option<Answer<Kind<M>>> {
        let mut answer = self.answer.lock();
        while answer.is_none() {
            match deadline {
                None => self.filled.wait(&mut answer),
                Some(at) => {
                    if self.filled.wait_until(&mut answer, at).timed_out() {
                        break;
                    }
                }
            }
        }
        answer.take()
    }
}

/// What one caller wants.
pub(crate) struct Ask<'a> {
    pub(crate) caller: Caller,
    pub(crate) start: Time,
    pub(crate) deadline: Time,
    pub(crate) cancel: Option<&'a CancelToken>,
    /// Waits for the check of an idle connection, but not for an open.
    pub(crate) only_idle: bool,
}

type Got<M> = Lease<Conn<M>>;

enum First<M: ManageConnection> {
    Got(Got<M>),
    /// By way of the queue, but without a wait.
    Claimed(Got<M>),
    Waiting(WaiterId, Arc<WaitCell<M>>),
    Refused(ErrorKind, Box<Report>, Option<Cause>),
}

/// A checkout that finds others waiting, or nothing idle.
pub(crate) fn get<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
) -> Result<PooledConnection<M>, Error> {
    if let Some(lease) = shared.quick(|core| core.overtake(ask.start, ask.caller)) {
        return Ok(PooledConnection::new(shared, lease, ask.start));
    }
    let got = checkout(shared, ask);
    finish(shared, ask, got)
}

/// A checkout that the fast paths could not serve.
#[cold]
pub(crate) fn checkout<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
) -> Result<Got<M>, Error> {
    match shared.transition(|core, now, fx| ask_once(shared, core, now, ask, fx)) {
        First::Got(lease) => Ok(lease),
        First::Claimed(lease) => {
            shared.times.record(Timed::Wait, Duration::ZERO, 1);
            Ok(lease)
        }
        First::Refused(kind, report, cause) => Err(refusal(ask, kind, *report, cause)),
        First::Waiting(id, cell) => wait_and_tell(shared, ask, id, &cell),
    }
}

/// Makes a guard of what a caller got, or tells the handler that it got nothing
/// in time.
fn finish<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
    got: Result<Got<M>, Error>,
) -> Result<PooledConnection<M>, Error> {
    match got {
        Ok(lease) => Ok(PooledConnection::new(shared, lease, ask.start)),
        Err(error) => {
            if let (true, Some(handler)) = (error.is_timeout(), &shared.config.event_handler) {
                let event = TimeoutEvent { timeout: ask.deadline.since(ask.start) };
                let _ = shared.contain("handle_timeout", || handler.handle_timeout(event));
            }
            Err(error)
        }
    }
}

/// Takes what is there, or joins the queue. A caller that has no time leaves it
/// again at once; it has made its need known, for those who come after.
fn ask_once<M: ManageConnection>(
    shared: &Shared<M>,
    core: &mut PoolCore<M>,
    now: Time,
    ask: &Ask<'_>,
    fx: &mut Effects<Kind<M>>,
) -> First<M> {
    if let Some(lease) = core.acquire(now, ask.caller.priority(), ask.caller, fx) {
        return First::Got(lease);
    }
    let report = |core: &mut PoolCore<M>, kind| {
        let (report, cause) = shared.report(core, now, ask.start);
        First::Refused(kind, Box::new(report), cause)
    };
    if ask.only_idle && !core.may_await_check(now, ask.caller.priority()) {
        return report(core, ErrorKind::Timeout);
    }
    let cell = Arc::new(WaitCell::new());
    let waiter = Waiter {
        since: now,
        priority: ask.caller.priority(),
        caller: ask.caller,
        cell: Arc::clone(&cell),
        only_idle: ask.only_idle,
        // One that does not really wait does not wait for itself either.
        nested: !ask.only_idle && ask.deadline > now && caller::may_hold(),
    };
    match core.join(waiter, fx) {
        Err(kind) => report(core, kind),
        Ok(id) if ask.deadline <= now => match core.claim(now, id, fx) {
            Some(lease) => First::Claimed(lease),
            None if core.leave(now, id, ErrorKind::Timeout, fx) => report(core, ErrorKind::Timeout),
            None => First::Waiting(id, cell),
        },
        Ok(id) => First::Waiting(id, cell),
    }
}

/// Waits, and tells of it: how long it took, and whether that was too long. It tells
/// on the caller's thread, and so within the caller's own trace.
fn wait_and_tell<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
    id: WaiterId,
    cell: &WaitCell<M>,
) -> Result<Got<M>, Error> {
    shared.keep_probing();
    #[cfg(feature = "tracing")]
    let span = crate::runtime::spans::Waiting::begin(shared, ask.caller, id);
    let got = wait(shared, ask, id, cell);
    let now = shared.clock.now();
    let waited = now.since(ask.start);
    shared.times.record(Timed::Wait, waited, 1);
    let connection = got.as_ref().map(|lease| lease.conn.id).ok();
    #[cfg(feature = "tracing")]
    span.note(shared, waited, connection, got.as_ref().err());
    if let Some(slow) = shared.config.slow_get_threshold
        && waited >= slow
        && let Some(more) = shared.slow_gets.report(now)
    {
        say_slow(shared, ask, id, waited, connection, more);
    }
    #[cfg(feature = "tracing")]
    span.end(shared);
    got
}

#[cold]
fn say_slow<M: ManageConnection>(
    shared: &Shared<M>,
    ask: &Ask<'_>,
    id: WaiterId,
    waited: Duration,
    connection: Option<u64>,
    more: u64,
) {
    let call_site = CallSite::from(ask.caller);
    let location = call_site.location().to_string();
    let facts = [
        ("get_id", id.get_id().into()),
        ("thread", call_site.thread().into()),
        ("location", location.as_str().into()),
        ("waited_ms", millis(waited).into()),
        ("connection_id", connection.unwrap_or_default().into()),
    ];
    let outcome = if connection.is_some() { "got a connection" } else { "got none" };
    let others = match more {
        0 => String::new(),
        more => format!("; {more} more were slow since that was last said"),
    };
    let what = format_args!("slow get: {call_site} {outcome} after {waited:.1?}{others}");
    shared.say(Level::Warn, &facts, what);
}

fn wait<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
    id: WaiterId,
    cell: &WaitCell<M>,
) -> Result<Got<M>, Error> {
    let deadline = shared.clock.instant_of(ask.deadline);
    // Dropped on every way out, so that a token does not collect dead waits.
    let _registration = ask.cancel.map(|token| listen(shared, token, id));
    loop {
        let until = shared.reaper.sleep_limit(deadline);
        match cell.wait_until(until) {
            Some(Answer::Granted(lease)) => return Ok(lease),
            Some(Answer::Nudged) => {
                if let Some(lease) = shared.transition(|core, now, fx| core.claim(now, id, fx)) {
                    return Ok(lease);
                }
            }
            Some(Answer::Failed(kind, cause)) => return Err(ended(shared, ask, kind, cause)),
            Some(Answer::SelfDeadlock(waits)) => return Err(deadlocked(shared, ask, waits)),
            None if until != deadline => shared.reaper.ensure(shared),
            None => match give_up(shared, ask, id) {
                Some(end) => return end,
                // Answered in the same instant: decided under the lock, so the
                // answer is in the cell, and it beats the deadline.
                None => debug_assert!(cell.answer.lock().is_some(), "BUG: left without an answer"),
            },
        }
    }
}

/// Leaves the queue at the deadline, unless an answer was quicker (`None`), or
/// an idle connection is there after all: whoever was nudged for it may be slow.
fn give_up<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
    id: WaiterId,
) -> Option<Result<Got<M>, Error>> {
    let (lease, left) = shared.transition(|core, now, fx| {
        let lease = core.claim(now, id, fx);
        // Asked before this one leaves: it may be among them.
        let waits = core.self_deadlock(now);
        let left = lease.is_none() && core.leave(now, id, ErrorKind::Timeout, fx);
        let report = left.then(|| {
            let (mut report, cause) = shared.report(core, now, ask.start);
            report.nested = waits.into_iter().map(NestedGet::from).collect();
            (report, cause)
        });
        (lease, report)
    });
    match (lease, left) {
        (Some(lease), _) => Some(Ok(lease)),
        (None, Some((report, cause))) => Some(Err(refusal(ask, ErrorKind::Timeout, report, cause))),
        (None, None) => None,
    }
}

/// Has the waiter leave when its token is cancelled, now if it was before.
fn listen<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    token: &CancelToken,
    id: WaiterId,
) -> Option<Registration> {
    let cancel = move |shared: &Arc<Shared<M>>| {
        shared.transition(|core, now, fx| core.leave(now, id, ErrorKind::Cancelled, fx));
    };
    let listener = Arc::clone(shared);
    let registration = token.register(Box::new(move || cancel(&listener)));
    if registration.is_none() {
        cancel(shared);
    }
    registration
}

fn ended<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
    kind: ErrorKind,
    cause: Option<Cause>,
) -> Error {
    let (report, met) = shared.transition(|core, now, _| shared.report(core, now, ask.start));
    refusal(ask, kind, report, cause.or(met))
}

fn deadlocked<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
    waits: Vec<NestedWait<Caller>>,
) -> Error {
    let (mut report, met) = shared.transition(|core, now, _| shared.report(core, now, ask.start));
    report.nested = waits.into_iter().map(NestedGet::from).collect();
    refusal(ask, ErrorKind::SelfDeadlock, report, met)
}

/// The request was cancelled before it began.
pub(crate) fn cancelled_before<M: ManageConnection>(
    shared: &Arc<Shared<M>>,
    ask: &Ask<'_>,
) -> Error {
    shared.transition(|core, now, _| core.refuse_cancelled(now, ask.caller));
    ended(shared, ask, ErrorKind::Cancelled, None)
}

fn refusal(ask: &Ask<'_>, kind: ErrorKind, report: Report, cause: Option<Cause>) -> Error {
    let waited = report.waited;
    let mut message = match kind {
        ErrorKind::Timeout => format!("timed out after {waited:.1?} waiting for a connection"),
        ErrorKind::Closed => "the pool is closed".to_string(),
        ErrorKind::QueueFull => "too many callers wait for a connection".to_string(),
        ErrorKind::Cancelled => format!("cancelled after {waited:.1?} waiting for a connection"),
        ErrorKind::Connect => "connecting fails and cannot succeed as configured".to_string(),
        ErrorKind::SelfDeadlock => format!("deadlock after {waited:.1?} waiting for a connection"),
        ErrorKind::Config => unreachable!("BUG: a caller was refused for a setting"),
    };
    if let Some(label) = ask.caller.label() {
        message.push_str(&format!(" ({label})"));
    }
    Error::new(kind, message, report, cause)
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::*;
    use crate::types::config::Fairness;
    use crate::stub::StubManager;
    use crate::api::pool::Pool;

    /// One of priority 10 has waited too long to be overtaken, but one of priority 1
    /// comes first, which has only just come: so whoever has no time joins the queue,
    /// serves the two, and takes what is left.
    #[test]
    fn a_get_without_time_that_claims_counts_once() {
        let pool = Pool::builder()
            .max_size(3)
            .fairness(Fairness::Bounded(Duration::from_nanos(1)))
            .priority_ageing(Duration::from_secs(3600))
            .build(StubManager)
            .expect("a stub");
        let shared = &pool.shared;
        let soon = shared.clock.now().after(Duration::from_secs(3600));
        let cells = [(Time::START, 10), (soon, 1)].map(|(since, priority)| {
            let caller = Caller::here(Location::caller(), None, priority);
            let cell = Arc::new(WaitCell::new());
            let waiter = Waiter {
                since,
                priority,
                caller,
                cell: Arc::clone(&cell),
                only_idle: false,
                nested: false,
            };
            // They find nothing yet, so that both are in the queue.
            shared.transition(|core, _, fx| {
                core.pause();
                assert!(core.join(waiter, fx).is_ok());
            });
            cell
        });
        shared.quick(|core| core.unpause());
        let got = pool.request().priority(255).timeout(Duration::ZERO).get();
        let got = got.expect("the third connection");
        let others = cells.map(|cell| match cell.answer.lock().take() {
            Some(Answer::Granted(lease)) => PooledConnection::new(shared, lease, soon),
            _ => panic!("it was not served"),
        });
        let stats = pool.stats();
        assert_eq!((stats.gets, stats.gets_waited, stats.timeouts), (3, 3, 0));
        // Those two are not awake yet to count their waits.
        #[cfg(feature = "histograms")]
        assert_eq!((stats.times.wait.count, stats.times.wait.max), (1, Duration::ZERO));
        drop((got, others));
    }
}
