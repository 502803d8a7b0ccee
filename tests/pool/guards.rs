//! What can be done with a connection that is in use.

use std::cell::RefCell;
use std::thread;

use fairpool::PooledConnection;
use fairpool_testing::stub::{Does, Manager, Op, Server, StubError, builder, eventually};

use crate::support::ms;

#[test]
fn a_guard_can_be_discarded_marked_and_detached() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    PooledConnection::discard(pool.get().unwrap());
    let mut conn = pool.get().unwrap();
    assert_eq!(conn.id, 2);
    PooledConnection::mark_broken(&mut conn);
    conn.touch();
    drop(conn);
    let conn = pool.get().unwrap();
    assert_eq!(conn.id, 3);
    let own = PooledConnection::detach(conn);
    assert_eq!(pool.state().connections, 0);
    let next = pool.get().expect("the pool opens another");
    assert_eq!((own.id, next.id), (3, 4));
    own.touch();
    drop(next);
    drop(pool);
    own.touch(); // the end of the pool does not concern it
    eventually("the pool's is closed", || server.live() == 1);
    drop(own);
    assert_eq!(server.live(), 0);
    server.check();
}

#[test]
fn run_marks_a_connection_broken_after_a_fatal_error_only() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    assert_eq!(PooledConnection::run(&mut conn, |conn| Ok(conn.id)), Ok(1));
    let failed = PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
    assert_eq!(failed, Err(StubError::Query));
    drop(conn);
    let mut conn = pool.get().unwrap();
    assert_eq!(conn.id, 1, "it survived the error");
    server.next(Op::IsFatal, Does::Fail);
    let _ = PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
    assert_eq!(PooledConnection::run(&mut conn, |_| Ok(())), Ok(()), "a success cures nothing");
    drop(conn);
    assert_eq!(pool.get().unwrap().id, 2);
}

#[test]
fn info_and_extensions_travel_with_the_connection() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let mut conn = pool.get().unwrap();
    let first = PooledConnection::info(&conn);
    assert_eq!(first.times_used, 1);
    assert_eq!(PooledConnection::extensions_mut(&mut conn).insert(String::from("a")), None);
    PooledConnection::extensions_mut(&mut conn).insert(7u8);
    assert!(format!("{conn:?}").contains(&format!("id: {}", first.id)), "{conn:?}");
    drop(conn);
    thread::sleep(ms(2));
    let mut conn = pool.get().unwrap();
    let second = PooledConnection::info(&conn);
    assert_eq!((second.id, second.times_used), (first.id, 2));
    assert!(second.age >= first.age + ms(2));
    let extensions = PooledConnection::extensions_mut(&mut conn);
    assert_eq!(extensions.get::<String>().map(String::as_str), Some("a"));
    *extensions.get_mut::<u8>().unwrap() += 1;
    assert_eq!(extensions.remove::<u8>(), Some(8));
    assert_eq!(extensions.remove::<u8>(), None);
    extensions.clear();
    assert_eq!(extensions.get::<String>(), None);
    PooledConnection::extensions_mut(&mut conn).insert(9u8);
    PooledConnection::discard(conn);
    let conn = pool.get().unwrap();
    let third = PooledConnection::info(&conn);
    assert!(third.id > second.id);
    assert_eq!(third.times_used, 1);
    assert_eq!(PooledConnection::extensions(&conn).get::<u8>(), None);
}

#[test]
fn a_guard_may_be_dropped_on_another_thread_and_by_a_thread_that_ends() {
    thread_local! {
        static KEPT: RefCell<Option<PooledConnection<Manager>>> = const { RefCell::new(None) };
    }
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let conn = pool.get().unwrap();
    thread::spawn(move || drop(conn)).join().unwrap();
    assert_eq!(pool.state().idle_connections, 1);
    let there = pool.clone();
    thread::spawn(move || {
        KEPT.with(|kept| *kept.borrow_mut() = Some(there.get().unwrap()));
    })
    .join()
    .unwrap();
    eventually("it came back", || pool.state().idle_connections == 1);
}

#[test]
fn a_guard_outlives_its_pool() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    drop(pool);
    conn.touch();
    let _ = PooledConnection::run(&mut conn, |_| Err::<(), _>(StubError::Query));
    assert_eq!(PooledConnection::info(&conn).times_used, 1);
    drop(conn);
    eventually("it is closed", || server.live() == 0);
    server.check();
}
