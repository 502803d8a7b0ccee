//! A trial of the plan: a pool of the planned size on a PostgreSQL server, and the load of
//! an instance as calls of `pg_sleep`.
//!
//! Callers arrive when they are due, even if those before them still wait, and their waits
//! count from when they were due.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::simulation::{Arrival, Driver};
use fairpool::{Pool, PooledConnection};
use fairpool_postgres::{NoTls, PostgresConnectionManager};
use serde_json::{Value, json};

use crate::options::Options;
use crate::plan::{Plan, millis, percent, waits};
use crate::problem::Problem;
use crate::trial::{self, Waits};

const STACK: usize = 256 * 1024;

/// The result of one caller.
struct Caller {
    arrival: Arrival,
    waited: Duration,
    /// How long it held the connection; `None` if it got none.
    held: Option<Duration>,
}

pub struct Measured {
    real: Waits,
    /// The same callers in virtual time, each with its measured hold.
    simulated: Waits,
    /// The average hold.
    mean_hold: Duration,
}

fn connect(url: &str, size: u32) -> Result<Pool<PostgresConnectionManager<NoTls>>, Problem> {
    let manager = PostgresConnectionManager::from_url(url, NoTls)
        .map_err(|error| Problem(format!("--database: {error}")))?;
    Pool::builder().name("plan").max_size(size).build(manager).map_err(|error| {
        let Problem(why) = error.into();
        Problem(format!("--database: {why}"))
    })
}

/// Fails before the simulation if the server does not answer.
pub fn reach(url: &str) -> Result<(), Problem> {
    connect(url, 1).map(drop)
}

pub fn measure(options: &Options, plan: &Plan, url: &str) -> Result<Measured, Problem> {
    let pool = connect(url, plan.size)?;
    let mut arrivals: Vec<Arrival> = options
        .of_an_instance()
        .callers()
        .take_while(|arrival| arrival.at < options.seconds)
        .collect();
    let (sender, results) = mpsc::channel();
    let begun = Instant::now() + Duration::from_millis(20);
    thread::scope(|scope| {
        for (number, arrival) in arrivals.iter().copied().enumerate() {
            let due = begun + arrival.at;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (pool, sender) = (pool.clone(), sender.clone());
            let body = move || {
                // The receiver lives longer than the callers.
                let _ = sender.send((number, one(&pool, arrival, due)));
            };
            let thread = thread::Builder::new().stack_size(STACK);
            thread
                .spawn_scoped(scope, body)
                .map_err(|error| Problem(format!("cannot start a thread for a caller: {error}")))?;
        }
        Ok::<(), Problem>(())
    })?;
    drop(sender);
    let mut ends = Vec::with_capacity(arrivals.len());
    let mut held = Vec::new();
    for (number, caller) in results {
        let caller: Caller = caller?;
        // A caller that timed out keeps its planned hold.
        arrivals[number].hold = caller.held.unwrap_or(caller.arrival.hold);
        held.extend(caller.held);
        ends.push((caller.waited, caller.held.is_some()));
    }
    let simulated = trial::run(trial::pool(plan.size), Driver::default(), arrivals)?;
    let simulated: Vec<_> = simulated.iter().map(|end| (end.waited, end.end.is_none())).collect();
    Ok(Measured {
        real: Waits::of(&ends),
        simulated: Waits::of(&simulated),
        mean_hold: held.iter().sum::<Duration>() / held.len().max(1) as u32,
    })
}

fn one(
    pool: &Pool<PostgresConnectionManager<NoTls>>,
    arrival: Arrival,
    due: Instant,
) -> Result<Caller, Problem> {
    let got = pool.get_timeout(arrival.timeout.saturating_sub(due.elapsed()));
    let waited = due.elapsed();
    let held = match got {
        Ok(mut conn) => {
            let begun = Instant::now();
            let seconds = arrival.hold.as_secs_f64();
            PooledConnection::run(&mut conn, |conn| {
                conn.execute("SELECT pg_sleep($1)", &[&seconds])
            })
            .map_err(|error| Problem(format!("--database: {error}")))?;
            drop(conn);
            Some(begun.elapsed())
        }
        Err(error) if error.is_timeout() => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Caller { arrival, waited, held })
}

impl Measured {
    pub fn text(&self, options: &Options, plan: &Plan) -> String {
        let line = |name: &str, waits: &Waits| {
            format!(
                "    {name:<39} p50 {:>9}   p99 {:>9}   timed out {}\n",
                millis(waits.p50),
                millis(waits.p99),
                percent(waits.timed_out)
            )
        };
        format!(
            "on PostgreSQL, {} gets in {:?}, held for {} on average (--service-ms: {}):\n{}{}{}",
            self.real.gets,
            options.seconds,
            millis(self.mean_hold),
            millis(options.service),
            line("measured", &self.real),
            line("simulated, with the hold times measured", &self.simulated),
            line("planned", &plan.waits)
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "measured": waits(&self.real),
            "simulated": waits(&self.simulated),
            "mean_hold_seconds": self.mean_hold.as_secs_f64(),
        })
    }
}
