//! Connections to a PostgreSQL server whose close hangs, because their link is a black
//! hole, while 16 threads use others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ManageConnection, Pool, PooledConnection};
use fairpool_postgres::Client;
use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::{self, Config};
use fairpool_servers::cluster::Cluster;
use fairpool_servers::netns::Network;
use fairpool_servers::proxy::{Flow, Proxy};

use crate::common::{LONG, Manager, through, wait_until};

const THREADS: usize = 16;
/// How many connections are in use, and how many are being closed.
const EACH: u32 = 8;
const ROUNDS: usize = 3;
/// How long one measurement takes, during which the closes hang.
const SPAN: Duration = Duration::from_secs(3);
/// Two routes to the same server.
struct Routes {
    /// Through a Unix socket: never lost.
    near: Manager,
    /// Over a link that can be lost.
    far: Manager,
    takes_far: Arc<AtomicBool>,
}

impl ManageConnection for Routes {
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

/// A link that can lose everything.
enum Link {
    Network(Network),
    Proxy(Proxy),
}

impl Link {
    fn make() -> (Cluster, Config, Link) {
        match Network::make() {
            Ok(network) => {
                let cluster = Cluster::start_inside(network.name(), &network.inside(), &[]);
                let far = cluster.config();
                (cluster, far, Link::Network(network))
            }
            Err(why) => {
                println!("no network namespace ({why}): a proxy holds the link instead");
                let cluster = Cluster::start();
                let proxy = Proxy::start(cluster.port());
                (cluster, through(&proxy), Link::Proxy(proxy))
            }
        }
    }

    fn swallow(&self) {
        match self {
            Link::Network(network) => network.swallow(),
            Link::Proxy(proxy) => proxy.set(Flow::Hold),
        }
    }

    fn pass(&self) {
        match self {
            Link::Network(network) => network.pass(),
            Link::Proxy(proxy) => proxy.set(Flow::Pass),
        }
    }
}

/// Gets, queries and returns with all threads for a while. Returns how long each get took,
/// sorted.
fn load(pool: &Pool<Routes>) -> Vec<Duration> {
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
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
    });
    waits.sort_unstable();
    waits
}

fn percentile_99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

/// Leaves [`EACH`] healthy connections, and as many whose close hangs.
fn lose_some(pool: &Pool<Routes>, takes_far: &AtomicBool, link: &Link) {
    takes_far.store(true, Ordering::SeqCst);
    pool.set_max_size(2 * EACH).expect("a legal size");
    let mut all: Vec<_> =
        (0..2 * EACH).map(|_| pool.get_timeout(LONG).expect("a connection")).collect();
    let is_far = |client: &mut PooledConnection<Routes>| {
        let row = client.query_one("SELECT inet_server_addr() IS NOT NULL", &[]);
        row.expect("a row").get::<_, bool>(0)
    };
    let far: Vec<bool> = all.iter_mut().map(is_far).collect();
    takes_far.store(false, Ordering::SeqCst);
    link.swallow();
    let mut lost = 0;
    for (client, far) in all.drain(..).zip(far) {
        if far {
            lost += 1;
            PooledConnection::discard(client);
        }
    }
    assert_eq!(lost, EACH, "connections over the link");
}

/// As many connections are in use with hung closes as without, because a connection counts
/// until its close ends.
#[test]
fn p7_closes_that_hang_in_a_black_hole_delay_nobody() {
    let (cluster, far, link) = Link::make();
    let takes_far = Arc::new(AtomicBool::new(false));
    let routes = Routes {
        near: Manager::new(cluster.socket_config(), NoTls),
        // A statement that is not kept leaves an answer outstanding, which the driver's close awaits.
        far: Manager::new(far, NoTls).statement_cache(0),
        takes_far: Arc::clone(&takes_far),
    };
    let pool = Pool::builder().max_size(EACH).connection_timeout(LONG).build(routes);
    let pool = pool.expect("a full pool");
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let without = percentile_99(&load(&pool));

        lose_some(&pool, &takes_far, &link);
        assert_eq!((pool.stats().open, pool.stats().closing), (EACH, EACH));
        let waits = load(&pool);
        let stats = pool.stats();
        assert_eq!((stats.open, stats.closing), (EACH, EACH), "they hang: {stats}");
        link.pass();
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
