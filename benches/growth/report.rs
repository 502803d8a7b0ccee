//! The table, the goals, and the file of results.

use std::fmt;
use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::measure::Row;

/// Whatever costs the same at every size may differ by this factor, and what is
/// in proportion to a size by this factor from it.
const LIMIT: f64 = 1.5;

/// What is to cost the same, whatever the size.
const CONSTANT: [&str; 3] =
    ["get + return past a queue", "get + return, all others idle", "get + return, all others lent"];

/// What may grow in proportion to the size, but no faster.
const LINEAR: [&str; 2] = ["mass timeout: last back after", "mass cancel: last back after"];

pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "what",
        "size",
        "median",
        "from – to",
        "× the smallest",
        "each",
    ]);
    for row in rows {
        let first = rows.iter().find(|first| first.subject == row.subject).unwrap_or(row);
        let from = row.values.iter().copied().fold(f64::MAX, f64::min);
        let to = row.values.iter().copied().fold(0.0, f64::max);
        let each = match row.unit {
            "ms" => format!("{:.2} µs", row.median() * 1e3 / f64::from(row.size)),
            _ => String::new(),
        };
        table.add_row([
            row.subject.to_string(),
            row.size.to_string(),
            format!("{} {}", figure(row.median()), row.unit),
            format!("{} – {}", figure(from), figure(to)),
            format!("{:.2}", row.median() / first.median()),
            each,
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// About three digits.
fn figure(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

/// How something grew from the smallest size to the largest, and how it may.
pub struct Goal {
    text: String,
    growth: f64,
}

impl Goal {
    fn met(&self) -> bool {
        self.growth <= LIMIT
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.met() { "met" } else { "MISSED" };
        write!(f, "{verdict}: {}: {:.2} × (at most {LIMIT} ×)", self.text, self.growth)
    }
}

pub fn goals(rows: &[Row]) -> Vec<Goal> {
    let goal = |subject: &'static str, linear: bool| {
        let mut sizes = rows.iter().filter(|row| row.subject == subject);
        let (first, last) = (sizes.next()?, sizes.next_back()?);
        let growth = last.median() / first.median();
        let (from, to) = (first.size, last.size);
        let share = if linear { f64::from(from) / f64::from(to) } else { 1.0 };
        let each = if linear { ", per waiter" } else { "" };
        Some(Goal { text: format!("{subject}{each}, {to} against {from}"), growth: growth * share })
    };
    let constant = CONSTANT.iter().filter_map(|subject| goal(subject, false));
    constant.chain(LINEAR.iter().filter_map(|subject| goal(subject, true))).collect()
}

pub fn write(rows: &[Row], goals: &[Goal]) {
    let row = |row: &Row| {
        json!({
            "subject": row.subject,
            "size": row.size,
            "unit": row.unit,
            "median": row.median(),
            "rounds": row.values,
        })
    };
    let goal = |goal: &Goal| json!({ "goal": goal.text, "growth": goal.growth, "limit": LIMIT, "met": goal.met() });
    let results: Value = json!({
        "bench": "growth",
        "results": rows.iter().map(row).collect::<Vec<_>>(),
        "goals": goals.iter().map(goal).collect::<Vec<_>>(),
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks");
    fs::create_dir_all(&folder).expect("a folder for results");
    let text = serde_json::to_string_pretty(&results).expect("numbers and texts");
    fs::write(folder.join("growth.json"), text + "\n").expect("a file for results");
}
