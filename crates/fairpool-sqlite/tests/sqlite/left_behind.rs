//! What a holder leaves in a connection does not reach the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fairpool::{Pool, PooledConnection};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::config::DbConfig;
use fairpool_sqlite::rusqlite::functions::FunctionFlags;
use fairpool_sqlite::rusqlite::hooks::{Action, AuthContext, Authorization};
use fairpool_sqlite::rusqlite::limits::Limit;
use fairpool_sqlite::rusqlite::trace::{TraceEvent, TraceEventCodes};
use fairpool_sqlite::rusqlite::{Connection, Error, ErrorCode};
use tempfile::TempDir;

use crate::folder;
use crate::state::{difference, rows, state};

type Conn = PooledConnection<Manager>;

const LONG: Duration = Duration::from_secs(60);

/// A pool of one connection to a file with a table.
fn pool(folder: &TempDir, manager: impl FnOnce(Manager) -> Manager) -> Pool<Manager> {
    let manager = manager(Manager::file(folder.path().join("test.db")));
    let pool = Pool::builder().max_size(1).connection_timeout(LONG).build(manager).unwrap();
    let table = "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER)";
    pool.get().unwrap().execute_batch(table).unwrap();
    pool
}

/// What the next holder finds after `leave` that is not as it was.
#[track_caller]
fn check(name: &str, leave: impl FnOnce(&mut Conn)) {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    let before = state(&pool.get().unwrap());
    let mut conn = pool.get().unwrap();
    leave(&mut conn);
    drop(conn);
    let after = state(&pool.get().unwrap());
    assert!(difference(&before, &after).is_empty(), "{name}: {:?}", difference(&before, &after));
}

fn run(sql: &'static str) -> impl FnOnce(&mut Conn) {
    move |conn| {
        // Some pragmas answer with a row.
        conn.execute_batch(sql).unwrap();
    }
}

// ---- rows of the table ----

#[test]
fn no_pragma_reaches_the_next_holder() {
    for sql in [
        "PRAGMA foreign_keys = OFF",
        "PRAGMA main.synchronous = OFF",
        "PRAGMA query_only = ON",
        "PRAGMA recursive_triggers = ON",
        "PRAGMA case_sensitive_like = ON",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA cache_size = 17",
        "PRAGMA cache_spill = OFF",
        "PRAGMA defer_foreign_keys = ON",
        "PRAGMA busy_timeout = 1",
        "PRAGMA ignore_check_constraints = ON",
        "PRAGMA read_uncommitted = ON",
        "PRAGMA reverse_unordered_selects = ON",
        "PRAGMA journal_size_limit = 1000",
        "PRAGMA wal_autocheckpoint = 3",
        "PRAGMA secure_delete = ON",
        "PRAGMA trusted_schema = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA max_page_count = 100",
        "PRAGMA count_changes = ON",
        "PRAGMA automatic_index = OFF",
        "PRAGMA legacy_alter_table = ON",
        "PRAGMA mmap_size = 100000",
        "PRAGMA threads = 2",
        "PRAGMA FOREIGN_KEYS(off)",
        "pragma\n foreign_keys = 'no' ",
        "SELECT 1; /* hidden */ PRAGMA foreign_keys = OFF; SELECT 2",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t (n) VALUES (1)",
    ] {
        check(sql, run(sql));
    }
}

#[test]
fn a_setting_by_a_method_does_not_reach_the_next_holder() {
    check("pragma_update", |conn| conn.pragma_update(None, "foreign_keys", false).unwrap());
    check("busy_timeout", |conn| conn.busy_timeout(Duration::from_millis(7)).unwrap());
    check("db_config", |conn| {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    });
    check("limit", |conn| {
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1).unwrap();
    });
    check("busy handler", |conn| conn.busy_handler(Some(|_| false)).unwrap());
}

#[test]
fn no_transaction_or_savepoint_reaches_the_next_holder() {
    for sql in ["BEGIN", "BEGIN IMMEDIATE; INSERT INTO t (n) VALUES (1)", "SAVEPOINT s"] {
        check(sql, run(sql));
    }
}

