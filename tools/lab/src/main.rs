//! How pools run dry, and how this one does not: each failure first on a small pool
//! that has one flaw, then on fairpool, under the same load.
//!
//! ```text
//! cargo run --release --example lab -- list
//! cargo run --release --example lab -- runaway-queue
//! cargo run --release --example lab -- all --json lab.json --svg lab.svg
//! ```
//!
//! A scenario ends with exit code 1 if the flawed pool does not show its flaw, or if
//! fairpool does; with 2 if it cannot run. `docs/lab.md` tells the story of each.

mod bars;
mod chart;
#[path = "../../tests/support/cluster.rs"]
mod cluster;
mod console;
mod flawed;
mod load;
mod options;
mod orders;
#[path = "../../tests/support/proxy.rs"]
mod proxy;
mod report;
mod scenarios;
mod server;
mod stub;
mod witness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use console::Console;
use options::{Options, What};
use report::{Report, Verdict};
use scenarios::{Problem, Run, SCENARIOS, Scenario};

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<ExitCode, Problem> {
    let Some(options) = Options::from_command_line()? else { return Ok(ExitCode::SUCCESS) };
    let scenarios: Vec<&Scenario> = match &options.what {
        What::List => {
            for scenario in &SCENARIOS {
                println!("{:<20} {}", scenario.name, scenario.about);
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::All => SCENARIOS.iter().collect(),
        What::One(scenario) => vec![scenario],
    };
    // Before anything runs: it would be a pity afterwards.
    for file in options.json.iter().chain(options.svg.iter().filter(|_| scenarios.len() == 1)) {
        fs::write(file, "").map_err(|error| Problem::file(file, error.to_string()))?;
    }
    let console = Console::new();
    let (mut reports, mut unable) = (Vec::new(), Vec::new());
    for scenario in &scenarios {
        console.headline(scenario.name, scenario.about);
        let seconds = options.seconds.unwrap_or(scenario.seconds);
        let svg = options.svg.as_ref().map(|svg| chart_file(svg, scenario, scenarios.len() > 1));
        let run = Run {
            seconds,
            seed: options.seed,
            fixed: options.fixed,
            is_virtual: options.is_virtual,
            svg: svg.clone(),
            console: &console,
        };
        let report = match (scenario.run)(&run) {
            Ok(report) => report,
            // The others may be able to.
            Err(problem) if scenarios.len() > 1 => {
                console.quiet();
                println!("cannot run: {problem}");
                unable.push(format!("{}: {problem}", scenario.name));
                continue;
            }
            Err(problem) => return Err(problem),
        };
        println!("{}", report.text(options.fixed));
        match (svg, &report.chart) {
            (Some(file), Some(chart)) => {
                chart.draw(&file).map_err(|error| Problem::file(&file, error.to_string()))?;
                println!("chart: {}\n", file.display());
            }
            (Some(file), None) if fs::metadata(&file).is_ok_and(|file| file.len() == 0) => {
                println!("chart: none, the table says it all\n");
                fs::remove_file(&file).map_err(|error| Problem::file(&file, error.to_string()))?;
            }
            _ => {}
        }
        reports.push(report);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&reports).expect("BUG: a report is plain data");
        fs::write(file, text + "\n").map_err(|error| Problem::file(file, error.to_string()))?;
    }
    if reports.len() > 1 {
        println!("{}", report::summary(&reports, options.fixed));
    }
    if !unable.is_empty() {
        return Err(Problem(unable.join("; ")));
    }
    let verdicts = reports.iter().map(|report: &Report| report.verdict(options.fixed));
    let all_well = verdicts.into_iter().all(|verdict| matches!(verdict, Verdict::AsExpected));
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of several charts, each has the scenario in its name.
fn chart_file(file: &Path, scenario: &Scenario, several: bool) -> PathBuf {
    if !several {
        return file.to_path_buf();
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-{}.svg", scenario.name))
}
