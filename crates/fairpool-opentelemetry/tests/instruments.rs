//! What an OpenTelemetry collector reads of pools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use fairpool::stats::Stats;
use fairpool::{Pool, PooledConnection};
use fairpool_metrics::{FAMILIES, HISTOGRAMS, POOL_NAME};
use fairpool_opentelemetry::OpenTelemetryMetrics;
use fairpool_prometheus::PrometheusCollector;
use fairpool_testing::eventful::eventful_pool;
use fairpool_testing::stub::{Does, Manager, Op, Server, WATCHDOG, builder, eventually};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, SdkMeterProvider, Temporality,
};

const THREADS: usize = 4;

/// Prometheus' series and their values.
fn series(text: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let known = all.insert(series.to_string(), value.parse().expect("a number"));
        assert_eq!(known, None, "{series} is there twice");
    }
    all
}

fn of_pool(name: &str, pool: &str) -> String {
    format!("{name}{{db_client_connection_pool_name=\"{pool}\"}}")
}

fn buckets(series: &BTreeMap<String, f64>, name: &str) -> Vec<(f64, f64)> {
    let start = format!("{name}_seconds_bucket{{");
    let buckets = series.iter().filter(|(series, _)| series.starts_with(&start));
    let with_end = buckets.map(|(series, count)| {
        let end = series.split("le=\"").nth(1).and_then(|end| end.split('"').next());
        let end = end.expect("an end");
        (if end == "+Inf" { f64::INFINITY } else { end.parse().unwrap() }, *count)
    });
    let mut all: Vec<_> = with_end.collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

fn counters(stats: &Stats) -> [(&'static str, u64); 12] {
    [
        ("db.client.connection.timeouts", stats.timeouts),
        ("fairpool.gets", stats.gets),
        ("fairpool.gets_waited", stats.gets_waited),
        ("fairpool.refused", stats.refused),
        ("fairpool.cancelled", stats.cancelled),
        ("fairpool.failed", stats.failed),
        ("fairpool.opened", stats.opened),
        ("fairpool.connect_failures", stats.open_failures),
        ("fairpool.check_failures", stats.check_failures),
        ("fairpool.leaks", stats.leaks),
        ("fairpool.abandoned_calls", stats.abandoned_calls),
        ("fairpool.self_deadlocks", stats.self_deadlocks),
    ]
}

/// Uses connections, and throws them away.
fn churn(pool: &Pool<Manager>, times: usize) {
    for _ in 0..times {
        PooledConnection::discard(pool.get_timeout(WATCHDOG).unwrap());
    }
}

struct Otel {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// What was exported of an instrument: attributes but for the pool's name, and values.
type Points = Vec<(BTreeMap<String, String>, Point)>;

#[derive(Clone, Debug, PartialEq)]
enum Point {
    Number(f64),
    Histogram { count: u64, sum: f64, max: f64, bounds: Vec<f64>, buckets: Vec<u64> },
}

impl Point {
    fn number(&self) -> f64 {
        match self {
            Point::Number(number) => *number,
            Point::Histogram { count, .. } => *count as f64,
        }
    }
}

impl Otel {
    fn new(temporality: Temporality) -> Otel {
        let exporter = InMemoryMetricExporterBuilder::new().with_temporality(temporality).build();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        Otel { provider, exporter }
    }

    fn cumulative() -> Otel {
        Otel::new(Temporality::Cumulative)
    }

    fn register<'a>(
        &self,
        pools: impl IntoIterator<Item = &'a Pool<Manager>>,
    ) -> OpenTelemetryMetrics {
        let pools = pools.into_iter().map(Pool::downgrade);
        OpenTelemetryMetrics::register(&self.provider.meter("test"), pools)
    }

    fn collect(&self) -> BTreeMap<String, (String, Points)> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        read_all(&self.exporter)
    }
}

fn read_all(exporter: &InMemoryMetricExporter) -> BTreeMap<String, (String, Points)> {
    let exported = exporter.get_finished_metrics().unwrap();
    exported.last().map(read).unwrap_or_default()
}

fn read(exported: &ResourceMetrics) -> BTreeMap<String, (String, Points)> {
    let metrics = exported.scope_metrics().flat_map(|scope| scope.metrics());
    let points = metrics.map(|metric| {
        let points = match metric.data() {
            AggregatedMetrics::F64(data) => points(data, |value| value),
            AggregatedMetrics::U64(data) => points(data, |value| value as f64),
            AggregatedMetrics::I64(data) => points(data, |value| value as f64),
        };
        (metric.name().to_string(), (metric.unit().to_string(), points))
    });
    points.collect()
}

fn points<T: Copy>(data: &MetricData<T>, float: impl Fn(T) -> f64) -> Points {
    fn keys<'a>(
        all: impl Iterator<Item = &'a opentelemetry::KeyValue>,
    ) -> BTreeMap<String, String> {
        all.map(|pair| (pair.key.to_string(), pair.value.to_string())).collect()
    }
    match data {
        MetricData::Gauge(gauge) => gauge
            .data_points()
            .map(|point| (keys(point.attributes()), Point::Number(float(point.value()))))
            .collect(),
        MetricData::Sum(sum) => sum
            .data_points()
            .map(|point| (keys(point.attributes()), Point::Number(float(point.value()))))
            .collect(),
        MetricData::Histogram(histogram) => histogram
            .data_points()
            .map(|point| {
                let value = Point::Histogram {
                    count: point.count(),
                    sum: float(point.sum()),
                    max: point.max().map_or(0.0, &float),
                    bounds: point.bounds().collect(),
                    buckets: point.bucket_counts().collect(),
                };
                (keys(point.attributes()), value)
            })
            .collect(),
        MetricData::ExponentialHistogram(_) => panic!("the crate creates none"),
    }
}

