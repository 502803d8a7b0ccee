//! The collector for `prometheus-client`.

use std::fmt;

use fairpool::WeakPool;
use fairpool_metrics::{
    BUCKET_BOUNDS, FAMILIES, Family, HISTOGRAMS, HistogramFamily, Kind, POOL_NAME, PoolReading,
    Pools, Sample, Unit, Value,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

/// The HTTP `Content-Type` of what [`PrometheusCollector::text`] returns.
pub const TEXT_CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Reads the metrics of pools for Prometheus.
///
/// Register it with a registry of `prometheus-client`, beside the application's own
/// metrics, or serve its [`text`](PrometheusCollector::text) as it is.
///
/// Clones share their list of pools. The pools are not kept alive; a pool that is gone is
/// not shown any more.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool_prometheus::PrometheusCollector;
/// use prometheus_client::registry::Registry;
///
/// let pool = fairpool::Pool::builder().name("orders").max_size(3).build(StubManager)?;
/// let collector = PrometheusCollector::new([pool.downgrade()]);
///
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(collector.clone()));
///
/// let mut text = String::new();
/// prometheus_client::encoding::text::encode(&mut text, &registry)?;
/// assert!(text.contains(r#"_max{db_client_connection_pool_name="orders"} 3"#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PrometheusCollector {
    pools: Pools,
}

impl PrometheusCollector {
    /// A collector for these pools; more can be [added](PrometheusCollector::add) later.
    pub fn new(pools: impl IntoIterator<Item = WeakPool>) -> PrometheusCollector {
        PrometheusCollector { pools: Pools::new(pools) }
    }

    /// Adds a pool, unless it was added before.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let collector = fairpool_prometheus::PrometheusCollector::new([]);
    /// assert_eq!(collector.text(), "");
    ///
    /// let pool = fairpool::Pool::builder().build(StubManager)?;
    /// collector.add(pool.downgrade());
    /// assert!(collector.text().contains("fairpool_gets_total"));
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn add(&self, pool: WeakPool) {
        self.pools.add(pool);
    }

    /// The metrics in Prometheus' text format, version 0.0.4. Serve them with the
    /// `Content-Type` [`TEXT_CONTENT_TYPE`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::builder().name("orders").build(StubManager)?;
    /// drop(pool.get()?);
    /// let text = fairpool_prometheus::PrometheusCollector::new([pool.downgrade()]).text();
    /// let gets = r#"fairpool_gets_total{db_client_connection_pool_name="orders"} 1"#;
    /// assert!(text.lines().any(|line| line == gets));
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("BUG: a string takes any text");
        text
    }
}

impl Collector for PrometheusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let pools = self.pools.read();
        if pools.is_empty() {
            return Ok(());
        }
        FAMILIES.iter().try_for_each(|family| encode_values(family, &pools, &mut encoder))?;
        HISTOGRAMS.iter().try_for_each(|family| encode_histogram(family, &pools, &mut encoder))
    }
}

/// Becomes part of the name.
const SECONDS: registry::Unit = registry::Unit::Seconds;

fn with_underscores(name: &str) -> String {
    name.replace('.', "_")
}

fn encode_values(
    family: &Family,
    pools: &[PoolReading],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let name = with_underscores(family.name);
    let unit = (family.unit == Unit::Seconds).then_some(&SECONDS);
    let kind = match family.kind {
        Kind::UpDown | Kind::Gauge => MetricType::Gauge,
        Kind::Counter => MetricType::Counter,
    };
    let mut metric = encoder.encode_descriptor(&name, family.help, unit, kind)?;
    let pool_name = with_underscores(POOL_NAME);
    for pool in pools {
        for Sample { attribute, value } in family.samples(&pool.reading) {
            let mut labels = vec![(pool_name.as_str(), &*pool.name)];
            let attribute = attribute.map(|(key, label)| (with_underscores(key), label));
            labels.extend(attribute.as_ref().map(|(key, label)| (key.as_str(), *label)));
            encode_value(family.kind, value, metric.encode_family(&labels.as_slice())?)?;
        }
    }
    Ok(())
}

fn encode_value(kind: Kind, value: Value, mut metric: MetricEncoder<'_>) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Count(number)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(&number, None)
        }
        (Kind::Counter, Value::Duration(time)) => {
            metric.encode_counter::<NoLabelSet, _, u64>(&time.as_secs_f64(), None)
        }
        (_, Value::Count(number)) => metric.encode_gauge(&number),
        (_, Value::Duration(time)) => metric.encode_gauge(&time.as_secs_f64()),
    }
}

fn encode_histogram(
    family: &HistogramFamily,
    pools: &[PoolReading],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let name = with_underscores(family.name);
    let histogram = MetricType::Histogram;
    let mut metric = encoder.encode_descriptor(&name, family.help, Some(&SECONDS), histogram)?;
    let pool_name = with_underscores(POOL_NAME);
    for pool in pools {
        let times = family.distribution(&pool.reading);
        let mut below = 0;
        let ends = BUCKET_BOUNDS.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
        let up_to = times.cumulative_counts(&BUCKET_BOUNDS).into_iter().chain([times.count()]);
        let buckets: Vec<(f64, u64)> = ends
            .zip(up_to)
            .map(|(end, up_to)| (end, up_to - std::mem::replace(&mut below, up_to)))
            .collect();
        let labels = [(pool_name.as_str(), &*pool.name)];
        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            times.sum().as_secs_f64(),
            times.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}
