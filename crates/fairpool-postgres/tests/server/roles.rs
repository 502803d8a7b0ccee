//! Servers that are alive and have changed their role: `target_session_attrs` holds as long as a
//! connection lives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool, PooledConnection};
use fairpool_postgres::postgres::config::TargetSessionAttrs;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::{self, Config};
use fairpool_postgres::{Client, NoTls, Reset};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::Cluster;
use fairpool_servers::pair::Pair;

use crate::common::{
    Guard, Manager, PROMPT, ask, backend, builder, logged, millis, refused, show, start_log,
    take_all, wait_until,
};

const SIZE: u32 = 4;
const INSERT: &str = "INSERT INTO item VALUES (1)";

pub(crate) fn read_write(mut config: Config) -> Manager {
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    Manager::new(config, NoTls)
}

fn pool(manager: Manager) -> Pool<Manager> {
    builder().max_size(SIZE).build(manager).unwrap()
}

fn insert(conn: &mut Guard) -> Result<(), postgres::Error> {
    PooledConnection::run(conn, |client| client.batch_execute(INSERT))
}

/// Returns when a server no longer accepts writes, for new transactions of all its sessions.
pub(crate) fn turn_read_only(server: &Cluster) {
    turn(server, "on");
}

/// Returns when it accepts them again.
pub(crate) fn turn_read_write(server: &Cluster) {
    turn(server, "off");
}

fn turn(server: &Cluster, on_or_off: &str) {
    // Not refused in a session that the setting itself makes read-only: it writes no table.
    server.psql(&format!("ALTER SYSTEM SET default_transaction_read_only = {on_or_off}"));
    server.psql("SELECT pg_reload_conf()");
    // Each backend takes note of the signal before its next statement.
    wait_until("the server has turned", || {
        server.psql("SHOW default_transaction_read_only") == on_or_off
    });
}

/// The two servers of a failover in which nobody stops the old primary.
pub(crate) fn two_primaries() -> Pair {
    let pair = Pair::start();
    pair.first().psql("CREATE TABLE item (n int)");
    pair.second().catch_up_with(pair.first());
    pair.second().promote();
    pair
}

fn port(client: &mut Client) -> String {
    show(client, "port")
}

/// Threads that insert through `run` all the time.
struct Writers<'a> {
    stop: &'a AtomicBool,
    done: &'a AtomicU64,
    errors: Vec<thread::ScopedJoinHandle<'a, Vec<postgres::Error>>>,
}

impl<'a> Writers<'a> {
    fn start<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        pool: &'scope Pool<Manager>,
        (stop, done): (&'scope AtomicBool, &'scope AtomicU64),
    ) -> Writers<'scope> {
        let work = move || {
            let mut errors = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // A get that fails is no write that fails.
                let Ok(mut conn) = pool.get() else { continue };
                match insert(&mut conn) {
                    Ok(()) => drop(done.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => errors.push(error),
                }
            }
            errors
        };
        let errors = (0..8).map(|_| scope.spawn(work)).collect();
        Writers { stop, done, errors }
    }

    fn until_some_are_done(&self) {
        let from = self.done.load(Ordering::SeqCst);
        wait_until("rows are inserted", || self.done.load(Ordering::SeqCst) > from + 50);
    }

    fn stop(self) -> Vec<postgres::Error> {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.errors.into_iter().map(|thread| thread.join().unwrap());
        errors.flatten().collect()
    }
}

fn with_writers(pool: &Pool<Manager>, change: impl FnOnce(&Writers<'_>)) -> Vec<postgres::Error> {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let writers = Writers::start(scope, pool, (&stop, &done));
        writers.until_some_are_done();
        // Also if this panics, so that the test ends.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        change(&writers);
        writers.stop()
    })
}

fn assert_read_only_at_most(errors: &[postgres::Error], most: u32) {
    println!("figure: {} writes failed", errors.len());
    for error in errors {
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{error:?}");
    }
    assert!(errors.len() <= most as usize, "{} of {most}", errors.len());
}

#[test]
fn p13_a_server_that_turns_read_only_costs_each_connection_one_error_at_most() {
    let pair = two_primaries();
    start_log();
    let pool = builder().name("turned").max_size(SIZE).build(read_write(pair.config())).unwrap();
    let errors = with_writers(&pool, |writers| {
        turn_read_only(pair.first());
        wait_until("each connection is on the other", || {
            writers.until_some_are_done();
            pool.stats().closed.total() >= u64::from(SIZE)
        });
    });
    assert_read_only_at_most(&errors, SIZE);
    assert_ne!(logged("a write was refused"), []);
    assert_ne!(logged("the server no longer allows writes"), []);
    for conn in &mut take_all(&pool) {
        assert_eq!(port(conn), pair.second().port().to_string());
    }
    assert_ne!(pair.second().psql("SELECT count(*) FROM item"), "0");
}

