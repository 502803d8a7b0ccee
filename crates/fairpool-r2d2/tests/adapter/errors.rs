//! What reaches callers of the manager's errors.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread::{self, ThreadId};

use fairpool_r2d2::{Manager, TextError};

use crate::driver::{Driver, Local, Refused, builder, refusal};

#[test]
fn p9_the_managers_own_error_reaches_the_caller_in_its_type() {
    let mut driver = Driver::new();
    driver.connect = Box::new(|| Err(Refused(61)));
    let pool = builder().build(Manager::new(driver)).unwrap();
    let error = refusal(&pool);
    assert_eq!(error.source().unwrap().downcast_ref(), Some(&Refused(61)));
}

#[test]
fn p9_an_error_that_must_stay_on_its_thread_reaches_the_caller_as_text() {
    let mut driver = Driver::new();
    driver.connect = Box::new(|| Err(Local::new()));
    let pool = builder().build(Manager::new(driver).errors_as_text()).unwrap();
    let error = refusal(&pool);
    let text = error.source().unwrap();
    assert!(text.is::<TextError<Local>>());
    assert_eq!(text.to_string(), "no session on db1");
    assert_eq!(format!("{text:?}"), format!("{:?}", Local::new()));
    assert_eq!(text.source().unwrap().to_string(), "refused with code 7");
    assert!(text.source().unwrap().source().is_none());
    let all = format!("{error:#}");
    assert!(all.ends_with("no session on db1: refused with code 7"), "{all}");
}

/// Tells on which threads it was made and dropped.
#[derive(Debug)]
struct Homesick {
    made_on: ThreadId,
    dropped_on: mpsc::Sender<(ThreadId, ThreadId)>,
    /// Not `Sync`.
    _cell: Cell<()>,
}

impl fmt::Display for Homesick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("homesick")
    }
}

impl Error for Homesick {}

impl Drop for Homesick {
    fn drop(&mut self) {
        let _ = self.dropped_on.send((self.made_on, thread::current().id()));
    }
}

#[test]
fn an_error_carried_as_text_never_leaves_its_thread() {
    let (dropped_on, drops) = mpsc::channel();
    let dropped_on = Mutex::new(dropped_on);
    let mut driver = Driver::new();
    driver.connect = Box::new(move || {
        let dropped_on = dropped_on.lock().unwrap().clone();
        Err(Homesick { made_on: thread::current().id(), dropped_on, _cell: Cell::new(()) })
    });
    let pool = builder().build(Manager::new(driver).errors_as_text()).unwrap();
    assert_eq!(refusal(&pool).source().unwrap().to_string(), "homesick");
    let (made_on, dropped_on) = drops.recv().unwrap();
    assert_eq!(made_on, dropped_on);
    assert_ne!(made_on, thread::current().id());
}

/// Its own source, and without a text.
#[derive(Debug)]
struct Odd;

impl fmt::Display for Odd {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

impl Error for Odd {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self)
    }
}

#[test]
fn odd_errors_have_a_text_and_an_end() {
    let error = TextError::from(Odd);
    assert_eq!(error.to_string(), "(an error without a text)");
    let mut next = error.source();
    let mut sources = 0;
    while let Some(source) = next {
        sources += 1;
        next = source.source();
    }
    assert_eq!(sources, 32);
}

#[test]
fn text_errors_and_managers_may_go_to_other_threads_whatever_the_error() {
    fn may<T: Send + Sync + 'static>() {}
    may::<TextError<Local>>();
    may::<Manager<Driver<Local>>>();
    may::<Manager<Driver<Local>, TextError<Local>>>();
}
