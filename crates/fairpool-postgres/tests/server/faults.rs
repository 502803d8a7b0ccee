//! A pool on a PostgreSQL server that is killed, cut off, silent, slow, full or out of
//! reach, while 16 threads keep asking for connections.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::{Error, ErrorKind, Pool, PooledConnection};
use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::{self, Client, Config};
use fairpool_servers::cluster::{APP_PASSWORD, APP_USER, Cluster};
use fairpool_servers::netns::Network;
use fairpool_servers::proxy::{Flow, Proxy};

use crate::common::{LONG, Manager, builder, millis, sessions_named, shared, through, wait_until};

const SIZE: u32 = 8;
const THREADS: usize = 16;
/// How late a get may return before a test fails. Generous, since the machine may be busy.
const LATE: Duration = Duration::from_millis(500);
/// How long the pool may take to be full again before a test fails. The goal is two
/// seconds.
const RECOVERY: Duration = Duration::from_secs(10);
/// A caller that has waited this long in a fault is given the reason. Before that, a
/// connect that hangs is not known to be slow.
const LONG_ENOUGH: Duration = Duration::from_millis(290);
/// The usual query.
const A_WHILE: &str = "SELECT pg_sleep(0.005)";

fn manager(config: Config, name: &str) -> Manager {
    Manager::new(config, NoTls).application_name(name)
}

/// A pool with all settings at their defaults, which is full.
fn full_pool(manager: Manager) -> Pool<Manager> {
    builder().max_size(SIZE).build(manager).expect("a full pool")
}

// ---- load ----

/// Threads that get a connection and query in a loop, with changing time limits.
struct Load {
    pool: Pool<Manager>,
    stop: Arc<AtomicBool>,
    /// By connection id: when the last answered query began.
    answers: Arc<Mutex<HashMap<u64, Instant>>>,
    threads: Vec<JoinHandle<Tally>>,
}

/// The results of a load.
#[derive(Default)]
struct Tally {
    gets: usize,
    /// By how much a get exceeded its limit, at most.
    overshoot: Duration,
    refusals: Vec<Refusal>,
    failures: Vec<postgres::Error>,
}

struct Refusal {
    asked: Instant,
    took: Duration,
    error: Error,
}

impl Load {
    fn start(pool: &Pool<Manager>, sql: &'static str) -> Load {
        Load::with_limits(pool, sql, [20, 100, 300, 1500].map(millis))
    }

    fn with_limits(pool: &Pool<Manager>, sql: &'static str, limits: [Duration; 4]) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let work = |number: usize| {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            let answers = Arc::clone(&answers);
            thread::spawn(move || {
                let mut tally = Tally::default();
                for n in number.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    tally.get_and_query(&pool, limits[n % 4], sql, &answers);
                }
                tally
            })
        };
        let threads = (0..THREADS).map(work).collect();
        let load = Load { pool: pool.clone(), stop, answers, threads };
        load.await_full(Instant::now());
        load
    }

    /// Waits until the pool is full and each connection has answered a query that began
    /// after `since`. Returns how long after `since` that was.
    fn await_full(&self, since: Instant) -> Duration {
        let size = self.pool.max_size();
        let is_full = || {
            let answers = self.answers.lock().unwrap();
            let healthy = answers.values().filter(|&&began| began > since).count();
            healthy >= size as usize && self.pool.stats().open == size
        };
        wait_until("the pool is full and healthy", is_full);
        since.elapsed()
    }

    fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in self.threads {
            let one = thread.join().expect("no panic");
            all.gets += one.gets;
            all.overshoot = all.overshoot.max(one.overshoot);
            all.refusals.extend(one.refusals);
            all.failures.extend(one.failures);
        }
        all
    }
}

impl Tally {
    fn get_and_query(
        &mut self,
        pool: &Pool<Manager>,
        limit: Duration,
        sql: &str,
        answers: &Mutex<HashMap<u64, Instant>>,
    ) {
        let asked = Instant::now();
        let got = pool.get_timeout(limit);
        let took = asked.elapsed();
        self.gets += 1;
        self.overshoot = self.overshoot.max(took.saturating_sub(limit));
        match got {
            Ok(mut conn) => {
                let began = Instant::now();
                match PooledConnection::run(&mut conn, |client| client.query_one(sql, &[])) {
                    Ok(_) => {
                        let id = PooledConnection::info(&conn).id;
                        answers.lock().unwrap().insert(id, began);
                    }
                    Err(error) => self.failures.push(error),
                }
            }
            Err(error) => {
                if !error.is_timeout() {
                    // Refused at once: a pause avoids a busy loop.
                    thread::sleep(millis(10));
                }
                self.refusals.push(Refusal { asked, took, error });
            }
        }
    }

