//! Customizers and error handlers of r2d2.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use fairpool::{ErrorKind, HandleUse, UseContext};
use fairpool_r2d2::{Manager, TextError};
use fairpool_testing::stub::{WATCHDOG, watched};

use crate::driver::{Conn, Driver, Live, Local, Refused, builder, refusal};

/// Marks new connections, and tells of those that leave.
#[derive(Debug)]
struct Marking {
    released: mpsc::Sender<bool>,
    live: Live,
}

impl<E> r2d2::CustomizeConnection<Conn, E> for Marking {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), E> {
        conn.customized = true;
        Ok(())
    }

    fn on_release(&self, conn: Conn) {
        assert_eq!(self.live.count(), 1, "it is not closed yet");
        let _ = self.released.send(conn.customized);
    }
}

#[test]
fn p18_a_customizer_of_r2d2_prepares_each_connection_and_closes_it() {
    let driver = Driver::<Refused>::new();
    let live = driver.live.clone();
    let (released, releases) = mpsc::channel();
    let manager = Manager::new(driver);
    let customizer = manager.customizer(Box::new(Marking { released, live: live.clone() }));
    assert!(format!("{customizer:?}").starts_with("Marking"));
    let pool = builder().connection_customizer(customizer).build(manager).unwrap();
    assert!(pool.get().unwrap().customized);
    drop(pool);
    assert_eq!(releases.recv_timeout(WATCHDOG), Ok(true));
    assert_eq!(releases.recv_timeout(WATCHDOG), Err(mpsc::RecvTimeoutError::Disconnected));
    assert_eq!(live.count(), 0);
}

/// Refuses the first connections.
struct Refusing<E> {
    left: AtomicU32,
    error: fn() -> E,
}

impl<E> fmt::Debug for Refusing<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusing")
    }
}

impl<E: 'static> r2d2::CustomizeConnection<Conn, E> for Refusing<E> {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), E> {
        let fewer = |left: u32| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer) {
            Ok(_) => Err((self.error)()),
            Err(_) => Ok(()),
        }
    }
}

#[test]
fn p9_a_customizer_that_fails_is_the_cause_and_loses_no_connection() {
    let driver = Driver::<Refused>::new();
    let live = driver.live.clone();
    let manager = Manager::new(driver);
    let refusing = Refusing { left: AtomicU32::new(u32::MAX), error: || Refused(5) };
    let pool = builder()
        .connection_customizer(manager.customizer(Box::new(refusing)))
        .build(manager)
        .unwrap();
    let error = refusal(&pool);
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Refused(5)));
    drop(pool);
    assert_eq!(live.count(), 0);
}

#[test]
fn p5_when_a_customizer_succeeds_again_callers_are_served() {
    let driver = Driver::<Local>::new();
    let live = driver.live.clone();
    let manager = Manager::new(driver).errors_as_text();
    let refusing = Refusing { left: AtomicU32::new(3), error: Local::new };
    let pool = builder()
        .connection_customizer(manager.customizer(Box::new(refusing)))
        .build(manager)
        .unwrap();
    let there = pool.clone();
    let conn = watched("the get", move || there.get()).unwrap();
    assert_eq!(live.count(), 1);
    assert_eq!(pool.stats().open_failures, 3);
    drop(conn);
}

/// Keeps the errors, whatever they are.
#[derive(Debug)]
struct Keeping<E>(mpsc::Sender<E>);

impl<E: fmt::Debug + Send + 'static> r2d2::HandleError<E> for Keeping<E> {
    fn handle_error(&self, error: E) {
        let _ = self.0.send(error);
    }
}

#[test]
fn p18_an_error_handler_of_r2d2_gets_each_error_in_its_type_and_callers_its_text() {
    let mut driver = Driver::new();
    let next = Arc::new(AtomicU32::new(1));
    driver.connect = Box::new(move || Err(Refused(next.fetch_add(1, Ordering::SeqCst))));
    let manager = Manager::new(driver);
    let (kept, errors) = mpsc::channel();
    let handler = manager.error_handler(Box::new(Keeping(kept)));
    assert!(format!("{handler:?}").starts_with("Keeping"));
    let pool = builder().error_handler(handler).build(manager).unwrap();
    refusal(&pool);
    let error = refusal(&pool);
    assert_eq!(errors.recv_timeout(WATCHDOG), Ok(Refused(1)));
    assert_eq!(errors.recv_timeout(WATCHDOG), Ok(Refused(2)));
    let cause = error.source().unwrap();
    assert!(!cause.is::<Refused>());
    assert!(cause.to_string().starts_with("refused with code "), "{cause}");
}

#[test]
fn p18_an_error_handler_gets_the_text_of_an_error_that_must_stay_on_its_thread() {
    let mut driver = Driver::new();
    driver.connect = Box::new(|| Err(Local::new()));
    let manager = Manager::new(driver).errors_as_text();
    let (kept, errors) = mpsc::channel::<TextError<Local>>();
    let pool = builder()
        .error_handler(manager.error_handler(Box::new(Keeping(kept))))
        .build(manager)
        .unwrap();
    refusal(&pool);
    let error = errors.recv_timeout(WATCHDOG).unwrap();
    assert_eq!(error.to_string(), "no session on db1");
}

/// Marks connections at the begin of each use, and unmarks them at its end.
#[derive(Debug)]
struct Uses;

impl HandleUse<Conn, Refused> for Uses {
    fn begin(&self, conn: &mut Conn, context: &UseContext) -> Result<(), Refused> {
        let code = *context.get::<u32>().ok_or(Refused(0))?;
        assert!(!conn.customized, "the last use has not ended");
        conn.customized = true;
        if code > 0 { Err(Refused(code)) } else { Ok(()) }
    }

    fn end(&self, conn: &mut Conn, _: &UseContext) -> Result<(), Refused> {
        conn.customized = false;
        Ok(())
    }
}

#[test]
fn p18_a_use_handler_works_with_a_manager_of_r2d2() {
    let manager = Manager::new(Driver::<Refused>::new());
    let pool = builder().use_handler(Box::new(Uses)).build(manager).unwrap();
    for _ in 0..3 {
        assert!(pool.request().context(0_u32).get().unwrap().customized);
    }
    for code in [0, 9] {
        let error = match code {
            0 => pool.get().unwrap_err(),
            code => pool.request().context(code).get().unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::UseHandler);
        assert_eq!(error.source().unwrap().downcast_ref(), Some(&Refused(code)));
    }
}
