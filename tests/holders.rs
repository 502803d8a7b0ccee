//! Who holds connections: leaks are reported, and so are holders that wait for
//! themselves.

#[allow(dead_code)]
#[path = "support/stub.rs"]
mod stub;

use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{LeakEvent, SelfDeadlockEvent};
use fairpool::{Error, ErrorKind, HandleEvent, Pool, PooledConnection, SelfDeadlock};
use fairpool::snapshot::{Holder, NestedGet};
use stub::{Manager, Server, WATCHDOG, builder, eventually, lock, silent_panic, watched};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Long enough that no test that works waits so long.
const LONG: Duration = Duration::from_secs(60);
const AT_ONCE: SelfDeadlock = SelfDeadlock::Fail(Duration::ZERO);

/// Keeps what it is told.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    leaks: Vec<Holder>,
    ends: Vec<Holder>,
    deadlocks: Vec<Vec<NestedGet>>,
}

impl Told {
    fn leaks(&self) -> usize {
        lock(&self.0).leaks.len()
    }

    fn ends(&self) -> usize {
        lock(&self.0).ends.len()
    }

    fn deadlocks(&self) -> usize {
        lock(&self.0).deadlocks.len()
    }
}

impl HandleEvent for Told {
    fn handle_leak(&self, event: LeakEvent) {
        lock(&self.0).leaks.push(event.holder().clone());
    }
    fn handle_leak_end(&self, event: LeakEvent) {
        lock(&self.0).ends.push(event.holder().clone());
    }
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        lock(&self.0).deadlocks.push(event.nested_gets().to_vec());
    }
}

fn pool(size: u32, on_self_deadlock: SelfDeadlock) -> (Pool<Manager>, Told) {
    let told = Told::default();
    let pool = builder(size)
        .on_self_deadlock(on_self_deadlock)
        .connection_timeout(LONG)
        .event_handler(Box::new(told.clone()))
        .build(Server::new().manager())
        .unwrap();
    (pool, told)
}

fn assert_whole(pool: &Pool<Manager>) {
    let size = pool.max_size();
    let all: Vec<_> = (0..size).map(|_| pool.get_timeout(WATCHDOG).unwrap()).collect();
    drop(all);
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0));
}

/// A thread with a name that runs until its result is asked for.
fn named<R: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> mpsc::Receiver<R> {
    let (done, result) = mpsc::channel();
    let body = move || drop(done.send(body()));
    thread::Builder::new().name(name.to_string()).spawn(body).unwrap();
    result
}

// ---------------------------------------------------------------------------
// Nested gets

#[test]
fn p9_a_thread_that_waits_for_itself_fails_at_once_if_asked_for() {
    let (pool, told) = pool(1, AT_ONCE);
    let asked = pool.clone();
    let (error, held_at, waits_at) = watched("a nested get", move || {
        let (held, held_at) = (asked.get().unwrap(), line!());
        let (error, waits_at) = (asked.get().unwrap_err(), line!());
        drop(held);
        (error, held_at, waits_at)
    });
    assert_eq!(error.kind(), ErrorKind::SelfDeadlock);
    assert!(error.is_self_deadlock() && !error.is_timeout());
    assert!(error.waited() < WATCHDOG, "{error}");

    let [nested] = error.nested_gets() else { panic!("{error}") };
    assert_eq!(nested.holder().location().line(), held_at);
    assert_eq!(nested.waits_at().line(), waits_at);
    let text = error.to_string();
    let file = file!();
    for part in [format!("{file}:{held_at}:"), format!("waits for another at {file}:{waits_at}:")] {
        assert!(text.contains(&part), "{text}");
    }
    eventually("it is told", || told.deadlocks() == 1);
    assert_eq!(pool.stats().self_deadlocks, 1);
    assert_eq!(pool.stats().timeouts, 0);
    assert_whole(&pool);
}

