//! Names that mean memory, or nothing lasting; and names that depend on the process.

use std::process::Command;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, ManageConnection, Pool};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::{self, OpenFlags};

use crate::folder;

/// Whether a pool over this name can be built, and then whether all its connections, also
/// later ones, see the same table.
fn is_shared(manager: Manager) -> Result<bool, fairpool::Error> {
    let pool = Pool::builder().max_size(3).build(manager)?;
    pool.get()?.execute_batch("CREATE TABLE t (n)").unwrap();
    let all = [pool.get()?, pool.get()?, pool.get()?];
    let sees_t = |conn: &rusqlite::Connection| conn.prepare("SELECT n FROM t").is_ok();
    let mut sees = all.iter().all(|conn| sees_t(conn));
    // No connection is left for a moment.
    all.into_iter().for_each(fairpool::PooledConnection::discard);
    sees &= sees_t(&*pool.get()?);
    Ok(sees)
}

#[test]
fn all_connections_of_a_pool_share_one_database_whatever_its_name() {
    let folder = folder();
    let path = folder.path().display();
    for name in [
        ":memory:".to_owned(),
        "file::memory:?cache=shared".to_owned(),
        "file:shared_one?mode=memory&cache=shared".to_owned(),
        "file:/shared_two?vfs=memdb".to_owned(),
        format!("{path}/ "),
        format!("{path}/plain.db"),
        format!("file:{path}/uri.db"),
        format!("file://localhost{path}/host.db?cache=shared"),
        format!("{path}/:memory:"),
    ] {
        assert!(is_shared(Manager::file(&name)).expect(&name), "{name}");
    }
}

#[test]
fn a_name_that_gives_each_connection_its_own_database_is_refused_at_once() {
    for name in [
        "",
        "file:",
        "file:?mode=rwc",
        "file::memory:",
        "file:%3Amemory%3A",
        "file:alone?mode=memory",
        "file:alone?vfs=memdb",
    ] {
        let error = is_shared(Manager::file(name)).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Connect, "{name}: not after waiting");
        assert!(format!("{error:#}").contains("a database of its own"), "{name}: {error}");
    }
    let flags = OpenFlags::default() | OpenFlags::SQLITE_OPEN_MEMORY;
    assert!(is_shared(Manager::file("flag.db").with_flags(flags)).is_err());
}

/// `cargo test` runs the threads of one process, and a folder belongs to all of them. So the
/// test runs itself again.
#[test]
fn a_relative_path_means_the_same_file_after_a_change_of_folder() {
    const ROLE: &str = "FAIRPOOL_SQLITE_CHANGES_FOLDER";
    if std::env::var_os(ROLE).is_some() {
        return change_folder();
    }
    let folder = folder();
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["names::a_relative_path_means_the_same_file_after_a_change_of_folder", "--exact"])
        .env(ROLE, "1")
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(!folder.path().join("other/shop.db").exists());
}

fn change_folder() {
    let names = ["shop.db", "./x.db", "file:uri.db", "file:uri2.db?mode=rwc"];
    let managers = names.map(Manager::file);
    let first = managers.each_ref().map(|manager| manager.connect().unwrap());
    for conn in &first {
        conn.execute_batch("CREATE TABLE t (n)").unwrap();
    }
    std::env::set_current_dir("other").unwrap();
    for (manager, mut conn) in managers.iter().zip(first) {
        assert!(!manager.has_broken(&mut conn), "{manager:?}");
        manager.is_valid(&mut conn).unwrap();
        assert!(manager.connect().unwrap().table_exists(None, "t").unwrap(), "{manager:?}");
    }
}

#[test]
fn a_connect_to_a_shared_memory_does_not_wait_for_its_writer() {
    let waits = (0..3).map(|round| {
        let name = format!("file:/written_{round}?vfs=memdb");
        let writer = rusqlite::Connection::open(&name).unwrap();
        writer.execute_batch("CREATE TABLE t (n); BEGIN IMMEDIATE").unwrap();
        let started = Instant::now();
        Manager::file(&name).connect().unwrap();
        started.elapsed()
    });
    // The driver's own busy timeout is 5 s.
    let shortest = waits.min().unwrap();
    assert!(shortest < Duration::from_secs(4), "{shortest:?}");
}
