//! The driver's own limits stay below the pool's, and a locked file is called locked.

use std::error::Error as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, ManageConnection, Pool};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::{self, ErrorCode};

use crate::folder;

const LONG: Duration = Duration::from_secs(60);

fn journal_mode(conn: &rusqlite::Connection) -> String {
    conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap()
}

/// A file in rollback mode, and a connection to it.
fn rollback_file(path: &Path) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)").unwrap();
    conn
}

/// A connection with a transaction that reads a file in rollback mode.
fn reader_of(path: &Path) -> rusqlite::Connection {
    let reader = rollback_file(path);
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT n FROM t", [], |_| Ok(())).unwrap();
    reader
}

#[test]
fn a_pool_is_built_while_another_connection_reads_a_file_in_rollback_mode_and_gets_wal_later() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let reader = reader_of(&path);

    // With the default limits, of which each is 5 s.
    let pool = Pool::builder().max_size(2).build(Manager::file(&path)).expect("a pool");
    let conn = pool.get().unwrap();
    assert_eq!(journal_mode(&conn), "delete", "the present mode");
    assert_eq!(pool.stats().open_failures, 0, "{:?}", pool.stats());

    // A later connect does not wait for the reader again.
    let other = pool.get().unwrap();
    drop((conn, other));
    reader.execute_batch("COMMIT").unwrap();
    pool.refresh();
    let started = Instant::now();
    while journal_mode(&pool.get().unwrap()) != "wal" {
        assert!(started.elapsed() < LONG, "a new connection switches");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_check_makes_up_for_a_switch_to_wal_that_was_too_busy() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let reader = reader_of(&path);
    let manager = Manager::file(&path).busy_timeout(Duration::from_millis(100));
    let mut conn = manager.connect().unwrap();
    manager.is_valid(&mut conn).unwrap();
    assert_eq!(journal_mode(&conn), "delete");
    reader.execute_batch("COMMIT").unwrap();
    manager.is_valid(&mut conn).unwrap();
    assert_eq!(journal_mode(&conn), "wal");
    let timeout: i64 = conn.query_row("PRAGMA busy_timeout", [], |row| row.get(0)).unwrap();
    assert_eq!(timeout, 100, "as before");
    assert!(!manager.needs_reset(&mut conn), "the check itself leaves nothing");
}

#[test]
fn the_error_of_a_build_on_a_locked_file_says_locked() {
    let folder = folder();
    let path = folder.path().join("locked.db");
    let locker = rollback_file(&path);
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Both limits are 5 s by default.
    let patience = Duration::from_secs(6);
    let error = Pool::builder()
        .max_size(1)
        .connection_timeout(patience)
        .build(Manager::file(&path))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let source = error.source().expect("a cause").downcast_ref::<rusqlite::Error>();
    let code = source.expect("the driver's error").sqlite_error_code();
    assert_eq!(code, Some(ErrorCode::DatabaseBusy));
    assert!(format!("{error:#}").contains("locked"), "{error}");
    locker.execute_batch("COMMIT").unwrap();
    Pool::builder().max_size(1).build(Manager::file(&path)).expect("a pool");
}

#[test]
fn a_preparation_that_waits_for_a_lock_fails_before_the_pool_gives_up() {
    let folder = folder();
    let path = folder.path().join("prepared.db");
    let pool = Pool::builder().max_size(1).build(Manager::file(&path)).unwrap();
    pool.get().unwrap().execute_batch("CREATE TABLE t (n); BEGIN IMMEDIATE").unwrap();
    let locker = rusqlite::Connection::open(&path).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let manager =
        Manager::file(&path).with_init(|conn| conn.execute_batch("INSERT INTO t VALUES (1)"));
    let patience = Duration::from_secs(4);
    let error =
        Pool::builder().max_size(1).connection_timeout(patience).build(manager).unwrap_err();
    assert!(format!("{error:#}").contains("locked"), "{error}");
}

#[test]
fn a_short_limit_of_the_pool_shortens_the_wait_for_a_lock() {
    let folder = folder();
    let path = folder.path().join("short.db");
    let locker = rollback_file(&path);
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = Pool::builder()
        .max_size(1)
        .open_timeout(Duration::from_millis(500))
        .connection_timeout(Duration::from_secs(3))
        .build(Manager::file(&path))
        .unwrap_err();
    assert!(format!("{error:#}").contains("locked"), "{error}");
}

#[test]
fn the_preparation_and_the_user_see_the_busy_timeouts_that_were_set() {
    let timeout = |conn: &rusqlite::Connection| -> i64 {
        conn.query_row("PRAGMA busy_timeout", [], |row| row.get(0)).unwrap()
    };
    let plain = Manager::memory().connect().unwrap();
    assert_eq!(timeout(&plain), 5000);
    for chosen in [2000, 1500, 0] {
        let own = Manager::memory().with_init(move |conn| {
            assert!(conn.query_row("PRAGMA busy_timeout", [], |row| row.get::<_, i64>(0))? < 2500);
            conn.busy_timeout(Duration::from_millis(chosen))
        });
        assert_eq!(timeout(&own.connect().unwrap()), chosen as i64);
    }
}
