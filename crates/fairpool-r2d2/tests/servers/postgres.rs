//! `r2d2_postgres` on PostgreSQL.

use std::error::Error;
use std::thread;
use std::time::Duration;

use fairpool::{Builder, Pool, PooledConnection};
use fairpool_r2d2::Manager;
use fairpool_servers::cluster::{APP_USER, Cluster};
use fairpool_testing::stub::{WATCHDOG, eventually, watched};
use r2d2_postgres::PostgresConnectionManager;
use r2d2_postgres::postgres::error::SqlState;
use r2d2_postgres::postgres::{self, Client, Config, NoTls};

type Postgres = Manager<PostgresConnectionManager<NoTls>>;

fn manager(config: Config) -> Postgres {
    Manager::new(PostgresConnectionManager::new(config, NoTls))
}

fn builder(max_size: u32) -> Builder<Postgres> {
    Pool::builder().max_size(max_size).min_idle(Some(0)).connection_timeout(WATCHDOG)
}

fn backend(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

#[test]
fn p18_r2d2_postgres_serves_many_threads_on_few_connections() {
    let mut config = Cluster::shared().config();
    config.application_name("many threads");
    let pool = builder(4).build(manager(config)).unwrap();
    thread::scope(|scope| {
        for thread in 0..16 {
            let pool = &pool;
            scope.spawn(move || {
                for use_ in 0..25 {
                    let mut conn = pool.get().unwrap();
                    let value = thread * 100 + use_;
                    let row = conn.query_one("SELECT $1::INT", &[&value]).unwrap();
                    assert_eq!(row.get::<_, i32>(0), value);
                }
            });
        }
    });
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'many threads'";
    let sessions = || Cluster::shared().psql(sessions).parse::<u32>().unwrap();
    let open = pool.stats().open;
    assert!((1..=4).contains(&open), "{open}");
    assert_eq!(sessions(), open);
    assert_eq!(pool.stats().gets, 16 * 25);
    drop(pool);
    eventually("the sessions end", || sessions() == 0);
}

#[test]
fn p9_what_postgresql_refuses_is_the_source_in_the_drivers_type() {
    let pool = builder(1).build(manager(Cluster::shared().app_config("wrong"))).unwrap();
    let refusal = watched("a refused connect", move || {
        loop {
            let error = pool.get_timeout(Duration::from_millis(200)).map(drop).unwrap_err();
            if error.source().is_some() {
                return error;
            }
        }
    });
    let source = refusal.source().unwrap().downcast_ref::<postgres::Error>().unwrap();
    assert_eq!(source.code(), Some(&SqlState::INVALID_PASSWORD));
    assert!(source.as_db_error().unwrap().message().contains(APP_USER));
}

#[test]
fn p18_a_session_that_ended_is_replaced_at_its_return_or_check() {
    let pool = builder(1).test_on_check_out(true).build(manager(Cluster::shared().config()));
    let pool = pool.unwrap();
    let first = backend(&mut pool.get().unwrap());
    Cluster::shared().psql(&format!("SELECT pg_terminate_backend({first}, 10000)"));
    // Its check fails.
    let mut conn = pool.get().unwrap();
    let second = backend(&mut conn);
    assert_ne!(first, second);
    Cluster::shared().psql(&format!("SELECT pg_terminate_backend({second}, 10000)"));
    assert!(conn.query_one("SELECT 1", &[]).is_err());
    drop(conn);
    assert_ne!(backend(&mut pool.get().unwrap()), second);
}

#[derive(Debug)]
struct ReadOnly;

impl r2d2::CustomizeConnection<Client, postgres::Error> for ReadOnly {
    fn on_acquire(&self, client: &mut Client) -> Result<(), postgres::Error> {
        client.batch_execute("SET default_transaction_read_only = on")
    }
}

#[test]
fn p18_a_customizer_of_r2d2_sets_up_each_session() {
    let manager = manager(Cluster::shared().config());
    let pool = builder(2).connection_customizer(manager.customizer(Box::new(ReadOnly)));
    let pool = pool.build(manager).unwrap();
    let (mut first, mut second) = (pool.get().unwrap(), pool.get().unwrap());
    for client in [&mut first, &mut second] {
        let error = client.batch_execute("CREATE TABLE never (id INT)").unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    }
}

#[test]
fn p1_on_a_frozen_server_a_caller_leaves_at_its_deadline_and_the_pool_recovers() {
    let cluster = Cluster::start();
    let pool = builder(2)
        .test_on_check_out(true)
        .validation_timeout(Duration::from_millis(200))
        .build(manager(cluster.config()))
        .unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    let frozen = cluster.freeze();
    let there = pool.clone();
    let get = move || there.get_timeout(Duration::from_millis(300)).map(drop);
    assert!(watched("a get", get).unwrap_err().is_timeout());
    drop(frozen);
    // Both connections at once: what hung costs no capacity.
    watched("gets", move || {
        let (mut first, mut second) = (pool.get().unwrap(), pool.get().unwrap());
        assert_ne!(backend(&mut first), backend(&mut second));
        assert_ne!(PooledConnection::info(&first).id, PooledConnection::info(&second).id);
    });
}
