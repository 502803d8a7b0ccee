//! Tables, for the terminal and for the page.

use comfy_table::{CellAlignment, presets};

use crate::growth::{Growth, Unit};
use crate::report::{CellReport, ContestantReport};

/// A table; its first column is text, the others are figures.
pub struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// For a terminal, with lines of Unicode.
    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(&self.header);
        for row in &self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |row: &[String]| format!("| {} |\n", row.join(" | "));
        let columns = self.header.len();
        let rule = format!("|---|{}\n", "---:|".repeat(columns.saturating_sub(1)));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}{rows}", line(&self.header))
    }
}

/// The results of a cell: first the throughput as a multiple of each of `references`,
/// then the figures.
pub fn of_cell(cell: &CellReport, references: &[&str]) -> Table {
    let mut references = references.to_vec();
    references.retain(|name| cell.contestant(name).is_some());
    let mut header = vec!["pool".to_string()];
    header.extend(references.iter().map(|name| format!("× {name}")));
    let figures = ["op/s", "from – to", "ns/op", "p50", "p99", "p99.9", "max", "longest", "Jain"];
    header.extend(figures.map(String::from));
    header.push("switches/op".to_string());
    if has_wholes(cell) {
        header.extend(WHOLES.map(String::from));
    }
    let rows = cell.contestants.iter().map(|one| row(cell, one, &references)).collect();
    Table { header, rows }
}

const WHOLES: [&str; 3] = ["whole p50", "whole p99", "whole longest"];

fn has_wholes(cell: &CellReport) -> bool {
    cell.contestants.iter().any(ContestantReport::has_wholes)
}

fn row(cell: &CellReport, one: &ContestantReport, references: &[&str]) -> Vec<String> {
    let name = match &one.failed {
        Some(why) => format!("{} (failed: {why})", one.name),
        None => one.name.clone(),
    };
    let mut row = vec![name];
    if one.rounds.is_empty() {
        let wholes = if has_wholes(cell) { WHOLES.len() } else { 0 };
        row.resize(references.len() + 11 + wholes, String::new());
        return row;
    }
    for reference in references {
        let reference = cell.contestant(reference).expect("BUG: not measured");
        row.push(times(one.ratio(reference, |figures| figures.operations_per_second)));
    }
    let (medians, (lowest, highest)) = (&one.medians, one.spread());
    row.push(count(medians.operations_per_second));
    row.push(format!("{} – {}", count(lowest), count(highest)));
    row.push(count(medians.nanos_per_operation));
    for wait in [medians.wait_p50, medians.wait_p99, medians.wait_p999, medians.wait_max] {
        row.push(span(wait));
    }
    row.push(span(one.longest as f64));
    row.push(format!("{:.3}", medians.jain));
    row.push(format!("{:.2}", medians.switches_per_operation));
    if has_wholes(cell) {
        let wholes = [medians.whole_p50, medians.whole_p99, one.longest_whole as f64];
        row.extend(wholes.map(span));
    }
    row
}

/// One row for each figure that may grow with a size.
pub fn of_growth(figures: &[Growth]) -> Table {
    let header = ["what", "size", "median", "from – to", "× the smallest"];
    let row = |one: &Growth| {
        let smallest = figures.iter().find(|first| first.subject == one.subject);
        growth_row(one, smallest.unwrap_or(one))
    };
    Table { header: header.map(String::from).to_vec(), rows: figures.iter().map(row).collect() }
}

fn growth_row(one: &Growth, smallest: &Growth) -> Vec<String> {
    vec![
        one.subject.clone(),
        count(f64::from(one.size)),
        in_unit(one.unit, one.median()),
        spread(one),
        times(one.median() / smallest.median()),
    ]
}

fn in_unit(unit: Unit, figure: f64) -> String {
    match unit {
        Unit::Nanos => span(figure),
        Unit::Bytes => format!("{} B", count(figure)),
        Unit::Threads | Unit::Callers => count(figure),
        Unit::PerSecond if figure < 100.0 => format!("{figure:.2} /s"),
        Unit::PerSecond => format!("{} /s", count(figure)),
        Unit::Times => format!("{figure:.2}"),
    }
}

