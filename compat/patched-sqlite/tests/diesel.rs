//! diesel with its `r2d2` feature, as its guide uses it: connections are diesel's too.

use std::thread;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::r2d2::{
    ConnectionManager, CustomizeConnection, Error, Pool, PooledConnection, State, TestCustomizer,
};
use diesel::result::Error as QueryError;
use diesel::sql_query;

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
    }
}

type SqlitePool = Pool<ConnectionManager<SqliteConnection>>;

/// Waits for locks, as diesel's guide sets it up.
#[derive(Debug)]
struct BusyTimeout(u32);

impl CustomizeConnection<SqliteConnection, Error> for BusyTimeout {
    fn on_acquire(&self, conn: &mut SqliteConnection) -> Result<(), Error> {
        let pragma = format!("PRAGMA busy_timeout = {}", self.0);
        sql_query(pragma).execute(conn).map_err(Error::QueryError)?;
        Ok(())
    }
}

const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL)";

fn add(conn: &mut PooledConnection<ConnectionManager<SqliteConnection>>, name: &str) {
    let row = users::name.eq(name);
    let rows = diesel::insert_into(users::table).values(row).execute(conn).expect("a row");
    assert_eq!(rows, 1);
}

#[test]
fn p18_diesel_runs_on_fairpool() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.db");
    let manager = ConnectionManager::<SqliteConnection>::new(file.to_str().expect("a path"));
    let pool: SqlitePool = Pool::builder()
        .max_size(4)
        .connection_customizer(Box::new(BusyTimeout(30_000)))
        .test_on_check_out(true)
        .build(manager)
        .expect("a pool");
    sql_query(USERS).execute(&mut pool.get().expect("a connection")).expect("a table");
    thread::scope(|scope| {
        for number in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                let mut conn = pool.get().expect("a connection");
                add(&mut conn, &format!("user {number}"));
            });
        }
    });
    let mut conn = pool.get().expect("a connection");
    let undone = conn.transaction::<(), _, _>(|conn| {
        add(conn, "nobody");
        Err(QueryError::RollbackTransaction)
    });
    assert_eq!(undone, Err(QueryError::RollbackTransaction));
    let count: i64 = users::table.count().get_result(&mut conn).expect("a count");
    assert_eq!(count, 16);
    let State { connections, .. } = pool.state();
    assert!(connections <= 4);
    assert!(pool.fairpool().stats().gets >= 18, "it is fairpool that served them");
}

/// diesel's `Pool` is r2d2's, so the way from it to fairpool is there too.
#[test]
fn p18_diesels_pool_leads_to_all_of_fairpool() {
    let pool: SqlitePool =
        Pool::builder().max_size(1).build(ConnectionManager::new(":memory:")).expect("a pool");
    let mut urgent = pool.fairpool().request().priority(1).label("setup").get().expect("idle");
    let conn: &mut SqliteConnection = &mut urgent;
    sql_query(USERS).execute(conn).expect("a table");
    let snapshot = pool.fairpool().snapshot().to_string();
    assert!(snapshot.contains("setup") && snapshot.contains("diesel.rs"), "{snapshot}");
    let diagnosis = pool.fairpool().diagnose_over(Duration::from_millis(50)).expect("a span");
    assert!(!diagnosis.to_string().is_empty());
    drop(urgent);
    // What exporters and the inspector take.
    let weak = pool.fairpool().downgrade();
    assert!(weak.reading().is_some() && weak.name().starts_with("r2d2-"));
    assert!(pool.fairpool().close(Instant::now() + Duration::from_secs(60)).is_complete());
}

/// Each test of a user's works in a transaction that is never committed.
#[test]
fn p18_diesels_test_customizer_undoes_what_tests_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.db");
    let url = file.to_str().expect("a path");
    let mut setup = SqliteConnection::establish(url).expect("a connection");
    sql_query(USERS).execute(&mut setup).expect("a table");
    for _ in 0..3 {
        let pool: SqlitePool = Pool::builder()
            .max_size(1)
            .connection_customizer(Box::new(TestCustomizer))
            .build(ConnectionManager::new(url))
            .expect("a pool");
        for already in 0..2 {
            let mut conn = pool.get().expect("a connection");
            let count: i64 = users::table.count().get_result(&mut conn).expect("a count");
            assert_eq!(count, already, "of this test, not of the last");
            add(&mut conn, "somebody");
        }
    }
    let count: i64 = users::table.count().get_result(&mut setup).expect("a count");
    assert_eq!(count, 0);
}

/// A panic in a transaction leaves it open: diesel calls the connection broken then, and it is
/// closed before the panic goes on.
#[test]
fn p18_a_connection_whose_user_panicked_is_not_used_again() {
    let pool: SqlitePool =
        Pool::builder().max_size(1).build(ConnectionManager::new(":memory:")).expect("a pool");
    let panicked = thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut conn = pool.get().expect("a connection");
            sql_query(USERS).execute(&mut conn).expect("a table");
            panic!("on purpose");
        });
        user.join().is_err()
    });
    assert!(panicked);
    let mut conn = pool.get_timeout(Duration::from_secs(60)).expect("a new connection");
    assert!(users::table.count().get_result::<i64>(&mut conn).is_err(), "and no such table");
}
