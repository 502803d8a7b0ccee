//! Everything that a session can be left with, on each level of [`Reset`].

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fairpool::ManageConnection;
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
use fairpool_postgres::postgres::{self, IsolationLevel};
use fairpool_postgres::{Client, Reset};

use crate::common::{
    Guard, LONG, Manager, OwnDatabase, backend, builder, named, own_database, psql, session, shared,
};

/// What the next holder meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Stays,
    Gone,
    /// The connection was closed.
    Closed,
}
use Next::{Closed, Gone, Stays};

/// On `Off`, `Rollback`, `Session`, `Always`.
type Levels = [Next; 4];
const LEVELS: [Reset; 4] = [Reset::Off, Reset::Rollback, Reset::Session, Reset::Always];

const TRANSACTION: Levels = [Stays, Gone, Gone, Gone];
const SESSION: Levels = [Stays, Stays, Gone, Gone];
const BEYOND: Levels = [Stays, Stays, Closed, Closed];
/// What the text does not show.
const HIDDEN: Levels = [Stays, Stays, Stays, Gone];

struct Row {
    what: &'static str,
    leave: fn(&mut Client),
    is_left: fn(&mut Client) -> bool,
    next: Levels,
}

const fn row(
    what: &'static str,
    next: Levels,
    leave: fn(&mut Client),
    is_left: fn(&mut Client) -> bool,
) -> Row {
    Row { what, leave, is_left, next }
}

fn does(client: &mut Client, sql: &str) {
    client.batch_execute(sql).expect(sql);
}

fn says(client: &mut Client, sql: &str) -> bool {
    client.query_one(sql, &[]).expect(sql).get(0)
}

fn counts(client: &mut Client, sql: &str) -> bool {
    client.query_one(sql, &[]).expect(sql).get::<_, i64>(0) > 0
}

