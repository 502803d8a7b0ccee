//! SQLite for [`fairpool`]: a manager for [`rusqlite`], with SQLite compiled in.
//!
//! [`SqliteConnectionManager`] has the names of `r2d2_sqlite`. It adds a busy timeout,
//! WAL, a shared memory database whose connections wait for each other, the rollback of a
//! forgotten transaction, and a classification of errors.
//!
//! ```
//! use std::time::Duration;
//!
//! use fairpool::Pool;
//! use fairpool_sqlite::SqliteConnectionManager;
//!
//! let pool = Pool::builder().max_size(4).build(SqliteConnectionManager::memory())?;
//! let conn = pool.get_timeout(Duration::from_secs(1))?;
//! conn.execute_batch("CREATE TABLE fruit (name TEXT)")?;
//! conn.execute("INSERT INTO fruit VALUES (?1)", ["fig"])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What to know about SQLite
//!
//! - **There is one writer at a time**, whatever the size of the pool. The others wait in
//!   `busy_timeout`, in no order: SQLite sleeps and tries again. Beside writers that never
//!   pause, one may wait for its whole timeout and fail. A pool of one connection is the
//!   fairest way to write, since the pool's queue is FIFO.
//! - **A transaction that reads before it writes can fail at once** with `SQLITE_BUSY`,
//!   because waiting could not help. Start a transaction that will write with
//!   [`TransactionBehavior::Immediate`](rusqlite::TransactionBehavior).
//! - **Closing the last connection to a file in WAL mode** copies the log into the file,
//!   which can take a while. The pool does this on its closer threads.

mod connection;
mod manager;
mod place;
mod reset;
mod session;

pub use rusqlite;

pub use crate::connection::{Connection, InterruptHandle};
pub use crate::manager::SqliteConnectionManager;
pub use crate::reset::Reset;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
