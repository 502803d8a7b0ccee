//! A scriptable server and its driver, and what a test needs beside them.
//!
//! Each call of the driver does what the script says: succeed, fail, panic, take long, or
//! hang at a [`Gate`] until the test opens it. The [`Server`] counts connections as a real
//! one would, from the first byte of `connect` to the end of the close. It records every
//! breach of a rule, and [`Server::check`] reports them.
//!
//! # Examples
//!
//! A get that waits for a connect, without a sleep in the test:
//!
//! ```
//! use fairpool_testing::stub::{Does, Gate, Op, Server, builder, eventually, watched};
//!
//! let (server, gate) = (Server::new(), Gate::new());
//! server.on(Op::Connect, Does::Hang(gate.clone()));
//! let pool = builder(1).build(server.manager())?;
//!
//! let there = pool.clone();
//! let get = std::thread::spawn(move || there.get().map(drop));
//! gate.await_entered(1); // the driver is inside `connect`
//! eventually("the caller waits", || pool.stats().waiting == 1);
//! gate.open();
//! assert!(watched("the get", move || get.join()).unwrap().is_ok());
//! server.check();
//! # Ok::<(), fairpool::Error>(())
//! ```

mod driver;
mod gate;
mod harness;
mod script;
mod server;

pub use driver::{Conn, Manager, builder};
pub use gate::Gate;
pub use harness::{WATCHDOG, eventually, from_env, lock, silent_panic, threads_named, watched};
pub use script::{Does, Op, StubError};
pub use server::Server;
