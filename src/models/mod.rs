//! Models of the runtime: small programs of a few threads. `loom` runs them in every
//! order that their locks allow, up to a number of preemptions. `shuttle` runs them, and
//! larger ones, in random orders. `scripts/models` does both.
//!
//! A model runs the real code of the runtime and the core, but the executor starts no reaper and no
//! workers: threads of the model take their places. Models that are about something else have one
//! thread for all of these, [`run_executor`]. Each pool has an executor of its own, unless a model
//! gives it one. Time passes only when a model advances it.
//!
//! The checker finds deadlocks, so a model fails if a caller without a deadline is never
//! woken. The other checks are in [`Bench::end`] and in the outcomes that each model
//! lists: `loom` must meet all of them, `shuttle` no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex as Plain;
use std::time::Duration;

use crate::api::builder::Builder;
use crate::api::guard::PooledConnection;
use crate::api::pool::Pool;
use crate::core::{Gauges, Reason};
use crate::runtime::conn::CloseMutex;
use crate::runtime::executor::{Executor, WORKER_IDLE_TIMEOUT};
use crate::runtime::shared::Shared;
use crate::runtime::threads::Work;
use crate::sync::checker::thread::{self, JoinHandle};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, PlainOrdering, advance, asleep, instant};
use crate::types::cancel::CancelToken;
use crate::types::config::{Config, Fairness, SelfDeadlock};
use crate::types::error::Error;
use crate::types::event::EventKind;
use crate::types::handler::{HandleUse, UseContext};
use crate::types::manage::ManageConnection;
use crate::types::subscription::Subscription;

#[cfg(fairpool_model = "shuttle")]
mod crowd;
#[cfg(fairpool_model = "loom")]
#[path = "by_loom.rs"]
mod run;
#[cfg(fairpool_model = "shuttle")]
#[path = "by_shuttle.rs"]
mod run;
#[cfg(fairpool_model = "shuttle")]
mod surroundings;
mod tasks;

use run::explore;

const MAX: Duration = Duration::MAX;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// ---- the bench ----

/// A driver that counts its calls, and fails a given number of times.
#[derive(Default)]
struct Driver {
    ledger: Arc<Ledger>,
    permanent: bool,
    /// Callers make their checks themselves.
    trusted: bool,
}

/// Read only after all threads have ended, so it need not be modelled.
#[derive(Default)]
struct Ledger {
    failures_left: AtomicU64,
    /// Failures of checks that are left.
    invalid_left: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
}

struct Wire(Arc<Ledger>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreachable")
    }
}

impl std::error::Error for Unreachable {}

fn fails(left: &AtomicU64) -> Result<(), Unreachable> {
    let now = left.load(Ordering::Relaxed);
    left.store(now.saturating_sub(1), Ordering::Relaxed);
    if now == 0 { Ok(()) } else { Err(Unreachable) }
}

impl ManageConnection for Driver {
    type Connection = Wire;
    type Error = Unreachable;

    fn connect(&self) -> Result<Wire, Unreachable> {
        fails(&self.ledger.failures_left)?;
        self.ledger.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Wire(Arc::clone(&self.ledger)))
    }

    fn is_valid(&self, _: &mut Wire) -> Result<(), Unreachable> {
        fails(&self.ledger.invalid_left)
    }

    fn has_broken(&self, _: &mut Wire) -> bool {
        false
    }

    fn is_permanent(&self, _: &Unreachable) -> bool {
        self.permanent
    }

    fn checks_within_limit(&self) -> bool {
        self.trusted
    }
}

type Guard = PooledConnection<Driver>;

/// One pool in one execution of a model.
struct Bench {
    pool: Pool<Driver>,
    shared: Arc<Shared<Driver>>,
    ledger: Arc<Ledger>,
}

/// At most one connection, opened on demand; strictly first come, first served; nothing
/// expires and nothing is checked; the last handle does not wait.
fn settings() -> Builder<Driver> {
    Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .fairness(Fairness::Strict)
        .test_on_check_out(false)
        .max_lifetime(None)
        .lifetime_jitter(0.0)
        .idle_timeout(None)
        .drop_timeout(Duration::ZERO)
}

impl Bench {
    fn new(settings: Builder<Driver>) -> Bench {
        Bench::with(settings, Driver::default())
    }

    fn with(settings: Builder<Driver>, driver: Driver) -> Bench {
        Bench::of(settings.config().expect("legal settings"), driver)
    }

    fn of(config: Config<Driver>, driver: Driver) -> Bench {
        Bench::at(config, driver, Executor::of_this_process())
    }

    /// A pool that shares its executor.
    fn beside(settings: Builder<Driver>, executor: Arc<Executor>) -> Bench {
        Bench::at(settings.config().expect("legal settings"), Driver::default(), executor)
    }

    fn at(mut config: Config<Driver>, driver: Driver, executor: Arc<Executor>) -> Bench {
        let ledger = Arc::clone(&driver.ledger);
        // So that an execution can be repeated.
        config.policy.seed = 1;
        let pool = Pool::start_with(config, driver, executor);
        Bench { shared: Arc::clone(&pool.shared), pool, ledger }
    }

    /// A pool with this many idle connections.
    fn filled(settings: Builder<Driver>, connections: u32) -> Bench {
        Bench::filled_with(settings, Driver::default(), connections)
    }

    fn filled_with(settings: Builder<Driver>, driver: Driver, connections: u32) -> Bench {
        let bench = Bench::with(settings.min_idle(Some(connections)), driver);
        work(&bench.shared);
        bench.pool.set_min_idle(Some(0)).expect("a legal size");
        assert_eq!(bench.pool.state().idle_connections, connections);
        bench
    }

    /// A pool with its one connection in use.
    fn held(settings: Builder<Driver>) -> (Bench, Guard) {
        let bench = Bench::filled(settings, 1);
        let held = bench.pool.get_timeout(Duration::ZERO).expect("an idle connection");
        (bench, held)
    }

