//! What an error means, where the system can be made to give it.
#![cfg(unix)]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fairpool::{ManageConnection, Pool};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::hooks::{AuthContext, Authorization};
use fairpool_sqlite::rusqlite::{self, ErrorCode, OpenFlags, ffi};

use crate::folder;

const ROLE: &str = "FAIRPOOL_SQLITE_ROLE";
/// A user without rights, on every Unix.
const NOBODY: u32 = 65534;

/// Runs this program again for one test, as a process of its own; `command` may change it.
pub fn again(test: &str, folder: &Path, command: impl FnOnce(&Path) -> Command) {
    // Others may not reach the folder of the build. A copy that this process writes would be
    // open in the child of a test beside this one, and could not be started.
    let program = folder.join("test-program");
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let output = command(&program)
        .args([test, "--exact", "--nocapture"])
        .env(ROLE, folder)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "{text}");
}

pub fn role() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
}

/// Root may write everywhere, so the test continues as somebody else.
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(program);
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| {
        use std::os::unix::fs::MetadataExt;
        it.uid() == 0
    });
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn a_wal_file_in_a_folder_that_cannot_be_written_fails_at_build_and_says_what_helps() {
    if let Some(folder) = role() {
        return in_a_folder_that_cannot_be_written(&folder);
    }
    let folder = folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let conn = Manager::file(data.join("wal.db")).connect().unwrap();
    conn.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
    drop(conn);
    let conn = rusqlite::Connection::open(data.join("rollback.db")).unwrap();
    conn.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
    drop(conn);
    fs::set_permissions(&data, Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let name = "a_wal_file_in_a_folder_that_cannot_be_written_fails_at_build_and_says_what_helps";
    again(&format!("errors::{name}"), folder.path(), as_nobody);
}

fn in_a_folder_that_cannot_be_written(folder: &Path) {
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let path = folder.join("data/wal.db");
    for flags in [OpenFlags::default(), read_only] {
        for wal in [true, false] {
            let manager = Manager::file(&path).with_flags(flags).wal(wal);
            let error = manager.connect().unwrap_err();
            assert!(!manager.is_permanent(&error), "the folder's rights can change: {error:?}");
            assert!(format!("{error:#}").contains("immutable=1"), "{error}");
            let patience = Duration::from_millis(500);
            let error = Pool::builder().connection_timeout(patience).build(manager).unwrap_err();
            assert!(format!("{error:#}").contains("immutable=1"), "{error}");
        }
    }
    let uri = format!("file:{}?immutable=1", path.display());
    let works = [
        Manager::file(uri),
        Manager::file(folder.join("data/rollback.db")),
        Manager::file(folder.join("data/rollback.db")).with_flags(read_only),
    ];
    for manager in works {
        let pool = Pool::builder().max_size(2).build(manager).unwrap();
        let conn = pool.get().unwrap();
        let n: i64 = conn.query_row("SELECT n FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(n, 1);
        // A write fails, and the connection is as good as before.
        let error = conn.execute_batch("INSERT INTO t VALUES (2)").unwrap_err();
        assert!(!pool.manager().is_fatal(&error), "{error:?}");
    }
}

/// How many locks this process has on a file.
#[cfg(target_os = "linux")]
fn locks_on(path: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let (process, file) = (std::process::id().to_string(), fs::metadata(path).unwrap().ino());
    let file = format!(":{file}");
    let is_one = |line: &&str| {
        line.split(' ').any(|word| word == process) && line.split(' ').any(|it| it.ends_with(&file))
    };
    fs::read_to_string("/proc/locks").unwrap().lines().filter(is_one).count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_connect_that_fails_takes_no_lock_from_good_connections() {
    let folder = folder();
    let path = folder.path().join("file.db");
    let (wal, aside) = (folder.path().join("file.db-wal"), folder.path().join("aside"));
    let manager = Manager::file(&path);
    let conn = manager.connect().unwrap();
    conn.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
    // Tells other processes that the log is in use.
    assert_eq!(locks_on(&path), 1);
    // Nobody can open the log for a moment.
    fs::rename(&wal, &aside).unwrap();
    fs::create_dir(&wal).unwrap();
    let error = manager.connect().unwrap_err();
    assert!(format!("{error}").contains("immutable=1"), "{error}");
    fs::remove_dir(&wal).unwrap();
    fs::rename(&aside, &wal).unwrap();
    assert_eq!(locks_on(&path), 1);
    conn.execute_batch("INSERT INTO t VALUES (2)").unwrap();
}

#[test]
fn a_shortage_of_descriptors_is_not_permanent_and_ends() {
    if role().is_some() {
        return without_descriptors();
    }
    let folder = folder();
    let limited = |program: &Path| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]).arg(program);
        command
    };
    let name = "errors::a_shortage_of_descriptors_is_not_permanent_and_ends";
    again(name, folder.path(), limited);
}

