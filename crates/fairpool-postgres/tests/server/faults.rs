//! A pool on a PostgreSQL server that is killed, cut off, silent, slow, full or out of
//! reach, while 16 threads keep asking for connections.

mod load;

use std::error::Error as _;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, Pool};
use fairpool_postgres::Client;
use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::{self, Config};
use fairpool_servers::cluster::{APP_PASSWORD, APP_USER, Cluster};
use fairpool_servers::netns::Network;
use fairpool_servers::proxy::{Flow, Proxy};

use self::load::{Load, Refusal, Tally};
use crate::common::{LONG, Manager, builder, millis, sessions_named, shared, through, wait_until};

const SIZE: u32 = 8;
/// The usual query.
const A_WHILE: &str = "SELECT pg_sleep(0.005)";

fn manager(config: Config, name: &str) -> Manager {
    Manager::new(config, NoTls).application_name(name)
}

/// A pool with all settings at their defaults, which is full.
fn full_pool(manager: Manager) -> Pool<Manager> {
    builder().max_size(SIZE).build(manager).expect("a full pool")
}

fn io_kind(error: &postgres::Error) -> Option<io::ErrorKind> {
    Some(error.source()?.downcast_ref::<io::Error>()?.kind())
}

/// Checks that the server has exactly the pool's connections, and none after the pool is
/// closed.
fn assert_none_left(cluster: &Cluster, pool: Pool<Manager>, name: &str) {
    let admin = cluster.socket_config().connect(NoTls).expect("a session");
    let mut admin = Client::from(admin);
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
    let mut others: Vec<postgres::Client> = (0..4).map(|_| session().expect("room")).collect();
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
fn p9_password_changed_under_load_is_reported_until_it_is_right_again() {
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
    let says_why = |refusal: &&Refusal| {
        format!("{:#}", refusal.error).contains("password authentication failed")
    };
    // On a busy machine the first connect takes a while to fail.
    let known = tally.refusals.iter().filter(says_why).map(|it| it.asked + it.took).min();
    let known = known.expect("nobody was told why").max(since);
    let within = |it: &&Refusal| it.asked > known && it.asked + it.took < until;
    let refusals: Vec<&Refusal> = tally.refusals.iter().filter(within).collect();
    assert!(!refusals.is_empty(), "nobody was refused");
    for Refusal { error, .. } in refusals {
        // A rotation passes, so nobody is refused before its deadline.
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(format!("{error:#}").contains("password authentication failed"), "{error}");
        let cause = error.source().and_then(|source| source.downcast_ref());
        let code = cause.and_then(postgres::Error::code);
        // The error of a caller with little time names the last error, of before its wait.
        assert!(cause.is_none() || code == Some(&SqlState::INVALID_PASSWORD), "{error}");
    }
    assert_none_left(&cluster, pool, NAME);
}
