//! The pool on a real PostgreSQL server, and on one behind PgBouncer.

#![cfg(feature = "postgres")]

#[path = "support/bouncer.rs"]
mod bouncer;
#[path = "support/cluster.rs"]
mod cluster;

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bouncer::Bouncer;
use cluster::{APP_PASSWORD, Cluster};
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::{self, Client, Config, SimpleQueryMessage};
use fairpool_postgres::{NoTls, PostgresConnectionManager, Reset};
use fairpool::{Builder, Error, ErrorKind, ManageConnection, Pool, PooledConnection};

type Manager = PostgresConnectionManager<NoTls>;
type Guard = PooledConnection<Manager>;

/// Longer than anything here should take; only a watchdog.
const LONG: Duration = Duration::from_secs(60);
/// "At once", where the alternative is [`LONG`].
const PROMPT: Duration = Duration::from_secs(10);

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// The server of those tests that leave it alone.
fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_with(&[("max_connections", "200")]))
}

/// A manager whose connections the server lists under this name.
fn manager(name: &str) -> Manager {
    Manager::new(shared().config(), NoTls).application_name(name)
}

fn builder() -> Builder<Manager> {
    Pool::builder().connection_timeout(LONG)
}

/// A session of the test itself, beside the pool.
fn session(cluster: &Cluster) -> Client {
    cluster.config().connect(NoTls).expect("a session")
}

fn backend(client: &mut Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]);
    row.expect("a backend").get(0)
}

fn show(client: &mut Client, name: &str) -> String {
    let row = client.query_one(&format!("SHOW {name}"), &[]);
    row.expect(name).get(0)
}

fn sessions_named(client: &mut Client, name: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    client.query_one(sql, &[&name]).expect("a count").get(0)
}

/// Whether the client is inside a transaction that has written something.
fn has_written(client: &mut Client) -> bool {
    let sql = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    client.query_one(sql, &[]).expect("an answer").get(0)
}

/// Kills backends and returns when they are gone.
fn kill(admin: &mut Client, pids: &[i32]) {
    let sql = "SELECT pg_terminate_backend(pid) FROM unnest($1::int4[]) AS pid";
    admin.query(sql, &[&pids]).expect("they are told to end");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
    wait_until("the backends are gone", || {
        admin.query_one(sql, &[&pids]).expect("a count").get::<_, i64>(0) == 0
    });
}

/// The driver's own error behind the pool's.
fn driver_error(error: &Error) -> &postgres::Error {
    let source = error.source().unwrap_or_else(|| panic!("no cause: {error}"));
    let typed = source.downcast_ref();
    typed.unwrap_or_else(|| panic!("not the driver's error: {source:?}"))
}

fn refused(result: Result<Guard, Error>) -> Error {
    result.expect_err("no connection")
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < LONG, "not yet: {what}");
        thread::sleep(millis(2));
    }
    start.elapsed()
}

/// As many connections as the pool has, all at once.
fn take_all(pool: &Pool<Manager>) -> Vec<Guard> {
    let all = (0..pool.max_size()).map(|_| pool.get());
    all.collect::<Result<_, _>>().expect("a full pool")
}

fn backends(guards: &mut [Guard]) -> BTreeSet<i32> {
    guards.iter_mut().map(|guard| backend(guard)).collect()
}

/// Asks the server again and again how many sessions of a name it has.
struct WeakPool {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    samples: u64,
    /// The most sessions at once.
    most: i64,
    /// The samples with more than were to be expected, and for how long there
    /// were more without a break.
    excesses: u64,
    longest_excess: Duration,
}

impl WeakPool {
    fn over(cluster: &'static Cluster, name: &'static str, expected: i64) -> WeakPool {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut client = session(cluster);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            let mut as_expected = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let sessions = sessions_named(&mut client, name);
                seen.samples += 1;
                seen.most = seen.most.max(sessions);
                if sessions > expected {
                    seen.excesses += 1;
                    seen.longest_excess = seen.longest_excess.max(as_expected.elapsed());
                } else {
                    as_expected = Instant::now();
                }
            }
            seen
        });
        WeakPool { stop, thread }
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().expect("the watch goes on");
        assert!(seen.samples > 20, "a watch that hardly looked: {seen:?}");
        seen
    }
}

