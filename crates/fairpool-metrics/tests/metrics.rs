//! Metrics: what a Prometheus or an OpenTelemetry collector reads of pools.

#![cfg(all(feature = "prometheus", feature = "opentelemetry"))]

#[allow(dead_code)]
#[path = "support/stub.rs"]
mod stub;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::metrics::{OpenTelemetryMetrics, PrometheusCollector};
use fairpool::{CancelToken, Pool, PooledConnection, SelfDeadlock};
use fairpool::stats::Stats;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, SdkMeterProvider, Temporality,
};
use prometheus_client::registry::Registry;
use stub::{Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const THREADS: usize = 4;

/// The table of the module's documentation: names, kinds, and whether in seconds.
fn documented() -> Vec<(String, &'static str, bool)> {
    let source = include_str!("../src/metrics/mod.rs");
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | `"));
    let rows = rows.map(|row| {
        let (name, rest) = row.split_once("` | ").expect("a name");
        let (kind, _) = rest.split_once(" | ").expect("a kind");
        let (kind, seconds) = match kind.split_once(", ") {
            Some((kind, "s")) => (kind, true),
            Some(_) => panic!("a unit that is not seconds: {row}"),
            None => (kind, false),
        };
        (name.to_string(), kind, seconds)
    });
    rows.collect()
}

/// A pool with something in every counter that a test can reach, at rest.
fn experienced(name: &str, server: &Server) -> (Pool<Manager>, PooledConnection<Manager>) {
    let pool = builder(2)
        .name(name)
        .max_waiters(Some(1))
        .validation_timeout(ms(20))
        .leak_threshold(Some(ms(20)))
        .test_on_check_out(true)
        .skip_check_within(Duration::ZERO)
        .build(server.manager())
        .unwrap();
    server.next(Op::Connect, Does::Fail);
    server.next(Op::Connect, Does::Take(ms(2)));
    let leaked = pool.get().unwrap();
    PooledConnection::discard(pool.get().unwrap());
    eventually("it is closed", || pool.stats().closing == 0);

    let other = pool.get().unwrap();
    assert!(pool.get_timeout(ms(1)).is_err());
    let token = CancelToken::new();
    thread::scope(|scope| {
        let cancelled = scope.spawn(|| pool.request().cancel(&token).get().is_err());
        eventually("it waits", || pool.stats().waiting == 1);
        assert!(pool.get().is_err(), "the queue is full");
        token.cancel();
        assert!(cancelled.join().unwrap());
        let served = scope.spawn(|| drop(pool.get().unwrap()));
        eventually("it waits", || pool.stats().waiting == 1);
        drop(other);
        served.join().unwrap();
    });
    server.next(Op::IsValid, Does::Fail);
    drop(pool.get().unwrap());
    let gate = Gate::new();
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    drop(pool.get().unwrap());
    eventually("it is abandoned", || pool.stats().abandoned_calls >= 1);
    gate.open();
    // On a busy machine another may have been held so long, for a moment.
    eventually("it is leaked", || pool.holders().len() == 1 && pool.stats().leaks >= 1);
    eventually("it is at rest", || {
        let stats = pool.stats();
        stats.abandoned + stats.checking + stats.closing + stats.opening == 0
    });
    (pool, leaked)
}

// ---- Prometheus ----

/// Series and their values.
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

fn check_by_promtool(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the Debian package prometheus");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    // The conventions want this name, at which promtool frowns.
    let frown = "db_client_connection_count non-histogram and non-summary metrics should not \
                 have \"_count\" suffix";
    let complaints: Vec<&str> = said.lines().filter(|line| *line != frown).collect();
    assert!(complaints.is_empty(), "{complaints:#?}\nof\n{text}");
}

#[test]
fn the_documented_metrics_are_shown_and_no_others() {
    let server = Server::new();
    let (pool, _leaked) = experienced("orders", &server);
    let text = PrometheusCollector::new([pool.downgrade()]).text();
    let shown: BTreeSet<String> =
        text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.to_string())).collect();
    let expected = documented().into_iter().map(|(name, kind, seconds)| {
        let unit = if seconds { "_seconds" } else { "" };
        let end = if kind == "counter" { "_total" } else { "" };
        format!("{}{unit}{end} {kind}", name.replace('.', "_"))
    });
    assert_eq!(shown, expected.collect());
    assert_eq!(text.matches("# HELP ").count(), shown.len());
}