/// Before the pool lends the next connection, it knows that this one is on the wrong server.
#[test]
fn p13_a_server_that_turned_read_only_is_known_when_the_connection_returns() {
    type Write = fn(&mut Client) -> Result<(), postgres::Error>;
    const WRITES: [Write; 6] = [
        |client| client.batch_execute(INSERT),
        |client| client.execute(INSERT, &[]).map(drop),
        |client| client.query_typed(INSERT, &[]).map(drop),
        |client| {
            let statement = client.prepare("INSERT INTO item VALUES ($1)")?;
            client.query(&statement, &[&1]).map(drop)
        },
        |client| {
            let mut transaction = client.transaction()?;
            transaction.execute(INSERT, &[])?;
            transaction.commit()
        },
        |client| {
            let mut transaction = client.transaction()?;
            let refused = transaction.batch_execute(INSERT);
            transaction.rollback()?;
            refused
        },
    ];
    let cluster = Cluster::start();
    cluster.psql("CREATE TABLE item (n int)");
    let manager = read_write(cluster.config());
    let mut clients = WRITES.map(|_| manager.connect().unwrap());
    // The same by the user's own doing: then nothing is left to ask.
    for (client, write) in clients.iter_mut().zip(WRITES) {
        client.batch_execute("SET default_transaction_read_only = on").unwrap();
        write(client).unwrap_err();
        assert!(!manager.has_broken(client) && manager.needs_reset(client));
        manager.reset(client).unwrap();
        let mut own = client.build_transaction().read_only(true).start().unwrap();
        own.execute(INSERT, &[]).unwrap_err();
        drop(own);
        assert!(!manager.has_broken(client) && !manager.needs_reset(client));
    }
    turn_read_only(&cluster);
    for (number, (client, write)) in clients.iter_mut().zip(WRITES).enumerate() {
        let error = write(client).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{number}");
        assert!(manager.has_broken(client), "{number}");
        // The call's own end: no transaction is left open.
        client.batch_execute("SELECT 1").unwrap();
    }
}

#[test]
fn p13_a_server_that_turned_read_only_costs_a_single_user_one_error() {
    for round in 0..3 {
        let pair = two_primaries();
        let unchecked = builder().max_size(8).test_on_check_out(false);
        let pool = unchecked.build(read_write(pair.config())).unwrap();
        drop(take_all(&pool));
        turn_read_only(pair.first());
        let failed = (0..100).filter(|_| insert(&mut pool.get().unwrap()).is_err()).count();
        assert_eq!(failed, 1, "{round}");
        drop(take_all(&pool));
        assert_eq!(pool.stats().closed.broken, 1, "{}", pool.stats());
    }
}

#[test]
fn p13_a_refused_write_in_a_transaction_or_by_the_drivers_own_client_makes_the_pool_ask() {
    fn in_transaction(conn: &mut Guard) -> Result<u64, postgres::Error> {
        conn.transaction().unwrap().execute(INSERT, &[])
    }
    fn by_the_driver(conn: &mut Guard) -> Result<u64, postgres::Error> {
        let lent: &mut postgres::Client = conn;
        lent.execute(INSERT, &[])
    }
    for (number, write) in [in_transaction, by_the_driver].into_iter().enumerate() {
        let pair = two_primaries();
        let unchecked = builder().max_size(1).test_on_check_out(false);
        let pool = unchecked.build(read_write(pair.config())).unwrap();
        let mut conn = pool.get().unwrap();
        turn_read_only(pair.first());
        let error = write(&mut conn).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
        drop(conn);
        let new = port(&mut pool.get().unwrap());
        assert_eq!(new, pair.second().port().to_string(), "{number}");
        assert_eq!(pool.stats().closed.broken, 1);
    }
}

#[test]
fn p13_a_check_finds_a_role_that_has_changed_before_any_user_does() {
    let pair = two_primaries();
    let pool = builder()
        .max_size(SIZE)
        .skip_check_within(Duration::ZERO)
        .build(read_write(pair.config()))
        .unwrap();
    drop(take_all(&pool));
    turn_read_only(pair.first());
    for _ in 0..3 {
        let mut all = take_all(&pool);
        all.iter_mut().for_each(|conn| insert(conn).unwrap());
    }
    assert_eq!(pool.stats().closed.invalid, u64::from(SIZE));
}