#[test]
fn no_attached_database_or_temporary_object_reaches_the_next_holder() {
    for sql in [
        "ATTACH ':memory:' AS other",
        "ATTACH '' AS other; CREATE TABLE other.t (n)",
        "CREATE TEMP TABLE mine (n)",
        "CREATE TABLE temp.mine (n)",
        // It hides the table of the same name.
        "CREATE TEMP TABLE t (n)",
        "CREATE TEMP VIEW t AS SELECT 1 AS n",
        "CREATE TEMP TRIGGER noisy AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE VIRTUAL TABLE temp.words USING fts5 (text)",
    ] {
        check(sql, run(sql));
    }
}

#[test]
fn no_function_or_collation_reaches_the_next_holder() {
    check("function", |conn| {
        let flags = FunctionFlags::SQLITE_UTF8;
        conn.create_scalar_function("lower", 1, flags, |_| Ok(7)).unwrap();
    });
    check("new function", |conn| {
        let flags = FunctionFlags::SQLITE_UTF8;
        conn.create_scalar_function("mine", 1, flags, |_| Ok(7)).unwrap();
    });
    check("removed function", |conn| conn.remove_function("lower", 1).unwrap());
    check("collation", |conn| conn.create_collation("mine", str::cmp).unwrap());
}

#[test]
fn no_callback_for_collations_reaches_the_next_holder() {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    let stranger = "SELECT 'a' < 'b' COLLATE stranger";
    let conn = pool.get().unwrap();
    conn.collation_needed(|conn, name| conn.create_collation(name, str::cmp)).unwrap();
    conn.query_row(stranger, [], |_| Ok(())).unwrap();
    drop(conn);
    let conn = pool.get().unwrap();
    assert!(conn.query_row(stranger, [], |_| Ok(())).is_err());
}

/// What these pragmas say of an attached database and of `temp`.
fn settings_of_others(conn: &Connection) -> Vec<String> {
    let pragmas = ["synchronous", "cache_size", "secure_delete", "journal_size_limit", "mmap_size"];
    let of = |database: &str| {
        let sql = pragmas.map(|pragma| format!("PRAGMA {database}.{pragma}"));
        sql.map(|sql| rows(conn, &sql).join(";")).join(" ")
    };
    vec![of("aux"), of("temp")]
}

#[test]
fn no_pragma_of_an_attached_database_reaches_the_next_holder() {
    let folder = folder();
    let aux = folder.path().join("aux.db").display().to_string();
    let pool = pool(&folder, |manager| {
        manager.with_init(move |conn| {
            conn.execute("ATTACH ?1 AS aux", [&aux])?;
            conn.execute_batch(
                "CREATE TABLE IF NOT EXISTS aux.x (n); CREATE TEMP TABLE mine (n);
                 PRAGMA aux.secure_delete = 1; PRAGMA main.secure_delete = 0;
                 PRAGMA aux.mmap_size = 65536; PRAGMA main.mmap_size = 0",
            )
        })
    });
    let id = |conn: &Conn| PooledConnection::info(conn).id;
    let before = settings_of_others(&pool.get().unwrap());
    for sql in [
        "PRAGMA aux.synchronous = OFF",
        "PRAGMA AUX.cache_size = 7",
        "PRAGMA aux.secure_delete = 0",
        "PRAGMA aux.journal_size_limit = 5",
        "PRAGMA temp.cache_size = 7",
        // These go to all of them. The value of `main` stays as it was.
        "PRAGMA secure_delete = 0",
        "PRAGMA mmap_size = 0",
    ] {
        pool.get().unwrap().execute_batch(sql).unwrap();
        assert_eq!(settings_of_others(&pool.get().unwrap()), before, "{sql}");
    }
    let kept = id(&pool.get().unwrap());
    for sql in [
        "PRAGMA aux.user_version = 3; PRAGMA aux.table_info(x); PRAGMA aux.synchronous",
        "PRAGMA main.synchronous = OFF; PRAGMA synchronous = OFF",
    ] {
        pool.get().unwrap().execute_batch(sql).unwrap();
        let conn = pool.get().unwrap();
        assert_eq!((settings_of_others(&conn), id(&conn)), (before.clone(), kept), "{sql}");
    }
}

#[test]
fn what_the_preparation_has_attached_or_made_in_temp_is_there_for_the_next_holder() {
    for change in [
        "DETACH other",
        "ALTER TABLE mine RENAME TO yours",
        "ALTER TABLE temp.mine ADD COLUMN m",
        "DROP TABLE mine",
    ] {
        let folder = folder();
        let pool = pool(&folder, |manager| {
            manager.with_init(|conn| {
                conn.execute_batch("ATTACH ':memory:' AS other; CREATE TEMP TABLE mine (n)")
            })
        });
        let before = state(&pool.get().unwrap());
        pool.get().unwrap().execute_batch(change).unwrap();
        let after = state(&pool.get().unwrap());
        assert_eq!(difference(&before, &after), [""; 0], "{change}");
    }
}