fn value(metrics: &BTreeMap<String, (String, Points)>, name: &str) -> f64 {
    let Some((_, points)) = metrics.get(name) else { return 0.0 };
    points.iter().map(|(_, point)| point.number()).sum()
}

#[test]
fn the_documented_instruments_are_registered_and_no_others() {
    let server = Server::new();
    let (pool, _leaked) = eventful_pool("orders", &server);
    let otel = Otel::cumulative();
    otel.register([&pool]);
    let metrics = otel.collect();
    let names: BTreeSet<&str> = metrics.keys().map(String::as_str).collect();
    let of_values = FAMILIES.iter().map(|family| (family.name, family.unit.as_str(), false));
    let of_times = HISTOGRAMS.iter().map(|family| (family.name, "s", true));
    let documented: Vec<_> = of_values.chain(of_times).collect();
    assert_eq!(names, documented.iter().map(|&(name, ..)| name).collect());
    for (name, expected_unit, histogram) in documented {
        let (unit, points) = &metrics[name];
        assert_eq!(unit, expected_unit, "{name}");
        for (attributes, point) in points {
            assert_eq!(attributes[POOL_NAME], "orders");
            assert_eq!(histogram, matches!(point, Point::Histogram { .. }), "{name}");
        }
    }
    let by = |name: &str, attribute: &str| -> BTreeMap<String, f64> {
        let points = metrics[name].1.iter();
        points.map(|(keys, point)| (keys[attribute].clone(), point.number())).collect()
    };
    let states = by("db.client.connection.count", "db.client.connection.state");
    let stats = pool.stats();
    let expected =
        [("idle".to_string(), stats.idle.into()), ("used".to_string(), stats.in_use.into())];
    assert_eq!(states, BTreeMap::from(expected));
    assert_eq!(by("fairpool.closed", "reason")["broken"], stats.closed.broken as f64);
    for (name, expected) in counters(&stats) {
        assert_eq!(value(&metrics, name), expected as f64, "{name}");
    }
}

#[test]
fn opentelemetry_histograms_are_those_of_prometheus() {
    let server = Server::new();
    let (pool, _leaked) = eventful_pool("orders", &server);
    let otel = Otel::cumulative();
    otel.register([&pool]);
    let metrics = otel.collect();
    let text = series(&PrometheusCollector::new([pool.downgrade()]).text());
    for family in HISTOGRAMS {
        let Point::Histogram { count, sum, bounds, buckets: counts, .. } =
            &metrics[family.name].1[0].1
        else {
            panic!("{} is no histogram", family.name);
        };
        let name = family.name.replace('.', "_");
        let expected = buckets(&text, &name);
        let ends: Vec<f64> = expected.iter().map(|&(end, _)| end).take(17).collect();
        assert_eq!(bounds, &ends);
        assert_eq!(*count as f64, expected[17].1);
        let expected_sum = text[&of_pool(&format!("{name}_seconds_sum"), "orders")];
        assert!((sum - expected_sum).abs() <= expected_sum * 1e-9, "{name}: {sum}");
        // What lies within 1 % of a bucket's end may be on either side of it.
        let mut up_to = 0;
        for (at, count) in counts.iter().enumerate() {
            up_to += count;
            let least = if at == 0 { 0.0 } else { expected[at - 1].1 };
            let within = least..=expected[at].1;
            assert!(within.contains(&(up_to as f64)), "{name}: {counts:?} of {expected:?}");
        }
    }
}

