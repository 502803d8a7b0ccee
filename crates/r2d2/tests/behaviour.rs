//! What the drop-in does as r2d2 does it, and what fairpool adds.

use std::error::Error as StdError;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use r2d2::event::{AcquireEvent, CheckinEvent, CheckoutEvent, HandleEvent, ReleaseEvent};
use r2d2::{CustomizeConnection, HandleError, ManageConnection, Pool};

/// A limit that only a test that fails reaches.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A check that succeeded so long ago counts no more: several times the documented time, and
/// more than the ticks of any system's clock.
const LONG_AFTER_A_CHECK: Duration = Duration::from_millis(60);

/// What happened, in this order.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn read(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// As many drivers' errors, it belongs to one thread.
#[derive(Debug)]
struct LocalError {
    text: &'static str,
    _here: Rc<()>,
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl StdError for LocalError {}

fn error(text: &'static str) -> LocalError {
    LocalError { text, _here: Rc::new(()) }
}

/// A driver whose calls do what the test says.
#[derive(Clone, Default)]
struct Driver {
    diary: Diary,
    broken: Arc<AtomicBool>,
    invalid: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
    checks: Arc<AtomicU32>,
    /// Checks and closes wait until its other end is dropped.
    hang: Arc<Mutex<Option<Receiver<()>>>>,
}

impl Driver {
    fn hang_from_now(&self) -> Sender<()> {
        let (release, hang) = mpsc::channel();
        *self.hang.lock().unwrap() = Some(hang);
        release
    }

    fn checks(&self) -> u32 {
        self.checks.load(Ordering::SeqCst)
    }

    fn maybe_hang(&self) {
        let hang = self.hang.lock().unwrap().take();
        if let Some(hang) = hang {
            let _ = hang.recv_timeout(WATCHDOG);
        }
    }
}

struct Connection(Driver);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.maybe_hang();
        self.0.diary.note("closed");
    }
}

impl ManageConnection for Driver {
    type Connection = Connection;
    type Error = LocalError;

    fn connect(&self) -> Result<Connection, LocalError> {
        match self.refuses.load(Ordering::SeqCst) {
            true => Err(error("refused")),
            false => Ok(Connection(self.clone())),
        }
    }

    fn is_valid(&self, _: &mut Connection) -> Result<(), LocalError> {
        self.checks.fetch_add(1, Ordering::SeqCst);
        self.maybe_hang();
        match self.invalid.swap(false, Ordering::SeqCst) {
            true => Err(error("invalid")),
            false => Ok(()),
        }
    }

    fn has_broken(&self, _: &mut Connection) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

impl HandleError<LocalError> for Diary {
    fn handle_error(&self, error: LocalError) {
        self.note(format!("error: {error}"));
    }
}

impl HandleEvent for Diary {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.note("acquire");
    }

    fn handle_checkout(&self, _: CheckoutEvent) {
        self.note("checkout");
    }

    fn handle_checkin(&self, _: CheckinEvent) {
        self.note("checkin");
    }

    fn handle_release(&self, _: ReleaseEvent) {
        let thread = thread::current();
        let name = thread.name().unwrap_or("");
        // Slow, so that a closer that does not wait for it overtakes it.
        thread::sleep(Duration::from_millis(20));
        self.note(if name.starts_with("fairpool") { "released by a worker" } else { "release" });
    }
}

#[derive(Debug)]
struct Customizer(Diary, Arc<AtomicBool>);

impl CustomizeConnection<Connection, LocalError> for Customizer {
    fn on_acquire(&self, _: &mut Connection) -> Result<(), LocalError> {
        if self.1.load(Ordering::SeqCst) { Err(error("customizer")) } else { Ok(()) }
    }

    fn on_release(&self, conn: Connection) {
        self.0.note("on_release");
        drop(conn);
    }
}

