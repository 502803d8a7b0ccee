//! The driver's own limits stay below the pool's, and a locked file is called locked.

use std::error::Error as _;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
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

// ---- waits ----

/// Runs `work`, which must not wait for a lock. Waits that it could make take [`LONG`], or a
/// good part of it.
fn without_waiting<R>(work: impl FnOnce() -> R) -> R {
    let started = Instant::now();
    let result = work();
    assert!(started.elapsed() < LONG / 4, "{:?}", started.elapsed());
    result
}

#[test]
fn connects_that_race_beside_a_reader_all_succeed() {
    let folder = folder();
    for (round, connects) in [2, 2, 4, 8].into_iter().enumerate() {
        let path = folder.path().join(format!("{round}.db"));
        let reader = reader_of(&path);
        let manager = Manager::file(&path);
        let start = Barrier::new(connects);
        thread::scope(|scope| {
            for _ in 0..connects {
                scope.spawn(|| {
                    start.wait();
                    let conn = manager.connect().expect("a connection");
                    assert_eq!(journal_mode(&conn), "delete", "the present mode");
                });
            }
        });
        drop(reader);
    }
}

#[test]
fn a_pool_of_ten_is_built_beside_a_reader_without_a_failure() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let reader = reader_of(&path);
    let pool = Pool::builder().max_size(10).build(Manager::file(&path)).expect("a pool");
    let all: Vec<_> = (0..10).map(|_| pool.get().unwrap()).collect();
    assert_eq!(pool.stats().open_failures, 0, "{:?}", pool.stats());
    drop((all, reader));
}

#[test]
fn other_programs_can_begin_to_read_while_a_connect_waits_for_wal() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let reader = reader_of(&path);
    let manager = Manager::file(&path);
    let reads = thread::scope(|scope| {
        let connect = scope.spawn(|| manager.connect().map(drop));
        let other = rusqlite::Connection::open(&path).unwrap();
        let mut reads = 0;
        while !connect.is_finished() {
            // Waits for 5 s at most.
            other.query_row("SELECT n FROM t", [], |_| Ok(())).expect("a read");
            reads += 1;
            thread::sleep(Duration::from_millis(1));
        }
        connect.join().unwrap().unwrap();
        reads
    });
    // A connect that waits in one piece lets none begin meanwhile.
    assert!(reads > 5, "{reads}");
    drop(reader);
}

#[test]
fn later_connects_do_not_wait_for_a_reader_again() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let reader = reader_of(&path);
    let manager = Manager::file(&path);
    let started = Instant::now();
    manager.connect().unwrap();
    let first = started.elapsed();
    let started = Instant::now();
    for _ in 0..20 {
        manager.connect().unwrap();
    }
    assert!(started.elapsed() < 10 * first, "{:?}, the first {first:?}", started.elapsed());
    drop(reader);
}

#[test]
fn a_check_waits_for_no_lock() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let reader = reader_of(&path);
    let manager = Manager::file(&path).busy_timeout(LONG);
    let mut conn = manager.connect().unwrap();
    reader.execute_batch("COMMIT").unwrap();
    // After this SQLite reads the schema again.
    conn.execute_batch("BEGIN; CREATE TABLE u (n); ROLLBACK").unwrap();
    reader.execute_batch("BEGIN EXCLUSIVE").unwrap();
    without_waiting(|| manager.is_valid(&mut conn)).unwrap();
}

#[test]
fn a_connect_waits_for_no_lock_if_the_file_is_to_stay_without_wal_and_its_close_neither() {
    let folder = folder();
    let path = folder.path().join("locked.db");
    let locker = rollback_file(&path);
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // The pool would let it wait.
    let builder = Pool::builder().max_size(1).open_timeout(2 * LONG).connection_timeout(2 * LONG);
    let manager = Manager::file(&path).wal(false).busy_timeout(LONG);
    let pool = without_waiting(|| builder.build(manager)).unwrap();
    let conn = pool.manager().connect().unwrap();
    without_waiting(|| conn.close()).unwrap();
}

#[test]
fn a_reset_waits_for_a_lock_shorter_than_the_pool_for_the_reset() {
    let folder = folder();
    let path = folder.path().join("locked.db");
    let locker = rollback_file(&path);
    let manager = Manager::file(&path).wal(false).busy_timeout(LONG);
    for left in ["CREATE TEMP TABLE x (n)", "PRAGMA foreign_keys = OFF", "ATTACH '' AS a"] {
        let mut conn = manager.connect().unwrap();
        conn.execute_batch(left).unwrap();
        // After this SQLite reads the schema again.
        conn.execute_batch("BEGIN; CREATE TABLE u (n); ROLLBACK").unwrap();
        locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(manager.needs_reset(&mut conn), "{left}");
        let _ = without_waiting(|| manager.reset(&mut conn));
        locker.execute_batch("COMMIT").unwrap();
    }
}

#[test]
fn a_busy_handler_of_the_preparation_stays() {
    let folder = folder();
    let path = folder.path().join("handled.db");
    let locker = rollback_file(&path);
    let manager = Manager::file(&path).wal(false).with_init(|conn| {
        conn.busy_handler(Some(|count| {
            HANDLED.fetch_add(1, Ordering::SeqCst);
            count < 3
        }))
    });
    let mut conn = manager.connect().unwrap();
    manager.is_valid(&mut conn).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    assert!(manager.needs_reset(&mut conn));
    manager.reset(&mut conn).unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let before = HANDLED.load(Ordering::SeqCst);
    conn.execute_batch("SELECT n FROM t").unwrap_err();
    assert_eq!(HANDLED.load(Ordering::SeqCst) - before, 4);
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
