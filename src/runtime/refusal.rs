//! Why a get fails: collected under the pool's lock, worded outside it.

use std::time::Duration;

use super::shared::{PoolCore, Shared};
use crate::core::{NestedWait, Time};
use crate::sync::Arc;
use crate::types::text::Plain;
use crate::types::{Caller, Cause, Error, ErrorKind, Holder, ManageConnection, NestedGet, Report};

/// Why a get fails, with the state of the pool at that time.
pub(crate) struct Refusal {
    kind: ErrorKind,
    /// The pool's state when the caller gave up.
    report: Box<Report>,
    /// The driver's error that occurred during the wait, or because of which there was no wait.
    cause: Option<Cause>,
    /// Connecting cannot succeed as configured.
    permanent: bool,
    /// For how long connecting has failed.
    failing_for: Option<Duration>,
}

impl Refusal {
    /// Collects the pool's state, under its lock, for a get that began at `start`.
    pub(crate) fn collect<M: ManageConnection>(
        shared: &Shared<M>,
        core: &mut PoolCore<M>,
        kind: ErrorKind,
        now: Time,
        start: Time,
    ) -> Refusal {
        let is_connect = kind == ErrorKind::Connect;
        let (earlier, cause) = match core.last_error() {
            Some((at, cause)) if at >= start || is_connect => (None, Some(cause)),
            Some((at, cause)) => (Some((start.since(at), cause)), None),
            None => (None, None),
        };
        let report = Report {
            earlier,
            pool: Arc::clone(&shared.config.name),
            waited: now.since(start),
            gauges: core.gauges(),
            longest: core.longest_holder(now).map(Holder::from),
            nested: core.self_deadlock(now).into_iter().map(NestedGet::from).collect(),
            slowest: core.slowest_call(now).map(|(call, since)| (call, now.since(since))),
            paused: core.is_paused(),
            retry_after: is_connect.then(|| core.retry_after(now)),
        };
        let (permanent, failing_for) = (core.fails_permanently(), core.failing_for(now));
        Refusal { kind, report: Box::new(report), cause, permanent, failing_for }
    }

    /// As [`collect`](Refusal::collect), for callers that do not hold the lock.
    pub(crate) fn of<M: ManageConnection>(
        shared: &Arc<Shared<M>>,
        kind: ErrorKind,
        start: Time,
    ) -> Refusal {
        shared.transition_here(|core, fx| Refusal::collect(shared, core, kind, fx.now, start))
    }

    /// Adds the threads of a self-deadlock.
    pub(crate) fn with_nested(mut self, nested: Vec<NestedWait<Caller>>) -> Refusal {
        self.report.nested = nested.into_iter().map(NestedGet::from).collect();
        self
    }

    /// Replaces the cause by a more exact one, if there is one. Must be called outside the
    /// lock, because it drops the other cause.
    pub(crate) fn caused_by(mut self, cause: Option<Cause>) -> Refusal {
        self.cause = cause.or(self.cause);
        self
    }

    /// The error of a get with this label.
    pub(crate) fn into_error(self, label: Option<&str>) -> Error {
        let waited = self.report.waited;
        let mut message = match self.kind {
            ErrorKind::Timeout => format!("timed out after {waited:.1?} waiting for a connection"),
            ErrorKind::Closed => "the pool is closed".to_string(),
            ErrorKind::QueueFull => "too many callers wait for a connection".to_string(),
            ErrorKind::Cancelled => {
                format!("cancelled after {waited:.1?} waiting for a connection")
            }
            ErrorKind::Connect => self.why_no_connect(),
            ErrorKind::UseHandler => "the use handler did not begin the use".to_string(),
            ErrorKind::SelfDeadlock => {
                format!("deadlock after {waited:.1?} waiting for a connection")
            }
            ErrorKind::Config | ErrorKind::Forked => {
                unreachable!("BUG: the core refused a get as {}", self.kind)
            }
        };
        if let Some(label) = label {
            message.push_str(&format!(" ({})", Plain(label)));
        }
        Error::new(self.kind, message, *self.report, self.cause)
    }

    fn why_no_connect(&self) -> String {
        let again = self.report.retry_after.unwrap_or_default();
        match self.failing_for {
            Some(_) if self.permanent => {
                "connecting fails and cannot succeed as configured".to_string()
            }
            Some(time) => {
                format!("connecting has failed for {time:.1?}; the next try is due in {again:.1?}")
            }
            None => "connecting failed until a moment ago".to_string(),
        }
    }

    /// The error of a pool that could not open its first `wanted` connections.
    pub(crate) fn into_build_error(mut self, wanted: u32) -> Error {
        self.report.retry_after = None;
        let how = match self.kind {
            ErrorKind::Connect => "connecting cannot succeed as configured".to_string(),
            _ => format!("timed out after {:.1?}", self.report.waited),
        };
        let message = format!("cannot open {wanted} connections: {how}");
        Error::new(self.kind, message, *self.report, self.cause)
    }
}
