//! One writer and many readers: what a `Database` promises, and what it refuses.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fairpool::{ManageConnection, PooledConnection, SelfDeadlock};
use fairpool_sqlite::rusqlite::{self, ErrorCode, TransactionBehavior};
use fairpool_sqlite::{Database, SqliteConnectionManager as Manager};

use crate::folder;

/// Longer than anything here should take: a watchdog.
pub const LONG: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// No connection waits for a lock, so that each lock that is met shows as an error.
pub fn impatient(path: &Path) -> Manager {
    Manager::file(path)
        .busy_timeout(Duration::ZERO)
        .with_init(|conn| conn.execute_batch("PRAGMA synchronous = OFF"))
}

pub fn build(manager: Manager) -> Database {
    let builder = Database::builder().both(|pool| pool.connection_timeout(LONG));
    builder.readers(|pool| pool.max_size(4)).build(manager).expect("a database")
}

/// With a table of one row, 0.
pub fn database(path: &Path) -> Database {
    let db = build(impatient(path));
    db.write()
        .unwrap()
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)")
        .unwrap();
    db
}

pub fn value(conn: &rusqlite::Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT sum(n) FROM t", [], |row| row.get(0))
}

pub fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

// ---- readers beside the writer ----

#[test]
fn a_read_never_waits_for_a_write_transaction() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let (has_written, written) = mpsc::channel();
    let (has_read, read) = mpsc::channel();
    thread::scope(|scope| {
        let db = &db;
        let writer = scope.spawn(move || {
            db.write_transaction(|tx| {
                tx.execute("UPDATE t SET n = 7", [])?;
                has_written.send(()).unwrap();
                // Holds the lock until every reader has its answer.
                (0..8).for_each(|_| read.recv_timeout(LONG).expect("a read"));
                Ok::<_, Failure>(())
            })
        });
        written.recv_timeout(LONG).expect("a write");
        for _ in 0..8 {
            let has_read = has_read.clone();
            scope.spawn(move || {
                assert_eq!(value(&db.read().unwrap()).unwrap(), 0, "what was committed before");
                has_read.send(()).unwrap();
            });
        }
        writer.join().unwrap().unwrap();
    });
    assert_eq!(value(&db.read().unwrap()).unwrap(), 7);
}

#[test]
fn a_write_waits_for_no_read_and_a_read_transaction_sees_one_moment() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    db.read_transaction(|tx| {
        assert_eq!(value(tx)?, 0);
        // Ends while the reader is in the middle of its transaction.
        thread::scope(|scope| {
            let write = || {
                db.write_transaction(|tx| Ok::<_, Failure>(tx.execute("UPDATE t SET n = 7", [])?))
            };
            assert_eq!(scope.spawn(write).join().unwrap().unwrap(), 1);
        });
        assert_eq!(value(tx)?, 0);
        Ok::<_, Failure>(())
    })
    .unwrap();
    assert_eq!(value(&db.read().unwrap()).unwrap(), 7);
}

/// Each adds one, by a transaction that reads before it writes, and by a statement.
fn add(db: &Database) -> Result<(), Failure> {
    db.write_transaction(|tx| {
        let before = value(tx)?;
        tx.prepare_cached("UPDATE t SET n = ?1")?.execute([before + 1])?;
        Ok::<_, Failure>(())
    })?;
    db.write()?.execute("UPDATE t SET n = n + 1", [])?;
    let mut conn = db.write()?;
    let transaction = conn.transaction()?;
    let before = value(&transaction)?;
    transaction.execute("UPDATE t SET n = ?1", [before + 1])?;
    Ok(transaction.commit()?)
}

#[test]
fn a_storm_of_writers_meets_no_busy_and_loses_no_write() {
    const THREADS: i64 = 32;
    const ROUNDS: i64 = 30;
    let folder = folder();
    let path = folder.path().join("t.db");
    // Connections come and go meanwhile.
    let db = Database::builder()
        .both(|pool| pool.connection_timeout(LONG).max_lifetime(Some(Duration::from_millis(20))))
        .readers(|pool| pool.max_size(4))
        .build(impatient(&path))
        .unwrap();
    db.write()
        .unwrap()
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)")
        .unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut last = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let now = value(&db.read().unwrap()).expect("a read");
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                }
            })
        });
        let writers: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| (0..ROUNDS).try_for_each(|_| add(&db)))).collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        results.into_iter().for_each(|result| result.expect("no error"));
    });
    assert_eq!(value(&db.read().unwrap()).unwrap(), 3 * THREADS * ROUNDS);
    assert!(db.writer().stats().opened > 1, "the writer's connection was replaced meanwhile");
}

