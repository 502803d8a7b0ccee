//! Serialisation. Times become seconds, the unit that most readers of JSON expect.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::types::caller::CallSite;
use crate::types::holder::{Holder, NestedGet, Waiter};

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

/// The fields of a [`CallSite`].
#[derive(Serialize)]
struct CallSiteFields<'a> {
    thread: &'a str,
    location: String,
    label: Option<&'a str>,
    priority: u8,
}

impl<'a> CallSiteFields<'a> {
    fn of(call_site: &'a CallSite) -> CallSiteFields<'a> {
        CallSiteFields {
            thread: call_site.thread(),
            location: call_site.location().to_string(),
            label: call_site.label(),
            priority: call_site.priority(),
        }
    }
}

/// With `thread`, `location` ("file:line:column"), `label` and `priority`.
impl Serialize for CallSite {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        CallSiteFields::of(self).serialize(to)
    }
}

/// As [`CallSite`], with `connection_id` and `held_for` in seconds.
impl Serialize for Holder {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            connection_id: u64,
            held_for: f64,
            #[serde(flatten)]
            call_site: CallSiteFields<'a>,
        }
        let view = View {
            connection_id: self.connection_id(),
            held_for: self.held_for().as_secs_f64(),
            call_site: CallSiteFields::of(self.call_site()),
        };
        view.serialize(to)
    }
}

/// As [`CallSite`], with `get_id` and `waited` in seconds.
impl Serialize for Waiter {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            get_id: u64,
            waited: f64,
            #[serde(flatten)]
            call_site: CallSiteFields<'a>,
        }
        let view = View {
            get_id: self.get_id(),
            waited: self.waited().as_secs_f64(),
            call_site: CallSiteFields::of(self.call_site()),
        };
        view.serialize(to)
    }
}

/// With `holder` and `waits_at` ("file:line:column").
impl Serialize for NestedGet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            holder: &'a Holder,
            waits_at: String,
        }
        View { holder: self.holder(), waits_at: self.waits_at().to_string() }.serialize(to)
    }
}
