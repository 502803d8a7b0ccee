//! What all parts share: sizes, pools without background work, and rounds.

use std::time::{Duration, Instant};

use fairpool::{Builder, ManageConnection, Pool, PooledConnection};

use fairpool_bench::growth::{self, Growth, Unit};
use fairpool_bench::settings::Settings;
use fairpool_bench::stub::Stub;

/// No connection is due for a check within a measurement.
const NEVER_STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes and durations.
pub struct Scale {
    pub waiters: &'static [u32],
    pub masses: &'static [u32],
    pub pools: &'static [u32],
    pub rounds: usize,
    /// How long one size is measured in one round.
    pub length: Duration,
    /// The time for a mass of waiters to join the queue.
    pub gathering: Duration,
}

impl Scale {
    pub fn new(settings: &Settings) -> Scale {
        let (rounds, length) = (settings.rounds as usize, settings.length);
        match settings.in_earnest {
            true => Scale {
                waiters: &[1, 100, 10_000],
                masses: &[1_000, 10_000],
                pools: &[10, 1_000, 10_000],
                rounds,
                length,
                gathering: Duration::from_millis(1200),
            },
            false => Scale {
                waiters: &[1, 8],
                masses: &[4, 16],
                pools: &[2, 16],
                rounds,
                length,
                gathering: Duration::from_millis(100),
            },
        }
    }
}

pub type StubPool = Pool<Stub>;
pub type StubGuard = PooledConnection<Stub>;

/// A pool of this many connections, which it neither checks nor replaces while it is
/// measured.
pub fn builder<M: ManageConnection>(connections: u32) -> Builder<M> {
    Pool::builder()
        .max_size(connections)
        .skip_check_within(NEVER_STALE)
        .max_lifetime(None)
        .idle_timeout(None)
}

pub fn get(pool: &StubPool) -> StubGuard {
    pool.get().expect("the stub never fails")
}

/// Measures once, at one size, in nanoseconds.
pub type Probe<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Measures the sizes in turn, round by round.
pub fn rounds<'a>(
    scale: &Scale,
    subject: &str,
    probes: impl IntoIterator<Item = (u32, Probe<'a>)>,
) -> Vec<Growth> {
    let mut probes: Vec<_> = probes.into_iter().collect();
    let mut rounds = vec![Vec::new(); probes.len()];
    for _ in 0..scale.rounds {
        for ((_, probe), values) in probes.iter_mut().zip(&mut rounds) {
            values.push(probe());
        }
    }
    let sizes = probes.iter().zip(rounds);
    let figure = |(&(size, _), rounds): (&(u32, Probe), Vec<f64>)| Growth {
        subject: subject.to_string(),
        size,
        unit: Unit::Nanos,
        rounds,
    };
    sizes.map(figure).collect()
}

/// The median time of one call in nanoseconds, over batches, so that noise in a few of
/// them does not count.
pub fn nanos_per_call(length: Duration, batch: u32, mut call: impl FnMut()) -> f64 {
    let (start, mut batches) = (Instant::now(), Vec::new());
    while start.elapsed() < length {
        let start = Instant::now();
        (0..batch).for_each(|_| call());
        batches.push(start.elapsed().as_nanos() as f64 / f64::from(batch));
    }
    median(batches)
}

pub fn median(values: Vec<f64>) -> f64 {
    growth::median(values.into_iter())
}
