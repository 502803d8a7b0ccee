//! Connecting fails, connections die, the server stops or is silent; and then the pool
//! recovers.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Error, ErrorKind, Pool, PooledConnection};
use fairpool_postgres::Client;
use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::Config;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_servers::cluster::Cluster;

use crate::common::{
    Guard, Manager, PROMPT, backend, backends, builder, driver_error, kill, logged, millis, named,
    refused, session, sessions_named, shared, start_log, take_all, wait_until,
};

// ---- connecting fails ----

#[test]
fn what_the_server_refuses_is_logged_at_once_and_reported_when_build_gives_up() {
    start_log();
    let wrong = Manager::new(shared().app_config("wrong"), NoTls);
    let mut config = shared().config();
    config.dbname("no_such_database");
    for (name, manager, code) in [
        ("wrong password", wrong, SqlState::INVALID_PASSWORD),
        ("wrong database", Manager::new(config, NoTls), SqlState::INVALID_CATALOG_NAME),
    ] {
        let short = Pool::builder().name(name).connection_timeout(millis(800));
        let error = short.build(manager).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(driver_error(&error).code(), Some(&code), "{error}");
        assert_eq!(logged(&format!("pool '{name}': connecting fails: ")).len(), 1);
    }
}

#[test]
fn a_configuration_without_a_host_ends_build_at_once() {
    let start = Instant::now();
    let error = builder().build(Manager::new(Config::new(), NoTls)).unwrap_err();
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    driver_error(&error);
}

#[test]
fn gets_that_wait_while_the_password_is_wrong_are_served_when_it_is_right() {
    shared().psql("CREATE ROLE latecomer LOGIN PASSWORD 'another'");
    let mut config = shared().config();
    config.user("latecomer").password("mine");
    let manager = Manager::new(config, NoTls);
    let pool = builder().max_size(2).build_unchecked(manager);
    thread::scope(|scope| {
        let gets: Vec<_> = (0..8).map(|_| scope.spawn(|| pool.get().map(drop))).collect();
        wait_until("attempts fail", || pool.stats().open_failures >= 2);
        assert!(gets.iter().all(|get| !get.is_finished()));
        shared().psql("ALTER ROLE latecomer PASSWORD 'mine'");
        for get in gets {
            get.join().unwrap().expect("served");
        }
    });
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
    // The server has room for three connections, the pool for eight.
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
    let explained = short.iter().filter(|error| error.source().is_some()).count();
    println!("of 20 gets of 100 ms in the outage, {explained} had a cause: {}", short[19]);

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
    assert!(format!("{error:#}").contains("password authentication failed"), "{error:#}");
}

#[test]
fn p9_a_short_get_in_an_outage_is_told_of_it() {
    let cluster = Cluster::start();
    // So that none is opened before the server stops.
    let unopened = builder().max_size(1).min_idle(Some(0));
    let pool = unopened.build_unchecked(Manager::new(cluster.config(), NoTls));
    cluster.stop();
    for _ in 0..30 {
        let error = refused(pool.request().timeout(millis(100)).get());
        assert!(format!("{error:#}").contains("last error"), "{error:#}");
    }
}

// ---- connections die ----

