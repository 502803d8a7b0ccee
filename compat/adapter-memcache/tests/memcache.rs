//! `r2d2-memcache` on a memcached.

use std::thread;

use fairpool::{Builder, Pool};
use fairpool_r2d2::Manager;
use fairpool_servers::memcached::Memcached;
use fairpool_testing::stub::{WATCHDOG, watched};
use r2d2_memcache::MemcacheConnectionManager;

type Memcache = Manager<MemcacheConnectionManager>;

fn manager(server: &Memcached) -> Memcache {
    Manager::new(MemcacheConnectionManager::new(server.url()))
}

fn builder(max_size: u32) -> Builder<Memcache> {
    Pool::builder().max_size(max_size).min_idle(Some(0)).connection_timeout(WATCHDOG)
}

#[test]
fn p18_r2d2_memcache_serves_many_threads_on_few_connections() {
    let server = Memcached::start();
    let pool = builder(4).test_on_check_out(true).build(manager(&server)).unwrap();
    pool.get().unwrap().set("uses", 0, 0).unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..25 {
                    pool.get().unwrap().increment("uses", 1).unwrap();
                }
            });
        }
    });
    assert_eq!(pool.get().unwrap().get::<u32>("uses").unwrap(), Some(16 * 25));
    assert!((1..=4).contains(&pool.stats().open));
}

#[test]
fn p18_a_memcached_that_was_restarted_costs_no_user_an_error() {
    let mut server = Memcached::start();
    let pool = builder(2).test_on_check_out(true).build(manager(&server)).unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    server.stop();
    server.start_again();
    watched("gets", move || {
        let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
        first.set("key", 1, 0).unwrap();
        assert_eq!(second.get::<u32>("key").unwrap(), Some(1));
    });
}