#[test]
fn the_text_shows_what_the_stats_say() {
    let server = Server::new();
    let (pool, leaked) = experienced("orders", &server);
    let collector = PrometheusCollector::new([pool.downgrade()]);
    let series_now = series(&collector.text());
    let stats = pool.stats();
    let expect = |name: &str, value: f64| {
        assert_eq!(series_now.get(&of_pool(name, "orders")), Some(&value), "{name}");
    };
    let by = |name: &str, label: &str, value: &str| {
        let labels = format!("db_client_connection_pool_name=\"orders\",{label}=\"{value}\"");
        series_now[&format!("{name}{{{labels}}}")]
    };
    let state = "db_client_connection_state";
    assert_eq!(by("db_client_connection_count", state, "idle"), f64::from(stats.idle));
    assert_eq!(by("db_client_connection_count", state, "used"), f64::from(stats.in_use));
    assert_eq!(by("fairpool_closed_total", "reason", "broken"), stats.closed.broken as f64);
    assert_eq!(by("fairpool_closed_total", "reason", "invalid"), stats.closed.invalid as f64);
    for (name, value) in counters(&stats) {
        let elsewhere = ["fairpool.failed", "fairpool.self_deadlocks"].contains(&name);
        assert!(value > 0 || elsewhere, "{name} is not tried");
        expect(&format!("{}_total", name.replace('.', "_")), value as f64);
    }
    expect("db_client_connection_max", 2.0);
    expect("db_client_connection_idle_max", 2.0);
    expect("db_client_connection_idle_min", 0.0);
    expect("db_client_connection_pending_requests", 0.0);
    expect("fairpool_time_waited_seconds_total", stats.time_waited.as_secs_f64());
    expect("fairpool_leaked", 1.0);
    expect("fairpool_failing_seconds", 0.0);
    expect("fairpool_health", 0.0);

    eventually("one that was just lent is not leaked", || {
        let _lent = pool.get().unwrap();
        let now = series(&collector.text());
        let used = now.iter().find(|(name, _)| name.ends_with("_state=\"used\"}"));
        used.unwrap().1 == &2.0 && now[&of_pool("fairpool_leaked", "orders")] == 1.0
    });
    drop(leaked);
    expect_soon(&collector, "fairpool_leaked", 0.0);
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

#[track_caller]
fn expect_soon(collector: &PrometheusCollector, name: &str, value: f64) {
    eventually(&format!("{name} is {value}"), || {
        series(&collector.text()).get(&of_pool(name, "orders")) == Some(&value)
    });
}

#[test]
fn each_get_is_counted_by_how_it_ends() {
    let server = Server::new();
    let (pool, leaked) = experienced("orders", &server);
    // Three got nothing there: one timed out, one was refused, one was cancelled.
    let stats = pool.stats();
    assert_eq!((stats.timeouts, stats.refused, stats.cancelled, stats.failed), (1, 1, 1, 0));
    assert!(pool.try_get().is_some());
    pool.close(Instant::now());
    assert!(pool.get().is_err());
    assert!(pool.try_get().is_none(), "this is no failure");
    let collector = PrometheusCollector::new([pool.downgrade()]);
    expect_soon(&collector, "fairpool_failed_total", 1.0);
    drop(leaked);

    let failed = |pool: &Pool<Manager>| {
        let stats = pool.stats();
        assert_eq!((stats.timeouts, stats.refused, stats.cancelled), (0, 0, 0));
        stats.failed
    };
    server.on(Op::Connect, Does::FailForGood);
    let hopeless = builder(1).build_unchecked(server.manager());
    assert!(hopeless.get().is_err(), "the one that waited");
    assert!(hopeless.get().is_err(), "the one that need not wait");
    assert_eq!(failed(&hopeless), 2);

    server.on(Op::Connect, Does::Succeed);
    let at_once = SelfDeadlock::Fail(Duration::ZERO);
    let nested = builder(1).on_self_deadlock(at_once).build(server.manager()).unwrap();
    let held = nested.get().unwrap();
    assert!(nested.get().is_err());
    assert_eq!((failed(&nested), nested.stats().self_deadlocks), (1, 1));
    drop(held);
}

#[test]
fn gauges_show_what_goes_on() {
    let server = Server::new();
    let pool = builder(1).name("orders").build(server.manager()).unwrap();
    let collector = PrometheusCollector::new([pool.downgrade()]);
    let (opening, closing) = (Gate::new(), Gate::new());

    server.next(Op::Connect, Does::Hang(opening.clone()));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.get().unwrap());
        expect_soon(&collector, "fairpool_opening", 1.0);
        expect_soon(&collector, "db_client_connection_pending_requests", 1.0);
        eventually("its wait is seen", || {
            let now = series(&collector.text());
            let figure = |name: &str| now[&of_pool(name, "orders")];
            figure("fairpool_oldest_wait_seconds") > 0.0
                && figure("fairpool_mean_wait_seconds") > 0.0
        });
        eventually("its long wait is a warning", || {
            series(&collector.text())[&of_pool("fairpool_health", "orders")] >= 1.0
        });
        opening.open();
        server.next(Op::Close, Does::Hang(closing.clone()));
        PooledConnection::discard(waiting.join().unwrap());
    });
    expect_soon(&collector, "fairpool_closing", 1.0);

    server.on(Op::Connect, Does::Fail);
    closing.open();
    expect_soon(&collector, "fairpool_closing", 0.0);
    assert!(pool.get_timeout(ms(20)).is_err());
    assert!(series(&collector.text())[&of_pool("fairpool_failing_seconds", "orders")] > 0.0);
}