fn has_written(client: &mut Client) -> bool {
    says(client, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
}

fn work_mem_is_odd(client: &mut Client) -> bool {
    says(client, "SELECT current_setting('work_mem') = '1234kB'")
}

fn has_lock(client: &mut Client) -> bool {
    let sql =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    counts(client, sql)
}

/// Whether the next random number is the first after the seed 0.5.
fn is_seeded(client: &mut Client) -> bool {
    let next: f64 = client.query_one("SELECT random()", &[]).unwrap().get(0);
    does(client, "SELECT setseed(0.5)");
    next == client.query_one("SELECT random()", &[]).unwrap().get::<_, f64>(0)
}

/// Whether the server still works for the last holder, of whom nothing was read.
fn is_active(_: &mut Client) -> bool {
    let pid = PID.load(Ordering::SeqCst);
    psql(&format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}")) == "active"
}

/// The backend of the holder before, for questions that must not be asked on its session.
static PID: AtomicUsize = AtomicUsize::new(0);

fn all_rows() -> Vec<Row> {
    vec![
        row(
            "an open transaction",
            TRANSACTION,
            |client| does(client, "BEGIN; INSERT INTO left_behind VALUES (1)"),
            has_written,
        ),
        row(
            "a failed transaction",
            TRANSACTION,
            |client| drop(client.batch_execute("BEGIN; SELECT 1/0").unwrap_err()),
            |client| client.batch_execute("SELECT 1").is_err(),
        ),
        row(
            "a forgotten transaction object",
            TRANSACTION,
            |client| {
                let mut transaction = client.transaction().unwrap();
                transaction.execute("INSERT INTO left_behind VALUES (1)", &[]).unwrap();
                std::mem::forget(transaction);
            },
            has_written,
        ),
        row(
            "a transaction whose commit chains another",
            TRANSACTION,
            |client| {
                does(client, "BEGIN");
                does(client, "COMMIT AND CHAIN; INSERT INTO left_behind VALUES (1)");
            },
            has_written,
        ),
        row(
            "a half-read result",
            TRANSACTION,
            |client| {
                let mut rows = client.query_raw(BIG, Vec::<i32>::new()).unwrap();
                rows.next().unwrap();
            },
            is_active,
        ),
        row(
            "a half-read COPY",
            TRANSACTION,
            |client| {
                let mut reader = client.copy_out(&format!("COPY ({BIG}) TO STDOUT")).unwrap();
                reader.read_exact(&mut [0; 1]).unwrap();
            },
            is_active,
        ),
        row(
            "an unfinished COPY",
            TRANSACTION,
            |client| {
                let mut writer = client.copy_in("COPY left_behind FROM STDIN").unwrap();
                writer.write_all(b"1\n").unwrap();
                writer.flush().unwrap();
            },
            is_active,
        ),
        row("SET", SESSION, |client| does(client, "SET work_mem = '1234kB'"), work_mem_is_odd),
        row(
            "set_config",
            SESSION,
            |client| {
                let sql = "SELECT set_config('work_mem', $1, false)";
                client.query_one(sql, &[&"1234kB"]).unwrap();
            },
            work_mem_is_odd,
        ),
        row(
            "SET in a transaction that commits",
            SESSION,
            |client| {
                let mut transaction = client.transaction().unwrap();
                let mut savepoint = transaction.savepoint("s").unwrap();
                savepoint.batch_execute("SET work_mem = '1234kB'").unwrap();
                savepoint.commit().unwrap();
                transaction.commit().unwrap();
            },
            work_mem_is_odd,
        ),
        row(
            "statement_timeout and session_replication_role",
            SESSION,
            |client| {
                does(client, "SET statement_timeout = 1234; SET session_replication_role = replica")
            },
            |client| {
                says(client, "SELECT current_setting('statement_timeout') <> '0'")
                    || says(
                        client,
                        "SELECT current_setting('session_replication_role') <> 'origin'",
                    )
            },
        ),
        row(
            "a parameter of the application",
            SESSION,
            |client| does(client, "SET app.tenant = '7'"),
            |client| says(client, "SELECT coalesce(current_setting('app.tenant', true), '') <> ''"),
        ),
        row(
            "SET ROLE",
            SESSION,
            |client| does(client, "SET ROLE app"),
            |client| says(client, "SELECT current_user <> 'postgres'"),
        ),
        row(
            "SET SESSION AUTHORIZATION",
            SESSION,
            |client| does(client, "SET SESSION AUTHORIZATION app"),
            |client| says(client, "SELECT session_user <> 'postgres'"),
        ),
        row(
            "LISTEN",
            SESSION,
            |client| does(client, "LISTEN news"),
            |client| counts(client, "SELECT count(*) FROM pg_listening_channels()"),
        ),
        row(
            "a notification that has arrived",
            SESSION,
            |client| {
                does(client, "LISTEN news");
                psql("NOTIFY news, 'for the last holder'");
                does(client, "SELECT 1");
            },
            |client| client.notifications().iter().next().unwrap().is_some(),
        ),
        row(
            "a temporary table",
            SESSION,
            |client| does(client, "CREATE TEMP TABLE mine (n int)"),
            |client| {
                counts(
                    client,
                    "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
                )
            },
        ),
        row(
            "SELECT INTO TEMP",
            SESSION,
            |client| does(client, "SELECT 1 AS n INTO TEMP mine"),
            |client| {
                counts(
                    client,
                    "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
                )
            },
        ),
        row(
            "a cursor WITH HOLD",
            SESSION,
            |client| does(client, "DECLARE kept CURSOR WITH HOLD FOR SELECT 1"),
            |client| counts(client, "SELECT count(*) FROM pg_cursors WHERE is_holdable"),
        ),
        row(
            "an advisory lock",
            SESSION,
            |client| does(client, "SELECT pg_advisory_lock(7)"),
            has_lock,
        ),
        row(
            "an advisory lock, by a prepared statement",
            SESSION,
            |client| {
                let statement =
                    client.prepare("SELECT pg_try_advisory_lock(pg_backend_pid())").unwrap();
                client.query_one(&statement, &[]).unwrap();
            },
            has_lock,
        ),
        row(
            "statements of an SQL PREPARE",
            SESSION,
            |client| does(client, "PREPARE p AS SELECT 1; PREPARE \"odd \"\"name\" AS SELECT 2"),
            |client| counts(client, "SELECT count(*) FROM pg_prepared_statements WHERE from_sql"),
        ),
        row(
            "what lastval tells",
            SESSION,
            |client| drop(client.query_one("SELECT nextval('numbers')", &[]).unwrap()),
            |client| client.query_one("SELECT lastval()", &[]).is_ok(),
        ),
        row(
            "what a function of the database does",
            SESSION,
            |client| drop(client.query_one("SELECT locks()", &[]).unwrap()),
            has_lock,
        ),
        row(
            "what DO does",
            SESSION,
            |client| does(client, "DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$"),
            has_lock,
        ),
        row(
            "what is done with the driver's client",
            SESSION,
            |client| {
                fn lent(client: &mut postgres::Client) {
                    client.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
                }
                lent(client);
            },
            has_lock,
        ),
        row(
            "what is done with the driver's transaction",
            SESSION,
            |client| {
                fn lent(transaction: &mut postgres::Transaction<'_>) {
                    transaction.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
                }
                let level = IsolationLevel::Serializable;
                let mut transaction =
                    client.build_transaction().isolation_level(level).start().unwrap();
                lent(&mut transaction);
                transaction.rollback().unwrap();
            },
            has_lock,
        ),
        row(
            "LOAD",
            BEYOND,
            |client| does(client, "LOAD 'auto_explain'"),
            |client| {
                says(client, "SELECT current_setting('auto_explain.log_analyze', true) IS NOT NULL")
            },
        ),
        row(
            "the seed of random, by setseed",
            SESSION,
            |client| does(client, "SELECT setseed(0.5)"),
            is_seeded,
        ),
        row("the seed of random", SESSION, |client| does(client, "SET seed = 0.5"), is_seeded),
        row(
            "the seed of random, by set_config with a parameter",
            SESSION,
            |client| {
                client.query_one("SELECT set_config($1, '0.5', false)", &[&"seed"]).unwrap();
            },
            is_seeded,
        ),
        row(
            "the seed of random, by DO",
            SESSION,
            |client| does(client, "DO $$ BEGIN PERFORM setseed(0.5); END $$"),
            is_seeded,
        ),
        row("DISCARD ALL", BEYOND, |client| does(client, "DISCARD ALL"), |_| true),
        row(
            "DEALLOCATE of a statement of the driver",
            BEYOND,
            |client| {
                let statement = client.prepare("SELECT 12345").unwrap();
                let name = "SELECT name FROM pg_prepared_statements \
                     WHERE statement = 'SELECT 12345'";
                let name: String = client.query_one(name, &[]).unwrap().get(0);
                does(client, &format!("DEALLOCATE {name}"));
                // Its drop would close what is no longer there.
                std::mem::forget(statement);
            },
            |_| true,
        ),
        row(
            "what a trigger does",
            HIDDEN,
            |client| does(client, "INSERT INTO triggering VALUES (1)"),
            has_lock,
        ),
    ]
}

/// Far more than the buffers between server and client hold.
const BIG: &str = "SELECT repeat('x', 10000), generate_series(1, 10000)";

fn make_objects(name: &'static str) -> OwnDatabase {
    let database = own_database(name);
    psql(
        "CREATE TABLE left_behind (n int); CREATE SEQUENCE numbers; \
         CREATE FUNCTION locks() RETURNS int LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_lock(7); RETURN 1; END'; \
         CREATE TABLE triggering (n int); \
         CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_lock(7); RETURN NEW; END'; \
         CREATE TRIGGER t BEFORE INSERT ON triggering FOR EACH ROW EXECUTE FUNCTION on_insert(); \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
    );
    database
}

/// What the next holder meets after `leave`.
fn next_holder(reset: Reset, row: &Row) -> Next {
    let manager = named("rows").reset_on_return(reset);
    let pool = builder().max_size(1).build(manager).unwrap();
    let mut conn = pool.get().unwrap();
    let before = backend(&mut conn);
    PID.store(before as usize, Ordering::SeqCst);
    (row.leave)(&mut conn);
    drop(conn);
    let mut conn = pool.get().unwrap();
    let is_left = (row.is_left)(&mut conn);
    // In a transaction that has failed, the session cannot be asked.
    match conn.query_one("SELECT pg_backend_pid()", &[]) {
        Ok(now) if now.get::<_, i32>(0) != before => Closed,
        _ if is_left => Stays,
        _ => Gone,
    }
}

#[test]
fn every_row_of_the_table_of_what_a_session_can_be_left_with() {
    let _database = make_objects("rows");
    for row in all_rows() {
        for (reset, expected) in LEVELS.into_iter().zip(row.next) {
            assert_eq!(next_holder(reset, &row), expected, "{}, {reset:?}", row.what);
        }
    }
    assert_eq!(psql("SELECT count(*) FROM left_behind"), "0");
}

#[test]
fn by_default_a_forgotten_begin_does_not_lose_the_next_holders_write() {
    let _database = make_objects("forgotten_begin");
    let mut kept = Vec::new();
    for manager in [named("begin").reset_on_return(Reset::Off), named("begin")] {
        let pool = builder().max_size(1).build(manager).unwrap();
        for n in 0..20 {
            pool.get().unwrap().batch_execute("BEGIN").unwrap();
            let insert = "INSERT INTO left_behind VALUES ($1)";
            pool.get().unwrap().execute(insert, &[&n]).unwrap();
        }
        assert!(pool.close(std::time::Instant::now() + LONG).is_complete());
        kept.push(psql("SELECT count(*) FROM left_behind"));
    }
    println!(
        "figure: kept of 20 writes after a forgotten BEGIN: off {}, default {}",
        kept[0], kept[1]
    );
    assert_eq!(kept, ["0", "20"]);
}

#[test]
fn by_default_no_borrower_reads_the_last_ones_notifications() {
    let _database = make_objects("notifications");
    let mut read = Vec::new();
    for manager in [named("news").reset_on_return(Reset::Off), named("news")] {
        let pool = builder().max_size(1).build(manager).unwrap();
        let mut others = 0;
        for _ in 0..20 {
            let mut conn = pool.get().unwrap();
            others += conn.notifications().iter().count().unwrap();
            conn.batch_execute("LISTEN news").unwrap();
            psql("NOTIFY news, 'mine'");
            conn.batch_execute("SELECT 1").unwrap();
        }
        read.push(others);
    }
    println!("figure: others' messages read in 20 uses: off {}, default {}", read[0], read[1]);
    assert_eq!(read, [19, 0]);
}

/// A manager that counts resets.
struct Counting {
    manager: Manager,
    resets: Arc<AtomicUsize>,
}

impl ManageConnection for Counting {
    type Connection = Client;
    type Error = postgres::Error;

    fn connect(&self) -> Result<Client, postgres::Error> {
        self.manager.connect()
    }

    fn is_valid(&self, client: &mut Client) -> Result<(), postgres::Error> {
        self.manager.is_valid(client)
    }

    fn has_broken(&self, client: &mut Client) -> bool {
        self.manager.has_broken(client)
    }

    fn needs_reset(&self, client: &mut Client) -> bool {
        self.manager.needs_reset(client)
    }

    fn reset(&self, client: &mut Client) -> Result<(), postgres::Error> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.manager.reset(client)
    }
}

