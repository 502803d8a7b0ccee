//! A server that becomes read-only is left, and a refused write alone is no reason to leave.

use fairpool::{ManageConnection, Pool};
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{AccessMode, TxOpts};
use fairpool_mysql::{Connection, mysql};
use fairpool_servers::mariadb::MariaDb;

use crate::common::{
    LONG, Load, Manager, ask, builder, code, logged, manager_of, options_of, refusal, shared,
    start_log, take_all, wait_until,
};

const SIZE: u32 = 4;

fn turn(server: &MariaDb, read_only: u8) {
    server.sql(&format!("SET GLOBAL read_only = {read_only}"));
}

fn insert(conn: &mut Connection) -> mysql::Result<()> {
    conn.query_drop("INSERT INTO item VALUES (1)")
}

fn port(conn: &mut Connection) -> String {
    ask(conn, "SELECT @@port")
}

/// Both are primaries, so that it can be told where a write went.
struct Two(MariaDb, MariaDb);

impl Two {
    fn start() -> Two {
        let two = Two(MariaDb::start(), MariaDb::start());
        for server in [&two.0, &two.1] {
            server.sql("CREATE TABLE shop.item (n int)");
        }
        two
    }

    fn manager(&self) -> Manager {
        manager_of(&self.0).or_server("127.0.0.1", self.1.port()).writes_only(true)
    }

    fn set_back(&self) {
        turn(&self.0, 0);
        turn(&self.1, 0);
    }
}

/// One pair of servers for all of it, since they take seconds to start.
#[test]
fn p13_a_server_that_turns_read_only_is_left() {
    start_log();
    let two = Two::start();
    under_load_it_costs_each_connection_one_error_at_most(&two);
    two.set_back();
    a_single_user_meets_one_error(&two);
    two.set_back();
    a_check_finds_it_before_any_user_does(&two);
    two.set_back();
    while_both_are_read_only_callers_wait_and_are_told_why(&two);
    two.set_back();
    a_manager_that_does_not_ask_for_writes_leaves_it_once(&two);
    two.set_back();
    every_way_to_write_is_seen(&two);
}

fn under_load_it_costs_each_connection_one_error_at_most(two: &Two) {
    let pool = builder().name("turned").max_size(SIZE).build(two.manager()).unwrap();
    let (errors, refusals) = Load::during(&pool, LONG, insert, |load| {
        turn(&two.0, 1);
        wait_until("each connection is on the other", || {
            load.until_some_are_done();
            pool.stats().closed.total() >= u64::from(SIZE)
        });
    });
    println!("figure: {} writes of 8 threads on {SIZE} connections failed", errors.len());
    assert!(errors.len() <= SIZE as usize, "{errors:?}");
    assert!(errors.iter().all(|error| code(error) == Some(1290)), "{errors:?}");
    assert!(refusals.is_empty(), "{refusals:?}");
    for conn in &mut take_all(&pool) {
        assert_eq!(port(conn), two.1.port().to_string());
    }
    assert_ne!(two.1.sql("SELECT count(*) FROM shop.item"), "0");
    // MariaDB refuses writes a moment before it says that it does: then the reset finds out.
    let (return_, reset) = ("a write was refused", "pool 'turned': ");
    let told = [logged(return_), logged(reset)].concat();
    assert!(told.iter().any(|(_, line)| line.contains("read-only")), "{told:?}");
}

/// However long a connection lies, it is checked only if it is in doubt.
fn unchecked(two: &Two) -> Pool<Manager> {
    builder().max_size(8).skip_check_within(LONG).build(two.manager()).unwrap()
}

fn single_user_errors(
    pool: &Pool<Manager>,
    write: impl Fn(&mut Connection) -> mysql::Result<()>,
) -> usize {
    (0..100).filter(|_| write(&mut pool.get().unwrap()).is_err()).count()
}

fn a_single_user_meets_one_error(two: &Two) {
    let pool = unchecked(two);
    turn(&two.0, 1);
    assert_eq!(single_user_errors(&pool, insert), 1);
}

