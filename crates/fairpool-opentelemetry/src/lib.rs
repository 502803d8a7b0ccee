//! Instruments for an OpenTelemetry meter.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;

use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::{KeyValue, StringValue};

use crate::metrics::families::{
    Amount, BOUNDS, FAMILIES, Family, Kind, POOL_NAME, TIMES, TimesFamily, Unit,
};
use crate::metrics::pools::{Pools, Seen};
use crate::snapshot::WeakPool;
use crate::sync::{Arc, PlainMutex};
use crate::times::Distributions;

/// No collection records more values of one histogram of a pool than this.
const MOST_VALUES: u64 = 100_000;

/// Shows the figures of pools through OpenTelemetry. (Feature `opentelemetry`.)
///
/// The [module](crate::metrics) lists the instruments. They live as long as the
/// provider of the meter, whether this handle is kept or not; it is for adding pools.
/// Clones share their list of pools. The pools are not kept alive, and those that are
/// gone are left out, except that histograms of a cumulative temporality keep what
/// they had.
///
/// # When values are recorded
///
/// Everything is read at a collection, and costs a pool nothing between two. That
/// goes for histograms as well: what the pool has timed since the last collection is
/// recorded at the beginning of the next, so all that was timed before a collection
/// begins is in it, and what is timed meanwhile is in the next at the latest. Nothing
/// is recorded twice, however many readers the provider has. Values are exact to
/// 1 %; counts and sums are exact.
///
/// There is a limit: of each histogram of a pool, a collection records 100,000 values
/// at the most. Of more it takes an even sample, which has the longest in it: quantiles
/// and means then are right to one in 100,000, but the histogram's count is too low,
/// and its sum with it. `fairpool.gets` and `fairpool.time_waited` are always exact.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool_opentelemetry::OpenTelemetryMetrics;
/// use opentelemetry::metrics::MeterProvider;
/// use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
///
/// let exporter = InMemoryMetricExporter::default();
/// let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
///
/// let pool = fairpool::Pool::builder().name("orders").build(StubManager)?;
/// OpenTelemetryMetrics::register(&provider.meter("fairpool"), [pool.downgrade()]);
///
/// provider.force_flush()?;
/// let exported = exporter.get_finished_metrics()?;
/// let mut metrics = exported[0].scope_metrics().flat_map(|scope| scope.metrics());
/// assert!(metrics.any(|metric| metric.name() == "db.client.connection.count"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct OpenTelemetryMetrics {
    shown: Arc<Shown>,
}

impl OpenTelemetryMetrics {
    /// Makes the instruments, which show these pools; more can be
    /// [added](OpenTelemetryMetrics::add) later. To be called once for a meter.
    pub fn register(meter: &Meter, pools: impl IntoIterator<Item = WeakPool>) -> OpenTelemetryMetrics {
        let shown = Arc::new(Shown {
            pools: Pools::of(pools),
            histograms: TIMES.each_ref().map(|family| histogram(meter, family)),
            state: PlainMutex::new(State::default()),
        });
        FAMILIES.iter().enumerate().for_each(|(at, family)| observe(meter, at, family, &shown));
        OpenTelemetryMetrics { shown }
    }

    /// Shows one more pool, with all that it has counted and timed so far. A pool that
    /// is shown already is not shown twice.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let meter = opentelemetry::global::meter("fairpool");
    /// let metrics = fairpool_opentelemetry::OpenTelemetryMetrics::register(&meter, []);
    /// let pool = fairpool::Pool::builder().build(StubManager)?;
    /// metrics.add(pool.downgrade());
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn add(&self, pool: WeakPool) {
        self.shown.pools.add(pool);
    }
}

impl fmt::Debug for OpenTelemetryMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTelemetryMetrics").field("pools", &self.shown.pools.names()).finish()
    }
}

/// What the callbacks of all instruments share. Each instrument has its own callback,
/// but a collection looks at each pool once.
struct Shown {
    pools: Pools,
    histograms: [Histogram<f64>; 5],
    state: PlainMutex<State>,
}

#[derive(Default)]
struct State {
    seen: Arc<Vec<(Seen, KeyValue)>>,
    /// The instruments that have shown this look: when one of them is asked again,
    /// that is another collection.
    shown_by: Vec<usize>,
    /// What is recorded already, by the pools' ids.
    recorded: HashMap<u64, Distributions>,
}

impl Shown {
    /// The look at the pools that this instrument is to show.
    fn seen_by(&self, instrument: usize) -> Arc<Vec<(Seen, KeyValue)>> {
        let mut state = self.state.lock();
        if state.shown_by.is_empty() || state.shown_by.contains(&instrument) {
            self.look(&mut state);
        }
        state.shown_by.push(instrument);
        Arc::clone(&state.seen)
    }

