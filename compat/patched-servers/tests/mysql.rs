//! r2d2_mysql, as its README uses it, on a MariaDB.

use std::thread;
use std::time::Duration;

use fairpool_servers::mariadb::MariaDb;
use r2d2_mysql::MySqlConnectionManager;
use r2d2_mysql::mysql::prelude::Queryable;
use r2d2_mysql::mysql::{Opts, OptsBuilder};

type Pool = r2d2::Pool<MySqlConnectionManager>;

fn manager(url: &str) -> MySqlConnectionManager {
    let options = Opts::from_url(url).expect("a URL");
    MySqlConnectionManager::new(OptsBuilder::from_opts(options))
}

fn pool(server: &MariaDb, max_size: u32) -> Pool {
    r2d2::Pool::builder().max_size(max_size).build(manager(&server.url())).expect("a pool")
}

#[test]
fn p18_r2d2_mysql_runs_on_fairpool() {
    let server = MariaDb::start();
    let pool = pool(&server, 4);
    pool.get()
        .expect("a connection")
        .query_drop("CREATE TABLE numbers (number INT NOT NULL)")
        .expect("a table");
    thread::scope(|scope| {
        for number in 0..32 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut conn = pool.get().expect("a connection");
                conn.exec_drop("INSERT INTO numbers VALUES (?)", (number,)).expect("a row");
            });
        }
    });
    let mut conn = pool.get().expect("a connection");
    let row = conn.query_first("SELECT count(*), sum(number) FROM numbers").expect("an answer");
    assert_eq!(row, Some((32, 496)));
    assert!(pool.state().connections <= 4);
    assert!(pool.fairpool().stats().gets >= 34, "it is fairpool that served them");
}

/// With r2d2's default each connection is checked before it is handed out, so nobody gets one
/// that the server has ended.
#[test]
fn p18_a_mariadb_that_was_restarted_costs_no_user_an_error() {
    let server = MariaDb::start();
    let pool = pool(&server, 2);
    drop((pool.get().expect("a connection"), pool.get().expect("another")));
    server.stop();
    server.start_again();
    for _ in 0..4 {
        let mut conn = pool.get_timeout(Duration::from_secs(60)).expect("a connection");
        assert_eq!(conn.query_first("SELECT 1").expect("one that works"), Some(1));
    }
}

#[test]
fn p18_what_mariadb_refuses_is_in_r2d2s_text() {
    let server = MariaDb::start();
    let wrong = server.url().replace(":right@", ":wrong@");
    let pool: Pool = r2d2::Pool::builder()
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build_unchecked(manager(&wrong));
    let error = pool.get_timeout(Duration::from_millis(500)).expect_err("it is refused");
    let text = error.to_string();
    assert!(text.starts_with("timed out waiting for connection: "), "{text}");
    assert!(text.contains("Access denied"), "{text}");
}
