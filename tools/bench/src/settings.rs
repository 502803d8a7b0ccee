//! How long a bench measures, and where its results go.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// Measures briefly, to show that the bench works; writes nothing under docs/.
    #[arg(long)]
    quick: bool,
    /// The number of rounds.
    #[arg(long, env = "FAIRPOOL_BENCH_ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long each contestant is measured in each round of a cell.
    #[arg(long, env = "FAIRPOOL_BENCH_MILLIS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    millis: Option<u32>,
    /// Measures only cells whose name contains this, such as "32 / 4"; writes nothing under docs/.
    #[arg(long, default_value = "")]
    cells: String,
    /// Only draws the charts and writes the page, from existing results.
    #[arg(long)]
    page: bool,
    /// Cargo passes this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A bench's own settings, which options may change.
pub struct Defaults {
    /// The number of rounds.
    pub rounds: u32,
    /// How long each contestant is measured in each round of a cell.
    pub millis: u32,
    /// A folder for temporary files: `env!("CARGO_TARGET_TMPDIR")`, which cargo sets for
    /// benches but not for libraries.
    pub temp: &'static str,
}

/// What to measure, and for how long.
pub struct Settings {
    /// `false` under `cargo test`, which only shows that the bench runs.
    pub in_earnest: bool,
    /// The number of rounds.
    pub rounds: u32,
    /// The length of a pass without a hold.
    pub length: Duration,
    pub(crate) page: bool,
    /// The folder of the results; `None` under `cargo test`.
    pub(crate) results: Option<PathBuf>,
    cells: String,
    temp: PathBuf,
}

impl Settings {
    /// `cargo test` runs benches without `--bench`, and with arguments that are meant for
    /// tests. Then one tiny round shows that the bench runs.
    pub(crate) fn read(defaults: Defaults) -> Settings {
        let temp = PathBuf::from(defaults.temp);
        if !env::args().any(|argument| argument == "--bench") {
            return Settings::short(temp);
        }
        let arguments = Arguments::parse();
        let (rounds, millis) = match arguments.quick {
            true => (3, defaults.millis.min(100)),
            false => (defaults.rounds, defaults.millis),
        };
        let is_whole = !arguments.quick && arguments.cells.is_empty();
        let results = if is_whole { published() } else { temp.join("benchmarks") };
        Settings {
            in_earnest: true,
            rounds: arguments.rounds.unwrap_or(rounds),
            length: Duration::from_millis(arguments.millis.unwrap_or(millis).into()),
            page: arguments.page,
            cells: arguments.cells,
            results: Some(results),
            temp,
        }
    }

    /// One tiny round, whose results are not kept.
    pub(crate) fn short(temp: PathBuf) -> Settings {
        Settings {
            in_earnest: false,
            rounds: 1,
            length: Duration::from_millis(10),
            page: false,
            cells: String::new(),
            results: None,
            temp,
        }
    }

    /// Whether to measure the cell of this name.
    pub fn wants(&self, cell: &str) -> bool {
        cell.contains(&self.cells)
    }

    /// The folder for temporary files.
    pub fn temp(&self) -> &Path {
        &self.temp
    }
}

/// The folder of the results that the documentation shows.
fn published() -> PathBuf {
    workspace().join("docs/benchmarks")
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