fn a_check_finds_it_before_any_user_does(two: &Two) {
    turn(&two.0, 1);
    let manager = two.manager();
    let mut conn = manager_of(&two.0).connect().unwrap();
    // Not writable from the beginning, so there is nothing that it could have lost.
    manager.is_valid(&mut conn).unwrap();
    turn(&two.0, 0);
    let mut conn = manager_of(&two.0).connect().unwrap();
    turn(&two.0, 1);
    let error = manager.is_valid(&mut conn).unwrap_err();
    assert!(error.to_string().contains("the server allows no writes"), "{error}");
}

fn while_both_are_read_only_callers_wait_and_are_told_why(two: &Two) {
    turn(&two.0, 1);
    turn(&two.1, 1);
    let manager = two.manager();
    let error = refusal(&manager);
    assert!(error.to_string().contains("it is read-only"), "{error}");
    assert!(!manager.is_permanent(&error));
    let pool = builder().max_size(1).build_unchecked(manager);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| insert(&mut pool.get_timeout(LONG).unwrap()));
        wait_until("it was refused", || pool.stats().open_failures >= 2);
        turn(&two.1, 0);
        waiter.join().unwrap().unwrap();
    });
}

/// Without the setting: the new connection is to the same server, which is as it was opened.
fn a_manager_that_does_not_ask_for_writes_leaves_it_once(two: &Two) {
    let pool = builder().max_size(1).skip_check_within(LONG).build(manager_of(&two.0)).unwrap();
    insert(&mut pool.get().unwrap()).unwrap();
    turn(&two.0, 1);
    for _ in 0..5 {
        assert_eq!(code(&insert(&mut pool.get().unwrap()).unwrap_err()), Some(1290));
    }
    assert_eq!(pool.stats().closed.broken, 1, "{}", pool.stats());
    assert_eq!(pool.stats().opened, 2, "{}", pool.stats());
}

type Write = fn(&mut Connection) -> mysql::Result<()>;

const WAYS: [(&str, Write); 6] = [
    ("text", insert),
    ("prepared", |conn| conn.exec_drop("INSERT INTO item VALUES (?)", (1,))),
    ("batch", |conn| conn.exec_batch("INSERT INTO item VALUES (?)", [(1,), (2,)])),
    ("with rows", |conn| conn.query_drop("INSERT INTO item VALUES (1) RETURNING n")),
    ("in a transaction", |conn| {
        let mut transaction = conn.start_transaction(TxOpts::default())?;
        transaction.query_drop("INSERT INTO item VALUES (1)")?;
        transaction.commit()
    }),
    ("in a transaction that is left open", |conn| {
        conn.query_drop("START TRANSACTION")?;
        insert(conn)?;
        conn.query_drop("COMMIT")
    }),
];

fn every_way_to_write_is_seen(two: &Two) {
    for (way, write) in WAYS {
        let pool = unchecked(two);
        turn(&two.0, 1);
        assert_eq!(single_user_errors(&pool, write), 1, "{way}");
        turn(&two.0, 0);
    }
}

const INSERT: &str = "INSERT INTO own_fault VALUES (1)";

/// The same codes, for other reasons.
#[test]
fn p13_what_a_user_makes_read_only_and_a_path_that_is_not_allowed_are_no_fault() {
    let options = options_of(shared(), "at_fault");
    shared().sql("GRANT FILE ON *.* TO at_fault");
    let pool = builder().max_size(1).build(Manager::new(options)).unwrap();
    pool.get().unwrap().query_drop("CREATE TABLE own_fault (n int)").unwrap();
    let ways: [(u16, Write); 3] = [
        (1792, |conn| {
            let options = TxOpts::default().set_access_mode(Some(AccessMode::ReadOnly));
            conn.start_transaction(options)?.query_drop(INSERT)
        }),
        (1792, |conn| {
            conn.query_drop("SET SESSION TRANSACTION READ ONLY")?;
            conn.query_drop(INSERT)
        }),
        // Of `--secure-file-priv`.
        (1290, |conn| conn.query_drop("SELECT 1 INTO OUTFILE '/no/such/folder'")),
    ];
    for (number, way) in ways {
        let error = way(&mut pool.get().unwrap()).unwrap_err();
        assert_eq!(code(&error), Some(number), "{error}");
        pool.get().unwrap().query_drop(INSERT).unwrap();
    }
    assert_eq!(pool.stats().opened, 1, "{}", pool.stats());
}