#[test]
fn histograms_hold_every_value_in_rising_buckets() {
    let server = Server::new();
    let (pool, _leaked) = experienced("orders", &server);
    let series = series(&PrometheusCollector::new([pool.downgrade()]).text());
    let stats = pool.stats();
    let all = [
        ("db_client_connection_create_time", stats.times.connect),
        ("db_client_connection_wait_time", stats.times.wait),
        ("db_client_connection_use_time", stats.times.in_use),
        ("fairpool_validate_time", stats.times.validate),
        ("fairpool_close_time", stats.times.close),
    ];
    for (name, times) in all {
        assert!(times.count > 0, "{name} is not tried");
        let buckets = buckets(&series, name);
        let ends: Vec<f64> = buckets.iter().map(|&(end, _)| end).collect();
        assert_eq!(ends.len(), 18);
        assert_eq!((ends[0], ends[16], ends[17]), (0.0001, 30.0, f64::INFINITY));
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
        assert_eq!(buckets[17].1, times.count as f64);
        assert_eq!(series[&of_pool(&format!("{name}_seconds_count"), "orders")], buckets[17].1);
        let sum = series[&of_pool(&format!("{name}_seconds_sum"), "orders")];
        let mean = sum / times.count as f64;
        assert!((mean - times.mean.as_secs_f64()).abs() < 1e-8, "{name}: {mean}");
        let median = times.p50.as_secs_f64();
        let below = buckets.iter().find(|&&(end, _)| end >= median * 0.99).unwrap().1;
        assert!(below * 2.0 >= times.count as f64, "{name}: {median} in {buckets:?}");
    }
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

#[test]
fn the_text_is_valid_whatever_the_pools_are_called() {
    let server = Server::new();
    let (pool, _leaked) = experienced("orders", &server);
    let strange = builder(1).name("a \"b\" \\ c\nd é").build(server.manager()).unwrap();
    let twins: Vec<_> =
        (0..3).map(|_| builder(1).name("orders").build(server.manager()).unwrap()).collect();
    let collector = PrometheusCollector::new([pool.downgrade(), strange.downgrade()]);
    twins.iter().for_each(|twin| collector.add(twin.downgrade()));
    #[cfg(feature = "sqlite")]
    let sqlite = Pool::new(fairpool_sqlite::SqliteConnectionManager::memory()).unwrap();
    #[cfg(feature = "sqlite")]
    collector.add(sqlite.downgrade());
    check_by_promtool(&collector.text());

    // In the other format too, in a registry with somebody else's metrics.
    let mut registry = Registry::with_prefix("app");
    registry.register_collector(Box::new(collector.clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let text = text.trim_end_matches("# EOF\n");
    assert_eq!(series(text).len(), series(&collector.text()).len());
    assert!(text.contains("app_fairpool_gets_total{"));
}

#[test]
fn pools_of_one_name_get_numbers_and_one_pool_is_shown_once() {
    let server = Server::new();
    let pool = |size| builder(size).name("orders").build(server.manager()).unwrap();
    let shown = |collector: &PrometheusCollector| {
        let series = series(&collector.text());
        let sizes = series.iter().filter(|(name, _)| name.starts_with("db_client_connection_max"));
        let sizes = sizes.map(|(name, size)| (name.split('"').nth(1).unwrap().to_string(), *size));
        sizes.collect::<Vec<_>>()
    };
    let named = |names: &[(&str, f64)]| -> Vec<(String, f64)> {
        names.iter().map(|(name, size)| (name.to_string(), *size)).collect()
    };
    let (first, second, third) = (pool(1), pool(2), pool(3));
    let collector = PrometheusCollector::new([first.downgrade(), second.downgrade(), first.downgrade()]);
    collector.add(second.clone().downgrade());
    collector.add(third.downgrade());
    let all = named(&[("orders", 1.0), ("orders-2", 2.0), ("orders-3", 3.0)]);
    assert_eq!(shown(&collector), all);

    drop(second);
    eventually("the pool that is gone disappears", || shown(&collector).len() == 2);
    assert_eq!(shown(&collector), named(&[("orders", 1.0), ("orders-3", 3.0)]));
    let fourth = pool(4);
    collector.add(fourth.downgrade());
    assert_eq!(shown(&collector), named(&[("orders", 1.0), ("orders-2", 4.0), ("orders-3", 3.0)]));
    drop((first, third, fourth));
    eventually("nothing is left", || collector.text().is_empty());
}

#[test]
fn each_text_is_of_one_instant() {
    let server = Server::new();
    let pool = builder(3).name("orders").build(server.manager()).unwrap();
    let collector = PrometheusCollector::new([pool.downgrade()]);
    thread::scope(|scope| {
        let load: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| churn(&pool, 300))).collect();
        while !load.iter().all(|thread| thread.is_finished()) {
            let text = collector.text();
            let sum = |start: &str| -> f64 {
                let all = series(&text);
                all.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, v)| v).sum()
            };
            let gone = sum("fairpool_closed_total{");
            let there = sum("db_client_connection_count{");
            assert_eq!(sum("fairpool_opened_total{"), gone + there, "{text}");
        }
    });
}

