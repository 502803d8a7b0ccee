//! Ways in which a path comes to mean another database, or none, under a pool in use.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool, PooledConnection};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::{self, Connection};

use crate::errors::{again, role};
use crate::folder;

const LONG: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 3;

/// A database with its own answer to `SELECT n FROM t`, closed.
fn make(path: &Path, n: i64) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
    conn.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
}

fn first(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT n FROM t ORDER BY rowid LIMIT 1", [], |row| row.get(0))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Longer than a tick of the clock: the next return looks at the file.
fn a_tick_passes() {
    thread::sleep(Duration::from_millis(30));
}

/// Changes the file under a pool. From then on no insert is reported as done that the file
/// at the path does not have, each connection is replaced after one use at most, and the
/// pool answers `answer`.
fn check(prepare: impl FnOnce(&Path) -> PathBuf, change: impl FnOnce(&Path), answer: i64) {
    let folder = folder();
    let path = prepare(folder.path());
    let pool = Pool::builder()
        .max_size(CONNECTIONS as u32)
        .connection_timeout(LONG)
        .build(Manager::file(&path))
        .unwrap();
    let all: Vec<_> = (0..CONNECTIONS).map(|_| pool.get().unwrap()).collect();
    let old: Vec<u64> = all.iter().map(|conn| PooledConnection::info(conn).id).collect();
    for conn in &all {
        conn.execute_batch("INSERT INTO t VALUES (100)").unwrap();
    }
    drop(all);
    change(&path);
    a_tick_passes();

    let (mut done, mut refused) = (0, 0);
    let started = Instant::now();
    loop {
        let conn = pool.get().unwrap();
        let is_old = old.contains(&PooledConnection::info(&conn).id);
        match conn.execute("INSERT INTO t VALUES (7)", []) {
            Ok(_) => {
                assert!(!is_old, "a lost insert is reported as done");
                done += 1;
            }
            // As soon as the new file has a table.
            Err(error) => {
                assert!(is_old, "{error}");
                assert!(pool.get().is_ok(), "the pool goes on");
                refused += 1;
            }
        }
        drop(conn);
        if done == 5 {
            break;
        }
        assert!(started.elapsed() < LONG, "{refused} refused");
    }
    assert!(refused <= CONNECTIONS, "each sibling at most once: {refused}");
    let rows = |conn: &Connection| -> i64 {
        conn.query_row("SELECT count(*) FROM t WHERE n = 7", [], |row| row.get(0)).unwrap()
    };
    for conn in [&*pool.get().unwrap(), &*pool.get().unwrap()] {
        assert_eq!((first(conn).unwrap(), rows(conn)), (answer, 5));
    }
    drop(pool);
    let seen = Connection::open(&path).unwrap();
    assert_eq!((first(&seen).unwrap(), rows(&seen)), (answer, 5), "as everybody else sees it");
}

fn file(folder: &Path) -> PathBuf {
    let path = folder.join("main.db");
    make(&path, 1);
    path
}

#[test]
fn another_file_is_renamed_over_it() {
    check(
        file,
        |path| {
            let other = path.with_extension("other");
            make(&other, 2);
            fs::rename(&other, path).unwrap();
            fs::remove_file(with_suffix(path, "-wal")).unwrap();
            fs::remove_file(with_suffix(path, "-shm")).unwrap();
        },
        2,
    );
}

#[test]
fn it_is_deleted_and_made_anew() {
    check(
        file,
        |path| {
            for suffix in ["", "-wal", "-shm"] {
                fs::remove_file(with_suffix(path, suffix)).unwrap();
            }
            make(path, 2);
        },
        2,
    );
}

#[test]
fn a_symbolic_link_is_switched() {
    let link = |folder: &Path| {
        make(&folder.join("one.db"), 1);
        make(&folder.join("two.db"), 2);
        let link = folder.join("link.db");
        symlink(folder.join("one.db"), &link).unwrap();
        link
    };
    let switch = |link: &Path| {
        let aside = link.with_extension("new");
        symlink(link.with_file_name("two.db"), &aside).unwrap();
        fs::rename(&aside, link).unwrap();
    };
    check(link, switch, 2);
}

#[test]
fn a_link_above_it_is_switched() {
    let link = |folder: &Path| {
        for (name, n) in [("one", 1), ("two", 2)] {
            fs::create_dir(folder.join(name)).unwrap();
            make(&folder.join(name).join("main.db"), n);
        }
        symlink(folder.join("one"), folder.join("current")).unwrap();
        folder.join("current").join("main.db")
    };
    let switch = |path: &Path| {
        let current = path.parent().unwrap();
        fs::remove_file(current).unwrap();
        symlink(current.with_file_name("two"), current).unwrap();
    };
    check(link, switch, 2);
}

#[test]
fn its_folder_is_replaced() {
    let inner = |folder: &Path| {
        fs::create_dir(folder.join("data")).unwrap();
        file(&folder.join("data"))
    };
    let replace = |path: &Path| {
        let data = path.parent().unwrap();
        fs::rename(data, data.with_file_name("old")).unwrap();
        fs::create_dir(data).unwrap();
        make(path, 2);
    };
    check(inner, replace, 2);
}

#[test]
fn a_hard_link_takes_its_place() {
    check(
        file,
        |path| {
            let other = path.with_extension("other");
            make(&other, 2);
            for suffix in ["", "-wal", "-shm"] {
                fs::remove_file(with_suffix(path, suffix)).unwrap();
            }
            fs::hard_link(&other, path).unwrap();
            fs::remove_file(&other).unwrap();
        },
        2,
    );
}

#[test]
fn a_uri_is_watched_like_a_path() {
    let folder = folder();
    make(&folder.path().join("one.db"), 1);
    make(&folder.path().join("two.db"), 2);
    let link = folder.path().join("a link.db");
    symlink(folder.path().join("one.db"), &link).unwrap();
    let uri = format!("file:{}/a%20link.db?cache=private", folder.path().display());
    let manager = Manager::file(uri);
    let mut conn = manager.connect().unwrap();
    assert!(!manager.has_broken(&mut conn));
    fs::remove_file(&link).unwrap();
    symlink(folder.path().join("two.db"), &link).unwrap();
    a_tick_passes();
    assert!(manager.has_broken(&mut conn));
    assert_eq!(first(&manager.connect().unwrap()).unwrap(), 2);
}

#[test]
fn it_is_deleted_and_stays_away() {
    let folder = folder();
    let path = file(folder.path());
    let manager = Manager::file(&path).with_flags(
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    );
    let pool = Pool::builder().max_size(2).build(manager).unwrap();
    let (one, other) = (pool.get().unwrap(), pool.get().unwrap());
    fs::remove_file(&path).unwrap();
    a_tick_passes();
    drop((one, other));
    let error = pool.get_timeout(Duration::from_millis(300)).unwrap_err();
    assert!(format!("{error:#}").contains("unable to open"), "{error}");
    assert_eq!(pool.stats().closed.broken, 2, "{:?}", pool.stats());
    // It comes back, for example with its mount.
    make(&path, 3);
    assert_eq!(first(&pool.get_timeout(LONG).unwrap()).unwrap(), 3);
}

#[test]
fn the_log_or_its_shared_memory_is_removed_or_replaced() {
    for suffix in ["-wal", "-shm"] {
        for is_replaced in [false, true] {
            let folder = folder();
            let path = file(folder.path());
            let manager = Manager::file(&path);
            let mut conn = manager.connect().unwrap();
            conn.execute_batch("INSERT INTO t VALUES (5)").unwrap();
            a_tick_passes();
            assert!(!manager.has_broken(&mut conn), "{suffix}");
            let beside = with_suffix(&path, suffix);
            fs::rename(&beside, with_suffix(&path, "-aside")).unwrap();
            if is_replaced {
                fs::write(&beside, "").unwrap();
            }
            a_tick_passes();
            let error = conn.execute_batch("INSERT INTO t VALUES (6)").unwrap_err();
            assert!(manager.is_fatal(&error), "{error:?}");
            assert!(manager.has_broken(&mut conn), "{suffix}, {is_replaced}");
            assert!(manager.is_valid(&mut conn).is_err());
        }
    }
}

/// The log vanishes under a connection that a pool is about to lend: its commit is refused.
#[track_caller]
fn the_log_is_watched(path: &Path, manager: &Manager, conn: &mut fairpool_sqlite::Connection) {
    assert!(!manager.has_broken(conn));
    conn.execute_batch("INSERT INTO t VALUES (5)").unwrap();
    a_tick_passes();
    assert!(!manager.has_broken(conn));
    fs::remove_file(with_suffix(path, "-wal")).unwrap();
    a_tick_passes();
    let error = conn.execute_batch("INSERT INTO t VALUES (6)").expect_err("a lost insert");
    assert!(manager.is_fatal(&error), "{error:?}");
    assert!(manager.has_broken(conn));
}

const WAL: &str = "PRAGMA journal_mode = WAL";

#[test]
fn a_log_is_watched_that_the_preparation_has_begun() {
    for wal in [true, false] {
        let folder = folder();
        let path = file(folder.path());
        let manager = Manager::file(&path).wal(wal).with_init(|conn| conn.execute_batch(WAL));
        let mut conn = manager.connect().unwrap();
        manager.customized(&mut conn);
        the_log_is_watched(&path, &manager, &mut conn);
    }
}

#[test]
fn a_log_is_watched_that_a_customizer_has_begun() {
    fn switch(conn: &mut Connection) {
        conn.transaction().unwrap().rollback().unwrap();
        conn.execute_batch(WAL).unwrap();
    }
    for wal in [true, false] {
        let folder = folder();
        let path = file(folder.path());
        let manager = Manager::file(&path).wal(wal);
        let mut conn = manager.connect().unwrap();
        switch(&mut conn);
        manager.customized(&mut conn);
        the_log_is_watched(&path, &manager, &mut conn);
    }
}

#[test]
fn a_log_is_watched_that_a_check_has_begun() {
    let folder = folder();
    let path = file(folder.path());
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    first(&reader).unwrap();
    let manager = Manager::file(&path).busy_timeout(Duration::from_millis(100));
    let mut conn = manager.connect().unwrap();
    manager.customized(&mut conn);
    reader.execute_batch("COMMIT").unwrap();
    manager.is_valid(&mut conn).unwrap();
    the_log_is_watched(&path, &manager, &mut conn);
}

#[test]
fn the_preparation_and_a_customizer_may_end_the_log() {
    let end = "INSERT INTO t VALUES (2); PRAGMA journal_mode = DELETE; INSERT INTO t VALUES (3)";
    for (init, customizer) in [(end, "SELECT 1"), ("SELECT 1", end)] {
        let folder = folder();
        let path = file(folder.path());
        let manager = Manager::file(&path).with_init(|conn| conn.execute_batch(init));
        let mut conn = manager.connect().unwrap();
        a_tick_passes();
        conn.execute_batch(customizer).unwrap();
        manager.customized(&mut conn);
        a_tick_passes();
        conn.execute_batch("INSERT INTO t VALUES (4)").unwrap();
        assert!(!manager.has_broken(&mut conn) && !manager.needs_reset(&mut conn));
    }
}

#[test]
fn a_close_copies_no_log_that_has_no_name_any_more() {
    const NAME: &str = "replaced_file::a_close_copies_no_log_that_has_no_name_any_more";
    if let Some(folder) = role() {
        // Another process writes, with a log of its own, and copies it.
        let newer = Connection::open(folder.join("main.db")).unwrap();
        newer.execute_batch("UPDATE t SET n = 3; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        return;
    }
    let folder = folder();
    let path = file(folder.path());
    let manager = Manager::file(&path);
    let old = manager.connect().unwrap();
    old.execute_batch("UPDATE t SET n = 2").unwrap();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(with_suffix(&path, suffix)).unwrap();
    }
    again(NAME, folder.path(), |program| Command::new(program));
    drop(old);
    assert_eq!(first(&Connection::open(&path).unwrap()).unwrap(), 3, "the later write");
}

#[test]
fn a_refused_commit_is_fatal_and_the_connection_is_retired_by_run() {
    let folder = folder();
    let path = file(folder.path());
    let pool = Pool::builder().max_size(1).build(Manager::file(&path).wal(false)).unwrap();
    let mut conn = pool.get().unwrap();
    conn.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let transaction = conn.transaction().unwrap();
    transaction.execute("INSERT INTO t VALUES (2)", []).unwrap();
    fs::rename(&path, path.with_extension("moved")).unwrap();
    a_tick_passes();
    let error = transaction.commit().unwrap_err();
    assert!(pool.manager().is_fatal(&error), "{error:?}");
}

#[test]
fn what_changes_nothing_closes_nothing() {
    let folder = folder();
    let path = file(folder.path());
    let pool = Pool::builder().max_size(2).build(Manager::file(&path)).unwrap();
    for sql in [
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "VACUUM",
        "DELETE FROM t; INSERT INTO t VALUES (1)",
        "CREATE TABLE u (n); DROP TABLE u",
    ] {
        pool.get().unwrap().execute_batch(sql).unwrap();
        // Somebody else comes and goes, and writes.
        let other = Connection::open(&path).unwrap();
        other.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        drop(other);
        a_tick_passes();
        fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap();
        drop((pool.get().unwrap(), pool.get().unwrap()));
    }
    assert_eq!((pool.stats().opened, pool.stats().closed.total()), (2, 0), "{:?}", pool.stats());
}

#[test]
fn a_holder_may_change_the_journal_mode_and_write() {
    let folder = folder();
    let path = file(folder.path());
    let manager = Manager::file(&path);
    let conn = manager.connect().unwrap();
    conn.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    conn.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    a_tick_passes();
    conn.execute_batch("INSERT INTO t VALUES (3)").expect("the log is gone by its own will");
    drop(conn);
    assert_eq!(first(&manager.connect().unwrap()).unwrap(), 1);
}
