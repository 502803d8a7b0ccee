//! What obeys the state machine: the lock, waiting callers, the pool's threads, the
//! driver calls, and the delivery of events.
//!
//! From the bottom up: the parts (`conn`, `threads`, `executor`, …), then
//! `shared`, which is made of them and has the lock, then what acts on a pool.

pub(crate) mod announce;
pub(crate) mod close;
pub(crate) mod conn;
pub(crate) mod driver_calls;
pub(crate) mod executor;
pub(crate) mod executor_handle;
pub(crate) mod health;
pub(crate) mod host;
pub(crate) mod logger;
pub(crate) mod notifications;
pub(crate) mod probe;
pub(crate) mod publish;
pub(crate) mod refusal;
pub(crate) mod scheduler;
pub(crate) mod shared;
#[cfg(feature = "tracing")]
pub(crate) mod span;
pub(crate) mod subscribers;
pub(crate) mod task_wait;
pub(crate) mod threads;
pub(crate) mod use_sampler;
pub(crate) mod wait;