#[test]
fn a_switch_over_of_two_hosts_under_load_leaves_no_write_on_the_standby() {
    let pair = Pair::start();
    pair.first().psql("CREATE TABLE item (n int)");
    let pool = pool(read_write(pair.config()));
    for _ in 0..2 {
        let errors = with_writers(&pool, |writers| {
            pair.switch_over();
            writers.until_some_are_done();
        });
        println!("figure: a switch-over: {} writes failed: {:?}", errors.len(), errors.first());
        let read_only =
            |error: &&postgres::Error| error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        assert_eq!(errors.iter().filter(read_only).count(), 0);
        // Each connection ends once.
        assert!(errors.len() <= SIZE as usize, "{}", errors.len());
    }
}

/// PgBouncer keeps its clients while the server behind it is another one.
#[test]
fn p13_through_pgbouncer_a_primary_that_was_demoted_is_left() {
    let pair = Pair::start();
    pair.first().psql("CREATE TABLE item (n int)");
    let bouncers = [pair.first(), pair.second()].map(|server| Bouncer::start(server.port(), SIZE));
    let mut config = bouncers[0].config();
    let [port] = bouncers[1].config().get_ports().try_into().unwrap();
    config.host("127.0.0.1").port(port);
    let manager = read_write(config).transaction_pooler(true);
    let pool = builder().max_size(SIZE).test_on_check_out(false).build(manager).unwrap();
    let mut all = take_all(&pool);
    all.iter_mut().for_each(|conn| insert(conn).unwrap());
    drop(all);

    pair.switch_over();

    let mut failed = 0;
    for _ in 0..50 {
        let mut all = take_all(&pool);
        failed += all.iter_mut().filter_map(|conn| insert(conn).err()).count();
    }
    println!("figure: through PgBouncer: {failed} of 200 writes failed");
    assert!(failed <= SIZE as usize, "{failed} of 200");
    let old = &pair.first();
    assert!(old.is_standby());
    old.catch_up_with(pair.second());
    assert_eq!(old.psql("SELECT count(*) FROM item"), (204 - failed).to_string());
}

#[test]
fn a_pool_for_reading_leaves_a_standby_that_was_promoted_within_one_check() {
    let pair = Pair::start();
    let mut config = pair.config();
    config.target_session_attrs(TargetSessionAttrs::ReadOnly);
    let pool = builder()
        .max_size(SIZE)
        .skip_check_within(Duration::ZERO)
        .build(Manager::new(config, NoTls))
        .unwrap();
    let standby = |server: &Cluster| {
        for conn in &mut take_all(&pool) {
            assert_eq!(port(conn), server.port().to_string());
            assert_eq!(show(conn, "transaction_read_only"), "on");
            // What is reset on a standby.
            conn.batch_execute("SET work_mem = '1MB'").unwrap();
        }
    };
    standby(pair.second());
    standby(pair.second());
    assert_eq!(pool.stats().closed.total(), 0);
    pair.switch_over();
    standby(pair.first());
    assert_eq!(pool.stats().closed.invalid, u64::from(SIZE), "{}", pool.stats());
}

/// The ways in which a user's own doing has the same error.
fn own_read_only(conn: &mut Guard, way: usize) {
    let refused = match way {
        0 => {
            let transaction = conn.build_transaction().read_only(true).start();
            transaction.unwrap().execute(INSERT, &[])
        }
        1 => conn.batch_execute(&format!("BEGIN READ ONLY; {INSERT}; COMMIT")).map(|()| 0),
        2 => {
            conn.batch_execute("BEGIN READ ONLY; SAVEPOINT s").unwrap();
            let refused = conn.execute(INSERT, &[]);
            conn.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
            refused
        }
        _ => {
            let lent: &mut postgres::Client = conn;
            let mut transaction = lent.build_transaction().read_only(true).start().unwrap();
            transaction.execute(INSERT, &[])
        }
    };
    let code = refused.unwrap_err().code().cloned();
    assert_eq!(code, Some(SqlState::READ_ONLY_SQL_TRANSACTION));
}

