//! The theory of waits in M/M/c (A. K. Erlang, 1917): Poisson arrivals, exponential
//! service times, one queue without a limit.

use std::time::Duration;

pub struct Theory {
    /// The share of callers that wait.
    pub waited: f64,
    pub mean: Duration,
    pub p99: Duration,
}

/// `size` must be above the average number of busy connections, or the queue grows without
/// end.
pub fn erlang_c(size: u32, rate: f64, service: Duration) -> Theory {
    let (size, service) = (f64::from(size), service.as_secs_f64());
    let offered = rate * service;
    let blocked = (1..=size as u32).fold(1.0, |b, n| offered * b / (f64::from(n) + offered * b));
    let load = offered / size;
    let waited = blocked / (1.0 - load + load * blocked);
    // The waits of those that wait are exponentially distributed.
    let rest = size / service - rate;
    let p99 = (waited / 0.01).ln().max(0.0) / rest;
    Theory {
        waited,
        mean: Duration::from_secs_f64(waited / rest),
        p99: Duration::from_secs_f64(p99),
    }
}