// ---- load ----

#[test]
fn thirty_two_threads_on_eight_connections_all_get_their_own_answers() {
    const ROUNDS: i64 = 150;
    let pool = builder().max_size(8).build(manager("load")).unwrap();
    let watch = WeakPool::over(shared(), "load", 8);
    let ask = |number: i64| {
        let mut conn = pool.get().expect("a connection");
        let row = conn.query_one("SELECT $1::int8 * 3", &[&number]);
        assert_eq!(row.expect("an answer").get::<_, i64>(0), number * 3);
    };
    thread::scope(|scope| {
        for worker in 0..32 {
            scope.spawn(move || (0..ROUNDS).for_each(|n| ask(worker * ROUNDS + n)));
        }
    });
    assert_eq!(watch.stop().most, 8);
    let stats = pool.stats();
    assert_eq!(stats.gets, 32 * ROUNDS as u64);
    assert_eq!((stats.opened, stats.closed.total(), stats.timeouts), (8, 0, 0));
    assert_eq!((stats.in_use, stats.idle, stats.waiting), (0, 8, 0));
    assert!(stats.gets_waited > 0, "nobody ever waited: {stats}");
}

/// Connections come and go in a pool of four. What counts is what the server
/// sees, and it sees a session for some milliseconds longer than the driver:
/// the close does not wait for the backend's end.
#[test]
fn p5_the_server_sees_more_than_max_size_only_while_backends_end() {
    let closers = 2;
    let pool = builder()
        .max_size(4)
        .max_closers(closers)
        .max_lifetime(Some(millis(50)))
        .build(manager("churn"))
        .unwrap();
    let watch = WeakPool::over(shared(), "churn", 4);
    let end = Instant::now() + Duration::from_secs(2);
    let work = |worker: usize| {
        for n in worker.. {
            if Instant::now() > end {
                return;
            }
            let mut conn = pool.get().expect("a connection");
            conn.query_one("SELECT 1", &[]).expect("an answer");
            if n % 31 == 0 {
                PooledConnection::discard(conn);
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..16 {
            scope.spawn(move || work(worker));
        }
    });
    let seen = watch.stop();
    let stats = pool.stats();
    println!("churn of {} connections: {seen:?}", stats.opened);
    assert!(stats.closed.broken > 10 && stats.closed.expired > 10, "{stats:?}");
    assert!(seen.most <= 4 + i64::from(closers), "{seen:?}");
    assert!(seen.longest_excess < millis(500), "{seen:?}");
}

#[test]
fn close_leaves_nothing_on_the_server() {
    let pool = builder().max_size(6).build(manager("close")).unwrap();
    let mut admin = session(shared());
    assert_eq!(sessions_named(&mut admin, "close"), 6);
    let mut held = pool.get().unwrap();

    let report = pool.close(Instant::now() + millis(200));
    assert_eq!(report.holders.len(), 1, "{report}");
    assert!(!report.is_complete(), "{report}");
    assert!(refused(pool.get()).is_closed());
    wait_until("only the held one is left", || sessions_named(&mut admin, "close") == 1);
    held.query_one("SELECT 1", &[]).expect("it is still good");
    drop(held);

    let report = pool.close(Instant::now() + LONG);
    assert!(report.is_complete(), "{report}");
    let took = wait_until("none is left", || sessions_named(&mut admin, "close") == 0);
    println!("{report}; the server was rid of them {took:.1?} later");
}

#[test]
fn dropping_the_pool_leaves_nothing_on_the_server() {
    let pool = builder().max_size(3).build(manager("drop")).unwrap();
    let mut admin = session(shared());
    assert_eq!(sessions_named(&mut admin, "drop"), 3);
    drop(pool);
    wait_until("none is left", || sessions_named(&mut admin, "drop") == 0);
}

// ---- connecting fails ----

#[test]
fn a_wrong_password_ends_build_at_once() {
    let wrong = Manager::new(shared().app_config("wrong"), NoTls);
    assert_build_fails_at_once(wrong, &SqlState::INVALID_PASSWORD);
    let right = Manager::new(shared().app_config(APP_PASSWORD), NoTls);
    assert!(builder().max_size(1).build(right).is_ok());
}

#[test]
fn an_unknown_database_ends_build_at_once() {
    let mut config = shared().config();
    config.dbname("no_such_database");
    let manager = Manager::new(config, NoTls);
    assert_build_fails_at_once(manager, &SqlState::INVALID_CATALOG_NAME);
}

fn assert_build_fails_at_once(manager: Manager, code: &SqlState) {
    let start = Instant::now();
    let error = builder().build(manager).unwrap_err();
    println!("after {:.1?}: {error}", start.elapsed());
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert_eq!(driver_error(&error).code(), Some(code));
}

#[test]
fn a_wrong_password_ends_waiting_gets_at_once_until_it_is_mended() {
    shared().psql("CREATE ROLE latecomer LOGIN PASSWORD 'another'");
    let mut config = shared().config();
    config.user("latecomer").password("mine");
    let manager = Manager::new(config, NoTls);
    let pool = builder().max_size(2).build_unchecked(manager);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let error = refused(pool.get());
                assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
                let code = driver_error(&error).code();
                assert_eq!(code, Some(&SqlState::INVALID_PASSWORD));
            });
        }
    });
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());

    shared().psql("ALTER ROLE latecomer PASSWORD 'mine'");
    let mended = Instant::now();
    while let Err(error) = pool.get() {
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        assert!(mended.elapsed() < PROMPT, "{error}");
    }
    println!("served {:.1?} after the password was right", mended.elapsed());
}

