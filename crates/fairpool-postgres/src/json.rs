//! Serialises times as seconds, like the pool's own snapshots.

use std::time::Duration;

use serde::{Serialize, Serializer};

pub(crate) fn seconds_or_none<S: Serializer>(
    span: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs_f64()).serialize(to)
}
