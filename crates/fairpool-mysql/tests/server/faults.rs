//! A pool whose server ends sessions, or restarts, while 8 threads use it.

use std::thread;
use std::time::Instant;

use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_servers::mariadb::MariaDb;
use fairpool_servers::proxy::{Flow, Proxy};

use crate::common::{
    LONG, Load, Manager, builder, manager_of, millis, options, options_of, sessions_of, shared,
    take_all, wait_until,
};

const SIZE: u32 = 4;

fn use_it(conn: &mut fairpool_mysql::Connection) -> fairpool_mysql::mysql::Result<()> {
    conn.query_drop("SELECT sleep(0.002)")
}

#[test]
fn faults_sessions_killed_under_load_cost_one_error_each() {
    const USER: &str = "killed";
    let server = shared();
    let pool = builder().max_size(SIZE).build(Manager::new(options_of(server, USER))).unwrap();
    let (errors, refusals) = Load::during(&pool, LONG, use_it, |load| {
        for _ in 0..3 {
            // Of a user, so that no session is missed; the call does not wait for their ends.
            let before = pool.stats().opened;
            server.sql(&format!("KILL HARD USER {USER}"));
            wait_until("all are new", || pool.stats().opened >= before + u64::from(SIZE));
            load.until_some_are_done();
        }
    });
    println!("figure: {} uses failed, for 3 times {SIZE} killed sessions", errors.len());
    assert!(errors.len() <= 3 * SIZE as usize, "{}: {errors:?}", errors.len());
    assert!(refusals.is_empty(), "{refusals:?}");
    take_all(&pool);
    wait_until("the server has what the pool has", || sessions_of(server, USER) == SIZE);
    assert!(pool.close(Instant::now() + LONG).is_complete());
    wait_until("nothing is left", || sessions_of(server, USER) == 0);
}

#[test]
fn faults_a_restart_under_load_is_survived_and_its_errors_have_the_cause() {
    use std::error::Error as _;

    let server = MariaDb::start();
    let pool = builder().max_size(SIZE).build(manager_of(&server)).unwrap();
    let (_, refusals) = Load::during(&pool, millis(500), use_it, |load| {
        server.stop();
        wait_until("callers are refused", || load.refusals() >= 8);
        server.start_again();
        let begun = Instant::now();
        load.until_some_are_done();
        wait_until("the pool is full", || pool.stats().open == SIZE);
        println!("figure: full {:?} after a restart", begun.elapsed());
    });
    // Those that began to wait late, when the server was there again, have none.
    let causes: Vec<String> =
        refusals.iter().filter_map(|error| Some(error.source()?.to_string())).collect();
    assert!(!causes.is_empty(), "{refusals:?}");
    let words = ["refused", "shutdown", "reset", "closed", "disconnected", "Broken pipe", "end of"];
    for cause in causes {
        assert!(words.iter().any(|word| cause.contains(word)), "{cause}");
    }
    for conn in &mut take_all(&pool) {
        conn.ping().unwrap();
    }
}

#[test]
fn faults_a_link_that_is_cut_and_restored() {
    let mut proxy = Proxy::start(shared().port());
    let manager = Manager::new(options(shared()).tcp_port(proxy.port()));
    let pool = builder().max_size(SIZE).build(manager).unwrap();
    // Through the proxy, not round it by the server's socket.
    assert_eq!(proxy.links(), SIZE as usize);
    let (errors, _) = Load::during(&pool, millis(300), use_it, |load| {
        proxy.refuse();
        proxy.set_existing(Flow::Reset);
        wait_until("callers are refused", || load.refusals() >= 8);
        proxy.accept();
        proxy.set_new(Flow::Pass);
        load.until_some_are_done();
    });
    assert!(errors.len() <= SIZE as usize, "{errors:?}");
    thread::scope(|scope| {
        scope.spawn(|| take_all(&pool).iter_mut().for_each(|conn| conn.ping().unwrap()));
    });
}
