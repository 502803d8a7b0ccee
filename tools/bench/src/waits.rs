//! Histograms of waits, to three digits.

use hdrhistogram::{Counter, Histogram};

/// Longer waits are recorded as this; no cell lasts for a minute.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// Has its final size from the start, so that no thread allocates while it is measured.
pub fn histogram<C: Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(1, LONGEST_NANOS, 3).expect("legal bounds")
}

/// The waits of one thread. Small counters, because there may be a thousand threads.
pub type ThreadWaits = Histogram<u32>;

/// The waits of all threads.
pub type Waits = Histogram<u64>;

/// Adds a thread's or a round's waits to those of all.
pub fn merge<C: Counter>(into: &mut Waits, from: &Histogram<C>) {
    for step in from.iter_recorded() {
        into.saturating_record_n(step.value_iterated_to(), step.count_at_value().as_u64());
    }
}

/// The distribution as points: a percentile as a number of nines (1 is the 90th, 2 the
/// 99th, 3 the 99.9th), and the wait in nanoseconds. The last point is the longest wait.
pub fn curve(waits: &Waits) -> Vec<(f64, u64)> {
    let count = waits.len();
    if count == 0 {
        return Vec::new();
    }
    let last = (count as f64).log10();
    let steps = (last / 0.1) as u32;
    let at = |nines: f64| waits.value_at_quantile(1.0 - 10f64.powf(-nines));
    let inner = (0..=steps).map(|step| f64::from(step) * 0.1);
    let mut points: Vec<(f64, u64)> = inner.map(|nines| (round(nines), at(nines))).collect();
    points.push((round(last), waits.max()));
    points
}

/// The reports need no more digits than this.
fn round(nines: f64) -> f64 {
    (nines * 1000.0).round() / 1000.0
}
