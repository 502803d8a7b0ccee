//! The collector for `prometheus-client`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

use crate::metrics::families::{
    Amount, BOUNDS, FAMILIES, Family, Kind, POOL_NAME, TIMES, TimesFamily, Unit,
};
use crate::metrics::pools::{Pools, Seen};
use crate::snapshot::WeakPool;
use crate::sync::Arc;

/// The HTTP `Content-Type` of what [`PrometheusCollector::text`] returns.
pub const TEXT_CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Shows the figures of pools to Prometheus. (Feature `prometheus`.)
///
/// It goes into a registry of `prometheus-client` beside an application's own
/// metrics; or [`text`](PrometheusCollector::text) is served as it is. The
/// [module](crate::metrics) lists the metrics.
///
/// Clones share their list of pools. The pools are not kept alive, and those that are
/// gone are left out.
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
#[derive(Clone)]
pub struct PrometheusCollector {
    pools: Arc<Pools>,
}

impl PrometheusCollector {
    /// A collector of the figures of these pools; more can be
    /// [added](PrometheusCollector::add) later.
    pub fn new(pools: impl IntoIterator<Item = WeakPool>) -> PrometheusCollector {
        PrometheusCollector { pools: Arc::new(Pools::of(pools)) }
    }

    /// Shows one more pool. A pool that is shown already is not shown twice.
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

    /// The figures in Prometheus' text format, version 0.0.4. To be served with the
    /// `Content-Type` of [`TEXT_CONTENT_TYPE`].
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

impl fmt::Debug for PrometheusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusCollector").field("pools", &self.pools.names()).finish()
    }
}

impl Collector for PrometheusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seen = self.pools.look();
        if seen.is_empty() {
            return Ok(());
        }
        FAMILIES.iter().try_for_each(|family| encode_family(family, &seen, &mut encoder))?;
        TIMES.iter().try_for_each(|family| encode_times(family, &seen, &mut encoder))
    }
}

/// The unit in the name.
const SECONDS: registry::Unit = registry::Unit::Seconds;

fn with_underscores(name: &str) -> String {
    name.replace('.', "_")
}

fn encode_family(
    family: &Family,
    seen: &[Seen],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let name = with_underscores(family.name);
    let unit = (family.unit == Unit::Seconds).then_some(&SECONDS);
    let kind = match family.kind {
        Kind::Level | Kind::Gauge => MetricType::Gauge,
        Kind::Counter => MetricType::Counter,
    };
    let mut metric = encoder.encode_descriptor(&name, family.help, unit, kind)?;
    let pool_name = with_underscores(POOL_NAME);
    for Seen { name, reading, .. } in seen {
        family.each(reading, |attribute, amount| {
            let mut labels = vec![(pool_name.as_str(), &**name)];
            let attribute = attribute.map(|(key, value)| (with_underscores(key), value));
            labels.extend(attribute.as_ref().map(|(key, value)| (key.as_str(), *value)));
            let labels = labels.as_slice();
            let mut metric = metric.encode_family(&labels)?;
            match (kind, amount) {
                (MetricType::Counter, Amount::Whole(number)) => {
                    metric.encode_counter::<NoLabelSet, _, u64>(&number, None)
                }
                (MetricType::Counter, Amount::Span(span)) => {
                    metric.encode_counter::<NoLabelSet, _, u64>(&span.as_secs_f64(), None)
                }
                (_, Amount::Whole(number)) => metric.encode_gauge(&number),
                (_, Amount::Span(span)) => metric.encode_gauge(&span.as_secs_f64()),
            }
        })?;
    }
    Ok(())
}

fn encode_times(
    family: &TimesFamily,
    seen: &[Seen],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let name = with_underscores(family.name);
    let histogram = MetricType::Histogram;
    let mut metric = encoder.encode_descriptor(&name, family.help, Some(&SECONDS), histogram)?;
    let pool_name = with_underscores(POOL_NAME);
    for Seen { name, reading, .. } in seen {
        let times = reading.times.of(family.of);
        let mut below = 0;
        let ends = BOUNDS.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
        let up_to = times.cumulated(&BOUNDS).into_iter().chain([times.count()]);
        let buckets: Vec<(f64, u64)> = ends
            .zip(up_to)
            .map(|(end, up_to)| (end, up_to - std::mem::replace(&mut below, up_to)))
            .collect();
        let labels = [(pool_name.as_str(), &**name)];
        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            times.sum().as_secs_f64(),
            times.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}
