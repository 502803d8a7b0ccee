//! The beginning and the end of a bench.

use crate::report::Report;
use crate::settings::{Defaults, Settings};
use crate::{goals, page};

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
