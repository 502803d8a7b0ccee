//! Figures that may grow with a size, how they grow, and how they may.

use serde::{Deserialize, Serialize};

use crate::goals::Outcome;
use crate::report::median;
use crate::table::{Table, count, span, times};

/// One figure at one size.
#[derive(Serialize, Deserialize)]
pub struct Growth {
    pub subject: String,
    pub size: u32,
    pub unit: Unit,
    /// Of each round.
    pub rounds: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    Nanos,
    Bytes,
    Threads,
}

/// Whatever costs the same at every size may differ by this factor, and what is
/// in proportion to a size by this factor from it.
const LIMIT: f64 = 1.5;

/// What is to cost the same, whatever the size.
pub const PAST_A_QUEUE: &str = "get + return past a queue";
pub const ALL_IDLE: &str = "get + return, all others idle";
pub const ALL_LENT: &str = "get + return, all others lent";
const CONSTANT: [&str; 3] = [PAST_A_QUEUE, ALL_IDLE, ALL_LENT];

/// What may grow in proportion to the size, but no faster.
pub const MASS_TIMEOUT: &str = "mass timeout: last back after";
pub const MASS_CANCEL: &str = "mass cancel: last back after";
const LINEAR: [&str; 2] = [MASS_TIMEOUT, MASS_CANCEL];

impl Growth {
    pub fn median(&self) -> f64 {
        median(self.rounds.iter().copied())
    }

    fn told(&self, figure: f64) -> String {
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
            self.told(self.median()),
            format!("{} – {}", self.told(lowest), self.told(highest)),
            times(growth),
        ]
    }
}

pub fn table(figures: &[Growth]) -> Table {
    let header = ["what", "size", "median", "from – to", "× the smallest"];
    let row = |one: &Growth| {
        let smallest = figures.iter().find(|first| first.subject == one.subject);
        one.row(smallest.unwrap_or(one))
    };
    Table { header: header.map(String::from).to_vec(), rows: figures.iter().map(row).collect() }
}

/// Of each subject that has a goal: from the smallest size to the largest.
pub fn check(figures: &[Growth]) -> Vec<Outcome> {
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
