//! A pool on a PgBouncer, in each of its modes.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, ManageConnection, Pool};
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
use fairpool_postgres::postgres::types::Type;
use fairpool_postgres::postgres::{self, Config, SimpleQueryMessage};
use fairpool_postgres::{Client, Credentials, NoTls, Reset, WhyAsked};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::{APP_PASSWORD, APP_USER};

use crate::common::{
    Manager, builder, database, driver_error, logged, millis, own_database, psql, refused, shared,
    start_log, take_all, wait_until,
};

/// The value of an answer with one row. Uses simple queries, because a PgBouncer that pools
/// transactions may not know a prepared statement the next time.
fn simple(client: &mut Client, sql: &str) -> Result<String, postgres::Error> {
    let answer = client.simple_query(sql)?;
    let value = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(value.expect("a value").to_owned())
}

fn manager(config: Config, name: &str) -> Manager {
    Manager::new(config, NoTls).application_name(name)
}

#[test]
fn through_pgbouncer_threads_pools_and_transactions_keep_apart() {
    let bouncer = Bouncer::start(shared().port(), 3);
    shared().psql("CREATE TABLE bounced (n int)");
    let manager = manager(bouncer.config(), "bounced").reset_on_return(Reset::Rollback);
    let pool = builder().max_size(8).skip_check_within(Duration::ZERO).build(manager).unwrap();
    let work = |worker: usize| {
        for n in 0..20 {
            let mut conn = pool.get().expect("a connection");
            let sum = simple(&mut conn, &format!("SELECT {worker} * 1000 + {n}"));
            assert_eq!(sum.unwrap(), (worker * 1000 + n).to_string());
            let mut transaction = conn.transaction().unwrap();
            let insert = "INSERT INTO bounced VALUES (1)";
            transaction.batch_execute(insert).unwrap();
            if n % 2 == 0 {
                transaction.commit().unwrap();
            } else {
                drop(transaction);
            }
            if n % 5 == 0 {
                // Left open, it would occupy a connection of PgBouncer.
                conn.batch_execute(&format!("BEGIN; {insert}")).unwrap();
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..16 {
            scope.spawn(move || work(worker));
        }
    });
    assert_eq!(shared().psql("SELECT count(*) FROM bounced"), "160");
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.closed.total()), (8, 0), "{stats:?}");
}

#[test]
fn through_pgbouncer_a_restart_of_it_is_survived() {
    let mut bouncer = Bouncer::start(shared().port(), 3);
    let pool = builder()
        .max_size(4)
        .skip_check_within(Duration::ZERO)
        .build(manager(bouncer.config(), "restarted"))
        .unwrap();
    drop(take_all(&pool));
    bouncer.stop();
    let error = refused(pool.get_timeout(millis(1500)));
    assert!(error.is_timeout(), "{error}");
    driver_error(&error);
    bouncer.start_again();
    let start = Instant::now();
    let mut conn = pool.get().unwrap();
    assert_eq!(simple(&mut conn, "SELECT 1").unwrap(), "1");
    println!("PgBouncer is back: served in {:.1?}", start.elapsed());
}

#[test]
fn through_pgbouncer_an_error_in_connecting_is_typed() {
    let bouncer = Bouncer::start(shared().port(), 3);
    let mut config = bouncer.config();
    config.dbname("no_such_database");
    let manager = manager(config, "unknown");
    let permanent = {
        let error = manager.connect().expect_err("a refusal");
        println!("PgBouncer says {:?}: {error}", error.code());
        manager.is_permanent(&error)
    };
    let pool = Pool::builder().connection_timeout(millis(800));
    let error = pool.build(manager).unwrap_err();
    assert!(driver_error(&error).code().is_some(), "{error}");
    let expected = if permanent { ErrorKind::Connect } else { ErrorKind::Timeout };
    assert_eq!(error.kind(), expected, "{error}");
}

#[test]
fn through_pgbouncer_a_refused_login_asks_for_credentials_once_more() {
    let bouncer = Bouncer::start_with_login(shared().port(), 3);
    let give = |why| {
        let password = if why == WhyAsked::Refused { APP_PASSWORD } else { "old" };
        Ok::<_, io::Error>(Credentials::new(APP_USER, password))
    };
    let manager = manager(bouncer.config(), "asked").credentials(give);
    drop(manager.connect().expect("a login with the second password"));
}

/// How many of 800 queries by 8 threads fail, with a client for each of 8 connections and two
/// sessions of the server.
fn failures(pool: &Pool<Manager>, ask: impl Fn(&mut Client, i32) -> bool + Sync) -> usize {
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in 0..8 {
            let (ask, failed) = (&ask, &failed);
            scope.spawn(move || {
                for n in 0..100 {
                    let mut conn = pool.get().expect("a connection");
                    let is_right = ask(&mut conn, worker * 1000 + n);
                    failed.fetch_add(usize::from(!is_right), Ordering::SeqCst);
                }
            });
        }
    });
    failed.into_inner()
}

