//! The arrivals: the load alternates between more and less than the pool can serve.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The pool's connections, and the average hold. Each hold is 0.5 to 1.5 times that.
pub const CONNECTIONS: usize = 8;
pub const HOLD: Duration = Duration::from_millis(20);

/// The load in the two halves of a cycle, as a share of what the pool can serve.
pub const ABOVE: f64 = 1.4;
pub const BELOW: f64 = 0.5;
const LONGEST_CYCLE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Admin,
    User,
    Report,
}

pub const CLASSES: [Class; 3] = [Class::Admin, Class::User, Class::Report];

impl Class {
    pub fn name(self) -> &'static str {
        ["admin", "user", "report"][self as usize]
    }

    pub fn priority(self) -> u8 {
        [1, 5, 10][self as usize]
    }

    fn percent(self) -> u32 {
        [10, 60, 30][self as usize]
    }

    /// The timeout of policies that have one. A report may take longer.
    pub fn timeout(self, cycle: Duration) -> Duration {
        cycle.mul_f64([0.1, 0.1, 0.3][self as usize])
    }
}

/// The ageing per level of priority.
pub fn ageing(cycle: Duration) -> Duration {
    cycle / 40
}

#[derive(Clone, Copy)]
pub struct Caller {
    pub at: Duration,
    pub hold: Duration,
    pub class: Class,
}

pub struct Load {
    pub cycle: Duration,
    pub callers: Vec<Caller>,
}

/// Callers at random times; their number in each half of a cycle is fixed by its load.
pub fn load(seed: u64, length: Duration, cycles: Option<u32>) -> Load {
    let whole = (length.as_secs_f64() / LONGEST_CYCLE.as_secs_f64()).floor().max(1.0);
    let cycle = length.div_f64(whole).min(LONGEST_CYCLE);
    let cycles = cycles.unwrap_or(whole as u32);
    let mut dice = StdRng::seed_from_u64(seed);
    let half = cycle / 2;
    let served = half.as_secs_f64() * CONNECTIONS as f64 / HOLD.as_secs_f64();
    let mut callers = Vec::new();
    for number in 0..2 * cycles {
        let part = if number % 2 == 0 { ABOVE } else { BELOW };
        let some = (0..(served * part) as usize).map(|_| Caller {
            at: half * number + half.mul_f64(dice.random()),
            hold: HOLD.mul_f64(dice.random_range(0.5..1.5)),
            class: class(dice.random_range(0..100)),
        });
        callers.extend(some);
    }
    callers.sort_by_key(|caller: &Caller| caller.at);
    Load { cycle, callers }
}

fn class(percent: u32) -> Class {
    let mut below = 0;
    let found = CLASSES.into_iter().find(|class| {
        below += class.percent();
        percent < below
    });
    found.expect("BUG: the shares add up to 100")
}
