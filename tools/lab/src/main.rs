//! How pools run dry. Each scenario runs on a small pool with one flaw and then, under the
//! same load, on fairpool.
//!
//! ```text
//! cargo run --release -p fairpool-lab -- list
//! cargo run --release -p fairpool-lab -- runaway-queue
//! cargo run --release -p fairpool-lab -- all --json lab.json --svg lab.svg
//! ```
//!
//! The exit code is 1 if the flawed pool does not show its flaw, or if fairpool shows it,
//! and 2 if a scenario cannot run. `docs/lab.md` describes each scenario.

mod bars;
mod chart;
mod console;
mod flawed;
mod load;
mod options;
mod orders;
mod recording;
mod report;
mod scenario;
mod scenarios;
mod server;
mod stub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use console::Console;
use options::{Options, What};
use report::{Report, Verdict};
use scenario::{Problem, Run, Scenario};
use scenarios::SCENARIOS;

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
    // Fails before the scenarios run if a file cannot be written.
    for file in options.json.iter().chain(options.svg.iter().filter(|_| scenarios.len() == 1)) {
        write(file, "")?;
    }
    let (reports, failures) = run_all(&options, &scenarios)?;
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&reports).expect("BUG: a report is plain data");
        write(file, &(text + "\n"))?;
    }
    if reports.len() > 1 {
        println!("{}", report::summary(&reports, options.fixed));
    }
    if !failures.is_empty() {
        return Err(Problem(failures.join("; ")));
    }
    let is_expected =
        |report: &Report| matches!(report.verdict(options.fixed), Verdict::AsExpected);
    Ok(if reports.iter().all(is_expected) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(file: &Path, text: &str) -> Result<(), Problem> {
    fs::write(file, text).map_err(|error| Problem::file(file, error.to_string()))
}

/// Runs the scenarios. Returns their reports, and a line for each that cannot run; one
/// scenario alone that cannot run is an error.
fn run_all(
    options: &Options,
    scenarios: &[&Scenario],
) -> Result<(Vec<Report>, Vec<String>), Problem> {
    let console = Console::new();
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for scenario in scenarios {
        console.headline(scenario.name, scenario.about);
        let svg = options.svg.as_ref().map(|svg| chart_file(svg, scenario, scenarios.len() > 1));
        let run = Run {
            seconds: options.seconds.unwrap_or(scenario.seconds),
            seed: options.seed,
            fixed: options.fixed,
            is_virtual: options.is_virtual,
            svg: svg.clone(),
            console: &console,
        };
        match (scenario.run)(&run) {
            Ok(report) => {
                println!("{}", report.text(options.fixed));
                svg.map_or(Ok(()), |file| draw(&report, &file))?;
                reports.push(report);
            }
            Err(problem) if scenarios.len() > 1 => {
                console.clear();
                println!("cannot run: {problem}");
                failures.push(format!("{}: {problem}", scenario.name));
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok((reports, failures))
}

/// Draws the chart, or removes the empty file if the scenario has none.
fn draw(report: &Report, file: &Path) -> Result<(), Problem> {
    let problem = |error: String| Problem::file(file, error);
    if let Some(chart) = &report.chart {
        chart.draw(file).map_err(|error| problem(error.to_string()))?;
        println!("chart: {}\n", file.display());
    } else if fs::metadata(file).is_ok_and(|file| file.len() == 0) {
        println!("chart: none; the table has all figures\n");
        fs::remove_file(file).map_err(|error| problem(error.to_string()))?;
    }
    Ok(())
}

/// With several scenarios, each has a chart with its name.
fn chart_file(file: &Path, scenario: &Scenario, several: bool) -> PathBuf {
    if !several {
        return file.to_path_buf();
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-{}.svg", scenario.name))
}
