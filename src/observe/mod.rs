//! Observes a pool: snapshots, readings for exporters, the diagnosis.

pub(crate) mod diagnosis;
mod dump;
pub(crate) mod groups;
pub(crate) mod reading;
pub(crate) mod snapshot;