fn without_descriptors() {
    let path = role().unwrap().join("file.db");
    let manager = Manager::file(&path);
    let conn = manager.connect().unwrap();
    conn.execute_batch("CREATE TABLE t (n)").unwrap();
    let mut all: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/") {
        all.push(file);
    }
    let mut seen = Vec::new();
    // Short of one descriptor, of two, of three: each fails at another point of a connect.
    for _ in 0..3 {
        match manager.connect() {
            Ok(_) => break,
            Err(error) => {
                assert!(!manager.is_permanent(&error), "{error:?}");
                seen.push(error.sqlite_error().map(|error| error.extended_code));
            }
        }
        all.pop();
    }
    assert!(seen.contains(&Some(ffi::SQLITE_CANTOPEN)), "{seen:?}");
    drop(all);
    manager.connect().unwrap().execute_batch("INSERT INTO t VALUES (1)").unwrap();
}

#[test]
fn what_may_pass_is_not_permanent() {
    let folder = folder();
    let code = |manager: &Manager| {
        let error = manager.connect().unwrap_err();
        assert!(!manager.is_permanent(&error), "{error:?}");
        error.sqlite_error_code().unwrap()
    };
    let missing = Manager::file(folder.path().join("no/such/folder.db"));
    assert_eq!(code(&missing), ErrorCode::CannotOpen);
    assert_eq!(code(&Manager::file(folder.path())), ErrorCode::CannotOpen);

    let text = folder.path().join("text.db");
    fs::write(&text, "no database at all, but long enough ".repeat(100)).unwrap();
    assert_eq!(code(&Manager::file(&text)), ErrorCode::NotADatabase);
    assert_eq!(code(&Manager::file(&text).wal(false)), ErrorCode::NotADatabase);

    let denied = Manager::memory().with_init(|conn| {
        conn.authorizer(Some(|_: AuthContext<'_>| Authorization::Deny))?;
        conn.execute_batch("SELECT 1")
    });
    assert_eq!(code(&denied), ErrorCode::AuthorizationForStatementDenied);

    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let absent = Manager::file(folder.path().join("absent.db")).with_flags(read_only);
    assert_eq!(code(&absent), ErrorCode::CannotOpen);
}

#[test]
fn what_leaves_the_connection_good_is_not_fatal() {
    let folder = folder();
    let manager = Manager::file(folder.path().join("file.db"));
    let conn = manager.connect().unwrap();
    conn.execute_batch("CREATE TABLE t (n)").unwrap();
    let small = "PRAGMA max_page_count = 3; INSERT INTO t VALUES (zeroblob(99999))";
    for (sql, code) in [
        ("ATTACH '/no/such/folder/x.db' AS other", ErrorCode::CannotOpen),
        (small, ErrorCode::DiskFull),
        ("SELECT zeroblob(2000000000)", ErrorCode::TooBig),
        ("PRAGMA query_only = 1; INSERT INTO t VALUES (1)", ErrorCode::ReadOnly),
    ] {
        let error = conn.execute_batch(sql).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(code), "{error:?}");
        assert!(!manager.is_fatal(&error), "{error:?}");
        conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).expect("as good as before");
    }
}

#[test]
fn a_file_that_became_no_database_is_fatal() {
    let folder = folder();
    let path = folder.path().join("file.db");
    let manager = Manager::file(&path).wal(false);
    let conn = manager.connect().unwrap();
    conn.execute_batch("CREATE TABLE t (n)").unwrap();
    let bytes = vec![b'x'; fs::metadata(&path).unwrap().len() as usize];
    fs::write(&path, bytes).unwrap();
    let error = conn.execute_batch("SELECT * FROM t").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase));
    assert!(manager.is_fatal(&error));
}
