//! `PostgresConnectionManager` without a pool.

use std::time::{Duration, Instant};

use fairpool::ManageConnection;
use fairpool_postgres::postgres::Config;
use fairpool_postgres::{Client, NoTls, Reset};
use fairpool_servers::cluster::Cluster;

use crate::common::{
    LONG, Manager, ask, backend, manager, manager_of, refusal, shared, show, signal,
};

fn is_in_transaction(client: &mut Client) -> bool {
    let pid = backend(client);
    let state = shared().psql(&format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}"));
    state.starts_with("idle in transaction")
}

// ---- the configuration ----

#[test]
fn an_empty_configuration_gets_limits_of_seconds() {
    let config = Manager::new(Config::new(), NoTls).config();
    let seconds = Duration::from_secs;
    assert_eq!(config.get_connect_timeout(), Some(&seconds(5)));
    assert!(config.get_keepalives());
    assert_eq!(config.get_keepalives_idle(), seconds(5));
    assert_eq!(config.get_keepalives_interval(), Some(seconds(1)));
    assert_eq!(config.get_keepalives_retries(), Some(5));
    assert_eq!(config.get_tcp_user_timeout(), Some(&seconds(10)));
}

#[test]
fn what_the_configuration_says_is_kept() {
    let url = "postgresql://h/d?connect_timeout=9&keepalives_idle=60&keepalives_interval=7\
               &keepalives_retries=2&tcp_user_timeout=3";
    let config = Manager::from_url(url, NoTls).unwrap().config();
    let seconds = Duration::from_secs;
    assert_eq!(config.get_connect_timeout(), Some(&seconds(9)));
    assert_eq!(config.get_keepalives_idle(), seconds(60));
    assert_eq!(config.get_keepalives_interval(), Some(seconds(7)));
    assert_eq!(config.get_keepalives_retries(), Some(2));
    assert_eq!(config.get_tcp_user_timeout(), Some(&seconds(3)));
}

#[test]
fn the_tcp_limit_leaves_chosen_keepalives_their_time() {
    let seconds = Duration::from_secs;
    let manager = manager().keepalives(seconds(60), seconds(10), 3);
    assert_eq!(manager.config().get_tcp_user_timeout(), Some(&seconds(60 + 3 * 10)));
    let off = Manager::from_url("host=h keepalives=0", NoTls).unwrap();
    assert!(!off.config().get_keepalives());
    assert_eq!(off.config().get_tcp_user_timeout(), Some(&seconds(10)));
    let kernel = off.tcp_user_timeout(Duration::ZERO);
    assert_eq!(kernel.config().get_tcp_user_timeout(), Some(&Duration::ZERO));
}

#[test]
fn the_kernel_is_told_of_the_keepalives() {
    let mut client = manager().connect().unwrap();
    let row = client.query_one("SELECT inet_client_port()", &[]).unwrap();
    let local = format!(":{:04X}", row.get::<_, i32>(0));
    // In hexadecimal: index, local and remote address, state, queues, and the
    // timer's kind (02 is keepalive) and time, in hundredths of a second. For a moment after
    // the query, the timer may be that of an acknowledgement.
    let timer = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = lines.find(|fields| fields[1].ends_with(&local)).expect("our socket");
        ours[5].to_owned()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = timer();
    while !seen.starts_with("02:") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        seen = timer();
    }
    let (kind, ticks) = seen.split_once(':').unwrap();
    let ticks = u32::from_str_radix(ticks, 16).unwrap();
    assert!(kind == "02" && ticks <= 500, "{seen}");
}

#[test]
fn a_bad_url_is_an_error_that_counts_as_permanent() {
    let error = Manager::from_url("postgresql://host?no_such_option=1", NoTls).unwrap_err();
    assert!(manager().is_permanent(&error), "{error:?}");
}

