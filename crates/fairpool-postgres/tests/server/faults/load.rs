//! Threads that use a pool while a fault lasts, and what they experience.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::{Error, Pool, PooledConnection};
use fairpool_postgres::postgres;

use crate::common::{Manager, millis, wait_until};

const THREADS: usize = 16;
/// How late a get may return before a test fails, beside what the machine makes late: threads
/// that only sleep tell that. A get may meet it twice, as it wakes and as it waits for a lock
/// whose holder was interrupted.
const LATE: Duration = Duration::from_millis(500);
/// How long the pool may take to be full again before a test fails. The goal is two
/// seconds.
const RECOVERY: Duration = Duration::from_secs(10);
/// A caller that has waited this long in a fault is given the reason. Before that, a
/// connect that hangs is not known to be slow.
const LONG_ENOUGH: Duration = Duration::from_millis(290);

/// So early in a fault, some holders do not know of it yet.
const EARLY: Duration = Duration::from_secs(1);

/// Threads that get a connection and query in a loop, with changing time limits.
pub(super) struct Load {
    pool: Pool<Manager>,
    stop: Arc<AtomicBool>,
    /// By connection id: when the last answered query began.
    answers: Arc<Mutex<HashMap<u64, Instant>>>,
    threads: Vec<JoinHandle<Tally>>,
    /// Each returns by how much it woke too late, at most.
    sleepers: Vec<JoinHandle<Duration>>,
}

/// The results of a load.
#[derive(Default)]
pub(super) struct Tally {
    gets: usize,
    /// By how much a get exceeded its limit, at most.
    overshoot: Duration,
    /// The same of threads that only sleep.
    overslept: Duration,
    pub(super) refusals: Vec<Refusal>,
    pub(super) failures: Vec<postgres::Error>,
}

pub(super) struct Refusal {
    pub(super) asked: Instant,
    pub(super) took: Duration,
    pub(super) error: Error,
}

impl Load {
    pub(super) fn start(pool: &Pool<Manager>, sql: &'static str) -> Load {
        let limits = [20, 100, 300, 1500].map(millis);
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
        let sleep = |number: usize| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut overslept = Duration::ZERO;
                for limit in limits.into_iter().cycle().skip(number % 4) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let began = Instant::now();
                    thread::sleep(limit);
                    overslept = overslept.max(began.elapsed().saturating_sub(limit));
                }
                overslept
            })
        };
        let threads = (0..THREADS).map(work).collect();
        let sleepers = (0..THREADS).map(sleep).collect();
        let load = Load { pool: pool.clone(), stop, answers, threads, sleepers };
        load.await_full(Instant::now());
        load
    }

    /// Waits until the pool is full and each connection has answered a query that began
    /// after `since`. Returns how long after `since` that was.
    pub(super) fn await_full(&self, since: Instant) -> Duration {
        let size = self.pool.max_size();
        let is_full = || {
            let answers = self.answers.lock().unwrap();
            let healthy = answers.values().filter(|&&began| began > since).count();
            healthy >= size as usize && self.pool.stats().open == size
        };
        wait_until("the pool is full and healthy", is_full);
        since.elapsed()
    }

    pub(super) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for thread in self.threads {
            let one = thread.join().expect("no panic");
            all.gets += one.gets;
            all.overshoot = all.overshoot.max(one.overshoot);
            all.refusals.extend(one.refusals);
            all.failures.extend(one.failures);
        }
        for sleeper in self.sleepers {
            all.overslept = all.overslept.max(sleeper.join().expect("no panic"));
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
    pub(super) fn report(&self, what: &str, full_again: Duration) {
        println!(
            "figure: {what}: overshoot max {:.1} ms (of sleepers {:.1} ms), full again after {:.2} s; {} gets, {} \
             refused, {} queries failed",
            self.overshoot.as_secs_f64() * 1e3,
            self.overslept.as_secs_f64() * 1e3,
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
        let (late, overslept) = (self.overshoot, self.overslept);
        assert!(late < LATE + 2 * overslept, "{what}: {late:?} late, and sleepers {overslept:?}");
        assert!(full_again < RECOVERY, "{what}: full again after {full_again:?}");
    }

    /// The driver's errors that refused callers got as the cause.
    pub(super) fn causes(&self) -> Vec<&postgres::Error> {
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
    /// that it hung. Early in the fault the holders may have found out just now, and connects
    /// may have begun since.
    pub(super) fn assert_explained(&self, what: &str, since: Instant, until: Instant) {
        let is_explained = |error: &Error| {
            let text = error.to_string();
            let reasons = ["last error", "held longest by", "so far", "hung driver calls"];
            error.source().is_some() || reasons.iter().any(|reason| text.contains(reason))
        };
        let has_just_begun = |refusal: &Refusal| {
            let text = refusal.error.to_string();
            refusal.asked < since + EARLY
                && text.contains(" 0 in use")
                && !text.contains(" 0 opening")
        };
        let relevant: Vec<&Refusal> = self
            .refusals
            .iter()
            .filter(|refusal| refusal.asked > since && refusal.asked + refusal.took < until)
            .filter(|refusal| refusal.took >= LONG_ENOUGH)
            .collect();
        let unexplained: Vec<&&Refusal> = relevant
            .iter()
            .filter(|refusal| !is_explained(&refusal.error) && !has_just_begun(refusal))
            .collect();
        let counts = format!("{} of {} without a reason", unexplained.len(), relevant.len());
        println!("{what}: refused in the fault: {counts}");
        if let Some(one) = unexplained.first() {
            panic!("{what}: {counts}: {}", one.error);
        }
    }
}
