//! Statements that connections keep prepared.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use fairpool::Pool;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
use fairpool_postgres::postgres::types::private::BytesMut;
use fairpool_postgres::postgres::types::{IsNull, Kind, ToSql, Type, to_sql_checked};
use fairpool_postgres::postgres::{self, IsolationLevel};
use fairpool_postgres::{Client, Reset, Transaction, TransactionOptions, transaction};

use crate::common::{
    Guard, Manager, builder, manager, named, own_database, psql, take_all, wait_until,
};

const LEVELS: [Reset; 4] = [Reset::Off, Reset::Rollback, Reset::Session, Reset::Always];

fn pool_of(size: u32, manager: Manager) -> Pool<Manager> {
    builder().max_size(size).build(manager).unwrap()
}

/// How many statements of the driver's the session has, without the one that asks.
fn on_server(conn: &mut Client) -> usize {
    let sql = "SELECT name FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$'";
    let answer = conn.simple_query(sql).unwrap();
    answer.iter().filter(|m| matches!(m, postgres::SimpleQueryMessage::Row(_))).count()
}

fn code(result: Result<impl Sized, postgres::Error>) -> Option<SqlState> {
    result.err().and_then(|error| error.code().cloned())
}

/// Two columns and then three, or the other way round.
struct Columns(bool);

impl Columns {
    fn change(&mut self, table: &str) {
        self.0 = !self.0;
        let what = if self.0 { "ADD COLUMN more int" } else { "DROP COLUMN more" };
        psql(&format!("ALTER TABLE {table} {what}"));
    }
}

#[test]
fn a_text_is_prepared_once_per_connection_and_shared_across_checkouts() {
    for reset in LEVELS {
        let pool = pool_of(1, manager().reset_on_return(reset));
        for n in 0..20 {
            let mut conn = pool.get().unwrap();
            assert_eq!(conn.query_one("SELECT $1::int", &[&n]).unwrap().get::<_, i32>(0), n);
            assert_eq!(conn.execute("SELECT $1::int", &[&n]).unwrap(), 1);
            assert_eq!(conn.query("SELECT $1::int", &[&n]).unwrap().len(), 1);
            assert!(conn.query_opt("SELECT $1::int", &[&n]).unwrap().is_some());
            // So that there is something to reset.
            conn.batch_execute("SET lock_timeout = 0; SELECT pg_advisory_lock(1)").unwrap();
        }
        let counts = pool.manager().statements();
        assert_eq!((counts.prepared, counts.hits), (1, 79), "{reset:?}");
        assert_eq!((counts.evicted, counts.invalidated), (0, 0), "{reset:?}");
        assert_eq!(on_server(&mut pool.get().unwrap()), 1, "{reset:?}");
    }
}

#[test]
fn transactions_and_savepoints_share_them() {
    let pool = pool_of(1, manager());
    for _ in 0..3 {
        let mut conn = pool.get().unwrap();
        let mut transaction = conn.transaction().unwrap();
        transaction.query_one("SELECT 1", &[]).unwrap();
        let mut inner = transaction.transaction().unwrap();
        inner.query_one("SELECT 1", &[]).unwrap();
        inner.rollback().unwrap();
        transaction.query_one("SELECT 1", &[]).unwrap();
        transaction.rollback().unwrap();
        conn.query_one("SELECT 1", &[]).unwrap();
    }
    let counts = pool.manager().statements();
    assert_eq!((counts.prepared, counts.hits), (1, 11));
}

