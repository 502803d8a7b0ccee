//! The pool on SQLite.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Builder, ErrorKind, ManageConnection, Pool, PooledConnection};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::{self, Connection, TransactionBehavior};
use tempfile::TempDir;

use crate::folder;

/// Longer than anything here should take: a watchdog.
const LONG: Duration = Duration::from_secs(60);
const THREADS: i64 = 16;
const ROUNDS: i64 = 25;

fn builder() -> Builder<Manager> {
    Pool::builder().connection_timeout(LONG)
}

/// With a long busy timeout, because SQLite serves waiting writers in no order.
fn in_file(folder: &TempDir) -> Manager {
    Manager::file(folder.path().join("test.db")).busy_timeout(LONG)
}

fn in_memory() -> Manager {
    Manager::memory().busy_timeout(LONG)
}

fn create_table(pool: &Pool<Manager>) {
    let conn = pool.get().expect("a connection");
    conn.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
}

fn insert(conn: &Connection, n: i64) {
    conn.execute("INSERT INTO t VALUES (?1)", [n]).expect("an insert");
}

fn count(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("the table t")
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < LONG, "not yet: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

// ---- load ----

#[test]
fn sixteen_threads_read_and_write_one_file() {
    let folder = folder();
    read_and_write(in_file(&folder), 8);
}

#[test]
fn sixteen_threads_read_and_write_one_memory() {
    read_and_write(in_memory(), 8);
}

#[test]
fn sixteen_threads_share_a_single_connection() {
    read_and_write(in_memory(), 1);
}

/// Half of the threads write a row in each round. After each, all threads check that they
/// see every row of their own.
fn read_and_write(manager: Manager, connections: u32) {
    let pool = builder().max_size(connections).build(manager).unwrap();
    create_table(&pool);
    let start = Barrier::new(THREADS as usize);
    let work = |worker: i64| {
        start.wait();
        for round in 0..ROUNDS {
            let mut conn = pool.get().expect("a connection");
            if worker % 2 == 0 {
                let immediate = TransactionBehavior::Immediate;
                let transaction = conn.transaction_with_behavior(immediate).unwrap();
                let before = count(&transaction);
                insert(&transaction, worker * ROUNDS + round);
                assert_eq!(count(&transaction), before + 1, "a transaction is alone");
                transaction.commit().unwrap();
            }
            let own = "SELECT count(*) FROM t WHERE n BETWEEN ?1 * ?2 AND ?1 * ?2 + ?2 - 1";
            let mine: i64 = conn.query_row(own, [worker, ROUNDS], |row| row.get(0)).unwrap();
            assert_eq!(mine, if worker % 2 == 0 { round + 1 } else { 0 });
        }
    };
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let work = &work;
            scope.spawn(move || work(worker));
        }
    });
    let conn = pool.get().unwrap();
    assert_eq!(count(&conn), THREADS / 2 * ROUNDS);
    let distinct = "SELECT count(DISTINCT n) FROM t";
    let distinct: i64 = conn.query_row(distinct, [], |row| row.get(0)).unwrap();
    assert_eq!(distinct, THREADS / 2 * ROUNDS);
    drop(conn);
    let stats = pool.stats();
    assert_eq!(stats.gets as i64, THREADS * ROUNDS + 2);
    assert_eq!((stats.opened, stats.closed.total()), (u64::from(connections), 0), "{stats:?}");
}

// ---- what the last user left behind ----

#[test]
fn an_open_transaction_is_rolled_back_before_the_next_user() {
    let folder = folder();
    for manager in [in_memory(), in_file(&folder)] {
        let pool = builder().max_size(2).build(manager).unwrap();
        create_table(&pool);
        let work = |worker: usize| {
            for n in 0..20 {
                let conn = pool.get().expect("a connection");
                assert!(conn.is_autocommit(), "inside another's transaction");
                assert_eq!(count(&conn), 0, "another's row");
                if (worker + n).is_multiple_of(2) {
                    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
                    insert(&conn, 1);
                    assert!(!conn.is_autocommit());
                }
            }
        };
        thread::scope(|scope| {
            for worker in 0..8 {
                let work = &work;
                scope.spawn(move || work(worker));
            }
        });
        let stats = pool.stats();
        assert_eq!(stats.closed.total(), 0, "reset, not replaced: {stats:?}");
    }
}

#[test]
fn p10_a_holder_that_panics_in_a_transaction_leaves_nothing_behind() {
    let pool = builder().max_size(1).build(in_memory()).unwrap();
    create_table(&pool);
    let holder = {
        let pool = pool.clone();
        thread::Builder::new().name("a holder that panics as planned".to_string()).spawn(
            move || {
                let conn = pool.get().unwrap();
                conn.execute_batch("BEGIN").unwrap();
                insert(&conn, 1);
                panic!("as planned");
            },
        )
    };
    assert!(holder.unwrap().join().is_err());
    let conn = pool.get().unwrap();
    assert!(conn.is_autocommit());
    assert_eq!(count(&conn), 0);
    drop(conn);
    assert_eq!(pool.stats().closed.total(), 0, "{:?}", pool.stats());
}

// ---- opening fails ----

