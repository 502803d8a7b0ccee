//! `r2d2_sqlite` on a pool of fairpool.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::Duration;

use fairpool::{Builder, Pool, PooledConnection};
use fairpool_r2d2::Manager;
use fairpool_testing::stub::{WATCHDOG, watched};
use r2d2_sqlite::SqliteConnectionManager;
use r2d2_sqlite::rusqlite::{self, Connection, ErrorCode, OpenFlags, TransactionBehavior};

type Sqlite = Manager<SqliteConnectionManager>;

fn builder(max_size: u32) -> Builder<Sqlite> {
    Pool::builder().max_size(max_size).min_idle(Some(0)).connection_timeout(WATCHDOG)
}

fn manager(file: &Path) -> Sqlite {
    let manager = SqliteConnectionManager::file(file);
    Manager::new(manager.with_init(|conn| conn.busy_timeout(WATCHDOG)))
}

#[test]
fn p18_r2d2_sqlite_serves_many_threads_on_few_connections() {
    let folder = tempfile::tempdir().unwrap();
    let pool = builder(4).test_on_check_out(true).build(manager(&folder.path().join("visits")));
    let pool = pool.unwrap();
    pool.get().unwrap().execute_batch("CREATE TABLE visits (thread INTEGER)").unwrap();
    thread::scope(|scope| {
        for thread in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut conn = pool.get().unwrap();
                    let behavior = TransactionBehavior::Immediate;
                    let transaction = conn.transaction_with_behavior(behavior).unwrap();
                    transaction.execute("INSERT INTO visits VALUES (?1)", [thread]).unwrap();
                    transaction.commit().unwrap();
                }
            });
        }
    });
    let count = "SELECT count(*) FROM visits";
    let rows: u32 = pool.get().unwrap().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 16 * 10);
    assert!((1..=4).contains(&pool.stats().open));
}

#[test]
fn p9_sqlites_error_is_the_source_in_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let missing = SqliteConnectionManager::file(folder.path().join("missing"));
    let manager = Manager::new(missing.with_flags(OpenFlags::SQLITE_OPEN_READ_ONLY));
    let pool = builder(1).build(manager).unwrap();
    let code = watched("a failed open", move || {
        loop {
            let error = pool.get_timeout(Duration::from_millis(100)).map(drop).unwrap_err();
            if let Some(source) = error.source() {
                let source = source.downcast_ref::<rusqlite::Error>().expect("SQLite's error");
                return source.sqlite_error_code();
            }
        }
    });
    assert_eq!(code, Some(ErrorCode::CannotOpen));
}

/// Switches foreign keys on.
#[derive(Debug)]
struct ForeignKeys;

impl r2d2::CustomizeConnection<Connection, rusqlite::Error> for ForeignKeys {
    fn on_acquire(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        conn.pragma_update(None, "foreign_keys", true)
    }
}

#[test]
fn p18_a_customizer_of_r2d2_sets_up_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(&folder.path().join("keys"));
    let pool = builder(2).connection_customizer(manager.customizer(Box::new(ForeignKeys)));
    let pool = pool.build(manager).unwrap();
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    for conn in [&first, &second] {
        let on: bool = conn.pragma_query_value(None, "foreign_keys", |row| row.get(0)).unwrap();
        assert!(on);
    }
}

#[test]
fn p10_a_holder_that_panics_costs_no_capacity() {
    let folder = tempfile::tempdir().unwrap();
    let pool = builder(1).build(manager(&folder.path().join("panics"))).unwrap();
    let there = pool.clone();
    let holder = thread::spawn(move || {
        let _held = there.get().unwrap();
        fairpool_testing::stub::silent_panic();
    });
    assert!(holder.join().is_err());
    let conn = watched("a get", move || pool.get()).unwrap();
    assert_eq!(conn.query_row("SELECT 1", [], |row| row.get::<_, u32>(0)), Ok(1));
    assert!(PooledConnection::info(&conn).id > 0);
}
