//! Prepared statements that the server has lost, or whose result has changed.

use fairpool::{Pool, PooledConnection};
use fairpool_postgres::postgres::{self, Error, Row};
use fairpool_postgres::{Client, Reset, Statement};

use crate::common::{Guard, Manager, builder, named, own_database, psql};

/// The statement that a program keeps with the connection.
struct Kept(Statement);

fn ask(conn: &mut Guard) -> Result<Vec<Row>, Error> {
    if PooledConnection::extensions(conn).get::<Kept>().is_none() {
        let kept = Kept(conn.prepare("SELECT * FROM changing")?);
        PooledConnection::extensions_mut(conn).insert(kept);
    }
    let statement = PooledConnection::extensions(conn).get::<Kept>().expect("kept").0.clone();
    conn.query(&statement, &[])
}

/// How many of 20 uses fail.
fn failures(pool: &Pool<Manager>) -> usize {
    (0..20).filter(|_| ask(&mut pool.get().unwrap()).is_err()).count()
}

const LEVELS: [Reset; 4] = [Reset::Off, Reset::Rollback, Reset::Session, Reset::Always];

#[test]
fn after_ddl_a_kept_statement_is_prepared_again() {
    let _database = own_database("ddl_again");
    psql("CREATE TABLE changing (a int)");
    for reset in LEVELS {
        let pool = builder().max_size(1).build(named("ddl").reset_on_return(reset)).unwrap();
        for change in ["ADD COLUMN b int", "DROP COLUMN b"] {
            assert_eq!(failures(&pool), 0);
            psql(&format!("ALTER TABLE changing {change}"));
            assert_eq!(failures(&pool), 0, "{reset:?}");
        }
        assert_eq!(pool.stats().closed.total(), 0, "{reset:?}");
    }
}

/// A manager whose connections keep no statements.
fn keeping_none(name: &str) -> Manager {
    named(name).statement_cache(0)
}

#[test]
fn without_a_cache_a_kept_statement_fails_once_after_ddl_and_its_connection_is_retired() {
    let _database = own_database("ddl");
    psql("CREATE TABLE changing (a int)");
    for reset in LEVELS {
        let manager = keeping_none("ddl").reset_on_return(reset);
        let pool = builder().max_size(1).build(manager).unwrap();
        assert_eq!(failures(&pool), 0);
        psql("ALTER TABLE changing ADD COLUMN b int");
        let failed = failures(&pool);
        println!("figure: failed of 20 uses after DDL, {reset:?}: {failed}");
        assert_eq!(failed, 1, "{reset:?}");
        psql("ALTER TABLE changing DROP COLUMN b");
        assert_eq!(failures(&pool), 1, "{reset:?}");
    }
}

#[test]
fn after_discard_all_a_kept_statement_is_prepared_again() {
    let _database = own_database("discard_again");
    psql("CREATE TABLE changing (a int)");
    for reset in LEVELS {
        let pool = builder().max_size(1).build(named("discard").reset_on_return(reset)).unwrap();
        assert_eq!(failures(&pool), 0);
        pool.get().unwrap().batch_execute("DISCARD ALL").unwrap();
        assert_eq!(failures(&pool), 0, "{reset:?}");
    }
}

#[test]
fn without_a_cache_a_kept_statement_fails_no_more_than_once_after_discard_all() {
    let _database = own_database("discard");
    psql("CREATE TABLE changing (a int)");
    for reset in LEVELS {
        let manager = keeping_none("discard").reset_on_return(reset);
        let pool = builder().max_size(1).build(manager).unwrap();
        assert_eq!(failures(&pool), 0);
        pool.get().unwrap().batch_execute("DISCARD ALL").unwrap();
        let failed = failures(&pool);
        println!("figure: failed of 20 uses after DISCARD ALL, {reset:?}: {failed}");
        // Where sessions are reset, the connection does not even come back.
        assert_eq!(failed, usize::from(reset < Reset::Session), "{reset:?}");
    }
}

#[test]
fn a_lost_statement_that_only_run_sees_retires_the_connection() {
    let _database = own_database("lost");
    psql("CREATE TABLE changing (a int)");
    let changes = ["ALTER TABLE changing ADD COLUMN b int", "ALTER TABLE changing DROP COLUMN b"];
    for change in changes {
        let pool = builder().max_size(1).build(named("run").reset_on_return(Reset::Off)).unwrap();
        let mut conn = pool.get().unwrap();
        let driver: &mut postgres::Client = &mut conn;
        let statement = driver.prepare("SELECT * FROM changing").unwrap();
        driver.query(&statement, &[]).unwrap();
        psql(change);
        // The driver's client, lent: nothing but `run` sees the error.
        let use_it = |client: &mut Client| {
            let driver: &mut postgres::Client = client;
            driver.query(&statement, &[])
        };
        PooledConnection::run(&mut conn, use_it).unwrap_err();
        drop(conn);
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().closed.broken, 1, "{change}");
    }
}

#[test]
fn another_unsupported_feature_does_not_retire_the_connection() {
    let pool = builder().max_size(1).build(named("other")).unwrap();
    let error = pool.get().unwrap().batch_execute("SELECT 1 FOR UPDATE OF nothing").unwrap_err();
    assert!(error.code().is_some());
    let unsupported = "CREATE TABLE unsupported (a int) WITH OIDS";
    pool.get().unwrap().batch_execute(unsupported).unwrap_err();
    let unsupported = "VALUES (1) FOR UPDATE";
    let error = pool.get().unwrap().batch_execute(unsupported).unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("0A000"));
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().closed.total(), 0);
}