    /// Spawns a thread that gets a connection and drops it; its result is the outcome.
    fn caller(&self, timeout: Duration) -> JoinHandle<String> {
        let pool = self.pool.clone();
        thread::spawn(move || outcome(pool.get_timeout(timeout)))
    }

    /// As [`caller`](Bench::caller); when this returns, the thread sleeps in the queue. Its
    /// way there is not explored.
    fn queued(&self, timeout: Duration) -> JoinHandle<String> {
        self.until_queued(|| self.caller(timeout))
    }

    fn until_queued(&self, start: impl FnOnce() -> JoinHandle<String>) -> JoinHandle<String> {
        let before = asleep();
        run::stop_exploring();
        let caller = start();
        while asleep() == before {
            thread::yield_now();
        }
        run::resume_exploring();
        caller
    }

    /// Spawns a thread that does the work of the pool's threads until the pool ends.
    fn executor(&self) -> JoinHandle<()> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || run_executor(&shared, false))
    }

    /// As [`executor`](Bench::executor), with the reaper.
    fn executor_with_reaper(&self) -> JoinHandle<()> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || run_executor(&shared, true))
    }

    fn gauges(&self) -> Gauges {
        self.shared.gauges()
    }

    /// All callers have ended; an executor may still run. The queue is empty and nothing is
    /// lost, neither while the pool is open nor after its last handle is dropped.
    fn end(self, executor: Option<JoinHandle<()>>) {
        run::stop_exploring();
        let has_executor = executor.is_some();
        work(&self.shared);
        let gauges = self.gauges();
        assert_eq!((gauges.waiting, gauges.busy), (0, 0), "{gauges:?}");
        if !has_executor {
            let calls = (gauges.opening, gauges.checking, gauges.closing);
            assert_eq!(calls, (0, 0, 0), "{gauges:?}");
            let open = count(&self.ledger.opened) - count(&self.ledger.closed);
            assert_eq!(u64::from(gauges.idle), open, "{gauges:?}");
        }
        let Bench { pool, shared, ledger } = self;
        drop(pool);
        work(&shared);
        if let Some(executor) = executor {
            executor.join().expect("the executor");
        }
        ended(shared, &ledger);
    }
}

/// The pool has no handle and no thread any more: all that it had must be gone.
fn ended(shared: Arc<Shared<Driver>>, ledger: &Ledger) {
    work(&shared);
    let gauges = shared.gauges();
    assert!(shared.with_core(|core| core.is_drained()), "{gauges:?}");
    assert!(shared.executor.wait_until_done(Some(instant())), "the executor has work left");
    let (opened, closed) = (count(&ledger.opened), count(&ledger.closed));
    assert_eq!(opened, closed, "each connection is closed, and once");
    let stats = shared.stats();
    assert_eq!((stats.opened, stats.closed.total()), (opened, closed), "{stats:?}");
    assert_eq!(Arc::strong_count(&shared), 1, "somebody still refers to the pool");
}

