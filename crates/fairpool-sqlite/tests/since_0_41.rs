//! What rusqlite has since version 0.41 or has otherwise than before: `scripts/rusqlite-range` leaves
//! this out for older ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fairpool::{Pool, PooledConnection};
use fairpool_sqlite::SqliteConnectionManager;
use fairpool_sqlite::rusqlite::hooks::Wal;
use fairpool_sqlite::rusqlite::trace::{TraceEvent, TraceEventCodes};
use fairpool_sqlite::rusqlite::{Connection, FileControl};

#[test]
fn no_file_control_reaches_the_next_holder() {
    let folder = tempfile::tempdir().unwrap();
    let manager = SqliteConnectionManager::file(folder.path().join("test.db"));
    let pool = Pool::builder().max_size(1).build(manager).unwrap();
    let conn = pool.get().unwrap();
    let mut persist = 1;
    conn.file_control(Some("main"), FileControl::PersistWal(&mut persist)).unwrap();
    drop(conn);
    let conn = pool.get().unwrap();
    let (mut persist, mut version) = (-1, 0);
    conn.file_control(Some("main"), FileControl::PersistWal(&mut persist)).unwrap();
    assert_eq!(persist, 0, "as a fresh connection has it");
    drop(conn);
    // To ask leaves nothing.
    let conn = pool.get().unwrap();
    let id = PooledConnection::info(&conn).id;
    conn.file_control(Some("main"), FileControl::DataVersion(&mut version)).unwrap();
    drop(conn);
    assert_eq!(PooledConnection::info(&pool.get().unwrap()).id, id);
}

#[test]
fn no_wal_hook_reaches_the_next_holder() {
    let folder = tempfile::tempdir().unwrap();
    let manager = SqliteConnectionManager::file(folder.path().join("test.db"));
    let pool = Pool::builder().max_size(1).build(manager).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let mut conn = pool.get().unwrap();
    conn.execute_batch("CREATE TABLE t (n)").unwrap();
    let note = Arc::clone(&seen);
    conn.wal_hook(Some(move |_: &mut Wal, _| {
        note.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }))
    .unwrap();
    conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(seen.swap(0, Ordering::SeqCst), 1, "its own");
    drop(conn);
    let conn = pool.get().unwrap();
    conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0, "the last holder's");
    let pages = conn.query_row("PRAGMA wal_autocheckpoint", [], |row| row.get::<_, i64>(0));
    assert_eq!(pages, Ok(1000));
}

#[test]
fn no_closure_that_traces_or_waits_reaches_the_next_holder() {
    let folder = tempfile::tempdir().unwrap();
    let manager = SqliteConnectionManager::file(folder.path().join("test.db"));
    let pool = Pool::builder().max_size(1).build(manager).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let (traced, waited) = (Arc::clone(&seen), Arc::clone(&seen));
    let mut conn = pool.get().unwrap();
    let driver: &mut Connection = &mut conn;
    let trace = move |_: TraceEvent<'_>| _ = traced.fetch_add(1, Ordering::SeqCst);
    driver.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(trace)).unwrap();
    driver.busy_handler(Some(move |_| waited.load(Ordering::SeqCst) == 0)).unwrap();
    conn.execute_batch("SELECT 1").unwrap();
    assert_eq!(seen.swap(0, Ordering::SeqCst), 1, "its own");
    drop(conn);
    let conn = pool.get().unwrap();
    conn.execute_batch("SELECT 1").unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0, "the last holder's");
    let millis = conn.query_row("PRAGMA busy_timeout", [], |row| row.get::<_, i64>(0));
    assert_eq!(millis, Ok(5000));
}
