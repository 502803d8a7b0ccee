//! Ten thousand tasks instead of ten thousand threads, and tasks that get a connection in one
//! closure and use it in another.
//!
//! Run it with `scripts/bench tasks`. Every crowd is a child process of this program, which
//! prints what it measured. Under `cargo test` one small round shows that it runs.

#[path = "tasks/crowd.rs"]
mod crowd;
#[path = "tasks/two_closures.rs"]
mod two_closures;

use std::alloc::System;
use std::env;
use std::time::Duration;

use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::rounds::{self, Contestant};
use fairpool_bench::settings::{Defaults, Settings};
use fairpool_bench::table;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crowd::{Crowd, Kind};

/// Counts allocated bytes.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: u32 = 8;
const HOLD: Duration = Duration::from_millis(1);

fn main() {
    if let Some(kind) = env::var(crowd::CHILD).ok().and_then(|name| Kind::named(&name)) {
        return crowd::be(kind);
    }
    let defaults = Defaults { rounds: 7, millis: 150, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let (size, timeout) = match settings.in_earnest {
        true => (10_000, Duration::from_millis(500)),
        false => (64, Duration::from_millis(150)),
    };
    measure(&settings, size, timeout);
}

fn measure(settings: &Settings, size: usize, timeout: Duration) {
    let cell = Cell { threads: size, connections: CONNECTIONS, hold: Hold::Sleeping(HOLD) };
    let notes = Vec::from_iter(load());
    let progress = Progress::new(Kind::ALL.len() * settings.rounds as usize + 1);
    let crowds: Vec<Crowd> = Kind::ALL.iter().map(|&kind| Crowd::new(kind)).collect();
    let as_contestant = |crowd: &Crowd| -> Box<dyn Contestant> { Box::new(crowd.clone()) };
    let mut contestants: Vec<_> = crowds.iter().map(as_contestant).collect();
    let name = cell.to_string();
    let cells = vec![rounds::measure(name, &cell, &mut contestants, settings, &progress)];
    let mut figures = crowds.iter().flat_map(|crowd| crowd.figures(size)).collect::<Vec<_>>();
    progress.begin("get in one closure, use in another");
    figures.extend(two_closures::measure(settings.rounds, timeout));
    progress.step();
    progress.say(&table::of_cell(&cells[0], &["threads"]).text());
    progress.say(&table::of_growth(&figures).text());
    let mut report = Report::new("tasks", Machine::inspect(), settings, notes, cells);
    report.growth = figures;
    fairpool_bench::finish(&report, settings);
}

/// What else runs on the machine affects all crowds alike, but a reader must know.
fn load() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let minute = text.split_whitespace().next()?;
    Some(format!("Before the run {minute} threads ran or wanted to, on average over a minute."))
}