/// That takes the writers' lock, for as long as readers keep the log.
#[test]
fn a_large_log_is_emptied_by_the_writer_alone() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let mut long = db.read().unwrap();
    let transaction = long.transaction().unwrap();
    value(&transaction).unwrap();
    let (mut reader, mut writer) = (db.read().unwrap(), db.write().unwrap());
    writer.execute_batch("CREATE TABLE blobs (data BLOB)").unwrap();
    for _ in 0..68 {
        let sql = "INSERT INTO blobs VALUES (zeroblob(1048576)); DELETE FROM blobs";
        writer.execute_batch(sql).unwrap();
    }
    // Longer than a tick of the clock. What a return does:
    thread::sleep(Duration::from_millis(30));
    let managers = [db.readers().manager(), db.writer().manager()];
    let has_to = [&mut reader, &mut writer].into_iter().zip(managers).map(|(conn, manager)| {
        let is_broken = manager.has_broken(conn);
        assert!(!is_broken);
        manager.needs_reset(conn)
    });
    assert_eq!(has_to.collect::<Vec<_>>(), [false, true]);
}

// ---- reads only ----

#[test]
fn a_write_through_read_fails_at_once_and_hurts_nobody() {
    let folder = folder();
    let path = folder.path().join("t.db");
    let db = build(Manager::file(&path).busy_timeout(LONG));
    db.write()
        .unwrap()
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)")
        .unwrap();
    let mut writer = db.write().unwrap();
    let transaction = writer.transaction().unwrap();
    transaction.execute("UPDATE t SET n = 1", []).unwrap();
    // None of them waits for the lock, or there would be no end.
    for sql in [
        "INSERT INTO t VALUES (1)",
        "BEGIN IMMEDIATE",
        "BEGIN EXCLUSIVE",
        "CREATE TABLE u (n)",
        "CREATE TEMP TABLE u (n)",
        "PRAGMA user_version = 3",
    ] {
        let error = db.read().unwrap().execute_batch(sql).unwrap_err();
        assert_eq!(code(&error), Some(ErrorCode::ReadOnly), "{sql}: {error}");
    }
    let written = db.read_transaction(|tx| Ok::<_, Failure>(tx.execute("DELETE FROM t", [])?));
    assert!(written.unwrap_err().to_string().contains("readonly"));
    transaction.commit().unwrap();
    assert_eq!(value(&db.read().unwrap()).unwrap(), 1);
    assert_eq!(db.readers().stats().closed.total(), 0);
}

#[test]
fn a_reader_that_its_holder_lets_write_is_query_only_for_the_next() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let all: Vec<_> = (0..4).map(|_| db.read().unwrap()).collect();
    for conn in &all {
        conn.execute_batch("PRAGMA query_only = OFF").unwrap();
    }
    drop(all);
    for _ in 0..8 {
        let error = db.read().unwrap().execute_batch("DELETE FROM t").unwrap_err();
        assert_eq!(code(&error), Some(ErrorCode::ReadOnly), "{error}");
    }
    assert_eq!(db.readers().stats().opened, 4, "none was closed for it");
}

#[test]
fn a_reader_begins_deferred_whatever_the_manager_says() {
    let folder = folder();
    let path = folder.path().join("t.db");
    let db = build(impatient(&path).transaction_behavior(TransactionBehavior::Exclusive));
    db.write()
        .unwrap()
        .execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)")
        .unwrap();
    let mut reader = db.read().unwrap();
    assert_eq!(value(&reader.transaction().unwrap()).unwrap(), 1);
}

// ---- what a caller does to itself ----

#[test]
fn a_thread_that_holds_the_writer_and_asks_again_is_told_so() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let held = db.write().unwrap();
    held.execute("UPDATE t SET n = 0", []).unwrap();
    assert_eq!(value(&db.read().unwrap()).unwrap(), 0, "it may read");
    let error = db.write_timeout(Duration::from_millis(50)).unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.nested_gets().len(), 1);
    let text = error.to_string();
    assert!(text.contains("pool 'fairpool-writer'"), "{text}");
    assert!(text.contains("held by a thread that itself waits for one"), "{text}");
    assert!(text.contains("database.rs:"), "the caller's lines: {text}");
}

