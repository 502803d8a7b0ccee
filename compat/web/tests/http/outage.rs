//! PostgreSQL stops, and comes back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use fairpool_servers::cluster::Cluster;
use postgres::{Client, NoTls};

use crate::service::{Program, Service, new_database, until};

/// What the clients have seen so far.
#[derive(Default)]
struct Seen {
    /// Orders with a number.
    added: AtomicU64,
    /// Orders of which the client does not know whether they were written.
    refused: AtomicU64,
    longest_millis: AtomicU64,
}

/// It begins with an outage: a service that starts without its database.
pub fn p18_in_an_outage_answers_are_503_at_once_and_after_it_all_is_served_again(program: Program) {
    let cluster = Cluster::start();
    let url = new_database(&cluster);
    cluster.stop();
    let service = Service::start(program, &url);
    assert_eq!(service.get("/ready").status, 503);
    service.get("/orders/1").assert_unavailable();
    cluster.start_again();
    until("it is ready", || service.get("/ready").status == 200);
    let failed = || service.metric("fairpool_failed_total{");
    let failed_before = failed();

    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    seen.order(&service);
                }
            });
        }
        let stop = StopAtEnd(&stop);
        seen.wait_for_more(&seen.added, 100);
        cluster.stop();
        until("it is not ready", || service.get("/ready").status == 503);
        until("it fails fast", || failed() > failed_before);
        seen.wait_for_more(&seen.refused, 200);
        cluster.start_again();
        until("it is ready again", || service.get("/ready").status == 200);
        seen.wait_for_more(&seen.added, 100);
        drop(stop);
    });
    let longest = Duration::from_millis(seen.longest_millis.load(Relaxed));
    let counts = (&seen.added, &seen.refused);
    println!("{}: {counts:?} added and refused, the longest took {longest:?}", program.0);
    // A wait for a connection takes a second, one for the end of a statement up to twenty.
    assert!(longest < Duration::from_secs(15), "{longest:?}");
    // All is as before: no request fails any more.
    let mut in_a_row = 0;
    until("all is served", || {
        in_a_row = if seen.order(&service) { in_a_row + 1 } else { 0 };
        in_a_row == 20
    });
    // What was confirmed is there. What was refused is not, unless the connection was lost before
    // the answer.
    let rows = Client::connect(&url, NoTls)
        .and_then(|mut client| client.query_one("SELECT count(*) FROM orders", &[]))
        .map(|row| row.get::<_, i64>(0) as u64)
        .expect("a number");
    let (added, refused) = (seen.added.into_inner(), seen.refused.into_inner());
    assert!((added..=added + refused).contains(&rows), "{added} and {refused} make {rows}");
}

impl Seen {
    /// Makes an order. Returns whether that was possible.
    fn order(&self, service: &Service) -> bool {
        let answer = service.post("tea");
        self.longest_millis.fetch_max(answer.took.as_millis() as u64, Relaxed);
        let is_added = answer.is(201);
        let count = if is_added { &self.added } else { &self.refused };
        count.fetch_add(1, Relaxed);
        if !is_added {
            thread::sleep(Duration::from_millis(10));
        }
        is_added
    }

    fn wait_for_more(&self, count: &AtomicU64, more: u64) {
        let before = count.load(Relaxed);
        until("enough answers", || count.load(Relaxed) >= before + more);
    }
}

/// Lets the clients end, also if the test has failed.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
