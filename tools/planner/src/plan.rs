//! The plan, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::erlang::{Theory, erlang_c};
use crate::load::{Load, Service};
use crate::options::Options;
use crate::problem::Problem;
use crate::search::{self, Found};
use crate::trial::{Waits, try_in_theory};

/// Above this share of the server's limit there is a warning: deployments, other services
/// and people need connections too.
const ALARMING: f64 = 0.7;

/// The largest pool of an instance.
const MOST: u32 = 10_000;

pub struct Plan {
    pub size: u32,
    pub waits: Waits,
    pub curve: Vec<(u32, Waits)>,
    pub knee: Option<u32>,
    /// The factor by which the load may grow.
    pub room: f64,
    /// Of all instances together.
    pub connections: u64,
    /// The shared connections that are enough behind a proxy, if the plan needs more
    /// connections than the server allows.
    pub proxy: Option<Found>,
    pub check: Check,
}

/// Simulation and theory, with exponential service times, which both cover.
pub struct Check {
    pub simulated: Waits,
    pub theory: Theory,
}

impl Plan {
    pub fn make(options: &Options) -> Result<Plan, Problem> {
        let (load, service, goal) = (options.of_an_instance(), options.service, options.goal);
        let found = search::smallest(&load, service, goal, MOST)?.ok_or_else(|| {
            Problem(format!("--wait-p99-ms {goal:?} is not kept even with {MOST} connections"))
        })?;
        let size = found.size;
        let connections = u64::from(size) * u64::from(options.instances);
        let curve = search::curve(&load, service, goal, size)?;
        let allowed = options.server_max;
        let proxy = if connections > u64::from(allowed) {
            let shared = search::smallest(&options.of_all(), service, goal, allowed)?;
            Some(shared.ok_or_else(|| {
                Problem(format!(
                    "--server-max-connections {allowed} is too low for --wait-p99-ms {}, even \
                     if all instances share the connections",
                    millis(goal)
                ))
            })?)
        } else {
            None
        };
        Ok(Plan {
            size,
            waits: found.waits,
            knee: search::knee(&curve),
            curve,
            room: search::room(&load, service, goal, size)?,
            connections,
            proxy,
            check: check(&load, service, size)?,
        })
    }

    /// The share of the server's limit.
    fn share(&self, options: &Options) -> f64 {
        self.connections as f64 / f64::from(options.server_max)
    }

    fn is_alarming(&self, options: &Options) -> bool {
        self.share(options) > ALARMING
    }

    pub fn text(&self, options: &Options) -> String {
        let load = options.of_an_instance();
        let busy = load.rate * options.service.as_secs_f64();
        let mut text = String::new();
        let mut line = |name: &str, what: String| {
            let _ = writeln!(text, "{:<25} {what}", format!("{name}:"));
        };
        line(
            "load of an instance",
            format!("{:.1} gets/s, {busy:.2} connections busy on average", load.rate),
        );
        line(
            "pool size per instance",
            format!(
                "{} (busy {:.0} % of the time)",
                self.size,
                busy / f64::from(self.size) * 100.0
            ),
        );
        line(
            "expected wait",
            format!(
                "p50 {}, p99 {} (± {}), goal {}; {} of the callers wait",
                millis(self.waits.p50),
                millis(self.waits.p99),
                millis(self.waits.p99_within),
                millis(options.goal),
                percent(self.waits.waited)
            ),
        );
        line(
            "timeouts",
            format!("{} after {}", percent(self.waits.timed_out), millis(options.timeout)),
        );
        let knee = self.knee.map_or("none: no caller waits".to_string(), |knee| {
            format!("{knee} connections; more gain little")
        });
        line("knee of the curve", knee);
        line(
            "room",
            format!(
                "the goal is kept up to {:.0} gets/s of all instances (× {:.2})",
                options.rate * self.room,
                self.room
            ),
        );
        line(
            "connections in total",
            format!(
                "{} × {} = {}, {:.0} % of the server's {}",
                options.instances,
                self.size,
                self.connections,
                self.share(options) * 100.0,
                options.server_max
            ),
        );
        line("Erlang C", self.check.text(self.size));
        if let Some(shared) = &self.proxy {
            line(
                "PROXY NEEDED",
                format!(
                    "{} connections exceed the server's {}; add a proxy such as PgBouncer \
                     (pool_mode = transaction): {} connections that all instances share keep \
                     the goal (p99 {})",
                    self.connections,
                    options.server_max,
                    shared.size,
                    millis(shared.waits.p99)
                ),
            );
        }
        // With a proxy, only the shared connections reach the server.
        let shared = self.proxy.as_ref().map(|shared| shared.size);
        let of_server = shared.map_or(self.connections, u64::from);
        if of_server as f64 / f64::from(options.server_max) > ALARMING {
            let instead = match shared {
                Some(_) => "raise max_connections",
                None => {
                    "raise max_connections, use fewer instances, or add a proxy such as PgBouncer"
                }
            };
            line(
                "WARNING",
                format!(
                    "{of_server} connections are more than {:.0} % of the server's: none may be left \
                     for a rolling deployment or another service; {instead}",
                    ALARMING * 100.0
                ),
            );
        }
        text
    }

    pub fn json(&self, options: &Options) -> Value {
        json!({
            "instances": options.instances,
            "rate": options.rate,
            "pool_size": self.size,
            "wait": waits(&self.waits),
            "goal_seconds": options.goal.as_secs_f64(),
            "knee": self.knee,
            "room": self.room,
            "connections": self.connections,
            "server_max_connections": options.server_max,
            "warning": self.is_alarming(options),
            "proxy_needed": self.proxy.is_some(),
            "proxy_connections": self.proxy.as_ref().map(|shared| shared.size),
            "curve": self.curve.iter().map(|(size, of)| {
                json!({ "size": size, "wait": waits(of) })
            }).collect::<Vec<_>>(),
            "erlang_c": {
                "share_that_waits": self.check.theory.waited,
                "mean_seconds": self.check.theory.mean.as_secs_f64(),
                "p99_seconds": self.check.theory.p99.as_secs_f64(),
                "simulated": waits(&self.check.simulated),
            },
        })
    }
}

impl Check {
    fn text(&self, size: u32) -> String {
        let Check { simulated, theory } = self;
        format!(
            "with exponential service times and {size} connections, {} wait, {} on average, p99 \
             {}; the simulation has {}, {}, {}",
            percent(theory.waited),
            millis(theory.mean),
            millis(theory.p99),
            percent(simulated.waited),
            millis(simulated.mean),
            millis(simulated.p99)
        )
    }
}

fn check(load: &Load, service: Duration, size: u32) -> Result<Check, Problem> {
    let exponential = Service::exponential(service);
    let endless = Load { service: exponential, timeout: Duration::MAX, ..*load };
    Ok(Check {
        simulated: try_in_theory(size, &endless)?,
        theory: erlang_c(size, load.rate, service),
    })
}

pub fn waits(waits: &Waits) -> Value {
    json!({
        "gets": waits.gets,
        "p50_seconds": waits.p50.as_secs_f64(),
        "p99_seconds": waits.p99.as_secs_f64(),
        "p99_within_seconds": waits.p99_within.as_secs_f64(),
        "mean_seconds": waits.mean.as_secs_f64(),
        "share_that_waits": waits.waited,
        "share_timed_out": waits.timed_out,
    })
}

pub fn millis(span: Duration) -> String {
    format!("{:.2} ms", span.as_secs_f64() * 1e3)
}

pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
