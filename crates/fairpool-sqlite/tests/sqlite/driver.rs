//! `SqliteConnectionManager` without a pool.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::{
    Connection, Error, ErrorCode, OpenFlags, Transaction, TransactionBehavior, ffi,
};

use crate::folder;

const WRITERS: usize = 8;
const WRITES: i64 = 100;

fn pragma(conn: &Connection, name: &str) -> String {
    let sql = format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}");
    conn.query_row(&sql, [], |row| row.get(0)).expect(name)
}

fn journal_mode(conn: &Connection) -> String {
    pragma(conn, "journal_mode")
}

fn count(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("the table t")
}

fn create_table(manager: &Manager) {
    let conn = manager.connect().expect("a connection");
    conn.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
}

/// Writes from several connections at once; each transaction also reads.
fn write_from_many_threads(manager: &Manager) -> Result<(), Error> {
    let start = Barrier::new(WRITERS);
    thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITERS).map(|_| scope.spawn(|| write_often(manager, &start))).collect();
        writers.into_iter().try_for_each(|it| it.join().unwrap())
    })
}

fn write_often(manager: &Manager, start: &Barrier) -> Result<(), Error> {
    let mut conn = manager.connect().expect("a connection");
    start.wait();
    for n in 0..WRITES {
        let behavior = TransactionBehavior::Immediate;
        let transaction = Transaction::new(&mut conn, behavior)?;
        count(&transaction);
        transaction.execute("INSERT INTO t VALUES (?1)", [n])?;
        transaction.commit()?;
        conn.execute("UPDATE t SET n = n + 1 WHERE rowid = 1", [])?;
    }
    Ok(())
}

// ---- memory ----

#[test]
fn connections_of_one_manager_share_the_memory() {
    for manager in [Manager::memory(), Manager::file(":memory:")] {
        create_table(&manager);
        let one = manager.connect().unwrap();
        one.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let other = manager.connect().unwrap();
        assert_eq!(count(&other), 1);
    }
}

#[test]
fn memory_outlives_the_last_connection() {
    let manager = Manager::memory();
    create_table(&manager);
    // No lent connection is left now.
    assert_eq!(count(&manager.connect().unwrap()), 0);
}

#[test]
fn two_managers_have_two_memories() {
    let (one, other) = (Manager::memory(), Manager::memory());
    create_table(&one);
    create_table(&other);
}

#[test]
fn memory_is_no_file() {
    let manager = Manager::memory();
    create_table(&manager);
    let text = format!("{manager:?}");
    let name = text.split('"').nth(1).expect("a name in quotes");
    assert!(name.starts_with("/fairpool-"), "{name}");
    assert!(!Path::new(name).exists(), "{name}");
}

#[test]
fn writers_on_one_memory_wait_for_each_other() {
    let manager = Manager::memory().busy_timeout(Duration::from_secs(60));
    create_table(&manager);
    write_from_many_threads(&manager).unwrap();
    assert_eq!(count(&manager.connect().unwrap()), WRITERS as i64 * WRITES);
}

#[test]
fn a_writer_on_memory_keeps_readers_waiting() {
    let manager = Manager::memory().busy_timeout(Duration::from_millis(50));
    create_table(&manager);
    let writer = manager.connect().unwrap();
    let reader = manager.connect().unwrap();
    writer.execute_batch("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    let started = Instant::now();
    let error = reader.execute_batch("SELECT * FROM t").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    assert!(started.elapsed() >= Duration::from_millis(45));
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&reader), 1);
}

#[test]
fn eight_openers_get_one_memory() {
    let manager = Manager::memory();
    let start = Barrier::new(WRITERS);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                start.wait();
                let conn = manager.connect().unwrap();
                conn.execute_batch("CREATE TABLE IF NOT EXISTS t (n); INSERT INTO t VALUES (1)")
                    .unwrap();
            });
        }
    });
    assert_eq!(count(&manager.connect().unwrap()), WRITERS as i64);
}

// ---- files ----

#[test]
fn a_new_file_is_switched_to_wal_and_stays_durable() {
    let folder = folder();
    let path = folder.path().join("new.db");
    let conn = Manager::file(&path).connect().unwrap();
    assert_eq!(journal_mode(&conn), "wal");
    assert_eq!(pragma(&conn, "synchronous"), "2", "FULL");
}

#[test]
fn without_wal_the_file_keeps_its_mode() {
    let folder = folder();
    let path = folder.path().join("file.db");
    let conn = Manager::file(&path).wal(false).connect().unwrap();
    assert_eq!(journal_mode(&conn), "delete");
    drop(conn);
    drop(Manager::file(&path).connect().unwrap());
    let conn = Manager::file(&path).wal(false).connect().unwrap();
    assert_eq!(journal_mode(&conn), "wal");
}

/// A manager whose connects may take long. Nothing else uses the pool.
fn patient(path: &Path) -> Pool<Manager> {
    let patience = Duration::from_secs(60);
    let builder = Pool::builder().min_idle(Some(0)).open_timeout(patience);
    builder.build_unchecked(Manager::file(path).busy_timeout(patience))
}

