//! A check on the thread of the caller that needs it, if the manager allows that.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{
    Builder, CancelToken, Fairness, HandleError, ManageConnection, Pool, PooledConnection,
};
use fairpool_testing::stub::{Gate, WATCHDOG, eventually, lock, silent_panic, watched};

use crate::support::{allowed_overshoot, ms, served, start_waiter, waiter};

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Passes,
    Fails,
    Panics,
    /// The server is silent: the check fails when its limit is over.
    Waits,
    /// It waits for ever, whatever it has promised.
    Hangs,
    /// The same, but the next passes.
    HangsOnce,
    FailsAtGate,
    /// As `Waits`, but it ends a little before its limit.
    WaitsAlmost,
}

/// A driver whose checks keep their limit.
struct Driver {
    check: Mutex<Check>,
    trusted: AtomicBool,
    /// The thread and the limit of each check.
    checks: Mutex<Vec<(String, Duration)>>,
    connects: AtomicUsize,
    connects_fail: AtomicBool,
    gate: Gate,
}

#[derive(Debug)]
struct Dead;

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dead")
    }
}

impl std::error::Error for Dead {}

#[derive(Clone)]
struct Manager(Arc<Driver>);

impl ManageConnection for Manager {
    type Connection = usize;
    type Error = Dead;

    fn connect(&self) -> Result<usize, Dead> {
        if self.0.connects_fail.load(Ordering::Relaxed) {
            return Err(Dead);
        }
        Ok(self.0.connects.fetch_add(1, Ordering::Relaxed))
    }

    fn is_valid(&self, _: &mut usize) -> Result<(), Dead> {
        panic!("the pool calls `is_valid_within`")
    }

    fn is_valid_within(&self, _: &mut usize, limit: Duration) -> Result<(), Dead> {
        lock(&self.0.checks).push((here(), limit));
        let check = *lock(&self.0.check);
        match check {
            Check::Passes => Ok(()),
            Check::Fails => Err(Dead),
            Check::Panics => silent_panic(),
            Check::Waits | Check::WaitsAlmost => {
                let start = Instant::now();
                let early = if check == Check::WaitsAlmost { ms(1) } else { ms(0) };
                while start.elapsed() + early < limit {
                    if *lock(&self.0.check) != check {
                        return Ok(());
                    }
                    thread::sleep(ms(1));
                }
                Err(Dead)
            }
            Check::Hangs | Check::HangsOnce => {
                if check == Check::HangsOnce {
                    self.does(Check::Passes);
                }
                self.0.gate.pass();
                Ok(())
            }
            Check::FailsAtGate => {
                self.0.gate.pass();
                Err(Dead)
            }
        }
    }

    fn has_broken(&self, _: &mut usize) -> bool {
        false
    }

    fn checks_within_limit(&self) -> bool {
        self.0.trusted.load(Ordering::Relaxed)
    }
}

impl Manager {
    fn new() -> Manager {
        Manager(Arc::new(Driver {
            check: Mutex::new(Check::Passes),
            trusted: AtomicBool::new(true),
            checks: Mutex::default(),
            connects: AtomicUsize::new(0),
            connects_fail: AtomicBool::new(false),
            gate: Gate::new(),
        }))
    }

    fn does(&self, check: Check) {
        *lock(&self.0.check) = check;
    }

    fn checks(&self) -> Vec<(String, Duration)> {
        lock(&self.0.checks).clone()
    }

    fn threads(&self) -> Vec<String> {
        self.checks().into_iter().map(|(thread, _)| thread).collect()
    }
}

fn here() -> String {
    thread::current().name().unwrap_or("?").to_string()
}

fn builder(size: u32) -> Builder<Manager> {
    let unset = Pool::builder().name("own").max_size(size).min_idle(Some(0));
    unset.test_on_check_out(true).connection_timeout(WATCHDOG)
}

fn idle(builder: Builder<Manager>, manager: &Manager) -> Pool<Manager> {
    let pool = builder.build(manager.clone()).unwrap();
    let all: Vec<_> = (0..pool.max_size()).map(|_| pool.get().unwrap()).collect();
    drop(all);
    lock(&manager.0.checks).clear();
    pool
}

#[test]
fn a_manager_whose_checks_keep_their_limit_is_called_on_the_callers_thread() {
    let manager = Manager::new();
    let pool = idle(builder(2), &manager);
    for _ in 0..3 {
        drop(pool.get().unwrap());
    }
    drop(pool.try_get().unwrap());
    assert_eq!(manager.threads(), vec![here(); 4]);
    let stats = pool.stats();
    assert_eq!((stats.checking, stats.check_failures, stats.abandoned_calls), (0, 0, 0));

    manager.0.trusted.store(false, Ordering::Relaxed);
    lock(&manager.0.checks).clear();
    drop(pool.get().unwrap());
    assert!(manager.threads()[0].starts_with("fairpool-worker-"), "{:?}", manager.threads());
}

