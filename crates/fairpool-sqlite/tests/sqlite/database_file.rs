//! The file of a `Database`: which ones it takes, and what happens to them.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Error, ErrorKind};
use fairpool_sqlite::rusqlite::{self, Connection, ErrorCode, OpenFlags};
use fairpool_sqlite::{Database, SqliteConnectionManager as Manager};

use crate::database::{LONG, build, code, database, impatient, value};
use crate::folder;

/// The error of a build that no time would have helped.
fn refusal(manager: Manager) -> String {
    let builder = Database::builder().both(|pool| pool.connection_timeout(LONG));
    let error = builder.build(manager).expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::Connect, "{error:#}");
    format!("{error:#}")
}

fn driver_error(error: &Error) -> &rusqlite::Error {
    error.source().and_then(|source| source.downcast_ref()).expect("the driver's error")
}

/// In rollback mode, with a row.
fn make(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)").unwrap();
    conn
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

// ---- which ones ----

#[test]
fn a_database_that_is_no_file_in_wal_mode_is_refused_at_once_with_the_reason() {
    let folder = folder();
    let path = folder.path().join("t.db");
    drop(make(&path));
    let shared = Manager::file("file:refused?mode=memory&cache=shared");
    for manager in [Manager::memory(), Manager::file(":memory:"), shared] {
        let text = refusal(manager);
        assert!(text.contains("a database in memory has no WAL"), "{text}");
    }
    let text = refusal(Manager::file(&path).wal(false));
    assert!(text.contains("wal(false)"), "{text}");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let text = refusal(Manager::file(&path).with_flags(flags));
    assert!(text.contains("the file is opened read-only"), "{text}");
    // Nothing shares memory there.
    #[cfg(unix)]
    {
        let path = path.to_str().unwrap();
        let text = refusal(Manager::file(format!("file:{path}?vfs=unix-none&nolock=1")));
        assert!(text.contains("cannot switch it"), "{text}");
    }
}

#[test]
fn a_file_in_wal_mode_needs_no_switch() {
    let folder = folder();
    let path = folder.path().join("t.db");
    make(&path).execute_batch("PRAGMA journal_mode = WAL").unwrap();
    let db = build(Manager::file(&path).wal(false));
    assert_eq!(value(&db.read().unwrap()), Ok(1));
}

#[test]
fn a_file_that_is_in_use_is_refused_by_name_and_taken_when_it_is_free() {
    let folder = folder();
    let path = folder.path().join("t.db");
    let reader = make(&path);
    reader.execute_batch("BEGIN; SELECT n FROM t").unwrap();
    value(&reader).unwrap();
    let error = Database::builder()
        .both(|pool| pool.connection_timeout(Duration::from_millis(300)))
        .build(impatient(&path))
        .unwrap_err();
    assert!(error.is_timeout(), "{error:#}");
    assert_eq!(code(driver_error(&error)), Some(ErrorCode::DatabaseBusy));
    let text = format!("{error:#}");
    assert!(text.contains("another connection uses it") && text.contains("locked"), "{text}");

    thread::scope(|scope| {
        let build = scope.spawn(|| build(impatient(&path)));
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(value(&build.join().unwrap().read().unwrap()), Ok(1));
    });
}

#[test]
fn a_new_file_is_made_by_the_writer_also_if_it_opens_on_demand() {
    let folder = folder();
    let init = "CREATE TABLE IF NOT EXISTS t (n INTEGER); PRAGMA synchronous = OFF";
    for min_idle in [None, Some(0)] {
        let path = folder.path().join(format!("{min_idle:?}.db"));
        let manager = Manager::file(&path).with_init(move |conn| conn.execute_batch(init));
        let builder =
            Database::builder().both(|pool| pool.min_idle(min_idle).connection_timeout(LONG));
        let db = builder.build(manager).unwrap();
        let rows = db.read().unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0));
        assert_eq!(rows, Ok(0));
        assert_eq!(db.readers().stats().open_failures, 0);
    }
}

