//! What the benches of the workspace share.
//!
//! A bench calls [`begin`] for its settings, measures [`cell`]s in [`rounds`] in which
//! its contestants take turns, makes a [`report`] and passes it to [`finish`]. The
//! report is kept as JSON; tables, charts, goals and the page in `docs/benchmarks` are
//! made from it.

pub mod cell;
pub mod growth;
pub mod machine;
pub mod pass;
pub mod peers;
pub mod progress;
pub mod report;
pub mod rounds;
pub mod settings;
pub mod stub;
pub mod table;

mod bounds;
mod chart;
mod goals;
mod page;
mod waits;

use std::path::PathBuf;

use report::Report;
use settings::{Defaults, Settings};

/// Reads the command line. `None` if the user asked only for the page, which is then
/// written.
pub fn begin(defaults: Defaults) -> Option<Settings> {
    let settings = Settings::read(defaults);
    match &settings.results {
        Some(folder) if settings.page => page::write(folder),
        _ => return Some(settings),
    }
    None
}

/// Prints the notes and the goals, writes the results, and draws the charts and the
/// page from all results in that folder. Under `cargo test` it writes nothing.
///
/// # Panics
///
/// If the results cannot be written.
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

/// The root of the workspace.
fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