#[test]
fn p1_a_check_on_the_callers_thread_gets_no_more_time_than_the_caller_has() {
    let manager = Manager::new();
    let pool = idle(builder(1), &manager);
    manager.does(Check::Waits);
    for wait in [ms(1), ms(30), ms(100)] {
        let asked = Instant::now();
        assert!(pool.get_timeout(wait).unwrap_err().is_timeout());
        let took = asked.elapsed();
        assert!(took >= wait && took < wait + allowed_overshoot(), "{took:?} for {wait:?}");
        eventually("it is being checked", || !manager.checks().is_empty());
        let (thread, limit) = manager.checks().remove(0);
        // Too little time to tell a dead connection from a slow one: a worker does.
        let itself = wait > ms(10);
        assert_eq!(thread == here(), itself, "{thread} for {wait:?}");
        assert!(!itself || limit <= wait, "{limit:?} for {wait:?}");
        // A worker goes on with the check, and it passes after all.
        manager.does(Check::Passes);
        eventually("the check has ended", || pool.stats().idle == 1);
        manager.does(Check::Waits);
        lock(&manager.0.checks).clear();
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.check_failures, stats.closed.total()),
        (0, 0),
        "nobody was impatient: {stats}"
    );
    assert_eq!(manager.0.connects.load(Ordering::Relaxed), 1);
}

/// The first half-second of a silent server: the caller's own check ends after the pool's
/// patience, a worker goes on, and another connection is opened for the caller.
#[test]
fn p1_a_silent_server_keeps_the_caller_no_longer_than_a_check_by_a_worker() {
    let manager = Manager::new();
    let pool = builder(2).build(manager.clone()).unwrap();
    drop(pool.get().unwrap()); // one of two
    lock(&manager.0.checks).clear();
    manager.does(Check::Waits);
    let conn = pool.get().unwrap();
    let checks = manager.checks();
    assert_eq!(checks[0], (here(), ms(250)), "{checks:?}");
    eventually("a worker goes on", || manager.checks().len() > 1);
    let (thread, rest) = manager.checks().remove(1);
    assert!(thread.starts_with("fairpool-worker-"), "{thread}");
    // Of 2 s, four fifths are the driver's, and 250 ms are over.
    assert!(rest <= ms(1350), "{rest:?}");
    drop(conn);
    eventually("the check has failed in its own time", || pool.stats().check_failures == 1);
    assert_eq!(pool.stats().abandoned_calls, 0);
}

#[test]
fn a_failed_check_on_the_callers_thread_retires_and_the_caller_is_served() {
    for check in [Check::Fails, Check::Panics] {
        let manager = Manager::new();
        let pool = idle(builder(3), &manager);
        manager.does(check);
        // Each that fails is replaced; the fourth is new.
        let conn = watched("the get", {
            let pool = pool.clone();
            move || pool.get().unwrap()
        });
        assert_eq!(*conn, 3, "{check:?}");
        eventually("workers have told of all three", || pool.stats().closed.invalid == 3);
    }
}

/// The caller that checks cannot hear that a connection has come back. So the next one gets
/// it, and the caller that checks keeps none from the others.
#[test]
fn p3_nobody_waits_beside_an_idle_connection_because_another_is_in_a_check_of_its_own() {
    for fairness in [Fairness::default(), Fairness::Strict, Fairness::Bounded(WATCHDOG)] {
        let manager = Manager::new();
        let unset = Pool::builder().max_size(3).min_idle(Some(0)).skip_check_within(ms(50));
        let unset = unset.fairness(fairness).connection_timeout(WATCHDOG);
        let pool = unset.build(manager.clone()).unwrap();
        let mut held: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
        drop(held.pop());
        thread::sleep(ms(150));
        manager.does(Check::Hangs);
        let checking = start_waiter(&pool, WATCHDOG);
        manager.0.gate.await_entered(1);
        let waiting = waiter(&pool, WATCHDOG);
        drop(held.remove(0));
        let first = served(&waiting);
        drop(held);
        let second = pool.get_timeout(Duration::ZERO).expect("it is idle, and nobody needs it");
        assert_eq!((pool.stats().checking, pool.stats().waiting), (1, 0), "{fairness:?}");
        drop((first, second));
        manager.0.gate.open();
        drop(served(&checking));
    }
}

