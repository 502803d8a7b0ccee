//! Diesel's connection managers on a pool of fairpool.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::Duration;

use diesel::connection::TransactionManager;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, TestCustomizer};
use diesel::sql_query;
use fairpool::{Builder, ManageConnection, Pool, PooledConnection};
use fairpool_r2d2::Manager;
use fairpool_servers::cluster::Cluster;
use fairpool_testing::stub::{WATCHDOG, watched};

type Sqlite = Manager<ConnectionManager<SqliteConnection>>;
type Postgres = Manager<ConnectionManager<PgConnection>>;

diesel::table! {
    visits (id) {
        id -> Integer,
        thread -> Integer,
    }
}

fn builder<M: ManageConnection>(max_size: u32) -> Builder<M> {
    Pool::builder().max_size(max_size).min_idle(Some(0)).connection_timeout(WATCHDOG)
}

fn sqlite(file: &Path) -> Sqlite {
    Manager::new(ConnectionManager::new(file.to_str().expect("UTF-8")))
}

fn postgres() -> Postgres {
    Manager::new(ConnectionManager::new(Cluster::shared().url()))
}

/// Each test has a table of its own, with this in its name.
fn create(conn: &mut PgConnection, table: &str) -> QueryResult<usize> {
    sql_query(format!("CREATE TABLE {table} (id SERIAL PRIMARY KEY, thread INT)")).execute(conn)
}

#[test]
fn p18_diesels_sqlite_serves_many_threads_on_few_connections() {
    let folder = tempfile::tempdir().unwrap();
    let pool = builder(4).test_on_check_out(true).build(sqlite(&folder.path().join("visits")));
    let pool = pool.unwrap();
    let create = "CREATE TABLE visits (id INTEGER PRIMARY KEY, thread INT NOT NULL)";
    sql_query(create).execute(&mut *pool.get().unwrap()).unwrap();
    thread::scope(|scope| {
        for number in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut conn = pool.get().unwrap();
                    sql_query("PRAGMA busy_timeout = 10000").execute(&mut *conn).unwrap();
                    let row = visits::thread.eq(number);
                    let inserted = diesel::insert_into(visits::table).values(row);
                    assert_eq!(inserted.execute(&mut *conn), Ok(1));
                }
            });
        }
    });
    let rows = visits::table.count().get_result::<i64>(&mut *pool.get().unwrap());
    assert_eq!(rows, Ok(16 * 10));
    assert!((1..=4).contains(&pool.stats().open));
}

#[test]
fn p18_diesels_postgresql_serves_many_threads_on_few_connections() {
    let pool = builder(4).test_on_check_out(true).build(postgres()).unwrap();
    create(&mut pool.get().unwrap(), "visits").unwrap();
    thread::scope(|scope| {
        for number in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut conn = pool.get().unwrap();
                    let done = conn.transaction(|conn| {
                        let row = visits::thread.eq(number);
                        diesel::insert_into(visits::table).values(row).execute(conn)
                    });
                    assert_eq!(done, Ok(1));
                }
            });
        }
    });
    let rows = visits::table.count().get_result::<i64>(&mut *pool.get().unwrap());
    assert_eq!(rows, Ok(16 * 10));
    assert!((1..=4).contains(&pool.stats().open));
}

#[test]
fn p18_with_diesels_test_customizer_nothing_is_committed() {
    let manager = postgres();
    let pool = builder(1)
        .test_on_check_out(true)
        .connection_customizer(manager.customizer(Box::new(TestCustomizer)))
        .build(manager)
        .unwrap();
    create(&mut pool.get().unwrap(), "never").unwrap();
    // The next user is in the same transaction, and sees it; nobody else does.
    let mut conn = pool.get().unwrap();
    assert_eq!(PooledConnection::info(&conn).times_used, 2);
    assert_eq!(sql_query("SELECT FROM never").execute(&mut *conn), Ok(0));
    assert_eq!(Cluster::shared().psql("SELECT to_regclass('never') IS NULL"), "t");
}

#[test]
fn p18_a_transaction_that_a_holder_leaves_open_is_nothing_to_the_next() {
    let pool = builder(1).build(postgres()).unwrap();
    let mut conn = pool.get().unwrap();
    let first = PooledConnection::info(&conn).id;
    type Transactions = <PgConnection as Connection>::TransactionManager;
    Transactions::begin_transaction(&mut *conn).unwrap();
    create(&mut conn, "open").unwrap();
    drop(conn);
    // Diesel calls such a connection broken.
    let conn = pool.get().unwrap();
    assert_ne!(PooledConnection::info(&conn).id, first);
    assert_eq!(Cluster::shared().psql("SELECT to_regclass('open') IS NULL"), "t");
}

#[test]
fn p9_diesels_error_is_the_source_in_its_type() {
    let url = format!("{}_missing", Cluster::shared().url());
    let manager = Manager::new(ConnectionManager::<PgConnection>::new(url));
    let pool = builder(1).build(manager).unwrap();
    watched("a refused connect", move || {
        loop {
            let error = pool.get_timeout(Duration::from_millis(200)).map(drop).unwrap_err();
            let Some(source) = error.source() else { continue };
            match source.downcast_ref::<diesel::r2d2::Error>() {
                Some(diesel::r2d2::Error::ConnectionError(ConnectionError::BadConnection(why))) => {
                    assert!(why.contains("\"postgres_missing\" does not exist"), "{why}");
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    });
}
