//! The lab as a reader meets it: each scenario in a short form, on the flawed pool and
//! with its flaw mended.

#![cfg(all(feature = "postgres", feature = "simulation"))]

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Examples are built beside the tests; `cargo test` builds both.
fn program() -> PathBuf {
    let own = env::current_exe().expect("the path of this test");
    let target = own.parent().and_then(|deps| deps.parent()).expect("the folder of the profile");
    let program = target.join("examples").join("lab");
    assert!(program.exists(), "please build it: cargo build --all-features --example lab");
    program
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env_remove("DATABASE_URL");
    command.output().expect("the program starts")
}

/// One clear line that names what is wrong, and exit code 2.
fn assert_refused(arguments: &[&str], named: &str) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.contains(named), "{arguments:?}: {said}");
}

/// What a scenario reports, after it has ended as it should.
fn report(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let (json, svg) = (folder.path().join("lab.json"), folder.path().join("lab.svg"));
    let (json_name, svg_name) = (json.to_string_lossy(), svg.to_string_lossy());
    let output = run(&[arguments, &["--json", &json_name, "--svg", &svg_name]].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("verdict: as expected"), "{said}");
    assert!(!said.contains('\u{1b}'), "control characters in a pipe: {said:?}");
    let text = std::fs::read_to_string(&json).expect("the figures");
    let reports: Value = serde_json::from_str(&text).expect("legal JSON");
    if svg.exists() {
        let drawn = std::fs::read_to_string(&svg).expect("the chart");
        if drawn.is_empty() {
            return reports[0].clone(); // It has none.
        }
        assert!(
            drawn.contains("<svg") && (drawn.contains("polyline") || drawn.contains("<rect")),
            "an empty chart: {drawn}"
        );
    }
    println!("{said}");
    reports[0].clone()
}

/// Whether the flawed pool and fairpool show the flaw.
fn flaws(report: &Value) -> (bool, bool) {
    let shows = |pool: &str| report[pool]["shows_the_flaw"].as_bool().expect("a finding");
    (shows("flawed"), shows("fairpool"))
}

/// The scenario shows the flaw on the flawed pool alone, and with the flaw mended on
/// neither.
fn both_sides(name: &str, seconds: &str) -> Value {
    let mended = report(&[name, "--seconds", seconds, "--fixed"]);
    assert_eq!(flaws(&mended), (false, false), "{name}, mended");
    let flawed = report(&[name, "--seconds", seconds]);
    assert_eq!(flaws(&flawed), (true, false), "{name}");
    flawed
}

#[test]
fn bad_input_gets_one_clear_line() {
    assert_refused(&["no-such-thing"], "no-such-thing");
    assert_refused(&["runaway-queue", "--seconds", "0"], "--seconds");
    assert_refused(&["runaway-queue", "--seconds", "-1"], "--seconds");
    assert_refused(&["runaway-queue", "--seconds", "nan"], "--seconds");
    assert_refused(&["runaway-queue", "--virtual"], "--virtual");
    assert_refused(
        &["runaway-queue", "--seconds", "0.1", "--json", "/no/such/folder/f"],
        "/no/such/folder/f",
    );
    assert_refused(&[], "SCENARIO");
}

#[test]
fn all_scenarios_are_listed() {
    let output = run(&["list"]);
    let said = String::from_utf8_lossy(&output.stdout);
    for name in ["runaway-queue", "close-serialisation", "policies"] {
        assert!(said.contains(name), "{name} is missing: {said}");
    }
}

#[test]
fn runaway_queue() {
    let report = both_sides("runaway-queue", "1");
    assert!(report["diagnosis"].as_str().is_some_and(|said| said.contains("runaway_queue.rs:")));
}

#[test]
fn close_serialisation() {
    let report = both_sides("close-serialisation", "0.4");
    let ways = report["data"]["ways"].as_array().expect("the ways");
    let of = |way: &str| {
        let found = ways.iter().filter(|one| one["way"] == way);
        found.max_by(|a, b| {
            a["close_seconds"].as_f64().partial_cmp(&b["close_seconds"].as_f64()).expect("numbers")
        })
    };
    let held =
        |way: &str| of(way).and_then(|way| way["lock_held_seconds"].as_f64()).expect("a figure");
    // Eight closes of 0.4 s under the lock, or none of them.
    assert!(held("one lock for all") >= 3.0 && held("a lock for each") >= 3.0);
    assert!(held("closed outside") < 1.0);
    let blocked = |way: &str| {
        of(way).and_then(|way| way["returns_blocked"]["times"].as_u64()).expect("a figure")
    };
    assert!(blocked("one lock for all") > 0 && blocked("a lock for each") > 0);
}

/// The policies from the longest p95 of a class to the shortest.
fn order(report: &Value, class: &str) -> Vec<String> {
    let policies = report["data"]["policies"].as_array().expect("the policies");
    // Without ageing is there for comparison.
    let mut found: Vec<(f64, String)> = policies[..3]
        .iter()
        .map(|policy| {
            let classes = policy["classes"].as_array().expect("the classes");
            let of = classes.iter().find(|one| one["class"] == class).expect("the class");
            assert!(of["callers"].as_u64() > Some(0), "nobody came: {of}");
            let p95 = of["p95_seconds"].as_f64().expect("a figure");
            (p95, policy["policy"].as_str().expect("a name").to_string())
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|policy| policy.1).collect()
}

#[test]
fn policies() {
    let real = both_sides("policies", "2");
    assert!(real["diagnosis"].as_str().is_some_and(|said| said.contains("callers wait")));
    assert_eq!(real["data"]["claim_holds"]["admin"], true);
    let simulated = report(&["policies", "--virtual"]);
    assert_eq!(flaws(&simulated), (true, false));
    assert_eq!(flaws(&report(&["policies", "--virtual", "--fixed"])), (false, false));
    // In virtual time, and on threads: the order is the same.
    assert_eq!(order(&real, "admin"), order(&simulated, "admin"));
}