#[test]
fn a_preparation_that_writes_on_readers_is_refused_at_once() {
    let folder = folder();
    let path = folder.path().join("t.db");
    drop(make(&path));
    let manager =
        Manager::file(&path).with_init(|conn| conn.execute_batch("INSERT INTO t VALUES (2)"));
    let text = refusal(manager);
    assert!(text.contains("with_init writes on a reader"), "{text}");
}

#[test]
fn a_preparation_can_make_temporary_tables_for_readers_that_stay_query_only() {
    let folder = folder();
    let path = folder.path().join("t.db");
    drop(make(&path));
    let init = "PRAGMA query_only = OFF; CREATE TEMP TABLE mine (n); INSERT INTO mine VALUES (3)";
    let db = build(Manager::file(&path).with_init(move |conn| conn.execute_batch(init)));
    for _ in 0..3 {
        let conn = db.read().unwrap();
        assert_eq!(conn.query_row("SELECT n FROM mine", [], |row| row.get(0)), Ok(3));
        let error = conn.execute("DELETE FROM t", []).unwrap_err();
        assert_eq!(code(&error), Some(ErrorCode::ReadOnly));
    }
}

// ---- what happens to them ----

/// What is in the main file and not in the log. (To read the file would take SQLite's locks from
/// it.)
fn bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Fewer pages than the writer copies by itself.
fn write_blobs(db: &Database) {
    for _ in 0..300 {
        let conn = db.writer().get().unwrap();
        conn.execute("INSERT INTO blobs VALUES (zeroblob(3000))", []).unwrap();
    }
}