#[test]
fn p9_all_the_threads_that_wait_for_themselves_are_named() {
    const THREADS: usize = 4;
    let (pool, told) = pool(THREADS as u32, AT_ONCE);
    let all_hold = Arc::new(Barrier::new(THREADS));
    let results: Vec<_> = (0..THREADS)
        .map(|number| {
            let (pool, all_hold) = (pool.clone(), Arc::clone(&all_hold));
            named(&format!("nester-{number}"), move || {
                let _first = pool.get().unwrap();
                all_hold.wait();
                pool.get().map(drop)
            })
        })
        .collect();
    let results: Vec<Result<(), Error>> =
        results.iter().map(|result| result.recv_timeout(WATCHDOG).expect("an answer")).collect();
    let errors: Vec<&Error> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    // What the first to fail gives back serves the others, one after another.
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].is_self_deadlock());
    let mut names: Vec<_> =
        errors[0].nested_gets().iter().map(|nested| nested.holder().thread()).collect();
    names.sort_unstable();
    assert_eq!(names, ["nester-0", "nester-1", "nester-2", "nester-3"]);
    eventually("it is told", || told.deadlocks() == 1);
    assert_whole(&pool);
}

#[test]
fn p9_by_default_it_is_a_warning_at_once_and_told_at_the_timeout() {
    let (pool, told) = pool(1, SelfDeadlock::default());
    let waiter = named("warned", {
        let pool = pool.clone();
        move || {
            let _held = pool.get().unwrap();
            pool.get_timeout(ms(400)).unwrap_err()
        }
    });
    eventually("it is told", || told.deadlocks() == 1);
    assert_eq!(pool.stats().waiting, 1, "told while it still waits");
    let error = waiter.recv_timeout(WATCHDOG).expect("an answer");
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("held by a thread that itself waits"), "{error}");
    assert_eq!(error.nested_gets().len(), 1);
    assert_eq!(told.deadlocks(), 1, "once");
    assert_whole(&pool);
}

#[test]
fn p9_another_caller_that_times_out_is_told_of_it_too() {
    let (pool, _) = pool(1, SelfDeadlock::Warn);
    let nested = named("nested", {
        let pool = pool.clone();
        move || {
            let _held = pool.get().unwrap();
            pool.get_timeout(ms(500)).unwrap_err()
        }
    });
    eventually("it waits", || pool.stats().self_deadlocks == 1);
    let error = pool.get_timeout(ms(1)).unwrap_err();
    assert_eq!(error.nested_gets()[0].holder().thread(), "nested");
    nested.recv_timeout(WATCHDOG).expect("an answer");
}

#[test]
fn ignored_means_that_nobody_is_told() {
    let (pool, told) = pool(1, SelfDeadlock::Ignore);
    let _held = pool.get().unwrap();
    let error = pool.get_timeout(ms(20)).unwrap_err();
    assert!(error.is_timeout() && error.nested_gets().is_empty(), "{error}");
    assert_eq!((told.deadlocks(), pool.stats().self_deadlocks), (0, 0));
}

#[test]
fn the_error_comes_after_the_span_asked_for() {
    let (pool, told) = pool(1, SelfDeadlock::Fail(ms(60)));
    let held = pool.get().unwrap();
    let error = pool.get().unwrap_err();
    assert!(error.is_self_deadlock(), "{error}");
    assert!((ms(60)..WATCHDOG).contains(&error.waited()), "{error}");
    eventually("it is told", || told.deadlocks() == 1);
    drop(held);
    assert_whole(&pool);
}

#[test]
fn a_deadlock_that_ends_in_time_is_no_error() {
    let (pool, told) = pool(2, SelfDeadlock::Fail(ms(500)));
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    let waiter = thread::spawn({
        let pool = pool.clone();
        move || pool.get().map(drop)
    });
    // Both are held by this thread, which waits as well; then another returns one.
    let helper = thread::spawn({
        let told = told.clone();
        move || {
            eventually("it is told", || told.deadlocks() == 1);
            drop(second);
        }
    });
    let third = pool.get().expect("the helper returns one");
    helper.join().unwrap();
    drop((first, third));
    waiter.join().unwrap().expect("served");
    assert_whole(&pool);
}

