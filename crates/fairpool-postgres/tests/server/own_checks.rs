//! Checks on the thread of the caller that needs them.

use std::time::{Duration, Instant};

use fairpool::ManageConnection;
use fairpool_servers::cluster::Cluster;

use crate::common::{LONG, backend, builder, manager_of, millis, named, wait_until};

/// What `checks_within_limit` promises: the limit holds on a silent server, and the check can
/// be made again.
#[test]
fn p1_a_check_keeps_its_limit_on_a_silent_server_and_can_be_repeated() {
    let cluster = Cluster::start();
    let manager = manager_of(&cluster);
    let mut client = manager.connect().unwrap();
    assert!(manager.checks_within_limit());
    let frozen = cluster.freeze();
    for limit in [1, 20, 200].map(millis) {
        let asked = Instant::now();
        assert!(manager.is_valid_within(&mut client, limit).is_err());
        let late = asked.elapsed().checked_sub(limit).expect("not before its limit");
        println!("a check of {limit:?} on a silent server: {late:.1?} late");
        assert!(late < Duration::from_secs(2), "{late:?}");
    }
    drop(frozen);
    manager.is_valid_within(&mut client, LONG).expect("the server answers again");
    assert!(!manager.has_broken(&mut client));
    backend(&mut client);
}

#[test]
fn p1_a_get_of_less_time_than_a_check_may_take_ends_in_time_and_closes_nothing() {
    let cluster = Cluster::start();
    let pool = builder().max_size(1).test_on_check_out(true).build(manager_of(&cluster)).unwrap();
    let pid = backend(&mut pool.get().unwrap());
    let frozen = cluster.freeze();
    for wait in [5, 50, 150].map(millis) {
        let asked = Instant::now();
        assert!(pool.get_timeout(wait).unwrap_err().is_timeout());
        let late = asked.elapsed().checked_sub(wait).expect("not before its time");
        println!("a get of {wait:?} with a check of its own: {late:.1?} late");
        assert!(late < Duration::from_secs(2), "{late:?}");
    }
    drop(frozen);
    assert_eq!(backend(&mut pool.get().unwrap()), pid, "the same connection");
    let stats = pool.stats();
    assert_eq!((stats.check_failures, stats.abandoned_calls), (0, 0), "{stats}");
}

/// There the driver would panic. A connection may be got there, to be used elsewhere.
#[test]
fn in_an_async_context_the_pool_checks_on_its_own_threads() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let manager = named("async_checks");
    assert!(!runtime.block_on(async { manager.checks_within_limit() }));
    let pool = builder().max_size(1).test_on_check_out(true).build(manager).unwrap();
    let pid = backend(&mut pool.get().unwrap());
    for _ in 0..3 {
        let mut conn = runtime.block_on(async { pool.get().unwrap() });
        assert_eq!(backend(&mut conn), pid);
        drop(conn);
        wait_until("it is back", || pool.stats().idle == 1);
    }
    assert_eq!(pool.stats().check_failures, 0);
}
