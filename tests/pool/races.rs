//! Promises when two things happen at once: a close and a pending notification, an error whose
//! source panics.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::LeakEvent;
use fairpool::{HandleError, HandleEvent, ManageConnection, Pool};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
fn soon(n: u64) -> Instant {
    Instant::now() + ms(n)
}
fn until(what: impl Fn() -> bool) {
    let end = soon(5000);
    while !what() {
        assert!(Instant::now() < end, "never");
        thread::sleep(ms(1));
    }
}

#[derive(Debug, Clone)]
struct Evil;
impl fmt::Display for Evil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evil")
    }
}
impl std::error::Error for Evil {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::panic::resume_unwind(Box::new("in silence"))
    }
}

type Connect = Arc<dyn Fn() -> Result<(), Evil> + Send + Sync>;
struct M(Connect);
impl ManageConnection for M {
    type Connection = ();
    type Error = Evil;
    fn connect(&self) -> Result<(), Evil> {
        (self.0)()
    }
    fn is_valid(&self, _: &mut ()) -> Result<(), Evil> {
        Ok(())
    }
    fn has_broken(&self, _: &mut ()) -> bool {
        false
    }
}
fn ok() -> M {
    M(Arc::new(|| Ok(())))
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>, Duration);
impl HandleEvent for Log {
    fn handle_leak(&self, _: LeakEvent) {
        self.0.lock().unwrap().push("leak");
    }
    fn handle_leak_end(&self, _: LeakEvent) {
        thread::sleep(self.1);
        self.0.lock().unwrap().push("end");
    }
}

#[test]
fn p11_close_waits_for_the_notice_of_a_detach() {
    let (mut partial, mut early) = (0, 0);
    for _ in 0..100 {
        let log = Log(Default::default(), ms(20));
        let pool = Pool::builder()
            .max_size(1)
            .min_idle(Some(0))
            .leak_threshold(Some(ms(1)))
            .event_handler(Box::new(log.clone()))
            .build(ok())
            .unwrap();
        let held = pool.get().unwrap();
        until(|| log.0.lock().unwrap().len() == 1);
        thread::scope(|s| {
            let closer = s.spawn(|| {
                let r = pool.close(soon(5000));
                (r, log.0.lock().unwrap().len())
            });
            thread::sleep(ms(5));
            fairpool::PooledConnection::detach(held);
            let (report, calls) = closer.join().unwrap();
            partial += usize::from(!report.is_complete());
            early += usize::from(report.is_complete() && calls < 2);
        });
    }
    assert_eq!(
        (partial, early),
        (0, 0),
        "(reports of left threads 5 s before the deadline, complete with a hook to come)"
    );
}

/// The pool ends while the reaper, which found the leak, starts 40 closes.
#[test]
fn p9_a_leak_is_told_before_its_end() {
    let mut wrong = 0;
    for _ in 0..10 {
        let log = Log::default();
        let pool = Pool::builder()
            .max_size(41)
            .min_idle(Some(40))
            .max_closers(64)
            .max_opening(64)
            .idle_timeout(Some(ms(50)))
            .leak_threshold(Some(ms(50)))
            .lifetime_jitter(0.0)
            .event_handler(Box::new(log.clone()))
            .build(ok())
            .unwrap();
        let held = pool.get().unwrap();
        while pool.stats().leaks == 0 {
            std::hint::spin_loop();
        }
        drop(held);
        until(|| log.0.lock().unwrap().len() >= 2);
        wrong += usize::from(log.0.lock().unwrap()[0] == "end");
        let _ = pool.close(soon(5000));
    }
    assert_eq!(wrong, 0, "times in the wrong order");
}

#[derive(Debug)]
struct Taker;
impl HandleError<Evil> for Taker {
    fn handle_error(&self, _: Evil) {}
    fn inspect_error(&self, _: &Evil) -> bool {
        false
    }
}

/// For a handler that takes errors by value, the pool copies their texts.
#[test]
fn p10_a_source_that_panics_loses_no_slot() {
    let n = AtomicUsize::new(0);
    let pool = Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .connect_backoff(ms(1), ms(1))
        .error_handler(Box::new(Taker))
        .open_timeout(ms(300))
        .build(M(Arc::new(move || if n.fetch_add(1, SeqCst) == 0 { Err(Evil) } else { Ok(()) })))
        .unwrap();
    let _ = pool.get_timeout(ms(100)).map(drop);
    thread::sleep(ms(600));
    let stats = pool.stats();
    let report = pool.close(soon(1000));
    assert!(report.is_complete(), "{report}; {stats:?}");
}

#[test]
fn p10_an_error_can_be_printed_whose_source_panics() {
    let pool = Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .connect_backoff(ms(1), ms(1))
        .build(M(Arc::new(|| Err(Evil))))
        .unwrap();
    let error = pool.get_timeout(ms(50)).unwrap_err();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| error.to_string())).is_ok());
}

#[derive(Debug, Default)]
struct CloseIt(Arc<Mutex<Option<Pool<M>>>>, Arc<AtomicUsize>, bool);
impl HandleEvent for CloseIt {
    fn handle_leak(&self, _: LeakEvent) {
        let pool = self.0.lock().unwrap().take().unwrap();
        if self.2 {
            let _ = pool.close(soon(100));
        }
        drop(pool);
        self.1.fetch_add(1, SeqCst);
    }
    fn handle_leak_end(&self, _: LeakEvent) {
        self.1.fetch_add(1, SeqCst);
    }
}

#[test]
fn p11_a_hook_that_is_told_of_a_leak_may_end_the_pool() {
    for close in [false, true] {
        let (place, calls) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let pool = Pool::builder()
            .max_size(1)
            .min_idle(Some(0))
            .leak_threshold(Some(ms(10)))
            .event_handler(Box::new(CloseIt(place.clone(), calls.clone(), close)))
            .build(ok())
            .unwrap();
        let held = pool.get().unwrap();
        *place.lock().unwrap() = Some(pool);
        until(|| calls.load(SeqCst) == 1);
        drop(held);
        until(|| calls.load(SeqCst) == 2);
    }
}
