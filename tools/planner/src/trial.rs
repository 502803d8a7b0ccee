//! The trial of one pool size in virtual time.

use std::time::Duration;

use fairpool::simulation::{Arrival, Driver, Ended, simulate};
use fairpool::{Builder, Error, Fairness, ManageConnection, Pool};

use crate::load::Load;

/// How often the number of gets may double until the p99 is known well enough.
const DOUBLINGS: u32 = 3;

/// The same for the comparison with theory, which needs a smaller error.
const DOUBLINGS_IN_THEORY: u32 = 5;

/// The pool begins empty, so the first tenth of the callers does not count.
const WARM_UP: usize = 10;

/// The gets are divided into stretches, whose p99s give the error of the p99 of all (batch
/// means; t for 19 degrees of freedom, 95 %).
const STRETCHES: usize = 20;
const STUDENT: f64 = 2.093;

/// A manager for virtual time, which opens nothing.
pub struct Nothing;

impl ManageConnection for Nothing {
    type Connection = ();
    type Error = std::convert::Infallible;

    fn connect(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn is_valid(&self, _: &mut ()) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut ()) -> bool {
        false
    }
}

/// The waits of callers, until they got a connection or timed out.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    pub gets: usize,
    pub p50: Duration,
    pub p99: Duration,
    /// The error of the p99, with a confidence of 95 %.
    pub p99_within: Duration,
    pub mean: Duration,
    /// Shares of all callers.
    pub waited: f64,
    pub timed_out: f64,
}

impl Waits {
    pub fn of(ends: &[(Duration, bool)]) -> Waits {
        let mut sorted: Vec<Duration> = ends.iter().map(|end| end.0).collect();
        sorted.sort_unstable();
        let len = ends.len().max(1) as f64;
        let share = |of: &dyn Fn(&(Duration, bool)) -> bool| {
            ends.iter().filter(|end| of(end)).count() as f64 / len
        };
        Waits {
            gets: ends.len(),
            p50: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
            p99_within: spread(ends),
            mean: sorted.iter().sum::<Duration>().div_f64(len),
            waited: share(&|end| end.0 > Duration::ZERO),
            timed_out: share(&|end| !end.1),
        }
    }

    /// Whether more gets would change neither the decision nor the figure.
    fn is_known_well(&self, goal: Duration) -> bool {
        self.p99.abs_diff(goal) > self.p99_within || self.p99_within < self.p99.mul_f64(0.02)
    }
}

pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    match sorted.len() {
        0 => Duration::ZERO,
        len => sorted[((len as f64 * part) as usize).min(len - 1)],
    }
}

fn spread(ends: &[(Duration, bool)]) -> Duration {
    let each = ends.len() / STRETCHES;
    if each == 0 {
        return Duration::ZERO;
    }
    let p99 = ends.chunks_exact(each).take(STRETCHES).map(|some| {
        let mut sorted: Vec<Duration> = some.iter().map(|end| end.0).collect();
        sorted.sort_unstable();
        quantile(&sorted, 0.99).as_secs_f64()
    });
    let p99: Vec<f64> = p99.collect();
    let count = STRETCHES as f64;
    let mean = p99.iter().sum::<f64>() / count;
    let variance = p99.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Duration::from_secs_f64(STUDENT * (variance / count).sqrt())
}

/// A pool with its defaults, except for the size.
pub fn pool(size: u32) -> Builder<Nothing> {
    Pool::builder().max_size(size)
}

/// Simulates a pool with these callers.
pub fn run(
    pool: Builder<Nothing>,
    driver: Driver,
    callers: impl IntoIterator<Item = Arrival>,
) -> Result<Vec<Ended>, Error> {
    let mut ends = Vec::new();
    simulate(pool, driver, callers, |end| ends.push(end))?;
    Ok(ends)
}

fn waits(pool: Builder<Nothing>, driver: Driver, load: &Load, gets: usize) -> Result<Waits, Error> {
    let warm_up = gets / WARM_UP;
    let callers = load.callers().take(gets + warm_up);
    let mut ends = Vec::with_capacity(gets + warm_up);
    simulate(pool, driver, callers, |end| ends.push((end.waited, end.end.is_none())))?;
    Ok(Waits::of(&ends[warm_up..]))
}

/// Tries a size, with enough gets to decide whether it keeps the goal.
pub fn try_size(size: u32, load: &Load, goal: Duration) -> Result<Waits, Error> {
    let mut gets = load.gets;
    loop {
        let found = waits(pool(size), Driver::default(), load, gets)?;
        if found.is_known_well(goal) || gets >= load.gets << DOUBLINGS {
            return Ok(found);
        }
        gets *= 2;
    }
}

/// Tries a size with the largest number of gets.
pub fn try_well(size: u32, load: &Load) -> Result<Waits, Error> {
    waits(pool(size), Driver::default(), load, load.gets << DOUBLINGS)
}

/// Tries a size without delays of machine and driver, for the comparison with theory.
pub fn try_in_theory(size: u32, load: &Load) -> Result<Waits, Error> {
    let pool = pool(size).fairness(Fairness::Strict).test_on_check_out(false);
    waits(
        pool.max_lifetime(None).idle_timeout(None),
        Driver::instant(),
        load,
        load.gets << DOUBLINGS_IN_THEORY,
    )
}
