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
    /// Of the whole operation: get, work and return.
    WholeP99,
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
const WITHOUT_PING: &str = "r2d2 without ping";
/// A contestant of the bench `postgres`: fairpool with a check at each get, as r2d2 has it.
const CHECKED: &str = "fairpool, checked";
const HIKARI: &str = "HikariCP";

const fn goal(cell: &'static str, figure: Figure, other: &'static str, bound: Bound) -> Goal {
    Goal { part: "checkout", cell, own: FAIRPOOL, figure, other, bound, stretch: false }
}

const fn stretch(cell: &'static str) -> Goal {
    Goal { stretch: true, ..goal(cell, Figure::Throughput, HIKARI, AtLeast(1.0)) }
}

const fn postgres(cell: &'static str, figure: Figure, other: &'static str, bound: Bound) -> Goal {
    Goal { part: "postgres", ..goal(cell, figure, other, bound) }
}

/// At least so many times the queries of r2d2, and of r2d2 without its ping.
const fn by_key(cell: &'static str, r2d2: f64, without_ping: f64) -> [Goal; 2] {
    [
        postgres(cell, Figure::Throughput, R2D2, AtLeast(r2d2)),
        postgres(cell, Figure::Throughput, WITHOUT_PING, AtLeast(without_ping)),
    ]
}

/// No less throughput than r2d2 without its ping, in an order that bounds the waits.
const fn in_order(cell: &'static str) -> [Goal; 2] {
    [
        postgres(cell, Figure::Throughput, WITHOUT_PING, AtLeast(1.0)),
        postgres(cell, Figure::P99, WITHOUT_PING, AtMost(1.0 / 3.0)),
    ]
}

/// The same where both check each connection.
const fn checked(cell: &'static str) -> [Goal; 2] {
    [
        Goal { own: CHECKED, ..postgres(cell, Figure::Throughput, R2D2, AtLeast(1.0)) },
        Goal { own: CHECKED, ..postgres(cell, Figure::P99, R2D2, AtMost(1.0 / 3.0)) },
    ]
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

const BY_KEY: [[Goal; 2]; 4] = [
    by_key("1 / 1 / by key", 3.0, 2.0),
    by_key("8 / 8 / by key", 4.0, 3.3),
    by_key("32 / 8 / by key", 4.0, 3.3),
    by_key("64 / 8 / by key", 4.0, 3.3),
];

/// Of queries by key, beside their throughput: the limit is a connection of the thread's own.
const WHOLE: [Goal; 2] = [
    postgres("1 / 1 / by key", Figure::Throughput, "postgres::Client", AtLeast(0.95)),
    postgres("32 / 8 / by key", Figure::WholeP99, R2D2, AtMost(1.0 / 4.0)),
];

/// Where threads wait for connections.
const IN_ORDER: [[Goal; 2]; 6] = [
    in_order("32 / 8 / transaction"),
    in_order("64 / 8 / transaction"),
    in_order("32 / 8 / BEGIN, UPDATE, COMMIT"),
    in_order("64 / 8 / BEGIN, UPDATE, COMMIT"),
    in_order("32 / 8 / SELECT 1"),
    in_order("64 / 8 / SELECT 1"),
];

const SELECT_1: [Goal; 2] = [
    postgres("32 / 8 / SELECT 1", Figure::Throughput, R2D2, AtLeast(1.7)),
    postgres("32 / 8 / SELECT 1", Figure::P99, R2D2, AtMost(1.0 / 5.0)),
];

const CHECKS: [[Goal; 2]; 2] = [checked("32 / 8 / SELECT 1"), checked("64 / 8 / SELECT 1")];

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
    SINGLE.into_iter().chain(sleeping).chain(postgres_goals()).chain(watched).chain(TASKS).collect()
}

fn postgres_goals() -> impl Iterator<Item = Goal> {
    let order = IN_ORDER.into_iter().flatten().chain(SELECT_1);
    let checks = CHECKS.into_iter().flatten();
    BY_KEY.into_iter().flatten().chain(WHOLE).chain(order).chain(checks)
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
            // Older results have no times of whole operations.
            Figure::WholeP99 if !own.has_wholes() => return None,
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
            Figure::WholeP99 => |figures| figures.whole_p99,
            Figure::Jain => |figures| figures.jain,
        }
    }

    fn named(self, other: &str) -> String {
        match self {
            Figure::Throughput => format!("throughput × {other}"),
            Figure::P99 => format!("p99 wait × {other}"),
            Figure::P999 => format!("p99.9 wait × {other}"),
            Figure::Max => format!("longest wait × {other}"),
            Figure::WholeP99 => format!("p99 of the whole × {other}"),
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
