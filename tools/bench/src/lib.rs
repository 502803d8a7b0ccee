//! What the benches of the workspace share.
//!
//! A bench calls [`begin`] for its settings, measures [`cell`]s in [`rounds`] in which
//! its contestants take turns, makes a [`report`] and passes it to [`finish`]. The
//! report is kept as JSON; tables, charts, goals and the page in `docs/benchmarks` are
//! made from it.

pub mod cell;
pub mod growth;
pub mod machine;
pub mod pass;
pub mod peers;
pub mod progress;
pub mod report;
pub mod rounds;
pub mod settings;
pub mod stub;
pub mod table;

mod bounds;
mod chart;
mod goals;
mod page;
mod queries;
mod run;
#[cfg(test)]
mod tests;
mod waits;

pub use run::{begin, finish};