#[test]
fn after_a_quiet_spell_nobody_gets_a_connection_whose_backend_was_killed() {
    let spell = millis(50);
    let pool = builder().max_size(8).skip_check_within(spell).build(named("quiet")).unwrap();
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

/// With `skip_check_within` so long that age is no reason for a check.
fn never_by_age(size: u32, name: &'static str) -> Pool<Manager> {
    let unset = builder().max_size(size).skip_check_within(Duration::MAX);
    unset.build(named(name)).unwrap()
}

/// A user that does what `run` is for; returns whether it saw an error.
fn use_fails(conn: &mut Guard) -> bool {
    PooledConnection::run(conn, |client| client.query_one("SELECT 1", &[])).is_err()
}

#[test]
fn p13_eight_idle_connections_whose_backends_were_killed_cost_one_error() {
    let pool = never_by_age(8, "idle_siblings");
    let mut admin = session(shared());
    for round in 1..=5 {
        let mut all = take_all(&pool);
        let dead: Vec<i32> = backends(&mut all).into_iter().collect();
        drop(all);
        kill(&mut admin, &dead);
        let errors = (0..32).filter(|_| use_fails(&mut pool.get().unwrap())).count();
        println!("round {round}: 8 dead idle connections cost 32 users {errors} errors");
        assert_eq!(errors, 1);
    }
}

/// 32 threads use a pool of 8. All backends are killed while each of the 8 is in somebody's
/// hands, most of them between two statements.
#[test]
fn p13_the_backends_of_a_full_busy_pool_are_killed_and_users_see_no_more_errors_than_it_had() {
    let pool = never_by_age(8, "busy_siblings");
    let mut admin = session(shared());
    let stop = AtomicBool::new(false);
    let (errors, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // As many connections were broken before the backends were killed.
    let broken = AtomicU64::new(0);
    // The signals go out one by one: before the last has, a check may find a backend well that
    // is about to be killed.
    let all_killed = AtomicBool::new(false);
    let counts: Vec<usize> = thread::scope(|scope| {
        let user = || {
            while !stop.load(Ordering::Relaxed) {
                let round = broken.load(Ordering::Relaxed);
                let all_killed = all_killed.load(Ordering::Relaxed);
                let known = all_killed && pool.stats().closed.broken > round;
                let mut conn = pool.get().expect("a connection");
                if use_fails(&mut conn) {
                    errors.fetch_add(1, Ordering::Relaxed);
                    let late_now = known && broken.load(Ordering::Relaxed) == round;
                    late.fetch_add(usize::from(late_now), Ordering::Relaxed);
                }
                thread::sleep(millis(2)); // the connection is in use, without a statement
            }
        };
        (0..32).for_each(|_| drop(scope.spawn(user)));
        let counts = (0..5).map(|_| {
            let before = errors.load(Ordering::Relaxed);
            let closed = || pool.stats().closed;
            let earlier = closed();
            all_killed.store(false, Ordering::Relaxed);
            broken.store(earlier.broken, Ordering::Relaxed);
            let gets = pool.stats().gets;
            wait_until("all are in use", || pool.stats().gets > gets + 200);
            admin.execute(KILL_BUSY, &[]).expect("signals");
            all_killed.store(true, Ordering::Relaxed);
            wait_until("all are found", || {
                let (now, before) = (closed(), earlier.broken + earlier.invalid);
                now.broken + now.invalid == before + 8
            });
            errors.load(Ordering::Relaxed) - before
        });
        let counts = counts.collect();
        stop.store(true, Ordering::Relaxed);
        counts
    });
    let late = late.into_inner();
    println!(
        "errors of users when all 8 backends of a busy pool were killed: {counts:?}; of those \
         that came after the first error was back: {late}"
    );
    assert!(counts.iter().all(|&errors| errors <= 8), "{counts:?}");
    assert_eq!(late, 0);
}

const KILL_BUSY: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE application_name = 'busy_siblings'";

/// The first to notice returns a dead connection; the others return theirs without a word.
#[test]
fn p13_what_holders_return_without_a_statement_after_the_kill_is_lent_to_nobody() {
    let pool = never_by_age(8, "silent_siblings");
    let mut all = take_all(&pool);
    let dead: Vec<i32> = backends(&mut all).into_iter().collect();
    kill(&mut session(shared()), &dead);
    let mut first = all.pop().unwrap();
    assert!(use_fails(&mut first));
    drop(first);
    drop(all);
    let mut errors = 0;
    for _ in 0..4 {
        let mut next = take_all(&pool);
        errors += next.iter_mut().filter_map(|conn| use_fails(conn).then_some(())).count();
    }
    println!("after the first error, {errors} more of 7 dead connections");
    assert_eq!(errors, 0);
}

#[test]
fn run_retires_a_connection_whose_backend_was_killed_in_mid_use() {
    const DIE: &str = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(60)";
    let unchecked = || builder().max_size(1).test_on_check_out(false);
    let pool = unchecked().build(named("run")).unwrap();
    for round in 1..=20 {
        let mut conn = pool.get().unwrap();
        conn.query_one("SELECT 1", &[]).expect("a live connection");
        let result = PooledConnection::run(&mut conn, |client| client.batch_execute(DIE));
        assert!(result.is_err(), "a dead backend answered");
        drop(conn);
        assert_eq!(pool.stats().closed.broken, round);
    }

    // How often `run` matters: the driver itself does not always notice.
    let pool = unchecked().build(named("no_run")).unwrap();
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
    let pool = builder().max_size(1).build(named("kept")).unwrap();
    let mut conn = pool.get().unwrap();
    let pid = backend(&mut conn);
    let failed = PooledConnection::run(&mut conn, |client| client.query("SELECT 1/0", &[]));
    assert_eq!(failed.unwrap_err().code(), Some(&SqlState::DIVISION_BY_ZERO));
    drop(conn);
    assert_eq!(backend(&mut pool.get().unwrap()), pid);
}

// ---- a silent server ----

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
    assert!(user.join().unwrap(), "the query was answered");
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
        "when it answers again: first served in {first:.1?}, all 4 there in {full:.1?}, \
         nothing left over in {:.1?}",
        start.elapsed()
    );
    assert!(first < Duration::from_secs(3), "{first:?}");
}