fn count(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

/// Runs the jobs for which there was no worker.
fn work(shared: &Arc<Shared<Driver>>) {
    let executor = &shared.executor.inner;
    loop {
        let next = executor.scheduler.lock().take_next();
        let Some(Work { pool, job }) = next else { return };
        job();
        let mut scheduler = executor.scheduler.lock();
        if scheduler.job_ended(pool) {
            executor.notify_ended(scheduler);
        }
    }
}

/// The work of an executor on one thread: the jobs, and the reaper's if `reaps`. Ends with the
/// pool.
fn run_executor(shared: &Arc<Shared<Driver>>, reaps: bool) {
    let executor = &shared.executor.inner;
    assert!(executor.claim_reaper());
    executor.reaper_started(true);
    loop {
        work(shared);
        let Some(all) = executor.sleep() else { return };
        for due in all {
            if reaps || due.has_ended {
                executor.run_pool(due);
            } else {
                executor.put_back(due.number, Some((due.timers, None)));
            }
        }
    }
}

/// Spawns a worker, which ends with the pool.
fn worker(bench: &Bench) -> JoinHandle<()> {
    let executor = Arc::clone(&bench.shared.executor.inner);
    executor.scheduler.lock().threads.workers += 1;
    thread::spawn(move || executor.run_worker(None))
}

/// Spawns the reaper, which ends with the last pool.
fn reaper(executor: &Arc<Executor>) -> JoinHandle<()> {
    let executor = Arc::clone(executor);
    thread::spawn(move || executor.run_reaper())
}

/// Spawns a thread that gets a connection and drops it; its result is the connection's id.
fn getter(bench: &Bench) -> JoinHandle<u64> {
    let pool = bench.pool.clone();
    thread::spawn(move || id(&pool.get_timeout(MAX).expect("a connection")))
}

fn id(conn: &Guard) -> u64 {
    PooledConnection::info(conn).id
}

fn which(got: u64, old: u64) -> String {
    if got == old { "the old one" } else { "a new one" }.to_string()
}

fn outcome(got: Result<Guard, Error>) -> String {
    match got {
        Ok(_) => "granted".to_string(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

// ---- hand-offs ----

/// A connection is returned while its next caller enqueues, waits, or meets its deadline.
#[test]
fn p4_hand_off_against_timeout() {
    explore("hand-off against timeout", 4, &["granted", "Timeout"], || {
        let (bench, held) = Bench::held(settings());
        let caller = bench.caller(ms(10));
        let clock = thread::spawn(|| advance(ms(10)));
        drop(held);
        clock.join().expect("the clock");
        let outcome = caller.join().expect("the caller");
        bench.end(None);
        outcome
    });
}

/// A connection is returned at the deadline of the first of two waiters: the first or the
/// second gets it.
#[test]
fn p4_a_hand_off_that_the_first_waiter_leaves_goes_to_the_next() {
    let outcomes = ["granted, granted", "Timeout, granted"];
    explore("hand-off to two, of whom the first times out", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings());
        let first = bench.queued(ms(10));
        let second = bench.queued(MAX);
        let clock = thread::spawn(|| advance(ms(10)));
        drop(held);
        clock.join().expect("the clock");
        let first = first.join().expect("the first");
        let second = second.join().expect("the second");
        bench.end(None);
        format!("{first}, {second}")
    });
}

/// A connection is returned while its next caller enqueues, waits, or is cancelled.
#[test]
fn p4_hand_off_against_cancel() {
    explore("hand-off against cancel", 5, &["granted", "Cancelled"], || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let caller = cancellable(&bench, &token);
        let canceller = thread::spawn(move || token.cancel());
        drop(held);
        canceller.join().expect("the canceller");
        let outcome = caller.join().expect("the caller");
        bench.end(None);
        outcome
    });
}

fn cancellable(bench: &Bench, token: &CancelToken) -> JoinHandle<String> {
    let (pool, token) = (bench.pool.clone(), token.clone());
    thread::spawn(move || outcome(pool.request().cancel(&token).timeout(MAX).get()))
}

/// A connection is returned while its next caller enqueues or waits, and the pool is
/// closed.
#[test]
fn p4_hand_off_against_close() {
    explore("hand-off against close", 5, &["granted", "Closed"], || {
        let (bench, held) = Bench::held(settings());
        let caller = bench.caller(MAX);
        let closer = {
            let pool = bench.pool.clone();
            thread::spawn(move || drop(pool.close(instant())))
        };
        drop(held);
        closer.join().expect("the closer");
        let outcome = caller.join().expect("the caller");
        bench.end(None);
        outcome
    });
}

/// A connection is returned during a refresh, while a caller comes: it gets the old
/// connection or a new one.
#[test]
fn p3_hand_off_against_refresh() {
    explore("hand-off against refresh", 2, &["the old one", "a new one"], || {
        let (bench, held) = Bench::held(settings());
        let old = id(&held);
        let executor = bench.executor();
        let caller = getter(&bench);
        let refresher = {
            let pool = bench.pool.clone();
            thread::spawn(move || pool.refresh())
        };
        drop(held);
        refresher.join().expect("the refresher");
        let got = caller.join().expect("the caller");
        bench.end(Some(executor));
        which(got, old)
    });
}

/// Two threads return two connections while two callers come.
#[test]
fn p3_two_returns_to_two_callers() {
    explore("two returns to two callers", 3, &["granted, granted"], || {
        let bench = Bench::filled(settings().max_size(2), 2);
        let one = bench.pool.get_timeout(Duration::ZERO).expect("an idle connection");
        let other = bench.pool.get_timeout(Duration::ZERO).expect("an idle connection");
        let first = bench.caller(MAX);
        let second = bench.caller(MAX);
        let returner = thread::spawn(move || drop(one));
        drop(other);
        returner.join().expect("the returner");
        let first = first.join().expect("the first");
        let second = second.join().expect("the second");
        bench.end(None);
        format!("{first}, {second}")
    });
}

// ---- who is next ----

type Served = Arc<Plain<Vec<&'static str>>>;

/// Spawns a thread that gets a connection and records that it was served.
fn noted(bench: &Bench, served: &Served, name: &'static str) -> JoinHandle<String> {
    let (pool, served) = (bench.pool.clone(), Arc::clone(served));
    thread::spawn(move || {
        let got = pool.get_timeout(MAX).expect("a connection");
        served.lock().expect("no thread panics here").push(name);
        outcome(Ok(got))
    })
}

/// As [`noted`]; when this returns, the thread waits in the queue.
fn noted_queued(bench: &Bench, served: &Served, name: &'static str) -> JoinHandle<String> {
    bench.until_queued(|| noted(bench, served, name))
}

fn send(served: &Served) -> String {
    served.lock().expect("no thread panics here").join(", ")
}

/// Two wait; a third comes while the connection is returned. Under strict fairness they
/// are served in order of arrival.
#[test]
fn p2_strictly_first_in_first_out() {
    let outcomes = ["first, second, newcomer"];
    explore("two waiters and a newcomer, strictly fair", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings());
        let served = Served::default();
        let first = noted_queued(&bench, &served, "first");
        let second = noted_queued(&bench, &served, "second");
        let newcomer = noted(&bench, &served, "newcomer");
        drop(held);
        for thread in [first, second, newcomer] {
            thread.join().expect("a caller");
        }
        bench.end(None);
        send(&served)
    });
}

/// One waits and may be overtaken up to the bound. A newcomer comes, and returns what it
/// got, while the connection is returned and the bound is reached. A newcomer after the
/// bound does not overtake.
#[test]
fn p2_nobody_is_overtaken_past_the_bound() {
    let outcomes = ["early: newcomer, waiter", "early: waiter, newcomer", "late: waiter, newcomer"];
    explore("overtaking against its bound", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings().fairness(Fairness::Bounded(ms(5))));
        let served = Served::default();
        let waiter = noted_queued(&bench, &served, "waiter");
        let past_bound = instant() + ms(5);
        let newcomer = {
            let (pool, served) = (bench.pool.clone(), Arc::clone(&served));
            thread::spawn(move || {
                let late = instant() >= past_bound;
                let got = pool.get_timeout(MAX).expect("a connection");
                served.lock().expect("no thread panics here").push("newcomer");
                drop(got);
                late
            })
        };
        let clock = thread::spawn(|| advance(ms(5)));
        drop(held);
        clock.join().expect("the clock");
        waiter.join().expect("the waiter");
        let late = newcomer.join().expect("the newcomer");
        bench.end(None);
        format!("{}: {}", if late { "late" } else { "early" }, send(&served))
    });
}

