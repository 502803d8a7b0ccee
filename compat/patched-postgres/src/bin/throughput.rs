//! How many `SELECT 1` threads make through r2d2's API on a PostgreSQL server of its own: with
//! r2d2's defaults, with `test_on_check_out(true)`, and without checks. `scripts/patched
//! throughput` runs it on r2d2 and on the drop-in, in turn. Each measurement takes one second, or
//! as many as `ROUND_SECONDS` says.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool_servers::cluster::Cluster;
use r2d2_postgres::PostgresConnectionManager;
use r2d2_postgres::postgres::{Client, NoTls};

fn main() {
    let seconds = std::env::var("ROUND_SECONDS").unwrap_or_else(|_| "1".to_string());
    let round = seconds.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let round = round
        .filter(|round| !round.is_zero())
        .unwrap_or_else(|| panic!("ROUND_SECONDS must be a positive number, not {seconds:?}"));
    // A server that is there already serves several runs.
    let own = std::env::var("POSTGRES_URL").err().map(|_| Cluster::start());
    let url = own.as_ref().map_or_else(|| std::env::var("POSTGRES_URL").unwrap(), Cluster::url);
    let settings = [("defaults", None), ("each checked", Some(true)), ("unchecked", Some(false))];
    let cells = [(1, 1), (8, 8), (32, 8)].map(|cell| settings.map(|setting| (cell, setting)));
    for ((threads, size), (name, checks)) in cells.into_iter().flatten() {
        let config = url.parse().expect("a URL");
        let manager = PostgresConnectionManager::new(config, NoTls);
        let mut builder = r2d2::Pool::builder().max_size(size);
        if let Some(checks) = checks {
            builder = builder.test_on_check_out(checks);
        }
        let pool = builder.build(manager).expect("a pool");
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let mut conn = pool.get().expect("a connection");
                        let client: &mut Client = &mut conn;
                        client.simple_query("SELECT 1").expect("an answer");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(round);
            stop.store(true, Ordering::Relaxed);
        });
        let rate = done.into_inner() as f64 / begun.elapsed().as_secs_f64();
        println!("{threads:2} threads, {size} connections, {name}: {rate:.0} queries/s");
    }
}
