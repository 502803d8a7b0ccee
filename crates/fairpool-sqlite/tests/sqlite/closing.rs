//! What a close leaves in the file, and how long it takes.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CustomizeConnection, ManageConnection, Pool};
use fairpool_sqlite::rusqlite::config::DbConfig;
use fairpool_sqlite::rusqlite::{self, OpenFlags};
use fairpool_sqlite::{Connection, SqliteConnectionManager as Manager};

use crate::folder;

const LONG: Duration = Duration::from_secs(60);
/// As many as a pool closes at once.
const CONNECTIONS: u32 = 4;

fn manager(path: &Path) -> Manager {
    // Waits for the disk would keep the closes apart.
    let quick = |conn: &mut rusqlite::Connection| conn.execute_batch("PRAGMA synchronous = OFF");
    Manager::file(path).with_init(quick).busy_timeout(LONG)
}

fn pool(manager: Manager) -> Pool<Manager> {
    let builder = Pool::builder().max_size(CONNECTIONS).connection_timeout(LONG);
    builder.build(manager).unwrap()
}

/// Opens all connections, and writes a row with each.
fn write(pool: &Pool<Manager>) {
    let all: Vec<_> = (0..CONNECTIONS).map(|_| pool.get().unwrap()).collect();
    all[0].execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER)").unwrap();
    for conn in &all {
        conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
}

fn close(pool: &Pool<Manager>) {
    let report = pool.close(Instant::now() + LONG);
    assert!(report.is_complete(), "{report}");
}

fn wal_of(path: &Path) -> std::path::PathBuf {
    path.with_extension("db-wal")
}

/// How many rows a copy of the main file alone has.
fn rows_of_a_copy(path: &Path) -> i64 {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    let conn = rusqlite::Connection::open(&copy).unwrap();
    let rows = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
    drop(conn);
    fs::remove_file(&copy).unwrap();
    rows.unwrap_or(0)
}

#[test]
fn after_a_complete_close_all_rows_are_in_the_file_and_no_log_is_left() {
    let folder = folder();
    let (mut logs, mut incomplete) = (0, 0);
    for round in 0..200 {
        let path = folder.path().join(format!("{round}.db"));
        let pool = pool(manager(&path));
        write(&pool);
        close(&pool);
        logs += u32::from(wal_of(&path).exists());
        incomplete += u32::from(rows_of_a_copy(&path) != i64::from(CONNECTIONS));
    }
    assert_eq!((logs, incomplete), (0, 0), "logs left, and copies without all rows, of 200");
}

#[test]
fn connections_that_close_at_the_same_instant_leave_no_log() {
    let folder = folder();
    let logs = (0..200).filter(|round| {
        let path = folder.path().join(format!("{round}.db"));
        let manager = manager(&path);
        let all: Vec<_> = (0..CONNECTIONS).map(|_| manager.connect().unwrap()).collect();
        all[0].execute_batch("CREATE TABLE t (n)").unwrap();
        for conn in &all {
            conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        }
        let start = Barrier::new(all.len());
        thread::scope(|scope| {
            for conn in all {
                scope.spawn(|| {
                    start.wait();
                    drop(conn);
                });
            }
        });
        wal_of(&path).exists() || rows_of_a_copy(&path) != i64::from(CONNECTIONS)
    });
    assert_eq!(logs.count(), 0, "logs left of 200");
}

#[test]
fn after_the_close_of_two_pools_on_one_file_no_log_is_left() {
    let folder = folder();
    for round in 0..50 {
        let path = folder.path().join(format!("{round}.db"));
        let pools = [pool(manager(&path)), pool(manager(&path))];
        pools.iter().for_each(write);
        thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| close(pool));
            }
        });
        assert!(!wal_of(&path).exists());
        assert_eq!(rows_of_a_copy(&path), 2 * i64::from(CONNECTIONS));
    }
}

#[test]
fn a_close_puts_all_rows_into_a_file_that_others_keep_open() {
    let folder = folder();
    let path = folder.path().join("shared.db");
    let pool = pool(manager(&path));
    write(&pool);
    // As another process would: it reads, and ends its transaction.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    close(&pool);
    assert_eq!(rows_of_a_copy(&path), i64::from(CONNECTIONS));
}

#[test]
fn a_close_does_not_wait_for_a_reader_that_never_ends() {
    let folder = folder();
    let path = folder.path().join("read.db");
    let pool = pool(manager(&path));
    write(&pool);
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
    let conn = pool.get().unwrap();
    conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    drop(conn);
    let started = Instant::now();
    close(&pool);
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    // The reader still sees what it saw.
    let rows: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, i64::from(CONNECTIONS));
}

#[test]
fn a_user_who_forbids_checkpoints_at_close_gets_none() {
    let folder = folder();
    let path = folder.path().join("kept.db");
    let manager = Manager::file(&path).with_init(|conn| {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
    });
    let pool = pool(manager);
    write(&pool);
    close(&pool);
    assert!(wal_of(&path).exists());
    assert_eq!(rows_of_a_copy(&path), 0);
}

#[test]
fn read_only_connections_close_too() {
    let folder = folder();
    let path = folder.path().join("read_only.db");
    let writers = pool(manager(&path));
    write(&writers);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let readers = pool(manager(&path).with_flags(flags));
    drop(readers.get().unwrap());
    // The writers are not the last ones, so the log's file stays; its rows do not.
    close(&writers);
    assert_eq!(rows_of_a_copy(&path), i64::from(CONNECTIONS));
    close(&readers);
    assert_eq!(rows_of_a_copy(&path), i64::from(CONNECTIONS));
}

/// Owns the drop of each connection.
#[derive(Debug)]
struct Owner(Sender<Connection>);

impl CustomizeConnection<Connection, rusqlite::Error> for Owner {
    fn on_release(&self, conn: Connection) {
        self.0.send(conn).unwrap();
    }
}

#[test]
fn a_customizer_may_own_the_drop() {
    let folder = folder();
    for round in 0..50 {
        let path = folder.path().join(format!("{round}.db"));
        let (sender, receiver) = channel();
        let pool = Pool::builder()
            .max_size(CONNECTIONS)
            .connection_timeout(LONG)
            .connection_customizer(Box::new(Owner(sender)))
            .build(manager(&path))
            .unwrap();
        write(&pool);
        close(&pool);
        drop(pool);
        let all: Vec<_> = receiver.iter().take(CONNECTIONS as usize).collect();
        assert_eq!(all.len(), CONNECTIONS as usize);
        assert_eq!(rows_of_a_copy(&path), 0, "none of them is closed yet");
        // All at once, on threads of the user's.
        thread::scope(|scope| {
            for conn in all {
                scope.spawn(move || drop(conn));
            }
        });
        assert!(!wal_of(&path).exists());
        assert_eq!(rows_of_a_copy(&path), i64::from(CONNECTIONS));
    }
}

#[test]
fn a_close_reports_its_error_and_frees_the_turn() {
    let folder = folder();
    let path = folder.path().join("closed.db");
    let manager = manager(&path);
    let (one, other) = (manager.connect().unwrap(), manager.connect().unwrap());
    one.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
    one.close().unwrap();
    other.close().unwrap();
    assert!(!wal_of(&path).exists());
    assert_eq!(rows_of_a_copy(&path), 1);
}
