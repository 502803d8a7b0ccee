//! The results of a bench, as they are kept in JSON. Tables, charts, goals and the page
//! are made from them alone.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::growth::{Growth, median};
use crate::machine::Machine;
use crate::pass::Pass;
use crate::settings::Settings;
use crate::waits::{self, Waits};

/// The results of one bench.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// The name of the bench.
    pub(crate) part: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    /// The length of a pass without a hold.
    pub(crate) millis: u64,
    /// What a reader must know, such as which contestant was not measured.
    pub(crate) notes: Vec<String>,
    pub(crate) cells: Vec<CellReport>,
    /// Figures that have sizes instead of cells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub growth: Vec<Growth>,
}

/// The results of one cell.
#[derive(Serialize, Deserialize)]
pub struct CellReport {
    /// The name of the cell.
    pub name: String,
    threads: usize,
    connections: u32,
    /// `none`, `busy`, `sleeping` or `driver`.
    hold: String,
    hold_nanos: u64,
    pub(crate) contestants: Vec<ContestantReport>,
}

/// The results of one contestant in a cell.
#[derive(Serialize, Deserialize)]
pub(crate) struct ContestantReport {
    pub name: String,
    /// Why rounds are missing.
    pub failed: Option<String>,
    pub medians: Figures,
    pub rounds: Vec<Figures>,
    /// The waits of all rounds together: see [`waits::curve`].
    pub waits: Vec<(f64, u64)>,
    /// The longest wait of all rounds, in nanoseconds.
    pub longest: u64,
    /// The longest operation of all rounds, in nanoseconds; 0 if operations were not timed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub longest_whole: u64,
}

/// The figures of one contestant in one round; waits and wholes are in nanoseconds. A whole is
/// an operation from before the get to after the return; 0 if operations were not timed.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub operations_per_second: f64,
    pub nanos_per_operation: f64,
    pub wait_p50: f64,
    pub wait_p99: f64,
    pub wait_p999: f64,
    pub wait_max: f64,
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub whole_p50: f64,
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub whole_p99: f64,
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub whole_max: f64,
    pub jain: f64,
    pub switches_per_operation: f64,
}

impl Figures {
    /// Throughput is of one pass, waits and fairness are of a timed one. With a hold both
    /// are the same pass.
    pub fn of(throughput: &Pass, timed: &Pass) -> Figures {
        let wait = |quantile| timed.waits.value_at_quantile(quantile) as f64;
        let whole = |quantile| timed.wholes.value_at_quantile(quantile) as f64;
        let rate = throughput.operations_per_second();
        Figures {
            operations_per_second: rate,
            nanos_per_operation: 1e9 / rate,
            wait_p50: wait(0.5),
            wait_p99: wait(0.99),
            wait_p999: wait(0.999),
            wait_max: timed.waits.max() as f64,
            whole_p50: whole(0.5),
            whole_p99: whole(0.99),
            whole_max: timed.wholes.max() as f64,
            jain: timed.jain(),
            switches_per_operation: throughput.switches_per_operation(),
        }
    }

    /// The median of each figure.
    pub fn medians(rounds: &[Figures]) -> Figures {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
        Figures {
            operations_per_second: of(|round| round.operations_per_second),
            nanos_per_operation: of(|round| round.nanos_per_operation),
            wait_p50: of(|round| round.wait_p50),
            wait_p99: of(|round| round.wait_p99),
            wait_p999: of(|round| round.wait_p999),
            wait_max: of(|round| round.wait_max),
            whole_p50: of(|round| round.whole_p50),
            whole_p99: of(|round| round.whole_p99),
            whole_max: of(|round| round.whole_max),
            jain: of(|round| round.jain),
            switches_per_operation: of(|round| round.switches_per_operation),
        }
    }
}

impl CellReport {
    pub(crate) fn new(cell: &Cell, name: String, contestants: Vec<ContestantReport>) -> CellReport {
        CellReport {
            name,
            threads: cell.threads,
            connections: cell.connections,
            hold: cell.hold.kind().to_string(),
            hold_nanos: cell.hold.span().as_nanos() as u64,
            contestants,
        }
    }

    /// Whether its waits say anything: not with a driver and a connection for each thread.
    pub(crate) fn has_queue(&self) -> bool {
        self.hold != "driver" || self.threads > self.connections as usize
    }

