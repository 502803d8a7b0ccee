//! A statement that is kept must mean what its text means now.

use std::collections::BTreeSet;
use std::thread;

use fairpool::Pool;
use fairpool_postgres::postgres;
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
use fairpool_postgres::{Client, NoTls, Reset, Statement};
use fairpool_servers::bouncer::Bouncer;

use crate::common::{
    Guard, Manager, builder, database, logged, manager, millis, own_database, psql, shared,
    start_log, take_all,
};

fn pool_of(size: u32, manager: Manager) -> Pool<Manager> {
    builder().max_size(size).build(manager).unwrap()
}

#[test]
fn a_fetch_has_the_columns_of_its_own_cursor() {
    let pool = pool_of(1, manager());
    for (select, columns) in [("SELECT 1 AS n", 1), ("SELECT 'abcd' AS t, 2 AS n", 2)] {
        let mut conn = pool.get().unwrap();
        let mut transaction = conn.transaction().unwrap();
        transaction.execute(&format!("DECLARE c CURSOR FOR {select}"), &[]).unwrap();
        let row = transaction.query_one("FETCH ALL FROM c", &[]).unwrap();
        assert_eq!(row.len(), columns);
    }
}

#[test]
fn an_execute_has_the_columns_of_its_own_statement() {
    let pool = pool_of(1, manager());
    for (select, name) in [("SELECT 1 AS n", "n"), ("SELECT 'abcd' AS t", "t")] {
        let mut conn = pool.get().unwrap();
        conn.execute(&format!("PREPARE q AS {select}"), &[]).unwrap();
        assert_eq!(conn.query_one("EXECUTE q", &[]).unwrap().columns()[0].name(), name);
    }
}

#[test]
fn now_in_a_string_is_the_time_of_each_execution() {
    let pool = pool_of(1, manager());
    for text in ["'now'", "' NOW '", "E'now'", "$$now$$"] {
        let seen: BTreeSet<String> = (0..3)
            .map(|_| {
                thread::sleep(millis(2));
                let sql = format!("SELECT (timestamptz {text})::text");
                pool.get().unwrap().query_one(&sql, &[]).unwrap().get(0)
            })
            .collect();
        assert_eq!(seen.len(), 3, "{text}");
    }
}

#[test]
fn a_string_is_read_by_the_settings_of_the_use() {
    let instant = "SELECT extract(epoch FROM '2024-01-01 00:00'::timestamptz)::text";
    let cases = [
        ("SET timezone TO 'X'", instant, ["Asia/Tokyo", "UTC"]),
        ("SET LOCAL timezone TO 'X'", instant, ["Asia/Tokyo", "UTC"]),
        ("SET TIME ZONE 'X'", instant, ["Asia/Tokyo", "UTC"]),
        ("SELECT set_config('TimeZone', 'X', true)", instant, ["Asia/Tokyo", "UTC"]),
        ("SELECT set_config('Time' || 'Zone', 'X', true)", instant, ["Asia/Tokyo", "UTC"]),
        (
            "SET datestyle TO X",
            "SELECT extract(month FROM '01/02/2024'::date)::text",
            ["MDY", "DMY"],
        ),
        ("SET transform_null_equals TO X", "SELECT (1 = NULL)::text IS NULL", ["on", "off"]),
    ];
    for (set, sql, values) in cases {
        for reset in [Reset::Off, Reset::Session] {
            let answers = |size| {
                let pool = pool_of(1, manager().statement_cache(size).reset_on_return(reset));
                values.map(|value| {
                    let mut conn = pool.get().unwrap();
                    let mut transaction = conn.transaction().unwrap();
                    transaction.execute(&set.replace('X', value), &[]).unwrap();
                    let row = transaction.query_one(&format!("SELECT ({sql})::text"), &[]).unwrap();
                    transaction.commit().unwrap();
                    row.get::<_, String>(0)
                })
            };
            let [first, second] = answers(0);
            assert_ne!(first, second, "{set}");
            assert_eq!(answers(256), [first, second], "{set}, {reset:?}");
        }
    }
}

