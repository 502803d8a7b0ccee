//! Passwords and roles that change while a pool uses them.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Pool, PooledConnection};
use fairpool_postgres::postgres::Config;
use fairpool_postgres::postgres::config::TargetSessionAttrs;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::{Credentials, NoTls, WhyAsked};
use fairpool_servers::cluster::{APP_PASSWORD, APP_USER, Cluster};
use fairpool_servers::pair::Pair;

use crate::common::{
    Manager, ask, backends, builder, driver_error, millis, refused, secs, take_all, wait_until,
};

const SIZE: u32 = 4;
const FOREVER: Duration = Duration::MAX;

/// What rotates passwords, and gives the present one.
#[derive(Clone)]
struct Vault(Arc<Mutex<Credentials>>, Arc<AtomicUsize>);

impl Vault {
    fn new(credentials: Credentials) -> Vault {
        Vault(Arc::new(Mutex::new(credentials)), Arc::default())
    }

    fn set(&self, credentials: Credentials) {
        *self.0.lock().unwrap() = credentials;
    }

    fn asks(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    fn manager(&self, cluster: &Cluster) -> Manager {
        let vault = self.clone();
        Manager::new(cluster.config(), NoTls).credentials(move |_| {
            vault.1.fetch_add(1, Ordering::SeqCst);
            Ok::<_, io::Error>(vault.0.lock().unwrap().clone())
        })
    }
}

fn failed_logins(cluster: &Cluster) -> usize {
    cluster.log().matches("FATAL:  password authentication failed").count()
        + cluster.log().matches("is not permitted to log in").count()
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Eight threads query all the time, and none may have an error, while something is done.
fn nobody_notices(pool: &Pool<Manager>, change: impl FnOnce(&dyn Fn())) {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        // Also where the test fails.
        let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let mut conn = pool.get().expect("a connection");
                let result =
                    PooledConnection::run(&mut conn, |client| client.query_one("SELECT 1", &[]));
                result.expect("an answer");
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        let some_are_served = || {
            let from = done.load(Ordering::SeqCst);
            let is_over = || threads.iter().any(|thread| thread.is_finished());
            wait_until("queries are answered", || {
                is_over() || done.load(Ordering::SeqCst) > from + 100
            });
        };
        some_are_served();
        change(&some_are_served);
        some_are_served();
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Asks for new connections in place of the present ones, and waits for them.
fn replace_all(pool: &Pool<Manager>) {
    let (before, begun) = (pool.stats().opened, Instant::now());
    let mut opened_at = Vec::new();
    pool.refresh();
    wait_until("all are replaced", || {
        let stats = pool.stats();
        opened_at.resize((stats.opened - before) as usize, begun.elapsed().as_millis());
        stats.opened >= before + u64::from(SIZE) && stats.open == SIZE && stats.opening == 0
    });
    println!("figure: rotation: successors opened at ms {opened_at:?}");
}

/// Shows what happens without a closure, once the connections of before have ended.
#[test]
fn a_pool_with_a_fixed_password_is_lost_when_it_changes() {
    let cluster = Cluster::start();
    let manager = Manager::new(cluster.app_config(APP_PASSWORD), NoTls);
    let pool = builder().max_size(SIZE).build(manager).unwrap();
    let all = take_all(&pool);
    cluster.psql(&format!("ALTER ROLE {APP_USER} PASSWORD 'new'"));
    all.into_iter().for_each(PooledConnection::discard);
    wait_until("none is left", || pool.stats().open == 0 && pool.stats().open_failures > 0);
    let error = refused(pool.get_timeout(millis(1500)));
    assert_eq!(driver_error(&error).code(), Some(&SqlState::INVALID_PASSWORD));
}

#[test]
fn a_rotated_password_costs_one_failed_login_and_no_caller_notices() {
    let cluster = Cluster::start();
    let password = |password: &str| Credentials::new(APP_USER, password).valid_for(FOREVER);
    let vault = Vault::new(password(APP_PASSWORD));
    // One connect at a time, however long it takes: so only one can be refused.
    let patient = builder().max_size(SIZE).max_opening(1).connect_patience(secs(5), secs(5));
    let pool = patient.build(vault.manager(&cluster)).unwrap();
    drop(take_all(&pool));
    nobody_notices(&pool, |some_are_served| {
        for round in 1..=3 {
            cluster.psql(&format!("ALTER ROLE {APP_USER} PASSWORD 'new {round}'"));
            vault.set(password(&format!("new {round}")));
            some_are_served();
            let asks = vault.asks();
            assert_eq!(asks, round, "open connections stay");
            replace_all(&pool);
            assert_eq!(failed_logins(&cluster), round);
            assert_eq!(vault.asks(), asks + 1);
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.open_failures, stats.timeouts), (0, 0), "{stats}");
}

#[test]
fn where_each_connect_asks_a_rotation_fails_no_login() {
    let cluster = Cluster::start();
    let vault = Vault::new(Credentials::new(APP_USER, APP_PASSWORD));
    let pool = builder().max_size(SIZE).build(vault.manager(&cluster)).unwrap();
    drop(take_all(&pool));
    nobody_notices(&pool, |_| {
        for round in 1..=3 {
            cluster.psql(&format!("ALTER ROLE {APP_USER} PASSWORD 'new {round}'"));
            vault.set(Credentials::new(APP_USER, format!("new {round}")));
            replace_all(&pool);
        }
    });
    assert_eq!(failed_logins(&cluster), 0);
    assert_eq!(pool.stats().open_failures, 0);
}

#[test]
fn two_roles_that_take_turns_fail_no_login() {
    let cluster = Cluster::start();
    cluster.psql("CREATE ROLE blue LOGIN PASSWORD 'b1'; CREATE ROLE green LOGIN PASSWORD 'g1'");
    // The time is over before the role's password changes.
    let give = |role: &str, password: &str| Credentials::new(role, password).valid_for(millis(1));
    let vault = Vault::new(give("blue", "b1"));
    let pool = builder().max_size(SIZE).build(vault.manager(&cluster)).unwrap();
    drop(take_all(&pool));
    let users = || -> Vec<String> {
        let mut all = take_all(&pool);
        all.iter_mut().map(|conn| ask(conn, "SELECT current_user::text")).collect()
    };
    for (old, new, password) in [("blue", "green", "g2"), ("green", "blue", "b2")] {
        assert!(users().iter().all(|user| user == old));
        nobody_notices(&pool, |_| {
            cluster.psql(&format!("ALTER ROLE {new} PASSWORD '{password}'"));
            vault.set(give(new, password));
            thread::sleep(millis(10)); // the time of the old ones
            replace_all(&pool);
            cluster.psql(&format!("ALTER ROLE {old} PASSWORD 'gone'"));
        });
        assert!(users().iter().all(|user| user == new));
    }
    assert_eq!(failed_logins(&cluster), 0);
    assert_eq!(pool.stats().open_failures, 0);
}

#[test]
fn connections_outlive_the_credentials_that_opened_them() {
    let cluster = Cluster::start();
    let vault = Vault::new(Credentials::new(APP_USER, APP_PASSWORD));
    let pool = builder().max_size(SIZE).build(vault.manager(&cluster)).unwrap();
    let before = backends(&mut take_all(&pool));
    cluster.psql(&format!("ALTER ROLE {APP_USER} PASSWORD 'new' VALID UNTIL '2000-01-01'"));
    for _ in 0..3 {
        assert_eq!(backends(&mut take_all(&pool)), before);
    }
}

#[test]
fn a_password_that_stays_wrong_is_asked_for_and_tried_once_for_each_attempt() {
    let cluster = Cluster::start();
    let vault = Vault::new(Credentials::new(APP_USER, "wrong").valid_for(FOREVER));
    let lazy = builder().max_size(1).min_idle(Some(0));
    let pool = lazy.build_unchecked(vault.manager(&cluster));
    let error = refused(pool.get_timeout(secs(2)));
    assert_eq!(driver_error(&error).code(), Some(&SqlState::INVALID_PASSWORD));
    wait_until("no attempt runs", || pool.stats().opening == 0);
    let attempts = usize::try_from(pool.stats().open_failures).unwrap();
    // The first attempt makes two.
    assert!(attempts > 1, "{}", pool.stats());
    assert!(failed_logins(&cluster) <= attempts + 1, "{attempts}");
    assert!(vault.asks() <= attempts + 1);

    vault.set(Credentials::new(APP_USER, APP_PASSWORD));
    drop(pool.get().unwrap());
}

#[test]
fn p9_a_caller_is_told_why_no_credentials_came_and_is_served_when_they_do() {
    let cluster = Cluster::start();
    let sealed = Arc::new(AtomicBool::new(true));
    let is_sealed = Arc::clone(&sealed);
    let give = move |why| {
        assert_eq!(why, WhyAsked::Due);
        if is_sealed.load(Ordering::SeqCst) {
            return Err("the vault is sealed");
        }
        Ok(Credentials::new(APP_USER, APP_PASSWORD))
    };
    let manager = Manager::new(cluster.config(), NoTls).credentials(give);
    let pool = builder().max_size(1).min_idle(Some(0)).build_unchecked(manager);
    let error = refused(pool.get_timeout(millis(800)));
    assert!(error.is_timeout(), "{error}");
    let text = format!("{error:#}");
    assert!(text.contains("asking for credentials failed: the vault is sealed"), "{text}");
    sealed.store(false, Ordering::SeqCst);
    drop(pool.get().unwrap());
}

#[test]
fn a_closure_can_give_the_hosts_too() {
    let pair = Pair::start();
    let [first, second] = [pair.first().port(), pair.second().port()];
    let standby_only = Arc::new(AtomicBool::new(false));
    let only = Arc::clone(&standby_only);
    let give = move |_| {
        let credentials = Credentials::new("postgres", "");
        let credentials = match only.load(Ordering::SeqCst) {
            true => credentials,
            false => credentials.host("127.0.0.1", first),
        };
        Ok::<_, io::Error>(credentials.host("127.0.0.1", second))
    };
    let mut config = Config::new();
    config.dbname("postgres").target_session_attrs(TargetSessionAttrs::ReadWrite);
    let pool = builder().max_size(1).build(Manager::new(config, NoTls).credentials(give)).unwrap();
    let port =
        || ask(&mut pool.get().unwrap(), "SELECT setting FROM pg_settings WHERE name = 'port'");
    assert_eq!(port(), first.to_string());
    standby_only.store(true, Ordering::SeqCst);
    pair.first().stop();
    pair.second().promote();
    wait_until("the connection is known to be lost", || {
        pool.get_timeout(secs(10)).is_ok_and(|mut conn| {
            PooledConnection::run(&mut conn, |client| client.batch_execute("SELECT 1")).is_ok()
        })
    });
    assert_eq!(port(), second.to_string());
}
