//! r2d2-memcache, as its README uses it.

use std::thread;

use fairpool_servers::memcached::Memcached;
use r2d2_memcache::MemcacheConnectionManager;

#[test]
fn p18_r2d2_memcache_runs_on_fairpool() {
    let server = Memcached::start();
    let url = format!("{}?timeout=10&tcp_nodelay=true", server.url());
    let pool = r2d2_memcache::r2d2::Pool::builder()
        .max_size(4)
        .build(MemcacheConnectionManager::new(url))
        .expect("a pool");
    pool.get().expect("a connection").set("counter", 0, 0).expect("an answer");
    thread::scope(|scope| {
        for _ in 0..32 {
            let pool = pool.clone();
            scope.spawn(move || {
                let conn = pool.get().expect("a connection");
                conn.increment("counter", 1).expect("a number");
            });
        }
    });
    let conn = pool.get().expect("a connection");
    assert_eq!(conn.get::<u64>("counter").expect("an answer"), Some(32));
    assert!(pool.fairpool().stats().gets >= 34, "it is fairpool that served them");
}