/// Two wait, a return nudges the first, and a newcomer takes and returns the connection
/// meanwhile: both are served, though no time passes.
#[test]
fn p3_a_nudge_that_comes_to_nothing_is_repeated() {
    let outcomes =
        ["first, newcomer, second", "first, second, newcomer", "newcomer, first, second"];
    explore("nudge against newcomer", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings().fairness(Fairness::Bounded(ms(5))));
        let served = Served::default();
        let first = noted_queued(&bench, &served, "first");
        let second = noted_queued(&bench, &served, "second");
        let newcomer = noted(&bench, &served, "newcomer");
        drop(held);
        for thread in [first, second, newcomer] {
            thread.join().expect("a caller");
        }
        bench.end(None);
        send(&served)
    });
}

/// The nudged waiter is only about to sleep, so its wake-up reaches a later sleep: that
/// does not end its wait.
#[test]
fn p3_a_late_wake_up_ends_no_wait() {
    explore("late wake-up against newcomer", 4, &["granted, granted"], || {
        let (bench, held) = Bench::held(settings().fairness(Fairness::Bounded(ms(5))));
        let waiter = bench.caller(MAX);
        let newcomer = bench.caller(MAX);
        drop(held);
        let waiter = waiter.join().expect("the waiter");
        let newcomer = newcomer.join().expect("the newcomer");
        bench.end(None);
        format!("{waiter}, {newcomer}")
    });
}

/// The nudged waiter meets its deadline, or is slow, while a second waits without one:
/// the connection does not stay idle beside it.
#[test]
fn p3_a_nudge_to_one_who_leaves_is_passed_on() {
    let outcomes = ["granted, granted", "Timeout, granted"];
    explore("nudge against timeout", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings().fairness(Fairness::Bounded(ms(50))));
        let first = bench.queued(ms(10));
        let second = bench.queued(MAX);
        let clock = thread::spawn(|| advance(ms(10)));
        drop(held);
        clock.join().expect("the clock");
        let first = first.join().expect("the first");
        let second = second.join().expect("the second");
        bench.end(None);
        format!("{first}, {second}")
    });
}

/// Two connections are returned, and then the second of two waiters meets its deadline.
/// The first was nudged and may be slow; the second gets its connection nevertheless.
#[test]
fn p3_a_slow_first_does_not_cost_the_second_its_connection() {
    explore("slow first against the second's deadline", 3, &["granted, granted"], || {
        let settings = settings().max_size(2).fairness(Fairness::Bounded(ms(50)));
        let bench = Bench::filled(settings, 2);
        let one = bench.pool.get_timeout(Duration::ZERO).expect("an idle connection");
        let other = bench.pool.get_timeout(Duration::ZERO).expect("an idle connection");
        let first = bench.queued(MAX);
        let second = bench.queued(ms(10));
        drop(one);
        drop(other);
        advance(ms(10));
        let first = first.join().expect("the first");
        let second = second.join().expect("the second");
        bench.end(None);
        format!("{first}, {second}")
    });
}

// ---- cancelling ----

/// A token is cancelled before, while and after a wait registers with it. Its
/// connection is never returned, so nothing else ends the wait.
#[test]
fn p4_cancel_against_registration() {
    explore("cancel against registration", 8, &["Cancelled"], || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let caller = cancellable(&bench, &token);
        token.cancel();
        let outcome = caller.join().expect("the caller");
        assert_eq!(bench.gauges().waiting, 0);
        drop(held);
        bench.end(None);
        outcome
    });
}

/// Two threads cancel one wait.
#[test]
fn p4_two_cancels_of_one_wait() {
    explore("two cancels of one wait", 8, &["Cancelled"], || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let caller = bench.until_queued(|| cancellable(&bench, &token));
        let canceller = {
            let token = token.clone();
            thread::spawn(move || token.cancel())
        };
        token.cancel();
        canceller.join().expect("the canceller");
        let outcome = caller.join().expect("the caller");
        drop(held);
        bench.end(None);
        outcome
    });
}

/// When `cancel` returns, the waiter has left the queue, either cancelled or granted the
/// connection that is returned meanwhile.
#[test]
fn p4_a_cancelled_wait_has_left_the_queue() {
    explore("cancel of one who waits", 5, &["granted", "Cancelled"], || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let caller = bench.until_queued(|| cancellable(&bench, &token));
        let canceller = {
            let (pool, token) = (bench.pool.clone(), token.clone());
            thread::spawn(move || {
                token.cancel();
                pool.stats().waiting
            })
        };
        drop(held);
        assert_eq!(canceller.join().expect("the canceller"), 0);
        let outcome = caller.join().expect("the caller");
        bench.end(None);
        outcome
    });
}

// ---- opening ----

/// A connection is opened for a caller that meets its deadline.
#[test]
fn p4_open_against_timeout() {
    explore("open against timeout", 2, &["granted", "Timeout"], || {
        let bench = Bench::new(settings());
        let executor = bench.executor();
        let caller = bench.caller(ms(10));
        let clock = thread::spawn(|| advance(ms(10)));
        clock.join().expect("the clock");
        let outcome = caller.join().expect("the caller");
        bench.end(Some(executor));
        outcome
    });
}

/// The only connection is checked for a caller that meets its deadline.
#[test]
fn p4_check_against_timeout() {
    explore("check against timeout", 2, &["granted", "Timeout"], || {
        let bench = Bench::filled(settings().test_on_check_out(true), 1);
        let executor = bench.executor();
        let caller = bench.caller(ms(10));
        advance(ms(10));
        let outcome = caller.join().expect("the caller");
        bench.end(Some(executor));
        outcome
    });
}

/// Begins each use, and ends it.
#[derive(Debug)]
struct Uses;

