//! What all parts share: sizes, a driver that costs nothing, rounds and rows.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use fairpool::{Builder, ManageConnection, Pool, PooledConnection};

/// A connection is never due for a check in these measurements.
const NEVER_STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// How large, how long and how often.
pub struct Scale {
    pub waiters: &'static [u32],
    pub masses: &'static [u32],
    pub pools: &'static [u32],
    pub rounds: usize,
    /// How long one size is measured in one round.
    pub length: Duration,
    /// Until when a mass of waiters has joined the queue.
    pub gathering: Duration,
}

impl Scale {
    pub const FULL: Scale = Scale {
        waiters: &[1, 100, 10_000],
        masses: &[1_000, 10_000],
        pools: &[10, 1_000, 10_000],
        rounds: 7,
        length: Duration::from_millis(150),
        gathering: Duration::from_millis(1200),
    };
    pub const TINY: Scale = Scale {
        waiters: &[1, 8],
        masses: &[4, 16],
        pools: &[2, 16],
        rounds: 1,
        length: Duration::from_millis(5),
        gathering: Duration::from_millis(100),
    };
}

/// A driver that costs nothing.
pub struct Stub;

impl ManageConnection for Stub {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

pub type StubPool = Pool<Stub>;
pub type StubGuard = PooledConnection<Stub>;

/// A pool of this many connections, none of which is checked or replaced while
/// it is measured.
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

/// One figure that may grow with a size.
pub struct Row {
    pub subject: &'static str,
    pub size: u32,
    pub unit: &'static str,
    /// One for each round.
    pub values: Vec<f64>,
}

impl Row {
    pub fn median(&self) -> f64 {
        median(self.values.clone())
    }
}

/// Measures something once, at one size.
pub type Probe<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Measures the sizes in turn, round by round. The first round warms up.
pub fn rounds<'a>(
    scale: &Scale,
    subject: &'static str,
    unit: &'static str,
    probes: impl IntoIterator<Item = (u32, Probe<'a>)>,
) -> Vec<Row> {
    eprintln!("  {subject}");
    let row = |size| Row { subject, size, unit, values: Vec::new() };
    let mut probes: Vec<_> = probes.into_iter().map(|(size, probe)| (row(size), probe)).collect();
    for _ in 0..scale.rounds {
        for (row, probe) in &mut probes {
            row.values.push(probe());
        }
    }
    probes.into_iter().map(|(row, _)| row).collect()
}

/// The median time of one call in nanoseconds, over batches: what disturbs a
/// few of them does not count.
pub fn nanos_per_call(length: Duration, batch: u32, mut call: impl FnMut()) -> f64 {
    let (start, mut batches) = (Instant::now(), Vec::new());
    while start.elapsed() < length {
        let start = Instant::now();
        (0..batch).for_each(|_| call());
        batches.push(start.elapsed().as_nanos() as f64 / f64::from(batch));
    }
    median(batches)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