/// A caller that has made a check itself keeps its place in the order of those that came.
#[test]
fn p2_after_a_failed_check_of_its_own_a_caller_goes_before_those_that_came_later() {
    let manager = Manager::new();
    let unset = Pool::builder().max_size(2).min_idle(Some(0)).skip_check_within(ms(50));
    let unset = unset.fairness(Fairness::Strict).connection_timeout(WATCHDOG);
    let pool = unset.build(manager.clone()).unwrap();
    let (held, other) = (pool.get().unwrap(), pool.get().unwrap());
    drop(other);
    thread::sleep(ms(150));
    manager.does(Check::FailsAtGate);
    let first = start_waiter(&pool, WATCHDOG);
    manager.0.gate.await_entered(1);
    let later = waiter(&pool, WATCHDOG);
    manager.0.connects_fail.store(true, Ordering::Relaxed);
    manager.0.gate.open();
    eventually("both wait", || pool.stats().waiting == 2);
    manager.does(Check::Passes);
    drop(held);
    drop(served(&first));
    drop(served(&later));
}

/// The second has made its check, and comes after the first, whose check has failed.
#[test]
fn p2_who_has_checked_a_connection_leaves_it_to_one_who_came_before() {
    for fairness in [Fairness::default(), Fairness::Strict] {
        let manager = Manager::new();
        let unset = Pool::builder().max_size(2).min_idle(Some(0)).fairness(fairness);
        let unset = unset.skip_check_within(Duration::ZERO).connection_timeout(WATCHDOG);
        let pool = unset.build(manager.clone()).unwrap();
        let both = (pool.get().unwrap(), pool.get().unwrap());
        drop(both);
        manager.0.connects_fail.store(true, Ordering::Relaxed);
        manager.does(Check::FailsAtGate);
        let first = start_waiter(&pool, WATCHDOG);
        manager.0.gate.await_entered(1);
        manager.does(Check::Waits);
        let second = start_waiter(&pool, WATCHDOG);
        eventually("both check", || pool.stats().checking == 2);
        manager.0.gate.open();
        eventually("the first waits", || pool.stats().waiting == 1);
        thread::sleep(ms(5)); // the bound
        manager.does(Check::Passes);
        let conn = served(&first);
        assert!(second.try_recv().is_err(), "{fairness:?}: the later one is served first");
        drop(conn);
        drop(served(&second));
    }
}

/// The queue is full when its check fails. It came before those that are in it.
#[test]
fn p8_who_came_before_a_queue_was_full_is_not_refused_after_a_check_of_its_own() {
    let manager = Manager::new();
    let unset = Pool::builder().max_size(2).min_idle(Some(0)).max_waiters(Some(1));
    let pool = unset.skip_check_within(ms(50)).build(manager.clone()).unwrap();
    let (held, other) = (pool.get().unwrap(), pool.get().unwrap());
    drop(other);
    thread::sleep(ms(150));
    manager.0.connects_fail.store(true, Ordering::Relaxed);
    manager.does(Check::FailsAtGate);
    let first = start_waiter(&pool, WATCHDOG);
    manager.0.gate.await_entered(1);
    let later = waiter(&pool, WATCHDOG);
    manager.0.gate.open();
    eventually("both wait", || pool.stats().waiting == 2);
    manager.does(Check::Passes);
    drop(held);
    drop(served(&first));
    drop(served(&later));
}

/// A driver that ends its check a little before its limit has not found a dead connection.
#[test]
fn p13_impatient_callers_close_no_connection_of_a_slow_server() {
    let manager = Manager::new();
    let pool = idle(builder(8), &manager);
    manager.does(Check::WaitsAlmost);
    for wait in [1, 5, 12, 20, 40] {
        assert!(pool.get_timeout(ms(wait)).is_err());
    }
    manager.does(Check::Passes);
    eventually("all are idle", || pool.stats().idle == 8);
    assert_eq!(pool.stats().closed.total(), 0, "{}", pool.stats());
}

/// Who tries only what is there has nothing else to wait for.
#[test]
fn a_try_waits_for_a_slow_check_of_its_own() {
    let manager = Manager::new();
    let pool = idle(builder(1), &manager);
    manager.does(Check::Waits);
    let trying = {
        let pool = pool.clone();
        thread::spawn(move || pool.try_get().is_some())
    };
    eventually("it checks", || !manager.checks().is_empty());
    thread::sleep(ms(400));
    manager.does(Check::Passes);
    assert!(trying.join().unwrap(), "{:?}", manager.checks());
}