impl HandleUse<Wire, Unreachable> for Uses {
    fn begin(&self, _: &mut Wire, _: &UseContext) -> Result<(), Unreachable> {
        Ok(())
    }
}

/// The use of a caller that meets its deadline begins.
#[test]
fn p4_a_use_that_begins_against_timeout() {
    explore("a use that begins against timeout", 2, &["granted", "Timeout"], || {
        let bench = Bench::filled(settings().use_handler(Box::new(Uses)), 1);
        let executor = bench.executor();
        let caller = bench.caller(ms(10));
        advance(ms(10));
        let outcome = caller.join().expect("the caller");
        bench.end(Some(executor));
        outcome
    });
}

/// Two callers and one connection on which their uses begin and end, one after the other.
#[test]
fn p3_uses_of_two_callers_begin_and_end() {
    explore("uses of two callers begin and end", 1, &["granted, granted"], || {
        let bench = Bench::filled(settings().use_handler(Box::new(Uses)), 1);
        let executor = bench.executor();
        let other = bench.caller(MAX);
        let own = outcome(bench.pool.get_timeout(MAX));
        let other = other.join().expect("the other caller");
        bench.end(Some(executor));
        format!("{own}, {other}")
    });
}

/// Two callers and one connection, which one of them checks itself while the other waits, or
/// they check it one after the other.
#[test]
fn p4_a_check_of_a_callers_own() {
    check_of_a_callers_own("a check of a caller's own", 0);
}

/// The check that fails is ended by a worker.
#[test]
fn p4_a_check_of_a_callers_own_that_fails() {
    check_of_a_callers_own("a check of a caller's own that fails", 1);
}

fn check_of_a_callers_own(name: &str, invalid: u64) {
    explore(name, 2, &["granted, granted"], move || {
        let driver = Driver { trusted: true, ..Driver::default() };
        driver.ledger.invalid_left.store(invalid, Ordering::Relaxed);
        let bench = Bench::filled_with(settings().test_on_check_out(true), driver, 1);
        let executor = bench.executor();
        let other = bench.caller(MAX);
        let own = outcome(bench.pool.get_timeout(MAX));
        let other = other.join().expect("the other caller");
        bench.end(Some(executor));
        format!("{own}, {other}")
    });
}

/// The pool is closed while a caller makes its own check.
#[test]
fn p4_a_check_of_a_callers_own_against_close() {
    explore("a check of a caller's own against close", 3, &["granted", "Closed"], || {
        let driver = Driver { trusted: true, ..Driver::default() };
        let bench = Bench::filled_with(settings().test_on_check_out(true), driver, 1);
        let caller = bench.caller(MAX);
        let closer = {
            let pool = bench.pool.clone();
            thread::spawn(move || drop(pool.close(instant())))
        };
        closer.join().expect("the closer");
        let outcome = caller.join().expect("the caller");
        bench.end(None);
        outcome
    });
}

/// The only connection is detached while a caller comes: another is opened for it.
#[test]
fn p3_detach_against_waiter() {
    explore("detach against waiter", 3, &["a new one"], || {
        let (bench, held) = Bench::held(settings());
        let old = id(&held);
        let executor = bench.executor();
        let caller = getter(&bench);
        drop(PooledConnection::detach(held));
        let got = caller.join().expect("the caller");
        bench.end(Some(executor));
        which(got, old)
    });
}

/// Connecting fails once, and succeeds when it is retried.
#[test]
fn p3_a_failed_open_is_tried_again() {
    explore("failed open against waiter", 3, &["granted"], || {
        let driver = Driver::default();
        driver.ledger.failures_left.store(1, Ordering::Relaxed);
        let bench = Bench::with(settings(), driver);
        let executor = bench.executor_with_reaper();
        let caller = bench.caller(MAX);
        bench.shared.wait_for(None, |core| core.counters().open_failures == 1);
        advance(ms(2000)); // longer than any backoff
        let outcome = caller.join().expect("the caller");
        bench.end(Some(executor));
        outcome
    });
}

/// Connecting fails permanently while the caller meets its deadline.
#[test]
fn p9_a_permanent_failure_against_timeout() {
    explore("permanent failure against timeout", 3, &["Connect", "Timeout"], || {
        let driver = Driver { permanent: true, ..Driver::default() };
        driver.ledger.failures_left.store(u64::MAX, Ordering::Relaxed);
        let bench = Bench::with(settings(), driver);
        let executor = bench.executor();
        let caller = bench.caller(ms(10));
        advance(ms(10));
        let outcome = caller.join().expect("the caller");
        bench.end(Some(executor));
        outcome
    });
}

// ---- self-deadlocks ----

/// Two threads hold all connections, and each asks for one more: one of them gets the
/// error, unless the other was done before.
#[test]
fn p9_two_holders_that_wait_for_each_other() {
    let outcomes = ["granted, granted", "SelfDeadlock, granted", "granted, SelfDeadlock"];
    explore("two holders that wait for each other", 3, &outcomes, || {
        let at_once = SelfDeadlock::Fail(Duration::ZERO);
        let bench = Bench::filled(settings().max_size(2).on_self_deadlock(at_once), 2);
        let [one, other] = [nested(&bench), nested(&bench)];
        let one = one.join().expect("the one");
        let other = other.join().expect("the other");
        bench.end(None);
        format!("{one}, {other}")
    });
}

fn nested(bench: &Bench) -> JoinHandle<String> {
    let pool = bench.pool.clone();
    thread::spawn(move || {
        let held = pool.get_timeout(MAX).expect("one for each");
        let _: &Wire = &held;
        outcome(pool.get_timeout(MAX))
    })
}

