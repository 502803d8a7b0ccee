//! A manager of r2d2 that does what the test says, and r2d2's hooks, on a pool.

mod calls;
mod driver;
mod errors;
mod hooks;
mod panics;
