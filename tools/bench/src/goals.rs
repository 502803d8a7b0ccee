//! The goals of speed, and whether the results meet them.

use crate::growth;
use crate::report::{CellReport, ContestantReport, Figures, Report};
use crate::table::times;

/// How a figure of fairpool's compares with another's, or what it is.
#[derive(Clone, Copy)]
enum What {
    Throughput,
    P99,
    P999,
    Max,
    /// Not compared with anybody.
    Jain,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

struct Goal {
    part: &'static str,
    cell: &'static str,
    /// The contestant that it is about.
    own: &'static str,
    what: What,
    other: &'static str,
    bound: Bound,
    /// Wished for, not demanded.
    stretch: bool,
}

pub struct Outcome {
    pub cell: String,
    pub goal: String,
    pub measured: String,
    pub met: bool,
    pub stretch: bool,
}

const FAIRPOOL: &str = "fairpool";
const R2D2: &str = "r2d2";
const HIKARI: &str = "HikariCP";

const fn goal(cell: &'static str, what: What, other: &'static str, bound: Bound) -> Goal {
    Goal { part: "checkout", cell, own: FAIRPOOL, what, other, bound, stretch: false }
}

const fn stretch(cell: &'static str) -> Goal {
    Goal { stretch: true, ..goal(cell, What::Throughput, HIKARI, AtLeast(1.0)) }
}

const fn postgres(what: What, other: &'static str, bound: Bound) -> Goal {
    Goal { part: "postgres", ..goal("32 / 8 / SELECT 1", what, other, bound) }
}

const fn watched(cell: &'static str, own: &'static str, at_least: f64) -> Goal {
    Goal { part: "watching", own, ..goal(cell, What::Throughput, "nobody", AtLeast(at_least)) }
}

const SINGLE: [Goal; 12] = [
    goal("1 / 1 / 0", What::Throughput, "Mutex<Vec>", AtLeast(0.5)),
    goal("1 / 1 / 0", What::Throughput, R2D2, AtLeast(6.0)),
    goal("2 / 2 / 0", What::Throughput, R2D2, AtLeast(4.0)),
    goal("2 / 1 / 0", What::Throughput, R2D2, AtLeast(4.0)),
    goal("8 / 4 / 0", What::Throughput, HIKARI, AtLeast(1.0)),
    goal("8 / 4 / 0", What::Throughput, R2D2, AtLeast(5.0)),
    goal("32 / 4 / 0", What::Throughput, R2D2, AtLeast(3.0)),
    stretch("32 / 4 / 0"),
    goal("32 / 16 / 0", What::Throughput, R2D2, AtLeast(3.0)),
    stretch("32 / 16 / 0"),
    goal("8 / 4 / 10µs busy", What::Throughput, R2D2, AtLeast(1.0)),
    goal("8 / 4 / 10µs busy", What::P999, R2D2, AtMost(0.5)),
];

const SLEEPING: [&str; 4] = [
    "32 / 4 / 100µs asleep",
    "32 / 8 / 1ms asleep",
    "256 / 16 / 1ms asleep",
    "1024 / 32 / 1ms asleep",
];

const POSTGRES: [Goal; 4] = [
    postgres(What::Throughput, R2D2, AtLeast(1.7)),
    postgres(What::P99, R2D2, AtMost(1.0 / 5.0)),
    postgres(What::Throughput, "r2d2 without ping", AtLeast(1.0)),
    postgres(What::P99, "r2d2 without ping", AtMost(1.0 / 3.0)),
];

/// As in `benches/watching.rs`.
const WATCHED: [&str; 5] =
    ["1 / 1 / 0", "8 / 4 / 0", "1 / 1 / 10µs busy", "8 / 4 / 10µs busy", "32 / 8 / 1ms asleep"];

fn all() -> Vec<Goal> {
    let sleeping = SLEEPING.into_iter().flat_map(|cell| {
        [
            goal(cell, What::Throughput, R2D2, AtLeast(1.0)),
            goal(cell, What::P99, R2D2, AtMost(1.0 / 4.0)),
            goal(cell, What::Max, R2D2, AtMost(1.0 / 6.0)),
            goal(cell, What::Jain, "", AtLeast(0.99)),
        ]
    });
    let watched = WATCHED
        .into_iter()
        .flat_map(|cell| [watched(cell, "a subscriber", 0.85), watched(cell, "inspector", 0.95)]);
    SINGLE.into_iter().chain(sleeping).chain(POSTGRES).chain(watched).collect()
}

/// The goals that these results have something to say about.
pub fn check(report: &Report) -> Vec<Outcome> {
    let goals = all().into_iter().filter(|goal| goal.part == report.part);
    let outcomes = goals.filter_map(|goal| goal.check(report.cell(goal.cell)?));
    outcomes.chain(growth::check(&report.growth)).collect()
}

impl Goal {
    fn check(&self, cell: &CellReport) -> Option<Outcome> {
        let own = cell.contestant(self.own)?;
        let (value, measured) = match self.what {
            What::Jain => (own.medians.jain, format!("{:.4}", own.medians.jain)),
            _ => self.compare(own, cell.contestant(self.other)?),
        };
        Some(Outcome {
            cell: format!("{}: {}", self.part, self.cell),
            goal: format!(
                "{}{} {}",
                self.subject(),
                self.what.named(self.other),
                self.bound.named()
            ),
            measured,
            met: self.bound.holds(value),
            stretch: self.stretch,
        })
    }

    fn subject(&self) -> String {
        if self.own == FAIRPOOL { String::new() } else { format!("{}: ", self.own) }
    }

    /// The ratio, and how it is told: with the rounds' lowest and highest.
    fn compare(&self, own: &ContestantReport, other: &ContestantReport) -> (f64, String) {
        let value = own.ratio(other, self.what.figure());
        let (lowest, highest) = own.ratio_spread(other, self.what.figure());
        let mut told = format!("{} ({} – {})", times(value), times(lowest), times(highest));
        if matches!(self.what, What::Max) {
            let longest = own.longest as f64 / other.longest as f64;
            told += &format!("; longest of all rounds: {}", times(longest));
        }
        (value, told)
    }
}

impl What {
    fn figure(self) -> fn(&Figures) -> f64 {
        match self {
            What::Throughput => |figures| figures.operations_per_second,
            What::P99 => |figures| figures.wait_p99,
            What::P999 => |figures| figures.wait_p999,
            What::Max => |figures| figures.wait_max,
            What::Jain => |figures| figures.jain,
        }
    }

    fn named(self, other: &str) -> String {
        match self {
            What::Throughput => format!("throughput × {other}"),
            What::P99 => format!("p99 wait × {other}"),
            What::P999 => format!("p99.9 wait × {other}"),
            What::Max => format!("longest wait × {other}"),
            What::Jain => "Jain's index".to_string(),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(bound) => value >= bound,
            AtMost(bound) => value <= bound,
        }
    }

    fn named(self) -> String {
        match self {
            AtLeast(bound) => format!("at least {bound}"),
            AtMost(bound) => format!("at most {}", times(bound)),
        }
    }
}
