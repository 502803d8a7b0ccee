//! What the manager says and does at a return, level by level.

use std::time::Duration;

use fairpool::ManageConnection;
use fairpool_sqlite::rusqlite::functions::FunctionFlags;
use fairpool_sqlite::rusqlite::hooks::{AuthContext, Authorization};
use fairpool_sqlite::rusqlite::limits::Limit;
use fairpool_sqlite::{Connection, Reset, SqliteConnectionManager as Manager};
use fairpool_testing::dice::Dice;

use crate::folder;
use crate::state::{difference, state};

/// What becomes of a returned connection, and what is reported of it.
#[derive(Debug, PartialEq)]
enum Fate {
    /// Without a reset.
    Kept,
    Reset(Option<String>),
    Closed(Option<String>),
}

/// What a pool does at a return.
fn give_back(manager: &Manager, conn: &mut Connection) -> Fate {
    if manager.has_broken(conn) {
        return Fate::Closed(None);
    }
    if !manager.needs_reset(conn) {
        return Fate::Kept;
    }
    let result = manager.reset(conn);
    let left = manager.left_behind(conn).map(|left| left.into_owned());
    assert_eq!(manager.left_behind(conn), None, "told once");
    if result.is_ok() { Fate::Reset(left) } else { Fate::Closed(left) }
}

fn memory(level: Reset) -> (Manager, Connection) {
    // SQLite as compiled in has this; libraries of systems have it off.
    let manager = Manager::memory()
        .reset_on_return(level)
        .with_init(|conn| conn.execute_batch("PRAGMA foreign_keys = ON"));
    let conn = manager.connect().unwrap();
    conn.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER)").unwrap();
    assert_eq!(give_back(&manager, &mut { manager.connect().unwrap() }), Fate::Kept);
    (manager, conn)
}

fn reset(text: &str) -> Fate {
    Fate::Reset(Some(text.to_owned()))
}

fn closed(text: &str) -> Fate {
    Fate::Closed(Some(text.to_owned()))
}

#[test]
fn a_use_that_left_nothing_needs_no_reset() {
    let (manager, mut conn) = memory(Reset::Session);
    for sql in [
        "SELECT 1",
        "INSERT INTO t VALUES (1); UPDATE t SET n = 2; DELETE FROM t",
        "BEGIN; INSERT INTO t VALUES (1); COMMIT",
        "PRAGMA foreign_keys; PRAGMA user_version = 7; PRAGMA table_info(t)",
        "CREATE INDEX i ON t (n); DROP INDEX i",
        "ALTER TABLE t ADD COLUMN m; ALTER TABLE t DROP COLUMN m",
    ] {
        conn.execute_batch(sql).unwrap();
        assert_eq!(give_back(&manager, &mut conn), Fate::Kept, "{sql}");
    }
    conn.get_interrupt_handle().interrupt();
    conn.prepare_cached("SELECT n FROM t").unwrap();
    conn.transaction().unwrap().commit().unwrap();
    assert_eq!(give_back(&manager, &mut conn), Fate::Kept);
}

#[test]
fn the_report_says_what_was_found() {
    let found = |leave: &dyn Fn(&mut Connection)| {
        let (manager, mut conn) = memory(Reset::Session);
        leave(&mut conn);
        give_back(&manager, &mut conn)
    };
    let run = |sql: &'static str| found(&move |conn| conn.execute_batch(sql).unwrap());
    assert_eq!(run("BEGIN"), reset("an open transaction"));
    assert_eq!(run("PRAGMA foreign_keys = OFF"), reset("PRAGMA foreign_keys"));
    assert_eq!(
        run("BEGIN; PRAGMA query_only = 1; PRAGMA cache_size = 7"),
        reset("an open transaction, PRAGMA cache_size, PRAGMA query_only")
    );
    assert_eq!(run("PRAGMA case_sensitive_like = 1"), closed("PRAGMA case_sensitive_like"));
    assert_eq!(run("ATTACH '' AS a"), closed("an attached or detached database"));
    let temporary = "temporary tables, views, triggers or indexes";
    assert_eq!(run("CREATE TEMP VIEW v AS SELECT 1"), closed(temporary));
    assert_eq!(found(&|conn| conn.create_collation("c", str::cmp).unwrap()), closed("a collation"));
    assert_eq!(
        found(&|conn| drop(conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, 9))),
        closed("a limit")
    );
    let flags = FunctionFlags::SQLITE_UTF8;
    assert_eq!(
        found(&|conn| conn.create_scalar_function("f", 0, flags, |_| Ok(1)).unwrap()),
        closed("a function")
    );
    assert_eq!(
        found(&|conn| conn.set_prepared_statement_cache_capacity(3)),
        closed("a capacity of its statement cache")
    );
    let allow = |_: AuthContext<'_>| Authorization::Allow;
    assert_eq!(found(&|conn| conn.authorizer(Some(allow)).unwrap()), closed("an authorizer"));
    // Ended as it began: nothing to report, and the connection stays.
    assert_eq!(run("CREATE TEMP TABLE x (n); DROP TABLE x"), Fate::Reset(None));
    assert_eq!(run("ATTACH '' AS a; DETACH a"), Fate::Reset(None));
    assert_eq!(run("PRAGMA foreign_keys = ON"), Fate::Reset(None));
    // A hook is removed without a word: no statement is lost by it.
    assert_eq!(found(&|conn| conn.progress_handler(9, Some(|| true)).unwrap()), Fate::Kept);
}

