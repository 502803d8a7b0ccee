//! The pool as its users see it: one module for each promise of the README (the tests
//! of promise n are called `pn_…`), and one for each part of the public API.
//!
//! The tests run side by side in one process, so a pool whose threads a test counts
//! has a name of its own. A test that needs the process for itself is in a
//! program of its own.
//!
//! `FAIRPOOL_ROUNDS=1000` makes the tests that go in rounds thorough.

mod support;

// The promises.
mod bounded_wait; // P1
mod capacity; // P5
mod closing; // P6, P7
mod connecting; // P1, P5, P9: how many connects, and when
mod counters; // P12
mod doubt; // P13
mod errors; // P9
mod lock; // P6: nothing foreign runs under the pool's lock
mod never_empty; // P17
mod order; // P2
mod panics; // P10
mod queue_limit; // P8
mod shutdown; // P11
mod tasks; // P18
mod uses;
mod waiters; // P4
mod wake_ups; // P3

// Where promises meet: hooks, panics within panics, threads, races.
mod edges;
mod races;

// The public API.
mod ages;
mod builder;
mod controls;
mod guards;
mod hooks;
mod own_checks;
mod requests;

// What the pool reports.
mod diagnosis;
mod events;
mod feed;
mod health;
mod holders;
#[cfg(feature = "histograms")]
mod times;

#[cfg(feature = "simulation")]
mod simulation;