#[test]
fn a_string_is_read_by_settings_that_were_made_through_the_driver() {
    let pool = pool_of(1, manager());
    for (zone, epoch) in [("UTC", "1704067200"), ("Asia/Tokyo", "1704034800")] {
        let mut conn = pool.get().unwrap();
        let driver: &mut postgres::Client = &mut conn;
        driver.batch_execute(&format!("SET timezone TO '{zone}'")).unwrap();
        let sql = "SELECT extract(epoch FROM '2024-01-01 00:00'::timestamptz)::bigint::text";
        assert_eq!(conn.query_one(sql, &[]).unwrap().get::<_, String>(0), epoch);
    }
}

#[test]
fn the_settings_of_a_use_decide_how_its_statements_are_planned() {
    let _database = own_database("meaning_plan");
    psql("CREATE TABLE item AS SELECT generate_series(1, 1000) AS id; CREATE INDEX ON item (id)");
    psql("VACUUM ANALYZE item");
    let pool = pool_of(1, manager());
    let scans = || psql("SELECT seq_scan FROM pg_stat_user_tables").trim().parse::<i64>().unwrap();
    let read = "SELECT id FROM item WHERE id = 7";
    for _ in 0..3 {
        pool.get().unwrap().query_one(read, &[]).unwrap();
    }
    let before = scans();
    let mut conn = pool.get().unwrap();
    let mut transaction = conn.transaction().unwrap();
    transaction.execute("SET LOCAL enable_indexscan TO off", &[]).unwrap();
    transaction.execute("SET LOCAL enable_indexonlyscan TO off", &[]).unwrap();
    transaction.execute("SET LOCAL enable_bitmapscan TO off", &[]).unwrap();
    transaction.query_one(read, &[]).unwrap();
    transaction.commit().unwrap();
    drop((conn, pool));
    crate::common::wait_until("the table was read as a whole", || scans() > before);
}

#[test]
fn a_string_that_names_a_type_is_read_each_time() {
    let _database = own_database("meaning_reg");
    psql("CREATE TYPE mood AS ENUM ('a')");
    let pool = pool_of(1, manager());
    let sql = "SELECT count(*) FROM pg_enum WHERE enumtypid = 'mood'::regtype";
    for n in 1..3 {
        let mut conn = pool.get().unwrap();
        assert_eq!(conn.query_one(sql, &[]).unwrap().get::<_, i64>(0), n);
        psql("DROP TYPE mood; CREATE TYPE mood AS ENUM ('a', 'b')");
    }
}

#[test]
fn what_was_written_after_a_begin_by_hand_is_not_lost() {
    let _database = own_database("meaning_begin");
    psql("CREATE TABLE item (id int); CREATE TABLE written (n int)");
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    conn.query("SELECT id FROM item", &[]).unwrap();
    psql("ALTER TABLE item ALTER COLUMN id TYPE bigint");
    conn.batch_execute("BEGIN").unwrap();
    conn.execute("INSERT INTO written VALUES (1)", &[]).unwrap();
    let mut transaction = conn.transaction().unwrap();
    // The error that there is in the middle of a transaction: not a success without what was written.
    assert!(transaction.query("SELECT id FROM item", &[]).is_err());
    drop(transaction);
    assert!(conn.query("SELECT id FROM item", &[]).is_ok());
}