/// Lends `&mut rusqlite::Connection`, and sets one of the hooks.
#[derive(Debug)]
struct Mutably(Arc<AtomicU64>);

impl fairpool::CustomizeConnection<fairpool_sqlite::Connection, Error> for Mutably {
    fn on_acquire(&self, conn: &mut fairpool_sqlite::Connection) -> Result<(), Error> {
        fn migrate(conn: &mut Connection) -> Result<(), Error> {
            let transaction = conn.transaction()?;
            transaction.execute_batch("CREATE TABLE IF NOT EXISTS t (id INTEGER, n INTEGER)")?;
            transaction.commit()
        }
        migrate(conn)?;
        let seen = Arc::clone(&self.0);
        conn.rollback_hook(Some(move || _ = seen.fetch_add(1, Ordering::SeqCst)))
    }
}

#[test]
fn no_hook_of_a_holder_sees_the_next_one_after_a_customizer_that_borrowed_mutably() {
    let folder = folder();
    let (of_customizer, of_holder) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let pool = Pool::builder()
        .max_size(1)
        .connection_customizer(Box::new(Mutably(Arc::clone(&of_customizer))))
        .build(Manager::file(folder.path().join("test.db")))
        .unwrap();
    let mut conn = pool.get().unwrap();
    let id = PooledConnection::info(&conn).id;
    let note = || {
        let seen = Arc::clone(&of_holder);
        move || seen.fetch_add(1, Ordering::SeqCst) < u64::MAX
    };
    let update = note();
    conn.update_hook(Some(move |_: Action, _: &str, _: &str, _| _ = update())).unwrap();
    conn.commit_hook(Some(note())).unwrap();
    conn.progress_handler(1, Some(note())).unwrap();
    drop(conn);
    let conn = pool.get().unwrap();
    of_holder.store(0, Ordering::SeqCst);
    conn.execute_batch("INSERT INTO t (n) VALUES (1); BEGIN; ROLLBACK").unwrap();
    assert_eq!(of_holder.load(Ordering::SeqCst), 0, "the last holder's hooks");
    assert_eq!(of_customizer.load(Ordering::SeqCst), 1, "the customizer's hook stays");
    assert_eq!(PooledConnection::info(&conn).id, id, "not closed");
}

/// What hooks have seen that own nothing: before version 0.41 rusqlite takes no others.
static OF_FUNCTIONS: AtomicU64 = AtomicU64::new(0);

fn count_event(_: TraceEvent<'_>) {
    OF_FUNCTIONS.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn no_hook_of_a_holder_sees_or_stops_the_next_one() {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    let seen = Arc::new(AtomicU64::new(0));
    let count = || {
        let seen = Arc::clone(&seen);
        move || seen.fetch_add(1, Ordering::SeqCst)
    };
    for hook in 0..6 {
        let mut conn = pool.get().unwrap();
        let note = count();
        match hook {
            0 => conn.update_hook(Some(move |_: Action, _: &str, _: &str, _| _ = note())),
            1 => conn.commit_hook(Some(move || note() < u64::MAX)),
            2 => conn.rollback_hook(Some(move || _ = note())),
            3 => conn.progress_handler(1, Some(move || note() < u64::MAX)),
            4 => conn.trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(count_event)),
            _ => conn.authorizer(Some(move |_: AuthContext<'_>| {
                note();
                Authorization::Deny
            })),
        }
        .unwrap();
        drop(conn);
        // The next holder's get waits until the pool has dealt with it.
        let conn = pool.get().unwrap();
        seen.store(0, Ordering::SeqCst);
        OF_FUNCTIONS.store(0, Ordering::SeqCst);
        conn.execute_batch("BEGIN; INSERT INTO t (n) VALUES (1); COMMIT").unwrap();
        conn.execute_batch("BEGIN; INSERT INTO t (n) VALUES (1); ROLLBACK").unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), 0, "hook {hook}");
        assert_eq!(OF_FUNCTIONS.load(Ordering::SeqCst), 0, "hook {hook}");
    }
}

/// Some milliseconds of work.
const SLOW: &str = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000)
                    SELECT count(*) FROM c";

