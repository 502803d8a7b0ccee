//! The effect of the fairness bound on throughput and on the longest waits, with a driver
//! that does nothing. Run it with `scripts/bench fairness`. Under `cargo test` one short
//! round shows that it runs.

use std::time::Duration;

use fairpool::Fairness;
use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::rounds::{self, Contestant, local};
use fairpool_bench::settings::Defaults;
use fairpool_bench::stub::Fairpool;
use fairpool_bench::table;

/// In microseconds; zero is `Strict`.
const BOUNDS: [u64; 9] = [0, 100, 300, 500, 1000, 2000, 3000, 5000, 10_000];

const fn asleep(connections: u32, micros: u64) -> Cell {
    Cell { threads: 32, connections, hold: Hold::Sleeping(Duration::from_micros(micros)) }
}

const CELLS: [Cell; 6] = [
    Cell { threads: 32, connections: 4, hold: Hold::None },
    Cell { threads: 32, connections: 4, hold: Hold::Busy(Duration::from_micros(10)) },
    asleep(4, 100),
    asleep(4, 300),
    asleep(4, 1000),
    asleep(8, 1000),
];

/// The tables show ratios to this.
const REFERENCE: &str = "Strict";

fn contestant(micros: u64, connections: u32) -> Box<dyn Contestant> {
    let (name, fairness) = match micros {
        0 => (REFERENCE.to_string(), Fairness::Strict),
        _ => {
            let bound = Duration::from_micros(micros);
            (format!("{} ms", micros as f64 / 1000.0), Fairness::Bounded(bound))
        }
    };
    local(&name, Fairpool::new(connections, |pool| pool.fairness(fairness)))
}

fn main() {
    let defaults = Defaults { rounds: 5, millis: 150, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let mut cells = CELLS.to_vec();
    cells.retain(|cell| settings.wants(&cell.to_string()));
    let progress = Progress::new(cells.len() * BOUNDS.len() * settings.rounds as usize);
    let mut reports = Vec::new();
    for cell in &cells {
        let pools = BOUNDS.iter().map(|&micros| contestant(micros, cell.connections));
        let mut pools: Vec<_> = pools.collect();
        let name = cell.to_string();
        let report = rounds::measure(name, cell, &mut pools, &settings, &progress);
        let table = table::of_cell(&report, &[REFERENCE]).text();
        progress.say(&format!("{} (threads / connections / hold)\n{table}", report.name));
        reports.push(report);
    }
    let report = Report::new("fairness", Machine::inspect(), &settings, Vec::new(), reports);
    fairpool_bench::finish(&report, &settings);
}
