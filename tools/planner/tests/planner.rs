//! The planner as its users see it: its output, its figures, its exit codes.

use std::process::{Command, Output};

use fairpool_servers::cluster::Cluster;
use serde_json::Value;

fn run(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairpool-planner"));
    command.args(arguments.split_whitespace()).env_remove("DATABASE_URL");
    command.output().expect("the program starts")
}

/// The output and the figures of a plan.
fn plan(arguments: &str) -> (String, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("plan.json");
    let output = run(&format!("{arguments} --json {}", json.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {text}{stderr}");
    println!("{text}");
    let json = std::fs::read_to_string(&json).expect("the figures");
    (text, serde_json::from_str(&json).expect("legal JSON"))
}

fn number(figures: &Value, path: &str) -> f64 {
    figures.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path}: {figures}"))
}

/// One line that names the error, and exit code 2.
fn assert_refused(arguments: &str, named: &[&str]) {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments}: {text}");
    for part in named {
        assert!(text.contains(part), "{arguments}: {part} is missing: {text}");
    }
    assert!(output.stdout.is_empty(), "{arguments}: half a plan");
}

/// A service of moderate size, with few gets, because this is no release build.
const SERVICE: &str = "--instances 4 --rate 500 --service-ms 8 --service-p99-ms 60 --gets 10000";
/// The same with very few gets, for tests that do not need a good plan.
const ROUGHLY: &str = "--instances 4 --rate 500 --service-ms 8 --service-p99-ms 60 --gets 2500";

#[test]
fn bad_input_gets_one_clear_line() {
    let with = |changed: &str| format!("{changed} --seed 1");
    let cases: [(&str, &[&str]); 18] = [
        ("--rate 0 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20", &["--rate", "0"]),
        ("--rate -5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20", &["--rate", "-5"]),
        ("--rate nan --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20", &["--rate", "NaN"]),
        ("--rate x --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20", &["--rate", "x"]),
        ("--rate 5 --service-ms 0 --service-p99-ms 60 --wait-p99-ms 20", &["--service-ms", "0"]),
        (
            "--rate 5 --service-ms 8 --service-p99-ms 6 --wait-p99-ms 20",
            &["--service-p99-ms", "6", "--service-ms 8"],
        ),
        (
            "--rate 5 --service-ms 8 --service-p99-ms 600 --wait-p99-ms 20",
            &["--service-p99-ms", "600", "lognormal"],
        ),
        ("--rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 0", &["--wait-p99-ms", "0"]),
        (
            "--rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20 --timeout-ms 20",
            &["--wait-p99-ms", "--timeout-ms 20"],
        ),
        (
            "--instances 0 --rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20",
            &["--instances", "0"],
        ),
        (
            "--instances -5 --rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20",
            &["--instances", "-5"],
        ),
        // 40 are busy on average.
        (
            "--rate 5000 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20 \
             --server-max-connections 40",
            &["--server-max-connections 40", "--rate 5000", "40.0"],
        ),
        (
            "--rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20 --json /no/such/f",
            &["/no/such/f"],
        ),
        (
            "--rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20 --seconds 3",
            &["--database"],
        ),
        ("--rate 5", &["--service-ms"]),
        // A rate at which the simulation would exceed its clock.
        (
            "--rate 1e-300 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20",
            &["--rate must", "1e-300"],
        ),
        (
            "--instances 1000000 --rate 100 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20",
            &["--rate", "--instances 1000000"],
        ),
        (
            "--rate 5 --service-ms 8 --service-p99-ms 60 --wait-p99-ms 20 --gets 19",
            &["--gets", "2000", "19"],
        ),
    ];
    for (arguments, named) in cases {
        assert_refused(&with(arguments), named);
    }
    // Too few even if all instances share them: 4 of 5 are busy on average.
    let shared = "--instances 4 --rate 500 --service-ms 8 --service-p99-ms 60 --gets 10000 \
                  --wait-p99-ms 0.5 --server-max-connections 5";
    let earlier = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&earlier, "an earlier plan").unwrap();
    let shared = format!("{shared} --json {}", earlier.path().display());
    assert_refused(&shared, &["--server-max-connections 5", "--wait-p99-ms"]);
    assert_eq!(std::fs::read_to_string(&earlier).unwrap(), "an earlier plan");
}