#[test]
fn p18_a_broken_connection_is_released_and_closed_when_its_guard_is_dropped() {
    let driver = Driver::default();
    let diary = driver.diary.clone();
    let customizer = Customizer(diary.clone(), Arc::default());
    let pool = Pool::builder()
        .max_size(1)
        .event_handler(Box::new(diary.clone()))
        .connection_customizer(Box::new(customizer))
        .build(driver.clone())
        .unwrap();
    for _ in 0..20 {
        let conn = pool.get().unwrap();
        assert_eq!(diary.read().last().unwrap(), "checkout");
        driver.broken.store(true, Ordering::SeqCst);
        drop(conn);
        driver.broken.store(false, Ordering::SeqCst);
        let seen = diary.read();
        assert_eq!(seen[..4], ["checkin", "release", "on_release", "closed"], "{seen:?}");
    }
}

#[test]
fn p6_a_broken_connection_from_fairpools_own_guard_is_replaced_without_a_wait() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(1).build(driver.clone()).unwrap();
    // A closer that waits for r2d2's guard, which never comes, keeps the slot for a second: then
    // no try succeeds. One that does not is in time unless the machine is too busy in each.
    let replaced = (0..5).any(|_| {
        drop(pool.get().unwrap()); // what r2d2's guard did is over
        let conn = pool.fairpool().request().get().unwrap();
        driver.broken.store(true, Ordering::SeqCst);
        drop(conn);
        driver.broken.store(false, Ordering::SeqCst);
        pool.get_timeout(Duration::from_millis(900)).is_ok()
    });
    assert!(replaced, "a second passed before each close");
    assert!(driver.diary.read().contains(&"closed".to_string()));
}

#[test]
fn p18_the_drop_of_the_last_pool_closes_and_a_guard_keeps_the_pool_open() {
    let driver = Driver::default();
    let diary = driver.diary.clone();
    let pool = Pool::builder().max_size(3).build(driver.clone()).unwrap();
    let guard = pool.get().unwrap();
    drop(pool.clone());
    drop(pool);
    assert!(diary.read().is_empty(), "a guard keeps it open");
    drop(guard);
    assert_eq!(diary.read(), ["closed"; 3]);
}

#[test]
fn p6_a_close_that_hangs_delays_neither_the_guards_drop_for_long_nor_others() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(2).test_on_check_out(false).build(driver.clone()).unwrap();
    let conn = pool.get().unwrap();
    let release = driver.hang_from_now();
    driver.broken.store(true, Ordering::SeqCst);
    let returned = thread::spawn(move || drop(conn));
    while driver.hang.lock().unwrap().is_some() {
        thread::yield_now(); // until the close hangs
    }
    driver.broken.store(false, Ordering::SeqCst);
    drop(pool.get().unwrap());
    returned.join().unwrap(); // though the close still hangs
    assert!(driver.diary.read().is_empty());
    drop(release);
}

#[test]
fn p1_a_check_that_hangs_keeps_a_caller_no_longer_than_its_timeout() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(1).build(driver.clone()).unwrap();
    let release = driver.hang_from_now();
    let begun = Instant::now();
    let error = pool.get_timeout(Duration::from_millis(50)).err().expect("it hangs");
    assert!(begun.elapsed() < WATCHDOG / 2);
    assert_eq!(error.to_string(), "timed out waiting for connection");
    drop(release);
}

#[test]
fn p18_each_get_is_checked_if_the_user_says_so() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(1).test_on_check_out(true).build(driver.clone()).unwrap();
    for gets in 1..=5 {
        drop(pool.get().unwrap());
        assert_eq!(driver.checks(), gets);
    }
}

#[test]
fn p18_by_default_each_get_of_a_quiet_pool_is_checked_once() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(1).build(driver.clone()).unwrap();
    for gets in 1..=5 {
        drop(pool.get().unwrap());
        assert_eq!(driver.checks(), gets, "before its first use, and after a pause");
        thread::sleep(LONG_AFTER_A_CHECK);
    }
}

#[test]
fn p18_by_default_a_connection_in_steady_use_is_checked_again_but_not_for_each_get() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(1).build(driver.clone()).unwrap();
    let (begun, mut gets) = (Instant::now(), 0);
    while begun.elapsed() < LONG_AFTER_A_CHECK || gets == driver.checks() {
        assert!(begun.elapsed() < WATCHDOG, "each of {gets} gets was checked");
        drop(pool.get().unwrap());
        gets += 1;
    }
    drop(pool.get().unwrap());
    assert!(driver.checks() > 1, "{gets} gets, and one check");
}

