//! Figures that may grow with a size, and the goals for their growth.

use serde::{Deserialize, Serialize};

use crate::goals::Outcome;
use crate::report::median;
use crate::table::{Table, count, span, times};

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
}

/// A constant figure may grow by this factor from the smallest size to the largest, and
/// a figure that is proportional to the size by this factor more than the size.
const LIMIT: f64 = 1.5;

/// A subject that must cost the same at every size.
pub const PAST_A_QUEUE: &str = "get + return past a queue";
/// A subject that must cost the same at every size.
pub const ALL_IDLE: &str = "get + return, all others idle";
/// A subject that must cost the same at every size.
pub const ALL_LENT: &str = "get + return, all others lent";
const CONSTANT: [&str; 3] = [PAST_A_QUEUE, ALL_IDLE, ALL_LENT];

/// A subject that may grow in proportion to the size, but no faster.
pub const MASS_TIMEOUT: &str = "mass timeout: last back after";
/// A subject that may grow in proportion to the size, but no faster.
pub const MASS_CANCEL: &str = "mass cancel: last back after";
const LINEAR: [&str; 2] = [MASS_TIMEOUT, MASS_CANCEL];

impl Growth {
    fn median(&self) -> f64 {
        median(self.rounds.iter().copied())
    }

    fn format(&self, figure: f64) -> String {
        match self.unit {
            Unit::Nanos => span(figure),
            Unit::Bytes => format!("{} B", count(figure)),
            Unit::Threads => count(figure),
        }
    }

    fn row(&self, smallest: &Growth) -> Vec<String> {
        let lowest = self.rounds.iter().copied().fold(f64::MAX, f64::min);
        let highest = self.rounds.iter().copied().fold(0.0, f64::max);
        let growth = self.median() / smallest.median();
        vec![
            self.subject.clone(),
            count(f64::from(self.size)),
            self.format(self.median()),
            format!("{} – {}", self.format(lowest), self.format(highest)),
            times(growth),
        ]
    }
}

/// One row for each figure.
pub fn table(figures: &[Growth]) -> Table {
    let header = ["what", "size", "median", "from – to", "× the smallest"];
    let row = |one: &Growth| {
        let smallest = figures.iter().find(|first| first.subject == one.subject);
        one.row(smallest.unwrap_or(one))
    };
    Table { header: header.map(String::from).to_vec(), rows: figures.iter().map(row).collect() }
}

/// The goals of these figures.
pub(crate) fn check(figures: &[Growth]) -> Vec<Outcome> {
    let constant = CONSTANT.iter().filter_map(|subject| goal(figures, subject, false));
    constant.chain(LINEAR.iter().filter_map(|subject| goal(figures, subject, true))).collect()
}

fn goal(figures: &[Growth], subject: &str, linear: bool) -> Option<Outcome> {
    let mut sizes = figures.iter().filter(|one| one.subject == subject);
    let (first, last) = (sizes.next()?, sizes.next_back()?);
    let growth = last.median() / first.median();
    let share = f64::from(first.size) / f64::from(last.size);
    let growth = if linear { growth * share } else { growth };
    let of = if linear { ", for each waiter" } else { "" };
    let (from, to) = (count(f64::from(first.size)), count(f64::from(last.size)));
    Some(Outcome {
        cell: format!("growth: {subject}"),
        goal: format!("{to} ÷ {from}{of}, at most {}", times(LIMIT)),
        measured: times(growth),
        met: growth <= LIMIT,
        stretch: false,
    })
}
