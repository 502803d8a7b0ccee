//! What a scenario is, and why it may be unable to run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use fairpool::text::Plain;

use crate::console::Console;
use crate::report::Report;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// The default of `--seconds`: how long each of the two pools is under load.
    pub seconds: Duration,
    pub run: fn(&Run<'_>) -> Result<Report, Problem>,
}

/// What the user chose.
pub struct Run<'a> {
    pub seconds: Duration,
    pub seed: u64,
    /// Whether the flaw of the flawed pool is fixed.
    pub fixed: bool,
    pub is_virtual: bool,
    /// The chart's file, for a scenario that draws the chart itself.
    pub svg: Option<PathBuf>,
    pub console: &'a Console,
}

/// The reason why a scenario cannot run, in one line.
#[derive(Debug)]
pub struct Problem(pub String);

impl Problem {
    pub fn file(file: &Path, why: String) -> Problem {
        Problem(format!("cannot write {}: {why}", file.display()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Plain(&self.0).fmt(f)
    }
}

/// Starts a thread with a name.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Problem> {
    let spawned = Builder::new().name(name.to_string()).spawn(work);
    spawned.map_err(|error| Problem(format!("cannot start a thread: {error}")))
}