/// One get finds many dead connections. Their errors take time to report.
#[test]
fn a_get_that_finds_many_dead_connections_takes_few_threads() {
    #[derive(Debug)]
    struct Slow(Arc<Mutex<BTreeSet<String>>>);
    impl HandleError<Dead> for Slow {
        fn handle_error(&self, _: Dead) {
            lock(&self.0).insert(here());
            thread::sleep(ms(10));
        }
    }
    let (manager, threads) = (Manager::new(), Arc::default());
    let handler = Box::new(Slow(Arc::clone(&threads)));
    let pool = idle(builder(60).error_handler(handler), &manager);
    manager.does(Check::Fails);
    drop(pool.get().unwrap());
    eventually("all are closed", || pool.stats().closed.invalid == 60);
    let used = lock(&threads).len();
    println!("figure: threads for one get that finds 60 dead connections: {used}");
    assert!(used <= 12, "{used} threads");
}

/// How long a check is counted on is no matter of connects.
#[test]
fn p1_the_patience_for_connects_changes_nothing_for_checks() {
    for patience in [Duration::MAX, ms(5)] {
        let manager = Manager::new();
        let pool = idle(builder(1).connect_patience(patience, Duration::MAX), &manager);
        drop(pool.get().unwrap());
        assert_eq!(manager.checks(), [(here(), ms(250))], "{patience:?}");

        // One hangs on a worker's thread. The others are there.
        manager.0.trusted.store(false, Ordering::Relaxed);
        let pool = idle(builder(4).connect_patience(patience, Duration::MAX), &manager);
        manager.does(Check::HangsOnce);
        drop(pool.get_timeout(ms(1500)).expect("another is checked"));
        manager.0.gate.open();
    }
}

/// A handler of errors may take its time, but not the caller's.
#[test]
fn p1_what_follows_a_failed_check_does_not_run_on_the_callers_thread() {
    #[derive(Debug)]
    struct Record(Arc<Mutex<Vec<String>>>);
    impl HandleError<Dead> for Record {
        fn handle_error(&self, _: Dead) {
            lock(&self.0).push(here());
        }
    }
    let (manager, threads) = (Manager::new(), Arc::default());
    let handler = Box::new(Record(Arc::clone(&threads)));
    let pool = idle(builder(1).error_handler(handler), &manager);
    manager.does(Check::Fails);
    drop(pool.get().unwrap());
    assert_eq!(manager.threads(), [here()]);
    let handled = lock(&threads).clone();
    assert!(handled.len() == 1 && handled[0].starts_with("fairpool-worker-"), "{handled:?}");
}

/// A manager that promised too much holds up the caller, as a query that hangs would. The
/// caller may have been given another connection meanwhile.
#[test]
fn p5_a_check_that_breaks_its_promise_costs_the_others_no_slot_for_good() {
    let manager = Manager::new();
    let pool = idle(builder(2).validation_timeout(ms(50)), &manager);
    manager.does(Check::Hangs);
    let victim = {
        let pool = pool.clone();
        thread::spawn(move || pool.get().map(drop).is_ok())
    };
    manager.0.gate.await_entered(1);
    eventually("it is abandoned", || pool.stats().abandoned == 1);
    manager.does(Check::Passes);
    drop(pool.get().expect("the other one"));
    manager.0.gate.open();
    assert!(watched("the victim", move || victim.join()).unwrap());
    eventually("nothing is left over", || pool.stats().abandoned == 0);
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
}

#[test]
fn one_who_may_be_cancelled_leaves_the_check_to_a_worker() {
    let manager = Manager::new();
    let pool = idle(builder(1), &manager);
    manager.does(Check::Hangs);
    let token = CancelToken::new();
    let waiting = {
        let (pool, token) = (pool.clone(), token.clone());
        thread::spawn(move || pool.request().cancel(&token).get().map(drop))
    };
    manager.0.gate.await_entered(1);
    token.cancel();
    let error = watched("the get", move || waiting.join()).unwrap().unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert!(manager.threads()[0].starts_with("fairpool-worker-"));
    manager.0.gate.open();
}

/// 16 threads and 4 connections, each get checked; some are discarded.
#[test]
fn p7_own_checks_of_many_threads_lose_and_double_nothing() {
    let manager = Manager::new();
    let pool = builder(4).build(manager.clone()).unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for round in 0..300 {
                    let conn = pool.get().unwrap();
                    if round % 50 == 0 {
                        PooledConnection::discard(conn);
                    }
                }
            });
        }
    });
    eventually("all is quiet", || pool.stats().in_use == 0);
    let stats = pool.stats();
    assert_eq!((stats.gets, stats.timeouts, stats.check_failures), (4800, 0, 0), "{stats}");
    assert!(stats.open <= 4, "{stats}");
    let own =
        manager.threads().iter().filter(|thread| !thread.starts_with("fairpool-worker-")).count();
    assert!(own > 0, "no caller has made its check itself");
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
}
