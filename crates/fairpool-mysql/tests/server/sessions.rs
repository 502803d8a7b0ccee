//! What each session is set to, from the beginning and after each reset.

use fairpool::PooledConnection;
use fairpool_mysql::mysql::prelude::Queryable;

use crate::common::{Guard, Manager, ask, builder, options, shared};

const ALL: &str = "SELECT concat_ws('|', @@lock_wait_timeout, @@sql_mode, @@time_zone, @@max_statement_time, \
     @from_init, @from_function)";

fn assert_set(conn: &mut Guard) {
    let expected = "7|ANSI_QUOTES|+02:00|0.500000|one|two";
    assert_eq!(ask(&mut **conn, ALL), expected);
}

#[test]
fn settings_statements_and_the_function_hold_from_the_beginning_and_after_each_reset() {
    let manager = Manager::new(options(shared()).init(vec!["SET @from_init = 'one'"]))
        .session_setting("lock_wait_timeout", "7")
        .session_setting("sql_mode", "ANSI_QUOTES")
        .session_setting("time_zone", "+02:00")
        .session_setting("max_statement_time", "0.5")
        .with_init(|conn| conn.query_drop("SET @from_function = 'two'"));
    let pool = builder().max_size(1).build(manager).unwrap();
    for _ in 0..2 {
        let mut conn = pool.get().unwrap();
        assert_set(&mut conn);
        conn.query_drop(
            "SET lock_wait_timeout = 9, sql_mode = '', time_zone = '+00:00', \
             max_statement_time = 0, @from_init = 'x', @from_function = 'y'",
        )
        .unwrap();
    }
    assert_set(&mut pool.get().unwrap());
    assert_eq!(pool.stats().opened, 1);
}

/// The server's own default is another one: `latin1`. (MariaDB 10.11 keeps the agreed one by
/// itself; not all servers are said to.)
#[test]
fn the_character_set_is_the_same_after_a_reset() {
    const QUESTION: &str = "SELECT concat_ws('|', @@character_set_client, @@character_set_results, \
         @@character_set_connection, @@collation_connection)";
    let pool = builder().max_size(1).build(crate::common::manager()).unwrap();
    let before = ask(&mut *pool.get().unwrap(), QUESTION);
    assert!(before.starts_with("utf8mb4|utf8mb4|utf8mb4|utf8mb4_"), "{before}");
    pool.get().unwrap().query_drop("SET @a = 1").unwrap();
    let mut conn = pool.get().unwrap();
    assert_eq!(ask(&mut *conn, QUESTION), before);
    assert_eq!(ask(&mut *conn, "SELECT 'ü🦀'"), "ü🦀");
    assert_eq!(pool.stats().opened, 1);
}

#[test]
fn the_servers_number_of_a_connection_is_shown_with_its_holder() {
    let pool = builder().max_size(2).build(crate::common::manager()).unwrap();
    for _ in 0..2 {
        // A reset keeps the session.
        let mut conn = pool.get().unwrap();
        conn.query_drop("SET @a = 1").unwrap();
        let id: u32 = conn.query_first("SELECT connection_id()").unwrap().unwrap();
        assert_eq!(PooledConnection::info(&conn).backend_id, Some(id));
        assert_eq!(pool.holders()[0].backend_id(), Some(id));
    }
    let one = pool.get().unwrap();
    let other = pool.get().unwrap();
    let number = |guard| PooledConnection::info(guard).backend_id;
    assert_ne!(number(&one), number(&other));
}