fn doubles(client: &mut Client, n: i32) -> bool {
    let row = client.query_one("SELECT $1::int * 2, $2::text", &[&n, &"é"]);
    row.is_ok_and(|row| (row.get(0), row.get(1)) == (2 * n, "é"))
}

#[test]
fn through_pgbouncer_in_transaction_mode_every_query_works_with_the_setting() {
    let bouncer = Bouncer::start(shared().port(), 2);
    let mut failed = Vec::new();
    for pooler in [false, true] {
        let manager = manager(bouncer.config(), "asked").transaction_pooler(pooler);
        let pool = builder().max_size(8).build(manager).unwrap();
        failed.push(failures(&pool, doubles));
    }
    println!(
        "figure: failed of 800 queries in transaction mode: {} without the setting, {} with",
        failed[0], failed[1]
    );
    assert!(failed[0] > 0, "the failures that the setting is for");
    assert_eq!(failed[1], 0);
}

#[test]
fn a_transaction_pooler_without_its_setting_is_named_in_a_warning() {
    start_log();
    let bouncer = Bouncer::start(shared().port(), 2);
    let pool = builder().max_size(8).build(manager(bouncer.config(), "untold")).unwrap();
    // Two of eight connections to two sessions show it, before any statement is kept.
    assert!(failures(&pool, doubles) > 0);
    assert_eq!(pool.manager().statements().prepared, 0);
    let warnings = logged("two connections have the same process of the server");
    let (level, warning) = &warnings[0];
    assert_eq!(*level, log::Level::Warn);
    assert!(warning.contains("transaction_pooler(true)"), "{warning}");
    println!("figure: the warning: {warning}");
    // A pool of one cannot see it so; then the first lost statement shows it.
    let other = Bouncer::start(shared().port(), 2);
    let pools = [0, 1].map(|_| {
        let manager = manager(other.config(), "untold");
        builder().max_size(1).build(manager).unwrap()
    });
    // From then on it keeps none: that of a text that is asked twice is no hit.
    let keeps = |pool: &Pool<Manager>| {
        let hits = || pool.manager().statements().hits;
        let before = hits();
        let mut conn = pool.get().unwrap();
        (0..2).for_each(|_| drop(conn.query_one("SELECT 7", &[])));
        hits() > before
    };
    assert!(keeps(&pools[0]));
    wait_until("a lost statement shows it", || {
        thread::scope(|scope| {
            pools.iter().for_each(|pool| drop(scope.spawn(|| failures(pool, doubles))));
        });
        !pools.iter().any(keeps)
    });
}

#[test]
fn through_pgbouncer_in_session_mode_statements_are_kept() {
    let bouncer = Bouncer::start_with_mode(shared().port(), 8, "session");
    let pool = builder().max_size(8).build(manager(bouncer.config(), "sessions")).unwrap();
    for _ in 0..2 {
        for conn in &mut take_all(&pool) {
            assert!(doubles(conn, 1));
        }
    }
    let counts = pool.manager().statements();
    assert_eq!((counts.prepared, counts.hits), (8, 8));
}

#[test]
fn through_pgbouncer_in_transaction_mode_the_whole_client_works_with_the_setting() {
    let _database = own_database("through");
    psql(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE through (n int, m mood); \
         CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'",
    );
    let bouncer = Bouncer::start_for(database(), shared().port(), 2, "transaction");
    let manager = manager(bouncer.config(), "whole").transaction_pooler(true);
    let pool = builder().max_size(8).build(manager).unwrap();
    let work = |client: &mut Client, n: i32| -> Result<bool, postgres::Error> {
        let statement = client.prepare("SELECT twice($1), m FROM through WHERE n = $2")?;
        assert_eq!(statement.params().len(), 2);
        client.execute("INSERT INTO through VALUES ($1, 'ok')", &[&n])?;
        let found = client.query(&statement, &[&n, &n])?.len();
        let mut transaction = client.transaction()?;
        transaction.batch_execute("SET LOCAL work_mem = '1MB'")?;
        transaction.batch_execute("CREATE TEMP TABLE kept (n int) ON COMMIT DROP")?;
        let mut copy = transaction.copy_in("COPY kept FROM STDIN")?;
        copy.write_all(b"1\n2\n").expect("written");
        copy.finish()?;
        let copied = transaction.query_one("SELECT count(*) FROM kept WHERE n > $1", &[&0])?;
        transaction.execute("DELETE FROM through WHERE n = $1", &[&n])?;
        transaction.commit()?;
        let streamed = client.query_raw("SELECT generate_series(1, $1)", [&3_i32])?.count()?;
        let none = client.query_opt("SELECT n FROM through WHERE n = $1", &[&n])?;
        Ok(found == 1 && copied.get::<_, i64>(0) == 2 && streamed == 3 && none.is_none())
    };
    let failed = failures(&pool, |client, n| work(client, n).unwrap_or_else(|e| panic!("{e:?}")));
    assert_eq!(failed, 0);
    assert_eq!(psql("SELECT count(*) FROM through"), "0");
    let stats = pool.stats();
    assert_eq!(stats.closed.total(), 0, "{stats:?}");
    assert_eq!(
        psql(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND state LIKE 'idle in trans%'"
        ),
        "0"
    );
}