#[test]
fn a_statement_prepared_in_a_transaction_that_is_rolled_back_stays() {
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    let mut transaction = conn.transaction().unwrap();
    transaction.query_one("SELECT 2", &[]).unwrap();
    let refused = transaction.query_one("SELECT 1 / 0", &[]);
    assert_eq!(code(refused), Some(SqlState::DIVISION_BY_ZERO));
    // In a transaction that has failed, kept statements fail as all do.
    let refused = transaction.query_one("SELECT 2", &[]);
    assert_eq!(code(refused), Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    drop(transaction);
    assert_eq!(conn.query_one("SELECT 2", &[]).unwrap().get::<_, i32>(0), 2);
    assert_eq!(code(conn.query_one("SELECT 1 / 0", &[])), Some(SqlState::DIVISION_BY_ZERO));
    assert_eq!(pool.manager().statements().prepared, 2);
}

#[test]
fn a_connection_keeps_no_more_than_the_setting_and_the_last_used() {
    let pool = pool_of(1, manager().statement_cache(2));
    let mut conn = pool.get().unwrap();
    for n in [1, 2, 1, 3, 1, 4, 1] {
        let row = conn.query_one(&format!("SELECT {n}"), &[]).unwrap();
        assert_eq!(row.get::<_, i32>(0), n);
        assert!(on_server(&mut conn) <= 2);
    }
    let counts = pool.manager().statements();
    assert_eq!((counts.prepared, counts.hits, counts.evicted), (4, 3, 2));
}

#[test]
fn zero_keeps_nothing() {
    let pool = pool_of(1, manager().statement_cache(0));
    for _ in 0..5 {
        let mut conn = pool.get().unwrap();
        conn.query_one("SELECT 1", &[]).unwrap();
        let statement = conn.prepare("SELECT 2").unwrap();
        conn.query_one(&statement, &[]).unwrap();
        drop(statement);
        assert_eq!(on_server(&mut conn), 0);
    }
    assert_eq!(pool.manager().statements(), Default::default());
}

#[test]
fn a_text_of_16_kib_is_kept_and_a_longer_one_is_not() {
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    let text = |size: usize| format!("SELECT 1 -- {}", "x".repeat(size - 12));
    for (size, kept) in [(16 * 1024, 1), (16 * 1024 + 1, 1)] {
        for _ in 0..2 {
            conn.query_one(&text(size), &[]).unwrap();
        }
        assert_eq!(on_server(&mut conn), kept, "{size}");
    }
}

#[test]
fn what_a_program_prepares_itself_is_kept_too() {
    let pool = pool_of(1, manager());
    for _ in 0..3 {
        let mut conn = pool.get().unwrap();
        let statement = conn.prepare("SELECT $1::int").unwrap();
        assert_eq!(conn.query_one(&statement, &[&7]).unwrap().get::<_, i32>(0), 7);
        assert_eq!(conn.query_one("SELECT $1::int", &[&8]).unwrap().get::<_, i32>(0), 8);
        // With types of its own it is another statement.
        let typed = conn.prepare_typed("SELECT $1", &[Type::INT4]).unwrap();
        assert_eq!(conn.query_one(&typed, &[&9]).unwrap().get::<_, i32>(0), 9);
        assert_eq!(conn.query_one("SELECT $1", &[&"x"]).unwrap().get::<_, &str>(0), "x");
    }
    assert_eq!(pool.manager().statements().prepared, 2);
}

#[test]
fn rows_that_are_read_later_take_types_from_them() {
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    let sql = "SELECT generate_series(1, $1::int)";
    let rows = |conn: &mut Guard| conn.query_raw(sql, [3]).unwrap().count().unwrap();
    assert_eq!(rows(&mut conn), 3);
    conn.query(sql, &[&3]).unwrap();
    assert_eq!(rows(&mut conn), 3);
    assert_eq!(pool.manager().statements().hits, 1);
    let wrong = conn.query_raw(sql, [3, 4]).err().map(|error| error.to_string());
    assert_eq!(wrong.as_deref(), Some("expected 1 parameters but got 2"));
}

#[test]
fn ddl_costs_nobody_an_error_outside_transactions() {
    let _database = own_database("kept_ddl");
    psql("CREATE TABLE item (id int, name text)");
    for reset in LEVELS {
        let pool = pool_of(4, manager().reset_on_return(reset));
        let read = |conn: &mut Guard| {
            let columns = conn.query_opt("SELECT * FROM item", &[]);
            columns.unwrap_or_else(|error| panic!("{reset:?}: {error}"))
        };
        take_all(&pool).iter_mut().for_each(|conn| drop(read(conn)));
        let mut columns = Columns(false);
        for changes in 1..=4 {
            columns.change("item");
            psql("INSERT INTO item (id) VALUES (1)");
            for conn in &mut take_all(&pool) {
                assert_eq!(read(conn).expect("a row").len(), 2 + usize::from(columns.0));
            }
            psql("DELETE FROM item");
            // The first to notice tells the others.
            assert_eq!(pool.manager().statements().invalidated, changes);
        }
        assert_eq!(pool.stats().closed.total(), 0, "{reset:?}");
    }
}

#[test]
fn a_transaction_begins_again_if_its_first_statement_is_outdated() {
    let _database = own_database("kept_begin");
    psql("CREATE TABLE item (id int)");
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    conn.query("SELECT * FROM item", &[]).unwrap();
    let mut columns = Columns(false);
    for (level, expected) in [
        (IsolationLevel::Serializable, "serializable"),
        (IsolationLevel::RepeatableRead, "repeatable read"),
    ] {
        columns.change("item");
        let builder = conn.build_transaction().isolation_level(level).read_only(true);
        let mut transaction = builder.deferrable(true).start().unwrap();
        transaction.query("SELECT * FROM item", &[]).unwrap();
        let shown = |transaction: &mut fairpool_postgres::Transaction<'_>, name: &str| {
            transaction.query_one(&format!("SHOW {name}"), &[]).unwrap().get::<_, String>(0)
        };
        assert_eq!(shown(&mut transaction, "transaction_isolation"), expected);
        assert_eq!(shown(&mut transaction, "transaction_read_only"), "on");
        assert_eq!(shown(&mut transaction, "transaction_deferrable"), "on");
        transaction.commit().unwrap();
    }
    columns.change("item");
    let mut transaction = conn.transaction().unwrap();
    transaction.query("SELECT * FROM item", &[]).unwrap();
    transaction.execute("INSERT INTO item (id) VALUES (1)", &[]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(conn.query("SELECT * FROM item", &[]).unwrap().len(), 1);
}

#[test]
fn later_in_a_transaction_an_outdated_statement_fails_once_and_the_connection_stays() {
    let _database = own_database("kept_later");
    psql("CREATE TABLE item (id int)");
    for reset in LEVELS {
        let pool = pool_of(2, manager().reset_on_return(reset));
        let work = |conn: &mut Guard| {
            let mut transaction = conn.transaction()?;
            transaction.execute("SELECT 1", &[])?;
            transaction.query("SELECT id FROM item", &[])?;
            transaction.commit()
        };
        take_all(&pool).iter_mut().for_each(|conn| work(conn).unwrap());
        psql("ALTER TABLE item ALTER COLUMN id TYPE bigint");
        let failed: Vec<_> =
            take_all(&pool).iter_mut().filter_map(|conn| code(work(conn))).collect();
        assert_eq!(failed, [SqlState::FEATURE_NOT_SUPPORTED], "{reset:?}");
        take_all(&pool).iter_mut().for_each(|conn| work(conn).unwrap());
        assert_eq!(pool.stats().closed.total(), 0, "{reset:?}");
        psql("ALTER TABLE item ALTER COLUMN id TYPE int");
    }
}

#[test]
fn a_transaction_that_may_run_again_hides_a_change_of_the_schema_whenever_it_comes() {
    let _database = own_database("kept_again");
    psql("CREATE TABLE item (id int)");
    let pool = pool_of(1, manager());
    let mut runs = 0;
    for change in ["ALTER COLUMN id TYPE bigint", "ALTER COLUMN id TYPE text", "ADD COLUMN n int"] {
        let work = |transaction: &mut Transaction<'_>| {
            runs += 1;
            transaction.execute("SELECT 1", &[])?;
            transaction.query("SELECT id FROM item", &[]).map(drop)
        };
        transaction(&pool, TransactionOptions::new(), work).unwrap();
        psql(&format!("ALTER TABLE item {change}"));
    }
    // The second and the third time it had changed. The last change is of no column that it names.
    let work =
        |transaction: &mut Transaction<'_>| transaction.query("SELECT id FROM item", &[]).map(drop);
    transaction(&pool, TransactionOptions::new(), work).unwrap();
    assert_eq!(runs, 5);
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn a_parameter_whose_type_has_changed_is_prepared_again() {
    let _database = own_database("kept_types");
    psql("CREATE TABLE item (id int, code int); INSERT INTO item VALUES (1, 7)");
    let pool = pool_of(2, manager());
    let mut both = take_all(&pool);
    let (of_int, of_text) = ("SELECT id FROM item WHERE code = $1", "UPDATE item SET code = $1");
    for conn in &mut both {
        assert_eq!(conn.query(of_int, &[&7]).unwrap().len(), 1);
        conn.execute(of_text, &[&7]).unwrap();
    }
    psql("ALTER TABLE item ALTER COLUMN code TYPE text");
    for conn in &mut both {
        // The value is now of the wrong type, which only the driver can know.
        let error = conn.query(of_int, &[&7]).unwrap_err();
        assert!(error.to_string().contains("parameter 0"), "{error}");
        assert_eq!(conn.query(of_int, &[&"7"]).unwrap().len(), 1);
        assert_eq!(conn.execute(of_text, &[&"7"]).unwrap(), 1);
    }
}

/// A value of an enum, whatever that is called.
#[derive(Debug)]
struct Mood(&'static str);

impl ToSql for Mood {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }

    to_sql_checked!();
}

#[test]
fn types_that_were_dropped_and_created_again_are_learnt_again() {
    let _database = own_database("kept_enum");
    let create =
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE person (name text, mood mood)";
    psql(create);
    let pool = pool_of(2, manager());
    let work = |conn: &mut Guard| {
        conn.execute("INSERT INTO person VALUES ($1, $2)", &[&"x", &Mood("good")])?;
        conn.execute("UPDATE person SET mood = (SELECT mood FROM person LIMIT 1)", &[])?;
        conn.query("SELECT * FROM person WHERE mood = $1", &[&Mood("good")])
    };
    for _ in 0..3 {
        for conn in &mut take_all(&pool) {
            work(conn).unwrap();
        }
        psql(&format!("DROP TABLE person; DROP TYPE mood; {create}"));
    }
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn temporary_tables_of_the_same_name_are_each_their_own() {
    let pool = pool_of(1, manager());
    for n in 0..6 {
        let mut conn = pool.get().unwrap();
        let mut transaction = conn.transaction().unwrap();
        let columns: Vec<_> = (0..=n).map(|n| format!("{n} AS c{n}")).collect();
        let create =
            format!("CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT {}", columns.join(", "));
        transaction.execute(&create, &[]).unwrap();
        let row = transaction.query_one("SELECT * FROM scratch", &[]).unwrap();
        assert_eq!(row.len(), n + 1);
        transaction.commit().unwrap();
    }
    // And without a transaction.
    for n in 0..6 {
        let mut conn = pool.get().unwrap();
        let columns: Vec<_> = (0..=n).map(|n| format!("{n} AS c{n}")).collect();
        conn.batch_execute(&format!("CREATE TEMP TABLE scratch AS SELECT {}", columns.join(", ")))
            .unwrap();
        assert_eq!(conn.query_one("SELECT * FROM scratch", &[]).unwrap().len(), n + 1);
    }
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn a_temporary_table_hides_one_of_the_same_name() {
    let _database = own_database("kept_hidden");
    psql("CREATE TABLE item AS SELECT 'all' AS whose");
    let pool = pool_of(1, manager());
    let whose = |conn: &mut Guard| {
        let row = conn.query_one("SELECT * FROM item", &[]).unwrap();
        row.get::<_, String>(0)
    };
    for _ in 0..3 {
        let mut conn = pool.get().unwrap();
        assert_eq!(whose(&mut conn), "all");
        conn.execute("CREATE TEMP TABLE item AS SELECT 'mine' AS whose, 1 AS more", &[]).unwrap();
        assert_eq!(whose(&mut conn), "mine");
        drop(conn);
        assert_eq!(whose(&mut pool.get().unwrap()), "all");
    }
}

#[test]
fn each_tenant_by_search_path_gets_its_own_table() {
    let _database = own_database("kept_path");
    for (tenant, columns) in [("a", "1 AS id"), ("b", "1 AS id, 2 AS more")] {
        psql(&format!("CREATE SCHEMA {tenant}; CREATE TABLE {tenant}.item AS SELECT {columns}"));
    }
    let pool = pool_of(1, manager());
    let set: [fn(&str) -> String; 5] = [
        |tenant| format!("SET search_path TO {tenant}"),
        |tenant| format!("SET SCHEMA '{tenant}'"),
        |tenant| format!("SET LOCAL SCHEMA '{tenant}'"),
        |tenant| format!("SET LOCAL \"search_path\" TO {tenant}"),
        |tenant| format!("SELECT set_config('search_path', '{tenant}', false)"),
    ];
    for set in set {
        for (tenant, columns) in [("a", 1), ("b", 2), ("a", 1), ("b", 2)] {
            let mut conn = pool.get().unwrap();
            let mut transaction = conn.transaction().unwrap();
            transaction.execute(&set(tenant), &[]).unwrap();
            let row = transaction.query_one("SELECT * FROM item", &[]).unwrap();
            assert_eq!(row.len(), columns, "{}", set(tenant));
            transaction.commit().unwrap();
        }
    }
    assert_eq!(pool.manager().statements().invalidated, 0);
}

#[test]
fn after_its_own_ddl_a_use_prepares_anew() {
    let _database = own_database("kept_own");
    psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1)");
    let pool = pool_of(1, manager());
    for n in 0..4 {
        let mut conn = pool.get().unwrap();
        assert_eq!(conn.query_one("SELECT * FROM item", &[]).unwrap().len(), n + 1);
        let mut transaction = conn.transaction().unwrap();
        transaction.execute(&format!("ALTER TABLE item ADD COLUMN c{n} int"), &[]).unwrap();
        assert_eq!(transaction.query_one("SELECT * FROM item", &[]).unwrap().len(), n + 2);
        transaction.commit().unwrap();
    }
    // A column by its name, whose type changes in the middle of the transaction.
    for kind in ["bigint", "int", "bigint"] {
        let mut conn = pool.get().unwrap();
        conn.query_one("SELECT id FROM item", &[]).unwrap();
        let mut transaction = conn.transaction().unwrap();
        let change = format!("ALTER TABLE item ALTER COLUMN id TYPE {kind}");
        transaction.execute(&change, &[]).unwrap();
        transaction.query_one("SELECT id FROM item", &[]).unwrap();
        transaction.commit().unwrap();
    }
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn statements_that_the_use_itself_discards_are_prepared_again_at_once() {
    for discard in ["DISCARD ALL", "DEALLOCATE ALL", "DEALLOCATE PREPARE ALL"] {
        let pool = pool_of(1, manager());
        let mut conn = pool.get().unwrap();
        conn.query_one("SELECT 1", &[]).unwrap();
        conn.batch_execute(discard).unwrap();
        let mut transaction = conn.transaction().unwrap();
        transaction.query_one("SELECT 2", &[]).unwrap();
        transaction.query_one("SELECT 1", &[]).unwrap();
    }
}

#[test]
fn statements_that_were_discarded_unseen_are_prepared_again() {
    for reset in LEVELS {
        let pool = pool_of(2, manager().reset_on_return(reset));
        take_all(&pool).iter_mut().for_each(|conn| drop(conn.query_one("SELECT 1", &[]).unwrap()));
        let mut conn = pool.get().unwrap();
        let driver: &mut postgres::Client = &mut conn;
        driver.batch_execute("DISCARD ALL").unwrap();
        assert_eq!(conn.query_one("SELECT 1", &[]).unwrap().get::<_, i32>(0), 1, "{reset:?}");
        drop(conn);
        for conn in &mut take_all(&pool) {
            assert_eq!(conn.query_one("SELECT 1", &[]).unwrap().get::<_, i32>(0), 1, "{reset:?}");
        }
        assert_eq!(pool.stats().closed.total(), 0, "{reset:?}");
    }
}

#[test]
fn the_drivers_client_is_lent_uncached() {
    fn of_driver(client: &mut postgres::Client) {
        client.query_one("SELECT 1", &[]).unwrap();
    }
    fn generic<C: postgres::GenericClient>(client: &mut C) {
        client.query_one("SELECT 1", &[]).unwrap();
    }
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    of_driver(&mut conn);
    generic(&mut **conn);
    assert_eq!(on_server(&mut conn), 0);
    assert_eq!(pool.manager().statements(), Default::default());
}

#[test]
fn an_error_of_the_statement_itself_is_no_reason_to_execute_it_again() {
    let _database = own_database("kept_errors");
    psql(
        "CREATE SEQUENCE calls; CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM nextval('calls'); RETURN (SELECT missing FROM calls); END $$",
    );
    let pool = pool_of(1, named("errors"));
    let mut conn = pool.get().unwrap();
    for calls in 1..=5 {
        assert_eq!(code(conn.query_one("SELECT fails()", &[])), Some(SqlState::UNDEFINED_COLUMN));
        assert_eq!(psql("SELECT last_value FROM calls").trim(), calls.to_string());
    }
    // Nor is one of PostgreSQL's own functions, which has the same code without a context.
    psql("CREATE SEQUENCE others");
    for calls in 1..=5 {
        let sql = "SELECT nextval('others'), $1::text::regclass";
        assert_eq!(code(conn.query_one(sql, &[&"missing"])), Some(SqlState::UNDEFINED_TABLE));
        assert_eq!(psql("SELECT last_value FROM others").trim(), calls.to_string());
    }
    assert_eq!(pool.manager().statements().invalidated, 0);
    // The error of a PREPARE in SQL is not about what the connection keeps.
    assert_eq!(
        code(conn.execute("EXECUTE nothing", &[])),
        Some(SqlState::INVALID_SQL_STATEMENT_NAME)
    );
}

/// Reads a row of a table that changes, alone or in a transaction, first or after something else.
fn read(conn: &mut Guard, place: usize) -> Result<(), postgres::Error> {
    const READ: &str = "SELECT * FROM item WHERE id = $1";
    if place == 0 {
        return conn.query_one(READ, &[&1]).map(drop);
    }
    let mut transaction = conn.transaction()?;
    if place == 2 {
        transaction.execute("UPDATE other SET n = n + 1 WHERE false", &[])?;
    }
    transaction.query_one(READ, &[&1])?;
    transaction.commit()
}

#[test]
fn ddl_under_load_costs_nobody_an_error() {
    let _database = own_database("kept_load");
    psql("CREATE TABLE other (n int); CREATE TABLE item AS SELECT 1 AS id");
    let pool = pool_of(8, manager());
    let stop = AtomicBool::new(false);
    let (errors, uses) = ([const { AtomicUsize::new(0) }; 3], [const { AtomicUsize::new(0) }; 3]);
    let changes = 20;
    thread::scope(|scope| {
        for worker in 0..15 {
            let (pool, errors, uses, stop) = (&pool, &errors, &uses, &stop);
            scope.spawn(move || {
                let place = worker % 3;
                while !stop.load(Ordering::Relaxed) {
                    let mut conn = pool.get().unwrap();
                    if let Err(error) = read(&mut conn, place) {
                        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error}");
                        errors[place].fetch_add(1, Ordering::Relaxed);
                    }
                    uses[place].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut columns = Columns(false);
        for _ in 0..changes {
            let before = uses[0].load(Ordering::Relaxed);
            columns.change("item");
            wait_until("there was load", || uses[0].load(Ordering::Relaxed) > before + 200);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let [alone, first, later] = errors.map(AtomicUsize::into_inner);
    println!(
        "figure: errors of users through {changes} changes of a table under load: {alone} alone, \
         {first} first in a transaction, {later} later in one; uses: {uses:?}"
    );
    assert_eq!((alone, first, later), (0, 0, 0));
    assert_eq!(pool.stats().closed.total(), 0);
}