#[test]
fn a_use_that_left_nothing_is_not_reset() {
    let _database = make_objects("clean_uses");
    let resets = Arc::new(AtomicUsize::new(0));
    let manager = named("clean").harmless_functions(["double*"]);
    let manager = Counting { manager, resets: Arc::clone(&resets) };
    psql("CREATE FUNCTION double_it(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'");
    let pool = fairpool::Pool::builder().max_size(1).build(manager).unwrap();
    for n in 0..20 {
        let mut conn = pool.get().unwrap();
        conn.query_one("SELECT count(*) FROM left_behind WHERE n = $1", &[&n]).unwrap();
        conn.query_one("SELECT double_it($1)", &[&n]).unwrap();
        let statement = conn.prepare("SELECT lower($1::text)").unwrap();
        conn.query(&statement, &[&"A"]).unwrap();
        let mut transaction = conn.transaction().unwrap();
        transaction.execute("INSERT INTO left_behind VALUES ($1)", &[&n]).unwrap();
        transaction.batch_execute("SET LOCAL work_mem = '1MB'").unwrap();
        let rows = transaction.query_raw("TABLE left_behind", Vec::<i32>::new()).unwrap();
        drop(rows);
        if n % 2 == 0 {
            transaction.commit().unwrap();
        } else {
            drop(transaction);
        }
        conn.batch_execute("BEGIN; DELETE FROM left_behind; COMMIT").unwrap();
        conn.batch_execute("BEGIN").unwrap();
        conn.batch_execute("ROLLBACK").unwrap();
    }
    drop(pool.get().unwrap());
    assert_eq!(resets.load(Ordering::SeqCst), 0);
    // The count can be above zero.
    pool.get().unwrap().batch_execute("SET work_mem = '1MB'").unwrap();
    drop(pool.get().unwrap());
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}