#[test]
fn p13_what_was_checked_a_moment_ago_is_checked_again_when_another_has_proved_broken() {
    let driver = Driver::default();
    let pool = Pool::builder().max_size(2).build(driver.clone()).unwrap();
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    let checks = driver.checks();
    let [first, second] = held;
    drop(first);
    driver.broken.store(true, Ordering::SeqCst);
    drop(second);
    driver.broken.store(false, Ordering::SeqCst);
    drop((pool.get().unwrap(), pool.get().unwrap()));
    assert!(driver.checks() > checks, "nobody checked the first");
}

#[test]
fn p18_handlers_get_errors_that_are_not_send_in_their_own_type() {
    let driver = Driver::default();
    let diary = driver.diary.clone();
    let customizer_fails = Arc::new(AtomicBool::new(false));
    let pool = Pool::builder()
        .max_size(1)
        .error_handler(Box::new(diary.clone()))
        .connection_customizer(Box::new(Customizer(Diary::default(), customizer_fails.clone())))
        .build(driver.clone())
        .unwrap();
    driver.invalid.store(true, Ordering::SeqCst);
    drop(pool.get().unwrap()); // the next one
    assert!(diary.read().contains(&"error: invalid".to_string()));

    driver.refuses.store(true, Ordering::SeqCst);
    driver.invalid.store(true, Ordering::SeqCst);
    let error = pool.get_timeout(Duration::from_millis(200)).err().expect("refused");
    assert_eq!(error.to_string(), "timed out waiting for connection: refused");
    assert!(error.source().is_none());
    assert!(diary.read().contains(&"error: refused".to_string()));

    customizer_fails.store(true, Ordering::SeqCst);
    driver.refuses.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    while !diary.read().contains(&"error: customizer".to_string()) {
        assert!(begun.elapsed() < WATCHDOG);
        thread::sleep(Duration::from_millis(1));
    }
    customizer_fails.store(false, Ordering::SeqCst);
    drop(pool.get().unwrap());
}

#[test]
fn p18_an_error_is_told_once_and_forgotten_when_a_connection_is_opened() {
    let driver = Driver::default();
    driver.refuses.store(true, Ordering::SeqCst);
    let pool = Pool::builder()
        .max_size(1)
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build_unchecked(driver.clone());
    let error = pool.get_timeout(Duration::from_millis(300)).err().expect("refused");
    assert_eq!(error.to_string(), "timed out waiting for connection: refused");
    driver.refuses.store(false, Ordering::SeqCst);
    let held = pool.get().unwrap();
    let error = pool.get_timeout(Duration::from_millis(1)).err().expect("held");
    assert_eq!(error.to_string(), "timed out waiting for connection");
    drop(held);
}

#[test]
fn p9_fairpool_names_the_users_line_and_closes_the_pool() {
    let pool = Pool::builder().max_size(2).build(Driver::default()).unwrap();
    let (first, line) = (pool.get().unwrap(), line!());
    let (second, next) = (pool.try_get().unwrap(), line!());
    let holders = pool.fairpool().snapshot().holders;
    let mut lines: Vec<u32> = holders.iter().map(|holder| holder.location().line()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [line, next]);
    assert!(holders.iter().all(|holder| holder.location().file().ends_with("behaviour.rs")));
    assert!(pool.fairpool().name().starts_with("r2d2-"));
    drop((first, second));

    // A handle may outlive the pool's own, and names no type of this package.
    let handle = pool.fairpool().clone();
    drop(pool);
    assert!(handle.request().priority(1).get().is_ok());
    assert!(handle.close(Instant::now() + WATCHDOG).is_complete());
}

#[test]
fn p18_a_get_of_a_closed_pool_says_so() {
    let pool = Pool::builder().max_size(1).build(Driver::default()).unwrap();
    assert!(pool.fairpool().close(Instant::now() + WATCHDOG).is_complete());
    let error = pool.get().err().expect("closed").to_string();
    assert!(error.starts_with("timed out waiting for connection: "), "{error}");
    assert!(error.contains("closed"), "{error}");
}
