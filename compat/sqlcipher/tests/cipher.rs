//! Encrypted files, by a feature of rusqlite that fairpool-sqlite knows nothing of.

use std::path::Path;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool};
use fairpool_sqlite::SqliteConnectionManager as Manager;

fn by_uri(file: &Path) -> Manager {
    Manager::file(format!("file:{}?key=secret", file.display()))
}

/// The key has to come before anything that reads the file, as the switch to WAL does.
fn by_pragma(file: &Path) -> Manager {
    Manager::file(file).wal(false).with_init(|conn| {
        conn.pragma_update(None, "key", "secret")?;
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
    })
}

#[test]
fn p18_a_pool_serves_an_encrypted_file_and_undoes_what_holders_leave() {
    for manager in [by_uri, by_pragma] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hidden.db");
        let pool = Pool::builder().max_size(3).build(manager(&file)).unwrap();
        let conn = pool.get().unwrap();
        conn.execute_batch("CREATE TABLE t (n TEXT); INSERT INTO t VALUES ('visible')").unwrap();
        conn.execute_batch("PRAGMA query_only = ON; BEGIN").unwrap();
        drop(conn);
        let conns = [(); 3].map(|()| pool.get().unwrap());
        for conn in &conns {
            let asked = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
            assert!(!asked("PRAGMA cipher_version").is_empty());
            assert_eq!(asked("PRAGMA journal_mode"), "wal");
            assert_eq!(asked("SELECT n FROM t"), "visible");
            assert!(conn.is_autocommit());
            assert_eq!(conn.query_row("PRAGMA query_only", [], |row| row.get(0)), Ok(0));
        }
        drop(conns);
        assert!(pool.close(Instant::now() + Duration::from_secs(60)).is_complete());
        let bytes = std::fs::read(&file).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!bytes.is_empty() && !has(b"SQLite format") && !has(b"visible"));
    }
}

#[test]
fn a_wrong_key_is_an_error_that_does_not_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hidden.db");
    let pool = Pool::builder().max_size(1).build(by_uri(&file)).unwrap();
    pool.get().unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
    let wrong = Manager::file(format!("file:{}?key=mistaken", file.display()));
    // Not by a pool: to derive a key takes a part of a second, and a get may end before.
    let error = wrong.connect().map(drop).unwrap_err();
    assert!(error.to_string().contains("not a database"), "{error}");
    // A file that is being copied is none either, so a pool tries again.
    assert!(wrong.is_fatal(&error) && !wrong.is_permanent(&error));
    assert!(!format!("{error} {error:?} {wrong:?}").contains("mistaken"), "{error:?} {wrong:?}");
}