#[test]
fn a_reset_of_a_session_that_is_listened_on_frees_what_has_arrived() {
    let pool = builder().max_size(1).build(named("flood")).unwrap();
    let mut conn = pool.get().unwrap();
    conn.batch_execute("LISTEN flood").unwrap();
    let flood =
        "SELECT count(pg_notify('flood', n || repeat('x', 1000))) FROM generate_series(1, 5000) n";
    let mut other = session(shared());
    other.batch_execute(flood).unwrap();
    conn.batch_execute("SELECT 1").unwrap();
    assert_eq!(conn.notifications().len(), 5000);
    drop(conn);
    assert_eq!(pool.get().unwrap().notifications().len(), 0);
}

#[test]
fn a_half_read_result_does_not_hold_up_the_next_holder_for_longer_than_the_reset_may_take() {
    let endless = "SELECT repeat('x', 10000), generate_series(1, 1000000000)";
    let pool = builder().max_size(1).reset_timeout(Duration::from_millis(300));
    let pool = pool.build(named("endless")).unwrap();
    let mut conn: Guard = pool.get().unwrap();
    let before = backend(&mut conn);
    conn.query_raw(endless, Vec::<i32>::new()).unwrap().next().unwrap();
    drop(conn);
    // In a thread, so that a failure is not a test that hangs.
    let next = thread::spawn(move || backend(&mut pool.get().unwrap()));
    let took = crate::common::wait_until("the next holder is served", || next.is_finished());
    println!("figure: behind an endless result the next holder is served after {took:.1?}");
    assert_ne!(next.join().unwrap(), before);
    psql(&format!("SELECT pg_terminate_backend({before})"));
}