#[test]
fn through_pgbouncer_in_transaction_mode_the_databases_own_types_are_known_on_every_session() {
    let _database = own_database("types");
    psql(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE size AS ENUM ('s', 'xl'); \
         CREATE TYPE pair AS (m mood, s size)",
    );
    let bouncer = Bouncer::start_for(database(), shared().port(), 2, "transaction");
    let manager = manager(bouncer.config(), "types").transaction_pooler(true);
    let pool = builder().max_size(8).build(manager).unwrap();
    let ask = |client: &mut Client, n: i32| {
        let (sql, kind) = match n % 4 {
            0 => ("SELECT 'ok'::mood WHERE $1 >= 0", "mood"),
            1 => ("SELECT 'xl'::size WHERE $1 >= 0", "size"),
            2 => ("SELECT ROW('ok', 'xl')::pair WHERE $1 >= 0", "pair"),
            _ => ("SELECT '{ok}'::mood[] WHERE $1 >= 0", "_mood"),
        };
        client.query_one(sql, &[&n]).is_ok_and(|row| row.columns()[0].type_().name() == kind)
    };
    assert_eq!(failures(&pool, ask), 0);
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn behind_a_transaction_pooler_session_state_is_refused_plainly() {
    let bouncer = Bouncer::start(shared().port(), 2);
    let pooled = manager(bouncer.config(), "refused").transaction_pooler(true);
    let mut client = pooled.connect().unwrap();
    for sql in [
        "SET work_mem = '1MB'",
        "SET local.x = 'y'",
        "SET transaction.x = 'y'",
        "LISTEN news",
        "SELECT pg_advisory_lock(1)",
        "PREPARE p AS SELECT 1",
        "CREATE TEMP TABLE t (n int)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "LOAD 'auto_explain'",
    ] {
        let error = client.batch_execute(sql).unwrap_err();
        let db = error.as_db_error().expect("an error of the server's kind");
        assert_eq!(db.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{sql}");
        assert!(db.message().contains("a session of its own"), "{sql}: {error}");
        assert!(db.hint().unwrap().contains("transaction_pooler"), "{sql}: {error}");
        assert!(!pooled.is_fatal(&error) && !pooled.has_broken(&mut client), "{sql}");
    }
    let error = client.copy_out("COPY (SELECT 1) TO STDOUT").err().expect("a refusal");
    assert!(error.as_db_error().unwrap().message().contains("transaction around it"), "{error}");

    let error = pooled.clone().lock_timeout(millis(100)).connect().expect_err("a refusal");
    assert!(error.as_db_error().unwrap().message().contains("ALTER ROLE"), "{error}");
    assert!(pooled.is_permanent(&error));
}

#[test]
fn through_pgbouncer_in_session_mode_everything_works_without_a_setting() {
    let bouncer = Bouncer::start_with_mode(shared().port(), 8, "session");
    let manager = manager(bouncer.config(), "session").lock_timeout(millis(1234));
    let pool = builder().max_size(8).build(manager).unwrap();
    let work = |client: &mut Client, n: i32| {
        let fresh = client.query_one("SELECT current_setting('work_mem')", &[]).unwrap();
        let statement = client.prepare("SELECT current_setting('lock_timeout'), $1::int").unwrap();
        let row = client.query_one(&statement, &[&n]).unwrap();
        client.batch_execute("SET work_mem = '1MB'; LISTEN news; CREATE TEMP TABLE t ()").unwrap();
        fresh.get::<_, &str>(0) == "4MB" && row.get::<_, &str>(0) == "1234ms" && doubles(client, n)
    };
    assert_eq!(failures(&pool, work), 0);
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn through_pgbouncer_in_statement_mode_single_messages_work_and_transactions_are_refused_plainly() {
    let bouncer = Bouncer::start_with_mode(shared().port(), 2, "statement");
    let pool = builder().max_size(8).build(manager(bouncer.config(), "statement")).unwrap();
    let work = |client: &mut Client, n: i32| {
        let one = simple(client, "SELECT 1").is_ok_and(|one| one == "1");
        let typed = client.query_typed_one("SELECT $1 * 2", &[(&n, Type::INT4)]);
        one && typed.is_ok_and(|row| row.get::<_, i32>(0) == 2 * n)
    };
    assert_eq!(failures(&pool, work), 0);
    let mut conn = pool.get().unwrap();
    let error = conn.transaction().err().expect("a refusal");
    println!("in statement mode PgBouncer says: {error:?}");
    // PgBouncer ends the connection, and its reason may not arrive before the end.
    let reason = error.as_db_error().map_or("transaction", |db| db.message());
    assert!(reason.contains("transaction"), "{reason}");
    drop(conn);
    assert!(work(&mut pool.get().unwrap(), 1));
}
