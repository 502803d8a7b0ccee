//! MySQL and MariaDB for [`fairpool`]: a manager for the blocking [`mysql`] crate.
//!
//! The manager keeps the pool's limits by the socket, so that a server that falls silent is
//! noticed and named. It adds settings of each session, a reset of what a holder leaves, a
//! classification of errors by code, and leaves a server that has become read-only.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use fairpool::Pool;
//! use fairpool_mysql::MysqlConnectionManager;
//! use fairpool_mysql::mysql::prelude::Queryable;
//!
//! let manager = MysqlConnectionManager::from_url("mysql://app@localhost/shop")?
//!     .session_setting("lock_wait_timeout", "2")
//!     .session_setting("sql_mode", "STRICT_ALL_TABLES");
//! let pool = Pool::builder().max_size(8).build(manager)?;
//!
//! let mut conn = pool.get_timeout(Duration::from_secs(1))?;
//! let orders: Option<u64> = conn.query_first("SELECT count(*) FROM orders")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a guard gives
//!
//! A [`Connection`]: it implements the driver's `Queryable`, dereferences to [`mysql::Conn`], and
//! reads each statement before it sends it, so that the pool knows what a use may have left on its
//! session. By default nothing of one caller reaches the next, and a use that left nothing costs no
//! round trip: see [`Reset`].
//!
//! # What to know about the `mysql` crate
//!
//! - **It tries one address of a name.** If the first one of `localhost` is `::1` and the server
//!   listens only on `127.0.0.1`, the connect is refused. Write the address.
//! - **It would like to use the socket.** By default it connects to a loopback address over TCP,
//!   asks for the server's socket, and connects again. The manager turns this off
//!   (`prefer_socket`): it doubles each connect, and goes round a proxy. Use the option `socket` to
//!   connect by a socket.
//! - **Its `Debug` of `Conn` and `Opts` shows the password.** This crate's types do not.
//! - **TLS is a feature of the driver**, and this crate switches none on: add a dependency on
//!   `mysql` 28 with `native-tls`, `rustls-tls` or `rustls-tls-ring`. Without one, options that ask
//!   for TLS make the driver panic, which the pool counts as a failed connect.
//! - **It keeps 32 prepared statements for each connection**, for all its holders:
//!   [`statement_cache`](MysqlConnectionManager::statement_cache) says what to know.
//! - **`read_timeout` of the options limits each read of your statements**, so a long query fails
//!   with it. The pool's own calls have limits of their own, whatever it is.
//!
//! # Servers that become read-only
//!
//! If a write is refused (1290, 1792, 1836), the connection asks the server whether it is now
//! read-only, when it returns. If it was not when the connection was opened, the connection is
//! closed as broken, and the others are checked before they are lent again. A transaction that its
//! user made `READ ONLY` and a refusal by `--secure-file-priv` have the same codes, and are no
//! fault. With [`writes_only`](MysqlConnectionManager::writes_only) no connection to a read-only
//! server is opened or kept, and with [`or_server`](MysqlConnectionManager::or_server) the next
//! server is tried.

mod connection;
mod left;
mod manager;

pub use mysql;

pub use crate::connection::{Connection, Transaction};
pub use crate::manager::{MysqlConnectionManager, Reset};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