#[test]
fn too_many_connections_is_waited_out_and_told_as_the_cause() {
    let cluster =
        Cluster::start_with(&[("max_connections", "5"), ("superuser_reserved_connections", "0")]);
    let mut hogs: Vec<Client> = (0..5).map(|_| session(&cluster)).collect();
    let manager = || Manager::new(cluster.config(), NoTls);
    let full = |error: &Error| {
        assert!(error.is_timeout(), "{error}");
        let code = driver_error(error).code();
        assert_eq!(code, Some(&SqlState::TOO_MANY_CONNECTIONS));
    };

    let short = Pool::builder().connection_timeout(millis(800));
    full(&short.build(manager()).unwrap_err());
    let pool = builder().max_size(8).build_unchecked(manager());
    full(&refused(pool.get_timeout(millis(1500))));

    hogs.truncate(2);
    let start = Instant::now();
    pool.get().unwrap().query_one("SELECT 1", &[]).unwrap();
    println!("served {:.1?} after there was room", start.elapsed());
    // Three connections can exist, where the pool may have eight.
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut conn = pool.get().expect("a connection");
                    conn.query_one("SELECT 1", &[]).expect("an answer");
                }
            });
        }
    });
    assert!(pool.stats().open <= 3, "{}", pool.stats());
}

#[test]
fn an_outage_is_the_cause_of_timeouts_and_the_pool_recovers_by_itself() {
    let cluster = Cluster::start();
    let pool = builder()
        .max_size(8)
        .skip_check_within(Duration::ZERO)
        .build(Manager::new(cluster.config(), NoTls))
        .unwrap();
    drop(take_all(&pool));

    cluster.stop();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let error = refused(pool.get_timeout(millis(1500)));
                assert!(error.is_timeout(), "{error}");
                let io = driver_error(&error).source().expect("an I/O error");
                let io = io.downcast_ref::<io::Error>().expect("an I/O error");
                assert_eq!(io.kind(), io::ErrorKind::ConnectionRefused, "{error}");
            });
        }
    });
    let short: Vec<Error> = (0..20).map(|_| refused(pool.get_timeout(millis(100)))).collect();
    let told = short.iter().filter(|error| error.source().is_some()).count();
    println!("of 20 gets of 100 ms in the outage, {told} were told why: {}", short[19]);

    cluster.start_again();
    let start = Instant::now();
    pool.get().unwrap().query_one("SELECT 1", &[]).unwrap();
    let first = start.elapsed();
    let mut all = take_all(&pool);
    let full = start.elapsed();
    assert_eq!(backends(&mut all).len(), 8);
    println!("after the restart: first served in {first:.1?}, all 8 there in {full:.1?}");
    assert!(first < Duration::from_secs(3), "{first:?}");
}