#[test]
fn values_recorded_during_collections_are_counted_once_and_by_the_next() {
    let server = Server::new();
    let pool = builder(2).name("orders").build(server.manager()).unwrap();
    let (exporter, other) = (InMemoryMetricExporter::default(), InMemoryMetricExporter::default());
    let provider = SdkMeterProvider::builder()
        .with_periodic_exporter(exporter.clone())
        .with_periodic_exporter(other.clone())
        .build();
    OpenTelemetryMetrics::register(&provider.meter("test"), [pool.downgrade()]);
    let start = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        let load: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..10_000).for_each(|_| drop(pool.get_timeout(WATCHDOG).unwrap()));
                })
            })
            .collect();
        start.wait();
        while !load.iter().all(|thread| thread.is_finished()) {
            let before = pool.stats();
            exporter.reset();
            provider.force_flush().unwrap();
            let metrics = read_all(&exporter);
            let waits = value(&metrics, "db.client.connection.wait_time");
            // One may be counted among the gets and not be timed yet.
            let least = before.times.wait.count as f64;
            assert!(waits >= least, "{waits} of {least}");
            assert!(value(&metrics, "fairpool.gets") >= before.gets as f64);
        }
    });
    provider.force_flush().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.gets, 40_000);
    for exporter in [exporter, other] {
        let metrics = read_all(&exporter);
        assert_eq!(value(&metrics, "fairpool.gets"), 40_000.0);
        for (name, times) in [
            ("db.client.connection.wait_time", stats.times.wait),
            ("db.client.connection.use_time", stats.times.in_use),
            ("db.client.connection.create_time", stats.times.connect),
        ] {
            assert_eq!(value(&metrics, name), times.count as f64, "{name}");
            let Point::Histogram { sum, count, .. } = &metrics[name].1[0].1 else {
                panic!("{name} is no histogram");
            };
            let mean = sum / *count as f64;
            let expected = times.mean.as_secs_f64();
            assert!((mean - expected).abs() <= 2e-9, "{name}: {mean}, not {expected}");
        }
    }
}

#[test]
fn each_collection_is_of_one_instant() {
    let server = Server::new();
    let pool = builder(3).name("orders").build(server.manager()).unwrap();
    let otel = Otel::cumulative();
    otel.register([&pool]);
    thread::scope(|scope| {
        let load: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| churn(&pool, 300))).collect();
        while !load.iter().all(|thread| thread.is_finished()) {
            let metrics = otel.collect();
            let value = |name| value(&metrics, name);
            let there = value("db.client.connection.count");
            assert_eq!(value("fairpool.opened"), value("fairpool.closed") + there);
        }
    });
}

#[test]
fn a_collection_of_differences_has_only_what_is_new() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let otel = Otel::new(Temporality::Delta);
    otel.register([&pool]);
    for gets in [5, 7, 0, 3] {
        (0..gets).for_each(|_| drop(pool.get().unwrap()));
        let metrics = otel.collect();
        assert_eq!(value(&metrics, "db.client.connection.wait_time"), f64::from(gets));
        assert_eq!(value(&metrics, "fairpool.gets"), f64::from(gets));
    }
}

#[test]
fn of_very_many_values_a_collection_records_a_sample() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let otel = Otel::cumulative();
    otel.register([&pool]);
    server.next(Op::Connect, Does::Take(Duration::from_millis(20)));
    // The first has to wait for its connection, the others need not.
    (0..250_000).for_each(|_| drop(pool.get().unwrap()));
    let metrics = otel.collect();
    assert_eq!(value(&metrics, "fairpool.gets"), 250_000.0);
    let Point::Histogram { count, max, buckets, .. } =
        &metrics["db.client.connection.wait_time"].1[0].1
    else {
        panic!("it is no histogram");
    };
    assert_eq!(*count, 100_000);
    assert_eq!(buckets[0], 99_999, "{buckets:?}");
    assert!(*max >= 0.02 * 0.99, "the longest is in the sample: {max}");
}

#[test]
fn pools_come_and_go() {
    let server = Server::new();
    let first = builder(1).name("orders").build(server.manager()).unwrap();
    let second = builder(2).name("orders").build(server.manager()).unwrap();
    let otel = Otel::cumulative();
    let metrics = otel.register([&first]);
    let sizes = || -> BTreeMap<String, f64> {
        let metrics = otel.collect();
        let Some((_, points)) = metrics.get("db.client.connection.max") else {
            return BTreeMap::new();
        };
        points.iter().map(|(keys, point)| (keys[POOL_NAME].clone(), point.number())).collect()
    };
    assert_eq!(sizes(), BTreeMap::from([("orders".to_string(), 1.0)]));
    (0..9).for_each(|_| drop(second.get().unwrap()));
    metrics.add(second.downgrade());
    let both = BTreeMap::from([("orders".to_string(), 1.0), ("orders-2".to_string(), 2.0)]);
    assert_eq!(sizes(), both);
    drop(metrics);
    let waits = value(&otel.collect(), "db.client.connection.wait_time");
    assert_eq!(waits, 9.0, "what it did before it was added counts as well");

    drop(second);
    eventually("the pool that is gone disappears", || sizes().len() == 1);
    drop(first);
    eventually("nothing is left", || sizes().is_empty());
}
