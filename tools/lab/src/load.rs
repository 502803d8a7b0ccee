//! What the scenarios share: callers and their results, samples over time, and text.

use std::fmt;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool};

/// The result of a caller's get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Served,
    /// The text of the error.
    Error(String),
    /// The caller still waits.
    None,
}

/// One caller, and how long it waited.
#[derive(Clone, Debug)]
pub struct Caller {
    pub waited: Duration,
    pub answer: Answer,
}

pub fn count(callers: &[Caller], of: impl Fn(&Answer) -> bool) -> usize {
    callers.iter().filter(|caller| of(&caller.answer)).count()
}

/// The pool's diagnosis, from two snapshots that are up to a second apart. It runs on a
/// thread beside the load.
pub fn diagnose<M: ManageConnection>(pool: &Pool<M>, apart: Duration) -> String {
    let apart = apart.clamp(Duration::from_millis(50), Duration::from_secs(1));
    pool.diagnose_over(apart).expect("BUG: a legal span").to_string()
}

/// The quantile of sorted values.
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    match sorted.len() {
        0 => Duration::ZERO,
        len => sorted[((len as f64 * part) as usize).min(len - 1)],
    }
}

/// A span with one decimal.
pub fn span(span: Duration) -> String {
    format!("{span:.1?}")
}

/// A figure over time.
pub struct Samples {
    begun: Instant,
    points: Vec<(f64, f64)>,
}

impl Samples {
    pub fn new() -> Samples {
        Samples { begun: Instant::now(), points: Vec::new() }
    }

    pub fn add(&mut self, value: f64) {
        self.points.push((self.begun.elapsed().as_secs_f64(), value));
    }

    pub fn last(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.1)
    }

    pub fn into_points(self) -> Vec<(f64, f64)> {
        self.points
    }
}

/// `of` n, or "none".
pub fn of(count: usize, all: usize) -> impl fmt::Display {
    match count {
        0 => format!("none of {all}"),
        count => format!("{count} of {all}"),
    }
}
