//! What the client knows of its session and its connection, from each kind of call.

use std::mem;

use fairpool::ManageConnection;
use fairpool_postgres::postgres::Error;
use fairpool_postgres::{Client, Reset, Transaction};

use crate::common::{
    LONG, Manager, ask, backend, builder, logged, manager, millis, named, own_database, psql,
    signal, start_log,
};

/// Something that ends, but not the transaction.
type Inner = fn(&mut Transaction<'_>);

const INNER: [(&str, Inner); 7] = [
    ("commit", |outer| outer.transaction().unwrap().commit().unwrap()),
    ("rollback", |outer| outer.transaction().unwrap().rollback().unwrap()),
    ("drop", |outer| drop(outer.transaction().unwrap())),
    ("commit, named", |outer| outer.savepoint("s").unwrap().commit().unwrap()),
    ("rollback, named", |outer| outer.savepoint("s").unwrap().rollback().unwrap()),
    ("drop, named", |outer| drop(outer.savepoint("s").unwrap())),
    ("a COMMIT that is bound and not executed", |outer| {
        outer.bind("COMMIT", &[]).unwrap();
    }),
];

#[test]
fn the_end_of_something_inside_is_not_taken_for_the_end_of_the_transaction() {
    let _database = own_database("savepoints");
    psql("CREATE TABLE kept (n int)");
    let pool = builder().max_size(1).build(named("savepoints")).unwrap();
    for (what, inner) in INNER {
        let mut conn = pool.get().unwrap();
        let mut transaction = conn.transaction().unwrap();
        inner(&mut transaction);
        // Not ended, and not seen to be.
        mem::forget(transaction);
        drop(conn);
        let insert = "INSERT INTO kept VALUES (1)";
        pool.get().unwrap().execute(insert, &[]).unwrap();
        // From another session: committed.
        assert_eq!(
            psql("WITH x AS (DELETE FROM kept RETURNING 1) SELECT count(*) FROM x"),
            "1",
            "{what}"
        );
    }
    assert!(pool.close(std::time::Instant::now() + LONG).is_complete());
}

/// A call with a kept statement that fails at once, though it would send rows or take data.
type Streaming = fn(&mut Client, &str) -> Result<(), Error>;

const STREAMING: [(&str, &str, Streaming); 4] = [
    ("query_raw", "SELECT 1", |client, sql| {
        let statement = lost(client, sql);
        client.query_raw(&statement, Vec::<i32>::new()).map(drop)
    }),
    ("copy_out", "COPY (SELECT 1) TO STDOUT", |client, sql| {
        let statement = lost(client, sql);
        client.copy_out(&statement).map(drop)
    }),
    ("copy_in", "COPY streamed FROM STDIN", |client, sql| {
        let statement = lost(client, sql);
        client.copy_in(&statement).map(drop)
    }),
    ("bind", "SELECT 1", |client, sql| {
        let statement = lost(client, sql);
        client.transaction()?.bind(&statement, &[]).map(drop)
    }),
];

fn lost(client: &mut Client, sql: &str) -> fairpool_postgres::Statement {
    let statement = client.prepare(sql).unwrap();
    client.batch_execute("DEALLOCATE ALL").unwrap();
    statement
}

#[test]
fn a_fatal_error_of_a_call_whose_answer_is_read_later_retires_the_connection() {
    let _database = own_database("streamed");
    psql("CREATE TABLE streamed (n int)");
    // On this level the text itself does not retire it.
    let manager = manager().reset_on_return(Reset::Off);
    for (what, sql, call) in STREAMING {
        let mut client = manager.connect().unwrap();
        let error = call(&mut client, sql).expect_err("the statement is lost");
        assert_eq!(error.code().map(|code| code.code()), Some("26000"), "{what}");
        assert!(manager.has_broken(&mut client), "{what}");
    }
    let mut client = manager.connect().unwrap();
    client.query_raw("SELECT 1", Vec::<i32>::new()).unwrap();
    assert!(!manager.has_broken(&mut client), "without an error");
}

/// The driver is out of step with the server then: the next caller would have answers of others.
#[test]
fn p10_a_refused_copy_is_nothing_to_the_next_caller() {
    for reset in [Reset::Off, Reset::Rollback, Reset::Session] {
        let pool = builder().max_size(1).build(manager().reset_on_return(reset)).unwrap();
        for number in 0..5 {
            assert!(pool.get().unwrap().copy_in("COPY no_such_table FROM STDIN").is_err());
            for answer in ["a", "b"] {
                let mut conn = pool.get().unwrap();
                assert_eq!(ask(&mut conn, &format!("SELECT '{answer}'")), answer, "{reset:?}");
            }
            assert_eq!(pool.stats().closed.broken, number + 1, "{reset:?}");
        }
        // What cannot be prepared is not sent.
        assert!(pool.get().unwrap().copy_in("COPY this is no SQL").is_err());
        assert_eq!(ask(&mut pool.get().unwrap(), "SELECT 'c'"), "c");
        assert_eq!(pool.stats().closed.broken, 5, "{reset:?}");
    }
}

/// Executes a statement with a parameter whose type has changed from `int` to `text`.
type Typed = fn(&mut Client) -> Result<(), Error>;

const INSERT: &str = "INSERT INTO typed VALUES ($1)";
const TYPED: [(&str, Typed); 3] = [
    ("execute", |client| client.execute(INSERT, &[&"x"]).map(drop)),
    ("query", |client| client.query(INSERT, &[&"x"]).map(drop)),
    ("query_raw", |client| client.query_raw(INSERT, ["x"]).map(drop)),
];

#[test]
fn behind_a_transaction_pooler_types_that_have_changed_fail_one_call() {
    let _database = own_database("typed");
    psql("CREATE TABLE typed (n int)");
    let manager = manager().transaction_pooler(true);
    for (what, call) in TYPED {
        let mut client = manager.connect().unwrap();
        client.execute(INSERT, &[&1]).unwrap();
        psql("ALTER TABLE typed ALTER n TYPE text");
        let failures = (0..5).filter(|_| call(&mut client).is_err()).count();
        assert_eq!(failures, 1, "{what}");
        psql("TRUNCATE typed; ALTER TABLE typed ALTER n TYPE int USING 1");
    }
}

/// A round trip, by which everything that was sent before is read.
type RoundTrip = fn(&mut Client) -> Result<(), Error>;

const ROUND_TRIPS: [(&str, RoundTrip); 4] = [
    ("is_valid", |client| client.is_valid(LONG)),
    ("check_connection", Client::check_connection),
    ("execute", |client| client.execute("SELECT 1", &[]).map(drop)),
    ("transaction", |client| client.transaction()?.commit()),
];

#[test]
fn after_a_round_trip_of_any_kind_nothing_is_unread() {
    let manager = manager();
    let mut client = manager.connect().unwrap();
    for (what, round_trip) in ROUND_TRIPS {
        drop(client.query_raw("SELECT generate_series(1, 10)", Vec::<i32>::new()).unwrap());
        assert!(manager.needs_reset(&mut client), "{what}: unread");
        round_trip(&mut client).unwrap();
        assert!(!manager.needs_reset(&mut client), "{what}");
    }
}

#[test]
fn a_check_of_the_holder_that_fails_retires_the_connection() {
    let manager: Manager = manager();
    let mut client = manager.connect().unwrap();
    let pid = backend(&mut client);
    signal("-STOP", pid);
    let result = client.is_valid(millis(50));
    let was_closed = client.is_closed();
    let is_broken = manager.has_broken(&mut client);
    signal("-CONT", pid);
    assert!(result.is_err() && !was_closed, "silent, but not closed: {result:?}");
    assert!(is_broken);
}

#[test]
fn what_the_server_says_is_logged_on_one_line_without_control_characters() {
    start_log();
    let mut client = manager().connect().unwrap();
    let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '26000', \
         MESSAGE = E'statement \"s1\" \\x1b[2J\\n is not plain'; END $$";
    let error = client.batch_execute(raise).unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("\u{1b}[2J\n"), "{error:?}");
    let lines = logged("is not plain");
    let ours: Vec<_> = lines.iter().filter(|(_, line)| line.starts_with("fairpool")).collect();
    assert_eq!(ours.len(), 1, "{lines:?}");
    assert!(!ours[0].1.chars().any(char::is_control), "{ours:?}");
}
