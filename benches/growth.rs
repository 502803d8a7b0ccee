//! How costs grow with size, as a user of the pool sees them: a get with many callers in
//! the queue or many connections in the pool, many waits that end at one instant, the
//! reaper's work, memory and threads.
//!
//! Run it with `scripts/bench growth`; `cargo bench --bench growth -- --help` shows the
//! options. Its "cells" are its parts: `rest`, `connections`, `reaper`, `waiters` and
//! `ends`. Sizes take turns within each round, so that noise on the machine affects all
//! alike. The goals: a get costs the same at every size, and many waits end within a
//! time that is proportional to their number. Under `cargo test` small sizes show that
//! it runs.

#[path = "growth/connections.rs"]
mod connections;
#[path = "growth/ends.rs"]
mod ends;
#[path = "growth/measure.rs"]
mod measure;
#[path = "growth/reaper.rs"]
mod reaper;
#[path = "growth/rest.rs"]
mod rest;
#[path = "growth/waiters.rs"]
mod waiters;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use fairpool_bench::growth::Growth;
use fairpool_bench::machine::Machine;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::settings::Defaults;
use fairpool_bench::table;
use measure::Scale;

/// Counts allocated bytes, for the part about memory.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Part = fn(&Scale) -> Vec<Growth>;

const PARTS: [(&str, Part); 5] = [
    ("rest", rest::measure),
    ("connections", connections::measure),
    ("reaper", reaper::measure),
    ("waiters", waiters::measure),
    ("ends", ends::measure),
];

fn main() {
    let defaults = Defaults { rounds: 7, millis: 150, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let scale = Scale::new(&settings);
    let parts: Vec<_> = PARTS.into_iter().filter(|(name, _)| settings.wants(name)).collect();
    let progress = Progress::new(parts.len());
    let mut figures = Vec::new();
    for (name, part) in parts {
        progress.begin(name);
        figures.extend(part(&scale));
        progress.step();
    }
    progress.say(&table::of_growth(&figures).text());
    let mut report = Report::new("growth", Machine::inspect(), &settings, Vec::new(), Vec::new());
    report.growth = figures;
    fairpool_bench::finish(&report, &settings);
}