#[test]
fn the_help_says_whose_rate_it_is_and_which_fit() {
    let output = run("--help");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for part in ["whole service", "mean", "lognormal", "Poisson"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[test]
fn the_plan_is_the_smallest_that_keeps_the_goal() {
    let (_, figures) = plan(&format!("{SERVICE} --wait-p99-ms 10"));
    let size = number(&figures, "/pool_size");
    assert!(number(&figures, "/wait/p99_seconds") <= 0.010, "{figures}");
    let curve = figures["curve"].as_array().expect("a curve");
    for point in curve {
        let keeps = number(point, "/wait/p99_seconds") <= 0.010;
        assert_eq!(keeps, number(point, "/size") >= size, "{point}");
    }
    assert!(curve.iter().any(|point| number(point, "/size") < size), "{figures}");
    let p99: Vec<f64> = curve.iter().map(|point| number(point, "/wait/p99_seconds")).collect();
    assert!(p99.is_sorted_by(|a, b| a >= b), "more connections, longer waits: {p99:?}");
    let knee = number(&figures, "/knee");
    assert!(curve.iter().any(|point| number(point, "/size") == knee), "{knee}");
    assert!(number(&figures, "/room") >= 1.0);

    // A stricter goal needs more connections.
    let (_, strict) = plan(&format!("{SERVICE} --wait-p99-ms 1"));
    assert!(number(&strict, "/pool_size") > size);
}

/// With few gets, the queue of a large pool that is almost always busy is still short.
#[test]
fn what_is_planned_keeps_the_goal_in_a_longer_run_too() {
    let service = "--rate 5000 --service-ms 8 --service-p99-ms 60 --gets 2500";
    for seed in 1..=4 {
        let (_, figures) = plan(&format!("{service} --wait-p99-ms 10 --seed {seed}"));
        assert!(number(&figures, "/wait/p99_seconds") <= 0.010, "{figures}");
    }
}

#[test]
fn the_same_seed_gives_the_same_plan() {
    let arguments = format!("{ROUGHLY} --wait-p99-ms 10 --seed 7");
    assert_eq!(plan(&arguments), plan(&arguments));
}

#[test]
fn the_server_s_limit_gives_a_warning_and_then_a_proxy() {
    let at =
        |limit: u32| plan(&format!("{ROUGHLY} --wait-p99-ms 10 --server-max-connections {limit}"));
    let (text, figures) = at(1000);
    let connections = number(&figures, "/connections") as u32;
    assert_eq!(figures["warning"], false);
    assert!(!text.contains("WARNING") && !text.contains("PROXY"), "{text}");
    let (text, figures) = at(connections);
    assert_eq!((&figures["warning"], &figures["proxy_needed"]), (&true.into(), &false.into()));
    assert!(text.contains("WARNING") && text.contains("70 %"), "{text}");
    let (text, figures) = at(connections - 1);
    assert_eq!(figures["proxy_needed"], true);
    assert!(text.contains("PROXY NEEDED") && text.contains("PgBouncer"), "{text}");
    // Shared connections are used better.
    let shared = number(&figures, "/proxy_connections") as u32;
    assert!(shared < connections);
    // They may still be a large share of the server's limit.
    assert_eq!(text.contains("WARNING"), f64::from(shared) > 0.7 * f64::from(connections - 1));
    let (text, _) = at(shared);
    assert!(text.contains("PROXY NEEDED") && text.contains("WARNING"), "{text}");
}

#[test]
fn exponential_service_times_wait_as_erlang_c_says() {
    let (text, figures) =
        plan("--rate 480 --service-ms 10 --service-p99-ms 46 --wait-p99-ms 11 --gets 20000");
    assert!(text.contains("Erlang C"), "{text}");
    let close = |theory: &str, simulated: &str| {
        let (theory, simulated) =
            (number(&figures["erlang_c"], theory), number(&figures["erlang_c"], simulated));
        assert!(theory > 0.0 && (simulated / theory - 1.0).abs() < 0.05, "{theory} {simulated}");
    };
    close("/share_that_waits", "/simulated/share_that_waits");
    close("/mean_seconds", "/simulated/mean_seconds");
    close("/p99_seconds", "/simulated/p99_seconds");
}

#[test]
fn a_plan_is_tried_on_a_real_server() {
    let cluster = Cluster::shared();
    let (text, figures) =
        plan(&format!("{SERVICE} --wait-p99-ms 10 --database {} --seconds 2", cluster.url()));
    let gets = number(&figures, "/database/measured/gets");
    // 125 per second, at random times.
    assert!((180.0..330.0).contains(&gets), "{gets}");
    assert_eq!(number(&figures, "/database/simulated/gets"), gets);
    // The server sleeps at least as long as requested, and the timeout is long.
    assert!(number(&figures, "/database/mean_hold_seconds") > 0.004, "{figures}");
    assert!(number(&figures, "/database/measured/share_timed_out") < 0.5, "{figures}");
    for part in ["on PostgreSQL", "measured", "simulated", "planned"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert_refused(&format!("{SERVICE} --wait-p99-ms 10 --database nonsense"), &["--database"]);
}
