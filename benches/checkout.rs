//! The cost of a get and its return with a driver that does nothing, and how long
//! threads wait. Contestants: fairpool, r2d2, two stores without a queue (a bare
//! `Mutex<Vec>` and an `ArrayQueue`), and in processes of their own HikariCP and Go's
//! `database/sql`.
//!
//! Run it with `scripts/bench checkout`; `cargo bench --bench checkout -- --help` shows
//! the options. The first lines of `docs/benchmarks/README.md` explain the method. Under
//! `cargo test` one short round shows that it runs.

use std::time::Duration;

use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::peers::{self, Peer};
use fairpool_bench::progress::Progress;
use fairpool_bench::report::{CellReport, Report};
use fairpool_bench::rounds::{self, Contestant, local};
use fairpool_bench::settings::{Defaults, Settings};
use fairpool_bench::stub::{BareMutex, Fairpool, Queue, R2d2};
use fairpool_bench::table;

const fn cell(threads: usize, connections: u32, hold: Hold) -> Cell {
    Cell { threads, connections, hold }
}

const MILLISECOND: Hold = Hold::Sleeping(Duration::from_millis(1));

const CELLS: [Cell; 11] = [
    cell(1, 1, Hold::None),
    cell(2, 2, Hold::None),
    cell(2, 1, Hold::None),
    cell(8, 4, Hold::None),
    cell(32, 4, Hold::None),
    cell(32, 16, Hold::None),
    cell(8, 4, Hold::Busy(Duration::from_micros(10))),
    cell(32, 4, Hold::Sleeping(Duration::from_micros(100))),
    cell(32, 8, MILLISECOND),
    cell(256, 16, MILLISECOND),
    cell(1024, 32, MILLISECOND),
];

/// The tables show ratios to these first.
const REFERENCES: [&str; 2] = ["r2d2", "Mutex<Vec>"];

/// With sleeping holds, stores that spin while they wait would take all of the CPU.
fn with_spinners(cell: &Cell) -> bool {
    !matches!(cell.hold, Hold::Sleeping(_))
}

/// New pools, with all their connections open.
fn contestants<'a>(cell: &Cell, peers: &'a mut [Peer]) -> Vec<Box<dyn Contestant + 'a>> {
    let connections = cell.connections;
    let mut contestants = vec![
        local("fairpool", Fairpool::new(connections, |defaults| defaults)),
        local("r2d2", R2d2::new(connections, true)),
        local("r2d2 without ping", R2d2::new(connections, false)),
    ];
    if with_spinners(cell) {
        contestants.push(local("Mutex<Vec>", BareMutex::new(connections)));
        contestants.push(local("ArrayQueue", Queue::new(connections)));
    }
    contestants.extend(peers.iter_mut().map(|peer| Box::new(peer) as Box<dyn Contestant>));
    contestants
}

fn measure(settings: &Settings, peers: &mut [Peer]) -> Vec<CellReport> {
    let mut cells = CELLS.to_vec();
    cells.retain(|cell| settings.wants(&cell.to_string()));
    let turns = |cell: &Cell| 3 + peers.len() + if with_spinners(cell) { 2 } else { 0 };
    let turns: usize = cells.iter().map(turns).sum();
    let progress = Progress::new(turns * settings.rounds as usize);
    let mut reports = Vec::new();
    for cell in &cells {
        let mut contestants = contestants(cell, peers);
        let name = cell.to_string();
        let report = rounds::measure(name, cell, &mut contestants, settings, &progress);
        let table = table::of_cell(&report, &REFERENCES).text();
        progress.say(&format!("{} (threads / connections / hold)\n{table}", report.name));
        reports.push(report);
    }
    reports
}

fn main() {
    let defaults = Defaults { rounds: 7, millis: 400, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let (mut peers, notes) = peers::start(&settings);
    for line in &notes {
        println!("{line}");
    }
    let mut machine = Machine::inspect();
    for peer in &peers {
        machine.versions.insert(peer.name.to_string(), peer.version.clone());
    }
    let cells = measure(&settings, &mut peers);
    let report = Report::new("checkout", machine, &settings, notes, cells);
    fairpool_bench::finish(&report, &settings);
}
