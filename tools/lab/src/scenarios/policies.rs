//! Three queue policies side by side, for callers of different importance.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde_json::json;

use crate::bars::Bars;
use crate::load::span;
use crate::report::{Figure, Finding, Report, figure};
use crate::scenario::{Problem, Run, Scenario};

mod load;
mod outcome;
mod real;
mod simulated;

use load::{ABOVE, BELOW, CLASSES, CONNECTIONS, Class, HOLD, Load};
use outcome::{Outcome, Waits};

pub const SCENARIO: Scenario = Scenario {
    name: "policies",
    about: "10 % admin, 60 % user, 30 % report; three queue policies side by side",
    seconds: Duration::from_secs(12),
    run,
};

/// So long that no priority changes within a run.
const NO_AGEING: Duration = Duration::from_secs(24 * 3600);

/// The p95 of each policy in the study, in milliseconds.
const CLAIMED: [u32; 3] = [128, 42, 18];

/// The share of callers that a busy machine may delay.
const FEW: f64 = 0.05;

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let load = load::load(run.seed, run.seconds, run.is_virtual.then_some(simulated::CYCLES));
    let limits =
        CLASSES.map(|class| format!("{} {}", class.name(), span(class.timeout(load.cycle))));
    run.console.say(&format!(
        "{}, all policies at once; timeouts: {}",
        if run.is_virtual { "in virtual time" } else { "on threads" },
        limits.join(", ")
    ));
    let (outcomes, diagnosis) = if run.is_virtual {
        (simulated::run(run, &load)?, String::new())
    } else {
        real::run(run, &load)?
    };
    run.console.clear();
    run.console.say(&table(&outcomes).to_string());
    if let Some(file) = &run.svg {
        let drawn = bars(&outcomes).draw(file);
        drawn.map_err(|error| Problem::file(file, error.to_string()))?;
        run.console.say(&format!("chart: {}", file.display()));
    }
    let verdicts = claims(&outcomes);
    verdicts.iter().for_each(|verdict| run.console.say(&verdict.text));
    Ok(report(run, &load, &outcomes, diagnosis, &verdicts))
}

/// Whether the study's order of policies holds for a class, or for all callers.
struct Claim {
    name: &'static str,
    holds: bool,
    text: String,
}

fn claims(outcomes: &[Outcome]) -> Vec<Claim> {
    let of = |number: usize| {
        let waits: Vec<&Waits> = outcomes[..3].iter().map(|one| &one.waits[number]).collect();
        let p95: Vec<Duration> = waits.iter().map(|waits| waits.quantile(0.95)).collect();
        // Closer values count as equal.
        let holds = p95.is_sorted_by(|a, b| a.mul_f64(0.95) > *b);
        let name = waits[0].name;
        let p95: Vec<String> = p95.into_iter().map(span).collect();
        let text = format!(
            "the study's order of p95 ({CLAIMED:?} ms) {} for {name}: {}",
            if holds { "holds" } else { "does not hold" },
            p95.join(", ")
        );
        Claim { name, holds, text }
    };
    (0..=CLASSES.len()).map(of).collect()
}

fn report(
    run: &Run<'_>,
    load: &Load,
    outcomes: &[Outcome],
    diagnosis: String,
    claims: &[Claim],
) -> Report {
    let [endless, dropping, fairpool, _] = outcomes else { unreachable!("BUG: four policies") };
    // The FIFO with a timeout is the fixed one.
    let flawed = if run.fixed { dropping } else { endless };
    let admin = |outcome: &Outcome| outcome.of(Class::Admin).quantile(0.95);
    let factor = admin(endless).as_secs_f64() / admin(fairpool).as_secs_f64().max(1e-6);
    let reports = fairpool.of(Class::Report);
    let is_fast = factor >= 4.0;
    let ages = reports.share_served() >= 0.8;
    let in_time = fairpool.too_long <= FEW;
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "one FIFO queue without a timeout".to_string(),
        load: format!(
            "{} callers in cycles of {:.1?}: half of each at {:.0} % of what {CONNECTIONS} \
             connections, held for {HOLD:?}, can serve, half at {:.0} %",
            load.callers.len(),
            load.cycle,
            ABOVE * 100.0,
            BELOW * 100.0
        ),
        figures: figures(flawed, fairpool),
        flawed: Finding {
            shows_the_flaw: flawed.too_long > FEW,
            because: format!(
                "{} waited longer than their timeout, up to {}",
                percent(flawed.too_long),
                span(flawed.all().longest())
            ),
        },
        fairpool: Finding {
            shows_the_flaw: !(is_fast && ages && in_time),
            because: format!(
                "admin p95 is {} (FIFO without a timeout: {}); {} of the reports are served; {} \
                 waited longer than their timeout",
                span(admin(fairpool)),
                span(admin(endless)),
                percent(reports.share_served()),
                percent(fairpool.too_long)
            ),
        },
        diagnosis,
        data: json!({
            "virtual": run.is_virtual,
            "cycle_seconds": load.cycle.as_secs_f64(),
            "policies": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
            "claim_holds": claims.iter().map(|claim| (claim.name.to_string(), claim.holds.into()))
                .collect::<serde_json::Map<_, _>>(),
        }),
        chart: None,
    }
}

fn figures(flawed: &Outcome, fairpool: &Outcome) -> Vec<Figure> {
    let both =
        |name: String, of: &dyn Fn(&Outcome) -> String| figure(name, of(flawed), of(fairpool));
    let p95 = (0..=CLASSES.len()).map(|number| {
        let name = format!("p95 of {}", flawed.waits[number].name);
        both(name, &|one| span(one.waits[number].quantile(0.95)))
    });
    let mut figures: Vec<Figure> = p95.collect();
    figures.push(both("longest wait".into(), &|one| span(one.all().longest())));
    figures.push(both("timed out".into(), &|one| one.all().timed_out.to_string()));
    figures.push(both("refused".into(), &|one| one.all().refused.to_string()));
    let served = |one: &Outcome| percent(one.of(Class::Report).share_served());
    figures.push(both("reports served".into(), &served));
    figures
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "policy",
        "class",
        "callers",
        "p50",
        "p95",
        "p99",
        "timed out",
        "refused",
    ]);
    for outcome in outcomes {
        for (number, waits) in outcome.waits.iter().enumerate() {
            let policy = if number == 0 { outcome.policy.name() } else { "" };
            table.add_row([
                policy.to_string(),
                waits.name.to_string(),
                waits.callers.to_string(),
                span(waits.quantile(0.5)),
                span(waits.quantile(0.95)),
                span(waits.quantile(0.99)),
                waits.timed_out.to_string(),
                waits.refused.to_string(),
            ]);
        }
    }
    table
}

fn bars(outcomes: &[Outcome]) -> Bars {
    let p95 = |outcome: &Outcome| {
        let millis = |waits: &Waits| waits.quantile(0.95).as_secs_f64() * 1e3;
        (outcome.policy.name().to_string(), outcome.waits.iter().map(millis).collect())
    };
    Bars {
        title: "95 % of the callers get an answer within".to_string(),
        y: "milliseconds".to_string(),
        groups: outcomes[0].waits.iter().map(|waits| waits.name.to_string()).collect(),
        series: outcomes.iter().map(p95).collect(),
    }
}
