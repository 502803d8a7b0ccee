//! Capacity planning: finds the size of a pool for a load, in virtual time.
//!
//! ```text
//! cargo run --release -p fairpool-planner -- --instances 40 --rate 5000 --service-ms 8 \
//!     --service-p99-ms 60 --wait-p99-ms 20 --server-max-connections 500 --svg plan.svg
//! ```
//!
//! If there is no plan, it prints the reason in one line and exits with code 2.
//! `docs/planning.md` describes the assumptions and the accuracy.

mod chart;
mod erlang;
mod load;
mod measure;
mod options;
mod plan;
mod problem;
mod search;
mod trial;

use std::fs::{self, OpenOptions};
use std::process::ExitCode;

use options::Options;
use plan::Plan;
use problem::Problem;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<(), Problem> {
    let Some(options) = Options::from_command_line()? else { return Ok(()) };
    // Fails before the simulation if a file cannot be written. Earlier contents stay until
    // there is a plan.
    for file in options.json.iter().chain(&options.svg) {
        let opened = OpenOptions::new().append(true).create(true).open(file);
        opened.map_err(|error| Problem::file(file, error))?;
    }
    options.database.as_deref().map_or(Ok(()), measure::reach)?;
    let plan = Plan::make(&options)?;
    print!("{}", plan.text(&options));
    if let Some(file) = &options.svg {
        chart::draw(&plan, options.goal, file).map_err(|error| Problem::file(file, error))?;
        println!("{:<25} {}", "chart:", file.display());
    }
    let mut figures = plan.json(&options);
    if let Some(url) = &options.database {
        let measured = measure::measure(&options, &plan, url)?;
        print!("{}", measured.text(&options, &plan));
        figures["database"] = measured.json();
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&figures).expect("BUG: figures are plain data");
        fs::write(file, text + "\n").map_err(|error| Problem::file(file, error))?;
    }
    Ok(())
}