/// Uses connections, and throws them away.
fn churn(pool: &Pool<Manager>, times: usize) {
    for _ in 0..times {
        PooledConnection::discard(pool.get_timeout(WATCHDOG).unwrap());
    }
}

// ---- OpenTelemetry ----

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
        MetricData::ExponentialHistogram(_) => panic!("nobody asked for this"),
    }
}

fn value(metrics: &BTreeMap<String, (String, Points)>, name: &str) -> f64 {
    let Some((_, points)) = metrics.get(name) else { return 0.0 };
    points.iter().map(|(_, point)| point.number()).sum()
}

const POOL_NAME: &str = "db.client.connection.pool.name";

#[test]
fn the_documented_instruments_are_registered_and_no_others() {
    let server = Server::new();
    let (pool, _leaked) = experienced("orders", &server);
    let otel = Otel::cumulative();
    otel.register([&pool]);
    let metrics = otel.collect();
    let names: BTreeSet<&str> = metrics.keys().map(String::as_str).collect();
    let documented = documented();
    assert_eq!(names, documented.iter().map(|(name, ..)| name.as_str()).collect());
    for (name, kind, seconds) in &documented {
        let (unit, points) = &metrics[name];
        assert_eq!(unit == "s", *seconds, "{name} is in {unit}");
        for (attributes, point) in points {
            assert_eq!(attributes[POOL_NAME], "orders");
            assert_eq!(*kind == "histogram", matches!(point, Point::Histogram { .. }), "{name}");
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
    let (pool, _leaked) = experienced("orders", &server);
    let otel = Otel::cumulative();
    otel.register([&pool]);
    let metrics = otel.collect();
    let text = series(&PrometheusCollector::new([pool.downgrade()]).text());
    let histograms = documented().into_iter().filter(|(_, kind, _)| *kind == "histogram");
    for (name, ..) in histograms {
        let Point::Histogram { count, sum, bounds, buckets: counts, .. } = &metrics[&name].1[0].1
        else {
            panic!("{name} is no histogram");
        };
        let name = name.replace('.', "_");
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
    server.next(Op::Connect, Does::Take(ms(20)));
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