fn spread(one: &Growth) -> String {
    let lowest = one.rounds.iter().copied().fold(f64::MAX, f64::min);
    let highest = one.rounds.iter().copied().fold(f64::MIN, f64::max);
    format!("{} – {}", in_unit(one.unit, lowest), in_unit(one.unit, highest))
}

/// One row for each subject and one column for each contestant, whose names are before the
/// subjects: `fairpool: threads at rest`.
pub fn side_by_side(figures: &[Growth]) -> Table {
    let (mut contestants, mut subjects) = (Vec::new(), Vec::new());
    for one in figures {
        let (contestant, subject) = contestant_and_subject(one);
        if !contestants.contains(&contestant) {
            contestants.push(contestant);
        }
        if !subjects.contains(&(subject, one.size)) {
            subjects.push((subject, one.size));
        }
    }
    let cell = |contestant: &str, subject: (&str, u32)| {
        let own = (contestant, subject.0);
        let own = |one: &&Growth| contestant_and_subject(one) == own && one.size == subject.1;
        let text = |one: &Growth| match one.rounds.len() {
            1 => in_unit(one.unit, one.median()),
            _ => format!("{} ({})", in_unit(one.unit, one.median()), spread(one)),
        };
        figures.iter().find(own).map(text).unwrap_or_default()
    };
    let row = |&subject: &(&str, u32)| {
        let mut row = vec![subject.0.to_string(), count(f64::from(subject.1))];
        row.extend(contestants.iter().map(|contestant| cell(contestant, subject)));
        row
    };
    let rows = subjects.iter().map(row).collect();
    let mut header = vec!["what".to_string(), "size".to_string()];
    header.extend(contestants.iter().map(ToString::to_string));
    Table { header, rows }
}

fn contestant_and_subject(one: &Growth) -> (&str, &str) {
    one.subject.split_once(": ").unwrap_or(("", &one.subject))
}

/// A ratio, to about three digits.
pub(crate) fn times(ratio: f64) -> String {
    match ratio {
        0.1..0.9 | 1.1.. => format!("{ratio:.2}"),
        // More digits, so that a reader sees on which side of 1 it is.
        0.9..1.1 => format!("{ratio:.3}"),
        _ => format!("{ratio:.4}"),
    }
}

/// Nanoseconds, in the unit that fits.
pub(crate) fn span(nanos: f64) -> String {
    match nanos {
        1e9.. => format!("{:.2} s", nanos / 1e9),
        1e8.. => format!("{:.0} ms", nanos / 1e6),
        1e6.. => format!("{:.2} ms", nanos / 1e6),
        1e5.. => format!("{:.0} µs", nanos / 1e3),
        1e3.. => format!("{:.1} µs", nanos / 1e3),
        _ => format!("{nanos:.0} ns"),
    }
}

/// Round numbers of nanoseconds, for an axis.
pub(crate) fn tick(nanos: f64) -> String {
    match nanos {
        1e9.. => format!("{} s", nanos / 1e9),
        1e6.. => format!("{} ms", nanos / 1e6),
        1e3.. => format!("{} µs", nanos / 1e3),
        _ => format!("{nanos} ns"),
    }
}

/// A number with commas between the thousands.
pub(crate) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(subject: &str, size: u32, unit: Unit, rounds: &[f64]) -> Growth {
        Growth { subject: subject.to_string(), size, unit, rounds: rounds.to_vec() }
    }

    #[test]
    fn contestants_are_columns_and_a_figure_that_is_missing_is_an_empty_cell() {
        let table = side_by_side(&[
            growth("one: threads", 8, Unit::Threads, &[2.0]),
            growth("one: wake-ups", 8, Unit::PerSecond, &[0.25, 0.5, 0.125]),
            growth("two: threads", 8, Unit::Threads, &[20.0]),
        ]);
        assert_eq!(table.header, ["what", "size", "one", "two"]);
        assert_eq!(table.rows[0], ["threads", "8", "2", "20"]);
        assert_eq!(table.rows[1], ["wake-ups", "8", "0.25 /s (0.12 /s – 0.50 /s)", ""]);
    }
}