#[test]
fn a_guard_that_another_thread_uses_causes_no_error() {
    let (pool, told) = pool(1, AT_ONCE);
    let guard = pool.get().unwrap();
    let (used, is_used) = mpsc::channel();
    let user = thread::spawn(move || {
        guard.touch();
        used.send(()).unwrap();
        thread::sleep(ms(50));
        drop(guard);
    });
    is_used.recv().unwrap();
    drop(pool.get().expect("no deadlock: another thread has it"));
    user.join().unwrap();
    assert_eq!((told.deadlocks(), pool.stats().self_deadlocks), (0, 0));
    assert_whole(&pool);
}

#[test]
fn a_guard_that_lies_unused_for_less_than_the_span_causes_no_error() {
    let (pool, _) = pool(1, SelfDeadlock::Fail(LONG));
    let guard = pool.get().unwrap();
    let keeper = thread::spawn(move || {
        thread::sleep(ms(50));
        drop(guard);
    });
    drop(pool.get().expect("no deadlock: another thread has it"));
    keeper.join().unwrap();
    assert_whole(&pool);
}

#[test]
fn a_guard_that_is_used_within_the_span_causes_no_error() {
    let (pool, told) = pool(1, SelfDeadlock::Fail(ms(300)));
    let guard = pool.get().unwrap();
    let user = thread::spawn({
        let told = told.clone();
        move || {
            eventually("it looks like a deadlock", || told.deadlocks() == 1);
            guard.touch();
            thread::sleep(ms(600));
            drop(guard);
        }
    });
    drop(pool.get().expect("no deadlock: another thread uses it"));
    user.join().unwrap();
    assert_whole(&pool);
}

#[test]
fn a_guard_that_was_unbound_causes_no_error_and_no_warning() {
    let (pool, told) = pool(1, AT_ONCE);
    let guard = pool.get().unwrap();
    PooledConnection::unbind(&guard);
    let keeper = thread::spawn(move || {
        thread::sleep(ms(50));
        drop(guard);
    });
    drop(pool.get().expect("no deadlock: another thread has it"));
    keeper.join().unwrap();
    assert_eq!((told.deadlocks(), pool.stats().self_deadlocks), (0, 0));
    assert_whole(&pool);
}

#[test]
fn a_connection_that_was_moved_is_at_home_again_with_its_next_holder() {
    let (pool, _) = pool(1, AT_ONCE);
    let guard = pool.get().unwrap();
    thread::spawn(move || guard.touch()).join().unwrap();
    let held = pool.get().unwrap();
    assert!(pool.get().unwrap_err().is_self_deadlock());
    drop(held);
    assert_whole(&pool);
}

#[test]
fn a_get_that_does_not_wait_is_no_deadlock() {
    let (pool, told) = pool(1, AT_ONCE);
    let _held = pool.get().unwrap();
    assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_timeout());
    assert!(pool.try_get().is_none());
    assert_eq!((told.deadlocks(), pool.stats().self_deadlocks), (0, 0));
}

#[test]
fn holders_of_another_pool_are_no_deadlock() {
    let (here, told) = pool(1, AT_ONCE);
    let (elsewhere, _) = pool(1, AT_ONCE);
    let held = here.get().unwrap();
    let waiter = named("holds elsewhere", {
        let here = here.clone();
        move || {
            let _other = elsewhere.get().unwrap();
            here.get().map(drop)
        }
    });
    eventually("it waits", || here.stats().waiting == 1);
    drop(held);
    waiter.recv_timeout(WATCHDOG).expect("an answer").expect("a connection");
    assert_eq!((told.deadlocks(), here.stats().self_deadlocks), (0, 0));
}

#[test]
fn one_holder_that_does_not_wait_is_no_deadlock() {
    let (pool, told) = pool(2, AT_ONCE);
    let free = pool.get().unwrap();
    let nested = named("nested", {
        let pool = pool.clone();
        move || {
            let _held = pool.get().unwrap();
            pool.get().map(drop)
        }
    });
    eventually("it waits", || pool.stats().waiting == 1);
    thread::sleep(ms(20));
    drop(free);
    nested.recv_timeout(WATCHDOG).expect("an answer").expect("a connection");
    assert_eq!((told.deadlocks(), pool.stats().self_deadlocks), (0, 0));
}

