//! The quickstart as a user meets it: the program, its output, its exit code.

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fairpool_servers::cluster::{APP_USER, Cluster};

/// `cargo test` builds a package's examples before its tests, in a folder beside theirs.
fn program() -> PathBuf {
    let own = env::current_exe().expect("the path of this test");
    let target = own.parent().and_then(|deps| deps.parent()).expect("the folder of the profile");
    let name = format!("quickstart{}", env::consts::EXE_SUFFIX);
    let program = target.join("examples").join(name);
    assert!(
        program.exists(),
        "please build it: cargo build -p fairpool-examples --example quickstart"
    );
    program
}

fn run(arguments: &[&str], database: Option<&str>) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env_remove("DATABASE_URL");
    command.envs(database.map(|url| ("DATABASE_URL", url)));
    command.output().expect("the program starts")
}

/// The program prints one line that names what is wrong, and ends soon with exit code 2.
fn assert_refused(arguments: &[&str], database: Option<&str>, named: &str) {
    let start = Instant::now();
    let output = run(arguments, database);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    assert!(text.contains(named), "{arguments:?}: {text}");
    assert!(!text.contains("s3cret"), "a password is shown: {text}");
    assert!(start.elapsed() < Duration::from_secs(10), "{arguments:?}: {:?}", start.elapsed());
}

/// The program reports that every write is in the database.
fn assert_complete(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{errors}");
    for part in ["verdict: ok", "operations per second", "p99", "Jain", "as it must be"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!text.contains('\u{1b}'), "control characters in a pipe: {text:?}");
}

/// The program compares its settings with the server's, in few lines before the verdict.
fn assert_advised(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let from = text.find("advice for pool 'fairpool', on PostgreSQL ");
    let advice = &text[from.unwrap_or_else(|| panic!("no advice: {text}"))..];
    let (advice, _) = advice.split_once("verdict: ").expect("the verdict comes last");
    for part in ["max_connections 50", "lock_timeout: 0, so one open", "leak_threshold: not set"] {
        assert!(advice.contains(part), "{part} is missing: {advice}");
    }
    // A setting that fits is not mentioned.
    assert!(!advice.contains("max_size"), "{advice}");
    // At most six settings, in two lines each, below a heading of two lines.
    let first = |line: &&str| ["  warning  ", "  info  "].iter().any(|it| line.starts_with(it));
    let settings = advice.lines().filter(first).count();
    assert!((1..=6).contains(&settings), "{advice}");
    assert!(advice.trim_end().lines().count() <= 2 * settings + 2, "{advice}");
}

#[test]
fn it_runs_on_sqlite_and_finds_all_that_was_written() {
    assert_complete(&run(&["--seconds", "1"], None));
}

#[test]
fn it_runs_on_postgresql_and_leaves_nothing_behind() {
    let cluster = Cluster::shared();
    let output = run(&["--seconds", "1"], Some(&cluster.url()));
    assert_complete(&output);
    assert_advised(&output);
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%quickstart%'";
    assert_eq!(cluster.psql(schemas).trim(), "0");
}

#[test]
fn settings_that_cannot_be_are_refused_in_one_line() {
    assert_refused(&["--threads", "0"], None, "--threads");
    assert_refused(&["--threads", "-1"], None, "--threads");
    assert_refused(&["--threads", "many"], None, "--threads");
    assert_refused(&["--threads", "4000000000"], None, "--threads");
    assert_refused(&["--connections", "0"], None, "--connections");
    assert_refused(&["--seconds", "0"], None, "--seconds");
    assert_refused(&["--nonsense"], None, "--nonsense");
}

#[test]
fn databases_that_cannot_be_are_refused_in_one_line_and_at_once() {
    assert_refused(&[], Some("this is not a URL"), "DATABASE_URL");
    assert_refused(&[], Some("postgres://me:s3cret@[::1/x"), "DATABASE_URL");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let away = format!("postgres://me:s3cret@127.0.0.1:{}/x", free.port());
    assert_refused(&[], Some(&away), "DATABASE_URL");

    let cluster = Cluster::shared();
    let at = format!("127.0.0.1:{}", cluster.port());
    let wrong = format!("postgres://{}:s3cret-no@{at}/postgres", APP_USER);
    assert_refused(&[], Some(&wrong), "password");
    let unknown = format!("postgres://postgres@{at}/no_such_database");
    assert_refused(&[], Some(&unknown), "no_such_database");
}
