//! What grows with size, as a user of the pool sees it from outside: the cost
//! of a get with many callers in the queue or many connections in the pool,
//! many waits that end at one instant, the reaper's work, memory and threads.
//!
//! `cargo bench --bench growth`. Sizes take turns within each round, so that a
//! noisy machine hurts all alike; figures are medians of the rounds. At the end
//! it says whether the goals are met: a get costs the same whatever the size,
//! and a mass of waits ends in a time in proportion to it. The results go to
//! `docs/benchmarks/growth.json`. `cargo bench --bench growth -- waiters` does
//! one part of it (`waiters`, `ends`, `connections`, `reaper`, `rest`) and
//! writes nothing. Under `cargo test` small sizes show that it runs.

#[path = "growth/connections.rs"]
mod connections;
#[path = "growth/ends.rs"]
mod ends;
#[path = "growth/measure.rs"]
mod measure;
#[path = "growth/reaper.rs"]
mod reaper;
#[path = "growth/report.rs"]
mod report;
#[path = "growth/rest.rs"]
mod rest;
#[path = "growth/waiters.rs"]
mod waiters;

use std::alloc::System;
use std::env;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use measure::{Row, Scale};

/// Counts what is allocated, for the part about memory.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Part = fn(&Scale) -> Vec<Row>;

const PARTS: [(&str, Part); 5] = [
    ("rest", rest::measure),
    ("connections", connections::measure),
    ("reaper", reaper::measure),
    ("waiters", waiters::measure),
    ("ends", ends::measure),
];

fn main() {
    // `cargo test` runs benches too, without `--bench`.
    let in_earnest = env::args().any(|argument| argument == "--bench");
    let asked = |name: &str| env::args().skip(1).any(|argument| argument == name);
    let all = !PARTS.iter().any(|(name, _)| asked(name));
    let scale = if in_earnest { Scale::FULL } else { Scale::TINY };

    let mut rows = Vec::new();
    for (name, part) in PARTS {
        if all || asked(name) {
            eprintln!("{name}");
            rows.extend(part(&scale));
        }
    }
    println!("Medians of the rounds, and the lowest and highest round:");
    println!("{}", report::table(&rows));
    let goals = report::goals(&rows);
    if in_earnest {
        goals.iter().for_each(|goal| println!("{goal}"));
        if all {
            report::write(&rows, &goals);
        }
    }
}
