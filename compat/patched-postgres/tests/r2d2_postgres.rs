//! r2d2_postgres, as its README uses it, on a real server.

use std::thread;
use std::time::Duration;

use fairpool_servers::cluster::Cluster;
use r2d2_postgres::PostgresConnectionManager;
use r2d2_postgres::postgres::NoTls;

type Pool = r2d2::Pool<PostgresConnectionManager<NoTls>>;

fn pool(max_size: u32) -> Pool {
    let config = Cluster::shared().url().parse().expect("a URL");
    let manager = PostgresConnectionManager::new(config, NoTls);
    r2d2::Pool::builder().max_size(max_size).build(manager).expect("a pool")
}

#[test]
fn p18_r2d2_postgres_runs_on_fairpool() {
    let pool = pool(4);
    let mut conn = pool.get().expect("a connection");
    conn.batch_execute("CREATE TABLE foo (bar INT NOT NULL)").expect("a table");
    drop(conn);
    thread::scope(|scope| {
        for number in 0..32i32 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut conn = pool.get().expect("a connection");
                conn.execute("INSERT INTO foo (bar) VALUES ($1)", &[&number]).expect("a row");
            });
        }
    });
    let mut conn = pool.get().expect("a connection");
    let row = conn.query_one("SELECT count(*), sum(bar) FROM foo", &[]).expect("a row");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (32, 496));
    assert!(pool.fairpool().stats().gets >= 34, "it is fairpool that served them");
}

/// With r2d2's default each connection is checked before it is handed out, so nobody gets one
/// that the server has ended.
#[test]
fn p18_connections_that_the_server_has_ended_are_replaced_unseen() {
    let pool = pool(4);
    let pids: Vec<i32> = {
        let mut all: Vec<_> = (0..4).map(|_| pool.get().expect("a connection")).collect();
        let pid = |conn: &mut r2d2::PooledConnection<_>| {
            let conn: &mut r2d2_postgres::postgres::Client = conn;
            conn.query_one("SELECT pg_backend_pid()", &[]).expect("a row").get(0)
        };
        all.iter_mut().map(pid).collect()
    };
    let list = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[{list}]) AS pid");
    Cluster::shared().psql(&sql);
    for _ in 0..8 {
        let mut conn = pool.get_timeout(Duration::from_secs(60)).expect("a connection");
        conn.simple_query("SELECT 1").expect("one that works");
    }
}