#[test]
fn a_forgotten_transaction_begins_nothing_for_the_next_user() {
    let _database = own_database("meaning_forgotten");
    psql("CREATE TABLE item (id int); CREATE TABLE written (n int)");
    for reset in [Reset::Rollback, Reset::Session] {
        let pool = pool_of(1, manager().reset_on_return(reset));
        let mut conn = pool.get().unwrap();
        conn.query("SELECT * FROM item", &[]).unwrap();
        std::mem::forget(conn.transaction().unwrap());
        drop(conn);
        psql("ALTER TABLE item ADD COLUMN more int");
        let mut conn = pool.get().unwrap();
        conn.query("SELECT * FROM item", &[]).unwrap();
        conn.execute("INSERT INTO written VALUES (1)", &[]).unwrap();
        assert_eq!(psql("SELECT count(*) FROM written"), "1", "{reset:?}");
        psql("ALTER TABLE item DROP COLUMN more; TRUNCATE written");
    }
}

#[test]
fn a_procedure_that_has_committed_is_not_called_again() {
    let _database = own_database("meaning_call");
    psql(
        "CREATE TABLE written (n int); CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO written VALUES (1); COMMIT; \
         IF (SELECT count(*) FROM written) > 1 THEN EXECUTE 'DEALLOCATE missing'; END IF; END $$",
    );
    let pool = pool_of(1, manager());
    for n in 1..=3 {
        let result = pool.get().unwrap().execute("CALL p()", &[]);
        assert_eq!(result.is_err(), n > 1);
        assert_eq!(psql("SELECT count(*) FROM written"), n.to_string());
    }
}

