//! Writes that a server refuses because it has changed its role, in all the ways in which a client
//! can write: nobody else is lent a connection to it before its role is asked for.

use std::io::Write as _;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use fairpool::{ManageConnection, Pool};
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator as _;
use fairpool_postgres::postgres::{self, Error};
use fairpool_postgres::{Client, Reset};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::Cluster;
use fairpool_servers::pair::Pair;

use crate::common::{Manager, PROMPT, builder, show, take_all};
use crate::roles::{read_write, turn_read_only, turn_read_write, two_primaries};

const SIZE: u32 = 8;
const INSERT: &str = "INSERT INTO item VALUES (1)";

type Write = fn(&mut Client) -> Result<(), Error>;

/// Ways to write in which a refusal was known only in the reset, or never.
const WRITES: [(&str, Write); 9] = [
    ("copy_in", copy),
    ("query_raw", |client| client.query_raw(INSERT, Vec::<i32>::new())?.count().map(drop)),
    ("query_typed_raw", |client| {
        let rows = client.query_typed_raw(INSERT, Vec::<(i32, _)>::new())?;
        rows.count().map(drop)
    }),
    ("a prepared statement of the driver", |client| {
        let lent: &mut postgres::Client = client;
        let statement = lent.prepare(INSERT)?;
        client.execute(&statement, &[]).map(drop)
    }),
    ("beside parameters", |client| {
        client.batch_execute("SET work_mem = '1MB'")?;
        client.batch_execute(INSERT)
    }),
    ("before a commit", |client| {
        let mut transaction = client.transaction()?;
        let refused = transaction.batch_execute(INSERT);
        transaction.commit()?;
        refused
    }),
    ("copy_in in a transaction", |client| {
        let mut transaction = client.transaction()?;
        transaction.copy_in("COPY item FROM STDIN")?.finish()?;
        transaction.commit()
    }),
    ("a transaction that is left open", |client| {
        client.batch_execute("BEGIN")?;
        client.batch_execute(INSERT)?;
        client.batch_execute("COMMIT")
    }),
    ("a transaction that is forgotten", |client| {
        let mut transaction = client.transaction()?;
        if let Err(refused) = transaction.execute(INSERT, &[]) {
            std::mem::forget(transaction);
            return Err(refused);
        }
        transaction.commit()
    }),
];

fn copy(client: &mut Client) -> Result<(), Error> {
    let mut rows = client.copy_in("COPY item FROM STDIN")?;
    rows.write_all(b"1\n").unwrap();
    rows.finish().map(drop)
}

