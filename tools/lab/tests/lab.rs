//! The lab as its users see it: each scenario in a short form, with the flaw and with the
//! flaw fixed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairpool-lab"));
    command.args(arguments).env_remove("DATABASE_URL");
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program starts")
}

/// One line that names the error, and exit code 2.
fn assert_one_line(command: &mut Command, named: &str) {
    let output = command.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{command:?}: {text}");
    assert!(text.contains(named), "{command:?}: {text}");
}

fn assert_refused(arguments: &[&str], named: &str) {
    assert_one_line(&mut command(arguments), named);
}

/// The report of a scenario whose verdict is as expected.
fn report(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let (json, svg) = (folder.path().join("lab.json"), folder.path().join("lab.svg"));
    let (json_name, svg_name) = (json.to_string_lossy(), svg.to_string_lossy());
    let output = run(&[arguments, &["--json", &json_name, "--svg", &svg_name]].concat());
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("verdict: as expected"), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "control characters in a pipe: {stdout:?}");
    let text = fs::read_to_string(&json).expect("the figures");
    let reports: Value = serde_json::from_str(&text).expect("legal JSON");
    if svg.exists() {
        let drawn = fs::read_to_string(&svg).expect("the chart");
        if drawn.is_empty() {
            return reports[0].clone(); // The scenario draws none.
        }
        assert!(
            drawn.contains("<svg") && (drawn.contains("polyline") || drawn.contains("<rect")),
            "an empty chart: {drawn}"
        );
    }
    println!("{stdout}");
    reports[0].clone()
}

/// Whether the flawed pool shows the flaw, and whether fairpool does.
fn flaws(report: &Value) -> (bool, bool) {
    let shows = |pool: &str| report[pool]["shows_the_flaw"].as_bool().expect("a finding");
    (shows("flawed"), shows("fairpool"))
}

/// Only the flawed pool shows the flaw, and no pool if the flaw is fixed.
fn both_sides(name: &str, seconds: &str) -> Value {
    let fixed = report(&[name, "--seconds", seconds, "--fixed"]);
    assert_eq!(flaws(&fixed), (false, false), "{name}, fixed");
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
    let stdout = String::from_utf8_lossy(&output.stdout);
    let names: Vec<&str> = stdout.lines().filter_map(|line| line.split(' ').next()).collect();
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
    assert_eq!(names, all, "{stdout}");
}

/// A figure of the report's table.
fn figure(report: &Value, name: &str, pool: &str) -> String {
    let figures = report["figures"].as_array().expect("the table");
    let found = figures.iter().find(|figure| figure["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no figure {name} in {report}"));
    found[pool].as_str().expect("a text").to_string()
}

/// A figure of the report's data.
fn number(value: &Value, of: &str) -> f64 {
    value[of].as_f64().unwrap_or_else(|| panic!("no figure {of} in {value}"))
}

fn assert_all_zero(value: &Value, figures: &[&str]) {
    for of in figures {
        assert_eq!(number(value, of), 0.0, "{of} in {value}");
    }
}

/// The diagnosis under load contains this.
fn assert_diagnosed(report: &Value, text: &str) {
    let diagnosis = report["diagnosis"].as_str().expect("a diagnosis");
    assert!(diagnosis.contains("within") && diagnosis.contains(text), "{diagnosis}");
}

#[test]
fn runaway_queue() {
    let report = both_sides("runaway-queue", "1");
    let figure = |name: &str, pool: &str| figure(&report, name, pool);
    assert_eq!(figure("callers without an answer", "flawed"), "100 of 100");
    assert_eq!(figure("waiting at the end", "flawed"), "100");
    assert_eq!(figure("waiting at the end", "fairpool"), "0");
    assert_eq!(figure("errors with the line of the leak", "fairpool"), "100 of 100");
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
    // One session of eight has the transaction open, seven wait for the row, and all other
    // callers for the pool.
    assert_eq!(pair("served"), (0, 64), "{data}");
    assert_eq!(pair("unanswered"), (64, 0), "{data}");
    assert_eq!((pair("behind_row").0, pair("behind_pool").0), (7, 57), "{data}");
    assert_eq!(data["commit"][0], "committed", "{data}");
    assert!(data["commit"][1].as_str().is_some_and(|text| text.starts_with("error")), "{data}");
    // The holder by its line, and the blocking backend by its last statement.
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
    assert_all_zero(fairpool, &["without_answer", "in_use_after_leaks_returned"]);
    for of in ["leaks_reported", "leaks_ended"] {
        assert_eq!(number(&report["data"], of), 6.0, "{of}");
    }
    assert_diagnosed(&report, "connecting has failed");
    assert_diagnosed(&report, "leak_and_outage.rs:");
}

#[test]
fn without_a_server_it_says_so() {
    for scenario in ["long-transaction", "leak-and-outage"] {
        // A port without a server.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        assert_one_line(command(&[scenario]).env("DATABASE_URL", url), "DATABASE_URL");
        assert_one_line(command(&[scenario]).env("DATABASE_URL", "nonsense"), "DATABASE_URL");
        // Without a shell no server can be started.
        let nothing = tempfile::tempdir().expect("a folder");
        assert_one_line(command(&[scenario]).env("PATH", nothing.path()), "set DATABASE_URL");
    }
}

