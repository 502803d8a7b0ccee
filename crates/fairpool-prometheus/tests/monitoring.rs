//! What is in `monitoring/`, with a real Prometheus that watches pools under load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::health::HealthThresholds;
use fairpool::{CancelToken, Pool, PooledConnection};
use fairpool_prometheus::{PrometheusCollector, TEXT_CONTENT_TYPE};
use fairpool_servers::prometheus::Prometheus;
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, builder, eventually};
use prometheus_client::registry::Registry;
use serde::Deserialize;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../monitoring")
}

fn read(file: &str) -> String {
    fs::read_to_string(folder().join(file)).expect("a file of monitoring/")
}

fn parsed<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

// ---- rules ----

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Rule {
    /// In one line.
    fn expr(&self) -> String {
        self.expr.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn rules() -> Vec<Rule> {
    let rules: Rules = parsed("alerts.yml");
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Those that Prometheus calls alerts: name, labels, expression.
fn alerts() -> BTreeMap<(String, BTreeMap<String, String>), String> {
    let alert = |rule: Rule| Some(((rule.alert.clone()?, rule.labels.clone()), rule.expr()));
    rules().into_iter().filter_map(alert).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceLevels {
    period: String,
    service_levels: Vec<ServiceLevel>,
    burn_rates: Vec<BurnRate>,
    thresholds: BTreeMap<String, Thresholds>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceLevel {
    name: String,
    what: String,
    budget: f64,
    bad: Vec<String>,
    all: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BurnRate {
    severity: String,
    factor: f64,
    long: String,
    short: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    warning: f64,
    critical: f64,
}

fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[test]
fn the_thresholds_of_alerts_are_those_of_the_crate() {
    let defaults = HealthThresholds::default();
    let thresholds = parsed::<ServiceLevels>("slo.yaml").thresholds;
    let of_crate = [
        (
            "waiters",
            Thresholds {
                warning: f64::from(defaults.waiters_warning),
                critical: f64::from(defaults.waiters_critical),
            },
        ),
        (
            "mean_wait_seconds",
            Thresholds {
                warning: defaults.wait_warning.as_secs_f64(),
                critical: defaults.wait_critical.as_secs_f64(),
            },
        ),
    ];
    assert_eq!(thresholds, of_crate.map(|(name, both)| (name.to_string(), both)).into());

    let alerts = alerts();
    for (alert, metric, name) in [
        ("FairpoolWaiters", "db_client_connection_pending_requests", "waiters"),
        ("FairpoolMeanWait", "fairpool_mean_wait_seconds", "mean_wait_seconds"),
    ] {
        let Thresholds { warning, critical } = thresholds[name];
        for (severity, threshold) in [("warning", warning), ("critical", critical)] {
            let expr = &alerts[&(alert.to_string(), labels(&[("severity", severity)]))];
            assert_eq!(*expr, format!("{metric} >= {threshold}"));
        }
    }
}

/// Every rule about service levels follows from slo.yaml, and there are no others.
#[test]
fn burn_rates_are_those_of_the_service_levels() {
    let ServiceLevels { period, service_levels, burn_rates, .. } = parsed("slo.yaml");
    assert_eq!(period, "30d", "the comment on burn rates counts on it");
    let windows: BTreeSet<&str> =
        burn_rates.iter().flat_map(|rate| [&*rate.long, &*rate.short]).collect();
    let dashboard = read("grafana.json");
    let mut records = BTreeMap::new();
    let mut expected = BTreeMap::new();
    for ServiceLevel { name, what, budget, bad, all } in &service_levels {
        let in_percent = format!("{} %", 100.0 - budget * 100.0);
        let allowed = format!("{} %", budget * 100.0);
        assert!(what.contains(&in_percent) || what.contains(&allowed), "{what} {budget}");
        let on_dashboard = dashboard.lines().any(|line| {
            line.contains(&format!("fairpool:{name}:bad_ratio_rate1h"))
                && line.contains(&format!(" / {budget}\""))
        });
        assert!(on_dashboard, "the dashboard has another budget than {budget} for {name}");
        for window in &windows {
            let ratio = format!("( {} ) / ( {} > 0 )", sum(bad, window), sum(all, window));
            records.insert(format!("fairpool:{name}:bad_ratio_rate{window}"), ratio);
        }
        let mut alert = format!("Fairpool{name}BurnRate");
        alert["Fairpool".len()..][..1].make_ascii_uppercase();
        for BurnRate { severity, factor, long, short } in &burn_rates {
            let over = |window: &str| {
                format!("fairpool:{name}:bad_ratio_rate{window} > {factor} * {budget}")
            };
            let labels = labels(&[("severity", severity), ("window", long)]);
            expected.insert((alert.clone(), labels), format!("{} and {}", over(long), over(short)));
        }
    }
    let recorded = rules().into_iter().filter_map(|rule| Some((rule.record.clone()?, rule.expr())));
    assert_eq!(recorded.collect::<BTreeMap<_, _>>(), records);
    let mut alerts = alerts();
    alerts.retain(|(name, _), _| name.ends_with("BurnRate"));
    assert_eq!(alerts, expected);
}

/// For each pool of a job.
fn sum(rates: &[String], window: &str) -> String {
    let mut all = String::new();
    for rate in rates {
        let (sign, rate) = match rate.strip_prefix('-') {
            Some(rate) => (" - ", rate),
            None if all.is_empty() => ("", &**rate),
            None => (" + ", &**rate),
        };
        let rate = rate.replace("$window", window);
        all += &format!("{sign}sum by (job, db_client_connection_pool_name) ({rate})");
    }
    all
}

#[derive(Deserialize)]
struct RuleTests {
    tests: Vec<RuleTest>,
}

#[derive(Deserialize)]
struct RuleTest {
    alert_rule_test: Vec<AlertTest>,
}

#[derive(Deserialize)]
struct AlertTest {
    alertname: String,
    exp_alerts: Vec<ExpectedAlert>,
}

#[derive(Deserialize)]
struct ExpectedAlert {
    exp_labels: BTreeMap<String, String>,
}

#[test]
fn each_alert_is_tried_both_ways() {
    let tests = ["alerts_test.yml", "burn_rates_test.yml"].map(parsed::<RuleTests>);
    let tests: Vec<AlertTest> =
        tests.into_iter().flat_map(|all| all.tests).flat_map(|test| test.alert_rule_test).collect();
    for (name, labels) in alerts().into_keys() {
        let fires = |test: &&AlertTest| {
            let has_labels = |expected: &ExpectedAlert| {
                labels.iter().all(|(label, value)| expected.exp_labels.get(label) == Some(value))
            };
            test.exp_alerts.iter().any(has_labels)
        };
        let of_it = || tests.iter().filter(|test| test.alertname == name);
        assert!(of_it().any(|test| fires(&test)), "{name} {labels:?} never fires in a test");
        assert!(of_it().any(|test| !fires(&test)), "{name} {labels:?} always fires in tests");
    }
}

#[test]
fn each_alert_is_explained() {
    let readme = read("README.md");
    let sections: BTreeSet<String> =
        readme.lines().filter_map(|line| Some(line.strip_prefix("### ")?.to_lowercase())).collect();
    for rule in rules().iter().filter(|rule| rule.alert.is_some()) {
        let runbook = &rule.annotations["runbook"];
        let anchor = runbook.strip_prefix("monitoring/README.md#").expect("a place in README.md");
        assert_eq!(rule.alert.as_deref().map(str::to_lowercase).as_deref(), Some(anchor));
        assert!(sections.contains(anchor), "README.md has nothing on {anchor}");
    }
}

#[track_caller]
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(folder()).output();
    let output = output.expect("promtool, of the Debian package prometheus");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
}

#[test]
fn promtool_accepts_the_rules_and_the_configuration() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    promtool(&["test", "rules", "alerts_test.yml"]);
}

#[test]
fn burn_rates_fire_when_they_should_and_only_then() {
    promtool(&["test", "rules", "burn_rates_test.yml"]);
}

// ---- a real Prometheus ----

/// Serves the figures in both formats, for as long as the process lives.
fn serve(collector: PrometheusCollector) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let lines = BufReader::new(&stream).lines();
            let head: Vec<String> =
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let (kind, text) = if head.first().is_some_and(|line| line.contains("/openmetrics")) {
                let mut registry = Registry::default();
                registry.register_collector(Box::new(collector.clone()));
                let mut text = String::new();
                prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
                ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            } else {
                (TEXT_CONTENT_TYPE, collector.text())
            };
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    address
}

/// With the rules of alerts.yml, which need not wait a minute here.
fn start_prometheus(target: SocketAddr) -> Prometheus {
    let config = format!(
        "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
         rule_files: [alerts.yml]\n\
         scrape_configs:\n\
         - {{ job_name: text, static_configs: [{{ targets: ['{target}'] }}] }}\n\
         - {{ job_name: openmetrics, metrics_path: /openmetrics, \
             static_configs: [{{ targets: ['{target}'] }}] }}\n"
    );
    let alerts = read("alerts.yml");
    assert!(alerts.contains("for: 1m"));
    Prometheus::start(&config, &[("alerts.yml", &alerts.replace("for: 1m", "for: 1s"))])
}

/// A pool whose connections are checked at every get.
fn busy(server: &Server) -> Pool<Manager> {
    builder(2)
        .name("busy")
        .test_on_check_out(true)
        .skip_check_within(Duration::ZERO)
        .build(server.manager())
        .unwrap()
}

fn use_for_a_while(pool: &Pool<Manager>, enough: &AtomicBool) {
    for round in 0_u32.. {
        let conn = pool.get().unwrap();
        thread::sleep(ms(2));
        match round % 10 {
            9 => PooledConnection::discard(conn),
            _ => drop(conn),
        }
        if enough.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn a_real_prometheus_reads_the_pools_and_raises_their_alerts() {
    let (server, hanging, away) = (Server::new(), Server::new(), Server::new());
    let busy = busy(&server);
    let stuck =
        builder(1).name("stuck").leak_threshold(Some(ms(20))).build(server.manager()).unwrap();
    let gate = Gate::new();
    hanging.on(Op::Connect, Does::Hang(gate.clone()));
    away.on(Op::Connect, Does::Fail);
    let hangs = builder(1).name("hangs").open_timeout(ms(20)).build_unchecked(hanging.manager());
    let away = builder(1).name("away").build_unchecked(away.manager());
    let pools = [busy.downgrade(), stuck.downgrade(), hangs.downgrade(), away.downgrade()];
    let prometheus = start_prometheus(serve(PrometheusCollector::new(pools)));

    let (token, enough) = (CancelToken::new(), AtomicBool::new(false));
    let far = Instant::now() + Duration::from_secs(3600);
    let wait_at = |pool: &Pool<Manager>| {
        assert!(pool.request().deadline(far).cancel(&token).get().is_err());
    };
    thread::scope(|scope| {
        // If an assertion fails, the waiters must leave: otherwise the scope never ends.
        let end = OnDrop(|| {
            token.cancel();
            enough.store(true, Ordering::Relaxed);
            gate.open_with(Does::Fail);
        });
        let leaked = stuck.get().unwrap();
        (0..15).for_each(|_| drop(scope.spawn(|| wait_at(&stuck))));
        [&hangs, &away].iter().for_each(|pool| drop(scope.spawn(|| wait_at(pool))));
        // One of them waits at a time, and only briefly.
        (0..3).for_each(|_| drop(scope.spawn(|| use_for_a_while(&busy, &enough))));

        for (alert, severity, pool) in [
            ("FairpoolWaiters", "warning", "stuck"),
            ("FairpoolWaiters", "critical", "stuck"),
            ("FairpoolMeanWait", "critical", "stuck"),
            ("FairpoolLeak", "warning", "stuck"),
            ("FairpoolConnectFailing", "critical", "away"),
            ("FairpoolAbandonedCalls", "warning", "hangs"),
        ] {
            let firing = format!(
                "ALERTS{{alertstate=\"firing\", alertname=\"{alert}\", severity=\"{severity}\", \
                 db_client_connection_pool_name=\"{pool}\"}}"
            );
            // From both jobs.
            eventually(&format!("{firing} fires"), || prometheus.query(&firing).len() == 2);
        }
        let calm = "ALERTS{alertname=~\"FairpoolWaiters|FairpoolLeak|FairpoolConnectFailing|\
                    FairpoolAbandonedCalls\", db_client_connection_pool_name=\"busy\"}";
        assert_eq!(prometheus.query(calm), []);
        assert_eq!(prometheus.query("up").len(), 2);

        the_dashboard_has_data(&prometheus);
        drop(end);
        drop(leaked);
    });

    let gets = busy.stats().gets as f64;
    for query in [
        "fairpool_gets_total{db_client_connection_pool_name=\"busy\"}",
        "db_client_connection_wait_time_seconds_count{db_client_connection_pool_name=\"busy\"}",
    ] {
        eventually(&format!("{query} is {gets}"), || {
            let values: Vec<f64> =
                prometheus.query(query).into_iter().map(|(_, value)| value).collect();
            values == [gets, gets]
        });
    }
    let firing = "ALERTS{alertname=\"FairpoolLeak\"}";
    eventually("the leak has ended", || prometheus.query(firing).is_empty());
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What Grafana would ask, with all pools chosen.
fn with_variables(query: &str) -> String {
    let query = query.replace("$__rate_interval", "10s");
    let query =
        ["$job", "$instance", "$pool"].iter().fold(query, |query, name| query.replace(name, ".*"));
    assert!(!query.contains('$'), "{query}");
    query
}

fn the_dashboard_has_data(prometheus: &Prometheus) {
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana.json")).expect("JSON");
    let mut variables = 0;
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let query = with_variables(query);
        let call = query.strip_prefix("label_values(").and_then(|call| call.strip_suffix(')'));
        let (series, label) = call.and_then(|call| call.rsplit_once(", ")).expect("label_values");
        let values = prometheus.api(&format!("label/{label}/values"), &[("match[]", series)]);
        assert_ne!(values, serde_json::json!([]), "{query}");
        variables += 1;
    }
    assert_eq!(variables, 3);

    let mut queries = 0;
    let panels = dashboard["panels"].as_array().expect("panels");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().expect("targets") {
            let query = with_variables(target["expr"].as_str().expect("a query"));
            eventually(&format!("{} has data: {query}", panel["title"]), || {
                let series = prometheus.query(&query);
                // A part of nothing is no number: then another pool must have one.
                series.iter().any(|(_, value)| value.is_finite())
            });
            queries += 1;
        }
    }
    assert!(queries > 40, "{queries}");
}
