//! What obeys the state machine: the lock, waiting callers, worker threads, the reaper.

pub(crate) mod conn;
pub(crate) mod health;
pub(crate) mod notices;
pub(crate) mod reaper;
pub(crate) mod shared;
#[cfg(feature = "tracing")]
pub(crate) mod spans;
pub(crate) mod subscribers;
pub(crate) mod threads;
pub(crate) mod wait;
pub(crate) mod workers;
