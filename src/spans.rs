//! Spans around gets that wait, so that they are seen in the caller's own trace.

use std::time::Duration;

use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::caller::{Caller, Origin};
use crate::error::Error;
use crate::notices::millis;

/// Opened where the caller is: it becomes a part of the span that the caller is in.
pub(crate) fn wait(pool: &str, caller: &Caller, waiter: u64) -> Span {
    let origin = Origin::from(*caller);
    info_span!(
        target: "fairpool",
        "fairpool.get",
        pool,
        waiter,
        location = %origin.location(),
        label = origin.label(),
        priority = origin.priority(),
        connection = Empty,
        waited_ms = Empty,
        outcome = Empty,
    )
}

pub(crate) fn end(span: &Span, waited: Duration, connection: Option<u64>, error: Option<&Error>) {
    span.record("waited_ms", millis(waited));
    connection.inspect(|id| {
        span.record("connection", id);
    });
    match error {
        None => span.record("outcome", "acquired"),
        Some(error) => span.record("outcome", tracing::field::debug(error.kind())),
    };
}