#[test]
fn p9_the_text_of_an_error_says_what_the_server_said() {
    let wrong = Manager::new(shared().app_config("wrong"), NoTls);
    let error = builder().build(wrong).unwrap_err();
    assert!(error.to_string().contains("password authentication failed"), "{error}");
}

#[test]
fn p9_a_short_get_in_an_outage_is_told_of_it() {
    let cluster = Cluster::start();
    // None is opened before it has stopped.
    let unopened = builder().max_size(1).min_idle(Some(0));
    let pool = unopened.build_unchecked(Manager::new(cluster.config(), NoTls));
    cluster.stop();
    for _ in 0..30 {
        let error = refused(pool.request().timeout(millis(100)).get());
        assert!(error.to_string().contains("last error"), "{error}");
    }
}

// ---- connections die ----

#[test]
fn after_a_quiet_spell_nobody_gets_a_connection_whose_backend_was_killed() {
    let spell = millis(50);
    let pool = builder().max_size(8).skip_check_within(spell).build(manager("quiet")).unwrap();
    let mut admin = session(shared());
    for _ in 0..3 {
        let mut all = take_all(&pool);
        let dead = backends(&mut all);
        drop(all);
        kill(&mut admin, &dead.iter().copied().collect::<Vec<_>>());
        thread::sleep(spell * 2); // a quiet spell, also by a clock that ticks

        let together = Barrier::new(8);
        let alive = thread::scope(|scope| {
            let work = || {
                let mut conn = pool.get().expect("a connection");
                let answer = conn.query_one("SELECT pg_backend_pid()", &[]);
                together.wait();
                answer.expect("a live connection").get::<_, i32>(0)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            let pids = threads.into_iter().map(|thread| thread.join().unwrap());
            pids.collect::<BTreeSet<i32>>()
        });
        assert_eq!(alive.len(), 8);
        assert!(alive.is_disjoint(&dead));
    }
    assert_eq!(pool.stats().closed.invalid, 24);
}

#[test]
fn run_retires_a_connection_whose_backend_was_killed_in_mid_use() {
    const DIE: &str = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(60)";
    let unchecked = || builder().max_size(1).test_on_check_out(false);
    let pool = unchecked().build(manager("run")).unwrap();
    for round in 1..=20 {
        let mut conn = pool.get().unwrap();
        conn.query_one("SELECT 1", &[]).expect("a live connection");
        let result = PooledConnection::run(&mut conn, |client| client.batch_execute(DIE));
        assert!(result.is_err(), "a dead backend has answered");
        drop(conn);
        assert_eq!(pool.stats().closed.broken, round);
    }

    // How often it matters: the driver by itself does not always notice.
    let pool = unchecked().build(manager("no_run")).unwrap();
    let mut handed_on = 0;
    for _ in 0..20 {
        assert!(pool.get().unwrap().batch_execute(DIE).is_err());
        let mut next = pool.get().unwrap();
        if next.query_one("SELECT 1", &[]).is_err() {
            handed_on += 1;
            PooledConnection::discard(next);
        }
    }
    println!("without `run`, {handed_on} of 20 dead connections were handed on");
}

#[test]
fn run_keeps_a_connection_on_which_a_statement_failed() {
    let pool = builder().max_size(1).build(manager("kept")).unwrap();
    let mut conn = pool.get().unwrap();
    let pid = backend(&mut conn);
    let failed = PooledConnection::run(&mut conn, |client| client.query("SELECT 1/0", &[]));
    assert_eq!(failed.unwrap_err().code(), Some(&SqlState::DIVISION_BY_ZERO));
    drop(conn);
    assert_eq!(backend(&mut pool.get().unwrap()), pid);
}

// ---- what the last user left behind ----

#[test]
fn session_settings_are_in_force_on_every_connection_and_after_a_reset() {
    let manager = manager("settings")
        .lock_timeout(millis(1234))
        .statement_timeout(millis(5678))
        .idle_in_transaction_session_timeout(millis(9999))
        .reset_on_return(Reset::Session);
    let pool = builder().max_size(4).build(manager).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut all = take_all(&pool);
        for conn in &mut all {
            assert_eq!(show(conn, "lock_timeout"), "1234ms");
            assert_eq!(show(conn, "statement_timeout"), "5678ms");
            assert_eq!(show(conn, "idle_in_transaction_session_timeout"), "9999ms");
            assert_eq!(show(conn, "search_path"), "\"$user\", public");
            conn.batch_execute(
                "SET lock_timeout = 0; SET statement_timeout = 0; SET search_path = elsewhere; \
                 SET idle_in_transaction_session_timeout = 0;",
            )
            .unwrap();
        }
        seen.push(backends(&mut all));
    }
    assert_eq!(seen[0].len(), 4);
    assert!(seen[0] == seen[1] && seen[1] == seen[2], "reset, not replaced");
}