/// A thread gave its connection to another, which used it: whether that returns it before
/// or after the first asks for one more, this is no deadlock.
#[test]
fn p9_a_guard_that_another_thread_uses() {
    explore("a guard that another thread uses", 6, &["granted"], || {
        let at_once = SelfDeadlock::Fail(Duration::ZERO);
        let bench = Bench::filled(settings().on_self_deadlock(at_once), 1);
        let held = bench.pool.get_timeout(Duration::ZERO).expect("an idle connection");
        let _: &Wire = &held;
        let used = Arc::new(AtomicBool::new(false));
        let user = thread::spawn({
            let used = Arc::clone(&used);
            move || {
                let _: &Wire = &held;
                used.store(true, Ordering::Release);
            }
        });
        while !used.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let outcome = outcome(bench.pool.get_timeout(MAX));
        user.join().expect("the user");
        bench.end(None);
        outcome
    });
}

// ---- subscriptions ----

/// A get with this label, for subscribers to see.
fn get_by_name(pool: &Pool<Driver>, name: &'static str) {
    drop(pool.request().label(name).timeout(MAX).get().expect("a connection"));
}

/// The events of the one get with this label. All events must be consistent: none is lost,
/// every connection goes on from its last state, and no get begins or ends twice.
fn told_of(events: &Subscription, name: &str) -> String {
    let (mut places, mut begun, mut ended) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut told = Vec::new();
    for event in events.try_iter() {
        assert_eq!(event.lost_before, 0, "there is room for all");
        let (call_site, what) = match event.kind {
            EventKind::Moved { slot, from, to, .. } => {
                let before = places.insert(slot, to).unwrap_or(from);
                assert_eq!(before, from, "P7: a step to {to:?} is missing");
                continue;
            }
            EventKind::Enqueued { get_id, call_site } => {
                let is_new = !ended.contains(&get_id) && begun.insert(get_id);
                // A task that was polled too late to have what it was granted is back.
                let is_back = !is_new && call_site.thread_id() == 0 && ended.remove(&get_id);
                assert!(is_new || is_back, "get {get_id} begins twice");
                (call_site, "enqueued")
            }
            EventKind::CheckedOut { get_id, call_site, .. } => {
                assert!(ended.insert(get_id), "get {get_id} ends twice");
                (call_site, "checked out")
            }
            EventKind::GetFailed { get_id, call_site, .. } => {
                assert!(ended.insert(get_id), "get {get_id} ends twice");
                (call_site, "failed")
            }
            _ => continue,
        };
        if call_site.label() == Some(name) {
            told.push(what);
        }
    }
    told.join(", ")
}

/// A thread subscribes and then gets a connection, during a hand-off: all are served, and
/// each step of its get is delivered once, whichever thread delivers it.
#[test]
fn p3_a_subscription_begins_during_a_hand_off() {
    let outcomes = ["checked out", "enqueued, checked out"];
    explore("the beginning of a subscription", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings());
        let listener = {
            let pool = bench.pool.clone();
            thread::spawn(move || {
                let events = pool.subscribe(100).expect("a legal capacity");
                get_by_name(&pool, "the listener");
                events
            })
        };
        let caller = bench.caller(MAX);
        drop(held);
        bench.shared.deliver_events();
        assert_eq!(caller.join().expect("the caller"), "granted");
        let events = listener.join().expect("the listener");
        bench.shared.deliver_events();
        let told = told_of(&events, "the listener");
        bench.end(None);
        told
    });
}

/// The last subscriber goes during a hand-off: all are served, and nothing is noted any
/// more.
#[test]
fn p3_a_subscription_ends_during_a_hand_off() {
    explore("the end of a subscription", 3, &["granted, granted"], || {
        let (bench, held) = Bench::held(settings());
        let events = bench.pool.subscribe(100).expect("a legal capacity");
        let one = bench.queued(MAX);
        let other = bench.caller(MAX);
        let listener = {
            let shared = Arc::clone(&bench.shared);
            thread::spawn(move || {
                drop(events);
                shared.deliver_events();
            })
        };
        drop(held);
        listener.join().expect("the listener");
        let one = one.join().expect("the one");
        let other = other.join().expect("the other");
        bench.shared.deliver_events();
        assert!(!bench.shared.observed.load(PlainOrdering::Relaxed), "nobody listens");
        let noted = bench.shared.with_core(|core| core.swap_events(None));
        assert!(noted.is_none(), "noted for nobody");
        bench.end(None);
        format!("{one}, {other}")
    });
}

// ---- the passing of time ----

/// An idle connection is taken and returned while the reaper runs, when its idle timeout
/// has passed: it is used, or closed and replaced.
#[test]
fn p7_return_against_reaper() {
    explore("return against reaper", 3, &["the old one", "a new one"], || {
        let (bench, held) = Bench::held(settings().idle_timeout(Some(ms(10))));
        let old = id(&held);
        drop(held);
        let executor = bench.executor();
        let caller = getter(&bench);
        advance(ms(10));
        bench.shared.transition(|core, fx| core.tick(fx));
        let got = caller.join().expect("the caller");
        bench.end(Some(executor));
        which(got, old)
    });
}

/// A connection is returned shortly before its lifetime ends, while the reaper sleeps
/// without a plan: it is closed in time, though nothing else happens.
#[test]
fn p3_the_reaper_hears_of_an_earlier_end() {
    explore("return against the reaper's sleep", 4, &["closed"], || {
        let (bench, held) = Bench::held(settings().max_lifetime(Some(ms(10))));
        let reaper = bench.executor_with_reaper();
        drop(held);
        advance(ms(10));
        bench.shared.wait_for(None, |core| {
            core.counters().closed[Reason::Expired as usize] > 0 && core.gauges().closing == 0
        });
        bench.end(Some(reaper));
        "closed".to_string()
    });
}

