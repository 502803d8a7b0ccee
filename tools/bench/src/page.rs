//! The page of results, made from the JSON of all parts that have results.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::goals::{self, Outcome};
use crate::report::Report;
use crate::table::{self, Table};
use crate::{bounds, chart, queries};

/// A part of the suite as the page shows it.
struct Part {
    name: &'static str,
    title: &'static str,
    text: &'static str,
    /// The contestants with whose throughput the others are compared.
    references: &'static [&'static str],
    charts: &'static [Chart],
}

#[derive(Clone, Copy)]
enum Chart {
    /// Queries of this kind, as a user sees them.
    Queries(&'static str),
    Throughput,
    Waits,
    Bounds,
}

const PARTS: [Part; 8] = [
    Part {
        name: "postgres",
        title: "What a user sees: PostgreSQL",
        text: include_str!("page/postgres.md"),
        references: &["r2d2", "r2d2 without ping"],
        charts: &[Chart::Queries("by key"), Chart::Waits],
    },
    Part {
        name: "mysql",
        title: "What a user sees: MySQL",
        text: include_str!("page/mysql.md"),
        references: &["mysql::Pool", "mysql::Pool without ping and reset"],
        charts: &[Chart::Queries("prepared"), Chart::Waits],
    },
    Part {
        name: "checkout",
        title: "What the pool costs: a driver that does nothing",
        text: include_str!("page/checkout.md"),
        references: &["r2d2", "Mutex<Vec>"],
        charts: &[Chart::Throughput, Chart::Waits],
    },
    Part {
        name: "growth",
        title: "Many waiters, many connections",
        text: include_str!("page/growth.md"),
        references: &[],
        charts: &[],
    },
    Part {
        name: "fairness",
        title: "The fairness bound",
        text: include_str!("page/fairness.md"),
        references: &["Strict"],
        charts: &[Chart::Bounds],
    },
    Part {
        name: "watching",
        title: "The cost of observers",
        text: include_str!("page/watching.md"),
        references: &["not observed"],
        charts: &[],
    },
    Part {
        name: "tasks",
        title: "Tasks instead of threads",
        text: include_str!("page/tasks.md"),
        references: &["threads"],
        charts: &[],
    },
    Part {
        name: "day",
        title: "A day with 1,024 connections and 10,000 waiters",
        text: include_str!("page/day.md"),
        references: &[],
        charts: &[],
    },
];

/// Draws the charts and writes `README.md` in the folder of results.
pub fn write(folder: &Path) {
    let found = PARTS.iter().filter_map(|part| Some((part, Report::read(folder, part.name)?)));
    let found: Vec<(&Part, Report)> = found.collect();
    let mut page = String::from(include_str!("page/head.md"));
    let outcomes = found.iter().flat_map(|(_, report)| goals::check(report));
    page.push_str(&goals_table(outcomes));
    for (part, report) in &found {
        part.draw(report, folder);
        page.push_str(&part.section(report));
    }
    fs::write(folder.join("README.md"), page).expect("the page can be written");
}

fn goals_table(outcomes: impl Iterator<Item = Outcome>) -> String {
    let row = |outcome: Outcome| {
        let met = match (outcome.met, outcome.stretch) {
            (true, _) => "met",
            (false, true) => "not met (wished for)",
            (false, false) => "**not met**",
        };
        vec![outcome.cell, outcome.goal, outcome.measured, met.to_string()]
    };
    let header = ["cell", "goal", "measured", ""].map(String::from).to_vec();
    Table { header, rows: outcomes.map(row).collect() }.markdown()
}

impl Chart {
    fn name(self) -> &'static str {
        match self {
            Chart::Queries(_) => "queries",
            Chart::Throughput => "throughput",
            Chart::Waits => "waits",
            Chart::Bounds => "bounds",
        }
    }

    /// Whether these results have what it shows.
    fn fits(self, report: &Report) -> bool {
        match self {
            Chart::Queries(work) => !queries::cells(report, work).is_empty(),
            _ => true,
        }
    }
}

impl Part {
    fn charts(&self, report: &Report) -> impl Iterator<Item = Chart> {
        self.charts.iter().copied().filter(|chart| chart.fits(report))
    }

    fn file(&self, chart: Chart) -> String {
        format!("{}-{}.svg", self.name, chart.name())
    }

    fn draw(&self, report: &Report, folder: &Path) {
        for chart in self.charts(report) {
            let name = self.file(chart);
            let file = folder.join(&name);
            let drawn = match chart {
                Chart::Queries(work) => queries::draw(report, work, &file),
                Chart::Throughput => chart::throughput(report, self.references[0], &file),
                Chart::Waits => chart::waits(report, &file),
                Chart::Bounds => bounds::draw(report, &file),
            };
            drawn.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    fn section(&self, report: &Report) -> String {
        let mut text = format!("\n## {}\n\n{}\n{}", self.title, self.text, conditions(report));
        for chart in self.charts(report) {
            let _ = writeln!(text, "![{}]({})\n", chart.name(), self.file(chart));
        }
        for cell in &report.cells {
            let table = table::of_cell(cell, self.references).markdown();
            let _ = writeln!(text, "### {}\n\n{table}", cell.name);
        }
        match self.name {
            _ if report.growth.is_empty() => {}
            "day" => text.push_str(&table::side_by_side(&report.growth).markdown()),
            _ => text.push_str(&table::of_growth(&report.growth).markdown()),
        }
        text
    }
}

/// The machine, the versions and the notes.
fn conditions(report: &Report) -> String {
    let machine = &report.machine;
    let versions = machine.versions.iter().map(|(name, version)| format!("{name} {version}"));
    let versions: Vec<String> = versions.collect();
    let changed = if machine.changed_since_commit { ", with changes" } else { "" };
    let mut text = format!(
        "{}: {} cores of {}, {}; {}; {}. Commit {}{changed}. {} rounds, passes of {} ms and, with \
         a hold, {} ms.\n\n",
        machine.date,
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.rustc,
        versions.join(", "),
        machine.commit,
        report.rounds,
        report.millis,
        3 * report.millis,
    );
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    if !report.notes.is_empty() {
        text.push('\n');
    }
    text
}
