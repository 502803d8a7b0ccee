//! Connections to a real PostgreSQL server whose close hangs, since their link
//! has become a black hole, while 16 threads go on with others.
//!
//! ```sh
//! cargo test --test postgres_close -- --nocapture | grep figure
//! ```

#![cfg(feature = "postgres")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/netns.rs"]
mod netns;
#[path = "support/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster::Cluster;
use fairpool_postgres::postgres::{self, Client, Config};
use fairpool_postgres::{NoTls, PostgresConnectionManager};
use fairpool::{ManageConnection, Pool, PooledConnection};
use netns::Network;
use proxy::{Flow, Proxy};

type Manager = PostgresConnectionManager<NoTls>;

const THREADS: usize = 16;
/// How many connections are in use, and how many are being closed.
const EACH: u32 = 8;
const ROUNDS: usize = 3;
/// Of one measurement; the closes hang as long.
const SPAN: Duration = Duration::from_secs(3);
/// Only a watchdog.
const LONG: Duration = Duration::from_secs(60);

/// Two ways to the same server.
struct Ways {
    /// Through the file system: always open.
    near: Manager,
    /// Over a link that can be lost.
    far: Manager,
    takes_far: Arc<AtomicBool>,
}

impl ManageConnection for Ways {
    type Connection = Client;
    type Error = postgres::Error;

    fn connect(&self) -> Result<Client, postgres::Error> {
        match self.takes_far.load(Ordering::SeqCst) {
            true => self.far.connect(),
            false => self.near.connect(),
        }
    }

    fn is_valid(&self, client: &mut Client) -> Result<(), postgres::Error> {
        self.near.is_valid(client)
    }

    fn has_broken(&self, client: &mut Client) -> bool {
        self.near.has_broken(client)
    }
}

/// A link that can lose everything that it is given.
enum Hole {
    Network(Network),
    Proxy(Proxy),
}

impl Hole {
    fn dig() -> (Cluster, Config, Hole) {
        match Network::make() {
            Ok(network) => {
                let cluster = Cluster::start_inside(network.name(), &network.inside(), &[]);
                let far = cluster.config();
                (cluster, far, Hole::Network(network))
            }
            Err(why) => {
                println!("no network of our own ({why}): a proxy holds what it is given instead");
                let cluster = Cluster::start();
                let proxy = Proxy::start(cluster.port());
                let mut far = Config::new();
                far.host("127.0.0.1").port(proxy.port()).user("postgres").dbname("postgres");
                (cluster, far, Hole::Proxy(proxy))
            }
        }
    }

    fn swallow(&self) {
        match self {
            Hole::Network(network) => network.swallow(),
            Hole::Proxy(proxy) => proxy.set(Flow::Hold),
        }
    }

    fn pass(&self) {
        match self {
            Hole::Network(network) => network.pass(),
            Hole::Proxy(proxy) => proxy.set(Flow::Pass),
        }
    }
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < LONG, "not in {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Gets, queries and returns with all threads for a while. Returns what each
/// get took, in order.
fn load(pool: &Pool<Ways>) -> Vec<Duration> {
    let end = Instant::now() + SPAN;
    let work = || {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let asked = Instant::now();
            let mut client = pool.get_timeout(LONG).expect("a connection");
            waits.push(asked.elapsed());
            client.simple_query("SELECT 1").expect("an answer");
        }
        waits
    };
    let mut waits = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a load")).collect::<Vec<_>>()
    });
    waits.sort_unstable();
    waits
}

fn percentile_99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

/// Leaves [`EACH`] connections that are well, and as many whose close hangs.
fn lose_some(pool: &Pool<Ways>, takes_far: &AtomicBool, hole: &Hole) {
    takes_far.store(true, Ordering::SeqCst);
    pool.set_max_size(2 * EACH).expect("a legal size");
    let mut all: Vec<_> =
        (0..2 * EACH).map(|_| pool.get_timeout(LONG).expect("a connection")).collect();
    // This also leaves an answer outstanding, which the driver's close awaits.
    let is_far = |client: &mut PooledConnection<Ways>| {
        let row = client.query_one("SELECT inet_server_addr() IS NOT NULL", &[]);
        row.expect("a row").get::<_, bool>(0)
    };
    let far: Vec<bool> = all.iter_mut().map(is_far).collect();
    takes_far.store(false, Ordering::SeqCst);
    hole.swallow();
    let mut lost = 0;
    for (client, far) in all.drain(..).zip(far) {
        if far {
            lost += 1;
            PooledConnection::discard(client);
        }
    }
    assert_eq!(lost, EACH, "connections over the link");
}

/// As many connections are in use with and without: those whose close hangs
/// count until it ends.
#[test]
fn p7_closes_that_hang_in_a_black_hole_delay_nobody() {
    let (cluster, far, hole) = Hole::dig();
    let takes_far = Arc::new(AtomicBool::new(false));
    let ways = Ways {
        near: Manager::new(cluster.socket_config(), NoTls),
        far: Manager::new(far, NoTls),
        takes_far: Arc::clone(&takes_far),
    };
    let pool = Pool::builder().max_size(EACH).connection_timeout(LONG).build(ways);
    let pool = pool.expect("a full pool");
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let without = percentile_99(&load(&pool));

        lose_some(&pool, &takes_far, &hole);
        assert_eq!((pool.stats().open, pool.stats().closing), (EACH, EACH));
        let waits = load(&pool);
        let stats = pool.stats();
        assert_eq!((stats.open, stats.closing), (EACH, EACH), "they hang: {stats}");
        hole.pass();
        let with = percentile_99(&waits);

        let ratio = with.as_secs_f64() / without.as_secs_f64();
        println!("round {round}: p99 of get {without:.2?} without, {with:.2?} with 8 hung closes");
        ratios.push(ratio);
        wait_until("the closes end", || pool.stats().closing == 0);
        pool.set_max_size(EACH).expect("a legal size");
        wait_until("the size is as before", || {
            let stats = pool.stats();
            (stats.open, stats.closing, stats.opening) == (EACH, 0, 0)
        });
    }
    ratios.sort_unstable_by(f64::total_cmp);
    println!(
        "figure: 8 closes hang in a black hole: p99 of get {:.2} times that without (median of \
         {ROUNDS}, {:.2} to {:.2})",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
    );
    let report = pool.close(Instant::now() + LONG);
    assert!(report.is_complete(), "{report}");
    drop(cluster);
}
