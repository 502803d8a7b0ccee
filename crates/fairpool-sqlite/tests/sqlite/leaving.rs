//! What a program leaves behind that ends right after it has dropped its pool.

use std::fs;

use fairpool::Pool;
use fairpool_children::{alone, in_child};
use fairpool_sqlite::SqliteConnectionManager as Manager;
use fairpool_sqlite::rusqlite::Connection;

use crate::folder;

const PROGRAMS: i64 = 30;

#[test]
fn a_program_that_ends_after_the_drop_leaves_one_file_with_every_row() {
    let _alone = alone();
    for n in 1..=PROGRAMS {
        let folder = folder();
        let file = folder.path().join("test.db");
        in_child(|| {
            // One closer: the last close of a file is the one that empties its log.
            let builder = Pool::builder().max_size(4).max_closers(1);
            let pool = builder.build(Manager::file(&file)).expect("a pool");
            let conn = pool.get().expect("a connection");
            conn.execute_batch("CREATE TABLE t (n INTEGER)").expect("a table");
            conn.execute("INSERT INTO t VALUES (?1)", [n]).expect("an insert");
            drop(conn);
            drop(pool);
        });
        let names: Vec<_> = fs::read_dir(folder.path())
            .expect("the folder")
            .map(|entry| entry.expect("a file").file_name())
            .collect();
        assert_eq!(names, ["test.db"], "program {n}");
        let copy = folder.path().join("copy.db");
        fs::copy(&file, &copy).expect("a copy");
        let copy = Connection::open(copy).expect("a database");
        let last: i64 = copy.query_row("SELECT n FROM t", [], |row| row.get(0)).expect("a row");
        assert_eq!(last, n);
    }
}
