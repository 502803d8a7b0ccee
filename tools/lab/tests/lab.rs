//! The lab as a reader meets it: each scenario in a short form, on the flawed pool and
//! with its flaw mended.

#![cfg(all(feature = "postgres", feature = "simulation"))]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use serde_json::Value;

/// Examples are built beside the tests; `cargo test` builds both.
fn program() -> PathBuf {
    let own = env::current_exe().expect("the path of this test");
    let target = own.parent().and_then(|deps| deps.parent()).expect("the folder of the profile");
    let program = target.join("examples").join("lab");
    assert!(program.exists(), "please build it: cargo build --all-features --example lab");
    program
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_remove("DATABASE_URL");
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program starts")
}

/// One clear line that names what is wrong, and exit code 2.
fn assert_one_line(command: &mut Command, named: &str) {
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{command:?}: {said}");
    assert!(said.contains(named), "{command:?}: {said}");
}

fn assert_refused(arguments: &[&str], named: &str) {
    assert_one_line(&mut command(arguments), named);
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
    let text = fs::read_to_string(&json).expect("the figures");
    let reports: Value = serde_json::from_str(&text).expect("legal JSON");
    if svg.exists() {
        let drawn = fs::read_to_string(&svg).expect("the chart");
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
    let names: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    let all = [
        "runaway-queue",
        "long-transaction",
        "leak-and-outage",
        "cancel-race",
        "close-serialisation",
        "reaper-race",
        "nested-get",
        "policies",
    ];
    assert_eq!(names, all, "{said}");
}

/// A figure of the report's table.
fn figure(report: &Value, name: &str, pool: &str) -> String {
    let figures = report["figures"].as_array().expect("the table");
    let found = figures.iter().find(|figure| figure["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no figure {name} in {report}"));
    found[pool].as_str().expect("a text").to_string()
}

/// A figure of its data.
fn number(value: &Value, of: &str) -> f64 {
    value[of].as_f64().unwrap_or_else(|| panic!("no figure {of} in {value}"))
}

fn assert_all_zero(value: &Value, figures: &[&str]) {
    for of in figures {
        assert_eq!(number(value, of), 0.0, "{of} in {value}");
    }
}

/// What the diagnosis said while the load was on.
fn assert_diagnosed(report: &Value, said: &str) {
    let diagnosis = report["diagnosis"].as_str().expect("a diagnosis");
    assert!(diagnosis.contains("within") && diagnosis.contains(said), "{diagnosis}");
}

#[test]
fn runaway_queue() {
    let report = both_sides("runaway-queue", "1");
    let figure = |name: &str, pool: &str| figure(&report, name, pool);
    assert_eq!(figure("callers that have no answer", "flawed"), "100 of 100");
    assert_eq!(figure("waiting at the end", "flawed"), "100");
    assert_eq!(figure("waiting at the end", "fairpool"), "0");
    assert_eq!(figure("errors that name the leak's line", "fairpool"), "100 of 100");
    assert_diagnosed(&report, "runaway_queue.rs:");
    assert_diagnosed(&report, "nothing comes back");
}

#[test]
fn long_transaction() {
    let report = both_sides("long-transaction", "2");
    let data = &report["data"];
    let pair = |of: &str| {
        let number = |at: usize| data[of][at].as_u64().unwrap_or_else(|| panic!("{of}: {data}"));
        (number(0), number(1))
    };
    // One of eight sits, the other seven stand behind the row, and all else behind the pool.
    assert_eq!(pair("served"), (0, 64), "{data}");
    assert_eq!(pair("unanswered"), (64, 0), "{data}");
    assert_eq!((pair("behind_row").0, pair("behind_pool").0), (7, 57), "{data}");
    assert_eq!(data["commit"][0], "committed", "nothing has ended it: {data}");
    assert!(data["commit"][1].as_str().is_some_and(|said| said.starts_with("error")), "{data}");
    // The holder, by its line, and the backend that blocks, by what it did last.
    assert_diagnosed(&report, "long_transaction.rs:");
    assert_diagnosed(&report, "idle in transaction");
    assert_diagnosed(&report, "WHERE id = 12345");
}

#[test]
fn leak_and_outage() {
    let report = both_sides("leak-and-outage", "3");
    let (flawed, fairpool) = (&report["data"]["flawed"], &report["data"]["fairpool"]);
    let avalanche = &flawed["at_the_end_of_the_outage"];
    assert_eq!((number(avalanche, "idle"), number(avalanche, "active")), (0.0, 10.0), "{flawed}");
    assert!(number(avalanche, "waiting") > number(flawed, "waiting_at_half"), "{flawed}");
    assert!(number(flawed, "most_waiting") > 200.0, "{flawed}");
    assert!(number(fairpool, "most_waiting") <= 200.0, "{fairpool}");
    assert!(number(fairpool, "with_connect_error") > 0.0, "{fairpool}");
    assert!(number(fairpool, "served_again_after_seconds") > 0.0, "{fairpool}");
    assert_all_zero(fairpool, &["without_answer", "in_use_after_leaks_came_back"]);
    for of in ["leaks_reported", "leaks_ended"] {
        assert_eq!(number(&report["data"], of), 6.0, "{of}");
    }
    assert_diagnosed(&report, "connecting has failed");
    assert_diagnosed(&report, "leak_and_outage.rs:");
}

#[test]
fn without_a_server_it_says_so() {
    for scenario in ["long-transaction", "leak-and-outage"] {
        // A port on which nobody listens: it was free a moment ago.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        assert_one_line(command(&[scenario]).env("DATABASE_URL", url), "DATABASE_URL");
        assert_one_line(command(&[scenario]).env("DATABASE_URL", "nonsense"), "DATABASE_URL");
        // Nor can one be started: there is not even a shell.
        let nothing = tempfile::tempdir().expect("a folder");
        assert_one_line(command(&[scenario]).env("PATH", nothing.path()), "set DATABASE_URL");
    }
}

#[test]
fn cancel_race() {
    let report = both_sides("cancel-race", "1");
    let (flawed, fairpool) = (&report["data"]["flawed"], &report["data"]["fairpool"]);
    assert!(number(flawed, "waiting") > 0.0 && number(flawed, "stranded") > 0.0, "{flawed}");
    // Two connections, both swallowed by callers that had left.
    assert_eq!(number(flawed, "missing"), 2.0, "{flawed}");
    assert_all_zero(fairpool, &["waiting", "stranded", "missing", "bad_rounds"]);
    // Some of them in the instant in which they were granted a connection.
    assert!(number(fairpool, "cancelled") > number(fairpool, "left"), "{fairpool}");
    assert!(number(fairpool, "left") > 0.0 && number(fairpool, "served") > 0.0, "{fairpool}");
    assert_diagnosed(&report, "pool 'lab'");
}

#[test]
fn close_serialisation() {
    let report = both_sides("close-serialisation", "0.4");
    let ways = report["data"]["ways"].as_array().expect("the ways");
    assert_eq!(ways.len(), 3 * 4, "three closes, four ways");
    let of = |way: &str| {
        let found = ways.iter().filter(|one| one["way"] == way);
        found
            .max_by(|a, b| number(a, "close_seconds").total_cmp(&number(b, "close_seconds")))
            .expect("the way")
    };
    let [one, each, outside, fairpool] =
        ["one lock for all", "a lock for each", "closed outside", "fairpool"].map(of);
    let held = |way| number(way, "lock_held_seconds");
    // Eight closes of 0.4 s under the lock, or none of them.
    assert!(held(one) >= 3.0 && held(each) >= 3.0, "{one} {each}");
    assert!(held(outside) < 1.0, "{outside}");
    let blocked = |way: &Value, who: &str| number(&way[who], "longest_seconds");
    // A close's holder, and whoever wants to close it too, wait for most of it...
    for who in ["closers_blocked", "returns_blocked"] {
        assert!(blocked(each, who) >= 0.2, "{who}: {each}");
        assert!(blocked(one, who) >= 0.4, "{who}: {one}");
    }
    // ... and with one lock, one close after the other, and the gets with them.
    let all_closed = |way| number(way, "all_closed_seconds");
    assert!(all_closed(one) >= 3.2 && number(one, "get_p99_seconds") > 0.4, "{one}");
    for way in [one, each, outside, fairpool] {
        assert!(number(way, "get_p50_seconds") <= number(way, "get_p99_seconds"), "{way}");
        assert!(number(way, "return_p99_seconds") > 0.0, "{way}");
    }
    // Four closers at a time: two closes one after the other.
    assert!(all_closed(fairpool) >= 0.8 && all_closed(fairpool) < all_closed(one), "{fairpool}");
    assert!(number(fairpool, "get_p99_seconds") < number(one, "get_p99_seconds"), "{fairpool}");
    assert_diagnosed(&report, "pool 'lab'");
}

#[test]
fn reaper_race() {
    let report = both_sides("reaper-race", "2");
    let (flawed, fairpool) = (&report["data"]["flawed"], &report["data"]["fairpool"]);
    for of in ["skipped", "closed_twice", "used_closed", "asleep"] {
        assert!(number(flawed, of) > 0.0, "{of} in {flawed}");
    }
    assert_all_zero(
        fairpool,
        &["skipped", "closed_twice", "used_closed", "shared", "asleep", "missing"],
    );
    // There was something to see: connections that were closed as others were used.
    assert!(number(fairpool, "reaped") > 10.0, "{fairpool}");
    assert!(number(fairpool, "operations") > 1000.0, "{fairpool}");
    assert_eq!(number(fairpool, "opened"), number(fairpool, "closed"), "{fairpool}");
    assert_diagnosed(&report, "pool 'lab'");
}

#[test]
fn nested_get() {
    let report = both_sides("nested-get", "1");
    let data = &report["data"];
    // It is seen when the last thread asks, not at somebody's deadline.
    assert!(number(data, "warned_after_seconds") < number(data, "told_after_seconds"), "{data}");
    assert!(number(data, "failed_after_seconds") < number(data, "told_after_seconds"), "{data}");
    assert_eq!(number(data, "served_after_one_failed"), 7.0, "{data}");
    let errors = data["errors_when_it_lets_one_fail"].as_array().expect("the errors");
    assert_eq!(errors.len(), 1, "{data}");
    for line in data["lines"].as_array().expect("the lines of both gets") {
        let place = format!("nested_get.rs:{line}");
        assert!(errors[0].as_str().is_some_and(|said| said.contains(&place)), "{place}: {data}");
        assert_diagnosed(&report, &place);
    }
    assert_diagnosed(&report, "held by a thread that itself waits");
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

#[test]
fn what_cannot_run_does_not_keep_the_others_from_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("lab.json");
    let mut all = command(&["all", "--seconds", "0.3", "--json"]);
    assert_one_line(all.arg(&json).env("DATABASE_URL", "nonsense"), "long-transaction");
    let text = fs::read_to_string(&json).expect("the figures of the others");
    let reports: Value = serde_json::from_str(&text).expect("legal JSON");
    let names: Vec<&str> = reports
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["scenario"].as_str())
        .collect();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(!names.contains(&"leak-and-outage"), "{names:?}");
}

/// A reader holds each in the head.
#[test]
fn flawed_pools_are_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/lab/flawed");
    let files = fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path());
    let mut models = 0;
    for file in files.filter(|file| !file.ends_with("mod.rs")) {
        let lines = fs::read_to_string(&file).expect("a source").lines().count();
        assert!(lines <= 150, "{}: {lines} lines", file.display());
        models += 1;
    }
    assert_eq!(models, 4);
}