#[test]
fn a_lock_timeout_ends_a_wait_that_would_block_the_pool() {
    let mut admin = session(shared());
    let make = "CREATE TABLE orders (id int PRIMARY KEY, n int); \
                INSERT INTO orders VALUES (12345, 0)";
    admin.batch_execute(make).unwrap();
    let manager = manager("locks").lock_timeout(millis(50));
    let pool = builder().max_size(2).build(manager).unwrap();
    let mut long = admin.transaction().unwrap();
    long.batch_execute("UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut conn = pool.get().expect("a connection");
                let lock = "SELECT n FROM orders WHERE id = 12345 FOR UPDATE";
                let result = PooledConnection::run(&mut conn, |client| client.query(lock, &[]));
                let code = result.unwrap_err().code().cloned();
                assert_eq!(code, Some(SqlState::LOCK_NOT_AVAILABLE));
            });
        }
    });
    assert_eq!(pool.stats().closed.total(), 0, "the connections were good");
}

const LEAVES_OPEN: &str = "BEGIN; INSERT INTO left_behind VALUES (1)";

fn make_left_behind() {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| shared().psql("CREATE TABLE left_behind (n int)"));
}

#[test]
fn without_a_reset_an_open_transaction_reaches_the_next_user() {
    // Shows that the tests below can fail.
    make_left_behind();
    let pool = builder().max_size(1).build(manager("off")).unwrap();
    pool.get().unwrap().batch_execute(LEAVES_OPEN).unwrap();
    assert!(has_written(&mut pool.get().unwrap()));
}

#[test]
fn an_open_transaction_never_reaches_the_next_user() {
    make_left_behind();
    for reset in [Reset::Rollback, Reset::Session] {
        let manager = manager("rollback").reset_on_return(reset);
        let pool = builder().max_size(3).build(manager).unwrap();
        let work = |worker: usize| {
            for n in 0..30 {
                let mut conn = pool.get().expect("a connection");
                assert!(!has_written(&mut conn), "{reset:?}");
                match (worker + n) % 3 {
                    0 => conn.batch_execute(LEAVES_OPEN).unwrap(),
                    // A transaction that has failed refuses everything else.
                    1 => assert!(conn.batch_execute("BEGIN; SELECT 1/0").is_err()),
                    _ => {}
                }
            }
        };
        thread::scope(|scope| {
            for worker in 0..12 {
                scope.spawn(move || work(worker));
            }
        });
        let stats = pool.stats();
        assert_eq!(stats.closed.total(), 0, "reset, not replaced: {stats:?}");
    }
    assert_eq!(shared().psql("SELECT count(*) FROM left_behind"), "0");
}