    fn look(&self, state: &mut State) {
        let with_name = |seen: Seen| {
            let name = KeyValue::new(POOL_NAME, StringValue::from(Arc::clone(&seen.name)));
            (seen, name)
        };
        let seen: Vec<_> = self.pools.look().into_iter().map(with_name).collect();
        state.recorded.retain(|id, _| seen.iter().any(|(seen, _)| seen.id == *id));
        for (Seen { id, reading, .. }, name) in &seen {
            let earlier = state.recorded.get(id);
            for (TimesFamily { of, .. }, histogram) in TIMES.iter().zip(&self.histograms) {
                let gained = reading.times.of(*of).since(earlier.map(|earlier| earlier.of(*of)));
                for (seconds, times) in thinned(&gained, MOST_VALUES) {
                    (0..times).for_each(|_| histogram.record(seconds, std::slice::from_ref(name)));
                }
            }
            state.recorded.insert(*id, reading.times.clone());
        }
        state.seen = Arc::new(seen);
        state.shown_by.clear();
    }

    fn show(&self, instrument: usize, mut observe: impl FnMut(Amount, &[KeyValue])) {
        for (Seen { reading, .. }, name) in &*self.seen_by(instrument) {
            let shown = FAMILIES[instrument].each(reading, |attribute, amount| {
                match attribute {
                    None => observe(amount, std::slice::from_ref(name)),
                    Some((key, value)) => {
                        observe(amount, &[name.clone(), KeyValue::new(key, value)]);
                    }
                }
                Ok::<(), Infallible>(())
            });
            match shown {
                Ok(()) => {}
            }
        }
    }
}

/// Of these values, which rise, an even sample of at most `most`, the longest first.
fn thinned(values: &[(f64, u64)], most: u64) -> impl Iterator<Item = (f64, u64)> {
    let total: u64 = values.iter().map(|&(_, times)| times).sum();
    let kept = total.min(most);
    let (mut passed, mut recorded) = (0, 0);
    values.iter().rev().map(move |&(value, times)| {
        passed += times;
        let of_those = u128::from(passed) * u128::from(kept);
        let to_record = of_those.div_ceil(u128::from(total)) as u64;
        (value, to_record - std::mem::replace(&mut recorded, to_record))
    })
}

fn histogram(meter: &Meter, family: &TimesFamily) -> Histogram<f64> {
    meter
        .f64_histogram(family.name)
        .with_description(family.help)
        .with_unit("s")
        .with_boundaries(BOUNDS.iter().map(|bound| bound.as_secs_f64()).collect())
        .build()
}

fn observe(meter: &Meter, at: usize, family: &Family, shown: &Arc<Shown>) {
    let shown = Arc::clone(shown);
    let Family { name, help, kind, unit, .. } = *family;
    let unit_name = match unit {
        Unit::Count(unit) => unit,
        Unit::Seconds => "s",
    };
    // An instrument is of one type: the types differ, the code does not.
    macro_rules! build {
        ($instrument:ident, $number:ident) => {{
            let instrument = meter.$instrument(name).with_description(help).with_unit(unit_name);
            let observe = move |amount: Amount| amount.$number();
            instrument
                .with_callback(move |to| {
                    shown.show(at, |amount, attributes| to.observe(observe(amount), attributes));
                })
                .build();
        }};
    }
    match (kind, unit) {
        (Kind::Counter, Unit::Count(_)) => build!(u64_observable_counter, whole),
        (Kind::Counter, Unit::Seconds) => build!(f64_observable_counter, seconds),
        (Kind::Gauge, Unit::Count(_)) => build!(u64_observable_gauge, whole),
        (Kind::Gauge, Unit::Seconds) => build!(f64_observable_gauge, seconds),
        (Kind::Level, Unit::Count(_)) => build!(i64_observable_up_down_counter, signed),
        (Kind::Level, Unit::Seconds) => build!(f64_observable_up_down_counter, seconds),
    }
}

impl Amount {
    fn whole(self) -> u64 {
        match self {
            Amount::Whole(number) => number,
            Amount::Span(span) => span.as_secs(),
        }
    }

    fn signed(self) -> i64 {
        i64::try_from(self.whole()).unwrap_or(i64::MAX)
    }

    fn seconds(self) -> f64 {
        match self {
            Amount::Whole(number) => number as f64,
            Amount::Span(span) => span.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(f64, u64)], most: u64) -> Vec<(f64, u64)> {
        thinned(values, most).collect()
    }

    #[test]
    fn few_values_are_all_recorded() {
        assert_eq!(of(&[], 10), []);
        assert_eq!(of(&[(1.0, 3), (2.0, 7)], 10), [(2.0, 7), (1.0, 3)]);
    }

    #[test]
    fn of_many_values_the_longest_is_recorded_and_the_rest_in_proportion() {
        let values = [(1.0, 9_000_000_000), (2.0, 999_999_999), (3.0, 1)];
        assert_eq!(of(&values, 100), [(3.0, 1), (2.0, 9), (1.0, 90)]);
    }

    #[test]
    fn the_number_of_recorded_values_is_bounded() {
        let values: Vec<_> = (1..=1000).map(|value| (f64::from(value), u64::MAX >> 12)).collect();
        let recorded: u64 = thinned(&values, 777).map(|(_, times)| times).sum();
        assert_eq!(recorded, 777);
    }
}
