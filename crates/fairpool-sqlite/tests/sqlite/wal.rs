//! The write-ahead log of a file that is read without a gap.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::text::Plain;
use fairpool::{ManageConnection, Pool};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::Connection;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::folder;

const LONG: Duration = Duration::from_secs(60);
/// The size from which the pool makes an effort.
const LARGE: u64 = 64 << 20;
/// A log of this size has failed the test: it would fill the disk long before the time is up.
const TOO_LARGE: u64 = 1 << 30;

struct Logger(Mutex<Vec<(Level, String)>>);

static LOGGER: Logger = Logger(Mutex::new(Vec::new()));

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push((record.level(), record.args().to_string()));
    }
    fn flush(&self) {}
}

/// A name that would begin a line of its own.
const ODD_NAME: &str = "re\nad.db";

fn logged(path: &Path, level: Level) -> Vec<String> {
    let all = LOGGER.0.lock().unwrap();
    let path = Plain(path.to_str().unwrap()).to_string();
    assert!(path.contains("re\\nad.db"), "{path}");
    let mine = all.iter().filter(|(of, text)| *of == level && text.contains(&path));
    mine.map(|(_, text)| text.clone()).collect()
}

fn pool(path: &Path) -> Pool<Manager> {
    // The second of two tests of one process finds it set.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
    // As many programs do. The file is in WAL mode already.
    let init = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF";
    let manager = Manager::file(path).with_init(|conn| conn.execute_batch(init));
    let pool = Pool::builder().max_size(4).connection_timeout(LONG).build(manager).unwrap();
    pool.get().unwrap().execute_batch("CREATE TABLE t (data BLOB)").unwrap();
    pool
}

fn wal_bytes(path: &Path) -> u64 {
    fs::metadata(path.with_extension("db-wal")).map_or(0, |it| it.len())
}

/// Rewrites one MiB.
fn rewrite(conn: &Connection) {
    conn.execute_batch("BEGIN; DELETE FROM t; INSERT INTO t VALUES (zeroblob(1048576)); COMMIT")
        .unwrap();
}

fn count(conn: &Connection) {
    conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
}

#[test]
fn a_log_that_overlapping_readers_keep_is_emptied() {
    let folder = folder();
    let path = folder.path().join(ODD_NAME);
    let pool = pool(&path);
    let is_over = AtomicBool::new(false);
    let (most, last) = thread::scope(|scope| {
        // Two readers, of which one begins before the other ends.
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = Connection::open(&path).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    reader.execute_batch("BEGIN").unwrap();
                    count(&reader);
                    thread::sleep(Duration::from_millis(20));
                    reader.execute_batch("COMMIT").unwrap();
                }
            });
        }
        let (mut most, mut last) = (0, 0);
        let started = Instant::now();
        let goes_on = || logged(&path, Level::Info).is_empty() && started.elapsed() < LONG;
        while goes_on() && most < TOO_LARGE {
            rewrite(&pool.get().unwrap());
            last = wal_bytes(&path);
            most = most.max(last);
            thread::sleep(Duration::from_millis(1));
        }
        last = last.min(wal_bytes(&path));
        is_over.store(true, Ordering::Relaxed);
        (most, last)
    });
    assert!(last < most, "it was {most}, and {last} at the end");
    assert!(most > LARGE, "the readers have kept the log: {most}");
    let emptied = logged(&path, Level::Info);
    assert!(emptied.iter().any(|text| text.contains("and was emptied")), "{emptied:?}");
}

#[test]
fn a_reader_that_never_ends_is_named_in_a_warning() {
    let folder = folder();
    let path = folder.path().join(ODD_NAME);
    let pool = pool(&path);
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    count(&reader);
    let started = Instant::now();
    while logged(&path, Level::Warn).is_empty() {
        let bytes = wal_bytes(&path);
        assert!(started.elapsed() < LONG && bytes < TOO_LARGE, "{bytes} bytes");
        rewrite(&pool.get().unwrap());
        thread::sleep(Duration::from_millis(1));
    }
    let text = &logged(&path, Level::Warn)[0];
    assert!(text.contains("MiB") && text.contains("a reader does not end"), "{text}");
    assert!(wal_bytes(&path) > LARGE);
    // Once in a while, not at each return.
    for _ in 0..20 {
        rewrite(&pool.get().unwrap());
    }
    assert_eq!(logged(&path, Level::Warn).len(), 1);
    let timeout: i64 =
        pool.get().unwrap().query_row("PRAGMA busy_timeout", [], |row| row.get(0)).unwrap();
    assert_eq!(timeout, 5000, "as before");
    assert_eq!(pool.stats().closed.total(), 0, "{:?}", pool.stats());
}

#[test]
fn a_refused_commit_is_logged_with_its_path_in_one_line() {
    let folder = folder();
    let path = folder.path().join(ODD_NAME);
    let pool = pool(&path);
    let conn = pool.manager().connect().unwrap();
    fs::rename(&path, path.with_extension("moved")).unwrap();
    thread::sleep(Duration::from_millis(30));
    conn.execute_batch("INSERT INTO t VALUES (1)").unwrap_err();
    let warnings = logged(&path, Level::Warn);
    assert!(warnings[0].starts_with("a commit is refused"), "{warnings:?}");
}
