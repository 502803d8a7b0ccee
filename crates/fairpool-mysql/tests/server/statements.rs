//! Prepared statements that stay from one holder to the next.

use fairpool::Pool;
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{Opts, OptsBuilder, Row};
use fairpool_servers::mariadb::MariaDb;

use crate::common::{Manager, ask, builder, code, manager, options, shared};

fn pool(manager: Manager) -> Pool<Manager> {
    builder().max_size(1).build(manager).unwrap()
}

/// How many statements this session has prepared and closed. (A reset sets both to zero.)
fn prepared(pool: &Pool<Manager>) -> (u32, u32) {
    let mut conn = pool.get().unwrap();
    let [prepared, closed] = ["Com_stmt_prepare", "Com_stmt_close"].map(|name| {
        let row: Option<(String, u32)> =
            conn.query_first(format!("SHOW SESSION STATUS LIKE '{name}'")).unwrap();
        row.unwrap().1
    });
    (prepared, closed)
}

fn run(pool: &Pool<Manager>, number: u32) {
    let sql = format!("SELECT ? + {number}");
    let sum: Option<u32> = pool.get().unwrap().exec_first(sql, (7,)).unwrap();
    assert_eq!(sum, Some(7 + number));
}

#[test]
fn a_statement_is_prepared_once_for_all_holders_of_its_connection() {
    let pool = pool(manager());
    for _ in 0..20 {
        run(&pool, 1);
    }
    assert_eq!(prepared(&pool), (1, 0));
}

#[test]
fn as_many_statements_are_kept_as_the_setting_says() {
    for (manager, statements, expected) in [
        (manager(), 32, (32, 0)),
        // In turn: the next one has always just gone.
        (manager(), 33, (66, 34)),
        (manager().statement_cache(33), 33, (33, 0)),
        (Manager::new(options(shared()).stmt_cache_size(40usize)), 40, (40, 0)),
        // One stays, and no more is left on the server.
        (manager().statement_cache(0), 5, (10, 9)),
    ] {
        let pool = pool(manager);
        for number in (0..statements).chain(0..statements) {
            run(&pool, number);
        }
        assert_eq!(prepared(&pool), expected, "{statements} statements");
    }
}

/// Statements that all sessions of this server have.
fn on_server(server: &MariaDb) -> u32 {
    let answer = server.sql("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'");
    answer.split_whitespace().last().unwrap().parse().unwrap()
}

/// The server drops them with `COM_RESET_CONNECTION`, and so must the driver.
#[test]
fn after_a_reset_a_statement_is_prepared_again_and_none_is_left_on_the_server() {
    let server = MariaDb::start();
    let own =
        Manager::new(Opts::from(OptsBuilder::from_opts(Opts::from_url(&server.url()).unwrap())));
    let pool = pool(own);
    for round in 0..3 {
        for number in 0..5 {
            run(&pool, number);
        }
        assert_eq!(on_server(&server), 5, "round {round}");
        pool.get().unwrap().query_drop("SET @left = 1").unwrap();
        assert_eq!(ask(&mut *pool.get().unwrap(), "SELECT @left"), "NULL", "it was reset");
        assert_eq!(on_server(&server), 0, "round {round}");
    }
    assert_eq!(pool.stats().opened, 1);
}

#[test]
fn a_change_of_a_table_does_no_harm() {
    shared().sql("CREATE TABLE shop.changed (n int); INSERT INTO shop.changed VALUES (7)");
    let pool = pool(manager());
    let columns = || {
        let row: Option<Row> = pool.get().unwrap().exec_first("SELECT * FROM changed", ()).unwrap();
        row.unwrap().unwrap()
    };
    let first = columns();
    assert_eq!(first.len(), 1);
    // By others, and by this session.
    shared().sql("ALTER TABLE shop.changed ADD COLUMN name varchar(20) DEFAULT 'x' FIRST");
    assert_eq!(columns(), ["x".into(), first[0].clone()]);
    shared().sql("ALTER TABLE shop.changed MODIFY COLUMN n varchar(20)");
    assert_eq!(columns(), ["x".into(), "7".into()]);
    pool.get().unwrap().query_drop("ALTER TABLE changed DROP COLUMN name").unwrap();
    assert_eq!(columns(), ["7".into()]);
    shared().sql("DROP TABLE shop.changed");
    let gone = pool.get().unwrap().exec_drop("SELECT * FROM changed", ()).unwrap_err();
    assert_eq!(code(&gone), Some(1146), "{gone}");
    shared().sql("CREATE TABLE shop.changed (m int); INSERT INTO shop.changed VALUES (8)");
    assert_eq!(columns().len(), 1);
    assert_eq!(pool.stats().opened, 1);
}