#[test]
fn cancel_race() {
    let report = both_sides("cancel-race", "1");
    let (flawed, fairpool) = (&report["data"]["flawed"], &report["data"]["fairpool"]);
    assert!(number(flawed, "waiting") > 0.0 && number(flawed, "stranded") > 0.0, "{flawed}");
    // Both connections were granted to cancelled callers.
    assert_eq!(number(flawed, "missing"), 2.0, "{flawed}");
    assert_all_zero(fairpool, &["waiting", "stranded", "missing", "bad_rounds"]);
    // Some were cancelled at the instant of a grant.
    assert!(number(fairpool, "cancelled") > number(fairpool, "left"), "{fairpool}");
    assert!(number(fairpool, "left") > 0.0 && number(fairpool, "served") > 0.0, "{fairpool}");
    assert_diagnosed(&report, "pool 'lab'");
}

#[test]
fn close_serialisation() {
    let report = both_sides("close-serialisation", "0.4");
    let ways = report["data"]["ways"].as_array().expect("the variants");
    assert_eq!(ways.len(), 3 * 4, "three closes, four variants");
    let of = |way: &str| {
        let found = ways.iter().filter(|one| one["way"] == way);
        found
            .max_by(|a, b| number(a, "close_seconds").total_cmp(&number(b, "close_seconds")))
            .expect("the variant")
    };
    let [one, each, outside, fairpool] =
        ["one lock for all", "a lock for each", "closed outside", "fairpool"].map(of);
    let held = |way| number(way, "lock_held_seconds");
    // All eight closes of 0.4 s run under the lock, or none.
    assert!(held(one) >= 3.0 && held(each) >= 3.0, "{one} {each}");
    assert!(held(outside) < 1.0, "{outside}");
    let blocked = |way: &Value, who: &str| number(&way[who], "longest_seconds");
    // The holder and the second closer wait for most of a close.
    for who in ["closers_blocked", "returns_blocked"] {
        assert!(blocked(each, who) >= 0.2, "{who}: {each}");
        assert!(blocked(one, who) >= 0.4, "{who}: {one}");
    }
    // With one lock, closes run one after the other, and gets wait too.
    let all_closed = |way| number(way, "all_closed_seconds");
    assert!(all_closed(one) >= 3.2 && number(one, "get_p99_seconds") > 0.4, "{one}");
    for way in [one, each, outside, fairpool] {
        assert!(number(way, "get_p50_seconds") <= number(way, "get_p99_seconds"), "{way}");
        assert!(number(way, "return_p99_seconds") > 0.0, "{way}");
    }
    // With four closers, two closes run one after the other.
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
    // Connections were closed while others were used.
    assert!(number(fairpool, "reaped") > 10.0, "{fairpool}");
    assert!(number(fairpool, "operations") > 1000.0, "{fairpool}");
    assert_eq!(number(fairpool, "opened"), number(fairpool, "closed"), "{fairpool}");
    assert_diagnosed(&report, "pool 'lab'");
}

#[test]
fn nested_get() {
    let report = both_sides("nested-get", "1");
    let data = &report["data"];
    // The pool detects it at the last get, not at a deadline.
    assert!(
        number(data, "warned_after_seconds") < number(data, "timed_out_after_seconds"),
        "{data}"
    );
    assert!(
        number(data, "failed_after_seconds") < number(data, "timed_out_after_seconds"),
        "{data}"
    );
    assert_eq!(number(data, "served_after_one_failed"), 7.0, "{data}");
    let errors = data["errors_with_failing"].as_array().expect("the errors");
    assert_eq!(errors.len(), 1, "{data}");
    for line in data["lines"].as_array().expect("the lines of both gets") {
        let place = format!("nested_get.rs:{line}");
        assert!(errors[0].as_str().is_some_and(|text| text.contains(&place)), "{place}: {data}");
        assert_diagnosed(&report, &place);
    }
    assert_diagnosed(&report, "held by a thread that itself waits");
}

/// The policies from the longest p95 of a class to the shortest.
fn order(report: &Value, class: &str) -> Vec<String> {
    let policies = report["data"]["policies"].as_array().expect("the policies");
    // The fourth policy is only for comparison.
    let mut found: Vec<(f64, String)> = policies[..3]
        .iter()
        .map(|policy| {
            let classes = policy["classes"].as_array().expect("the classes");
            let of = classes.iter().find(|one| one["class"] == class).expect("the class");
            assert!(of["callers"].as_u64() > Some(0), "no callers: {of}");
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
    assert!(real["diagnosis"].as_str().is_some_and(|text| text.contains("callers wait")));
    assert_eq!(real["data"]["claim_holds"]["admin"], true);
    let simulated = report(&["policies", "--virtual"]);
    assert_eq!(flaws(&simulated), (true, false));
    assert_eq!(flaws(&report(&["policies", "--virtual", "--fixed"])), (false, false));
    // The order is the same in virtual time and on threads.
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

/// A reader can keep each in mind.
#[test]
fn flawed_pools_are_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/flawed");
    let files = fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path());
    let mut count = 0;
    for file in files {
        let lines = fs::read_to_string(&file).expect("a source").lines().count();
        assert!(lines <= 150, "{}: {lines} lines", file.display());
        count += 1;
    }
    assert_eq!(count, 4);
}
