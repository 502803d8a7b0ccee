//! The command line, checked before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::scenario::{Problem, Scenario};
use crate::scenarios::SCENARIOS;

pub struct Options {
    pub what: What,
    /// `None` if the scenario decides.
    pub seconds: Option<Duration>,
    pub seed: u64,
    pub fixed: bool,
    pub is_virtual: bool,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

pub enum What {
    List,
    All,
    One(&'static Scenario),
}

/// Ways in which pools run dry, each on a pool with one flaw and on fairpool
#[derive(Parser)]
#[command(name = "fairpool-lab")]
struct Arguments {
    /// `list`, `all`, or the name of a scenario
    #[arg(value_name = "SCENARIO")]
    what: String,

    /// How long each of the two pools is under load [default: up to the scenario]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seconds: Option<f64>,

    /// The seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Fix the flaw of the flawed pool, which then must not show it
    #[arg(long)]
    fixed: bool,

    /// Run `policies` in virtual time, with the pool's decisions but without threads
    #[arg(long = "virtual")]
    is_virtual: bool,

    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the chart into this file; with several scenarios, into one file for each
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const LONGEST: f64 = 3600.0;

impl Options {
    /// `None` if the user asked for the help, which is then printed.
    pub fn from_command_line() -> Result<Option<Options>, Problem> {
        let arguments = match Arguments::try_parse() {
            Ok(arguments) => arguments,
            Err(error) if error.use_stderr() => {
                let text = error.render().to_string();
                // Tips and usage follow after an empty line.
                let lines: Vec<&str> =
                    text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
                return Err(Problem(lines.join(" ").trim_start_matches("error: ").to_string()));
            }
            Err(help) => {
                // The reader may have closed the pipe.
                let _ = help.print();
                return Ok(None);
            }
        };
        let what = what(&arguments.what)?;
        let is_policies = matches!(what, What::One(scenario) if scenario.name == "policies");
        if arguments.is_virtual && !is_policies {
            return Err(Problem("--virtual works only with the scenario `policies`".to_string()));
        }
        Ok(Some(Options {
            what,
            seconds: arguments.seconds.map(seconds).transpose()?,
            seed: arguments.seed,
            fixed: arguments.fixed,
            is_virtual: arguments.is_virtual,
            json: arguments.json,
            svg: arguments.svg,
        }))
    }
}

fn what(name: &str) -> Result<What, Problem> {
    match name {
        "list" => Ok(What::List),
        "all" => Ok(What::All),
        name => match SCENARIOS.iter().find(|scenario| scenario.name == name) {
            Some(scenario) => Ok(What::One(scenario)),
            None => {
                let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
                Err(Problem(format!(
                    "no scenario has the name {name:?}; choose one of list, all, {}",
                    names.join(", ")
                )))
            }
        },
    }
}

fn seconds(seconds: f64) -> Result<Duration, Problem> {
    if seconds > 0.0 && seconds <= LONGEST {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(Problem(format!("--seconds must be above 0 and at most {LONGEST}, but is {seconds}")))
}
