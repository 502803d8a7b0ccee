//! The assumed load: independent callers, and service times of which a few are long.

use std::time::Duration;

use fairpool::simulation::Arrival;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Exp, LogNormal};

/// The 99th percentile of a standard normal distribution.
const Z99: f64 = 2.326_347_874;

/// The largest ratio of a lognormal distribution's 99th percentile to its mean.
pub fn most_p99() -> f64 {
    (Z99 * Z99 / 2.0).exp()
}

/// How long a connection is held.
#[derive(Clone, Copy)]
pub enum Service {
    LogNormal(LogNormal<f64>),
    Exponential(Exp<f64>),
}

impl Service {
    /// Two distributions fit; this is the one with the smaller spread.
    pub fn lognormal(mean: Duration, p99: Duration) -> Service {
        let ratio = (p99.as_secs_f64() / mean.as_secs_f64()).ln();
        let sigma = Z99 - (Z99 * Z99 - 2.0 * ratio).max(0.0).sqrt();
        let mu = mean.as_secs_f64().ln() - sigma * sigma / 2.0;
        Service::LogNormal(LogNormal::new(mu, sigma).expect("BUG: options are checked"))
    }

    pub fn exponential(mean: Duration) -> Service {
        let rate = 1.0 / mean.as_secs_f64();
        Service::Exponential(Exp::new(rate).expect("BUG: options are checked"))
    }

    fn next(&self, dice: &mut StdRng) -> Duration {
        Duration::from_secs_f64(match self {
            Service::LogNormal(times) => times.sample(dice),
            Service::Exponential(times) => times.sample(dice),
        })
    }
}

/// The load of one pool.
#[derive(Clone, Copy)]
pub struct Load {
    /// Gets per second.
    pub rate: f64,
    pub service: Service,
    pub timeout: Duration,
    pub seed: u64,
    /// The gets of the first simulation.
    pub gets: usize,
}

impl Load {
    /// The callers: the same each time, so that pools of different sizes are compared under
    /// the same load. With another rate only the gaps between them change.
    pub fn callers(&self) -> impl Iterator<Item = Arrival> + use<> {
        let Load { rate, service, timeout, seed, .. } = *self;
        let mut when = StdRng::seed_from_u64(seed);
        let mut how_long = StdRng::seed_from_u64(seed ^ 0x5EED);
        let gaps = Exp::new(1.0).expect("BUG: 1 is legal");
        let mut at = 0.0;
        std::iter::repeat_with(move || {
            at += gaps.sample(&mut when) / rate;
            let hold = service.next(&mut how_long);
            Arrival::new(Duration::from_secs_f64(at), hold).timeout(timeout)
        })
    }
}
