//! What the scenarios have in common: callers, what became of them, and samples over
//! time.

use std::fmt;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool};

/// What became of one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Served,
    /// It got an error, which said this.
    Error(String),
    /// It has none: it still waits.
    None,
}

/// One caller of a crowd.
#[derive(Clone, Debug)]
pub struct Caller {
    pub waited: Duration,
    pub answer: Answer,
}

pub fn count(callers: &[Caller], of: impl Fn(&Answer) -> bool) -> usize {
    callers.iter().filter(|caller| of(&caller.answer)).count()
}

/// What the pool says is wrong with it, from two looks at it: to be called on a thread
/// beside the load. They are up to a second apart.
pub fn diagnose<M: ManageConnection>(pool: &Pool<M>, apart: Duration) -> String {
    let apart = apart.clamp(Duration::from_millis(50), Duration::from_secs(1));
    pool.diagnose_over(apart).expect("BUG: a legal span").to_string()
}

/// The value below which this part of all values lies.
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    match sorted.len() {
        0 => Duration::ZERO,
        len => sorted[((len as f64 * part) as usize).min(len - 1)],
    }
}

/// A span as people read it.
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
