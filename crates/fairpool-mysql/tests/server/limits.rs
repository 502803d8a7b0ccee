//! The driver keeps the pool's limits by itself, also on a server that is frozen, and speaks first.

use std::time::{Duration, Instant};

use fairpool::ManageConnection;
use fairpool_mysql::mysql;
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_servers::mariadb::MariaDb;
use log::Level;

use crate::common::{
    LONG, Manager, builder, driver_error, logged, manager_of, millis, options, refused, secs,
    start_log, wait_until,
};

/// Far more than a limit here, and far less than a wait without one.
const PROMPT: Duration = secs(20);

fn assert_says_silent(error: &mysql::Error, limit: Duration) {
    let text = error.to_string();
    assert!(text.contains(&format!("did not answer within {limit:?}")), "{text}");
}

fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = call();
    (result, begun.elapsed())
}

/// One server for all of it, since it takes seconds to start.
#[test]
fn p1_on_a_frozen_server_each_call_of_the_driver_ends_within_its_limit() {
    let server = MariaDb::start();
    start_log();
    connects_speak_first(&server);
    a_check_keeps_its_limit(&server);
    a_reset_keeps_its_limit(&server);
    a_return_after_a_refused_write_keeps_nobody(&server);
    own_statements_have_no_limit_but_their_own(&server);
    callers_get_errors_in_time_and_the_pool_recovers(&server);
}

fn connects_speak_first(server: &MariaDb) {
    let frozen = server.freeze();
    let pool = builder().max_size(1).open_timeout(secs(4)).build_unchecked(manager_of(server));
    let error = refused(pool.get_timeout(secs(6)));
    assert_says_silent(driver_error(&error), millis(1600));
    assert_eq!(pool.stats().abandoned_calls, 0, "{}", pool.stats());
    drop(frozen);
    drop(pool.get().unwrap());
}

fn a_check_keeps_its_limit(server: &MariaDb) {
    let manager = manager_of(server);
    let mut conn = manager.connect().unwrap();
    manager.is_valid_within(&mut conn, millis(300)).unwrap();
    let frozen = server.freeze();
    let (checked, took) = timed(|| manager.is_valid_within(&mut conn, millis(300)));
    assert_says_silent(&checked.unwrap_err(), millis(300));
    assert!((millis(290)..PROMPT).contains(&took), "{took:?}");
    drop(frozen);
    // What is answered late must not be taken for another answer.
    assert!(manager.has_broken(&mut conn));
    assert!(!manager.checks_within_limit());
}

fn a_reset_keeps_its_limit(server: &MariaDb) {
    let pool = builder()
        .name("frozen reset")
        .max_size(1)
        .reset_timeout(secs(4))
        .build(manager_of(server))
        .unwrap();
    let mut conn = pool.get().unwrap();
    conn.query_drop("SET @a = 1").unwrap();
    let frozen = server.freeze();
    let ((), took) = timed(|| drop(conn));
    assert!(took < PROMPT, "{took:?}");
    wait_until("the reset has failed", || !logged("pool 'frozen reset': ").is_empty());
    wait_until("it says why", || !logged("did not answer within 3.2s").is_empty());
    assert_eq!(pool.stats().abandoned_calls, 0, "{}", pool.stats());
    drop(frozen);
    assert_eq!(crate::common::ask(&mut *pool.get().unwrap(), "SELECT @a"), "NULL");
}

fn a_return_after_a_refused_write_keeps_nobody(server: &MariaDb) {
    let manager = manager_of(server);
    let mut conn = manager.connect().unwrap();
    conn.query_drop("SET SESSION TRANSACTION READ ONLY").unwrap();
    conn.query_drop("CREATE TABLE refused (n int)").unwrap_err();
    let frozen = server.freeze();
    let (broken, took) = timed(|| manager.has_broken(&mut conn));
    assert!(broken);
    assert!((millis(240)..PROMPT).contains(&took), "{took:?}");
    drop(frozen);
}

fn own_statements_have_no_limit_but_their_own(server: &MariaDb) {
    // After a check with a short limit.
    let manager = manager_of(server);
    let mut conn = manager.connect().unwrap();
    manager.is_valid_within(&mut conn, millis(50)).unwrap();
    conn.query_drop("DO sleep(0.5)").unwrap();
    let manager = Manager::new(options(server).read_timeout(Some(millis(100))));
    let mut conn = manager.connect().unwrap();
    manager.is_valid_within(&mut conn, secs(2)).unwrap();
    conn.query_drop("DO sleep(20)").unwrap_err();
    assert!(manager.has_broken(&mut conn));
}

fn callers_get_errors_in_time_and_the_pool_recovers(server: &MariaDb) {
    let pool =
        builder().max_size(4).skip_check_within(millis(0)).build(manager_of(server)).unwrap();
    let frozen = server.freeze();
    let (got, took) = timed(|| pool.get_timeout(millis(500)));
    refused(got);
    assert!((millis(490)..PROMPT).contains(&took), "{took:?}");
    drop(frozen);
    let (got, took) = timed(|| pool.get_timeout(LONG));
    got.unwrap().ping().unwrap();
    println!("figure: a caller is served {took:?} after the end of a freeze");
}

#[test]
fn limits_that_do_not_fit_are_logged_once_with_both_settings() {
    start_log();
    let server = crate::common::shared();
    let build = |name: &str, connect: Duration, others: u16| {
        let mut manager = Manager::new(options(server).tcp_connect_timeout(Some(connect)));
        for _ in 0..others {
            manager = manager.or_server("127.0.0.1", server.port());
        }
        builder().name(name).max_size(1).open_timeout(secs(5)).build_unchecked(manager)
    };
    let _pools =
        [build("fits", secs(4), 0), build("misfits", secs(5), 0), build("two", secs(3), 1)];
    assert_eq!(logged("pool 'fits': tcp_connect_timeout"), []);
    for (name, words) in [("misfits", "(5s) does not fit"), ("two", "(3s for each of 2 servers)")] {
        let lines = logged(&format!("pool '{name}': "));
        let [(Level::Warn, line)] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains(words) && line.contains("open_timeout (5s)"), "{line}");
    }
}
