//! The command line, checked before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::scenarios::{Problem, SCENARIOS, Scenario};

pub struct Options {
    pub what: What,
    /// `None`: as long as the scenario needs.
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

/// Each way in which pools run dry, on a pool that has the flaw and on fairpool
#[derive(Parser)]
#[command(name = "lab")]
struct Arguments {
    /// `list`, `all`, or the name of a scenario
    #[arg(value_name = "SCENARIO")]
    what: String,

    /// How long each of the two pools is under load [default: what the scenario needs]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seconds: Option<f64>,

    /// Chooses the random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Mend the flaw of the flawed pool: then it must not show it
    #[arg(long)]
    fixed: bool,

    /// `policies` in virtual time, on the pool's decisions alone
    #[arg(long = "virtual")]
    is_virtual: bool,

    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the chart into this file; with several scenarios, into one for each
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const LONGEST: f64 = 3600.0;

impl Options {
    /// `None` if the user wanted to read the help and now has.
    pub fn from_command_line() -> Result<Option<Options>, Problem> {
        let arguments = match Arguments::try_parse() {
            Ok(arguments) => arguments,
            Err(error) if error.use_stderr() => {
                let text = error.render().to_string();
                // After an empty line come tips and usage.
                let lines: Vec<&str> =
                    text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
                return Err(Problem(lines.join(" ").trim_start_matches("error: ").to_string()));
            }
            Err(help) => {
                // A closed pipe is the reader's choice.
                let _ = help.print();
                return Ok(None);
            }
        };
        let what = what(&arguments.what)?;
        let is_policies = matches!(what, What::One(scenario) if scenario.name == "policies");
        if arguments.is_virtual && !is_policies {
            return Err(Problem("--virtual is for the scenario `policies` alone".to_string()));
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
                    "no scenario is called {name:?}; there are list, all, {}",
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
