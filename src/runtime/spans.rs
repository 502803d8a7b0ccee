//! Spans around gets that wait, so that they are seen in the caller's own trace.

use std::time::Duration;

use tracing::field::{self, Empty};
use tracing::info_span;
use tracing::span::EnteredSpan;

use crate::types::caller::{Caller, CallSite};
use crate::core::WaiterId;
use crate::types::error::Error;
use crate::types::manage::ManageConnection;
use crate::runtime::notices::millis;
use crate::runtime::shared::Shared;

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
        let call_site = CallSite::from(caller);
        let begin = || {
            let span = info_span!(
                target: "fairpool",
                "fairpool.get",
                pool = &*shared.config.name,
                get_id = id.get_id(),
                location = %call_site.location(),
                label = call_site.label(),
                priority = call_site.priority(),
                connection_id = Empty,
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
                span.record("connection_id", id);
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
