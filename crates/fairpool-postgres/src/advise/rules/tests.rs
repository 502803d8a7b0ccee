//! Each rule at its boundary.

use super::*;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Settings without a recommendation.
fn good() -> Settings {
    Settings {
        max_size: 10,
        max_idle: 10,
        max_waiters: Some(100),
        max_lifetime: Some(secs(300)),
        has_jitter: true,
        idle_timeout: Some(secs(600)),
        keepalive: None,
        leak_threshold: Some(secs(30)),
        connection_timeout: secs(30),
    }
}

fn server() -> ServerFigures {
    ServerFigures {
        version: "15.3".into(),
        port: 5432,
        max_connections: 100,
        reserved: 3,
        clients: 12,
        others: 2,
        statement_timeout: Some(secs(30)),
        lock_timeout: Some(secs(2)),
        idle_in_transaction_session_timeout: Some(secs(60)),
        idle_session_timeout: None,
    }
}

#[track_caller]
fn expect(
    pool: Settings,
    server: ServerFigures,
    setting: &str,
    severity: Severity,
    parts: &[&str],
) {
    let found = all_but_connections(&pool, &server);
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((one.setting, one.severity), (setting, severity), "{one:?}");
    let text = format!("{}; {}", one.reason, one.advice);
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?}: {text}"));
}

use Severity::{Critical, Info, Warning};

#[test]
fn good_settings_are_left_alone() {
    assert_eq!(all_but_connections(&good(), &server()), []);
    assert_eq!(connections(&good(), &server(), 7), None);
}

#[test]
fn all_instances_together_leave_some_of_the_server() {
    let eight = connections(&good(), &server(), 8).unwrap();
    assert_eq!((eight.setting, eight.severity), ("max_size", Warning));
    assert_eq!(
        eight.reason,
        "8 × 10 = 80 connections, more than 70, 70 % of max_connections (100)"
    );
    assert_eq!(eight.advice, "set it to at most 8");

    let ten = connections(&good(), &server(), 10).unwrap();
    assert_eq!(ten.severity, Critical);
    let reason = "10 × 10 = 100 connections, but 95 are free: of 100, 3 are reserved and 2 taken \
                  by others";
    assert_eq!((ten.reason.as_str(), ten.advice.as_str()), (reason, "set it to at most 7"));

    // One instance, but others have most connections.
    let crowded = ServerFigures { others: 90, ..server() };
    let one = connections(&good(), &crowded, 1).unwrap();
    assert_eq!((one.severity, one.advice.as_str()), (Critical, "set it to at most 7"));
    let many = connections(&good(), &crowded, u32::MAX).unwrap();
    assert!(many.advice.starts_with("run fewer instances"), "{many:?}");
}

#[test]
fn each_wait_has_a_deadline() {
    let patient = Settings { connection_timeout: secs(31), ..good() };
    expect(patient, server(), "connection_timeout", Warning, &["31s", "at most 30"]);
    let s = ServerFigures { statement_timeout: None, ..server() };
    expect(good(), s, "statement_timeout", Warning, &["for ever"]);
    let s = ServerFigures { lock_timeout: None, ..server() };
    expect(good(), s, "lock_timeout", Info, &["until statement_timeout (30s)"]);
    let s = ServerFigures { idle_in_transaction_session_timeout: None, ..server() };
    expect(good(), s, "idle_in_transaction_session_timeout", Warning, &["keeps its locks"]);
    let s = ServerFigures { lock_timeout: None, statement_timeout: None, ..server() };
    let severities: Vec<_> =
        all_but_connections(&good(), &s).iter().map(|found| found.severity).collect();
    assert_eq!(severities, [Warning, Warning]);
}

#[test]
fn the_server_must_not_end_what_the_pool_keeps() {
    let strict = || ServerFigures { idle_session_timeout: Some(secs(200)), ..server() };
    let long = Settings { idle_timeout: Some(secs(200)), ..good() };
    expect(long, strict(), "idle_timeout", Warning, &["up to 200s", "less than 200s"]);
    let checked = Settings { keepalive: Some(secs(60)), ..good() };
    assert_eq!(all_but_connections(&checked, &strict()), []);
    let short = Settings { idle_timeout: Some(secs(199)), ..good() };
    assert_eq!(all_but_connections(&short, &strict()), []);

    // Connections are idle for no longer than they live.
    let unlimited = Settings { idle_timeout: None, ..good() };
    expect(unlimited.clone(), strict(), "idle_timeout", Warning, &["up to 300s"]);
    let patient = ServerFigures { idle_session_timeout: Some(secs(301)), ..server() };
    assert_eq!(all_but_connections(&unlimited, &patient), []);
    let forever = Settings { max_lifetime: None, ..unlimited };
    let found = all_but_connections(&forever, &strict());
    let of_idle = found.iter().find(|found| found.setting == "idle_timeout").unwrap();
    assert!(of_idle.reason.starts_with("connections stay idle for ever"), "{of_idle:?}");
}

#[test]
fn connections_do_not_live_for_long() {
    let usual = Settings { max_lifetime: Some(secs(1800)), ..good() };
    expect(usual, server(), "max_lifetime", Info, &["up to 1800s", "set 300s"]);
    let forever = Settings { max_lifetime: None, has_jitter: false, ..good() };
    expect(forever, server(), "max_lifetime", Warning, &["live for ever"]);
    let together = Settings { has_jitter: false, ..good() };
    expect(together, server(), "lifetime_jitter", Warning, &["end together"]);
}

#[test]
fn as_many_rest_as_are_of_use() {
    let many = Settings { max_size: 30, max_idle: 30, ..good() };
    expect(many, server(), "max_idle", Info, &["up to 30 of 30", "set it to 20"]);
    let few = Settings { max_idle: 5, ..good() };
    expect(few, server(), "max_idle", Info, &["set it to 10"]);
    let right = Settings { max_size: 30, max_idle: 20, ..good() };
    assert_eq!(all_but_connections(&right, &server()), []);
}

#[test]
fn queue_and_leaks_have_limits() {
    let endless = Settings { max_waiters: None, ..good() };
    expect(endless, server(), "max_waiters", Info, &["not set"]);
    let trusting = Settings { leak_threshold: None, ..good() };
    expect(trusting, server(), "leak_threshold", Info, &["not set"]);
    // The holder must be named before its transaction is ended.
    let late = Settings { leak_threshold: Some(secs(60)), ..good() };
    let parts = ["60s, but the server ends", "after 60s (idle_in", "set it to less than 60s"];
    expect(late.clone(), server(), "leak_threshold", Info, &parts);
    let earlier = Settings { leak_threshold: Some(secs(59)), ..late.clone() };
    assert_eq!(all_but_connections(&earlier, &server()), []);
}
