//! `r2d2_mysql` on a MariaDB.

use std::error::Error;
use std::thread;
use std::time::Duration;

use fairpool::{Builder, Pool, PooledConnection};
use fairpool_r2d2::Manager;
use fairpool_servers::mariadb::{APP_USER, MariaDb};
use fairpool_testing::stub::{WATCHDOG, watched};
use r2d2_mysql::MySqlConnectionManager;
use r2d2_mysql::mysql::prelude::Queryable;
use r2d2_mysql::mysql::{self, Conn, Opts, OptsBuilder};

type MySql = Manager<MySqlConnectionManager>;

fn manager(url: &str) -> MySql {
    let options = OptsBuilder::from_opts(Opts::from_url(url).unwrap());
    Manager::new(MySqlConnectionManager::new(options))
}

fn builder(max_size: u32) -> Builder<MySql> {
    Pool::builder().max_size(max_size).min_idle(Some(0)).connection_timeout(WATCHDOG)
}

fn session(conn: &mut Conn) -> u32 {
    conn.query_first("SELECT connection_id()").unwrap().unwrap()
}

#[test]
fn p18_r2d2_mysql_serves_many_threads_on_few_connections() {
    let server = MariaDb::start();
    let pool = builder(4).test_on_check_out(true).build(manager(&server.url())).unwrap();
    pool.get().unwrap().query_drop("CREATE TABLE visits (thread INT)").unwrap();
    thread::scope(|scope| {
        for thread in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut conn = pool.get().unwrap();
                    conn.exec_drop("INSERT INTO visits VALUES (?)", (thread,)).unwrap();
                }
            });
        }
    });
    let rows = pool.get().unwrap().query_first("SELECT count(*) FROM visits").unwrap();
    assert_eq!(rows, Some(16 * 10));
    assert!((1..=4).contains(&pool.stats().open));
}

#[test]
fn p9_what_mariadb_refuses_is_the_source_in_the_drivers_type() {
    let server = MariaDb::start();
    let pool = builder(1).build(manager(&server.url().replace(":right@", ":wrong@"))).unwrap();
    let refusal = watched("a refused connect", move || {
        loop {
            let error = pool.get_timeout(Duration::from_millis(200)).map(drop).unwrap_err();
            if error.source().is_some() {
                return error;
            }
        }
    });
    let source = refusal.source().unwrap().downcast_ref::<mysql::Error>().unwrap();
    let mysql::Error::MySqlError(refused) = source else { panic!("{source:?}") };
    assert_eq!(refused.code, 1045);
    assert!(refused.message.contains(APP_USER));
}

/// `r2d2_mysql` asks the server at each return whether the connection has broken.
#[test]
fn p18_a_session_that_ended_is_replaced_at_its_return_or_check() {
    let server = MariaDb::start();
    let pool = builder(1).test_on_check_out(true).build(manager(&server.url())).unwrap();
    let first = session(&mut pool.get().unwrap());
    server.sql(&format!("KILL {first}"));
    // Its check fails.
    let mut conn = pool.get().unwrap();
    let second = session(&mut conn);
    assert_ne!(first, second);
    server.sql(&format!("KILL {second}"));
    drop(conn);
    assert_ne!(session(&mut pool.get().unwrap()), second);
}

/// Sets a limit for statements.
#[derive(Debug)]
struct Limit;

impl r2d2::CustomizeConnection<Conn, mysql::Error> for Limit {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), mysql::Error> {
        conn.query_drop("SET max_statement_time = 7")
    }
}

#[test]
fn p18_a_customizer_of_r2d2_sets_up_each_session() {
    let server = MariaDb::start();
    let manager = manager(&server.url());
    let pool = builder(2).connection_customizer(manager.customizer(Box::new(Limit)));
    let pool = pool.build(manager).unwrap();
    let (mut first, mut second) = (pool.get().unwrap(), pool.get().unwrap());
    for conn in [&mut first, &mut second] {
        assert_eq!(conn.query_first("SELECT @@max_statement_time").unwrap(), Some(7.0));
    }
}

#[test]
fn p1_on_a_frozen_server_a_caller_leaves_at_its_deadline_and_the_pool_recovers() {
    let server = MariaDb::start();
    let pool = builder(2)
        .test_on_check_out(true)
        .validation_timeout(Duration::from_millis(200))
        .build(manager(&server.url()))
        .unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    let frozen = server.freeze();
    let there = pool.clone();
    let get = move || there.get_timeout(Duration::from_millis(300)).map(drop);
    assert!(watched("a get", get).unwrap_err().is_timeout());
    drop(frozen);
    // Both connections at once: what hung costs no capacity.
    watched("gets", move || {
        let (mut first, mut second) = (pool.get().unwrap(), pool.get().unwrap());
        assert_ne!(session(&mut first), session(&mut second));
        assert_ne!(PooledConnection::info(&first).id, PooledConnection::info(&second).id);
    });
}
