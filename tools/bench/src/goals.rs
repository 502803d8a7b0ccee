//! The goals for speed, and whether results meet them.

use crate::growth::{ALL_IDLE, ALL_LENT, Growth, MASS_CANCEL, MASS_TIMEOUT, PAST_A_QUEUE};
use crate::report::{CellReport, ContestantReport, Figures, Report};
use crate::table::{count, times};

/// The figure of a goal, as a multiple of another contestant's.
#[derive(Clone, Copy)]
enum Figure {
    Throughput,
    P99,
    P999,
    Max,
    /// Itself, not a multiple.
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
    /// The contestant whose figure it is.
    own: &'static str,
    figure: Figure,
    other: &'static str,
    bound: Bound,
    /// Wished for, not required.
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

const fn goal(cell: &'static str, figure: Figure, other: &'static str, bound: Bound) -> Goal {
    Goal { part: "checkout", cell, own: FAIRPOOL, figure, other, bound, stretch: false }
}

const fn stretch(cell: &'static str) -> Goal {
    Goal { stretch: true, ..goal(cell, Figure::Throughput, HIKARI, AtLeast(1.0)) }
}

const fn postgres(figure: Figure, other: &'static str, bound: Bound) -> Goal {
    Goal { part: "postgres", ..goal("32 / 8 / SELECT 1", figure, other, bound) }
}

const fn watched(cell: &'static str, own: &'static str, at_least: f64) -> Goal {
    Goal {
        part: "watching",
        own,
        ..goal(cell, Figure::Throughput, "not observed", AtLeast(at_least))
    }
}

/// A contestant of the bench `tasks`.
const INTERACT: &str = "tasks that call `interact`";

const fn in_crowd(own: &'static str, figure: Figure, at_most: f64) -> Goal {
    Goal {
        part: "tasks",
        own,
        ..goal("10000 / 8 / 1ms asleep", figure, "threads", AtMost(at_most))
    }
}

const SINGLE: [Goal; 12] = [
    goal("1 / 1 / 0", Figure::Throughput, "Mutex<Vec>", AtLeast(0.5)),
    goal("1 / 1 / 0", Figure::Throughput, R2D2, AtLeast(6.0)),
    goal("2 / 2 / 0", Figure::Throughput, R2D2, AtLeast(4.0)),
    goal("2 / 1 / 0", Figure::Throughput, R2D2, AtLeast(4.0)),
    goal("8 / 4 / 0", Figure::Throughput, HIKARI, AtLeast(1.0)),
    goal("8 / 4 / 0", Figure::Throughput, R2D2, AtLeast(5.0)),
    goal("32 / 4 / 0", Figure::Throughput, R2D2, AtLeast(3.0)),
    stretch("32 / 4 / 0"),
    goal("32 / 16 / 0", Figure::Throughput, R2D2, AtLeast(3.0)),
    stretch("32 / 16 / 0"),
    goal("8 / 4 / 10µs busy", Figure::Throughput, R2D2, AtLeast(1.0)),
    goal("8 / 4 / 10µs busy", Figure::P999, R2D2, AtMost(0.5)),
];

const SLEEPING: [&str; 4] = [
    "32 / 4 / 100µs asleep",
    "32 / 8 / 1ms asleep",
    "256 / 16 / 1ms asleep",
    "1024 / 32 / 1ms asleep",
];

const POSTGRES: [Goal; 4] = [
    postgres(Figure::Throughput, R2D2, AtLeast(1.7)),
    postgres(Figure::P99, R2D2, AtMost(1.0 / 5.0)),
    postgres(Figure::Throughput, "r2d2 without ping", AtLeast(1.0)),
    postgres(Figure::P99, "r2d2 without ping", AtMost(1.0 / 3.0)),
];

const TASKS: [Goal; 2] =
    [in_crowd(INTERACT, Figure::P99, 1.0), in_crowd(INTERACT, Figure::Max, 1.0)];

/// The cells of the bench `watching`.
const WATCHED: [&str; 5] =
    ["1 / 1 / 0", "8 / 4 / 0", "1 / 1 / 10µs busy", "8 / 4 / 10µs busy", "32 / 8 / 1ms asleep"];

/// Subjects that must cost the same at every size.
const CONSTANT: [&str; 3] = [PAST_A_QUEUE, ALL_IDLE, ALL_LENT];
/// Subjects that may grow in proportion to the size, but no faster.
const LINEAR: [&str; 2] = [MASS_TIMEOUT, MASS_CANCEL];
/// A constant figure may grow by this factor from the smallest size to the largest, and
/// a figure that is proportional to the size by this factor more than the size.
const LIMIT: f64 = 1.5;

fn all() -> Vec<Goal> {
    let sleeping = SLEEPING.into_iter().flat_map(|cell| {
        [
            goal(cell, Figure::Throughput, R2D2, AtLeast(1.0)),
            goal(cell, Figure::P99, R2D2, AtMost(1.0 / 4.0)),
            goal(cell, Figure::Max, R2D2, AtMost(1.0 / 6.0)),
            goal(cell, Figure::Jain, "", AtLeast(0.99)),
        ]
    });
    let watched = WATCHED
        .into_iter()
        .flat_map(|cell| [watched(cell, "a subscriber", 0.85), watched(cell, "inspector", 0.95)]);
    SINGLE.into_iter().chain(sleeping).chain(POSTGRES).chain(watched).chain(TASKS).collect()
}

/// The goals that can be checked with these results.
pub fn check(report: &Report) -> Vec<Outcome> {
    let goals = all().into_iter().filter(|goal| goal.part == report.part);
    let outcomes = goals.filter_map(|goal| goal.check(report.cell(goal.cell)?));
    outcomes.chain(growth(&report.growth)).collect()
}

/// The goals for growth, from the smallest size to the largest.
fn growth(figures: &[Growth]) -> Vec<Outcome> {
    let constant = CONSTANT.iter().filter_map(|subject| growth_of(figures, subject, false));
    constant.chain(LINEAR.iter().filter_map(|subject| growth_of(figures, subject, true))).collect()
}

fn growth_of(figures: &[Growth], subject: &str, linear: bool) -> Option<Outcome> {
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

impl Goal {
    fn check(&self, cell: &CellReport) -> Option<Outcome> {
        let own = cell.contestant(self.own)?;
        let (value, measured) = match self.figure {
            Figure::Jain => (own.medians.jain, format!("{:.4}", own.medians.jain)),
            _ => self.compare(own, cell.contestant(self.other)?),
        };
        Some(Outcome {
            cell: format!("{}: {}", self.part, self.cell),
            goal: format!(
                "{}{} {}",
                self.subject(),
                self.figure.named(self.other),
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

    /// The ratio, and as text with the lowest and the highest of the rounds.
    fn compare(&self, own: &ContestantReport, other: &ContestantReport) -> (f64, String) {
        let value = own.ratio(other, self.figure.figure());
        let (lowest, highest) = own.ratio_spread(other, self.figure.figure());
        let mut text = format!("{} ({} – {})", times(value), times(lowest), times(highest));
        if matches!(self.figure, Figure::Max) {
            let longest = own.longest as f64 / other.longest as f64;
            text += &format!("; longest of all rounds: {}", times(longest));
        }
        (value, text)
    }
}

impl Figure {
    fn figure(self) -> fn(&Figures) -> f64 {
        match self {
            Figure::Throughput => |figures| figures.operations_per_second,
            Figure::P99 => |figures| figures.wait_p99,
            Figure::P999 => |figures| figures.wait_p999,
            Figure::Max => |figures| figures.wait_max,
            Figure::Jain => |figures| figures.jain,
        }
    }

    fn named(self, other: &str) -> String {
        match self {
            Figure::Throughput => format!("throughput × {other}"),
            Figure::P99 => format!("p99 wait × {other}"),
            Figure::P999 => format!("p99.9 wait × {other}"),
            Figure::Max => format!("longest wait × {other}"),
            Figure::Jain => "Jain's index".to_string(),
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
