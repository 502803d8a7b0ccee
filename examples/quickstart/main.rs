//! Many threads share few connections to a real database. At the end the program checks
//! that no write was lost.
//!
//! ```text
//! cargo run --release -p fairpool-examples --example quickstart
//! DATABASE_URL=postgres://… cargo run --release -p fairpool-examples --example quickstart
//! ```
//!
//! Without `DATABASE_URL` it uses an SQLite file, which it removes at the end; with it,
//! PostgreSQL, in a schema of its own, which it drops at the end. `worker.rs` shows how to
//! use a pool; the other files measure and check.

mod bank;
mod crew;
mod interrupt;
mod options;
mod postgres;
mod problem;
mod progress;
mod report;
mod sqlite;
mod verdict;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use bank::{Bank, Pools};
use interrupt::Interrupt;
use options::{Database, Options};
use postgres::PostgresBank;
use problem::{Problem, chain};
use sqlite::SqliteBank;
use verdict::Verdict;

/// How long building the pool may take. A server that is down has been reported before; this
/// is for a server that accepts one session and no more.
const BUILD_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    start().unwrap_or_else(|problem| {
        report::complain(&format!("error: {problem}"));
        ExitCode::from(problem.exit_code())
    })
}

fn start() -> Result<ExitCode, Problem> {
    let Some(options) = Options::from_command_line()? else {
        return Ok(ExitCode::SUCCESS); // It was `--help`.
    };
    let interrupt = Interrupt::install()
        .map_err(|e| Problem::Start(format!("cannot listen for Ctrl-C: {e}")))?;

    match &options.database {
        Database::Sqlite => run(&SqliteBank::create()?, &options, &interrupt),
        Database::Postgres { config, named_by } => {
            let bank =
                PostgresBank::create(config.as_ref().clone(), named_by, options.connections)?;
            run(&bank, &options, &interrupt)
        }
    }
}

/// The part that is the same on both databases.
fn run<B: Bank>(bank: &B, options: &Options, interrupt: &Interrupt) -> Result<ExitCode, Problem> {
    let pools = bank.open(options.connections, BUILD_LIMIT).map_err(|e| {
        Problem::setting("--connections", format!("cannot open them: {}", chain(&e)))
    })?;
    report::opening(bank, options);

    let outcome = crew::run(&pools, bank, options, interrupt)?;
    // Before the audit, which uses the pools as well.
    let stats = pools.stats();
    let verdict = Verdict::reach(&pools, bank, &outcome);
    let advice = bank.advice(&pools);
    report::closing(&outcome, &stats, advice.as_deref(), &verdict);

    Ok(match (&verdict, interrupt.raised()) {
        (Verdict::Complete { .. }, false) => ExitCode::SUCCESS,
        (Verdict::Complete { .. }, true) => ExitCode::from(interrupt::EXIT_CODE),
        _ => ExitCode::FAILURE,
    })
}
