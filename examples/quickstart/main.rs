//! Many threads, few connections, a real database, and a check at the end that
//! nothing was lost on the way.
//!
//! ```text
//! cargo run --release --example quickstart
//! DATABASE_URL=postgres://… cargo run --release --example quickstart
//! ```
//!
//! Without `DATABASE_URL` it runs on an SQLite file that it removes at the end,
//! with it on PostgreSQL, in a schema of its own that it drops at the end.
//! `worker.rs` shows the pool in use; everything else is there to watch it.

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

use bank::Bank;
use fairpool::Pool;
use interrupt::Interrupt;
use options::{Database, Options};
use postgres::PostgresBank;
use problem::{Problem, chain};
use sqlite::SqliteBank;
use verdict::Verdict;

/// How long building the pool may take. The database has answered a moment ago,
/// so a server that is away has been reported by then; what is left is a server
/// that lets one session in and not the rest.
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

/// Everything that is the same on both databases.
fn run<B: Bank>(bank: &B, options: &Options, interrupt: &Interrupt) -> Result<ExitCode, Problem> {
    let pool = Pool::builder()
        .max_size(options.connections)
        .connection_timeout(BUILD_LIMIT)
        .build(bank.manager())
        .map_err(|e| {
            Problem::setting("--connections", format!("cannot open them: {}", chain(&e)))
        })?;
    report::opening(bank, options);

    let outcome = crew::run(&pool, bank, options, interrupt)?;
    // Taken now: the audit below is one more user of the pool.
    let stats = pool.stats();
    let verdict = Verdict::reach(&pool, bank, &outcome);
    let advice = bank.advice(&pool);
    report::closing(&outcome, &stats, advice.as_deref(), &verdict);

    Ok(match (&verdict, interrupt.raised()) {
        (Verdict::Complete { .. }, false) => ExitCode::SUCCESS,
        (Verdict::Complete { .. }, true) => ExitCode::from(interrupt::EXIT_CODE),
        _ => ExitCode::FAILURE,
    })
}