    /// Prints the figures and checks them against generous bounds.
    fn report(&self, what: &str, full_again: Duration) {
        println!(
            "figure: {what}: overshoot max {:.1} ms, full again after {:.2} s; {} gets, {} \
             refused, {} queries failed",
            self.overshoot.as_secs_f64() * 1e3,
            full_again.as_secs_f64(),
            self.gets,
            self.refusals.len(),
            self.failures.len(),
        );
        if let Some(last) = self.refusals.last() {
            println!("{what}: a refusal reads: {}", last.error);
        }
        if let Some(last) = self.failures.last() {
            println!("{what}: a query failed with: {last}; {:?}", last.source());
        }
        assert!(self.gets > 50, "too few gets: {}", self.gets);
        assert!(self.overshoot < LATE, "{what}: {:?} late", self.overshoot);
        assert!(full_again < RECOVERY, "{what}: full again after {full_again:?}");
    }

    /// The driver's errors that refused callers got as the cause.
    fn causes(&self) -> Vec<&postgres::Error> {
        let sources = self.refusals.iter().filter_map(|refusal| refusal.error.source());
        let typed = sources.map(|source| {
            let typed = source.downcast_ref::<postgres::Error>();
            typed.unwrap_or_else(|| panic!("not the driver's error: {source:?}"))
        });
        typed.collect()
    }

    /// Checks that callers that waited for [`LONG_ENOUGH`] between `since` and `until` got
    /// a reason: the driver's error if one occurred during the wait, its text if one
    /// occurred before, else who holds the connections, how long connecting has taken, or
    /// that it hung.
    fn assert_explained(&self, what: &str, since: Instant, until: Instant) {
        let is_explained = |error: &Error| {
            let text = error.to_string();
            let reasons = ["last error", "held longest by", "so far", "hung driver calls"];
            error.source().is_some() || reasons.iter().any(|reason| text.contains(reason))
        };
        let relevant: Vec<&Refusal> = self
            .refusals
            .iter()
            .filter(|refusal| refusal.asked > since && refusal.asked + refusal.took < until)
            .filter(|refusal| refusal.took >= LONG_ENOUGH)
            .collect();
        let unexplained: Vec<&&Refusal> =
            relevant.iter().filter(|refusal| !is_explained(&refusal.error)).collect();
        let counts = format!("{} of {} without a reason", unexplained.len(), relevant.len());
        println!("{what}: refused in the fault: {counts}");
        if let Some(one) = unexplained.first() {
            panic!("{what}: {counts}: {}", one.error);
        }
    }
}

fn io_kind(error: &postgres::Error) -> Option<io::ErrorKind> {
    Some(error.source()?.downcast_ref::<io::Error>()?.kind())
}

/// Checks that the server has exactly the pool's connections, and none after the pool is
/// closed.
fn assert_none_left(cluster: &Cluster, pool: Pool<Manager>, name: &str) {
    let mut admin = cluster.socket_config().connect(NoTls).expect("a session");
    let mut sessions = || sessions_named(&mut admin, name);
    let mut most = 0;
    let settled = wait_until("the server has what the pool has", || {
        let count = sessions();
        most = most.max(count);
        count == i64::from(pool.stats().open)
    });
    let stats = pool.stats();
    assert_eq!((stats.open, stats.in_use), (pool.max_size(), 0), "{stats}");
    let report = pool.close(Instant::now() + LONG);
    assert!(report.is_complete(), "{report}");
    let gone = wait_until("nothing is left on the server", || sessions() == 0);
    println!(
        "figure: {name}: server had at most {most} after recovery, {} after {:.2} s; 0 left {:.2} \
         s after close",
        stats.open,
        settled.as_secs_f64(),
        gone.as_secs_f64(),
    );
}

// ---- the server ends sessions ----

