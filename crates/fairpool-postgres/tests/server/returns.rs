//! What a holder left behind on a connection, and what the next one gets.

use std::sync::OnceLock;
use std::thread;

use fairpool::{Pool, PooledConnection};
use fairpool_postgres::Client;
use fairpool_postgres::Reset;
use fairpool_postgres::postgres::error::SqlState;

use crate::common::{
    Guard, Manager, backend, backends, builder, kill, millis, named, session, shared, show,
    take_all,
};

/// Whether the client is inside a transaction that has written something.
fn has_written(client: &mut Client) -> bool {
    let sql = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    client.query_one(sql, &[]).expect("an answer").get(0)
}

#[test]
fn session_settings_are_in_force_on_every_connection_and_after_a_reset() {
    let manager = named("settings")
        .lock_timeout(millis(1234))
        .statement_timeout(millis(5678))
        .idle_in_transaction_session_timeout(millis(9999))
        .reset_on_return(Reset::Session);
    let pool = builder().max_size(4).build(manager).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut all = take_all(&pool);
        for conn in &mut all {
            assert_eq!(show(conn, "lock_timeout"), "1234ms");
            assert_eq!(show(conn, "statement_timeout"), "5678ms");
            assert_eq!(show(conn, "idle_in_transaction_session_timeout"), "9999ms");
            assert_eq!(show(conn, "search_path"), "\"$user\", public");
            conn.batch_execute(
                "SET lock_timeout = 0; SET statement_timeout = 0; SET search_path = elsewhere; \
                 SET idle_in_transaction_session_timeout = 0;",
            )
            .unwrap();
        }
        seen.push(backends(&mut all));
    }
    assert_eq!(seen[0].len(), 4);
    assert!(seen[0] == seen[1] && seen[1] == seen[2], "reset, not replaced");
}

#[test]
fn a_lock_timeout_ends_a_wait_that_would_block_the_pool() {
    let mut admin = session(shared());
    let make = "CREATE TABLE orders (id int PRIMARY KEY, n int); \
                INSERT INTO orders VALUES (12345, 0)";
    admin.batch_execute(make).unwrap();
    let manager = named("locks").lock_timeout(millis(50));
    // One connection: PostgreSQL 15 reports a timeout that coincides with another session's as
    // a cancel by the user (57014), about once in 4,000 pairs on a busy machine.
    let pool = builder().max_size(1).build(manager).unwrap();
    let mut long = admin.transaction().unwrap();
    long.batch_execute("UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut conn = pool.get().expect("a connection");
                let lock = "SELECT n FROM orders WHERE id = 12345 FOR UPDATE";
                let result = PooledConnection::run(&mut conn, |client| client.query(lock, &[]));
                let code = result.unwrap_err().code().cloned();
                assert_eq!(code, Some(SqlState::LOCK_NOT_AVAILABLE));
            });
        }
    });
    assert_eq!(pool.stats().closed.total(), 0, "the connections were good");
}

const LEAVES_OPEN: &str = "BEGIN; INSERT INTO left_behind VALUES (1)";

fn make_left_behind() {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| shared().psql("CREATE TABLE left_behind (n int)"));
}

#[test]
fn without_a_reset_an_open_transaction_reaches_the_next_user() {
    // This shows that the tests below can fail.
    make_left_behind();
    let pool = builder().max_size(1).build(named("off").reset_on_return(Reset::Off)).unwrap();
    pool.get().unwrap().batch_execute(LEAVES_OPEN).unwrap();
    assert!(has_written(&mut pool.get().unwrap()));
}

#[test]
fn an_open_transaction_never_reaches_the_next_user() {
    make_left_behind();
    for reset in [Reset::Rollback, Reset::Session] {
        let manager = named("rollback").reset_on_return(reset);
        let pool = builder().max_size(3).build(manager).unwrap();
        let work = |worker: usize| {
            for n in 0..30 {
                let mut conn = pool.get().expect("a connection");
                assert!(!has_written(&mut conn), "{reset:?}");
                match (worker + n) % 3 {
                    0 => conn.batch_execute(LEAVES_OPEN).unwrap(),
                    // A transaction that has failed refuses everything else.
                    1 => assert!(conn.batch_execute("BEGIN; SELECT 1/0").is_err()),
                    _ => {}
                }
            }
        };
        thread::scope(|scope| {
            for worker in 0..12 {
                scope.spawn(move || work(worker));
            }
        });
        let stats = pool.stats();
        assert_eq!(stats.closed.total(), 0, "reset, not replaced: {stats:?}");
    }
    assert_eq!(shared().psql("SELECT count(*) FROM left_behind"), "0");
}

/// Runs `work` on a connection of the pool in a thread that then panics.
fn panic_with(pool: &Pool<Manager>, work: impl FnOnce(&mut Guard) + Send + 'static) {
    let pool = pool.clone();
    let holder = thread::Builder::new().name("a holder that panics as planned".to_string());
    let holder = holder.spawn(move || {
        let mut conn = pool.get().unwrap();
        work(&mut conn);
        panic!("as planned");
    });
    assert!(holder.unwrap().join().is_err());
}

#[test]
fn p10_a_holder_that_panics_inside_a_transaction_leaves_nothing_behind() {
    make_left_behind();
    // A panic asks for a reset even where a return does not.
    for reset in [Reset::Off, Reset::Rollback] {
        let manager = named("panic").reset_on_return(reset);
        let pool = builder().max_size(1).build(manager).unwrap();
        for _ in 0..5 {
            panic_with(&pool, |conn| conn.batch_execute(LEAVES_OPEN).unwrap());
            assert!(!has_written(&mut pool.get().unwrap()), "{reset:?}");
        }
        let stats = pool.stats();
        assert_eq!((stats.open, stats.closed.total()), (1, 0), "{reset:?}: {stats:?}");
    }
}

#[test]
fn p10_a_transaction_object_rolls_back_in_a_panic_without_any_reset() {
    make_left_behind();
    let pool = builder().max_size(1).build(named("object")).unwrap();
    panic_with(&pool, |conn| {
        let mut transaction = conn.transaction().unwrap();
        let insert = "INSERT INTO left_behind VALUES (1)";
        transaction.batch_execute(insert).unwrap();
        panic!("as planned, inside");
    });
    assert!(!has_written(&mut pool.get().unwrap()));
}

#[test]
fn p10_what_a_panicking_holder_has_broken_is_not_handed_on() {
    let pool = builder().max_size(1).test_on_check_out(false).build(named("broken")).unwrap();
    for _ in 0..5 {
        let admin = session(shared());
        panic_with(&pool, |conn| {
            let mut admin = admin;
            let pid = backend(conn);
            kill(&mut admin, &[pid]);
        });
        let mut next = pool.get().unwrap();
        next.query_one("SELECT 1", &[]).expect("a live connection");
    }
    let closed = pool.stats().closed;
    assert_eq!((closed.broken, closed.invalid), (5, 0), "the reset finds out");
}
