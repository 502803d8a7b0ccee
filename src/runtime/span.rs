//! A `tracing` span around a get that waits, in the caller's own trace.

use std::time::Duration;

use tracing::field::{self, Empty};
use tracing::span::EnteredSpan;
use tracing::{Span, info_span};

use super::logger::{Logger, millis};
use crate::types::text::plain;
use crate::types::{CallSite, Caller, Error, Place};

const WHAT: &str = "a tracing subscriber";

/// The span of one wait of a thread. Each step runs the subscriber's code. The waiter may already have
/// a connection, which a panic in that code must not lose.
pub(crate) struct WaitSpan(Option<EnteredSpan>);

impl WaitSpan {
    /// Opens the span within the span that the caller is in.
    pub(crate) fn begin(logger: &Logger, pool: &str, caller: &Caller, get_id: u64) -> WaitSpan {
        let begin = || open(pool, caller, get_id).entered();
        WaitSpan(logger.catch_panic(WHAT, begin).ok())
    }

    pub(crate) fn record(
        &self,
        logger: &Logger,
        waited: Duration,
        connection_id: Option<u64>,
        error: Option<&Error>,
    ) {
        let Some(span) = &self.0 else { return };
        let _ = logger.catch_panic(WHAT, || record(span, waited, connection_id, error));
    }

    pub(crate) fn end(self, logger: &Logger) {
        let _ = logger.catch_panic(WHAT, || drop(self.0));
    }
}

/// The span of one wait of a task. It is not entered: a task moves between threads, and while
/// it waits its thread does something else.
pub(crate) struct TaskSpan(Option<Span>);

impl TaskSpan {
    /// Opens the span within the span that the first poll is in.
    pub(crate) fn begin(logger: &Logger, pool: &str, caller: &Caller, get_id: u64) -> TaskSpan {
        TaskSpan(logger.catch_panic(WHAT, || open(pool, caller, get_id)).ok())
    }

    pub(crate) fn end(
        &mut self,
        logger: &Logger,
        waited: Duration,
        connection_id: Option<u64>,
        error: Option<&Error>,
    ) {
        let Some(span) = self.0.take() else { return };
        let _ = logger.catch_panic(WHAT, || record(&span, waited, connection_id, error));
        let _ = logger.catch_panic(WHAT, || drop(span));
    }
}

fn open(pool: &str, caller: &Caller, get_id: u64) -> Span {
    let call_site = CallSite::from(caller);
    let (pool, label) = (plain(pool), call_site.label().map(plain));
    info_span!(
        target: "fairpool",
        "fairpool.get",
        pool = &*pool,
        get_id,
        location = %Place(call_site.location()),
        label = label.as_deref(),
        priority = call_site.priority(),
        connection_id = Empty,
        waited_ms = Empty,
        outcome = Empty,
    )
}

fn record(span: &Span, waited: Duration, connection_id: Option<u64>, error: Option<&Error>) {
    span.record("waited_ms", millis(waited));
    connection_id.inspect(|id| {
        span.record("connection_id", id);
    });
    match error {
        None => span.record("outcome", "checked_out"),
        Some(error) => span.record("outcome", field::display(error.kind())),
    };
}
