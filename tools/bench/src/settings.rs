//! How long a bench measures, and where its results go.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// A look at whether it works: short, and no results under docs/.
    #[arg(long)]
    quick: bool,
    /// How many rounds.
    #[arg(long, env = "FAIRPOOL_BENCH_ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long each contestant is measured in each round of a cell.
    #[arg(long, env = "FAIRPOOL_BENCH_MILLIS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    millis: Option<u32>,
    /// Only cells with this in their name, such as "32 / 4"; no results under docs/.
    #[arg(long, default_value = "")]
    cells: String,
    /// Only draws the charts and writes the page again, from results that are there.
    #[arg(long)]
    page: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long a bench measures if nobody says otherwise.
pub struct Defaults {
    pub rounds: u32,
    pub millis: u32,
}

pub struct Settings {
    /// Not under `cargo test`.
    pub in_earnest: bool,
    pub rounds: u32,
    pub length: Duration,
    pub page: bool,
    cells: String,
    /// Where results go; None under `cargo test`.
    pub results: Option<PathBuf>,
}

impl Settings {
    /// `cargo test` runs benches too, without `--bench`, and with whatever
    /// arguments are meant for tests: then one tiny round shows that it runs.
    pub fn read(defaults: Defaults) -> Settings {
        if !env::args().any(|argument| argument == "--bench") {
            return Settings {
                in_earnest: false,
                rounds: 1,
                length: Duration::from_millis(10),
                page: false,
                cells: String::new(),
                results: None,
            };
        }
        let arguments = Arguments::parse();
        let quick = Defaults { rounds: 3, millis: defaults.millis.min(100) };
        let usual = if arguments.quick { quick } else { defaults };
        let millis = arguments.millis.unwrap_or(usual.millis);
        let whole = !arguments.quick && arguments.cells.is_empty();
        Settings {
            in_earnest: true,
            rounds: arguments.rounds.unwrap_or(usual.rounds),
            length: Duration::from_millis(u64::from(millis)),
            page: arguments.page,
            cells: arguments.cells,
            results: Some(if whole { published() } else { scratch("benchmarks") }),
        }
    }

    /// Whether a cell of this name is to be measured.
    pub fn wants(&self, cell: &str) -> bool {
        cell.contains(&self.cells)
    }
}

/// Where the results that the documentation speaks of are.
pub fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks")
}

/// A folder among what cargo builds.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench")).join(name)
}