#[test]
fn eight_openers_of_a_new_file_all_get_wal() {
    let folder = folder();
    for round in 0..20 {
        let path = folder.path().join(format!("{round}.db"));
        let start = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    // One manager each, as in different processes.
                    let pool = patient(&path);
                    start.wait();
                    let conn = pool.manager().connect().expect("a connection");
                    assert_eq!(journal_mode(&conn), "wal");
                });
            }
        });
    }
}

#[test]
fn openers_get_wal_beside_writers() {
    let folder = folder();
    let patience = Duration::from_secs(60);
    for round in 0..20 {
        let path = folder.path().join(format!("{round}.db"));
        let old = Manager::file(&path).wal(false).busy_timeout(patience);
        create_table(&old);
        let start = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for _ in 0..WRITERS / 2 {
                scope.spawn(|| {
                    let conn = old.connect().expect("a connection");
                    start.wait();
                    // Not endlessly: SQLite would starve the openers.
                    for _ in 0..5 {
                        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
                    }
                });
                scope.spawn(|| {
                    let pool = patient(&path);
                    start.wait();
                    let conn = pool.manager().connect().expect("a connection");
                    assert_eq!(journal_mode(&conn), "wal");
                });
            }
        });
    }
}

#[test]
fn a_switch_to_wal_waits_no_longer_than_the_busy_timeout() {
    let folder = folder();
    let path = folder.path().join("locked.db");
    let locker = Manager::file(&path).wal(false).connect().unwrap();
    locker.execute_batch("CREATE TABLE t (n); BEGIN EXCLUSIVE").unwrap();
    let manager = Manager::file(&path).busy_timeout(Duration::from_millis(100));
    let started = Instant::now();
    let error = manager.connect().unwrap_err();
    let elapsed = started.elapsed();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    assert!(!manager.is_permanent(&error) && !manager.is_fatal(&error));
    assert!(elapsed >= Duration::from_millis(90), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    locker.execute_batch("COMMIT").unwrap();
    assert_eq!(journal_mode(&manager.connect().unwrap()), "wal");
}

#[test]
fn writers_on_one_file_wait_for_each_other() {
    let folder = folder();
    for wal in [true, false] {
        let manager = Manager::file(folder.path().join(format!("{wal}.db")))
            .wal(wal)
            .busy_timeout(Duration::from_secs(60))
            .with_init(|conn| conn.execute_batch("PRAGMA synchronous = OFF"));
        create_table(&manager);
        write_from_many_threads(&manager).unwrap();
        assert_eq!(count(&manager.connect().unwrap()), WRITERS as i64 * WRITES);
    }
}

#[test]
fn a_read_only_connection_leaves_the_file_alone() {
    let folder = folder();
    let path = folder.path().join("old.db");
    create_table(&Manager::file(&path).wal(false));
    let manager = Manager::file(&path)
        .with_flags(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    let conn = manager.connect().unwrap();
    assert_eq!(journal_mode(&conn), "delete");
    let error = conn.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly));
    assert!(!manager.is_fatal(&error));
}

#[test]
fn a_uri_is_taken_as_one() {
    let folder = folder();
    let path = folder.path().join("uri.db");
    create_table(&Manager::file(&path));
    let conn = Manager::file(format!("file:{}?mode=ro", path.display())).connect().unwrap();
    assert!(conn.is_readonly("main").unwrap());
    assert_eq!(count(&conn), 0);
}

// ---- settings ----

#[test]
fn the_busy_timeout_is_set_on_each_connection() {
    let folder = folder();
    let path = folder.path().join("file.db");
    for (manager, millis) in [
        (Manager::file(&path), "5000"),
        (Manager::memory(), "5000"),
        (Manager::memory().busy_timeout(Duration::ZERO), "0"),
        (Manager::file(&path).busy_timeout(Duration::MAX), "2147483647"),
    ] {
        let conn = manager.connect().unwrap();
        let sql = "PRAGMA busy_timeout";
        let found: i64 = conn.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(found.to_string(), millis);
    }
}

#[test]
fn the_own_preparation_runs_last_on_each_connection() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let folder = folder();
    let manager = Manager::file(folder.path().join("file.db")).with_init(|conn| {
        RUNS.fetch_add(1, Ordering::SeqCst);
        assert_eq!(journal_mode(conn), "wal");
        conn.execute_batch("PRAGMA synchronous = NORMAL")
    });
    for _ in 0..2 {
        let conn = manager.connect().unwrap();
        assert_eq!(pragma(&conn, "synchronous"), "1");
    }
    assert_eq!(RUNS.load(Ordering::SeqCst), 2);
}

#[test]
fn an_error_of_the_own_preparation_fails_the_connect() {
    let manager = Manager::memory().with_init(|conn| conn.execute_batch("SELEKT"));
    let error = manager.connect().unwrap_err();
    assert!(error.to_string().contains("SELEKT"), "{error}");
}

