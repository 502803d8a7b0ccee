//! A PostgreSQL server as a user of a pool sees it: queries by primary key, transactions and
//! whole requests, and a round trip with nothing to prepare.
//!
//! The contestants: fairpool; r2d2, with its ping at each checkout and without; on a tokio
//! runtime deadpool-postgres, whose users ask it to keep their statements, and bb8-postgres; and
//! as the limit, where there is a connection for each thread, a client with prepared statements
//! for each thread.
//!
//! Run it with `scripts/bench postgres`. For the options see
//! `cargo bench -p fairpool-postgres --bench postgres -- --help`. It starts a server of its
//! own and removes it at the end. All pools have their defaults, except for the size.
//! `FAIRPOOL_BENCH_BOUNDS=500,5000` adds pools of fairpool with these fairness bounds, in
//! microseconds, `FAIRPOOL_BENCH_RESET_OFF=1` one with `Reset::Off`. Under `cargo test` a short
//! round of a cell of each work shows that it runs, and the server's counts that every
//! contestant does its work.

#[path = "postgres/proof.rs"]
mod proof;
#[path = "postgres/tasks.rs"]
mod tasks;
#[path = "postgres/threads.rs"]
mod threads;
#[path = "postgres/work.rs"]
mod work;

use std::env;
use std::time::Duration;

use fairpool::Fairness;
use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::rounds::{self, Contestant};
use fairpool_bench::settings::{Defaults, Settings};
use fairpool_bench::table;
use fairpool_postgres::Reset;
use fairpool_servers::cluster::Cluster;

use proof::{MODULE, Proved};
use tasks::Workers;
use work::{SCHEMA, WORKS, Work};

const SIZES: [(usize, u32); 4] = [(1, 1), (8, 8), (32, 8), (64, 8)];

/// The tables show ratios to these first.
const REFERENCES: [&str; 2] = ["r2d2", "r2d2 without ping"];

/// The fairness bounds to measure beside the default.
fn bounds() -> Vec<Duration> {
    let list = env::var("FAIRPOOL_BENCH_BOUNDS").unwrap_or_default();
    let micros = list.split(',').filter(|micros| !micros.is_empty()).map(str::parse);
    let micros = micros.map(|micros| micros.expect("FAIRPOOL_BENCH_BOUNDS: numbers and commas"));
    micros.map(Duration::from_micros).collect()
}

/// Whether to measure a pool that reads no statements and resets nothing, too.
fn with_reset_off() -> bool {
    env::var_os("FAIRPOOL_BENCH_RESET_OFF").is_some()
}

fn contestants(
    cluster: &Cluster,
    workers: &Workers,
    cell: &Cell,
    work: Work,
) -> Vec<Box<dyn Contestant>> {
    let size = cell.connections;
    let fairpool = |name: &str, change: fn(_) -> _| {
        threads::fairpool(name, cluster, size, work, Reset::Session, change)
    };
    let mut all = vec![
        fairpool("fairpool", |defaults| defaults),
        threads::r2d2(REFERENCES[0], cluster, size, work, true),
        threads::r2d2(REFERENCES[1], cluster, size, work, false),
        tasks::deadpool("deadpool-postgres", cluster, size, work, workers),
        tasks::bb8("bb8-postgres", cluster, size, work, workers),
    ];
    if cell.threads == size as usize {
        all.push(threads::bare("postgres::Client", cluster, cell.threads, work));
    }
    if work == Work::Select {
        all.push(fairpool("fairpool, checked", |builder| builder.test_on_check_out(true)));
    }
    all.extend(bounds().into_iter().map(|bound| {
        let name = format!("fairpool, bound {bound:?}");
        let fairness = Fairness::Bounded(bound);
        let change = |builder: fairpool::Builder<_>| builder.fairness(fairness);
        threads::fairpool(&name, cluster, size, work, Reset::Session, change)
    }));
    if with_reset_off() {
        let name = "fairpool, Reset::Off";
        all.push(threads::fairpool(name, cluster, size, work, Reset::Off, |defaults| defaults));
    }
    all
}

/// How many contestants a cell has.
fn count(cell: &Cell, work: Work) -> usize {
    let bare = usize::from(cell.threads == cell.connections as usize);
    let checked = usize::from(work == Work::Select);
    5 + bare + checked + bounds().len() + usize::from(with_reset_off())
}

/// The cells to measure, with their names.
fn cells(settings: &Settings) -> Vec<(String, Cell, Work)> {
    let mut cells = Vec::new();
    for (label, work) in WORKS {
        for (threads, connections) in SIZES {
            let name = format!("{threads} / {connections} / {label}");
            cells.push((name, Cell { threads, connections, hold: Hold::Driver }, work));
        }
    }
    cells.retain(|(name, ..)| settings.wants(name));
    if !settings.in_earnest {
        // It has all contestants.
        cells.retain(|(_, cell, _)| cell.threads == 8);
    }
    cells
}

/// A server with room for all tables in its memory, as its own default has it.
fn server(settings: &Settings) -> Cluster {
    let modules = if settings.in_earnest { "" } else { MODULE };
    let cluster = Cluster::start_with(&[
        ("max_connections", "200"),
        ("shared_buffers", "128MB"),
        ("shared_preload_libraries", modules),
    ]);
    cluster.psql(SCHEMA);
    if !settings.in_earnest {
        cluster.psql(&format!("CREATE EXTENSION {MODULE}"));
    }
    cluster
}

fn main() {
    let defaults = Defaults { rounds: 5, millis: 500, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let (cluster, workers) = (server(&settings), Workers::start());
    let version = cluster.psql("SELECT split_part(version(), ' on ', 1)");
    let cells = cells(&settings);
    let turns: usize = cells.iter().map(|(_, cell, work)| count(cell, *work)).sum();
    let progress = Progress::new(turns * settings.rounds as usize);
    let mut reports = Vec::new();
    for (name, cell, work) in cells {
        let mut contestants: Vec<Box<dyn Contestant + '_>> =
            contestants(&cluster, &workers, &cell, work);
        if !settings.in_earnest {
            contestants = contestants.into_iter().map(|one| prove(one, &cluster, work)).collect();
        }
        let report = rounds::measure(name, &cell, &mut contestants, &settings, &progress);
        let table = table::of_cell(&report, &REFERENCES).text();
        progress.say(&format!("{} (threads / connections / work)\n{table}", report.name));
        reports.push(report);
    }
    let notes = vec![version.trim().to_string()];
    let report = Report::new("postgres", Machine::inspect(), &settings, notes, reports);
    fairpool_bench::finish(&report, &settings);
}

fn prove<'a>(
    contestant: Box<dyn Contestant + 'a>,
    cluster: &'a Cluster,
    work: Work,
) -> Box<dyn Contestant + 'a> {
    Box::new(Proved { contestant, cluster, work })
}
