//! A process with open connections that forks: both have the sockets.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::PooledConnection;
use fairpool_children::in_child;

use crate::common::{LONG, builder, manager, millis};

fn answer(conn: &mut PooledConnection<crate::common::Manager>, n: i32) -> i32 {
    conn.query_one("SELECT $1::int4", &[&n]).expect("an answer").get(0)
}

#[test]
fn a_child_leaves_the_parents_connections_alone() {
    let pool = builder().max_size(2).build(manager()).expect("two connections");
    let mut conn = pool.get().expect("a connection");
    assert_eq!(answer(&mut conn, 1), 1);
    let pid: i32 = conn.query_one("SELECT pg_backend_pid()", &[]).expect("a row").get(0);
    // Past the tick of the clock in which the pool last asked for its process.
    thread::sleep(millis(50));
    let mut parents = Some((pool, conn));
    for _ in 0..5 {
        fairpool_children::fork(|| {
            let (pool, conn) = parents.take().expect("copies");
            let error = pool.get_timeout(Duration::MAX).expect_err("the parent's");
            assert!(error.is_forked(), "{error}");
            PooledConnection::discard(conn);
            drop(pool);
        })
        .join();
    }
    let (pool, mut conn) = parents.take().expect("the parent's own");
    for n in 2..100 {
        assert_eq!(answer(&mut conn, n), n, "the stream is in step");
    }
    drop(conn);
    let both = [(); 2].map(|()| pool.get().expect("a connection"));
    let pids = both.map(|mut conn| {
        conn.query_one("SELECT pg_backend_pid()", &[]).expect("a row").get::<_, i32>(0)
    });
    assert!(pids.contains(&pid), "the server's process {pid} has ended: {pids:?}");
    let report = pool.close(Instant::now() + LONG);
    assert!(report.is_complete(), "{report}");
}

#[test]
fn a_child_connects_for_itself() {
    let pool = builder().max_size(1).build(manager()).expect("a connection");
    thread::sleep(millis(50));
    in_child(|| {
        let own = builder().max_size(2).build(manager()).expect("connections");
        let mut conn = own.get().expect("a connection");
        assert_eq!(answer(&mut conn, 7), 7);
        drop(conn);
        assert!(own.close(Instant::now() + LONG).is_complete());
    });
    assert_eq!(answer(&mut pool.get().expect("a connection"), 8), 8);
}
