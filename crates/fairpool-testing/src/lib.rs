//! Drivers for tests of code that uses [`fairpool`]: no server, no network, no waiting for
//! chance.
//!
//! A service meets its database's bad days in production first, unless a test makes them
//! happen. Three drivers do so, from simple to cruel:
//!
//! | driver | its connections | for |
//! |---|---|---|
//! | [`StubManager`] | do nothing, and never fail | code that needs *a* pool: examples, settings, dashboards |
//! | [`stub::Server`] | do what a script says: fail, panic, take long, or hang until the test opens a gate | one test for each bad day |
//! | [`hostile::World`] | fail, panic and hang at random, repeatably, with every hook of the pool as well | soak tests |
//!
//! The last two also count connections as a real server would, and record every breach of a
//! pool's rules: a call on a closed connection, more connections than allowed.
//!
//! # Examples
//!
//! A service's code, under a driver that hangs in `connect`, fails a check, and panics:
//!
//! ```
//! use std::time::Duration;
//!
//! use fairpool::{Error, Pool};
//! use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, builder};
//!
//! /// The code under test.
//! fn handle_request(pool: &Pool<Manager>) -> Result<usize, Error> {
//!     let conn = pool.get_timeout(Duration::from_millis(500))?;
//!     conn.touch(); // a query
//!     Ok(conn.id)
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let server = Server::new();
//! let pool = builder(1).test_on_check_out(true).build(server.manager())?;
//!
//! // The server accepts the connection, and says nothing more.
//! let gate = Gate::new();
//! server.next(Op::Connect, Does::Hang(gate.clone()));
//! assert!(handle_request(&pool).unwrap_err().is_timeout());
//! gate.open(); // it is back
//! assert_eq!(pool.get()?.id, 1);
//!
//! // The connection died while it was idle: the service does not notice.
//! server.next(Op::IsValid, Does::Fail);
//! assert_eq!(handle_request(&pool)?, 2);
//!
//! // Neither does it notice that the driver panics.
//! server.next(Op::IsValid, Does::Panic);
//! assert_eq!(handle_request(&pool)?, 3);
//!
//! server.check(); // the pool broke no rule
//! # Ok(())
//! # }
//! ```
//!
//! A pool for code that needs just any:
//!
//! ```
//! use fairpool::Pool;
//! use fairpool_testing::StubManager;
//!
//! let pool = Pool::builder().max_size(2).build(StubManager)?;
//! let conn = pool.get()?;
//! assert_eq!(pool.stats().in_use, 1);
//! # drop(conn);
//! # Ok::<(), fairpool::Error>(())
//! ```

pub mod dice;
pub mod eventful;
pub mod hostile;
mod idle;
pub mod stub;

pub use idle::{StubConnection, StubManager};

/// The README's example, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
