//! Twenty pools of eight, and their server restarts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CustomizeConnection, Pool};
use fairpool_postgres::Client;
use fairpool_postgres::postgres::{self, NoTls};
use fairpool_servers::cluster::Cluster;

use crate::common::{LONG, Manager, millis, wait_until};

const POOLS: usize = 20;
const CALLERS: usize = 8;
/// Enough for all.
const MAX_CONNECTIONS: usize = 170;
const BIN: Duration = millis(100);

/// A connect takes as long as over a network, with TLS.
#[derive(Debug)]
struct FarAway;

impl CustomizeConnection<Client, postgres::Error> for FarAway {
    fn on_acquire(&self, conn: &mut Client) -> Result<(), postgres::Error> {
        conn.batch_execute("SELECT pg_sleep(0.05)")
    }
}

/// What all pools did together.
#[derive(Clone, Copy, Default)]
struct Sum {
    opened: u64,
    failed: u64,
    opening: u64,
}

fn sum(pools: &[Pool<Manager>]) -> Sum {
    pools.iter().map(Pool::stats).fold(Sum::default(), |sum, stats| Sum {
        opened: sum.opened + stats.opened,
        failed: sum.failed + stats.open_failures,
        opening: sum.opening + u64::from(stats.opening),
    })
}

/// Gets, uses and returns connections until the end. Notes when each get was served and for
/// how long it had waited.
fn call(pool: &Pool<Manager>, stop: &AtomicBool, waits: &Mutex<Vec<(Instant, Duration)>>) {
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut conn = pool.get_timeout(LONG).expect("nobody is refused");
        waits.lock().unwrap().push((Instant::now(), begun.elapsed()));
        // Fails when the server is stopped.
        let _ = conn.simple_query("SELECT pg_sleep(0.002)");
        drop(conn);
        thread::sleep(millis(150));
    }
}

#[test]
fn after_a_restart_twenty_pools_of_eight_serve_all_their_callers_again() {
    let connections = MAX_CONNECTIONS.to_string();
    let cluster = Cluster::start_with(&[
        ("max_connections", &connections),
        ("superuser_reserved_connections", "0"),
    ]);
    let pools: Vec<_> = (0..POOLS)
        .map(|number| {
            let settings = Pool::builder().name(format!("pool {number}")).max_size(8);
            let settings = settings.min_idle(Some(1)).idle_timeout(None);
            let settings = settings.connection_customizer(Box::new(FarAway));
            settings.build(Manager::new(cluster.config(), NoTls)).unwrap()
        })
        .collect();
    let (stop, waits) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for pool in &pools {
            (0..CALLERS).for_each(|_| drop(scope.spawn(|| call(pool, &stop, &waits))));
        }
        thread::sleep(millis(1000));
        cluster.stop_at_once();
        let all_wait = || pools.iter().all(|pool| pool.stats().waiting == CALLERS as u32);
        wait_until("all callers wait", all_wait);
        let before = sum(&pools);
        let started = Instant::now();
        cluster.start_again();
        let mut most_opening = 0;
        let mut bins: Vec<(u64, u64)> = Vec::new();
        let mut last = before;
        while started.elapsed() < millis(4000) {
            thread::sleep(millis(5));
            let now = sum(&pools);
            most_opening = most_opening.max(now.opening);
            let bin = (started.elapsed().as_millis() / BIN.as_millis()) as usize;
            bins.resize(bins.len().max(bin + 1), (0, 0));
            bins[bin].0 += now.opened - last.opened;
            bins[bin].1 += now.failed - last.failed;
            last = now;
        }
        stop.store(true, Ordering::Relaxed);
        let served = pools.iter().all(|pool| pool.stats().waiting < CALLERS as u32);
        assert!(served, "a pool serves nobody");
        let waits = waits.lock().unwrap();
        let first = waits.iter().map(|(at, _)| *at).filter(|at| *at > started).min();
        let slow = waits.iter().filter(|(at, waited)| *at > started && *waited > millis(200));
        let last_slow = slow.map(|(at, _)| *at).max();
        let since = |at: Option<Instant>| at.map(|at| at.duration_since(started));
        println!("opened and failed in each 100 ms: {bins:?}");
        println!(
            "figure: 20 pools of 8 after a restart: at most {most_opening} connects at once, \
             {} opened, {} failed; the first get after {:.1?}, the last slow one after {:.1?}",
            last.opened - before.opened,
            last.failed - before.failed,
            since(first).unwrap_or_default(),
            since(last_slow).unwrap_or_default(),
        );
    });
}
