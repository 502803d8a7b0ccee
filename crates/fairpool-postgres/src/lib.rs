//! PostgreSQL for [`fairpool`]: a manager for the blocking [`postgres`] crate.
//!
//! [`PostgresConnectionManager::new`] takes what `r2d2_postgres` takes, so a program
//! moves by changing the crate's name. The manager adds limits that detect a dead peer
//! within seconds, session settings, a reset on return, and a classification of errors
//! by SQLSTATE. [`advise`] compares a pool's settings with its server, [`who_waits`] says which
//! holders of its connections wait for locks and who has these, and [`blockers`] lists the sessions
//! that block a server.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use fairpool::Pool;
//! use fairpool_postgres::{NoTls, PostgresConnectionManager};
//!
//! let url = "postgresql://postgres@localhost/shop";
//! let manager = PostgresConnectionManager::from_url(url, NoTls)?
//!     .application_name("billing")
//!     .lock_timeout(Duration::from_secs(2));
//! let pool = Pool::builder().max_size(8).build(manager)?;
//!
//! let mut conn = pool.get_timeout(Duration::from_secs(1))?;
//! let orders: i64 = conn.query_one("SELECT count(*) FROM orders", &[])?.get(0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a guard gives
//!
//! A [`Client`]: it has the methods of [`postgres::Client`], dereferences to it, and reads each
//! statement before it sends it, so that the pool knows what a use may have left on its session.
//! By default nothing of one caller reaches the next, and a use that left nothing costs no round
//! trip: see [`Reset`].
//!
//! A statement is prepared once for each connection and kept: see
//! [`Client`](Client#prepared-statements). With the driver alone, or with `r2d2_postgres`, a
//! program has that only if it keeps each statement beside its connection by itself.
//!
//! # What to know about `postgres::Client`
//!
//! - **Dropping a client closes it and may block.** The drop waits, without a limit,
//!   until the server has answered every request: on a silent server it hangs until the
//!   server answers or TCP gives up. That is why the pool drops clients on its closer
//!   threads. Do not take a client out of the pool and drop it on a thread that must not
//!   hang.
//! - **`is_closed` is a hint.** It does not read the socket, so a client whose backend
//!   died usually still seems open. [`has_broken`] also knows the errors of the calls that went
//!   through [`Client`]; where the driver's client was lent, use [`PooledConnection::run`],
//!   which passes each error to [`is_fatal`].
//! - **The driver's own `CancelToken` outlives the use.** The server does not say when it acts on
//!   the request, so a late one kills a query of the *next* holder. Use [`Client::cancel_token`],
//!   which ends with the use, and after which the connection is retired if a cancel was sent. The
//!   pool takes that for a broken one, and checks each of the others before its next use.
//! - **A `COPY FROM STDIN` that the server refuses ends the connection.** From then on the driver
//!   takes each answer for that of the next request. After an error of
//!   [`copy_in`](Client::copy_in) make no other call, not even in the same transaction. The pool
//!   closes the connection when it returns.
//! - **Inside an async runtime a client panics**, in calls and in drop, because it
//!   drives a runtime of its own. On tokio's threads for blocking it works: see `interact` of the
//!   package `fairpool-tokio`.
//! - **Nothing bounds DNS, TLS and authentication** but the pool's
//!   [`open_timeout`](fairpool::Builder::open_timeout). The limit for the socket fits
//!   into it by default: see
//!   [`connect_timeout`](PostgresConnectionManager::connect_timeout).
//! - **`postgres::Config` prints the value of `options`** with `{:?}`, and at the debug
//!   level the driver logs the text of each statement. The manager's own `Debug`, errors
//!   and statements show no value that may be a secret.
//! - **Without free file descriptors, `connect` panics** (a client needs four). The pool
//!   catches the panic and counts a failed attempt.
//!
//! # Several hosts
//!
//! With `host=a,b target_session_attrs=read-write` each connect takes the first host that allows
//! writes (in the order of the list, unless `load_balance_hosts=random`). The role is asked for
//! again:
//!
//! - After a write that the server refused (25006): at once, or when the transaction around it
//!   ends, or else when the connection returns. If the server is now read-only, or a standby, the
//!   connection is closed as broken when it returns, with a warning in the log, and none of the
//!   others is lent without a check. If only the transaction or the session was made read-only,
//!   nothing happens.
//! - After a use to which the driver's client was lent, or that left rows unread, if that is reset:
//!   there an error may have gone unseen.
//! - In each check, also for `read-only`: a standby that was promoted is left.
//!
//! # Transactions that run again
//!
//! [`transaction`] runs a closure in a transaction, and again after a serialization failure, a
//! deadlock, or the loss of the connection, within one deadline. It says `Ok` only if the server
//! has committed, and tells a commit of which nobody knows from one that was refused.
//!
//! ```no_run
//! # use fairpool::Pool;
//! # use fairpool_postgres::{NoTls, PostgresConnectionManager, TransactionOptions};
//! # let pool = Pool::new(PostgresConnectionManager::from_url("host=localhost", NoTls)?)?;
//! use fairpool_postgres::postgres::IsolationLevel::Serializable;
//!
//! let options = TransactionOptions::new().isolation_level(Serializable);
//! let left = fairpool_postgres::transaction(&pool, options, |tx| {
//!     tx.execute("INSERT INTO orders (item) VALUES (7)", &[])?;
//!     tx.query_one("UPDATE stock SET n = n - 1 WHERE item = 7 RETURNING n", &[])
//! })?;
//! println!("{} are left", left.get::<_, i32>(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Tenants
//!
//! A [`HandleUse`](fairpool::HandleUse) sets the tenant of each use before its caller has the
//! connection, and row-level security keeps the rows of others from it:
//!
//! ```sql
//! ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
//! CREATE POLICY own ON orders TO shop
//!     USING (tenant = nullif(current_setting('shop.tenant', true), '')::bigint);
//! ```
//!
//! ```no_run
//! use fairpool::{HandleUse, Pool, UseContext};
//! use fairpool_postgres::postgres::Error;
//! use fairpool_postgres::{Client, NoTls, PostgresConnectionManager};
//!
//! struct Tenant(i64);
//!
//! #[derive(Debug)]
//! struct SetTenant;
//!
//! impl HandleUse<Client, Error> for SetTenant {
//!     fn begin(&self, client: &mut Client, context: &UseContext) -> Result<(), Error> {
//!         // Always set: an empty tenant sees nothing.
//!         let tenant = context.get().map_or(String::new(), |Tenant(id)| id.to_string());
//!         client.batch_execute(&format!("SET shop.tenant = '{tenant}'"))
//!     }
//!
//!     fn has_end(&self) -> bool {
//!         false // the next `begin` sets it anew
//!     }
//! }
//!
//! // Neither a superuser nor the owner of the tables: no policy binds those.
//! let manager = PostgresConnectionManager::from_url("postgresql://shop@localhost/shop", NoTls)?;
//! let pool = Pool::builder().use_handler(Box::new(SetTenant)).build(manager)?;
//!
//! let mut conn = pool.request().context(Tenant(7)).get()?;
//! let own = conn.query("SELECT item FROM orders", &[])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `SET ROLE` works alike, with a role and policies for each tenant; `RESET ROLE` is then the use
//! without a tenant. A name that comes from outside must be quoted. Neither binds whoever can send
//! any SQL, who may `SET` another tenant: it protects against forgotten conditions, not against
//! injections.
//!
//! A `ROLLBACK` takes back a `SET` that came after its `BEGIN`. So the next use finds the last
//! one's tenant if a transaction was left open:
//!
//! | [`Reset`] | the handler |
//! |---|---|
//! | `Session` (default), `Always` | as above. The reset also removes what the *holder* has set |
//! | `Rollback` | as above: no transaction is open when `begin` runs. What a holder sets for itself stays until the next `begin` |
//! | `Off` | must begin with `ROLLBACK; SET …`, or a transaction of the last use is still open, or failed |
//! | with a [`transaction_pooler`](PostgresConnectionManager::transaction_pooler) | no `SET` is reliable: `BEGIN; SET LOCAL …` in `begin`, so that the use is one transaction, and `COMMIT` in `end` or by the holder |
//!
//! A use that begins with `SET ROLE` or `SET search_path` has no [kept
//! statements](Client#prepared-statements): each call prepares its text anew. A parameter with a
//! dot in its name, as above, keeps them.
//!
//! An [`end`](fairpool::HandleUse::end) comes before the reset, and fails in a failed transaction:
//! it should begin with `ROLLBACK` (or `COMMIT`) too.
//!
//! A role or a parameter that does not exist is the caller's error
//! ([`ErrorKind::UseHandler`](fairpool::ErrorKind::UseHandler), whose source is the
//! [`postgres::Error`]); a session that has died costs its caller nothing but another connection.
//!
//! # Passwords that change
//!
//! A closure can give user, password and hosts whenever a connection is opened: see
//! [`credentials`](PostgresConnectionManager::credentials).
//!
//! # Features
//!
//! - `serde`: [`Advice`], [`ServerReport`], [`Blocker`] and [`StatementCounts`] implement
//!   `Serialize`.
//!
//! [`has_broken`]: fairpool::ManageConnection::has_broken
//! [`is_fatal`]: fairpool::ManageConnection::is_fatal
//! [`PooledConnection::run`]: fairpool::PooledConnection::run

#![cfg_attr(docsrs, feature(doc_cfg))]

mod advise;
mod blockers;
mod client;
#[cfg(feature = "serde")]
mod json;
mod left;
mod manager;
mod random;
mod session;
mod transact;
mod waits;

pub use postgres;
pub use postgres::NoTls;

pub use crate::advise::{Advice, AdviseError, Recommendation, ServerFigures, advise};
pub use crate::blockers::{Blocker, blockers};
pub use crate::client::{
    CancelToken, Client, RowIter, Statement, StatementCounts, ToStatement, Transaction,
    TransactionBuilder,
};
pub use crate::manager::{Credentials, PostgresConnectionManager, Reset, WhyAsked};
pub use crate::session::ServerSession;
pub use crate::transact::{Aborted, BoxedError, TransactionError, TransactionOptions, transaction};
pub use crate::waits::{AskError, LockWait, Party, ServerReport, WhoWaits, who_waits};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The example in the README of the workspace compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct WorkspaceReadme;