/// Runs `work` on a connection of the pool in a thread that then panics.
fn panic_with(pool: &Pool<Manager>, work: impl FnOnce(&mut Guard) + Send + 'static) {
    let pool = pool.clone();
    let holder = thread::Builder::new().name("a holder that panics as planned".to_string());
    let holder = holder.spawn(move || {
        let mut conn = pool.get().unwrap();
        work(&mut conn);
        panic!("as planned");
    });
    assert!(holder.unwrap().join().is_err());
}

#[test]
fn p10_a_holder_that_panics_inside_a_transaction_leaves_nothing_behind() {
    make_left_behind();
    // A panic asks for a reset even where a return does not.
    for reset in [Reset::Off, Reset::Rollback] {
        let manager = manager("panic").reset_on_return(reset);
        let pool = builder().max_size(1).build(manager).unwrap();
        for _ in 0..5 {
            panic_with(&pool, |conn| conn.batch_execute(LEAVES_OPEN).unwrap());
            assert!(!has_written(&mut pool.get().unwrap()), "{reset:?}");
        }
        let stats = pool.stats();
        assert_eq!((stats.open, stats.closed.total()), (1, 0), "{reset:?}: {stats:?}");
    }
}

#[test]
fn p10_a_transaction_object_rolls_back_in_a_panic_without_any_reset() {
    make_left_behind();
    let pool = builder().max_size(1).build(manager("object")).unwrap();
    panic_with(&pool, |conn| {
        let mut transaction = conn.transaction().unwrap();
        let insert = "INSERT INTO left_behind VALUES (1)";
        transaction.batch_execute(insert).unwrap();
        panic!("as planned, inside");
    });
    assert!(!has_written(&mut pool.get().unwrap()));
}

#[test]
fn p10_what_a_panicking_holder_has_broken_is_not_handed_on() {
    let pool = builder().max_size(1).test_on_check_out(false).build(manager("broken")).unwrap();
    for _ in 0..5 {
        let admin = session(shared());
        panic_with(&pool, |conn| {
            let mut admin = admin;
            let pid = backend(conn);
            kill(&mut admin, &[pid]);
        });
        let mut next = pool.get().unwrap();
        next.query_one("SELECT 1", &[]).expect("a live connection");
    }
    let closed = pool.stats().closed;
    assert_eq!((closed.broken, closed.invalid), (5, 0), "the reset finds out");
}

// ---- a server that says nothing ----

#[test]
fn p1_a_silent_server_keeps_nobody_past_the_deadline_and_is_used_again() {
    let cluster = Cluster::start();
    let pool = builder()
        .max_size(4)
        .skip_check_within(Duration::ZERO)
        .validation_timeout(millis(300))
        .open_timeout(millis(300))
        .close_timeout(millis(300))
        .build(Manager::new(cluster.config(), NoTls).application_name("silent"))
        .unwrap();
    let mut all = take_all(&pool);
    let mut in_query = all.pop().unwrap();
    drop(all);

    let frozen = cluster.freeze();
    let user = thread::spawn(move || in_query.query_one("SELECT 1", &[]).is_ok());
    let late = thread::scope(|scope| {
        let ask = |limit: Duration| {
            let asked = Instant::now();
            let error = refused(pool.get_timeout(limit));
            assert!(error.is_timeout(), "{error}");
            asked.elapsed() - limit
        };
        let limits = [0, 20, 100, 400, 900].map(millis);
        let work = move || limits.map(ask).into_iter().max();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(work)).collect();
        let late = threads.into_iter().map(|thread| thread.join().unwrap());
        late.max().flatten().expect("some")
    });
    println!("80 gets on a silent server: at most {late:.1?} late; {}", pool.stats());
    assert!(late < millis(250), "{late:?}");
    assert!(pool.stats().abandoned > 0, "{}", pool.stats());

    drop(frozen);
    let start = Instant::now();
    pool.get().unwrap().query_one("SELECT 1", &[]).unwrap();
    let first = start.elapsed();
    assert!(user.join().unwrap(), "the query has its answer");
    let mut all = take_all(&pool);
    assert_eq!(backends(&mut all).len(), 4);
    let full = start.elapsed();
    drop(all);
    wait_until("no call is hung", || pool.stats().abandoned == 0);
    let mut admin = session(&cluster);
    wait_until("the server has no more than the pool", || {
        sessions_named(&mut admin, "silent") <= 4
    });
    println!(
        "when it speaks again: first served in {first:.1?}, all 4 there in {full:.1?}, \
         nothing left over in {:.1?}",
        start.elapsed()
    );
    assert!(first < Duration::from_secs(3), "{first:?}");
}

