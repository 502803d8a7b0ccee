//! A fair, bounded and talkative connection pool for blocking drivers.
//!
//! Threads that need a connection to a database take one from the pool and give
//! it back by dropping it. If none is free they wait: in the order in which they
//! came, each no longer than it said it would. If they get none, the error says
//! who has the connections, since when and from which line, and what the driver
//! had to say.
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
//!             Err(error) => eprintln!("{error}"), // names who holds the connections
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
//! - [`Pool`] hands out [`PooledConnection`]s. [`Pool::builder`] has the
//!   settings, [`Pool::request`] the settings of a single checkout, such as a
//!   priority or a [`CancelToken`].
//! - [`ManageConnection`] is what the pool asks of a driver. Two are here:
//!   `postgres` (a feature, on by default) and `sqlite` (a feature). The trait
//!   is `r2d2`'s with additions, so a manager for another driver is quickly
//!   brought over.
//! - [`Error`] says why a caller got nothing, [`Stats`](stats::Stats) how the pool is doing,
//!   and [`CloseReport`] what was left when it closed.
//! - [`Pool::snapshot`] says who holds connections and who waits, [`Pool::diagnose`] what
//!   is wrong, [`Pool::health`] how bad it is, and [`Pool::subscribe`] everything that
//!   happens. [`WeakPool`] does the same without keeping the pool alive.
//! - [`CustomizeConnection`], [`HandleError`] and [`HandleEvent`] are hooks.
//!
//! # Features
//!
//! | | |
//! |---|---|
//! | `postgres` (default) | a manager for the blocking `postgres` crate, and advice on its server |
//! | `sqlite` | a manager for `rusqlite` |
//! | `histograms` (default) | distributions of waits, uses, connects, checks and closes |
//! | `serde` | snapshots, statistics and diagnoses can be serialised |
//! | `tracing` | a span around each get that waits, in the caller's trace |
//! | `trace` | files for Perfetto and chrome://tracing |
//! | `prometheus`, `opentelemetry` | metrics |
//! | `inspect` | a small web server that shows what pools do |
//! | `simulation` | what would happen with these settings under that load, in virtual time |
//!
//! # What runs where
//!
//! A caller's thread never calls the driver's `connect`, `is_valid`, `reset` or
//! close: these run on the pool's threads, which start on demand and end by
//! themselves. That is how a caller can leave at its deadline while the driver
//! hangs. A driver call that overruns its limit is *abandoned*: the pool goes on
//! without it, and deals with its result if one ever comes.
//!
//! No user code runs while the pool holds its lock, so managers, hooks and
//! connections may use the pool from every method. But a hook that *owns* a
//! [`Pool`] keeps that pool alive: it will not close by itself when the last
//! other handle is dropped.
//!
//! # How exact times are
//!
//! Waits and deadlines go by the exact clock. When a connection was lent or
//! returned is noted by the cheapest clock there is, which on Linux is a tick or
//! two behind (a tick is 1 to 10 ms). Lifetimes, idle times, the time without a
//! check, leaks and how long somebody has held a connection are known only to
//! that; settings below it act as if they were it. The events of a checkout and
//! of a return tell exact times.
//!
//! # Inside
//!
//! Callers go through `pool`, `request` and `pooled` to `shared`, which has the
//! pool's one lock, and inside it to `core`: a state machine that makes every
//! decision and does nothing else. What it asks for is carried out by `wait`
//! (callers), `workers` (driver calls) and `reaper` (the passing of time).
//! `docs/decisions` in the repository says why.

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
pub use crate::api::guard::{ConnectionInfo, PooledConnection};
pub use crate::api::observe::State;
pub use crate::api::pool::Pool;
pub use crate::api::request::Request;
pub use crate::api::weak::WeakPool;
pub use crate::types::{
    CancelToken, CustomizeConnection, Error, ErrorKind, Extensions, Fairness, HandleError,
    HandleEvent, LoggingErrorHandler, ManageConnection, NopConnectionCustomizer, NopErrorHandler,
    NopEventHandler, SelfDeadlock, text,
};

pub mod event {
    //! What happens in a pool, told to a handler as it happens, or to subscribers in the
    //! order in which it happened.

    pub use crate::types::{
        AcquireEvent, CheckinEvent, CheckoutEvent, ConnectionAt, ConnectionState, Event, EventKind,
        HandleEvent, HealthEvent, LeakEvent, NopEventHandler, Reason, ReleaseEvent, Scene,
        SelfDeadlockEvent, Subscription, TimeoutEvent,
    };
}

pub mod snapshot {
    //! A pool at one instant: who holds connections, who waits, what the driver is busy
    //! with. From [`Pool::snapshot`](crate::Pool::snapshot).

    pub use crate::observe::snapshot::{CallKind, DriverCall, LastError, Settings, Snapshot};
    pub use crate::types::{CallSite, Holder, NestedGet, Waiter};
}

pub mod diagnosis {
    //! What is wrong with a pool, in words. From [`Pool::diagnose`](crate::Pool::diagnose).

    pub use crate::observe::diagnosis::{Diagnosis, Finding, FindingKind, Memory, Severity};
}

pub mod health {
    //! Healthy, warning or critical, by how many wait and for how long. From
    //! [`Pool::health`](crate::Pool::health).

    pub use crate::types::{Health, HealthLevel, HealthThresholds};
}

pub mod stats {
    //! What a pool counts and times. From [`Pool::stats`](crate::Pool::stats), and for
    //! exporters of metrics from [`Pool::reading`](crate::Pool::reading).

    pub use crate::observe::reading::Reading;
    #[cfg(feature = "histograms")]
    pub use crate::types::times::{Distribution, Distributions, Quantiles, Times, ValueCount};
    pub use crate::types::{ClosedBy, Stats};
}