#[test]
fn a_path_that_sqlite_cannot_take_ends_build_at_once() {
    let error = builder().build(Manager::file("zero\0byte")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    let source = error.source().expect("a cause");
    let source = source.downcast_ref::<rusqlite::Error>().expect("the driver's error");
    assert!(matches!(source, rusqlite::Error::NulError(_)), "{source:?}");
}

#[test]
fn a_pool_waits_for_a_folder_that_appears_later_and_says_what_is_missing() {
    let folder = folder();
    let inner = folder.path().join("mount");
    let manager = || Manager::file(inner.join("test.db"));
    let short = Pool::builder().connection_timeout(Duration::from_millis(300));
    let error = short.build(manager()).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(format!("{error:#}").contains("unable to open database file"), "{error}");

    let pool = builder().max_size(2).build_unchecked(manager());
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..8).map(|_| scope.spawn(|| pool.get().map(drop))).collect();
        wait_until("attempts fail", || pool.stats().open_failures >= 2);
        std::fs::create_dir(&inner).unwrap();
        for waiter in waiters {
            waiter.join().unwrap().expect("a connection, once the folder is there");
        }
    });
}

#[test]
fn a_pool_waits_for_a_file_that_is_being_copied() {
    let folder = folder();
    let path = folder.path().join("test.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
    let whole = std::fs::read(&path).unwrap();
    // The copy has room for the file, and zeros so far.
    std::fs::write(&path, vec![1; whole.len()]).unwrap();
    let pool = builder().max_size(1).build_unchecked(in_file(&folder));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.get().map(|conn| count(&conn)));
        wait_until("attempts fail", || pool.stats().open_failures >= 2);
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(waiter.join().unwrap().expect("a connection"), 0);
    });
}

// ---- memory ----

#[test]
fn a_memory_database_survives_an_empty_pool() {
    let pool = builder()
        .max_size(3)
        .min_idle(Some(0))
        .idle_timeout(Some(Duration::from_millis(20)))
        .build(in_memory())
        .unwrap();
    create_table(&pool);
    for round in 1..=3 {
        insert(&pool.get().unwrap(), round);
        wait_until("the pool is empty", || {
            let stats = pool.stats();
            stats.open + stats.opening + stats.closing == 0
        });
        assert_eq!(count(&pool.get().unwrap()), round);
    }
    assert!(pool.stats().closed.idle_too_long >= 3, "{:?}", pool.stats());
}

#[test]
fn a_memory_database_ends_with_its_pool_and_two_pools_have_two() {
    let one = builder().max_size(2).build(in_memory()).unwrap();
    let other = builder().max_size(2).build(in_memory()).unwrap();
    create_table(&one);
    let has_table = |pool: &Pool<Manager>| pool.get().unwrap().table_exists(None, "t").unwrap();
    assert!(has_table(&one));
    assert!(!has_table(&other));
    let report = one.close(Instant::now() + LONG);
    assert!(report.is_complete(), "{report}");
}

#[test]
fn all_connections_of_a_pool_are_different() {
    let pool = builder().max_size(5).build(in_memory()).unwrap();
    let all: Vec<_> = (0..5).map(|_| pool.get().unwrap()).collect();
    let ids: BTreeSet<u64> = all.iter().map(|conn| PooledConnection::info(conn).id).collect();
    assert_eq!(ids.len(), 5);
    // Each has its own temporary tables.
    all[0].execute_batch("CREATE TEMP TABLE mine (n INTEGER)").unwrap();
    for other in &all[1..] {
        assert!(!other.table_exists(None, "mine").unwrap());
    }
}

/// Notes the threads that check.
struct Checks {
    manager: Manager,
    threads: Mutex<Vec<thread::ThreadId>>,
}

impl ManageConnection for Checks {
    type Connection = <Manager as ManageConnection>::Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> Result<Self::Connection, rusqlite::Error> {
        self.manager.connect()
    }

    fn is_valid(&self, conn: &mut Self::Connection) -> Result<(), rusqlite::Error> {
        self.threads.lock().unwrap().push(thread::current().id());
        self.manager.is_valid(conn)
    }

    fn checks_within_limit(&self) -> bool {
        self.manager.checks_within_limit()
    }

    fn has_broken(&self, conn: &mut Self::Connection) -> bool {
        self.manager.has_broken(conn)
    }
}

/// A file system on a network may hang, and must not keep a caller past its deadline.
#[test]
fn p1_a_check_of_a_file_that_may_not_be_local_is_not_made_on_a_callers_thread() {
    let folder = folder();
    let without_wal = Manager::file(folder.path().join("rollback.db")).wal(false);
    for (manager, by_caller) in
        [(without_wal, false), (in_file(&folder), true), (in_memory(), true)]
    {
        let manager = Checks { manager, threads: Mutex::default() };
        let unused = Pool::builder().max_size(1).skip_check_within(Duration::ZERO);
        let pool = unused.build(manager).unwrap();
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(2));
            drop(pool.get().unwrap());
        }
        let threads = pool.manager().threads.lock().unwrap();
        assert!(!threads.is_empty());
        let caller = thread::current().id();
        let own = threads.iter().filter(|thread| **thread == caller).count();
        // A worker goes on with one that takes long.
        assert_eq!(own > 0, by_caller, "{own} of {}", threads.len());
    }
}
