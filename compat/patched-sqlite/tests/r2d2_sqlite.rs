//! r2d2_sqlite, as its README uses it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::params;

fn pool(file: &Path, max_size: u32) -> r2d2::Pool<SqliteConnectionManager> {
    let manager = SqliteConnectionManager::file(file).with_init(|conn| {
        conn.execute_batch("PRAGMA journal_mode = wal; PRAGMA foreign_keys = on")
    });
    r2d2::Pool::builder().max_size(max_size).build(manager).expect("a pool")
}

#[test]
fn p18_r2d2_sqlite_runs_on_fairpool() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = pool(&folder.path().join("some.db"), 8);
    pool.get()
        .expect("a connection")
        .execute("CREATE TABLE numbers (number INTEGER NOT NULL)", params![])
        .expect("a table");
    let workers: Vec<_> = (0..32)
        .map(|number| {
            let pool = pool.clone();
            thread::spawn(move || {
                let conn = pool.get().expect("a connection");
                let foreign_keys: i64 =
                    conn.query_row("PRAGMA foreign_keys", [], |row| row.get(0)).expect("a value");
                assert_eq!(foreign_keys, 1, "what the manager has set up");
                conn.execute("INSERT INTO numbers VALUES (?1)", [number]).expect("a row");
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    let conn = pool.get().expect("a connection");
    let count: i64 =
        conn.query_row("SELECT count(*) FROM numbers", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, 32);
    assert!(pool.fairpool().stats().gets >= 34, "it is fairpool that served them");
}

#[test]
fn p18_when_the_last_pool_is_dropped_the_files_are_in_order() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("some.db");
        let pool = pool(&file, 4);
        let conn = pool.get().expect("a connection");
        conn.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").expect("a row");
        drop(pool);
        drop(conn);
        let names = || std::fs::read_dir(folder.path()).expect("the folder").count();
        assert_eq!(names(), 1, "neither -wal nor -shm is left");
    }
}

#[test]
fn p18_an_exhausted_pool_says_what_r2d2_says_and_fairpool_says_who_has_it() {
    let pool = r2d2::Pool::builder().max_size(1).build(SqliteConnectionManager::memory()).unwrap();
    let (held, line) = (pool.get().unwrap(), line!());
    let error = pool.get_timeout(Duration::from_millis(10)).unwrap_err();
    assert_eq!(error.to_string(), "timed out waiting for connection");
    let holders = pool.fairpool().snapshot().holders;
    assert_eq!(holders[0].location().line(), line);
    drop(held);
}
