//! Instruments for an OpenTelemetry meter.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use fairpool::WeakPool;
use fairpool::stats::{Distributions, ValueCount};
use fairpool_metrics::{
    BUCKET_BOUNDS, FAMILIES, Family, HISTOGRAMS, HistogramFamily, Kind, POOL_NAME, PoolReading,
    Pools, Sample, Unit, Value,
};
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::{KeyValue, StringValue};

use crate::thinning::thinned;

/// A collection records at most this many values of one histogram of a pool.
const MOST_VALUES: u64 = 100_000;

/// Shows the metrics of pools through OpenTelemetry.
///
/// The instruments live as long as the provider of the meter, whether this handle is kept
/// or not: the handle is there to [add](OpenTelemetryMetrics::add) pools. Clones share
/// their list of pools. The pools are not kept alive; a pool that is gone is not shown any
/// more, except that histograms with cumulative temporality keep their values.
///
/// # When values are recorded
///
/// Pools are read when the provider collects; between two collections they have no extra
/// cost. The same holds for histograms: a collection starts by recording what each pool
/// has timed since the last one. So it includes everything that was timed before it
/// started; what is timed while it runs is in the next one at the latest. No value is
/// recorded twice, however many readers the provider has. Values are known to 1 %; counts
/// and sums are exact.
///
/// There is a limit: a collection records at most 100,000 values of each histogram of a
/// pool. If there are more, it records an even sample that includes the longest. Quantiles
/// and means are then right to one in 100,000, but the histogram's count and sum are too
/// low. `fairpool.gets` and `fairpool.time_waited` are always exact.
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
    instruments: Arc<Instruments>,
}

impl OpenTelemetryMetrics {
    /// Creates the instruments for these pools; more can be
    /// [added](OpenTelemetryMetrics::add) later. Call it once per meter.
    pub fn register(
        meter: &Meter,
        pools: impl IntoIterator<Item = WeakPool>,
    ) -> OpenTelemetryMetrics {
        let instruments = Arc::new(Instruments {
            pools: Pools::new(pools),
            histograms: HISTOGRAMS.iter().map(|family| histogram(meter, family)).collect(),
            state: Mutex::new(State::default()),
        });
        for (index, family) in FAMILIES.iter().enumerate() {
            observe(meter, index, family, &instruments);
        }
        OpenTelemetryMetrics { instruments }
    }

    /// Adds a pool, with everything that it has counted and timed so far, unless it was
    /// added before.
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
        self.instruments.pools.add(pool);
    }
}

impl fmt::Debug for OpenTelemetryMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTelemetryMetrics").field("pools", &self.instruments.pools).finish()
    }
}

/// What the callbacks of all instruments share. Each instrument has its own callback, but
/// a collection reads each pool once.
struct Instruments {
    pools: Pools,
    /// In the order of [`HISTOGRAMS`].
    histograms: Vec<Histogram<f64>>,
    state: Mutex<State>,
}

/// A pool's reading, and the attribute that has its name.
type Named = (PoolReading, KeyValue);

#[derive(Default)]
struct State {
    readings: Arc<Vec<Named>>,
    /// The instruments that have shown these readings. If one of them is asked again,
    /// a new collection has begun.
    shown_by: Vec<usize>,
    /// What the histograms have recorded, by the ids of pools.
    recorded: HashMap<u64, Distributions>,
}

impl Instruments {
    /// The readings that this instrument shows in the collection under way.
    fn readings_for(&self, instrument: usize) -> Arc<Vec<Named>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.shown_by.is_empty() || state.shown_by.contains(&instrument) {
            self.begin_collection(&mut state);
        }
        state.shown_by.push(instrument);
        Arc::clone(&state.readings)
    }

    fn begin_collection(&self, state: &mut State) {
        let with_name = |pool: PoolReading| {
            let name = KeyValue::new(POOL_NAME, StringValue::from(Arc::clone(&pool.name)));
            (pool, name)
        };
        let readings: Vec<Named> = self.pools.read().into_iter().map(with_name).collect();
        state.recorded.retain(|id, _| readings.iter().any(|(pool, _)| pool.id == *id));
        for (pool, name) in &readings {
            let earlier = state.recorded.insert(pool.id, pool.reading.times.clone());
            self.record(pool, name, earlier.as_ref());
        }
        state.readings = Arc::new(readings);
        state.shown_by.clear();
    }

    /// Records what a pool has timed since it was read `earlier`.
    fn record(&self, pool: &PoolReading, name: &KeyValue, earlier: Option<&Distributions>) {
        for (family, histogram) in HISTOGRAMS.iter().zip(&self.histograms) {
            let times = family.distribution(&pool.reading);
            let values = match earlier {
                Some(earlier) => times.since(family.select(earlier)).values(),
                None => times.values(),
            };
            for ValueCount { seconds, count } in thinned(&values, MOST_VALUES) {
                (0..count).for_each(|_| histogram.record(seconds, std::slice::from_ref(name)));
            }
        }
    }

    fn show(&self, instrument: usize, observe: impl Fn(Value, &[KeyValue])) {
        for (pool, name) in &*self.readings_for(instrument) {
            for Sample { attribute, value } in FAMILIES[instrument].samples(&pool.reading) {
                match attribute {
                    None => observe(value, std::slice::from_ref(name)),
                    Some((key, label)) => {
                        observe(value, &[name.clone(), KeyValue::new(key, label)]);
                    }
                }
            }
        }
    }
}

fn histogram(meter: &Meter, family: &HistogramFamily) -> Histogram<f64> {
    meter
        .f64_histogram(family.name)
        .with_description(family.help)
        .with_unit(Unit::Seconds.as_str())
        .with_boundaries(BUCKET_BOUNDS.iter().map(|bound| bound.as_secs_f64()).collect())
        .build()
}

fn observe(meter: &Meter, index: usize, family: &Family, instruments: &Arc<Instruments>) {
    let instruments = Arc::clone(instruments);
    let Family { name, help, kind, unit, .. } = *family;
    // An instrument has one type of number: the types differ, the code does not.
    macro_rules! build {
        ($instrument:ident, $number:expr) => {{
            meter
                .$instrument(name)
                .with_description(help)
                .with_unit(unit.as_str())
                .with_callback(move |to| {
                    instruments.show(index, |value, attributes| {
                        to.observe($number(value), attributes);
                    });
                })
                .build();
        }};
    }
    match (kind, unit) {
        (Kind::Counter, Unit::Count(_)) => build!(u64_observable_counter, whole),
        (Kind::Counter, Unit::Seconds) => build!(f64_observable_counter, Value::as_f64),
        (Kind::Gauge, Unit::Count(_)) => build!(u64_observable_gauge, whole),
        (Kind::Gauge, Unit::Seconds) => build!(f64_observable_gauge, Value::as_f64),
        (Kind::UpDown, Unit::Count(_)) => build!(i64_observable_up_down_counter, signed),
        (Kind::UpDown, Unit::Seconds) => {
            build!(f64_observable_up_down_counter, Value::as_f64);
        }
    }
}

fn whole(value: Value) -> u64 {
    match value {
        Value::Count(number) => number,
        Value::Duration(time) => time.as_secs(),
    }
}

fn signed(value: Value) -> i64 {
    i64::try_from(whole(value)).unwrap_or(i64::MAX)
}
