//! A fair, bounded and observable connection pool for blocking drivers.
//!
//! A thread gets a connection from the pool, and returns it by dropping it. If no
//! connection is free, callers wait in the order in which they came, each until its own
//! deadline at most. A caller that gets none gets an error that names the holders of the
//! connections (the thread, the line, for how long); the driver's error is its source.
//!
//! ```
//! use std::thread;
//! use std::time::Duration;
//!
//! use fairpool::Pool;
//! # use fairpool_testing::StubManager as Manager;
//!
//! // `Manager` is the driver's: `SqliteConnectionManager` of `fairpool-sqlite`, for example.
//! let pool = Pool::builder().max_size(4).build(Manager)?;
//!
//! thread::scope(|scope| {
//!     for _ in 0..16 {
//!         let pool = &pool;
//!         scope.spawn(move || match pool.get_timeout(Duration::from_secs(1)) {
//!             Ok(_conn) => {} // use it; it returns to the pool when it is dropped
//!             Err(error) => eprintln!("{error:#}"), // names who holds the connections, and the cause
//!         });
//!     }
//! });
//!
//! assert_eq!(pool.stats().gets, 16);
//! # Ok::<(), fairpool::Error>(())
//! ```
//!
//! # What is here
//!
//! - [`Pool`] hands out [`PooledConnection`]s. [`Pool::builder`] sets up a pool,
//!   [`Pool::request`] a single get, with a priority or a [`CancelToken`] for example.
//!   [`Pool::get_async`] is for tasks of an async service.
//! - [`ManageConnection`] is what a driver implements. It is `r2d2`'s trait with
//!   additions, so managers for `r2d2` are easy to port.
//! - [`Error`] explains why a get failed, [`Stats`](stats::Stats) counts what happens in
//!   the pool, and [`CloseReport`] lists what was left when it closed.
//! - [`Pool::snapshot`] lists the holders and the waiters, [`Pool::diagnose`] finds what
//!   is wrong, [`Pool::health`] rates how long callers wait, and [`Pool::subscribe`]
//!   delivers events. [`WeakPool`] offers the same without keeping the pool alive.
//! - [`CustomizeConnection`], [`HandleError`], [`HandleEvent`] and [`HandleUse`] are hooks. The last
//!   one sets each connection to what its caller may do, such as a tenant.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `histograms` (default) | distributions of the times of waits, uses, connects, checks and closes |
//! | `serde` | serialisation of snapshots, statistics and diagnoses |
//! | `tracing` | a span around each get that waits, in the caller's trace |
//! | `simulation` | the module `simulation`, which tries out settings in virtual time |
//!
//! Drivers and exporters are packages of their own:
//!
//! | package | holds |
//! |---|---|
//! | `fairpool-postgres` | a manager for the blocking `postgres` crate: statements stay prepared, transactions run again, who waits for whom, advice |
//! | `fairpool-mysql` | a manager for the blocking `mysql` crate, for MySQL and MariaDB |
//! | `fairpool-sqlite` | a manager for `rusqlite`, and one writer with many readers |
//! | `fairpool-r2d2` | managers and hooks that were written for `r2d2` |
//! | `fairpool-tokio` | closures with connections in async services, on top of [`Pool::get_async`] |
//! | `fairpool-prometheus`, `fairpool-opentelemetry` | metrics |
//! | `fairpool-metrics` | the names and units of the metrics, for other exporters |
//! | `fairpool-trace` | recordings for Perfetto and chrome://tracing |
//! | `fairpool-inspect` | a small web server that shows what pools do |
//! | `fairpool-testing` | managers that fail, hang and panic, for tests |
//!
//! # What runs where
//!
//! A caller's thread never calls the driver's `connect`, `reset` or close, and calls `is_valid`
//! only if the driver keeps a limit of its own
//! ([`checks_within_limit`](ManageConnection::checks_within_limit)). Otherwise these run on worker
//! threads, which start on demand and end when they have been idle for two seconds. So a caller
//! leaves at its deadline even if the driver hangs. A driver call that overruns its limit is
//! *abandoned*: the pool goes on without it, and handles its result if it ever returns.
//!
//! All pools of a process share these workers, and one more thread, the reaper, which acts on
//! the passing of time. Their names are `fairpool-worker-` with a number, and
//! `fairpool-reaper`. A process at rest has only the reaper, however many pools it has, and
//! without a pool not even that. A call that hangs takes no worker from another pool. What a
//! driver keeps in thread-local storage stays until its worker ends, also after its pool has.
//!
//! No user code runs while the pool holds its lock, so managers, hooks and connections may
//! use the pool from every method. But a hook that *owns* a [`Pool`] keeps it alive: the
//! pool then does not close when its last other handle is dropped.
//!
//! # Processes
//!
//! A pool belongs to the process that built it. **Fork first, build after.** A child made by
//! `fork` has a copy of the pool, but neither its threads nor connections of its own: the
//! streams are the parent's. In a child
//!
//! - gets and subscriptions fail at once with [`ErrorKind::Forked`]; [`Pool::try_get`] finds
//!   nothing;
//! - guards of the parent do nothing when they are dropped or discarded. The connection is
//!   neither used nor closed. Do not use it through the guard either;
//!   [`PooledConnection::detach`] hands it over as it is;
//! - everything else does nothing, or shows an empty pool; [`WeakPool::is_gone`] is true.
//!
//! So nothing waits there for a thread that does not exist. But gets and returns check the
//! process only once in each tick of the coarse clock (see below). A get in the tick of the fork
//! may still be given a connection that was idle in the parent, or even hang: let a tick pass,
//! or build a pool of the child's own.
//!
//! # How exact times are
//!
//! Waits and deadlines are measured with the exact clock; checkouts and returns with the
//! cheapest clock of the platform. On Linux that clock is up to two ticks behind, and a tick
//! takes 1 to 10 ms. The pool allows for that: nothing happens before its time. Lifetimes,
//! idle times and leaks are late by up to two ticks, and a check before use by up to four. The
//! time for which a connection has been held is reported up to two ticks too short. Events of
//! checkouts and returns have exact times.
//!
//! # Inside
//!
//! The code has six layers, each of which uses only those before it:
//!
//! 1. `core` is a state machine that makes every decision and does nothing else.
//! 2. `sync` names the locks, the threads and the clock.
//! 3. `types` holds what users and the pool exchange: traits, settings, errors, events.
//! 4. `runtime` holds the pool's one lock and does what the core asks for: it wakes
//!    callers, makes driver calls on workers, and delivers events.
//! 5. `observe` takes snapshots and diagnoses.
//! 6. `api` is what users call: the pool, its builder, the guard.
//!
//! In the repository, `docs/architecture.md` is the map, and `docs/decisions` gives the
//! reasons.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod api;
mod core;
#[cfg(all(test, fairpool_model))]
mod models;
mod observe;
mod runtime;
#[cfg(feature = "simulation")]
pub mod simulation;
#[cfg(test)]
mod stub;
mod sync;
mod types;