#[test]
fn a_value_of_the_new_type_is_taken_though_the_statement_knows_the_old_one() {
    let _database = own_database("meaning_values");
    psql("CREATE TABLE item (id int)");
    let pool = pool_of(1, manager());
    let mut conn = pool.get().unwrap();
    let sql = "INSERT INTO item VALUES ($1)";
    conn.execute(sql, &[&1_i32]).unwrap();
    psql("ALTER TABLE item ALTER COLUMN id TYPE bigint");
    conn.execute(sql, &[&2_i64]).unwrap();
    let mut transaction = conn.transaction().unwrap();
    transaction.execute("SELECT 1", &[]).unwrap();
    // An error of the client alone leaves the transaction as it is.
    assert!(transaction.execute(sql, &[&"x"]).is_err());
    transaction.execute(sql, &[&3_i64]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(psql("SELECT count(*) FROM item"), "3");
}

#[test]
fn behind_a_declared_pooler_long_texts_are_not_kept() {
    let bouncer = Bouncer::start(shared().port(), 2);
    let pool = pool_of(1, Manager::new(bouncer.config(), NoTls).transaction_pooler(true));
    let mut conn = pool.get().unwrap();
    let long = format!("SELECT $1::int -- {}", "x".repeat(16 * 1024));
    let statement: Statement = conn.prepare(&long).unwrap();
    let ask = |conn: &mut Guard| conn.query_one(&long, &[&1]).unwrap().get::<_, i32>(0);
    assert_eq!(ask(&mut conn), 1);
    assert_eq!(conn.query_one(&statement, &[&2]).unwrap().get::<_, i32>(0), 2);
    assert_eq!(pool.manager().statements().prepared, 0);
}

#[test]
fn a_kept_statement_that_is_gone_with_its_session_shows_a_pooler_that_was_not_declared() {
    start_log();
    let bouncer = Bouncer::start(shared().port(), 2);
    let pool = pool_of(1, Manager::new(bouncer.config(), NoTls));
    let mut other: Client = bouncer.config().connect(NoTls).unwrap().into();
    let ask = |conn: &mut Guard, n: i32| conn.query_one("SELECT $1::int", &[&n]);
    let mut conn = pool.get().unwrap();
    assert_eq!(ask(&mut conn, 1).unwrap().get::<_, i32>(0), 1);
    // Another client takes the session.
    other.batch_execute("BEGIN").unwrap();
    assert_eq!(ask(&mut conn, 2).unwrap().get::<_, i32>(0), 2);
    let before = pool.manager().statements();
    assert_eq!(ask(&mut conn, 3).unwrap().get::<_, i32>(0), 3);
    assert_eq!(pool.manager().statements(), before, "one was kept");
    assert!(!logged("a connection has changed to another process of the server").is_empty());
}

/// As another process would: its statements have the names that this one's will have.
#[test]
fn statements_on_a_new_session_show_a_pooler_that_was_not_declared() {
    let bouncer = Bouncer::start(shared().port(), 2);
    let pools = [0, 1].map(|_| {
        let pool = pool_of(1, Manager::new(bouncer.config(), NoTls));
        let mut conn = pool.get().unwrap();
        (0..2).for_each(|_| drop(conn.query_one("SELECT 1", &[]).unwrap()));
        pool.manager().statements().hits
    });
    assert_eq!(pools, [1, 0]);
}

/// A program that prepares at each checkout gets what the connection has kept.
#[test]
fn what_was_prepared_before_a_change_serves_streams_and_portals() {
    let _database = own_database("meaning_streams");
    psql("CREATE TABLE item (id int); INSERT INTO item VALUES (1)");
    let pool = pool_of(2, manager());
    let streamed = |conn: &mut Guard, sql: &str| {
        let statement = conn.prepare(sql)?;
        conn.query_raw(&statement, [0; 0])?.count()
    };
    let bound = |conn: &mut Guard, sql: &str| {
        let mut transaction = conn.transaction()?;
        let statement = transaction.prepare(sql)?;
        let portal = transaction.bind(&statement, &[])?;
        transaction.query_portal(&portal, 0).map(|rows| rows.len())
    };
    for change in ["ADD COLUMN more int", "DROP COLUMN more", "ADD COLUMN other int"] {
        for conn in &mut take_all(&pool) {
            assert_eq!(streamed(conn, "SELECT * FROM item").unwrap(), 1);
            assert_eq!(bound(conn, "SELECT * FROM item").unwrap(), 1);
        }
        psql(&format!("ALTER TABLE item {change}"));
    }
    // A column that is named: one error for all connections.
    take_all(&pool).iter_mut().for_each(|conn| drop(conn.query("SELECT id FROM item", &[])));
    for kind in ["bigint", "int"] {
        psql(&format!("ALTER TABLE item ALTER COLUMN id TYPE {kind}"));
        let mut all = take_all(&pool);
        let failed = all.iter_mut().filter_map(|conn| streamed(conn, "SELECT id FROM item").err());
        assert_eq!(failed.count(), 1, "{kind}");
    }
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn settings_that_stay_after_the_use_count_for_what_was_kept_before() {
    for reset in [Reset::Off, Reset::Rollback] {
        let pool = pool_of(1, manager().reset_on_return(reset));
        let sql = "SELECT extract(epoch FROM '2024-01-01 00:00'::timestamptz)::bigint::text";
        for (zone, epoch) in [("UTC", "1704067200"), ("Asia/Tokyo", "1704034800")] {
            pool.get().unwrap().batch_execute(&format!("SET timezone TO '{zone}'")).unwrap();
            let row = pool.get().unwrap().query_one(sql, &[]).unwrap();
            assert_eq!(row.get::<_, String>(0), epoch, "{reset:?}");
        }
    }
}

#[test]
fn behind_a_declared_pooler_types_that_have_changed_are_asked_for_after_one_error() {
    let _database = own_database("meaning_pooler");
    psql("CREATE TABLE item (code int)");
    let bouncer = Bouncer::start_for(database(), shared().port(), 2, "transaction");
    let pool = pool_of(1, Manager::new(bouncer.config(), NoTls).transaction_pooler(true));
    let mut conn = pool.get().unwrap();
    let sql = "SELECT 1 FROM item WHERE code = $1";
    conn.query(sql, &[&1]).unwrap();
    psql("ALTER TABLE item ALTER COLUMN code TYPE text");
    assert!(conn.query(sql, &[&1]).is_err());
    conn.query(sql, &[&"1"]).unwrap();
}
