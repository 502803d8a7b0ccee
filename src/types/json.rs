//! Serialisation. Times become seconds, the unit that most readers of JSON expect.

use std::panic::Location;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::thread::Name;

pub(crate) fn seconds<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(span.as_secs_f64())
}

pub(crate) fn seconds_or_none<S: Serializer>(
    span: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs_f64()).serialize(to)
}

pub(crate) fn unix_time<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    to.serialize_f64(since.as_secs_f64())
}

pub(crate) fn thread<S: Serializer>(name: &Name, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(name.as_str())
}

pub(crate) fn location<S: Serializer>(at: &Location<'_>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}
