//! Which call runs where, and for how long.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fairpool_r2d2::Manager;
use fairpool_testing::stub::{eventually, lock, watched};

use crate::driver::{Driver, Local, Refused, builder};

/// The names of the threads that made calls.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<(&'static str, String)>>>);

impl Threads {
    fn note(&self, call: &'static str) {
        let name = thread::current().name().unwrap_or_default().to_string();
        lock(&self.0).push((call, name));
    }

    fn of(&self, call: &str) -> Vec<String> {
        let all = lock(&self.0);
        all.iter().filter(|(name, _)| *name == call).map(|(_, thread)| thread.clone()).collect()
    }
}

#[test]
fn p18_each_call_of_the_manager_is_made_where_the_pool_says() {
    let threads = Threads::default();
    let (connects, checks, returns) = (threads.clone(), threads.clone(), threads.clone());
    let mut driver = Driver::<Refused>::new();
    driver.connect = Box::new(move || {
        connects.note("connect");
        Ok(())
    });
    driver.is_valid = Box::new(move || {
        checks.note("is_valid");
        Ok(())
    });
    driver.has_broken = Box::new(move || {
        returns.note("has_broken");
        false
    });
    let pool = builder().test_on_check_out(true).build(Manager::new(driver)).unwrap();
    let user = thread::Builder::new().name("user".into());
    let used = user.spawn(move || {
        drop(pool.get().unwrap());
        drop(pool.get().unwrap());
    });
    used.unwrap().join().unwrap();
    let (connects, checks) = (threads.of("connect"), threads.of("is_valid"));
    assert_eq!((connects.len(), checks.len()), (1, 1));
    assert!(connects[0].starts_with("fairpool-"), "{connects:?}");
    assert!(checks[0].starts_with("fairpool-"), "{checks:?}");
    assert_eq!(threads.of("has_broken"), ["user", "user"]);
}

#[test]
fn p18_what_the_manager_calls_broken_or_invalid_is_replaced() {
    let mut driver = Driver::<Refused>::new();
    let (broken, is_broken) = mpsc::channel();
    let (invalid, is_invalid) = mpsc::channel();
    let (is_broken, is_invalid) = (Mutex::new(is_broken), Mutex::new(is_invalid));
    driver.has_broken = Box::new(move || lock(&is_broken).try_recv().is_ok());
    driver.is_valid = Box::new(move || match lock(&is_invalid).try_recv() {
        Ok(()) => Err(Refused(1)),
        Err(_) => Ok(()),
    });
    let live = driver.live.clone();
    let pool = builder().test_on_check_out(true).build(Manager::new(driver)).unwrap();
    let id = |conn: &_| fairpool::PooledConnection::info(conn).id;

    let conn = pool.get().unwrap();
    let first = id(&conn);
    broken.send(()).unwrap();
    drop(conn);
    let second = id(&pool.get().unwrap());
    assert_ne!(first, second);

    invalid.send(()).unwrap();
    let third = id(&pool.get().unwrap());
    assert_ne!(second, third);
    assert_eq!(id(&pool.get().unwrap()), third);
    eventually("the others are closed", || live.count() == 1);
}

#[test]
fn p1_a_check_that_hangs_keeps_its_caller_no_longer_than_its_deadline() {
    let mut driver = Driver::<Refused>::new();
    let (release, hang) = mpsc::channel::<()>();
    let (entered, enters) = mpsc::channel();
    let hang = Mutex::new(hang);
    driver.is_valid = Box::new(move || {
        entered.send(()).unwrap();
        // Until the test ends: an r2d2 manager knows no limit.
        let _ = lock(&hang).recv();
        Ok(())
    });
    let pool = builder().test_on_check_out(true).build(Manager::new(driver)).unwrap();
    drop(pool.get().unwrap());
    let there = pool.clone();
    let error = watched("the get", move || there.get_timeout(Duration::from_millis(50)));
    assert!(error.unwrap_err().is_timeout());
    enters.recv().expect("the check ran");
    drop(release);
    drop(watched("a get after the check", move || pool.get()).unwrap());
}

#[test]
fn the_manager_of_r2d2_can_be_reached_and_got_back() {
    let driver = Driver::<Refused>::new();
    let live = driver.live.clone();
    let manager = Manager::new(driver);
    assert_eq!(manager.get_ref().live.count(), 0);
    let pool = builder().build(manager).unwrap();
    let conn = pool.get().unwrap();
    assert_eq!(pool.manager().get_ref().live.count(), 1);
    assert_eq!(live.count(), 1);
    drop(conn);
    let back: Driver<Local> = Manager::new(Driver::new()).errors_as_text().into_inner();
    assert_eq!(back.live.count(), 0);
}
