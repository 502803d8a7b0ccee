//! A pool on a PostgreSQL server under load, and its close.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::PooledConnection;
use fairpool_servers::cluster::Cluster;

use crate::common::{
    LONG, builder, millis, named, refused, session, sessions_named, shared, wait_until,
};

/// Samples in a loop how many sessions of a name the server has.
struct SessionSampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    total: u64,
    /// The most sessions at once.
    most: i64,
    /// The samples with more than expected, and for how long there were more without a
    /// break.
    excesses: u64,
    longest_excess: Duration,
}

impl SessionSampler {
    fn over(cluster: &'static Cluster, name: &'static str, expected: i64) -> SessionSampler {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut client = session(cluster);
        let thread = thread::spawn(move || {
            let mut seen = Samples::default();
            let mut as_expected = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let sessions = sessions_named(&mut client, name);
                seen.total += 1;
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
        SessionSampler { stop, thread }
    }

    fn stop(self) -> Samples {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().expect("no panic");
        assert!(seen.total > 20, "too few samples: {seen:?}");
        seen
    }
}

#[test]
fn thirty_two_threads_on_eight_connections_all_get_their_own_answers() {
    const ROUNDS: i64 = 150;
    let pool = builder().max_size(8).build(named("load")).unwrap();
    let sampler = SessionSampler::over(shared(), "load", 8);
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
    assert_eq!(sampler.stop().most, 8);
    let stats = pool.stats();
    assert_eq!(stats.gets, 32 * ROUNDS as u64);
    assert_eq!((stats.opened, stats.closed.total(), stats.timeouts), (8, 0, 0));
    assert_eq!((stats.in_use, stats.idle, stats.waiting), (0, 8, 0));
    assert!(stats.gets_waited > 0, "nobody waited: {stats}");
}

/// A pool of four opens and closes connections all the time. The server sees a session
/// for some milliseconds longer than the driver, since a close does not wait for the end
/// of the backend.
#[test]
fn p5_the_server_sees_more_than_max_size_only_while_backends_end() {
    let pool = builder()
        .max_size(4)
        .max_closers(2)
        .max_lifetime(Some(millis(50)))
        .build(named("churn"))
        .unwrap();
    let sampler = SessionSampler::over(shared(), "churn", 4);
    let end = Instant::now() + Duration::from_secs(2);
    let work = |worker: usize| {
        for n in worker.. {
            if Instant::now() > end {
                return;
            }
            let mut conn = pool.get().expect("a connection");
            conn.query_one("SELECT 1", &[]).expect("an answer");
            if n % 211 == 0 {
                PooledConnection::discard(conn);
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..16 {
            scope.spawn(move || work(worker));
        }
    });
    let seen = sampler.stop();
    let stats = pool.stats();
    println!("churn of {} connections: {seen:?}", stats.opened);
    assert!(stats.closed.broken > 10 && stats.closed.expired > 10, "{stats:?}");
    // On a busy server each connection may have a predecessor whose backend has not ended.
    assert!(seen.most <= 2 * 4, "{seen:?}");
    assert!(seen.longest_excess < millis(500), "{seen:?}");
}

#[test]
fn close_leaves_nothing_on_the_server() {
    let pool = builder().max_size(6).build(named("close")).unwrap();
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
    println!("{report}; the server's sessions ended {took:.1?} later");
}

#[test]
fn dropping_the_pool_leaves_nothing_on_the_server() {
    let pool = builder().max_size(3).build(named("drop")).unwrap();
    let mut admin = session(shared());
    assert_eq!(sessions_named(&mut admin, "drop"), 3);
    drop(pool);
    wait_until("none is left", || sessions_named(&mut admin, "drop") == 0);
}
