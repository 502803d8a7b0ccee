//! diesel with PostgreSQL, as its guide and the documentation of its `TestCustomizer` use it.

use std::thread;

use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool, TestCustomizer};
use diesel::result::Error as QueryError;
use diesel::sql_query;
use fairpool_servers::cluster::Cluster;

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
    }
}

diesel::table! {
    guests {
        id -> Integer,
        name -> Text,
    }
}

fn manager() -> ConnectionManager<PgConnection> {
    ConnectionManager::new(Cluster::shared().url())
}

#[test]
fn p18_diesel_with_postgresql_runs_on_fairpool() {
    let pool = Pool::builder().max_size(4).test_on_check_out(true).build(manager());
    let pool = pool.expect("a pool");
    sql_query("CREATE TABLE users (id SERIAL PRIMARY KEY, name TEXT NOT NULL)")
        .execute(&mut pool.get().expect("a connection"))
        .expect("a table");
    thread::scope(|scope| {
        for number in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                // The guard is a connection of diesel's, too.
                let mut conn = pool.get().expect("a connection");
                let name = users::name.eq(format!("user {number}"));
                let row = diesel::insert_into(users::table).values(name).execute(&mut conn);
                assert_eq!(row, Ok(1));
            });
        }
    });
    let mut conn = pool.get().expect("a connection");
    let undone = conn.transaction::<(), _, _>(|conn| {
        diesel::insert_into(users::table).values(users::name.eq("nobody")).execute(conn)?;
        Err(QueryError::RollbackTransaction)
    });
    assert_eq!(undone, Err(QueryError::RollbackTransaction));
    assert_eq!(users::table.count().get_result::<i64>(&mut conn), Ok(16));
    assert!(pool.state().connections <= 4);
    assert!(pool.fairpool().stats().gets >= 18, "it is fairpool that served them");
}

/// Each test of a user's has a pool of one connection, in a transaction that is never committed.
#[test]
fn p18_diesels_test_customizer_undoes_what_tests_do_on_postgresql() {
    for _ in 0..3 {
        let pool = Pool::builder()
            .max_size(1)
            .test_on_check_out(true)
            .connection_customizer(Box::new(TestCustomizer))
            .build(manager())
            .expect("a pool");
        let create =
            "CREATE TABLE IF NOT EXISTS guests (id SERIAL PRIMARY KEY, name TEXT NOT NULL)";
        for already in 0..2 {
            let mut conn = pool.get().expect("a connection");
            sql_query(create).execute(&mut conn).expect("a table");
            let count = guests::table.count().get_result::<i64>(&mut conn);
            assert_eq!(count, Ok(already), "of this test, not of the last");
            let row = guests::name.eq("somebody");
            let row = diesel::insert_into(guests::table).values(row).execute(&mut conn);
            assert_eq!(row, Ok(1));
        }
    }
    assert_eq!(Cluster::shared().psql("SELECT to_regclass('guests') IS NULL"), "t");
}