/// The real reaper, with nothing to do, meets the end of the pool.
#[test]
fn p11_the_reaper_hears_of_the_end() {
    explore("the reaper's sleep against the end", 8, &["ended"], || {
        let bench = Bench::new(settings());
        assert!(bench.shared.executor.inner.claim_reaper());
        let reaper = reaper(&bench.shared.executor.inner);
        bench.pool.set_max_size(2).expect("a legal size");
        drop(bench.pool.close(instant()));
        reaper.join().expect("the reaper");
        bench.end(None);
        "ended".to_string()
    });
}

// ---- the end ----

/// The last handle is dropped while the last connection is returned.
#[test]
fn p11_last_handle_against_return() {
    explore("last handle against return", 8, &["closed"], || {
        let (bench, held) = Bench::held(settings());
        let Bench { pool, shared, ledger } = bench;
        let returner = thread::spawn(move || drop(held));
        drop(pool);
        returner.join().expect("the returner");
        ended(shared, &ledger);
        "closed".to_string()
    });
}

/// Two handles, one of them the last, are dropped, each after a get.
#[test]
fn p11_two_last_handles() {
    explore("two last handles", 8, &["granted, granted"], || {
        let Bench { pool, shared, ledger } = Bench::filled(settings(), 1);
        let getter = |pool: Pool<Driver>| {
            move || {
                let outcome = outcome(pool.get_timeout(MAX));
                // A separate step, so that the other thread may run before it.
                pool.state();
                drop(pool);
                outcome
            }
        };
        let other = thread::spawn(getter(pool.clone()));
        let one = getter(pool)();
        let other = other.join().expect("the other");
        ended(shared, &ledger);
        format!("{one}, {other}")
    });
}

/// The last handle waits for the closes of two idle connections. It has no other deadline than
/// the last of them, so it would sleep for ever if that did not wake it.
#[test]
fn p6_the_last_handle_against_the_last_close() {
    explore("last handle against last close", 3, &["2 closed"], || {
        let waits = settings().max_size(2).drop_timeout(MAX);
        let bench = Bench::filled(waits, 2);
        let executor = bench.executor();
        let Bench { pool, shared, ledger } = bench;
        drop(pool);
        let closed = count(&ledger.closed);
        executor.join().expect("the executor");
        ended(shared, &ledger);
        format!("{closed} closed")
    });
}

/// The last handle does not wait for a holder, who only returns after the drop; but for one who
/// returns right before, it waits.
#[test]
fn p6_the_last_handle_against_a_holder() {
    let to_meet = ["0 closed", "1 closed"];
    explore("last handle against a holder", 3, &to_meet, || {
        let (bench, held) = Bench::held(settings().drop_timeout(MAX));
        let executor = bench.executor();
        let returner = thread::spawn(move || drop(held));
        let Bench { pool, shared, ledger } = bench;
        drop(pool);
        let closed = count(&ledger.closed);
        returner.join().expect("the returner");
        executor.join().expect("the executor");
        ended(shared, &ledger);
        format!("{closed} closed")
    });
}

/// The last handle meets its timeout while the last close ends.
#[test]
fn p6_the_last_handle_against_its_timeout() {
    explore("last handle against its timeout", 2, &["0 closed", "1 closed"], || {
        let bench = Bench::filled(settings().drop_timeout(ms(10)), 1);
        let executor = bench.executor();
        let clock = thread::spawn(|| advance(ms(10)));
        let Bench { pool, shared, ledger } = bench;
        drop(pool);
        let closed = count(&ledger.closed);
        clock.join().expect("the clock");
        executor.join().expect("the executor");
        ended(shared, &ledger);
        format!("{closed} closed")
    });
}

/// `close` waits for a holder, for the close of its connection and for the end of the
/// thread that closes it.
#[test]
fn p11_close_waits_for_holders_and_threads() {
    explore("close against return", 3, &["complete"], || {
        let (bench, held) = Bench::held(settings());
        let worker = worker(&bench);
        let returner = thread::spawn(move || drop(held));
        let report = bench.pool.close(instant() + ms(1000));
        assert!(report.is_complete(), "{report}");
        returner.join().expect("the returner");
        worker.join().expect("the worker");
        bench.end(None);
        "complete".to_string()
    });
}

/// `close` meets its deadline meanwhile: its report is true.
#[test]
fn p11_close_against_its_deadline() {
    explore("close against its deadline", 2, &["complete", "not complete"], || {
        let bench = Bench::filled(settings(), 1);
        let worker = worker(&bench);
        let clock = thread::spawn(|| advance(ms(10)));
        let report = bench.pool.close(instant() + ms(10));
        clock.join().expect("the clock");
        worker.join().expect("the worker");
        bench.end(None);
        if report.is_complete() { "complete" } else { "not complete" }.to_string()
    });
}

/// Two threads close one pool: both wait until it has ended.
#[test]
fn p11_two_who_close() {
    explore("two who close", 2, &["complete"], || {
        let bench = Bench::filled(settings(), 1);
        let worker = worker(&bench);
        let close = |pool: Pool<Driver>| {
            move || {
                let report = pool.close(instant() + ms(1000));
                assert!(report.is_complete(), "{report}");
            }
        };
        let other = thread::spawn(close(bench.pool.clone()));
        close(bench.pool.clone())();
        other.join().expect("the other");
        worker.join().expect("the worker");
        bench.end(None);
        "complete".to_string()
    });
}

// ---- one executor for several pools ----

/// An idle worker has rested for long and leaves while a job comes: the job is not lost.
#[test]
fn p3_a_job_against_the_end_of_a_workers_rest() {
    let outcomes = ["done by the worker", "left for another"];
    explore("a job against the end of an idle worker", 4, &outcomes, || {
        let bench = Bench::new(settings());
        let worker = worker(&bench);
        let clock = thread::spawn(|| advance(WORKER_IDLE_TIMEOUT));
        let done = Arc::new(AtomicU64::new(0));
        let job = Arc::clone(&done);
        let _ =
            bench.shared.executor.submit(Box::new(move || _ = job.fetch_add(1, Ordering::Relaxed)));
        clock.join().expect("the clock");
        drop(bench.pool.close(instant()));
        let Bench { pool, shared, ledger } = bench;
        let left = worker_left(&shared, worker);
        drop(pool);
        ended(shared, &ledger);
        assert_eq!(count(&done), 1);
        if left { "left for another" } else { "done by the worker" }.to_string()
    });
}

