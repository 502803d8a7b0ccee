//! Spans around gets that wait, so that they are seen in the caller's own trace.

use std::time::Duration;

use tracing::field::{self, Empty};
use tracing::info_span;
use tracing::span::EnteredSpan;

use crate::caller::{Caller, Origin};
use crate::core::WaiterId;
use crate::error::Error;
use crate::manage::ManageConnection;
use crate::notices::millis;
use crate::shared::Shared;

const WHAT: &str = "a tracing subscriber";

/// The span of one wait. Each step of it runs the subscriber's code, and the waiter
/// may have a connection by then: a panic must not lose that.
pub(crate) struct Waiting(Option<EnteredSpan>);

impl Waiting {
    /// Opened where the caller is: it becomes a part of the span that the caller is in.
    pub(crate) fn begin<M: ManageConnection>(
        shared: &Shared<M>,
        caller: Caller,
        id: WaiterId,
    ) -> Waiting {
        let origin = Origin::from(caller);
        let begin = || {
            let span = info_span!(
                target: "fairpool",
                "fairpool.get",
                pool = &*shared.config.name,
                waiter = id.number(),
                location = %origin.location(),
                label = origin.label(),
                priority = origin.priority(),
                connection = Empty,
                waited_ms = Empty,
                outcome = Empty,
            );
            span.entered()
        };
        Waiting(shared.contain(WHAT, begin).ok())
    }

    pub(crate) fn note<M: ManageConnection>(
        &self,
        shared: &Shared<M>,
        waited: Duration,
        connection: Option<u64>,
        error: Option<&Error>,
    ) {
        let Some(span) = &self.0 else { return };
        let note = || {
            span.record("waited_ms", millis(waited));
            connection.inspect(|id| {
                span.record("connection", id);
            });
            match error {
                None => span.record("outcome", "acquired"),
                Some(error) => span.record("outcome", field::debug(error.kind())),
            };
        };
        let _ = shared.contain(WHAT, note);
    }

    pub(crate) fn end<M: ManageConnection>(self, shared: &Shared<M>) {
        let _ = shared.contain(WHAT, || drop(self.0));
    }
}
