//! One program, one SQLite: rusqlite on fairpool-sqlite, and diesel on the adapter for r2d2.

use std::path::Path;
use std::thread;

use diesel::prelude::*;
use diesel::r2d2::ConnectionManager;
use diesel::sql_query;
use fairpool::{ManageConnection, Pool};
use fairpool_r2d2::Manager;
use fairpool_sqlite::rusqlite::{TransactionBehavior, params};
use fairpool_sqlite::{SqliteConnectionManager, rusqlite};
use fairpool_testing::stub::WATCHDOG;

type Diesel = Manager<ConnectionManager<SqliteConnection>>;

diesel::table! {
    visits (id) {
        id -> Integer,
        by -> Text,
        number -> Integer,
    }
}

#[derive(diesel::QueryableByName)]
struct Version {
    #[diesel(sql_type = diesel::sql_types::Text)]
    version: String,
}

const TABLE: &str =
    "CREATE TABLE visits (id INTEGER PRIMARY KEY, \"by\" TEXT NOT NULL, number INTEGER NOT NULL)";

fn pool<M: ManageConnection>(manager: M) -> Pool<M> {
    Pool::builder().max_size(4).connection_timeout(WATCHDOG).build(manager).unwrap()
}

fn pools(file: &Path) -> (Pool<SqliteConnectionManager>, Pool<Diesel>) {
    let ours = pool(SqliteConnectionManager::file(file).busy_timeout(WATCHDOG));
    let diesels = pool(Manager::new(ConnectionManager::new(file.to_str().expect("UTF-8"))));
    (ours, diesels)
}

#[test]
fn p18_both_link_the_same_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, diesels) = pools(&folder.path().join("visits.db"));
    let version = sql_query("SELECT sqlite_version() AS version");
    let of_diesel = version.get_result::<Version>(&mut *diesels.get().unwrap()).unwrap();
    let of_ours = ours.get().unwrap().query_row("SELECT sqlite_version()", [], |row| row.get(0));
    assert_eq!(of_ours, Ok(of_diesel.version.clone()));
    assert_eq!(of_diesel.version, rusqlite::version());
}

#[test]
fn p18_a_pool_of_each_serves_many_threads_on_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, diesels) = pools(&folder.path().join("visits.db"));
    ours.get().unwrap().execute_batch(TABLE).unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let (ours, diesels) = (&ours, &diesels);
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut conn = ours.get().unwrap();
                    let immediate = TransactionBehavior::Immediate;
                    let transaction = conn.transaction_with_behavior(immediate).unwrap();
                    let insert = "INSERT INTO visits (\"by\", number) VALUES (?1, ?2)";
                    assert_eq!(transaction.execute(insert, params!["rusqlite", number]), Ok(1));
                    transaction.commit().unwrap();
                }
            });
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut conn = diesels.get().unwrap();
                    sql_query("PRAGMA busy_timeout = 60000").execute(&mut *conn).unwrap();
                    let row = (visits::by.eq("diesel"), visits::number.eq(number));
                    let insert = diesel::insert_into(visits::table).values(row);
                    assert_eq!(insert.execute(&mut *conn), Ok(1));
                }
            });
        }
    });
    // Each counts the other's rows.
    let mut conn = diesels.get().unwrap();
    let by = visits::table.filter(visits::by.eq("rusqlite")).count();
    assert_eq!(by.get_result(&mut *conn), Ok(80_i64));
    let count = "SELECT count(*) FROM visits WHERE \"by\" = 'diesel'";
    assert_eq!(ours.get().unwrap().query_row(count, [], |row| row.get(0)), Ok(80_i64));
    assert!((1..=4).contains(&ours.stats().open));
    assert!((1..=4).contains(&diesels.stats().open));
}

#[test]
fn p18_what_a_holder_leaves_is_undone_with_this_rusqlite_too() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, diesels) = pools(&folder.path().join("visits.db"));
    ours.get().unwrap().execute_batch(TABLE).unwrap();
    let conn = ours.get().unwrap();
    conn.execute_batch("PRAGMA query_only = ON; BEGIN").unwrap();
    drop(conn);
    for _ in 0..ours.stats().open {
        let conn = ours.get().unwrap();
        assert!(conn.is_autocommit());
        assert_eq!(conn.query_row("PRAGMA query_only", [], |row| row.get(0)), Ok(0));
    }
    // A lock of diesel's is waited for.
    let mut holder = diesels.get().unwrap();
    sql_query("BEGIN IMMEDIATE").execute(&mut *holder).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let insert = "INSERT INTO visits (\"by\", number) VALUES ('rusqlite', 1)";
            ours.get().unwrap().execute(insert, [])
        });
        let row = (visits::by.eq("diesel"), visits::number.eq(1));
        diesel::insert_into(visits::table).values(row).execute(&mut *holder).unwrap();
        sql_query("COMMIT").execute(&mut *holder).unwrap();
        assert_eq!(writer.join().unwrap(), Ok(1));
    });
    assert_eq!(visits::table.count().get_result(&mut *holder), Ok(2_i64));
}
