//! Statements that stay prepared from one holder to the next.

use fairpool::{Pool, PooledConnection};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::{self, Connection, StatementStatus};

use crate::folder;

fn pool(manager: Manager) -> Pool<Manager> {
    let pool = Pool::builder().max_size(1).build(manager).expect("a pool");
    pool.get()
        .unwrap()
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (7)")
        .unwrap();
    pool
}

/// Runs the `number`th statement. Returns how often it has run since it was prepared.
fn run(conn: &Connection, number: usize) -> i32 {
    let mut statement = conn.prepare_cached(&format!("SELECT n + {number} FROM t")).unwrap();
    let sum: i64 = statement.query_row([], |row| row.get(0)).unwrap();
    assert_eq!(sum, 7 + number as i64);
    statement.get_status(StatementStatus::Run)
}

/// Runs so many statements in turn, each by a holder of its own, and again. Returns how many were
/// still prepared.
fn kept(manager: Manager, statements: usize) -> usize {
    let pool = pool(manager);
    for number in 0..statements {
        assert_eq!(run(&pool.get().unwrap(), number), 1);
    }
    (0..statements).filter(|number| run(&pool.get().unwrap(), *number) == 2).count()
}

#[test]
fn a_statement_is_prepared_once_for_all_holders_of_its_connection() {
    let folder = folder();
    let pool = pool(Manager::file(folder.path().join("t.db")));
    for times in 1..=20 {
        assert_eq!(run(&pool.get().unwrap(), 1), times);
    }
}

#[test]
fn as_many_statements_are_kept_as_the_setting_says() {
    assert_eq!(kept(Manager::memory(), 16), 16, "by default");
    assert_eq!(kept(Manager::memory(), 17), 0, "in turn, the next one has always just gone");
    assert_eq!(kept(Manager::memory().statement_cache(17), 17), 17);
    assert_eq!(kept(Manager::memory().statement_cache(100), 100), 100);
    assert_eq!(kept(Manager::memory().statement_cache(0), 3), 0);
}

#[test]
fn the_setting_outlives_what_a_holder_sets_for_itself() {
    let pool = pool(Manager::memory().statement_cache(3));
    pool.get().unwrap().set_prepared_statement_cache_capacity(0);
    run(&pool.get().unwrap(), 1);
    assert_eq!(run(&pool.get().unwrap(), 1), 2);
}

#[test]
fn a_change_of_the_schema_by_anybody_does_no_harm() {
    let folder = folder();
    let path = folder.path().join("t.db");
    let pool = pool(Manager::file(&path));
    let columns = |conn: &PooledConnection<Manager>| {
        let mut statement = conn.prepare_cached("SELECT * FROM t").unwrap();
        let mut rows = statement.query([]).unwrap();
        let row = rows.next().unwrap().unwrap();
        row.as_ref().column_count()
    };
    assert_eq!(columns(&pool.get().unwrap()), 1);
    // Of another connection, of the same one, and of one that takes the table away for a while.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("ALTER TABLE t ADD COLUMN m INTEGER").unwrap();
    assert_eq!(columns(&pool.get().unwrap()), 2);
    pool.get().unwrap().execute_batch("ALTER TABLE t ADD COLUMN o INTEGER").unwrap();
    assert_eq!(columns(&pool.get().unwrap()), 3);
    other.execute_batch("ALTER TABLE t RENAME TO away").unwrap();
    assert!(
        pool.get()
            .unwrap()
            .prepare_cached("SELECT * FROM t")
            .unwrap()
            .query([])
            .unwrap()
            .next()
            .is_err()
    );
    other.execute_batch("ALTER TABLE away RENAME TO t; ALTER TABLE t DROP COLUMN o").unwrap();
    assert_eq!(columns(&pool.get().unwrap()), 2);
    assert_eq!(pool.stats().opened, 1);
}

#[test]
fn what_a_reset_undoes_is_not_kept_from_the_next_holder_by_a_cached_statement() {
    let folder = folder();
    let manager = Manager::file(folder.path().join("t.db"));
    // The system's SQLite may have another default.
    let pool = pool(manager.with_init(|conn| conn.execute_batch("PRAGMA foreign_keys = ON")));
    for _ in 0..3 {
        let conn = pool.get().unwrap();
        let mut pragma = conn.prepare_cached("PRAGMA foreign_keys = OFF").unwrap();
        let _ = pragma.query([]).unwrap().next();
        drop(pragma);
        drop(conn);
        let on = pool.get().unwrap().query_row("PRAGMA foreign_keys", [], |row| row.get(0));
        assert_eq!(on, Ok(1));
    }
}
