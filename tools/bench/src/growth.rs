//! Figures that may grow with a size.

use serde::{Deserialize, Serialize};

/// One figure at one size.
#[derive(Serialize, Deserialize)]
pub struct Growth {
    /// What is measured.
    pub subject: String,
    /// The size: of a queue or of a pool.
    pub size: u32,
    /// The unit of `rounds`.
    pub unit: Unit,
    /// The figure of each round.
    pub rounds: Vec<f64>,
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nanoseconds.
    Nanos,
    /// Bytes.
    Bytes,
    /// A number of threads.
    Threads,
    /// A number of callers.
    Callers,
    /// So many in each second.
    PerSecond,
    /// A ratio.
    Times,
}

/// A subject that must cost the same at every size.
pub const PAST_A_QUEUE: &str = "get + return past a queue";
/// A subject that must cost the same at every size.
pub const ALL_IDLE: &str = "get + return, all others idle";
/// A subject that must cost the same at every size.
pub const ALL_LENT: &str = "get + return, all others lent";

/// A subject that may grow in proportion to the size, but no faster.
pub const MASS_TIMEOUT: &str = "mass timeout: last back after";
/// A subject that may grow in proportion to the size, but no faster.
pub const MASS_CANCEL: &str = "mass cancel: last back after";

impl Growth {
    pub(crate) fn median(&self) -> f64 {
        median(self.rounds.iter().copied())
    }
}

/// The median; 0 if there are no values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
