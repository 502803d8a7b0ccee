//! The redis crate's own manager, which is its `Client`.

use std::thread;
use std::time::Duration;

use fairpool_servers::redis::Redis;
use redis::{Client, TypedCommands};

#[test]
fn p18_redis_runs_on_fairpool() {
    let server = Redis::start();
    let client = Client::open(server.url()).expect("an address");
    let pool = r2d2::Pool::builder().max_size(4).build(client).expect("a pool");
    thread::scope(|scope| {
        for _ in 0..32 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut conn = pool.get().expect("a connection");
                // The guard is a connection to redis, too.
                conn.incr("counter", 1).expect("a number");
            });
        }
    });
    let mut conn = pool.get().expect("a connection");
    assert_eq!(conn.get_int("counter").expect("an answer"), Some(32));
    assert!(pool.fairpool().stats().gets >= 33, "it is fairpool that served them");
}

#[test]
fn p18_while_the_server_is_down_callers_get_the_drivers_words_in_r2d2s_text() {
    let server = Redis::start();
    let client = Client::open(server.url()).expect("an address");
    let pool = r2d2::Pool::builder()
        .max_size(2)
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build(client)
        .expect("a pool");
    drop(server);
    let error = pool.get_timeout(Duration::from_millis(500)).err().expect("it is down");
    let text = error.to_string();
    assert!(text.starts_with("timed out waiting for connection: "), "{text}");
}