#[test]
fn readers_copy_the_log_into_the_file_while_the_writer_writes_on() {
    const ALL_BLOBS: u64 = 300 * 3000;
    let folder = folder();
    let path = folder.path().join("t.db");
    let db = database(&path);
    let writer_waits = |conn: &Connection| {
        conn.query_row("PRAGMA wal_autocheckpoint", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(writer_waits(&db.write().unwrap()), 4000);
    db.write().unwrap().execute_batch("CREATE TABLE blobs (data BLOB)").unwrap();
    write_blobs(&db);
    assert!(bytes(&path) < ALL_BLOBS / 4, "all is in the log: {}", bytes(&path));
    // Holds the writer, in a transaction, until the copy is there.
    let mut writer = db.write().unwrap();
    let transaction = writer.transaction().unwrap();
    transaction.execute("UPDATE t SET n = 1", []).unwrap();
    let started = Instant::now();
    while bytes(&path) < ALL_BLOBS {
        assert!(started.elapsed() < LONG, "{}", bytes(&path));
        value(&db.read().unwrap()).unwrap();
    }
    transaction.commit().unwrap();
    assert_eq!(value(&db.read().unwrap()), Ok(1));
}

#[test]
fn the_only_reader_copies_no_log_and_a_preparation_sets_when_the_writer_does() {
    let folder = folder();
    let path = folder.path().join("t.db");
    let init = "CREATE TABLE IF NOT EXISTS blobs (data BLOB); PRAGMA wal_autocheckpoint = 100";
    let manager = Manager::file(&path).with_init(|conn| conn.execute_batch(init));
    let builder = Database::builder().readers(|pool| pool.max_size(1));
    let db = builder.build(manager).unwrap();
    write_blobs(&db);
    assert!(bytes(&path) > 100 * 3000, "the writer does: {}", bytes(&path));
    for _ in 0..100 {
        db.read().unwrap().query_row("SELECT count(*) FROM blobs", [], |_| Ok(())).unwrap();
    }
    let uses = db.readers().stats().gets;
    assert_eq!(uses, 100, "none but those that read");
}

#[test]
fn after_a_complete_close_one_file_has_every_row() {
    for _ in 0..50 {
        let folder = folder();
        let path = folder.path().join("t.db");
        let db = database(&path);
        let all: Vec<_> = (0..4).map(|_| db.read().unwrap()).collect();
        for conn in &all {
            value(conn).unwrap();
        }
        db.write().unwrap().execute("UPDATE t SET n = 9", []).unwrap();
        drop(all);
        let reports = db.close(Instant::now() + LONG);
        assert!(reports.is_complete(), "{reports}");
        assert_eq!(names(folder.path()), ["t.db"]);
        assert_eq!(value(&Connection::open(&path).unwrap()), Ok(9));
    }
}

#[test]
fn a_close_refuses_readers_and_writers_while_it_waits_for_either() {
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    let (reader, writer) = (db.read().unwrap(), db.write().unwrap());
    let reports = db.close(Instant::now());
    assert!(!reports.is_complete());
    assert_eq!((reports.writer.holders.len(), reports.readers.holders.len()), (1, 1));
    assert!(db.read().unwrap_err().is_closed() && db.write().unwrap_err().is_closed());
    writer.execute("UPDATE t SET n = 9", []).unwrap();
    drop((reader, writer));
    let reports = db.close(Instant::now() + LONG);
    assert!(reports.is_complete(), "{reports}");
}

#[cfg(unix)]
#[test]
fn a_replaced_file_is_left_by_the_writer_and_the_readers() {
    let folder = folder();
    let path = folder.path().join("t.db");
    let db = database(&path);
    let all: Vec<_> = (0..4).map(|_| db.read().unwrap()).collect();
    for conn in &all {
        value(conn).unwrap();
    }
    fs::rename(&path, folder.path().join("old.db")).unwrap();
    for suffix in ["-wal", "-shm"] {
        let name = |stem| folder.path().join(format!("{stem}.db{suffix}"));
        fs::rename(name("t"), name("old")).unwrap();
    }
    drop(make(&path));
    // Longer than a tick of the clock.
    thread::sleep(Duration::from_millis(30));
    let written = db.write().unwrap().execute("UPDATE t SET n = 100", []);
    assert!(written.is_err(), "into the old file");
    drop(all);
    let sums: Vec<_> = (0..4).map(|_| value(&db.read().unwrap())).collect();
    assert_eq!(sums, [Ok(1), Ok(1), Ok(1), Ok(1)], "of the new file");
    db.write().unwrap().execute("UPDATE t SET n = 5", []).unwrap();
    assert_eq!(value(&db.read().unwrap()), Ok(5));
}

/// The process ends without closing: the log has the rows, and the next to open it recovers it.
#[cfg(unix)]
#[test]
fn a_log_that_a_crash_has_left_is_recovered_before_a_reader_opens_the_file() {
    use fairpool_children::{alone, in_child};

    let _alone = alone();
    let folder = folder();
    let path = folder.path().join("t.db");
    in_child(|| {
        // Of a child before this one.
        names(folder.path())
            .iter()
            .for_each(|name| fs::remove_file(folder.path().join(name)).unwrap());
        let conn = make(&path);
        conn.execute_batch("PRAGMA journal_mode = WAL; UPDATE t SET n = 8").unwrap();
        std::mem::forget(conn);
    });
    assert!(names(folder.path()).contains(&"t.db-wal".to_owned()), "the log is left");
    let db = build(impatient(&path));
    assert_eq!(value(&db.read().unwrap()), Ok(8));
    assert_eq!(db.readers().stats().open_failures, 0);
}

#[cfg(unix)]
#[test]
fn a_child_made_by_fork_is_refused() {
    use fairpool_children::{alone, in_child};

    let _alone = alone();
    let folder = folder();
    let db = database(&folder.path().join("t.db"));
    // Longer than a tick of the clock.
    in_child(|| {
        thread::sleep(Duration::from_millis(30));
        assert!(db.read().unwrap_err().is_forked() && db.write().unwrap_err().is_forked());
        assert!(db.close(Instant::now() + LONG).is_complete());
    });
    assert_eq!(value(&db.read().unwrap()), Ok(0));
}