pub use crate::api::builder::Builder;
pub use crate::api::control::CloseReport;
pub use crate::api::get_async::GetAsync;
pub use crate::api::guard::{ConnectionInfo, PooledConnection};
pub use crate::api::observe::State;
pub use crate::api::pool::Pool;
pub use crate::api::request::Request;
pub use crate::api::weak::WeakPool;
pub use crate::types::{
    CallLimits, CancelToken, CustomizeConnection, Error, ErrorKind, Extensions, Fairness,
    HandleError, HandleEvent, HandleUse, Label, LoggingErrorHandler, ManageConnection,
    NopConnectionCustomizer, NopErrorHandler, NopEventHandler, SelfDeadlock, UseContext, text,
};

pub mod event {
    //! What happens in a pool: events for a handler, and events for subscribers. From
    //! [`Builder::event_handler`](crate::Builder::event_handler) and
    //! [`Pool::subscribe`](crate::Pool::subscribe).

    pub use crate::types::{
        AcquireEvent, CheckinEvent, CheckoutEvent, ConnectionAt, ConnectionState, Event, EventKind,
        HandleEvent, HealthEvent, LeakEvent, NopEventHandler, Reason, ReleaseEvent, Scene,
        SelfDeadlockEvent, Subscription, TimeoutEvent,
    };
}

pub mod snapshot {
    //! A pool at one instant: its holders, its waiters, and the driver calls under way.
    //! From [`Pool::snapshot`](crate::Pool::snapshot).

    pub use crate::observe::snapshot::{CallKind, DriverCall, LastError, Settings, Snapshot};
    pub use crate::types::{CallSite, Holder, NestedGet, Waiter};
}

pub mod diagnosis {
    //! What is wrong with a pool, why, and what to do. From
    //! [`Pool::diagnose`](crate::Pool::diagnose).

    pub use crate::observe::diagnosis::{Diagnosis, Finding, FindingKind, Memory, Severity};
}

pub mod health {
    //! A pool's health: healthy, warning or critical, by how many callers wait and for how
    //! long. From [`Pool::health`](crate::Pool::health). And whether it is ready, from
    //! [`Pool::readiness`](crate::Pool::readiness).

    pub use crate::types::{Health, HealthLevel, HealthThresholds, Readiness};
}

pub mod stats {
    //! What a pool counts and measures. From [`Pool::stats`](crate::Pool::stats), and for
    //! exporters of metrics from [`Pool::reading`](crate::Pool::reading).

    pub use crate::observe::reading::Reading;
    #[cfg(feature = "histograms")]
    pub use crate::types::times::{Distribution, Distributions, Quantiles, Times, ValueCount};
    pub use crate::types::{ClosedBy, DriverCount, Stats};
}
