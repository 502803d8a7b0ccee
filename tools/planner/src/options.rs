//! The command line, checked before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::load::{Load, Service, most_p99};
use crate::problem::Problem;

/// How many connections a service needs, and how long its callers wait
///
/// Tries pool sizes in virtual time and finds the smallest that keeps the goal. Callers
/// arrive at random (Poisson); service times are lognormal. See docs/planning.md.
#[derive(Parser)]
#[command(name = "fairpool-planner")]
struct Arguments {
    /// Instances of the service, each with a pool of its own
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    instances: u32,

    /// Gets per second of the whole service, all instances together
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    rate: f64,

    /// How long a connection is held, on average (the mean)
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    service_ms: f64,

    /// The 99th percentile of how long a connection is held
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    service_p99_ms: f64,

    /// The goal: the 99th percentile of the waits for a connection
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    wait_p99_ms: f64,

    /// The server's limit: PostgreSQL's max_connections
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    server_max_connections: u32,

    /// The timeout of a caller
    #[arg(long, value_name = "MS", default_value_t = 1000.0, allow_negative_numbers = true)]
    timeout_ms: f64,

    /// The seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    seed: u64,

    /// Gets of each simulation; up to eight times as many near the goal
    #[arg(long, value_name = "N", default_value_t = 200_000, allow_negative_numbers = true)]
    gets: u32,

    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the waits by pool size into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Try the plan on this PostgreSQL server, with one instance's share of the load as
    /// calls of pg_sleep
    #[arg(long, value_name = "URL")]
    database: Option<String>,

    /// How long the trial on the server lasts
    #[arg(
        long,
        value_name = "S",
        default_value_t = 20.0,
        requires = "database",
        allow_negative_numbers = true
    )]
    seconds: f64,
}

pub struct Options {
    pub instances: u32,
    /// Of the whole service.
    pub rate: f64,
    pub service: Duration,
    pub service_p99: Duration,
    pub goal: Duration,
    pub server_max: u32,
    pub timeout: Duration,
    pub seed: u64,
    pub gets: usize,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
    pub database: Option<String>,
    pub seconds: Duration,
}

const MOST: f64 = 1e6;

/// Fewer give no reliable p99.
const LEAST_GETS: u32 = 2_000;

/// Gets per second of an instance. With fewer, the simulation exceeds its clock.
const LEAST_RATE: f64 = 0.01;

impl Options {
    /// `None` if the user asked for the help, which is then printed.
    pub fn from_command_line() -> Result<Option<Options>, Problem> {
        match Arguments::try_parse() {
            Ok(arguments) => arguments.check().map(Some),
            Err(error) if error.use_stderr() => {
                let text = error.render().to_string();
                // Tips and usage follow after an empty line.
                let lines: Vec<&str> =
                    text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
                Err(Problem(lines.join(" ").trim_start_matches("error: ").to_string()))
            }
            Err(help) => {
                // The reader may have closed the pipe.
                let _ = help.print();
                Ok(None)
            }
        }
    }

    /// The load of each instance's pool.
    pub fn of_an_instance(&self) -> Load {
        Load { rate: self.rate / f64::from(self.instances), ..self.of_all() }
    }

    /// The load of a pool that all instances share.
    pub fn of_all(&self) -> Load {
        Load {
            rate: self.rate,
            service: Service::lognormal(self.service, self.service_p99),
            timeout: self.timeout,
            seed: self.seed,
            gets: self.gets,
        }
    }

    /// The average number of busy connections of the whole service.
    pub fn busy(&self) -> f64 {
        self.rate * self.service.as_secs_f64()
    }
}

impl Arguments {
    fn check(self) -> Result<Options, Problem> {
        let options = Options {
            instances: at_least_one("--instances", self.instances)?,
            rate: positive("--rate", self.rate)?,
            service: millis("--service-ms", self.service_ms)?,
            service_p99: millis("--service-p99-ms", self.service_p99_ms)?,
            goal: millis("--wait-p99-ms", self.wait_p99_ms)?,
            server_max: at_least_one("--server-max-connections", self.server_max_connections)?,
            timeout: millis("--timeout-ms", self.timeout_ms)?,
            seed: self.seed,
            gets: at_least_one("--gets", self.gets)? as usize,
            json: self.json,
            svg: self.svg,
            database: self.database,
            seconds: Duration::from_secs_f64(positive("--seconds", self.seconds)?),
        };
        let (mean, p99, most) = (self.service_ms, self.service_p99_ms, most_p99());
        if p99 <= mean {
            return Err(Problem(format!(
                "--service-p99-ms must be above the mean, --service-ms {mean}, but is {p99}"
            )));
        }
        if p99 > mean * most {
            return Err(Problem(format!(
                "--service-p99-ms must be at most {most:.1} times --service-ms {mean}, but is \
                 {p99}: a lognormal distribution cannot have more"
            )));
        }
        if options.goal >= options.timeout {
            return Err(Problem(format!(
                "--wait-p99-ms must be below --timeout-ms {}, but is {}: no wait is longer \
                 than the timeout",
                self.timeout_ms, self.wait_p99_ms
            )));
        }
        if self.gets < LEAST_GETS {
            return Err(Problem(format!(
                "--gets must be at least {LEAST_GETS}, but is {}: fewer give no reliable p99",
                self.gets
            )));
        }
        if options.of_an_instance().rate < LEAST_RATE {
            return Err(Problem(format!(
                "--rate must be at least {LEAST_RATE} for each of the --instances {}, but is {:?} \
                 for all",
                self.instances, self.rate
            )));
        }
        let (busy, allowed) = (options.busy(), options.server_max);
        if busy >= f64::from(allowed) {
            return Err(Problem(format!(
                "--server-max-connections {allowed} is too low: --rate {} for \
                 --service-ms {mean} each keeps {busy:.1} connections busy all the time",
                self.rate
            )));
        }
        Ok(options)
    }
}

fn at_least_one(name: &str, value: u32) -> Result<u32, Problem> {
    match value {
        0 => Err(Problem(format!("{name} must be at least 1, but is 0"))),
        value if f64::from(value) > MOST => {
            Err(Problem(format!("{name} must be at most {MOST}, but is {value}")))
        }
        value => Ok(value),
    }
}

fn positive(name: &str, value: f64) -> Result<f64, Problem> {
    if value > 0.0 && value <= MOST {
        return Ok(value);
    }
    Err(Problem(format!("{name} must be above 0 and at most {MOST}, but is {value:?}")))
}

fn millis(name: &str, value: f64) -> Result<Duration, Problem> {
    let span = Duration::from_secs_f64(positive(name, value)? / 1e3);
    if span.is_zero() {
        return Err(Problem(format!("{name} must be at least a nanosecond, but is {value:?}")));
    }
    Ok(span)
}