#[test]
fn a_late_interrupt_never_reaches_the_next_holder() {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    let is_over = AtomicBool::new(false);
    let handle = pool.get().unwrap().get_interrupt_handle();
    let hits = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                handle.interrupt();
            }
        });
        let hits = (0..50).filter(|_| {
            let conn = pool.get().unwrap();
            conn.query_row(SLOW, [], |_| Ok(())).is_err()
        });
        let hits = hits.count();
        is_over.store(true, Ordering::Relaxed);
        hits
    });
    assert_eq!(hits, 0, "statements of 50 that another's handle interrupted");
}

#[test]
fn a_timely_interrupt_hits_its_own_statement() {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    let conn = pool.get().unwrap();
    let handle = conn.get_interrupt_handle();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                handle.interrupt();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let endless = SLOW.replace("LIMIT 20000", "");
        let error = conn.query_row(&endless, [], |_| Ok(())).unwrap_err();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OperationInterrupted));
    });
}

// ---- what stays ----

#[test]
fn what_the_preparation_has_set_is_what_a_clean_connection_has() {
    let folder = folder();
    let pool = pool(&folder, |manager| {
        manager.with_init(|conn| {
            conn.execute_batch(
                "PRAGMA foreign_keys = OFF; PRAGMA cache_size = 99; PRAGMA case_sensitive_like = 1;
                 ATTACH ':memory:' AS other; CREATE TEMP TABLE mine (n)",
            )?;
            conn.busy_timeout(Duration::from_millis(1234))?;
            conn.update_hook(Some(|_: Action, _: &str, _: &str, _| {}))?;
            conn.create_scalar_function("seven", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(7))
        })
    });
    let conn = pool.get().unwrap();
    let (id, before) = (PooledConnection::info(&conn).id, state(&conn));
    assert_eq!(before["PRAGMA cache_size"], "Integer(99)");
    assert_eq!(before["PRAGMA busy_timeout"], "Integer(1234)");
    drop(conn);
    for sql in [
        "SELECT seven()",
        "PRAGMA foreign_keys = ON; PRAGMA cache_size = 5; PRAGMA busy_timeout = 3",
        "BEGIN",
        // Sets what is set already.
        "PRAGMA foreign_keys = OFF",
        "CREATE TEMP TABLE another (n); DROP TABLE another",
        "ATTACH ':memory:' AS third; DETACH third",
    ] {
        let conn = pool.get().unwrap();
        conn.execute_batch(sql).unwrap();
        drop(conn);
        let conn = pool.get().unwrap();
        assert_eq!(difference(&before, &state(&conn)), [""; 0], "{sql}");
        assert_eq!(PooledConnection::info(&conn).id, id, "not closed: {sql}");
    }
}

