//! Errors that come with the rows of a result, after its statement was accepted.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use fairpool::{ManageConnection, Pool};
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{self, Row, TxOpts};
use fairpool_mysql::{Connection, Reset};

use crate::common::{Manager, ask, builder, code, manager, shared, wait_until};

/// Two rows that the server sends at once, because they are large, and one that does not come.
const ENDLESS: &str = "SELECT repeat('x', 20000), sleep(n) \
     FROM (SELECT 0 AS n UNION ALL SELECT 0 UNION ALL SELECT 3600) AS waits";

/// The same, after another result.
const SECOND: &str = "SELECT 1; SELECT repeat('x', 20000), sleep(n) \
     FROM (SELECT 0 AS n UNION ALL SELECT 0 UNION ALL SELECT 3600) AS waits";

/// Rows in which the server has an error of its own.
const WRONG: &str = "SELECT 1 UNION ALL SELECT (SELECT 1 UNION SELECT 2)";

/// More rows than are read.
const MANY: &str = "SELECT column_name FROM information_schema.columns LIMIT 500";

/// How rows are read, to their end or to an error that may be reported or not.
type Way = (&'static str, fn(&mut Connection));

const WAYS: [Way; 18] = [
    ("query", |conn| drop(conn.query::<Row, _>(ENDLESS).unwrap_err())),
    ("query_opt", |conn| drop(conn.query_opt::<(String, u8), _>(ENDLESS).unwrap_err())),
    ("query_map", |conn| drop(conn.query_map(ENDLESS, |_: Row| ()).unwrap_err())),
    ("query_first", |conn| drop(conn.query_first::<Row, _>(ENDLESS).unwrap())),
    ("query_first_opt", |conn| drop(conn.query_first_opt::<(String, u8), _>(ENDLESS).unwrap())),
    ("query_drop", |conn| conn.query_drop(ENDLESS).unwrap()),
    ("query_drop, second result", |conn| conn.query_drop(SECOND).unwrap()),
    ("query_iter", |conn| drop(conn.query_iter(ENDLESS).unwrap())),
    ("query_iter, second result", |conn| drop(conn.query_iter(SECOND).unwrap())),
    ("exec", |conn| drop(conn.exec::<Row, _, _>(ENDLESS, ()).unwrap_err())),
    ("exec_opt", |conn| drop(conn.exec_opt::<(String, u8), _, _>(ENDLESS, ()).unwrap_err())),
    ("exec_first", |conn| drop(conn.exec_first::<Row, _, _>(ENDLESS, ()).unwrap())),
    ("exec_first_opt", |conn| {
        drop(conn.exec_first_opt::<(String, u8), _, _>(ENDLESS, ()).unwrap());
    }),
    ("exec_drop", |conn| conn.exec_drop(ENDLESS, ()).unwrap()),
    ("exec_iter", |conn| drop(conn.exec_iter(ENDLESS, ()).unwrap())),
    ("exec_batch", |conn| conn.exec_batch(ENDLESS, [()]).unwrap()),
    ("a transaction", |conn| {
        let mut transaction = conn.start_transaction(TxOpts::default()).unwrap();
        transaction.query::<Row, _>(ENDLESS).unwrap_err();
        mem::forget(transaction);
    }),
    ("the driver's own", |conn| (**conn).query_drop(ENDLESS).unwrap()),
];

fn pool(reset: Reset) -> Pool<Manager> {
    builder().max_size(1).build(manager().reset_on_return(reset)).unwrap()
}

/// Kills the session when it waits for the row that does not come.
fn kill_among_rows(id: u32) {
    let state = format!(
        "SELECT count(*) FROM information_schema.processlist \
         WHERE id = {id} AND state = 'User sleep' AND time_ms > 0"
    );
    wait_until("it waits for a row", || shared().sql(&state) == "1");
    shared().sql(&format!("KILL {id}"));
}

/// Reads, and sees what the next caller gets, before the pool would make a check.
fn assert_is_retired(pool: &Pool<Manager>, what: &str, read: impl FnOnce(&mut Connection)) {
    let mut conn = pool.get().unwrap();
    let id = conn.connection_id();
    read(&mut conn);
    drop(conn);
    let mut conn = pool.get().unwrap();
    assert_eq!(ask(&mut *conn, "SELECT 'right'"), "right", "{what}");
    assert_ne!(conn.connection_id(), id, "{what}");
}

/// With resets and without, as a reset would notice it.
#[test]
fn p10_an_error_among_rows_that_ends_the_session_retires_the_connection() {
    for pool in [pool(Reset::Off), pool(Reset::Session)] {
        for (what, read) in WAYS {
            assert_is_retired(&pool, what, |conn| {
                let id = conn.connection_id();
                thread::scope(|scope| {
                    scope.spawn(|| kill_among_rows(id));
                    read(conn);
                });
            });
        }
        assert_eq!(pool.stats().opened, 1 + WAYS.len() as u64);
    }
}

#[test]
fn p10_rows_that_nobody_read_are_not_taken_for_the_next_callers() {
    let ways: [Way; 3] = [
        ("query_iter", |conn| mem::forget(conn.query_iter(MANY).unwrap())),
        ("exec_iter", |conn| mem::forget(conn.exec_iter(MANY, ()).unwrap())),
        ("the driver's own", |conn| mem::forget((**conn).query_iter(MANY).unwrap())),
    ];
    for pool in [pool(Reset::Off), pool(Reset::Session)] {
        for (what, forget) in ways {
            assert_is_retired(&pool, what, forget);
        }
    }
}

#[test]
fn an_error_of_one_row_and_rows_read_by_the_user_cost_no_connection() {
    let pool = pool(Reset::Off);
    let ways: [fn(&mut Connection); 5] = [
        |conn| assert_eq!(code(&conn.query::<u8, _>(WRONG).unwrap_err()), Some(1242)),
        |conn| assert_eq!(code(&conn.exec::<u8, _, _>(WRONG, ()).unwrap_err()), Some(1242)),
        |conn| {
            let rows: mysql::Result<Vec<Row>> = conn.query_iter(WRONG).and_then(Iterator::collect);
            assert_eq!(code(&rows.unwrap_err()), Some(1242));
        },
        |conn| assert_eq!(conn.query_iter(MANY).unwrap().take(3).filter(Result::is_ok).count(), 3),
        |conn| assert_eq!(conn.exec_iter(MANY, ()).unwrap().filter(Result::is_ok).count(), 500),
    ];
    for read in ways {
        read(&mut pool.get().unwrap());
        assert_eq!(ask(&mut *pool.get().unwrap(), "SELECT 'right'"), "right");
    }
    assert_eq!(pool.stats().opened, 1);
}

/// Only rows whose errors go unseen are followed by a question, once; also if a panic ends their
/// reading.
#[test]
fn rows_that_the_pool_sees_cost_no_question() {
    shared().sql("CREATE TABLE shop.lent_rows (n int)");
    const INSERT: &str = "INSERT INTO lent_rows VALUES (1)";
    let manager = manager();
    let mut conn = manager.connect().unwrap();
    let mut questions = |read: fn(&mut Connection)| {
        read(&mut conn);
        let before = statements(&mut conn);
        assert!(!manager.has_broken(&mut conn));
        let after = statements(&mut conn);
        assert!(!manager.has_broken(&mut conn));
        // Each count counts itself.
        [after - before - 1, statements(&mut conn) - after - 1]
    };
    assert_eq!(questions(|conn| drop(conn.query::<u8, _>("SELECT 1").unwrap())), [0, 0]);
    assert_eq!(questions(|conn| drop(conn.exec_iter(INSERT, ()).unwrap())), [0, 0]);
    assert_eq!(questions(|conn| drop(conn.query_iter("SELECT 1").unwrap())), [1, 0]);
    let panic = |conn: &mut Connection| {
        let read = || conn.query_map("SELECT 1", |_: u8| panic!("on purpose"));
        let result: Result<mysql::Result<Vec<()>>, _> = catch_unwind(AssertUnwindSafe(read));
        assert!(result.is_err());
    };
    assert_eq!(questions(panic), [1, 0]);
}

/// How many statements the session has sent.
fn statements(conn: &mut Connection) -> u64 {
    let row: Option<(String, u64)> = conn.query_first("SHOW STATUS LIKE 'Questions'").unwrap();
    row.unwrap().1
}