#[test]
fn debug_hides_the_password() {
    let manager = Manager::from_url("postgresql://u:hunter2@h/d", NoTls).unwrap();
    let text = format!("{manager:?}");
    assert!(text.contains("connect_timeout"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

// ---- session settings ----

#[test]
fn settings_are_applied_to_each_connection() {
    let manager = manager()
        .application_name("it's \\ me")
        .lock_timeout(Duration::from_millis(1500))
        .statement_timeout(Duration::from_secs(30))
        .idle_in_transaction_session_timeout(Duration::from_secs(60))
        .session_setting("search_path", "a, \"B c\"")
        .session_setting("my.note", r"quote ' backslash \ both \'");
    for _ in 0..2 {
        let mut client = manager.connect().unwrap();
        assert_eq!(show(&mut client, "application_name"), "it's \\ me");
        assert_eq!(show(&mut client, "lock_timeout"), "1500ms");
        assert_eq!(show(&mut client, "statement_timeout"), "30s");
        assert_eq!(show(&mut client, "idle_in_transaction_session_timeout"), "1min");
        assert_eq!(show(&mut client, "my.note"), r"quote ' backslash \ both \'");
        assert_eq!(show(&mut client, "client_min_messages"), "notice", "as it was");
        // Two schemas: a list stays a list.
        assert_eq!(show(&mut client, "search_path"), "a, \"B c\"");
        let mut other = manager.connect().unwrap();
        other.batch_execute("CREATE SCHEMA IF NOT EXISTS a").unwrap();
        assert_eq!(ask(&mut client, "SELECT current_schema()::text"), "a");
    }
}

#[test]
fn the_level_of_messages_can_be_set_too() {
    let manager = manager().session_setting("client_min_messages", "log");
    assert_eq!(show(&mut manager.connect().unwrap(), "client_min_messages"), "log");
}

#[test]
fn a_setting_cannot_smuggle_in_sql() {
    let manager = manager()
        .session_setting("standard_conforming_strings", "off")
        .session_setting("my.note", r"\', false); CREATE TABLE smuggled (); --");
    let mut client = manager.connect().unwrap();
    // At the second reset the server reads backslashes as escapes.
    let manager = manager.reset_on_return(Reset::Session);
    manager.reset(&mut client).unwrap();
    manager.reset(&mut client).unwrap();
    assert_eq!(show(&mut client, "my.note"), r"\', false); CREATE TABLE smuggled (); --");
    assert_eq!(ask(&mut client, "SELECT (to_regclass('smuggled') IS NULL)::text"), "true");
}

#[test]
fn a_rejected_setting_is_named_and_not_permanent() {
    for (name, value) in [
        ("no_such_parameter", "1"),
        ("not a name", "1"),
        ("lock_timeout", "soon"),
        ("shared_buffers", "1GB"),
        ("my.note", "zero \0 byte"),
        ("role", "nobody_like_that"),
    ] {
        let manager = manager().session_setting(name, value);
        let error = refusal(&manager);
        assert!(!manager.is_permanent(&error), "{name}: {error:?}");
        let text = error.as_db_error().expect("the server's error").message();
        assert!(
            text.starts_with(&format!("the server rejects session_setting {name} (")),
            "{text}"
        );
    }
}

// ---- validation ----

#[test]
fn validation_is_bounded_on_a_silent_server() {
    let manager = manager();
    let mut client = manager.connect().unwrap();
    manager.is_valid(&mut client).unwrap();
    manager.is_valid_within(&mut client, LONG).unwrap();

    let pid = backend(&mut client);
    signal("-STOP", pid);
    let started = Instant::now();
    let within = manager.is_valid_within(&mut client, Duration::from_millis(100));
    let plain = manager.is_valid(&mut client);
    let elapsed = started.elapsed();
    // Before any assertion: the client's drop waits for the backend.
    signal("-CONT", pid);

    let error = within.unwrap_err();
    assert!(manager.is_fatal(&error), "{error:?}");
    assert!(plain.is_err());
    // The plain check has a limit of its own: 2 s.
    assert!(elapsed >= Duration::from_millis(2100), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(7), "{elapsed:?}");
}

// ---- reset ----

const LEVELS: [Reset; 4] = [Reset::Off, Reset::Rollback, Reset::Session, Reset::Always];

#[test]
fn a_reset_is_asked_for_where_something_may_be_left_and_says_what_it_found() {
    for level in LEVELS {
        let manager = manager().reset_on_return(level);
        let mut client = manager.connect().unwrap();
        // Neither a mark nor a level asks for this one: the pool does, after a panic.
        manager.reset(&mut client).unwrap();
        assert_eq!(manager.needs_reset(&mut client), level == Reset::Always, "{level:?}");
        client.batch_execute("BEGIN").unwrap();
        assert_eq!(manager.needs_reset(&mut client), level != Reset::Off, "{level:?}");
        manager.reset(&mut client).unwrap();
        assert_eq!(manager.needs_reset(&mut client), level == Reset::Always, "{level:?}");
        assert!(!is_in_transaction(&mut client), "{level:?}");
        let found = manager.left_behind(&mut client);
        assert_eq!(found.as_deref(), Some("an open transaction"), "{level:?}");
        assert_eq!(manager.left_behind(&mut client), None, "{level:?}");
    }
}

#[test]
fn every_kind_of_open_transaction_is_rolled_back_without_a_warning() {
    let cluster = Cluster::start();
    cluster.psql("CREATE TABLE t (n int)");
    let open: [&[&str]; 8] = [
        &[],
        &["SELECT 1"],
        &["BEGIN"],
        &["BEGIN", "SELECT 1"],
        &["BEGIN; INSERT INTO t VALUES (1)"],
        &["BEGIN", "SAVEPOINT s", "INSERT INTO t VALUES (1)"],
        &["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "TABLE t"],
        &["BEGIN", "COMMIT AND CHAIN"],
    ];
    for mode in [Reset::Rollback, Reset::Session] {
        let manager = manager_of(&cluster).reset_on_return(mode);
        let mut client = manager.connect().unwrap();
        let pid = backend(&mut client);
        let state =
            || cluster.psql(&format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}"));
        for statements in open {
            for sql in statements {
                client.batch_execute(sql).unwrap();
            }
            manager.reset(&mut client).unwrap();
            assert_eq!(state(), "idle", "{mode:?} after {statements:?}");
        }

        // An aborted transaction.
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute("SELECT 1/0").unwrap_err();
        assert_eq!(state(), "idle in transaction (aborted)");
        manager.reset(&mut client).unwrap();
        assert_eq!(state(), "idle");
    }
    assert_eq!(cluster.psql("SELECT count(*) FROM t"), "0");
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());

    // The server does log such warnings, so the assertion above can fail.
    cluster.psql("ROLLBACK");
    assert!(cluster.log().contains("WARNING"), "{}", cluster.log());
}

#[test]
fn a_reset_is_not_fooled_by_the_search_path() {
    let manager = manager().reset_on_return(Reset::Rollback);
    let mut client = manager.connect().unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA decoy; \
             CREATE FUNCTION decoy.statement_timestamp() RETURNS timestamptz \
                 LANGUAGE sql AS 'SELECT pg_catalog.transaction_timestamp()'; \
             CREATE FUNCTION decoy.transaction_timestamp() RETURNS timestamptz \
                 LANGUAGE sql AS 'SELECT pg_catalog.statement_timestamp()'; \
             CREATE FUNCTION decoy.yes(timestamptz, timestamptz) RETURNS bool \
                 LANGUAGE sql AS 'SELECT true'; \
             CREATE OPERATOR decoy.= (FUNCTION = decoy.yes, \
                 LEFTARG = timestamptz, RIGHTARG = timestamptz); \
             SET search_path = decoy, pg_catalog",
        )
        .unwrap();
    client.batch_execute("BEGIN").unwrap();
    manager.reset(&mut client).unwrap();
    assert!(!is_in_transaction(&mut client));
}

#[test]
fn rollback_leaves_the_session_alone() {
    let manager = manager().reset_on_return(Reset::Rollback);
    let mut client = manager.connect().unwrap();
    client.batch_execute("SET work_mem = '1MB'; CREATE TEMP TABLE mine (n int)").unwrap();
    manager.reset(&mut client).unwrap();
    assert_eq!(show(&mut client, "work_mem"), "1MB");
    client.batch_execute("TABLE mine").unwrap();
}

#[test]
fn session_reset_makes_the_session_like_new() {
    let manager = manager().session_setting("work_mem", "3MB").reset_on_return(Reset::Session);
    let mut client = manager.connect().unwrap();
    let fresh_settings = settings(&mut client);
    client
        .batch_execute(
            "SET work_mem = '1MB'; SET my.thing = 'x'; SET ROLE app; RESET ROLE; \
             SET statement_timeout = '60s'; CREATE TEMP TABLE mine (n int); LISTEN news; \
             SELECT pg_advisory_lock(42), pg_advisory_lock_shared(43); \
             DECLARE cur CURSOR WITH HOLD FOR SELECT 1; SET SESSION AUTHORIZATION app",
        )
        .unwrap();
    client.batch_execute("BEGIN").unwrap();

    manager.reset(&mut client).unwrap();

    assert!(!is_in_transaction(&mut client));
    assert_eq!(show(&mut client, "work_mem"), "3MB");
    assert_eq!(settings(&mut client), fresh_settings);
    assert_eq!(ask(&mut client, "SELECT session_user::text"), "postgres");
    assert_eq!(ask(&mut client, "SELECT current_user::text"), "postgres");
    let leftovers = "SELECT concat_ws(',', \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
         (SELECT count(*) FROM pg_cursors WHERE is_holdable), \
         (SELECT count(*) FROM pg_listening_channels()), \
         (SELECT count(*) FROM pg_class WHERE relname = 'mine' AND pg_table_is_visible(oid)))";
    assert_eq!(ask(&mut client, leftovers), "0,0,0,0");
}

/// All parameters with their values, except custom ones: those stay known, with an empty
/// value.
fn settings(client: &mut Client) -> Vec<String> {
    let sql = "SELECT name || '=' || setting FROM pg_settings WHERE name NOT LIKE '%.%' ORDER BY 1";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn session_reset_keeps_what_the_driver_has_prepared() {
    let manager = manager().reset_on_return(Reset::Session);
    let mut client = manager.connect().unwrap();
    // Types that the driver looks up with prepared statements, which it keeps.
    client
        .batch_execute("CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE pair AS (a mood, b int)")
        .unwrap();
    let statement = client.prepare("SELECT 'sad'::mood").unwrap();
    manager.reset(&mut client).unwrap();
    assert_eq!(client.query(&statement, &[]).unwrap().len(), 1);
    client.prepare("SELECT ROW('sad', 1)::pair").unwrap();
    client.batch_execute("CREATE TYPE other AS ENUM ('x')").unwrap();
    client.prepare("SELECT 'x'::other").unwrap();
}

#[test]
fn a_reset_that_fails_says_so() {
    let manager = manager().reset_on_return(Reset::Session);
    let mut client = manager.connect().unwrap();
    let pid = backend(&mut client);
    client.batch_execute("BEGIN").unwrap();
    shared().psql(&format!("SELECT pg_terminate_backend({pid}, 20000)"));
    assert!(manager.reset(&mut client).is_err());

    // A setting that is refused only at the reset: the session is not passed on.
    let mut client = manager.connect().unwrap();
    let broken = manager.session_setting("role", "nobody_like_that");
    assert!(broken.reset(&mut client).is_err());
}