#[test]
fn p13_the_read_only_transaction_of_a_user_is_no_fault() {
    start_log();
    let cluster = Cluster::start();
    cluster.psql("CREATE TABLE item (n int)");
    for reset in [Reset::Off, Reset::Rollback, Reset::Session, Reset::Always] {
        let name = format!("own read-only {reset:?}");
        let manager = read_write(cluster.config()).reset_on_return(reset);
        let pool = builder().name(&name).max_size(2).build(manager).unwrap();
        for way in 0..4 {
            own_read_only(&mut pool.get().unwrap(), way);
            // `1` leaves a transaction that has failed, which `Off` leaves as it is, but not if
            // the role is asked for.
            assert_eq!(show(&mut pool.get().unwrap(), "transaction_read_only"), "off");
        }
        let mut conn = pool.get().unwrap();
        insert(&mut conn).unwrap();
        let stats = pool.stats();
        assert_eq!((stats.closed.total(), stats.check_failures), (0, 0), "{reset:?}: {stats:?}");
        let told = logged(&format!("pool '{name}'"));
        let is_about_transaction = |line: &str| line.contains("an open transaction");
        assert!(told.iter().all(|(_, line)| is_about_transaction(line)), "{told:?}");
    }
}

#[test]
fn a_role_in_doubt_is_asked_for_once() {
    let cluster = Cluster::start_with(&[("log_statement", "all")]);
    cluster.psql("CREATE TABLE item (n int)");
    let pool = builder().max_size(1).build(read_write(cluster.config())).unwrap();
    own_read_only(&mut pool.get().unwrap(), 0);
    drop(pool.get().unwrap());
    let asked = || cluster.log().matches("transaction_read_only").count();
    let before = asked();
    for _ in 0..20 {
        insert(&mut pool.get().unwrap()).unwrap();
    }
    // Some, if the machine stands still in between, so that the connection is checked.
    assert!(asked() - before < 20, "after each use");
}

#[test]
fn where_no_role_was_asked_for_a_refused_write_is_only_an_error() {
    let pair = Pair::start_with(&[("log_statement", "all")]);
    pair.first().psql("CREATE TABLE item (n int)");
    pair.second().catch_up_with(pair.first());
    let pool = pool(Manager::new(pair.second().config(), NoTls));
    for _ in 0..5 {
        assert!(insert(&mut pool.get().unwrap()).is_err());
    }
    drop(take_all(&pool));
    assert_eq!(pool.stats().closed.total(), 0);
    let log = pair.second().log();
    assert!(log.contains(INSERT) && !log.contains("transaction_read_only"), "{log}");
}

/// A pool that reads from the primary, and is never to write.
#[test]
fn sessions_that_the_manager_makes_read_only_may_be_on_a_primary_and_on_no_standby() {
    let pair = Pair::start();
    let manager = read_write(pair.config()).session_setting("default_transaction_read_only", "on");
    let pool = builder().max_size(1).skip_check_within(Duration::ZERO).build(manager).unwrap();
    let first = backend(&mut pool.get().unwrap());
    for _ in 0..3 {
        let mut conn = pool.get().unwrap();
        assert_eq!(backend(&mut conn), first);
        conn.batch_execute("CREATE TABLE no (n int)").unwrap_err();
    }
    pair.switch_over();
    assert_eq!(port(&mut pool.get().unwrap()), pair.second().port().to_string());
}

#[test]
fn a_check_of_the_role_is_one_statement_and_says_what_is_wrong() {
    let cluster = Cluster::start_with(&[("log_statement", "all")]);
    let manager = read_write(cluster.config());
    let mut client = manager.connect().unwrap();
    let before = cluster.log().matches("statement: ").count();
    manager.is_valid_within(&mut client, PROMPT).unwrap();
    assert_eq!(cluster.log().matches("statement: ").count(), before + 1);

    turn_read_only(&cluster);
    let error = manager.is_valid(&mut client).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    let text = error.as_db_error().unwrap().message();
    let expected =
        "the server no longer allows writes, and target_session_attrs asks for read-write";
    assert_eq!(text, expected);
    // It lives, and answers.
    assert_eq!(ask(&mut client, "SELECT 'yes'"), "yes");
}

/// The driver has no limit for this check, so the pool's holds.
#[test]
fn p1_a_check_of_the_role_on_a_silent_server_keeps_nobody_past_the_deadline() {
    let cluster = Cluster::start();
    let pool = builder()
        .max_size(2)
        .skip_check_within(Duration::ZERO)
        .validation_timeout(millis(300))
        .open_timeout(millis(300))
        .close_timeout(millis(300))
        .build(read_write(cluster.config()))
        .unwrap();
    drop(take_all(&pool));
    assert!(!read_write(cluster.config()).checks_within_limit());
    let frozen = cluster.freeze();
    for limit in [50, 800] {
        let asked = Instant::now();
        let error = refused(pool.get_timeout(millis(limit)));
        assert!(error.is_timeout(), "{error}");
        assert!(asked.elapsed() < millis(limit) + PROMPT, "{:?}", asked.elapsed());
    }
    drop(frozen);
    drop(take_all(&pool));
    wait_until("no call is hung", || pool.stats().abandoned == 0);
}