#[test]
fn debug_names_the_file() {
    let manager = Manager::file("shop.db").with_init(|_| Ok(()));
    let text = format!("{manager:?}");
    assert!(text.contains("shop.db"), "{text}");
    assert!(text.contains("has_init: true"), "{text}");
}

// ---- checks and resets ----

#[test]
fn validation_passes_even_on_a_locked_database() {
    let manager = Manager::memory().busy_timeout(Duration::from_secs(60));
    create_table(&manager);
    let locker = manager.connect().unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut conn = manager.connect().unwrap();
    let started = Instant::now();
    manager.is_valid(&mut conn).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!manager.has_broken(&mut conn));
}

#[test]
fn validation_notices_that_the_file_is_another_one() {
    let folder = folder();
    let path = folder.path().join("file.db");
    let aside = folder.path().join("aside.db");
    for wal in [true, false] {
        let manager = Manager::file(&path).wal(wal);
        let mut conn = manager.connect().unwrap();
        manager.is_valid(&mut conn).unwrap();

        fs::rename(&path, &aside).unwrap();
        let error = manager.is_valid(&mut conn).unwrap_err();
        assert!(manager.is_fatal(&error), "{error:?}");

        let mut newer = manager.connect().unwrap();
        manager.is_valid(&mut newer).unwrap();
        assert!(manager.is_valid(&mut conn).is_err());
    }
}

#[test]
fn validation_passes_on_every_kind_of_database() {
    let folder = folder();
    for manager in [
        Manager::memory(),
        Manager::file(folder.path().join("file.db")),
        Manager::file("file::memory:?cache=shared"),
    ] {
        let mut conn = manager.connect().unwrap();
        manager.is_valid(&mut conn).unwrap();
    }
}

#[test]
fn a_forgotten_transaction_is_rolled_back() {
    let manager = Manager::memory();
    create_table(&manager);
    let mut conn = manager.connect().unwrap();
    assert!(!manager.needs_reset(&mut conn));
    manager.reset(&mut conn).unwrap();
    for sql in ["BEGIN", "BEGIN; INSERT INTO t VALUES (1)", "SAVEPOINT s"] {
        conn.execute_batch(sql).unwrap();
        assert!(manager.needs_reset(&mut conn), "{sql}");
        manager.reset(&mut conn).unwrap();
        assert!(!manager.needs_reset(&mut conn), "{sql}");
    }
    assert_eq!(count(&conn), 0);
}

// ---- errors ----

#[test]
fn a_path_with_a_zero_byte_is_permanent() {
    let manager = Manager::file("zero\0byte");
    let error = manager.connect().unwrap_err();
    assert!(manager.is_permanent(&error), "{error:?}");
}

#[test]
fn a_damaged_file_is_fatal_and_not_permanent() {
    let folder = folder();
    let path = folder.path().join("damaged.db");
    let manager = Manager::file(&path).wal(false);
    create_table(&manager);
    let mut bytes = fs::read(&path).unwrap();
    // The second page holds the table; the first only describes it.
    bytes[4096..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let conn = manager.connect().unwrap();
    let error = conn.execute_batch("SELECT * FROM t").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt));
    assert!(manager.is_fatal(&error));
    assert!(!manager.is_permanent(&error));
}

#[test]
fn a_file_deleted_under_the_connection_is_fatal() {
    let folder = folder();
    let path = folder.path().join("gone.db");
    let manager = Manager::file(&path).wal(false);
    create_table(&manager);
    let conn = manager.connect().unwrap();
    assert_eq!(count(&conn), 0);
    fs::remove_file(&path).unwrap();
    let error = conn.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    assert_eq!(extended, Some(ffi::SQLITE_READONLY_DBMOVED));
    assert!(manager.is_fatal(&error));
}

#[test]
fn errors_of_statements_are_neither_fatal_nor_permanent() {
    let manager = Manager::memory().busy_timeout(Duration::ZERO);
    create_table(&manager);
    let conn = manager.connect().unwrap();
    conn.execute_batch("CREATE UNIQUE INDEX u ON t (n); INSERT INTO t VALUES (1)").unwrap();
    let locker = manager.connect().unwrap();
    let no_row = conn.query_row("SELECT n FROM t WHERE n = 2", [], |_| Ok(()));
    let wrong_type = conn.query_row("SELECT 'x'", [], |row| row.get::<_, i64>(0).map(drop));
    let constraint = conn.execute_batch("INSERT INTO t VALUES (1)");
    let syntax = conn.execute_batch("SELEKT");
    let full =
        conn.execute_batch("PRAGMA max_page_count = 3; INSERT INTO t VALUES (zeroblob(99999))");
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let busy = conn.execute_batch("INSERT INTO t VALUES (2)");
    for result in [no_row, wrong_type, constraint, syntax, full, busy] {
        let error = result.unwrap_err();
        assert!(!manager.is_fatal(&error), "{error:?}");
        assert!(!manager.is_permanent(&error), "{error:?}");
    }
}
