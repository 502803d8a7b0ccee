//! What one caller leaves does not reach the next.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fairpool::{ManageConnection, Pool};
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{LocalInfileHandler, Statement, TxOpts};
use fairpool_mysql::{Connection, MysqlConnectionManager, Reset};

use crate::common::{ask, builder, logged, manager, options, shared, start_log};

/// A way to leave something, and how to see it: the question, and the answer if it is gone.
type Row = (&'static str, fn(&mut Connection), &'static str, &'static str);

const ROWS: [Row; 13] = [
    ("a user variable", |conn| run(conn, "SET @a = 1"), "SELECT @a", "NULL"),
    ("a user variable by SELECT", |conn| run(conn, "SELECT @a := 1"), "SELECT @a", "NULL"),
    ("a variable", |conn| run(conn, "SET sql_mode = 'ANSI'"), "SELECT @@sql_mode = ''", "0"),
    ("autocommit", |conn| run(conn, "SET autocommit = 0"), "SELECT @@autocommit", "1"),
    ("names", |conn| run(conn, "SET NAMES latin1"), "SELECT @@character_set_client", "utf8mb4"),
    (
        "a temporary table",
        |conn| run(conn, "CREATE TEMPORARY TABLE item_of_mine (n int)"),
        "SELECT count(*) FROM information_schema.columns WHERE table_name = 'item_of_mine'",
        "0",
    ),
    (
        "a lock by name",
        |conn| run(conn, "SELECT get_lock('mine', 0)"),
        "SELECT is_used_lock('mine')",
        "NULL",
    ),
    ("a statement", |conn| run(conn, "PREPARE mine FROM 'SELECT 1'"), EXECUTE, "gone"),
    ("a database", |conn| run(conn, "USE information_schema"), "SELECT database()", "shop"),
    (
        "a database by the driver",
        |conn| conn.select_db("information_schema").unwrap(),
        "SELECT database()",
        "shop",
    ),
    ("one of two statements", |conn| run(conn, "SELECT 1; SET @a = 1"), "SELECT @a", "NULL"),
    (
        "by the driver's own connection",
        |conn| (**conn).query_drop("SET @a = 1").unwrap(),
        "SELECT @a",
        "NULL",
    ),
    ("prepared", |conn| conn.exec_drop("SET @a = ?", (1,)).unwrap(), "SELECT @a", "NULL"),
];

const EXECUTE: &str = "EXECUTE mine";

fn run(conn: &mut Connection, sql: &str) {
    conn.query_drop(sql).expect(sql);
}

fn see(conn: &mut Connection, question: &str) -> String {
    if question != EXECUTE {
        return ask(conn, question);
    }
    match conn.query_drop(question) {
        Ok(()) => "there".to_owned(),
        Err(_) => "gone".to_owned(),
    }
}

#[test]
fn p13_what_a_holder_leaves_does_not_reach_the_next() {
    let pool = builder().max_size(1).build(manager()).unwrap();
    for (what, leave, question, gone) in ROWS {
        let mut conn = pool.get().unwrap();
        let id = conn.connection_id();
        assert_eq!(see(&mut conn, "SELECT @@sql_mode = ''"), "0", "the server has a mode");
        leave(&mut conn);
        drop(conn);
        let mut conn = pool.get().unwrap();
        assert_eq!(conn.connection_id(), id, "{what}: it is the same connection");
        assert_eq!(see(&mut conn, question), gone, "{what}");
    }
    assert_eq!(pool.stats().opened, 1);
}

/// The rows above can fail.
#[test]
fn without_a_reset_it_does() {
    let pool = builder().max_size(1).build(manager().reset_on_return(Reset::Off)).unwrap();
    pool.get().unwrap().query_drop("SET @a = 1").unwrap();
    assert_eq!(ask(&mut *pool.get().unwrap(), "SELECT @a"), "1");
}

/// Ways to leave a transaction with a row in it.
const TRANSACTIONS: [fn(&mut Connection); 4] = [
    |conn| {
        run(conn, "START TRANSACTION");
        run(conn, "INSERT INTO left_open VALUES (1)");
    },
    |conn| {
        let mut transaction = conn.start_transaction(TxOpts::default()).unwrap();
        transaction.query_drop("INSERT INTO left_open VALUES (1)").unwrap();
        mem::forget(transaction);
    },
    |conn| {
        run(conn, "SET autocommit = 0");
        run(conn, "INSERT INTO left_open VALUES (1)");
    },
    |conn| run(&mut *conn, "BEGIN; INSERT INTO left_open VALUES (1)"),
];

#[test]
fn p13_a_transaction_that_was_left_open_is_rolled_back_on_each_level_but_off_and_reported() {
    start_log();
    shared().sql("CREATE TABLE shop.left_open (n int)");
    for reset in [Reset::Rollback, Reset::Session, Reset::Always] {
        let name = format!("left open {reset:?}");
        let manager = manager().reset_on_return(reset);
        let pool = builder().name(&name).max_size(1).build(manager).unwrap();
        for leave in TRANSACTIONS {
            leave(&mut pool.get().unwrap());
            let mut conn = pool.get().unwrap();
            assert_eq!(ask(&mut *conn, "SELECT @@in_transaction"), "0", "{reset:?}");
            assert_eq!(shared().sql("SELECT count(*) FROM shop.left_open"), "0", "{reset:?}");
        }
        let reported = logged(&format!("pool '{name}'"));
        assert!(
            reported.iter().any(|(_, line)| line.contains("an open transaction")),
            "{reported:?}"
        );
    }
}

#[test]
fn p13_a_session_without_autocommit_is_rolled_back_after_the_usual_statements_too() {
    shared().sql("CREATE TABLE shop.no_autocommit (n int)");
    let manager = manager().session_setting("autocommit", "0");
    let pool = builder().max_size(1).build(manager).unwrap();
    run(&mut pool.get().unwrap(), "INSERT INTO no_autocommit VALUES (1)");
    let mut conn = pool.get().unwrap();
    assert_eq!(ask(&mut *conn, "SELECT concat(@@in_transaction, @@autocommit + 0)"), "00");
    assert_eq!(shared().sql("SELECT count(*) FROM shop.no_autocommit"), "0");
}

#[test]
fn p13_without_autocommit_a_statement_that_was_kept_is_rolled_back_too() {
    shared().sql("CREATE TABLE shop.kept_statement (n int)");
    let ways: [fn(&mut Connection, &Statement); 3] = [
        |conn, statement| conn.exec_drop(statement, (1,)).unwrap(),
        |conn, statement| conn.exec_batch(statement, [(1,), (2,)]).unwrap(),
        |conn, statement| {
            let mut transaction = conn.start_transaction(TxOpts::default()).unwrap();
            transaction.exec_drop(statement, (1,)).unwrap();
            mem::forget(transaction);
        },
    ];
    let manager = manager().session_setting("autocommit", "0").reset_on_return(Reset::Rollback);
    let pool = builder().max_size(1).build(manager).unwrap();
    let statement = pool.get().unwrap().prep("INSERT INTO kept_statement VALUES (?)").unwrap();
    for insert in ways {
        insert(&mut pool.get().unwrap(), &statement);
        assert_eq!(ask(&mut *pool.get().unwrap(), "SELECT @@in_transaction"), "0");
        assert_eq!(shared().sql("SELECT count(*) FROM shop.kept_statement"), "0");
    }
    assert_eq!(pool.stats().opened, 1);
}

#[test]
fn locks_of_tables_are_released() {
    shared().sql("CREATE TABLE shop.locked (n int)");
    let pool = builder().max_size(1).build(manager()).unwrap();
    run(&mut pool.get().unwrap(), "LOCK TABLES locked WRITE");
    drop(pool.get().unwrap());
    shared().sql("SET lock_wait_timeout = 20; INSERT INTO shop.locked VALUES (1)");
}

#[test]
fn a_handler_for_local_files_is_that_of_its_holder() {
    shared().sql("CREATE TABLE shop.loaded (n int)");
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&calls);
    let handler = LocalInfileHandler::new(move |_, _| {
        counting.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let pool = builder().max_size(1).build(manager()).unwrap();
    let load = "LOAD DATA LOCAL INFILE 'x' INTO TABLE loaded";
    let mut conn = pool.get().unwrap();
    conn.set_local_infile_handler(Some(handler));
    run(&mut conn, load);
    drop(conn);
    run(&mut pool.get().unwrap(), load);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(pool.stats().opened, 1);
}

/// Counts the resets of a manager.
struct Counting {
    manager: MysqlConnectionManager,
    resets: Arc<AtomicUsize>,
}

impl ManageConnection for Counting {
    type Connection = Connection;
    type Error = fairpool_mysql::mysql::Error;

    fn connect(&self) -> Result<Connection, Self::Error> {
        self.manager.connect()
    }

    fn is_valid(&self, conn: &mut Connection) -> Result<(), Self::Error> {
        self.manager.is_valid(conn)
    }

    fn has_broken(&self, conn: &mut Connection) -> bool {
        self.manager.has_broken(conn)
    }

    fn needs_reset(&self, conn: &mut Connection) -> bool {
        self.manager.needs_reset(conn)
    }

    fn reset(&self, conn: &mut Connection) -> Result<(), Self::Error> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.manager.reset(conn)
    }
}

#[test]
fn a_use_that_left_nothing_is_not_reset() {
    shared().sql("CREATE TABLE shop.clean_use (n int)");
    let resets = Arc::new(AtomicUsize::new(0));
    let manager = Counting { manager: manager(), resets: Arc::clone(&resets) };
    let pool = Pool::builder().max_size(1).build(manager).unwrap();
    for n in 0..20 {
        let mut conn = pool.get().unwrap();
        conn.exec_drop("INSERT INTO clean_use (n) VALUES (?)", (n,)).unwrap();
        let _: Vec<u32> = conn.query("SELECT max(n) FROM shop.clean_use").unwrap();
        let mut transaction = conn.start_transaction(TxOpts::default()).unwrap();
        transaction.exec_drop("UPDATE clean_use SET n = n + ? WHERE n = 7", (n,)).unwrap();
        match n % 3 {
            0 => transaction.commit().unwrap(),
            1 => transaction.rollback().unwrap(),
            _ => drop(transaction),
        }
        conn.query_drop("SELECT no_such_column").unwrap_err();
    }
    drop(pool.get().unwrap());
    assert_eq!(resets.load(Ordering::SeqCst), 0);
    // The count can be above zero.
    run(&mut pool.get().unwrap(), "SET @a = 1");
    drop(pool.get().unwrap());
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}

#[test]
fn a_database_chosen_where_the_options_have_none_costs_the_connection() {
    let options = options(shared()).db_name(None::<String>);
    let pool = builder().max_size(1).build(MysqlConnectionManager::new(options)).unwrap();
    run(&mut pool.get().unwrap(), "SET @a = 1");
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().opened, 1);
    run(&mut pool.get().unwrap(), "USE shop");
    assert_eq!(ask(&mut *pool.get().unwrap(), "SELECT database()"), "NULL");
    assert_eq!(pool.stats().opened, 2);
}