/// Waits for the end of the worker. Whether a job was left, which is done now.
fn worker_left(shared: &Arc<Shared<Driver>>, worker: JoinHandle<()>) -> bool {
    // The worker ends with the last job of the pool. If it left before, this thread does that.
    let executor = &shared.executor.inner;
    let mut left = false;
    loop {
        let next = {
            let mut scheduler = executor.scheduler.lock();
            if scheduler.threads.workers == 0 { scheduler.take_next() } else { None }
        };
        match next {
            Some(Work { pool, job }) => {
                left = true;
                job();
                let mut scheduler = executor.scheduler.lock();
                if scheduler.job_ended(pool) {
                    executor.notify_ended(scheduler);
                }
            }
            None if executor.scheduler.lock().threads.workers == 0 => break,
            None => thread::yield_now(),
        }
    }
    worker.join().expect("the worker");
    left
}

/// The last pool ends, and with it the reaper, while another pool begins: that has a reaper,
/// the old one or a new one.
#[test]
fn p3_the_end_of_the_reaper_against_a_new_pool() {
    let outcomes = ["the old reaper", "a new reaper"];
    explore("the end of the reaper against a new pool", 3, &outcomes, || {
        let Bench { pool, shared, ledger } = Bench::new(settings());
        let executor = Arc::clone(&shared.executor.inner);
        assert!(executor.claim_reaper());
        let old = reaper(&executor);
        let closer = thread::spawn(move || drop(pool));
        let second = Bench::beside(settings(), Arc::clone(&executor));
        let is_new = executor.claim_reaper();
        let mut last = old;
        if is_new {
            let old = std::mem::replace(&mut last, reaper(&executor));
            old.join().expect("the old reaper");
        }
        closer.join().expect("the closer");
        second.end(Some(last));
        ended(shared, &ledger);
        if is_new { "a new reaper" } else { "the old reaper" }.to_string()
    });
}

/// The last pool is closed while another begins. The close does not wait for the worker, which
/// works for the other from then on.
#[test]
fn p11_the_last_close_against_a_new_pool() {
    explore("the last close against a new pool", 3, &["complete"], || {
        let first = Bench::new(settings());
        let executor = Arc::clone(&first.shared.executor.inner);
        let worker = worker(&first);
        let closer = {
            let pool = first.pool.clone();
            thread::spawn(move || pool.close(instant() + ms(1000)))
        };
        let second = Bench::beside(settings(), executor);
        let report = closer.join().expect("the closer");
        assert!(report.is_complete(), "{report}");
        let Bench { pool, shared, ledger } = first;
        drop(pool);
        second.end(None);
        worker.join().expect("the worker");
        ended(shared, &ledger);
        "complete".to_string()
    });
}

/// The last pool is closed while another begins. Only a reaper that has left is joined: one that
/// goes on for the other pool would be waited for until that ends.
#[test]
fn p11_the_joins_of_the_last_close_against_a_new_pool() {
    let outcomes = ["the reaper goes on", "the reaper has ended"];
    explore("the joins of the last close against a new pool", 3, &outcomes, || {
        let first = Bench::new(settings());
        let executor = Arc::clone(&first.shared.executor.inner);
        assert!(executor.claim_reaper());
        let body = Arc::clone(&executor);
        executor.spawn("reaper".to_string(), move || body.run_reaper()).expect("a thread");
        let closer = {
            let pool = first.pool.clone();
            thread::spawn(move || pool.close(instant() + ms(1000)))
        };
        let second = Bench::beside(settings(), Arc::clone(&executor));
        let report = closer.join().expect("the closer");
        assert!(report.is_complete(), "{report}");
        let Bench { pool, shared, ledger } = first;
        drop(pool);
        let reaper = executor.scheduler.lock().threads.handles.pop();
        let goes_on = reaper.is_some();
        second.end(reaper);
        ended(shared, &ledger);
        if goes_on { "the reaper goes on" } else { "the reaper has ended" }.to_string()
    });
}

/// Two pools share a worker, and both have a caller: both are served.
#[test]
fn p3_two_pools_share_a_worker() {
    explore("two pools share a worker", 2, &["granted, granted"], || {
        let first = Bench::new(settings());
        let second = Bench::beside(settings(), Arc::clone(&first.shared.executor.inner));
        let worker = worker(&first);
        let caller = first.caller(MAX);
        let other = outcome(second.pool.get_timeout(MAX));
        let one = caller.join().expect("the caller");
        let (Bench { pool, .. }, Bench { pool: others, .. }) = (first, second);
        drop((pool, others));
        worker.join().expect("the worker");
        format!("{one}, {other}")
    });
}

// ---- the close mutex ----

/// Of three closers of one connection, one closes.
#[test]
fn p7_three_closers_at_the_close_mutex() {
    explore("three closers at the close mutex", 8, &["1"], || {
        let mutex = Arc::new(CloseMutex::default());
        let closer = |mutex: Arc<CloseMutex>| {
            move || {
                let first = mutex.begin();
                if first {
                    mutex.finish();
                    mutex.bury();
                }
                u32::from(first)
            }
        };
        let others = [(); 2].map(|()| thread::spawn(closer(Arc::clone(&mutex))));
        let mut closed = closer(Arc::clone(&mutex))();
        for other in others {
            closed += other.join().expect("a closer");
        }
        assert!(!mutex.begin(), "a dead connection is not closed again");
        closed.to_string()
    });
}