#[test]
fn a_pool_that_shrinks_to_what_its_waiters_hold_is_a_deadlock() {
    let (pool, told) = pool(2, AT_ONCE);
    let free = pool.get().unwrap();
    let nested = named("nested", {
        let pool = pool.clone();
        move || {
            let _held = pool.get().unwrap();
            pool.get().map(drop)
        }
    });
    eventually("it waits", || pool.stats().waiting == 1);
    pool.set_max_size(1).unwrap();
    drop(free); // closed as excess
    let error = nested.recv_timeout(WATCHDOG).expect("an answer").unwrap_err();
    assert!(error.is_self_deadlock(), "{error}");
    eventually("it is told", || told.deadlocks() == 1);
}

// ---------------------------------------------------------------------------
// Leaks

fn leaky(size: u32, threshold: Duration) -> (Pool<Manager>, Told) {
    let told = Told::default();
    let pool = builder(size)
        .leak_threshold(Some(threshold))
        .event_handler(Box::new(told.clone()))
        .build(Server::new().manager())
        .unwrap();
    (pool, told)
}

#[test]
fn p9_a_connection_held_too_long_is_reported_once_and_so_is_its_return() {
    let (pool, told) = leaky(2, ms(40));
    let got = Instant::now();
    let holder = named("leaker", {
        let pool = pool.clone();
        move || (pool.request().label("a report").get().unwrap(), line!())
    });
    let (guard, line) = holder.recv_timeout(WATCHDOG).unwrap();
    eventually("it is reported", || told.leaks() == 1);
    // When it was got is noted by a clock that ticks.
    assert!(got.elapsed() >= ms(20), "too early");
    thread::sleep(ms(120));
    assert_eq!((told.leaks(), told.ends()), (1, 0), "once");
    assert_eq!(pool.stats().leaks, 1);
    drop(guard);
    eventually("it is told", || told.ends() == 1);

    let book = lock(&told.0);
    for (what, holder, at_least) in
        [("leak", &book.leaks[0], ms(40)), ("end", &book.ends[0], ms(160))]
    {
        assert_eq!(holder.thread(), "leaker", "{what}");
        assert_eq!(holder.location().line(), line, "{what}");
        assert_eq!(holder.label(), Some("a report"), "{what}");
        assert!(holder.held_for() >= at_least, "{what}: {:?}", holder.held_for());
    }
}

#[test]
fn each_checkout_is_reported_anew_and_short_ones_are_not() {
    let (pool, told) = leaky(2, ms(50));
    for round in 1..=3 {
        let guard = pool.get().unwrap();
        eventually("it is reported", || told.leaks() == round);
        drop(guard);
        eventually("it is told", || told.ends() == round);
    }
    let busy = Instant::now();
    while busy.elapsed() < ms(150) {
        drop(pool.get().unwrap());
    }
    assert_eq!((told.leaks(), told.ends()), (3, 3));
}

#[test]
fn every_way_back_ends_a_leak() {
    let (pool, told) = leaky(3, ms(20));
    let (dropped, discarded, detached) =
        (pool.get().unwrap(), pool.get().unwrap(), pool.get().unwrap());
    eventually("they are reported", || told.leaks() == 3);
    drop(dropped);
    PooledConnection::discard(discarded);
    drop(PooledConnection::detach(detached));
    eventually("it is told", || told.ends() == 3);
    assert_whole(&pool);
}