    /// The contestant of this name, if it was measured.
    pub(crate) fn contestant(&self, name: &str) -> Option<&ContestantReport> {
        self.contestants.iter().find(|one| one.name == name && !one.rounds.is_empty())
    }
}

impl ContestantReport {
    pub fn new(
        name: String,
        rounds: Vec<Figures>,
        all: &Waits,
        wholes: &Waits,
        failed: Option<String>,
    ) -> ContestantReport {
        let (medians, waits) = (Figures::medians(&rounds), waits::curve(all));
        let (longest, longest_whole) = (all.max(), wholes.max());
        ContestantReport { name, failed, medians, rounds, waits, longest, longest_whole }
    }

    /// Whether operations were timed, not only waits.
    pub fn has_wholes(&self) -> bool {
        self.longest_whole > 0
    }

    /// The lowest and the highest operations per second of the rounds.
    pub fn spread(&self) -> (f64, f64) {
        let rates = || self.rounds.iter().map(|round| round.operations_per_second);
        (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max))
    }

    /// The median of the ratios to another contestant in the same round. Noise that
    /// affects both alike cancels out.
    pub fn ratio(&self, other: &ContestantReport, figure: fn(&Figures) -> f64) -> f64 {
        median(self.ratios(other, figure))
    }

    /// The lowest and the highest ratio of the rounds.
    pub fn ratio_spread(&self, other: &Self, figure: fn(&Figures) -> f64) -> (f64, f64) {
        let ratios = || self.ratios(other, figure);
        (ratios().fold(f64::MAX, f64::min), ratios().fold(0.0, f64::max))
    }

    fn ratios(&self, other: &Self, figure: fn(&Figures) -> f64) -> impl Iterator<Item = f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        pairs.map(move |(own, other)| figure(own) / figure(other).max(f64::MIN_POSITIVE))
    }
}

impl Report {
    /// The results of `cells`; a contestant that failed is added to the notes.
    pub fn new(
        part: &str,
        machine: Machine,
        settings: &Settings,
        mut notes: Vec<String>,
        cells: Vec<CellReport>,
    ) -> Report {
        for cell in &cells {
            let failed =
                cell.contestants.iter().filter_map(|one| Some((one, one.failed.as_ref()?)));
            notes.extend(
                failed.map(|(one, why)| format!("failed: {} in {}: {why}", one.name, cell.name)),
            );
        }
        let (rounds, millis) = (settings.rounds, settings.length.as_millis() as u64);
        let growth = Vec::new();
        Report { part: part.to_string(), machine, rounds, millis, notes, cells, growth }
    }

    pub(crate) fn cell(&self, name: &str) -> Option<&CellReport> {
        self.cells.iter().find(|cell| cell.name == name)
    }

    pub(crate) fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder for the results");
        let text = serde_json::to_string_pretty(self).expect("BUG: a report is plain data");
        fs::write(file(folder, &self.part), compact(&text)).expect("the results can be written");
    }

    /// Reads results; `None` if there are none.
    pub(crate) fn read(folder: &Path, part: &str) -> Option<Report> {
        let text = fs::read_to_string(file(folder, part)).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{part}.json: {error}")))
    }
}

fn is_zero(nanos: &u64) -> bool {
    *nanos == 0
}

fn is_nothing(nanos: &f64) -> bool {
    *nanos == 0.0
}

fn file(folder: &Path, part: &str) -> std::path::PathBuf {
    folder.join(format!("{part}.json"))
}

/// Writes each innermost list or object on one line, instead of a line for each number.
fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The last opening line and the lines after it.
    let mut pending: Vec<&str> = Vec::new();
    for line in text.lines() {
        if line.ends_with(['[', '{']) {
            flush(&mut out, &mut pending);
            pending.push(line);
        } else if pending.is_empty() {
            out.push_str(line);
            out.push('\n');
        } else if line.trim_start().starts_with([']', '}']) {
            out.push_str(pending.remove(0));
            let items: Vec<&str> = pending.drain(..).map(str::trim).collect();
            out.push_str(&items.join(" "));
            out.push_str(line.trim_start());
            out.push('\n');
        } else {
            pending.push(line);
        }
    }
    out
}

fn flush(out: &mut String, pending: &mut Vec<&str>) {
    for line in pending.drain(..) {
        out.push_str(line);
        out.push('\n');
    }
}