#[test]
fn the_levels_do_what_they_say() {
    for (level, transaction, pragma) in [
        (Reset::Off, Fate::Kept, Fate::Kept),
        (Reset::Rollback, reset("an open transaction"), Fate::Kept),
        (Reset::Session, reset("an open transaction"), reset("PRAGMA foreign_keys")),
    ] {
        let (manager, mut conn) = memory(level);
        conn.execute_batch("BEGIN").unwrap();
        assert_eq!(give_back(&manager, &mut conn), transaction, "{level:?}");
        let (manager, mut conn) = memory(level);
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert_eq!(give_back(&manager, &mut conn), pragma, "{level:?}");
    }
    // After a panic the pool resets in any case.
    let (manager, mut conn) = memory(Reset::Off);
    conn.execute_batch("BEGIN").unwrap();
    manager.reset(&mut conn).unwrap();
    assert!(conn.is_autocommit());
    assert_eq!(Reset::default(), Reset::Session);
}

#[test]
fn an_authorizer_of_the_preparation_stays_and_each_return_is_compared() {
    let manager = Manager::memory().with_init(|conn| {
        conn.authorizer(Some(|context: AuthContext<'_>| match context.action {
            fairpool_sqlite::rusqlite::hooks::AuthAction::Delete { .. } => Authorization::Deny,
            _ => Authorization::Allow,
        }))
    });
    let mut conn = manager.connect().unwrap();
    conn.execute_batch("CREATE TABLE t (n); PRAGMA query_only = 1").unwrap();
    assert_eq!(give_back(&manager, &mut conn), reset("PRAGMA query_only"));
    assert_eq!(give_back(&manager, &mut conn), Fate::Reset(None));
    assert!(conn.execute_batch("DELETE FROM t").is_err(), "the user's authorizer");
    conn.execute_batch("CREATE TEMP TABLE x (n)").unwrap();
    assert!(matches!(give_back(&manager, &mut conn), Fate::Closed(_)));
}

/// Statements, and calls of methods, that a holder may leave.
const LEAVE: &[&str] = &[
    "SELECT count(*) FROM t",
    "INSERT INTO t VALUES (1)",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT s",
    "RELEASE s",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA query_only = ON",
    "PRAGMA query_only = OFF",
    "PRAGMA busy_timeout = 3",
    "PRAGMA cache_size = 50",
    "PRAGMA cache_spill = 40",
    "PRAGMA mmap_size = 65536",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA secure_delete = FAST",
    "PRAGMA defer_foreign_keys = ON",
    "PRAGMA temp_store = FILE",
    "PRAGMA case_sensitive_like = ON",
    "PRAGMA journal_mode = TRUNCATE",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA wal_autocheckpoint = 2",
    "PRAGMA writable_schema = RESET",
    "PRAGMA unknown = 1",
    "CREATE TEMP TABLE mine (n)",
    "INSERT INTO mine VALUES (1)",
    "DROP TABLE mine",
    "CREATE TEMP TABLE t (n)",
    "DROP TABLE temp.t",
    "ATTACH ':memory:' AS other",
    "CREATE TABLE other.x (n)",
    "DETACH other",
    "VACUUM",
    "SELEKT",
    "ROLLBACK",
];

/// A method by its number. Which statement fails is part of the game.
fn call(conn: &mut Connection, number: u64) {
    let _ = match number {
        0 => conn.busy_timeout(Duration::from_millis(9)),
        1 => conn.busy_handler(Some(|_| false)),
        2 => conn.progress_handler(5, Some(|| false)),
        3 => conn.commit_hook(Some(|| false)),
        4 => conn.rollback_hook(Some(|| ())),
        5 => conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>),
        6 => conn.create_scalar_function("f", 0, FunctionFlags::SQLITE_UTF8, |_| Ok(1)),
        _ => conn.set_limit(Limit::SQLITE_LIMIT_COLUMN, 50).map(drop),
    };
}

#[test]
fn after_any_sequence_and_return_a_connection_is_like_a_fresh_one() {
    let (mut kept, mut closed_ones) = (0, 0);
    for seed in 0..300 {
        let folder = folder();
        let manager = Manager::file(folder.path().join("test.db"))
            .busy_timeout(Duration::from_millis(100))
            .with_init(|conn| conn.execute_batch("PRAGMA cache_size = 77"));
        let mut conn = manager.connect().unwrap();
        conn.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
        assert_eq!(give_back(&manager, &mut conn), Fate::Kept);
        let before = state(&conn);
        let (mut dice, mut history) = (Dice::of(seed, &[]), Vec::new());
        for _ in 0..2 {
            for _ in 0..dice.between(1, 5) {
                if dice.percent(10) {
                    let number = dice.below(8);
                    history.push(format!("method {number}"));
                    call(&mut conn, number);
                } else {
                    let sql = LEAVE[dice.below(LEAVE.len() as u64) as usize];
                    history.push(sql.to_owned());
                    let cached = dice.percent(30);
                    let _ = if cached {
                        conn.prepare_cached(sql).and_then(|mut it| it.execute([]).map(drop))
                    } else {
                        conn.execute_batch(sql)
                    };
                }
            }
            let fate = give_back(&manager, &mut conn);
            history.push(format!("{fate:?}"));
            if matches!(fate, Fate::Closed(_)) {
                drop(conn);
                conn = manager.connect().unwrap();
                closed_ones += 1;
            } else {
                kept += 1;
            }
            let differences = difference(&before, &state(&conn));
            assert!(differences.is_empty(), "seed {seed}: {history:#?}: {differences:?}");
        }
    }
    println!("{kept} connections were kept, {closed_ones} closed");
    assert!(kept > 50 && closed_ones > 50);
}