// ---- PgBouncer ----

/// The one value of a one-row answer. Behind a pool of transactions, a
/// statement cannot be prepared in one and used in the next: simple queries.
fn simple(client: &mut Client, sql: &str) -> Result<String, postgres::Error> {
    let answer = client.simple_query(sql)?;
    let value = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(value.expect("a value").to_owned())
}

fn through(config: Config, name: &str) -> Manager {
    Manager::new(config, NoTls).application_name(name)
}

#[test]
fn through_pgbouncer_threads_pools_and_transactions_keep_apart() {
    let bouncer = Bouncer::start(shared().port(), 3);
    shared().psql("CREATE TABLE bounced (n int)");
    let manager = through(bouncer.config(), "bounced").reset_on_return(Reset::Rollback);
    let pool = builder().max_size(8).skip_check_within(Duration::ZERO).build(manager).unwrap();
    let work = |worker: usize| {
        for n in 0..20 {
            let mut conn = pool.get().expect("a connection");
            let sum = simple(&mut conn, &format!("SELECT {worker} * 1000 + {n}"));
            assert_eq!(sum.unwrap(), (worker * 1000 + n).to_string());
            let mut transaction = conn.transaction().unwrap();
            let insert = "INSERT INTO bounced VALUES (1)";
            transaction.batch_execute(insert).unwrap();
            if n % 2 == 0 {
                transaction.commit().unwrap();
            } else {
                drop(transaction);
            }
            if n % 5 == 0 {
                // Left open: it would keep a server connection from everybody.
                conn.batch_execute(&format!("BEGIN; {insert}")).unwrap();
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..16 {
            scope.spawn(move || work(worker));
        }
    });
    assert_eq!(shared().psql("SELECT count(*) FROM bounced"), "160");
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.closed.total()), (8, 0), "{stats:?}");
}

#[test]
fn through_pgbouncer_a_restart_of_it_is_survived() {
    let mut bouncer = Bouncer::start(shared().port(), 3);
    let pool = builder()
        .max_size(4)
        .skip_check_within(Duration::ZERO)
        .build(through(bouncer.config(), "restarted"))
        .unwrap();
    drop(take_all(&pool));
    bouncer.stop();
    let error = refused(pool.get_timeout(millis(1500)));
    assert!(error.is_timeout(), "{error}");
    driver_error(&error);
    bouncer.start_again();
    let start = Instant::now();
    let mut conn = pool.get().unwrap();
    assert_eq!(simple(&mut conn, "SELECT 1").unwrap(), "1");
    println!("PgBouncer is back: served in {:.1?}", start.elapsed());
}

#[test]
fn through_pgbouncer_an_error_in_connecting_is_typed() {
    let bouncer = Bouncer::start(shared().port(), 3);
    let mut config = bouncer.config();
    config.dbname("no_such_database");
    let manager = through(config, "unknown");
    let permanent = {
        let error = manager.connect().err().expect("a refusal");
        println!("PgBouncer says {:?}: {error}", error.code());
        manager.is_permanent(&error)
    };
    let pool = Pool::builder().connection_timeout(millis(800));
    let error = pool.build(manager).unwrap_err();
    assert!(driver_error(&error).code().is_some(), "{error}");
    let expected = if permanent { ErrorKind::Connect } else { ErrorKind::Timeout };
    assert_eq!(error.kind(), expected, "{error}");
}
