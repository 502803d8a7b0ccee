//! What a Prometheus reads of pools.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::stats::Stats;
use fairpool::{Pool, PooledConnection, SelfDeadlock};
use fairpool_metrics::{FAMILIES, HISTOGRAMS, Kind, Unit};
use fairpool_prometheus::PrometheusCollector;
use fairpool_testing::StubManager;
use fairpool_testing::eventful::eventful_pool;
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually};
use prometheus_client::registry::Registry;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const THREADS: usize = 4;

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
    let output = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    // OpenTelemetry's conventions require this name; promtool warns about it.
    let known = "db_client_connection_count non-histogram and non-summary metrics should not \
                 have \"_count\" suffix";
    let complaints: Vec<&str> = output.lines().filter(|line| *line != known).collect();
    assert!(complaints.is_empty(), "{complaints:#?}\nof\n{text}");
}

#[test]
fn the_documented_metrics_are_shown_and_no_others() {
    let server = Server::new();
    let (pool, _leaked) = eventful_pool("orders", &server);
    let text = PrometheusCollector::new([pool.downgrade()]).text();
    let shown: BTreeSet<String> =
        text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.to_string())).collect();
    let of_values = FAMILIES.iter().map(|family| {
        let unit = if family.unit == Unit::Seconds { "_seconds" } else { "" };
        let (end, kind) = match family.kind {
            Kind::Counter => ("_total", "counter"),
            _ => ("", "gauge"),
        };
        format!("{}{unit}{end} {kind}", family.name.replace('.', "_"))
    });
    let of_times = HISTOGRAMS.iter();
    let of_times =
        of_times.map(|family| format!("{}_seconds histogram", family.name.replace('.', "_")));
    let expected: BTreeSet<String> = of_values.chain(of_times).collect();
    assert_eq!(shown, expected);
    assert_eq!(text.matches("# HELP ").count(), shown.len());
}

#[test]
fn the_text_shows_what_the_stats_say() {
    let server = Server::new();
    let (pool, leaked) = eventful_pool("orders", &server);
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
    let (pool, leaked) = eventful_pool("orders", &server);
    // Three got nothing there: one timed out, one was refused, one was cancelled.
    let stats = pool.stats();
    assert_eq!((stats.timeouts, stats.refused, stats.cancelled, stats.failed), (1, 1, 1, 0));
    assert!(pool.try_get().is_some());
    let _ = pool.close(Instant::now());
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
    held.touch();
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
    let (pool, _leaked) = eventful_pool("orders", &server);
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
    let (pool, _leaked) = eventful_pool("orders", &server);
    let strange = builder(1).name("a \"b\" \\ c\nd é").build(server.manager()).unwrap();
    let twins: Vec<_> =
        (0..3).map(|_| builder(1).name("orders").build(server.manager()).unwrap()).collect();
    let collector = PrometheusCollector::new([pool.downgrade(), strange.downgrade()]);
    twins.iter().for_each(|twin| collector.add(twin.downgrade()));
    // Of another driver.
    let other = Pool::new(StubManager).unwrap();
    collector.add(other.downgrade());
    check_by_promtool(&collector.text());

    // In the other format, too, in a registry with a prefix.
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
    let collector =
        PrometheusCollector::new([first.downgrade(), second.downgrade(), first.downgrade()]);
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
