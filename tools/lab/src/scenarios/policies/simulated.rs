//! The policies in virtual time: a million gets within seconds.

use std::time::Duration;

use fairpool::ErrorKind;
use fairpool::simulation::{Arrival, Driver, simulate};

use super::load::{CLASSES, Load, ageing};
use super::outcome::{Answered, End, Outcome, POLICIES, Policy};
use super::real::{MOST_WAITERS, builder};
use crate::scenario::{Problem, Run};

/// Gives a million gets for the four policies together.
pub const CYCLES: u32 = 330;

pub fn run(run: &Run<'_>, load: &Load) -> Result<Vec<Outcome>, Problem> {
    let one = |policy: Policy| {
        run.console.state(|| format!("{}: {} callers", policy.name(), load.callers.len()));
        // A FIFO is a pool in which ageing outweighs every priority.
        let ageing = match policy {
            Policy::Endless | Policy::Dropping => Duration::from_nanos(1),
            Policy::Ageing => ageing(load.cycle),
            Policy::Rigid => super::NO_AGEING,
        };
        let has_timeout = policy != Policy::Endless;
        let arrivals = load.callers.iter().map(|caller| {
            let timeout =
                if has_timeout { caller.class.timeout(load.cycle) } else { Duration::MAX };
            let arrival = Arrival::new(caller.at, caller.hold);
            arrival.timeout(timeout).priority(caller.class.priority())
        });
        let pool = builder(ageing).max_waiters(has_timeout.then_some(MOST_WAITERS));
        let mut answers = Vec::with_capacity(load.callers.len());
        simulate(pool, Driver::default(), arrivals, |get| {
            let priority = get.arrival.priority;
            let class = CLASSES.into_iter().find(|class| class.priority() == priority);
            let end = match get.end {
                None => End::Served,
                Some(ErrorKind::QueueFull) => End::Refused,
                Some(_) => End::TimedOut,
            };
            let class = class.expect("BUG: a priority without a class");
            answers.push(Answered { class, waited: get.waited, end });
        })
        .map_err(|error| Problem(error.to_string()))?;
        Ok(Outcome::new(policy, load, &answers))
    };
    POLICIES.into_iter().map(one).collect()
}
