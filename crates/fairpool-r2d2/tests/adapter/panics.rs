//! P10: a panic in the manager or a hook is contained, and costs no capacity.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fairpool::{ManageConnection, Pool};
use fairpool_r2d2::Manager;
use fairpool_testing::stub::{eventually, silent_panic, watched};

use crate::driver::{Conn, Driver, Local, Refused, builder, refusal};

/// Panics the first times, then no more.
#[derive(Clone, Debug)]
struct Fuse(Arc<AtomicUsize>);

impl Fuse {
    fn new(times: usize) -> Fuse {
        Fuse(Arc::new(AtomicUsize::new(times)))
    }

    fn blow(&self) {
        let fewer = |left: usize| left.checked_sub(1);
        if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            silent_panic();
        }
    }

    fn is_spent(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

/// The pool serves all its connections.
fn serves<M: ManageConnection>(pool: &Pool<M>) {
    let there = pool.clone();
    let gets = move || {
        let held = there.get()?;
        drop(held);
        there.get().map(drop)
    };
    watched("gets", gets).unwrap();
}

#[test]
fn p10_a_panic_in_connect_is_a_failed_connect() {
    let mut driver = Driver::<Refused>::new();
    let fuse = Fuse::new(2);
    let there = fuse.clone();
    driver.connect = Box::new(move || {
        there.blow();
        Ok(())
    });
    let pool = builder().build(Manager::new(driver)).unwrap();
    serves(&pool);
    assert!(fuse.is_spent());
    assert_eq!(pool.stats().open_failures, 2);
}

#[test]
fn p10_a_caller_learns_that_the_manager_panicked() {
    let mut driver = Driver::<Refused>::new();
    driver.connect = Box::new(|| silent_panic());
    let pool = builder().build(Manager::new(driver)).unwrap();
    assert_eq!(refusal(&pool).source().unwrap().to_string(), "connect panicked: a scripted panic");
}

#[test]
fn p10_a_panic_in_is_valid_or_has_broken_costs_a_connection_and_nothing_else() {
    let (check, return_) = (Fuse::new(1), Fuse::new(1));
    let (in_check, in_return) = (check.clone(), return_.clone());
    let mut driver = Driver::<Refused>::new();
    driver.is_valid = Box::new(move || {
        in_check.blow();
        Ok(())
    });
    driver.has_broken = Box::new(move || {
        in_return.blow();
        false
    });
    let live = driver.live.clone();
    let pool = builder().test_on_check_out(true).build(Manager::new(driver)).unwrap();
    serves(&pool); // the first return panics, and the connection is replaced
    assert!(return_.is_spent());
    serves(&pool); // the first check panics
    assert!(check.is_spent());
    eventually("one connection is left", || live.count() == 1);
}

/// Panics in all its methods until its fuses are spent.
#[derive(Debug)]
struct Panicking {
    acquire: Fuse,
    release: Fuse,
}

impl r2d2::CustomizeConnection<Conn, Refused> for Panicking {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), Refused> {
        self.acquire.blow();
        Ok(())
    }

    fn on_release(&self, _: Conn) {
        self.release.blow();
    }
}

#[test]
fn p10_a_panic_in_a_customizer_costs_a_connection_and_nothing_else() {
    let (acquire, release) = (Fuse::new(2), Fuse::new(1));
    let mut driver = Driver::<Refused>::new();
    driver.has_broken = Box::new(|| true);
    let live = driver.live.clone();
    let manager = Manager::new(driver);
    let panicking = Panicking { acquire: acquire.clone(), release: release.clone() };
    let pool = builder()
        .connection_customizer(manager.customizer(Box::new(panicking)))
        .build(manager)
        .unwrap();
    serves(&pool);
    assert!(acquire.is_spent());
    eventually("on_release was called", || release.is_spent());
    eventually("all connections are closed", || live.count() == 0);
}

#[derive(Debug)]
struct PanickingHandler(Fuse);

impl r2d2::HandleError<Refused> for PanickingHandler {
    fn handle_error(&self, _: Refused) {
        self.0.blow();
    }
}

#[test]
fn p10_a_panic_in_an_error_handler_stops_nothing() {
    let fuse = Fuse::new(1);
    let failures = AtomicUsize::new(0);
    let mut driver = Driver::new();
    driver.connect = Box::new(move || match failures.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Refused(1)),
        _ => Ok(()),
    });
    let manager = Manager::new(driver);
    let handler = manager.error_handler(Box::new(PanickingHandler(fuse.clone())));
    let pool = builder().error_handler(handler).build(manager).unwrap();
    serves(&pool);
    assert!(fuse.is_spent());
}

/// Its text panics.
#[derive(Debug)]
struct Unprintable(#[expect(dead_code, reason = "keeps it from being `Send`")] Local);

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        silent_panic()
    }
}

impl Error for Unprintable {}

#[test]
fn p10_an_error_whose_text_panics_is_a_failed_connect() {
    let failures = AtomicUsize::new(0);
    let mut driver = Driver::new();
    driver.connect = Box::new(move || match failures.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Unprintable(Local::new())),
        _ => Ok(()),
    });
    let pool = builder().build(Manager::new(driver).errors_as_text()).unwrap();
    serves(&pool);
    assert_eq!(pool.stats().open_failures, 1);
}