#[test]
fn such_a_thread_can_be_refused_at_once() {
    let folder = folder();
    let builder = Database::builder()
        .writer(|pool| pool.name("w").on_self_deadlock(SelfDeadlock::Fail(Duration::ZERO)));
    let db = builder.build(impatient(&folder.path().join("t.db"))).unwrap();
    let held = db.write().unwrap();
    held.execute_batch("CREATE TABLE t (n)").unwrap();
    let nested = db.write_transaction(|_| Ok::<_, Failure>(())).unwrap_err();
    let nested = nested.downcast::<fairpool::Error>().unwrap();
    assert!(nested.is_self_deadlock(), "{nested}");
    drop(held);
    db.write_transaction(|_| Ok::<_, Failure>(())).unwrap();
}

// ---- transactions ----

#[test]
fn an_error_and_a_panic_of_the_closure_roll_back() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let write = |end: fn() -> Result<(), Failure>| {
        db.write_transaction(|tx| {
            tx.execute("UPDATE t SET n = n + 1", [])?;
            end()
        })
    };
    assert_eq!(write(|| Err("no".into())).unwrap_err().to_string(), "no");
    let panicked = thread::scope(|scope| scope.spawn(|| write(|| panic!("on purpose"))).join());
    panicked.unwrap_err();
    assert_eq!(value(&db.read().unwrap()).unwrap(), 0);
    write(|| Ok(())).unwrap();
    assert_eq!(value(&db.read().unwrap()).unwrap(), 1);
}

#[test]
fn a_closure_can_nest_savepoints_and_return_a_value() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let sum = db.write_transaction(|tx| {
        tx.execute("UPDATE t SET n = 1", [])?;
        let inner = tx.savepoint()?;
        inner.execute("UPDATE t SET n = 100", [])?;
        inner.finish()?;
        Ok::<_, Failure>(value(tx)?)
    });
    assert_eq!(sum.unwrap(), 1);
}

/// Two threads, each with a transaction that reads and then writes. The second begins when the
/// first has read.
fn two_upgrades(pool: &fairpool::Pool<Manager>) -> [rusqlite::Result<()>; 2] {
    let (has_read, read) = mpsc::channel();
    let (may_write, written) = mpsc::channel();
    thread::scope(|scope| {
        let first = scope.spawn(move || {
            let mut conn = pool.get().unwrap();
            let transaction = conn.transaction()?;
            value(&transaction)?;
            has_read.send(()).unwrap();
            // The second writes if it can, or waits for this one.
            let _ = written.recv_timeout(Duration::from_millis(200));
            transaction.execute("UPDATE t SET n = n + 1", [])?;
            transaction.commit()
        });
        read.recv_timeout(LONG).expect("a read");
        let mut conn = pool.get().unwrap();
        let second = (|| {
            let transaction = conn.transaction()?;
            value(&transaction)?;
            transaction.execute("UPDATE t SET n = n + 1", [])?;
            transaction.commit()
        })();
        let _ = may_write.send(());
        [first.join().unwrap(), second]
    })
}

#[test]
fn an_upgrade_fails_as_busy_unless_transactions_are_immediate() {
    let folder = folder();
    let manager = |name: &str| Manager::file(folder.path().join(name)).busy_timeout(LONG);
    let pool = |manager: Manager| {
        let pool = fairpool::Pool::builder().max_size(2).build(manager).unwrap();
        let sql = "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)";
        pool.get().unwrap().execute_batch(sql).unwrap();
        pool
    };
    let deferred = pool(manager("d.db"));
    let error = two_upgrades(&deferred).into_iter().find_map(Result::err).expect("an error");
    assert_eq!(code(&error), Some(ErrorCode::DatabaseBusy), "{error}");

    let immediate = pool(manager("i.db").transaction_behavior(TransactionBehavior::Immediate));
    assert_eq!(two_upgrades(&immediate), [Ok(()), Ok(())]);
    assert_eq!(value(&immediate.get().unwrap()), Ok(2));
}

#[test]
fn the_transaction_behavior_outlives_a_return() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    for _ in 0..3 {
        let mut conn = db.write().unwrap();
        let _transaction = conn.transaction().unwrap();
        let other = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        let error = other.execute_batch("BEGIN IMMEDIATE").unwrap_err();
        assert_eq!(code(&error), Some(ErrorCode::DatabaseBusy), "it began as a writer");
    }
    let mut conn = db.write().unwrap();
    conn.set_transaction_behavior(TransactionBehavior::Deferred);
    let id = PooledConnection::info(&conn).id;
    drop(conn);
    assert_ne!(PooledConnection::info(&db.write().unwrap()).id, id, "it is closed");
}
