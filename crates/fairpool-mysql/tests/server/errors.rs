//! What a server refuses, how the pool says so, and what is not shown.

use std::thread;

use fairpool::{ErrorKind, ManageConnection};
use fairpool_mysql::mysql::OptsBuilder;
use fairpool_mysql::mysql::prelude::Queryable;

use crate::common::{
    LONG, Manager, builder, code, driver_error, manager, options, options_of, refusal, refused,
    secs, shared, wait_until,
};

const SECRET: &str = "s3cr3t";

fn wrong_password(user: &str) -> Manager {
    Manager::new(options_of(shared(), user).pass(Some(SECRET)))
}

fn missing_database(name: &str) -> Manager {
    Manager::new(options(shared()).db_name(Some(name)))
}

#[test]
fn p9_a_wrong_password_is_a_clear_error_that_is_not_permanent() {
    let manager = wrong_password("wrong_word");
    let error = refusal(&manager);
    assert_eq!(code(&error), Some(1045), "{error}");
    assert!(!manager.is_permanent(&error));

    let pool = builder().max_size(1).build_unchecked(manager);
    let error = refused(pool.get_timeout(secs(1)));
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(code(driver_error(&error)), Some(1045));
    let text = format!("{error:#} {error:?}");
    assert!(text.contains("Access denied for user 'wrong_word'"), "{text}");
    assert!(!text.contains(SECRET), "{text}");
    // It is tried again.
    assert!(pool.stats().open_failures >= 2, "{}", pool.stats());
}

/// What a server refuses is waited for until it is put right.
fn assert_waits_until(manager: Manager, what: &str, put_right: impl FnOnce()) {
    let pool = builder().max_size(1).build_unchecked(manager);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get_timeout(LONG));
        wait_until("it was refused", || pool.stats().open_failures >= 2);
        put_right();
        let mut conn = waiter.join().unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
        conn.ping().unwrap();
    });
}

#[test]
fn p9_what_a_server_refuses_does_not_end_a_wait_that_is_served() {
    assert_waits_until(wrong_password("rotated"), "a password", || {
        let sql = format!("ALTER USER rotated IDENTIFIED BY '{SECRET}'");
        shared().sql(&sql);
    });
    shared().sql("GRANT ALL ON to_come.* TO app");
    assert_waits_until(missing_database("to_come"), "a database", || {
        shared().sql("CREATE DATABASE to_come");
    });
}

#[test]
fn p9_a_database_that_is_missing_is_named() {
    shared().sql("GRANT ALL ON absent.* TO app");
    let manager = missing_database("absent");
    let error = refusal(&manager);
    assert_eq!(code(&error), Some(1049), "{error}");
    assert!(error.to_string().contains("Unknown database 'absent'"), "{error}");
    assert!(!manager.is_permanent(&error));
}

#[test]
fn p9_a_setting_that_cannot_be_sent_ends_every_wait_at_once() {
    let manager = manager().session_setting("sql mode", "ANSI");
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error}");
    let pool = builder().max_size(1).build_unchecked(manager);
    let error = refused(pool.get_timeout(LONG));
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert!(format!("{error:#}").contains("session_setting \"sql mode\""), "{error:#}");
}

#[test]
fn a_setting_that_the_server_rejects_is_named_and_its_value_is_not_shown() {
    let shown = |manager: &Manager| {
        let error = refusal(manager);
        assert!(!manager.is_permanent(&error), "{error}");
        let text = format!("{error} {error:?} {manager:?}");
        assert!(!text.contains(SECRET), "{text}");
        text
    };
    let text =
        shown(&manager().session_setting("sql_mode", SECRET).session_setting("wait_timeout", "9"));
    assert!(text.contains("session_setting sql_mode (") && text.contains("1231"), "{text}");
    let text = shown(&manager().session_setting("no_such_name", SECRET));
    assert!(text.contains("session_setting no_such_name ("), "{text}");
    let init = vec!["SET @a = 1".to_owned(), format!("SET @key '{SECRET}'")];
    let text = shown(&Manager::new(options(shared()).init(init)));
    assert!(text.contains("statement 2 of the option init") && text.contains("1064"), "{text}");
}

#[test]
fn neither_a_connection_nor_a_transaction_nor_a_manager_shows_the_password() {
    let options = OptsBuilder::from_opts(options_of(shared(), "hidden"));
    shared().sql(&format!("ALTER USER hidden IDENTIFIED BY '{SECRET}'"));
    let manager = Manager::new(options.pass(Some(SECRET)));
    let mut conn = manager.connect().unwrap();
    let mut text = format!("{manager:?} {manager:#?} {conn:?}");
    let transaction = conn.start_transaction(Default::default()).unwrap();
    text += &format!("{transaction:?}");
    assert!(!text.contains(SECRET), "{text}");
    assert!(text.contains("hidden") && text.contains("connection_id"), "{text}");
}

#[test]
fn p10_an_error_that_ends_the_session_retires_the_connection_whether_or_not_run_was_used() {
    let manager = manager();
    let mut conn = manager.connect().unwrap();
    conn.query_drop("SELECT no_such_column").unwrap_err();
    conn.exec_drop("SELECT ?, ?", (1,)).unwrap_err();
    assert!(!manager.has_broken(&mut conn));
    shared().sql(&format!("KILL {}", conn.connection_id()));
    let error = conn.query_drop("SELECT 1").unwrap_err();
    assert!(manager.is_fatal(&error), "{error}");
    assert!(manager.has_broken(&mut conn));
}

#[test]
fn p10_a_prepared_statement_that_is_lost_retires_the_connection() {
    let manager = manager();
    let mut conn = manager.connect().unwrap();
    let statement = conn.prep("SELECT 1").unwrap();
    conn.reset().unwrap();
    let error = conn.exec_drop(&statement, ()).unwrap_err();
    assert_eq!(code(&error), Some(1243), "{error}");
    assert!(manager.has_broken(&mut conn));
}