fn is_read_only(error: &Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

#[test]
fn p13_a_refused_write_of_any_kind_costs_a_single_user_one_error() {
    let pair = two_primaries();
    let mut wrong = Vec::new();
    for (what, write) in WRITES {
        let unchecked = builder().max_size(SIZE).test_on_check_out(false);
        let pool = unchecked.build(read_write(pair.config())).unwrap();
        drop(take_all(&pool));
        write(&mut pool.get().unwrap()).unwrap();
        turn_read_only(pair.first());
        let failed: Vec<_> =
            (0..100).filter_map(|_| write(&mut pool.get().unwrap()).err()).collect();
        assert!(failed.iter().all(is_read_only), "{what}: {failed:?}");
        println!("figure: {what}: {} of 100 writes failed; {}", failed.len(), pool.stats());
        drop(take_all(&pool));
        if (failed.len(), pool.stats().closed.broken) != (1, 1) {
            wrong.push((what, failed.len(), pool.stats().closed));
        }
        turn_read_write(pair.first());
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// PgBouncer keeps its clients while the server behind it becomes a standby.
#[test]
fn p13_refused_rows_through_pgbouncer_cost_a_single_user_one_error() {
    let pair = Pair::start();
    pair.first().psql("CREATE TABLE item (n int)");
    let bouncers = [pair.first(), pair.second()].map(|server| Bouncer::start(server.port(), SIZE));
    let mut config = bouncers[0].config();
    let [port] = bouncers[1].config().get_ports().try_into().unwrap();
    config.host("127.0.0.1").port(port);
    let manager = read_write(config).transaction_pooler(true);
    let pool = builder().max_size(SIZE).test_on_check_out(false).build(manager).unwrap();
    let write = || pool.get().unwrap().query_raw(INSERT, Vec::<i32>::new())?.count();
    drop(take_all(&pool));
    pair.switch_over();
    let failed: Vec<_> = (0..50).filter_map(|_| write().err()).collect();
    println!("figure: through PgBouncer: {} of 50 writes failed; {}", failed.len(), pool.stats());
    // The sessions of PgBouncer ended with the old primary, which is an error of its own.
    let refused = failed.iter().filter(|error| is_read_only(error)).count();
    assert!(refused <= 1, "{refused}");
    assert!(pool.stats().closed.broken >= 1, "{}", pool.stats());
}

#[test]
fn p13_what_a_user_makes_read_only_is_no_fault_however_it_writes() {
    let cluster = Cluster::start();
    cluster.psql("CREATE TABLE item (n int)");
    for reset in [Reset::Off, Reset::Rollback, Reset::Session, Reset::Always] {
        let manager = read_write(cluster.config()).reset_on_return(reset);
        let mut client = manager.connect().unwrap();
        // A refused COPY ends the connection in any case.
        for (what, write) in WRITES.into_iter().filter(|(what, _)| !what.starts_with("copy_in")) {
            client.batch_execute("SET default_transaction_read_only = on").unwrap();
            assert!(is_read_only(&write(&mut client).unwrap_err()), "{what}");
            assert!(!manager.has_broken(&mut client), "{what}, {reset:?}");
            if manager.needs_reset(&mut client) {
                manager.reset(&mut client).unwrap();
            }
            // No transaction is open.
            client.batch_execute("SET default_transaction_read_only = off").unwrap();
            assert_eq!(show(&mut client, "transaction_read_only"), "off", "{what}, {reset:?}");
            write(&mut client).unwrap();
            assert!(!manager.has_broken(&mut client), "{what}, {reset:?}");
            if manager.needs_reset(&mut client) {
                manager.reset(&mut client).unwrap();
            }
        }
    }
}

/// Nobody reads the answer, so that only the reset can ask.
#[test]
fn p13_a_refused_write_that_nobody_heard_of_makes_the_reset_ask() {
    let pair = two_primaries();
    let unchecked = builder().max_size(1).test_on_check_out(false);
    let pool = unchecked.build(read_write(pair.config())).unwrap();
    let mut conn = pool.get().unwrap();
    turn_read_only(pair.first());
    drop(conn.query_raw(INSERT, Vec::<i32>::new()).unwrap());
    drop(conn);
    assert_eq!(show(&mut pool.get().unwrap(), "port"), pair.second().port().to_string());
    assert_eq!(pool.stats().closed.broken, 1, "{}", pool.stats());
}

/// A use whose write was refused, and its return, on a server that falls silent in between.
#[test]
fn p1_a_return_after_a_refused_write_does_not_wait_for_a_silent_server() {
    let cluster = Cluster::start();
    cluster.psql("CREATE TABLE item (n int)");
    let pool: Pool<Manager> = builder().max_size(1).build(read_write(cluster.config())).unwrap();
    let mut conn = pool.get().unwrap();
    turn_read_only(&cluster);
    let rows = conn.query_raw(INSERT, Vec::<i32>::new()).unwrap();
    assert!(is_read_only(&rows.count().unwrap_err()));
    let frozen = cluster.freeze();
    let (send, returned) = mpsc::channel();
    thread::spawn(move || {
        let started = Instant::now();
        drop(conn);
        send.send(started.elapsed()).unwrap();
    });
    let took = returned.recv_timeout(PROMPT);
    println!("figure: the return took {took:?}");
    drop(frozen);
    took.expect("it hangs");
    assert_eq!(pool.stats().closed.broken, 1, "{}", pool.stats());
}
