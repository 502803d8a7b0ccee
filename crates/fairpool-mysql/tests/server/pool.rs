//! A pool on a server that is well.

use std::thread;

use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{TxOpts, params};

use crate::common::{Manager, builder, options_of, sessions_of, shared, wait_until};

#[test]
fn p5_a_pool_under_load_serves_all_and_has_never_more_sessions_than_its_size() {
    const USER: &str = "crowd";
    let server = shared();
    server.sql("CREATE TABLE shop.crowd (thread int, use_ int)");
    let pool = builder().max_size(4).build(Manager::new(options_of(server, USER))).unwrap();
    let mut most = 0;
    thread::scope(|scope| {
        let work = |thread: u32| {
            for use_ in 0..50 {
                let mut conn = pool.get().unwrap();
                let mut transaction = conn.start_transaction(TxOpts::default()).unwrap();
                let sql = "INSERT INTO crowd (thread, use_) VALUES (:thread, :use_)";
                transaction.exec_drop(sql, params! { thread, use_ }).unwrap();
                transaction.commit().unwrap();
                let done: Option<u32> = conn
                    .exec_first("SELECT count(*) FROM crowd WHERE thread = ?", (thread,))
                    .unwrap();
                assert_eq!(done, Some(use_ + 1));
            }
        };
        let threads: Vec<_> = (0..16).map(|thread| scope.spawn(move || work(thread))).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            most = most.max(sessions_of(server, USER));
        }
    });
    assert!((1..=4).contains(&most), "{most}");
    assert_eq!(server.sql("SELECT count(*), count(DISTINCT thread) FROM shop.crowd"), "800\t16");
    assert_eq!(pool.stats().opened, 4);
    drop(pool);
    wait_until("no session is left", || sessions_of(server, USER) == 0);
}

#[test]
fn the_methods_of_the_driver_work_on_a_guard() {
    use fairpool_mysql::mysql::prelude::{BinQuery, TextQuery, WithParams};

    let pool = builder().max_size(1).build(crate::common::manager()).unwrap();
    let mut conn = pool.get().unwrap();
    conn.query_drop("CREATE TABLE methods (n int)").unwrap();
    let insert = conn.prep("INSERT INTO methods VALUES (?)").unwrap();
    conn.exec_batch(&insert, [(1,), (2,), (3,)]).unwrap();
    // MariaDB takes the batch in one command.
    assert_eq!(conn.affected_rows(), 3);
    conn.close(insert).unwrap();
    let rows: Vec<u32> = conn.query("SELECT n FROM methods ORDER BY n").unwrap();
    assert_eq!(rows, [1, 2, 3]);
    let sum: Option<u32> = "SELECT sum(n) FROM methods".first(&mut **conn).unwrap();
    assert_eq!(sum, Some(6));
    let one: Option<u32> =
        "SELECT n FROM methods WHERE n > ?".with((2,)).first(&mut **conn).unwrap();
    assert_eq!(one, Some(3));
    let mut transaction = conn.start_transaction(TxOpts::default()).unwrap();
    transaction.query_drop("DELETE FROM methods").unwrap();
    assert_eq!(transaction.affected_rows(), 3);
    transaction.rollback().unwrap();
    let rows: Vec<u32> = conn.query("SELECT n FROM methods").unwrap();
    assert_eq!(rows.len(), 3);
    conn.ping().unwrap();
}

#[test]
fn a_connection_by_the_socket_works() {
    use fairpool::ManageConnection;

    let server = shared();
    let options = crate::common::options(server).socket(server.socket().to_str());
    let mut conn = Manager::new(options).connect().unwrap();
    let manager = crate::common::manager();
    manager.is_valid(&mut conn).unwrap();
}