#[test]
fn faults_backends_killed_under_load() {
    const NAME: &str = "killed";
    let pool = full_pool(manager(shared().config(), NAME));
    let load = Load::start(&pool, A_WHILE);
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = '{NAME}'"
    );
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        assert_eq!(shared().psql(&kill), SIZE.to_string());
        slowest = slowest.max(load.await_full(Instant::now()));
    }
    let tally = load.stop();
    tally.report("backends killed, slowest of 5", slowest);
    assert!(tally.failures.len() >= 5, "{}", tally.failures.len());
    for error in &tally.failures {
        let announced = error.code() == Some(&SqlState::ADMIN_SHUTDOWN);
        assert!(announced || error.is_closed() || io_kind(error).is_some(), "{error:?}");
    }
    assert_none_left(shared(), pool, NAME);
}

#[test]
fn faults_server_stopped_and_started_under_load() {
    const NAME: &str = "restarted";
    let cluster = Cluster::start();
    let pool = full_pool(manager(cluster.config(), NAME));
    for (what, stop) in [
        ("fast shutdown", Cluster::stop as fn(&Cluster)),
        ("immediate shutdown", Cluster::stop_at_once),
    ] {
        let load = Load::start(&pool, A_WHILE);
        stop(&cluster);
        let stopped = Instant::now();
        thread::sleep(millis(2000)); // the outage
        let until = Instant::now();
        cluster.start_again();
        let full = load.await_full(Instant::now());
        let tally = load.stop();
        tally.report(what, full);
        tally.assert_explained(what, stopped, until);
        let causes = tally.causes();
        assert!(!causes.is_empty(), "no caller got the driver's error");
        for error in causes {
            let refused = io_kind(error) == Some(io::ErrorKind::ConnectionRefused);
            let starting = error.code() == Some(&SqlState::CANNOT_CONNECT_NOW);
            let ended = error.is_closed() || io_kind(error).is_some();
            let announced = error.code() == Some(&SqlState::ADMIN_SHUTDOWN);
            assert!(refused || starting || ended || announced, "{error:?}");
        }
    }
    assert_none_left(&cluster, pool, NAME);
}

// ---- the link ----

#[test]
fn faults_link_cut_and_restored() {
    const NAME: &str = "cut";
    let mut proxy = Proxy::start(shared().port());
    let pool = full_pool(manager(through(&proxy), NAME));
    let load = Load::start(&pool, A_WHILE);
    proxy.refuse();
    proxy.set_existing(Flow::Reset);
    let cut = Instant::now();
    thread::sleep(millis(2500)); // the outage
    let until = Instant::now();
    proxy.accept();
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report("link cut", full);
    tally.assert_explained("link cut", cut, until);
    let kinds: Vec<_> = tally.causes().into_iter().map(io_kind).collect();
    assert!(kinds.contains(&Some(io::ErrorKind::ConnectionRefused)), "{kinds:?}");
    assert!(kinds.iter().all(Option::is_some), "{kinds:?}");
    let resets = tally.failures.iter().filter(|error| io_kind(error).is_some()).count();
    assert!(resets > 0, "{:?}", tally.failures);
    assert_none_left(shared(), pool, NAME);
}

/// As a black hole, for machines without network namespaces: the proxy forwards nothing in
/// either direction, accepts new connections and never answers.
#[test]
fn faults_link_held_in_silence() {
    held_in_silence("held", Duration::from_secs(3));
}

fn held_in_silence(name: &'static str, outage: Duration) {
    let proxy = Proxy::start(shared().port());
    let pool = full_pool(manager(through(&proxy), name));
    let load = Load::start(&pool, A_WHILE);
    proxy.set(Flow::Hold);
    let held = Instant::now();
    thread::sleep(outage);
    let until = Instant::now();
    proxy.set(Flow::Pass);
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report(name, full);
    tally.assert_explained(name, held, until);
    assert_none_left(shared(), pool, name);
}

/// Every packet is lost. The driver's limits are short, so that queries fail and connects
/// are tried within the outage.
#[test]
fn faults_black_hole_with_short_limits() {
    let short = |manager: Manager| {
        manager.tcp_user_timeout(millis(1000)).connect_timeout(millis(1000)).keepalives(
            millis(1000),
            millis(1000),
            1,
        )
    };
    let tally = black_hole("hole", Duration::from_secs(4), short);
    let Some(tally) = tally else { return };
    let kinds: Vec<_> = tally.causes().into_iter().map(io_kind).collect();
    assert!(kinds.contains(&Some(io::ErrorKind::TimedOut)), "{kinds:?}");
    let failed: Vec<_> = tally.failures.iter().map(io_kind).collect();
    assert!(failed.contains(&Some(io::ErrorKind::TimedOut)), "{failed:?}");
}