#[test]
fn p10_a_panic_in_these_hooks_costs_nobody_anything() {
    #[derive(Debug)]
    struct Bomb;
    impl HandleEvent for Bomb {
        fn handle_leak(&self, _: LeakEvent) {
            silent_panic();
        }
        fn handle_leak_end(&self, _: LeakEvent) {
            silent_panic();
        }
        fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
            silent_panic();
        }
    }
    let server = Server::new();
    let pool = builder(1)
        .leak_threshold(Some(ms(10)))
        .on_self_deadlock(AT_ONCE)
        .event_handler(Box::new(Bomb))
        .build(server.manager())
        .unwrap();
    for round in 1..=3 {
        let held = pool.get().unwrap();
        assert!(pool.get().unwrap_err().is_self_deadlock());
        eventually("it is reported", || pool.stats().leaks == round);
        drop(held);
    }
    assert_whole(&pool);
    server.check();
}

#[test]
fn these_hooks_may_use_the_pool() {
    #[derive(Debug, Default)]
    struct Nosy(OnceLock<Pool<Manager>>);
    impl Nosy {
        fn ask(&self) {
            let pool = self.0.get().unwrap();
            assert_eq!(pool.stats().max_size, 1);
            assert!(pool.try_get().is_none_or(|conn| !format!("{conn:?}").is_empty()));
        }
    }
    #[derive(Clone, Debug, Default)]
    struct Handler(Arc<Nosy>);
    impl HandleEvent for Handler {
        fn handle_leak(&self, _: LeakEvent) {
            self.0.ask();
        }
        fn handle_leak_end(&self, _: LeakEvent) {
            self.0.ask();
        }
        fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
            self.0.ask();
        }
    }
    let handler = Handler::default();
    let pool = builder(1)
        .leak_threshold(Some(ms(10)))
        .on_self_deadlock(AT_ONCE)
        .event_handler(Box::new(handler.clone()))
        .build(Server::new().manager())
        .unwrap();
    handler.0.0.set(pool.clone()).unwrap();
    watched("hooks that use the pool", move || {
        let held = pool.get().unwrap();
        assert!(pool.get().unwrap_err().is_self_deadlock());
        eventually("it is reported", || pool.stats().leaks == 1);
        drop(held);
    });
}

// ---------------------------------------------------------------------------
// The log

mod logged {
    use super::*;

    struct Keep(Mutex<Vec<String>>);

    static KEPT: Keep = Keep(Mutex::new(Vec::new()));

    impl log::Log for Keep {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let said = record.args().to_string();
            if said.contains("'panics'") {
                silent_panic();
            }
            if said.contains("'says'") {
                lock(&self.0).push(format!("{} {} {said}", record.level(), record.target()));
            }
        }
        fn flush(&self) {}
    }

    fn install() {
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| {
            log::set_logger(&KEPT).unwrap();
            log::set_max_level(log::LevelFilter::Trace);
        });
    }

    fn provoke(name: &str) -> u32 {
        let server = Server::new();
        let pool = builder(1)
            .name(name)
            .leak_threshold(Some(ms(10)))
            .on_self_deadlock(AT_ONCE)
            .build(server.manager())
            .unwrap();
        let line = watched("what is logged", move || {
            let (held, line) = (pool.get().unwrap(), line!());
            assert!(pool.get().unwrap_err().is_self_deadlock());
            eventually("it is reported", || pool.stats().leaks == 1);
            drop(held);
            PooledConnection::discard(pool.get().unwrap());
            assert_whole(&pool);
            line
        });
        eventually("all is closed", || server.live() == 0);
        line
    }

    #[test]
    fn p9_the_log_names_threads_and_lines() {
        install();
        let line = provoke("says");
        let said = lock(&KEPT.0).clone();
        let place = format!("{}:{line}:", file!());
        let has = |parts: &[&str]| {
            let all = |text: &&String| parts.iter().all(|part| text.contains(part));
            said.iter().filter(all).count()
        };
        assert_eq!(has(&["WARN fairpool pool 'says': a connection may be leaked", &place]), 1);
        assert_eq!(has(&["WARN fairpool pool 'says': it was not leaked", &place]), 1);
        let deadlock = "every connection is held by a thread that itself waits";
        assert_eq!(has(&["WARN", deadlock, &place, "waits for another at"]), 1, "{said:#?}");
    }

    #[test]
    fn p10_a_logger_that_panics_costs_nobody_anything() {
        install();
        provoke("panics");
    }
}
