//! Managers, customizers and error handlers that were written for
//! [`r2d2`](https://docs.rs/r2d2), on [`fairpool`].
//!
//! [`Manager::new`] takes any manager of r2d2, unchanged: diesel's, redis', `r2d2_sqlite`'s, or
//! your own. (A driver that has a package for fairpool, such as `fairpool-postgres`, does more
//! with that: see below.)
//!
#![doc = include_str!("guides/redis.md")]
// Compiled and run in `compat`: a program links SQLite once, and this workspace has another.
#![cfg_attr(not(doctest), doc = include_str!("guides/sqlite.md"))]
#![cfg_attr(not(doctest), doc = include_str!("guides/diesel.md"))]
//!
//! # Hooks
//!
//! | r2d2's | here |
//! |---|---|
//! | `CustomizeConnection` | [`Manager::customizer`] |
//! | `HandleError` | [`Manager::error_handler`] |
//! | `HandleEvent` | cannot be adapted, since only r2d2 can make its events; [`fairpool::HandleEvent`] has the same methods, so another `use` is enough |
//!
//! # What is as the manager has it
//!
//! r2d2's trait has three methods, and the rest of [`fairpool::ManageConnection`] keeps its
//! defaults:
//!
//! - What a holder leaves in its connection (a transaction, a setting) is not undone, as in r2d2.
//!   Only what `has_broken` reports is closed: diesel's does so for an open transaction.
//! - `has_broken` runs on the thread that returns a connection, which waits for it without a limit.
//!   `r2d2_mysql` asks the server there: each return costs a round trip, and waits on a server that is
//!   frozen. `fairpool-mysql` does neither.
//! - [`PooledConnection::run`](fairpool::PooledConnection::run) takes no error for fatal. Call
//!   [`mark_broken`](fairpool::PooledConnection::mark_broken) after one that you know to be.
//! - No error of a connect is permanent: a wrong URL is tried for `connection_timeout`.
//! - A check runs on a thread of the pool, since the manager promises no limit: with
//!   [`test_on_check_out(true)`](fairpool::Builder::test_on_check_out) each get pays for a hand-over
//!   to it and back, 12 to 25 µs. By default a connection is checked only if it lay unused
//!   for 500 ms.

mod hooks;
mod manager;
mod text_error;

pub use manager::Manager;
pub use text_error::TextError;

/// The README's example, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