/// The outage is longer than all default limits of the manager and the pool.
#[test]
fn faults_black_hole_with_default_limits() {
    let set = std::env::var("FAIRPOOL_HOLE_MS").ok().and_then(|n| n.parse().ok());
    black_hole("default hole", millis(set.unwrap_or(12_000)), |manager| manager);
}

fn black_hole(
    name: &'static str,
    outage: Duration,
    limits: impl Fn(Manager) -> Manager,
) -> Option<Tally> {
    let network = match Network::make() {
        Ok(network) => network,
        Err(why) => {
            println!("no network namespace ({why}): a proxy holds the link instead");
            held_in_silence(name, outage);
            return None;
        }
    };
    let cluster = Cluster::start_inside(network.name(), &network.inside(), &[]);
    // The server must detect dead clients too: its default is two hours.
    let manager = limits(manager(cluster.config(), name))
        .session_setting("tcp_keepalives_idle", "1")
        .session_setting("tcp_keepalives_interval", "1")
        .session_setting("tcp_keepalives_count", "2");
    let pool = full_pool(manager);
    let load = Load::start(&pool, A_WHILE);
    network.swallow();
    let lost = Instant::now();
    thread::sleep(outage);
    let until = Instant::now();
    network.pass();
    let end = Instant::now();
    let full = load.await_full(end);
    let tally = load.stop();
    tally.report(&format!("{name} of {outage:?}"), full);
    tally.assert_explained(name, lost, until);
    assert_none_left(&cluster, pool, name);
    Some(tally)
}

#[test]
fn faults_link_slowed() {
    const NAME: &str = "slow";
    let proxy = Proxy::start(shared().port());
    let pool = full_pool(manager(through(&proxy), NAME));
    let load = Load::start(&pool, A_WHILE);
    // An open now takes longer than its limit, a check does not.
    proxy.set(Flow::Slow { delay: millis(100), bytes_per_second: 20_000 });
    thread::sleep(millis(3000)); // the fault
    proxy.set(Flow::Pass);
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report(NAME, full);
    assert_eq!(tally.failures.len(), 0, "{:?}", tally.failures);
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.closed.total()), (u64::from(SIZE), 0), "{stats:?}");
    assert_none_left(shared(), pool, NAME);
}

#[test]
fn faults_link_slowed_while_connections_are_opened() {
    const NAME: &str = "slow opens";
    let proxy = Proxy::start(shared().port());
    let pool = full_pool(manager(through(&proxy), NAME));
    let load = Load::start(&pool, A_WHILE);
    proxy.set_new(Flow::Slow { delay: millis(200), bytes_per_second: 20_000 });
    proxy.set_existing(Flow::Reset);
    let cut = Instant::now();
    let full = load.await_full(cut);
    proxy.set(Flow::Pass);
    let tally = load.stop();
    tally.report(NAME, full);
    assert_none_left(shared(), pool, NAME);
}

#[test]
fn faults_cut_in_the_middle_of_a_result() {
    const NAME: &str = "half a result";
    let proxy = Proxy::start(shared().port());
    let pool = full_pool(manager(through(&proxy), NAME));
    let load = Load::start(&pool, "SELECT repeat('x', 100000), pg_sleep(0.005)");
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        proxy.set_existing(Flow::CutAfter(50_000));
        slowest = slowest.max(load.await_full(Instant::now()));
    }
    let tally = load.stop();
    tally.report("cut in mid-result, slowest of 5", slowest);
    let failed = tally.failures.len();
    assert!(failed >= 5 * SIZE as usize / 2, "{failed} queries failed");
    assert!(tally.failures.iter().all(|e| e.is_closed() || io_kind(e).is_some()));
    assert_none_left(shared(), pool, NAME);
}

// ---- a server that is silent, full, or refuses ----

/// Connections are reset, and new ones are accepted and never answered.
#[test]
fn faults_server_accepts_and_stays_silent() {
    const NAME: &str = "silent";
    let proxy = Proxy::start(shared().port());
    let pool = full_pool(manager(through(&proxy), NAME));
    let load = Load::start(&pool, A_WHILE);
    proxy.set_new(Flow::Hold);
    proxy.set_existing(Flow::Reset);
    let cut = Instant::now();
    // Longer than the pool waits for an open.
    thread::sleep(millis(7000));
    let until = Instant::now();
    proxy.set(Flow::Pass);
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report(NAME, full);
    tally.assert_explained(NAME, cut, until);
    assert_none_left(shared(), pool, NAME);
}

