//! A server whose driver and hooks misbehave at random, and which counts as a real one would.
//!
//! Each call of the driver, of a hook or of a destructor does what the script says, or else
//! what the dice say: the n-th call of a kind does the same in each run with the same seed.
//! The [`World`] counts connections from the first byte of `connect` to the end of the close,
//! knows who holds which, and records every breach of a rule; [`World::check`] reports them.
//!
//! # Examples
//!
//! A storm of faults, and a calm after which the pool is whole again:
//!
//! ```
//! use std::time::Duration;
//!
//! use fairpool::Pool;
//! use fairpool_testing::dice;
//! use fairpool_testing::hostile::{Hooks, Limits, Manager, World};
//!
//! let seed = dice::seed();
//! println!("FAIRPOOL_SEED={seed}"); // for the next run, if this one fails
//! let limit = Duration::from_millis(100);
//! let world = World::new(seed, Limits { open: limit, check: limit, close: limit }, 2);
//! let pool = Pool::builder()
//!     .max_size(2)
//!     .open_timeout(limit)
//!     .validation_timeout(limit)
//!     .reset_timeout(limit)
//!     .close_timeout(limit)
//!     .connect_backoff(Duration::from_millis(1), Duration::from_millis(10))
//!     .connection_customizer(Box::new(Hooks(world.clone())))
//!     .error_handler(Box::new(Hooks(world.clone())))
//!     .event_handler(Box::new(Hooks(world.clone())))
//!     .build_unchecked(Manager::new(&world));
//!
//! // Of 100,000 calls 2,000 fail, 500 panic, 500 take long.
//! world.storm([2_000, 0, 500, 500, 0]);
//! for _ in 0..50 {
//!     if let Ok(conn) = pool.get_timeout(Duration::from_millis(100)) {
//!         world.hold(conn.id); // from now on, any call with it is a breach
//!         world.let_go(conn.id);
//!     }
//! }
//! world.calm();
//! assert!(pool.get().is_ok());
//! world.check();
//! ```

mod calls;
mod faults;
mod hooks;
mod state;
mod world;

pub use calls::time_in_calls;
pub use faults::{CALLS, Call, Counts, FAULTS, Fault, Rates};
pub use hooks::{Conn, Hooks, HostileExtension, Manager};
pub use world::{Limits, World};
