//! redis' `Client` on a redis-server.

use std::error::Error;
use std::thread;
use std::time::Duration;

use fairpool::{Builder, Pool};
use fairpool_r2d2::Manager;
use fairpool_servers::redis::Redis;
use fairpool_testing::stub::{WATCHDOG, watched};
use redis::{Client, Connection, RedisError, TypedCommands};

fn manager(server: &Redis) -> Manager<Client> {
    Manager::new(Client::open(server.url()).unwrap())
}

fn builder(max_size: u32) -> Builder<Manager<Client>> {
    Pool::builder().max_size(max_size).min_idle(Some(0)).connection_timeout(WATCHDOG)
}

#[test]
fn p18_redis_serves_many_threads_on_few_connections_and_commands_work_on_the_guard() {
    let server = Redis::start();
    let pool = builder(4).test_on_check_out(true).build(manager(&server)).unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..25 {
                    pool.get().unwrap().incr("uses", 1).unwrap();
                }
            });
        }
    });
    let mut conn = pool.get().unwrap();
    assert_eq!(conn.get_int("uses").unwrap(), Some(16 * 25));
    let uses: u32 = redis::cmd("GET").arg("uses").query(&mut conn).unwrap();
    assert_eq!(uses, 16 * 25);
    let (added,): (u32,) = redis::pipe().incr("uses", 1).query(&mut conn).unwrap();
    assert_eq!(added, 16 * 25 + 1);
    assert!((1..=4).contains(&pool.stats().open));
}

#[test]
fn p18_a_redis_that_was_restarted_costs_no_user_an_error() {
    let mut server = Redis::start();
    let pool = builder(2).test_on_check_out(true).build(manager(&server)).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));

    server.stop();
    let there = pool.clone();
    let refusal = watched("a refused connect", move || {
        loop {
            let error = there.get_timeout(Duration::from_millis(200)).map(drop).unwrap_err();
            // The first is that of a check.
            match error.source().and_then(|source| source.downcast_ref::<RedisError>()) {
                Some(source) if source.is_connection_refusal() => return error,
                _ => {}
            }
        }
    });
    assert!(refusal.is_timeout());

    server.start_again();
    watched("gets", move || {
        let (mut first, mut second) = (pool.get().unwrap(), pool.get().unwrap());
        first.set("key", 1).unwrap();
        assert_eq!(second.get_int("key").unwrap(), Some(1));
    });
}

/// Names its sessions.
#[derive(Debug)]
struct Naming;

impl r2d2::CustomizeConnection<Connection, RedisError> for Naming {
    fn on_acquire(&self, conn: &mut Connection) -> Result<(), RedisError> {
        redis::cmd("CLIENT").arg("SETNAME").arg("orders").exec(conn)
    }
}

#[test]
fn p18_a_customizer_of_r2d2_names_each_session() {
    let server = Redis::start();
    let manager = manager(&server);
    let pool = builder(1).connection_customizer(manager.customizer(Box::new(Naming)));
    let pool = pool.build(manager).unwrap();
    let name: String = redis::cmd("CLIENT").arg("GETNAME").query(&mut pool.get().unwrap()).unwrap();
    assert_eq!(name, "orders");
}