#[test]
fn faults_server_frozen() {
    const NAME: &str = "frozen";
    let cluster = Cluster::start();
    let pool = full_pool(manager(cluster.config(), NAME));
    let load = Load::start(&pool, A_WHILE);
    let frozen = cluster.freeze();
    let since = Instant::now();
    thread::sleep(millis(3000)); // the fault
    let until = Instant::now();
    drop(frozen);
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report(NAME, full);
    tally.assert_explained(NAME, since, until);
    assert_none_left(&cluster, pool, NAME);
}

#[test]
fn faults_max_connections_reached_by_others() {
    const NAME: &str = "crowded out";
    let cluster =
        Cluster::start_with(&[("max_connections", "12"), ("superuser_reserved_connections", "0")]);
    let pool = full_pool(manager(cluster.config(), NAME));
    let load = Load::start(&pool, A_WHILE);
    // Others take the free places, and those of the pool's connections as they are killed.
    let session = || cluster.socket_config().connect(NoTls);
    let mut others: Vec<Client> = (0..4).map(|_| session().expect("room")).collect();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE application_name = 'crowded out'";
    wait_until("all places are taken", || {
        others[0].query(kill, &[]).expect("signals");
        while others.len() < 12 {
            match session() {
                Ok(one) => others.push(one),
                Err(_) => return false,
            }
        }
        true
    });
    let since = Instant::now();
    thread::sleep(millis(2000)); // the fault
    let until = Instant::now();
    drop(others);
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report("max_connections reached", full);
    tally.assert_explained("max_connections reached", since, until);
    let codes: Vec<_> = tally.causes().into_iter().map(postgres::Error::code).collect();
    assert!(codes.contains(&Some(&SqlState::TOO_MANY_CONNECTIONS)), "{codes:?}");
    assert_none_left(&cluster, pool, NAME);
}

#[test]
fn p9_password_changed_under_load_is_told_at_once_until_it_is_right_again() {
    const NAME: &str = "password";
    let cluster = Cluster::start();
    let pool = full_pool(manager(cluster.app_config(APP_PASSWORD), NAME));
    let load = Load::start(&pool, A_WHILE);
    cluster.psql(&format!("ALTER ROLE {APP_USER} PASSWORD 'another'"));
    thread::sleep(millis(200)); // open connections stay open
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE application_name = 'password'";
    cluster.psql(kill);
    wait_until("no connection is left", || pool.stats().open == 0);
    let since = Instant::now();
    thread::sleep(millis(2500)); // the fault
    let until = Instant::now();
    cluster.psql(&format!("ALTER ROLE {APP_USER} PASSWORD '{APP_PASSWORD}'"));
    let full = load.await_full(Instant::now());
    let tally = load.stop();
    tally.report("password changed", full);
    tally.assert_explained("password changed", since, until);
    let within = |refusal: &&Refusal| refusal.asked > since + millis(50) && refusal.asked < until;
    let refusals: Vec<&Refusal> = tally.refusals.iter().filter(within).collect();
    let waits = refusals.iter().map(|refusal| refusal.took);
    let longest = waits.max().expect("refusals");
    let at_once = |refusal: &&&Refusal| refusal.error.kind() == ErrorKind::Connect;
    let at_once = refusals.iter().filter(at_once).count();
    println!(
        "figure: password changed: refused after {:.1} ms at most; {at_once} of {} before their \
         timeout",
        longest.as_secs_f64() * 1e3,
        refusals.len()
    );
    // The others had short timeouts, which ended during an attempt.
    assert!(at_once * 10 > refusals.len() * 9, "{at_once} of {}", refusals.len());
    for refusal in refusals {
        let cause = refusal.error.source().and_then(|source| source.downcast_ref());
        let code = cause.and_then(postgres::Error::code);
        assert_eq!(code, Some(&SqlState::INVALID_PASSWORD), "{}", refusal.error);
    }
    assert!(longest < LATE, "refused after {longest:?}");
    assert_none_left(&cluster, pool, NAME);
}