#[test]
fn a_trace_hook_of_the_preparation_stays_and_a_holders_goes() {
    static OF_PREPARATION: AtomicU64 = AtomicU64::new(0);
    static OF_HOLDER: AtomicU64 = AtomicU64::new(0);
    const STATEMENTS: TraceEventCodes = TraceEventCodes::SQLITE_TRACE_STMT;
    let prepared = |conn: &mut Connection| {
        let _ = conn.trace_v2(
            STATEMENTS,
            Some((|_| _ = OF_PREPARATION.fetch_add(1, Ordering::SeqCst)) as fn(TraceEvent<'_>)),
        );
        Ok(())
    };
    let of_holder: fn(TraceEvent<'_>) = |_| _ = OF_HOLDER.fetch_add(1, Ordering::SeqCst);
    let folder = folder();
    // A use that lends `&mut` has all hooks of holders removed, and no others.
    let pool_with = pool(&folder, |manager| manager.with_init(prepared));
    let mut conn = pool_with.get().unwrap();
    let id = PooledConnection::info(&conn).id;
    let _: &mut Connection = &mut conn;
    drop(conn);
    let conn = pool_with.get().unwrap();
    OF_PREPARATION.store(0, Ordering::SeqCst);
    conn.execute_batch("SELECT 1").unwrap();
    assert_eq!(OF_PREPARATION.load(Ordering::SeqCst), 1);
    assert_eq!(PooledConnection::info(&conn).id, id, "not closed");
    let pool_without = pool(&folder, |manager| manager);
    pool_without.get().unwrap().trace_v2(STATEMENTS, Some(of_holder)).unwrap();
    let conn = pool_without.get().unwrap();
    OF_HOLDER.store(0, Ordering::SeqCst);
    conn.execute_batch("SELECT 1").unwrap();
    assert_eq!(OF_HOLDER.load(Ordering::SeqCst), 0);
}

#[test]
fn what_a_customizer_has_set_is_what_a_clean_connection_has() {
    #[derive(Debug)]
    struct Customizer;
    impl fairpool::CustomizeConnection<fairpool_sqlite::Connection, Error> for Customizer {
        fn on_acquire(&self, conn: &mut fairpool_sqlite::Connection) -> Result<(), Error> {
            conn.execute_batch("PRAGMA foreign_keys = OFF; ATTACH ':memory:' AS other")?;
            conn.create_scalar_function("seven", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(7))?;
            conn.progress_handler(1000, Some(|| false))
        }
    }
    let folder = folder();
    let manager = Manager::file(folder.path().join("test.db"));
    let pool = Pool::builder()
        .max_size(1)
        .connection_customizer(Box::new(Customizer))
        .build(manager)
        .unwrap();
    let before = state(&pool.get().unwrap());
    for _ in 0..3 {
        let conn = pool.get().unwrap();
        assert_eq!(difference(&before, &state(&conn)), [""; 0]);
        assert_eq!(rows(&conn, "SELECT seven()"), ["Integer(7)"]);
        conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    }
    assert_eq!(pool.stats().opened, 1, "{:?}", pool.stats());
}

#[test]
fn what_changes_only_the_database_leaves_the_connection_open() {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    for sql in [
        "CREATE TABLE IF NOT EXISTS u (n INTEGER); INSERT INTO u VALUES (1); DROP TABLE u",
        "PRAGMA user_version = 3",
        "PRAGMA table_info(t)",
        "PRAGMA foreign_keys",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA optimize; ANALYZE; VACUUM; REINDEX",
        "PRAGMA integrity_check(5)",
        "SELECT * FROM pragma_table_info('t'), pragma_foreign_keys",
        "BEGIN; SAVEPOINT s; INSERT INTO t (n) VALUES (1); RELEASE s; COMMIT",
    ] {
        pool.get().unwrap().execute_batch(sql).unwrap();
        drop(pool.get().unwrap());
    }
    let mut conn = pool.get().unwrap();
    conn.transaction().unwrap().commit().unwrap();
    drop(conn.savepoint().unwrap());
    drop(conn);
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().opened, 1, "{:?}", pool.stats());
}

#[test]
fn a_cached_statement_of_a_clean_use_is_seen_when_it_is_used_again() {
    let folder = folder();
    let pool = pool(&folder, |manager| manager);
    let before = state(&pool.get().unwrap());
    let conn = pool.get().unwrap();
    // It ends as it began.
    conn.prepare_cached("CREATE TEMP TABLE mine (n)").unwrap().execute([]).unwrap();
    conn.execute_batch("DROP TABLE mine").unwrap();
    let mut off = conn.prepare_cached("PRAGMA foreign_keys = OFF").unwrap();
    off.execute([]).unwrap();
    drop(off);
    conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    drop(conn);
    let conn = pool.get().unwrap();
    conn.prepare_cached("CREATE TEMP TABLE mine (n)").unwrap().execute([]).unwrap();
    conn.prepare_cached("PRAGMA foreign_keys = OFF").unwrap().execute([]).unwrap();
    drop(conn);
    assert_eq!(difference(&before, &state(&pool.get().unwrap())), [""; 0]);
}

const MAKE: &str = "CREATE TEMP TABLE made (n)";

/// Prepares a statement, which stays in the cache, and does not run it.
fn prepare_only(conn: &Connection) -> Result<(), Error> {
    conn.prepare_cached(MAKE).map(drop)
}

#[test]
fn a_cached_statement_that_was_never_run_is_seen_when_it_is() {
    let run = |pool: &Pool<Manager>| {
        let before = state(&pool.get().unwrap());
        pool.get().unwrap().prepare_cached(MAKE).unwrap().execute([]).unwrap();
        assert_eq!(difference(&before, &state(&pool.get().unwrap())), [""; 0]);
    };
    let of_preparation = folder();
    run(&pool(&of_preparation, |manager| manager.with_init(|conn| prepare_only(conn))));
    let of_holder = folder();
    let pool = pool(&of_holder, |manager| manager);
    prepare_only(&pool.get().unwrap()).unwrap();
    drop(pool.get().unwrap());
    run(&pool);
}
