//! `r2d2`'s API on [`fairpool`], for `[patch.crates-io]`.
//!
//! The package has the name and the version of `r2d2`, so that programs, and libraries that
//! they use, run on fairpool without a change of their code:
//!
//! ```toml
//! [patch.crates-io]
//! r2d2 = { git = "https://github.com/fairpool-rs/fairpool" }
//! ```
//!
//! Names, bounds, defaults and texts are those of `r2d2` 0.8.10. In addition,
//! [`Pool::fairpool`] leads to all that fairpool offers: snapshots, diagnoses, metrics, an
//! orderly close, and gets with a priority, for example.
//!
//! ```
//! # use std::{convert::Infallible, time::Duration};
//! # struct Manager;
//! # impl r2d2::ManageConnection for Manager {
//! #     type Connection = ();
//! #     type Error = Infallible;
//! #     fn connect(&self) -> Result<(), Infallible> { Ok(()) }
//! #     fn is_valid(&self, _: &mut ()) -> Result<(), Infallible> { Ok(()) }
//! #     fn has_broken(&self, _: &mut ()) -> bool { false }
//! # }
//! let pool = r2d2::Pool::builder().max_size(1).build(Manager)?;
//! let held = pool.get()?;
//! let error = pool.get_timeout(Duration::from_millis(10)).unwrap_err();
//! assert_eq!(error.to_string(), "timed out waiting for connection");
//!
//! let holders = pool.fairpool().snapshot().holders;
//! assert_eq!(holders.len(), 1);
//! println!("held by {}", holders[0]); // the thread, the line, for how long
//! # drop(held);
//! # Ok::<(), r2d2::Error>(())
//! ```
//!
//! # What differs from `r2d2`
//!
//! - Callers are served in the order in which they come, and leave at their deadlines whatever
//!   the driver does: connects, checks and closes run on threads of fairpool, each with a limit
//!   of its own (5, 2 and 5 seconds). A panic in a driver is caught.
//! - A broken connection is closed on such a thread too. The drop of its guard, and that of the
//!   last pool, wait until it is closed, but for one second at most.
//! - By default a check that succeeded within the last 5 ms serves for the next get too, unless
//!   another connection has proved broken since. A connection that was opened just now for a
//!   caller that waited goes to it without a check. See [`Builder::test_on_check_out`].
//! - Other threads, which all pools of the process share, and other log records. Thread pools
//!   that are given to [`Builder::thread_pool`] are not used.
//! - Each connection's lifetime is shortened, and its idle time lengthened, by up to a tenth at
//!   random, so that connections that were opened together do not end together.

#![warn(missing_docs)]

mod builder;
mod customize;
mod ending;
mod error;
pub mod event;
mod guard;
mod manager;
mod pool;

pub use crate::builder::Builder;
pub use crate::customize::{
    CustomizeConnection, HandleError, LoggingErrorHandler, NopConnectionCustomizer, NopErrorHandler,
};
pub use crate::error::Error;
pub use crate::event::{HandleEvent, NopEventHandler};
pub use crate::guard::PooledConnection;
pub use crate::manager::ManageConnection;
pub use crate::pool::{Pool, State};
pub use fairpool::Extensions;
