//! What the benches share. A bench [`begin`]s with its settings, measures [`cell`]s
//! with [`rounds`] of passes of its contestants, makes a [`report`] and hands it
//! to [`finish`].

#![allow(dead_code, reason = "each bench uses its part of this")]

pub mod bounds;
pub mod cell;
pub mod chart;
pub mod goals;
pub mod growth;
pub mod machine;
pub mod page;
pub mod pass;
pub mod peers;
pub mod progress;
pub mod report;
pub mod rounds;
pub mod settings;
pub mod stub;
pub mod table;
pub mod waits;

use report::Report;
use settings::{Defaults, Settings};

/// None if there is nothing to measure: the page was all that was asked for.
pub fn begin(defaults: Defaults) -> Option<Settings> {
    let settings = Settings::read(defaults);
    match &settings.results {
        Some(folder) if settings.page => page::write(folder),
        _ => return Some(settings),
    }
    None
}

/// Writes the results, and from all results that are there the charts and the
/// page. Under `cargo test` nothing is written.
pub fn finish(report: &Report, settings: &Settings) {
    for note in &report.notes {
        println!("{note}");
    }
    if let Some(folder) = &settings.results {
        report.write(folder);
        page::write(folder);
    }
    for outcome in goals::check(report) {
        let verdict = if outcome.met { "met    " } else { "not met" };
        println!("{verdict} {}: {}: {}", outcome.cell, outcome.goal, outcome.measured);
    }
}
