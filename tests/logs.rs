//! What the pool logs: each thing once, with its facts as key-values. A logger is code of the
//! application: whatever it does, the pool continues.
//!
//! In a process of its own, since a process has one logger.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{EventKind, Reason};
use fairpool::health::HealthThresholds;
use fairpool::{
    Builder, CallLimits, Label, LoggingErrorHandler, ManageConnection, Pool, PooledConnection,
    SelfDeadlock,
};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, lock, silent_panic, watched,
};
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const AT_ONCE: SelfDeadlock = SelfDeadlock::Fail(Duration::ZERO);

/// One line of the log.
#[derive(Clone, Debug)]
struct Line {
    level: Level,
    text: String,
    facts: BTreeMap<String, String>,
    thread: String,
}

impl Line {
    fn fact(&self, key: &str) -> &str {
        self.facts.get(key).unwrap_or_else(|| panic!("without {key}: {self:?}"))
    }

    fn number(&self, key: &str) -> u64 {
        self.fact(key).parse().unwrap_or_else(|_| panic!("{key} is no number: {self:?}"))
    }
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.facts.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

/// What the logger does with lines about a pool.
#[derive(Clone)]
enum Behaviour {
    Keep,
    Panic,
    Hang(Gate),
    /// Uses the pool.
    Ask(Pool<Manager>),
}

struct Logger {
    logged: Mutex<Vec<Line>>,
    /// Records with [`SPITE`] in them, of whatever target: their texts and values.
    spiteful: Mutex<Vec<String>>,
    behaviours: Mutex<BTreeMap<String, Behaviour>>,
}

static LOGGER: Logger = Logger {
    logged: Mutex::new(Vec::new()),
    spiteful: Mutex::new(Vec::new()),
    behaviours: Mutex::new(BTreeMap::new()),
};

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut logged = Line {
            level: record.level(),
            text: record.args().to_string(),
            facts: BTreeMap::new(),
            thread: thread::current().name().unwrap_or("?").to_string(),
        };
        record.key_values().visit(&mut logged).unwrap();
        let all: Vec<&String> = logged.facts.values().chain([&logged.text]).collect();
        if all.iter().any(|text| text.contains(SPITE)) {
            lock(&self.spiteful).extend(all.into_iter().cloned());
        }
        if record.target() != "fairpool" {
            return;
        }
        let behave = lock(&self.behaviours).get(logged.fact("pool")).cloned();
        lock(&self.logged).push(logged);
        match behave.unwrap_or(Behaviour::Keep) {
            Behaviour::Keep => {}
            Behaviour::Panic => silent_panic(),
            Behaviour::Ask(pool) => {
                drop((pool.stats(), pool.health(), pool.subscribe(10), pool.try_get()));
                drop((pool.diagnose_over(ms(50)), pool.holders(), pool.waiters()));
            }
            Behaviour::Hang(gate) => {
                let me = thread::current();
                // Other threads may log as well, if the machine is busy.
                if me.name().is_some_and(|me| me == "slow" || me.contains("-worker-")) {
                    gate.pass();
                }
            }
        }
    }

    fn flush(&self) {}
}

fn named(name: &str, set: impl FnOnce(Builder<Manager>) -> Builder<Manager>) -> Builder<Manager> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOGGER).unwrap();
        log::set_max_level(LevelFilter::Debug);
    });
    set(builder(1).name(name).on_self_deadlock(SelfDeadlock::Ignore))
}

/// What was logged about this pool so far.
fn logged(pool: &str) -> Vec<Line> {
    let all: MutexGuard<'_, Vec<Line>> = lock(&LOGGER.logged);
    let mine = all.iter().filter(|logged| logged.fact("pool") == pool).cloned().collect::<Vec<_>>();
    for it in &mine {
        assert!(it.text.starts_with(&format!("pool '{pool}': ")), "{it:?}");
        assert!(!it.text.contains('\n'), "{it:?}");
    }
    mine
}

/// The lines that contain `part`.
fn lines(pool: &str, part: &str) -> Vec<Line> {
    logged(pool).into_iter().filter(|logged| logged.text.contains(part)).collect()
}

#[track_caller]
fn await_lines(pool: &str, part: &str, times: usize) -> Vec<Line> {
    eventually(part, || lines(pool, part).len() >= times);
    let lines = lines(pool, part);
    assert_eq!(lines.len(), times, "{lines:#?}");
    lines
}

fn behave(pool: &str, behave: Behaviour) {
    lock(&LOGGER.behaviours).insert(pool.to_string(), behave);
}

// ---------------------------------------------------------------------------
// What is logged

#[test]
fn an_outage_is_logged_once_and_its_end_once() {
    let server = Server::new();
    let pool = named("outage", |builder| builder).build(server.manager()).unwrap();
    for outage in 1..=2 {
        server.on(Op::Connect, Does::Fail);
        let before = server.calls(Op::Connect);
        assert!(pool.get_timeout(ms(20)).unwrap_err().is_timeout());
        eventually("it is tried often", || {
            pool.get_timeout(ms(20)).unwrap_err();
            server.calls(Op::Connect) >= before + 5
        });
        server.on(Op::Connect, Does::Succeed);
        let failures = pool.stats().open_failures;
        PooledConnection::discard(pool.get().unwrap());

        let ends = await_lines("outage", "connecting succeeds again", outage);
        let begins = await_lines("outage", "connecting fails: attempt", outage);
        assert_eq!((begins[0].level, ends[0].level), (Level::Error, Level::Info));
        let end = ends.last().unwrap();
        // Another attempt may have failed between the count and the end.
        let counted: u64 = ends.iter().map(|end| end.number("failures")).sum();
        assert!(counted >= failures && counted == pool.stats().open_failures, "{end:?}");
        assert!(end.text.contains(&format!("and {} failures", end.fact("failures"))), "{end:?}");
        assert!(end.number("lasted_ms") > 0, "{end:?}");
    }
    assert!(pool.stats().open_failures >= 10);
}

#[test]
fn a_check_that_fails_is_logged_with_its_connection() {
    let server = Server::new();
    let set = |builder: Builder<Manager>| builder.test_on_check_out(true);
    let pool = named("checks", set).build(server.manager()).unwrap();
    let id = PooledConnection::info(&pool.get().unwrap()).id;
    server.next(Op::IsValid, Does::Fail);
    drop(pool.get().unwrap());
    let lines = await_lines("checks", "failed its check: the connection is dead", 1);
    assert_eq!((lines[0].level, lines[0].number("connection_id")), (Level::Warn, id));
}

/// A manager that has heard of no limits yet does not connect.
struct Limited(OnceLock<CallLimits>);

impl ManageConnection for Limited {
    type Connection = ();
    type Error = fmt::Error;

    fn check_limits(&self, limits: &CallLimits) -> Vec<String> {
        self.0.set(*limits).expect("asked once");
        vec![format!("its own limit is not below open_timeout ({:?})", limits.open)]
    }
    fn connect(&self) -> Result<(), fmt::Error> {
        self.0.get().map(|_| ()).ok_or(fmt::Error)
    }
    fn is_valid(&self, _: &mut ()) -> Result<(), fmt::Error> {
        Ok(())
    }
    fn has_broken(&self, _: &mut ()) -> bool {
        false
    }
}

#[test]
fn a_manager_hears_of_the_limits_before_it_connects_and_what_does_not_fit_is_logged_once() {
    drop(named("limits", |builder| builder));
    let pool = Pool::builder()
        .name("limits")
        .max_size(3)
        .open_timeout(ms(7000))
        .build(Limited(OnceLock::new()))
        .unwrap();
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().open_failures, 0);
    let lines = await_lines("limits", "its own limit is not below open_timeout (7s)", 1);
    assert_eq!(lines[0].level, Level::Warn);
}

/// A driver whose connection counts the resets that found something.
struct Forgetful;

impl ManageConnection for Forgetful {
    type Connection = u32;
    type Error = std::io::Error;

    fn connect(&self) -> Result<u32, Self::Error> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u32) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u32) -> bool {
        false
    }

    fn needs_reset(&self, _: &mut u32) -> bool {
        true
    }

    fn reset(&self, conn: &mut u32) -> Result<(), Self::Error> {
        *conn += 1;
        if *conn == 4 { Err(Self::Error::other("cannot be reset")) } else { Ok(()) }
    }

    fn left_behind(&self, conn: &mut u32) -> Option<Cow<'static, str>> {
        (*conn > 1).then(|| format!("{} open transactions", *conn).into())
    }
}

#[test]
fn what_was_left_behind_is_logged_with_its_holder_once_a_second() {
    let _ = named("leftovers", |builder| builder); // sets the logger
    let pool = Pool::builder().max_size(1).name("leftovers").build(Forgetful).unwrap();
    let leave = || {
        let conn = pool.request().label("report").get().unwrap();
        (PooledConnection::info(&conn).id, line!() - 1)
    };
    let (id, line) = leave(); // nothing was left
    let _ = (leave(), leave());
    drop(pool.get().unwrap());
    let logged = await_lines("leftovers", "came back with", 1);
    let here = thread::current().name().unwrap()[..23].to_owned();
    let expected = format!(
        "pool 'leftovers': connection {id} came back with 2 open transactions: \
         got by thread '{here}' at {}:{line}:",
        file!()
    );
    assert!(logged[0].text.starts_with(&expected), "{expected}: {logged:?}");
    assert!(logged[0].text.ends_with(" (report)"), "{logged:?}");
    assert_eq!((logged[0].level, logged[0].number("connection_id")), (Level::Warn, id));
    assert_eq!(logged[0].fact("thread"), here);
    assert!(logged[0].fact("location").starts_with(&format!("{}:{line}:", file!())));

    // The fourth reset failed, which is a left-behind state too. Connections have come back
    // so twice since the line.
    thread::sleep(ms(1001));
    let failed = await_lines("leftovers", "failed its check: cannot be reset", 1);
    assert_eq!(failed[0].level, Level::Debug, "the warning of what was left says enough");
    let _ = (leave(), leave());
    drop(pool.get().unwrap());
    let logged = await_lines("leftovers", "came back with", 2);
    assert!(logged[1].text.contains("; 2 more came back so since the last"), "{logged:?}");
}

#[test]
fn a_close_is_logged_with_its_reason() {
    let pool = named("reasons", |builder| builder).build(Server::new().manager()).unwrap();
    let id = PooledConnection::info(&pool.get().unwrap()).id;
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
    let lines = await_lines("reasons", "closing connection", 1);
    let reason = Reason::PoolClosed.to_string();
    assert_eq!(lines[0].text, format!("pool 'reasons': closing connection {id}: {reason}"));
    assert_eq!((lines[0].fact("reason"), lines[0].number("connection_id")), (&*reason, id));
}

#[test]
fn slow_gets_are_logged_one_a_second_with_how_many_more_there_were() {
    // The connection is open from the start, so that the first get is not slow.
    let set = |it: Builder<Manager>| it.min_idle(Some(1)).slow_get_threshold(Some(ms(10)));
    let pool = named("slow", set).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let id = PooledConnection::info(&held).id;
    let begun = Instant::now();
    let mut line = 0;
    let mut slow = 0;
    eventually("it is logged again", || {
        line = line!() + 1;
        pool.request().label("report").timeout(ms(15)).get().unwrap_err();
        slow += 1;
        lines("slow", "slow get").len() == 2
    });
    assert!(begun.elapsed() >= ms(1000), "twice in {:?}", begun.elapsed());
    let logged = lines("slow", "slow get");
    assert_eq!(logged[0].level, Level::Warn);
    assert!(!logged[0].text.contains("more slow gets"), "{logged:?}");
    // The second line counts the slow gets in between.
    let more = format!("; {} more slow gets since the last such line", slow - 2);
    assert!(logged[1].text.ends_with(&more), "{more}: {logged:?}");
    for it in &logged {
        assert!(it.fact("location").starts_with(&format!("{}:{line}:", file!())), "{it:?}");
        assert!(it.text.contains("(report) got none after "), "{it:?}");
        assert!(it.number("waited_ms") >= 15 && it.number("get_id") > 0, "{it:?}");
        let here = thread::current();
        let here = here.name().unwrap();
        assert!(it.thread == here && here.starts_with(it.fact("thread")), "{it:?}");
    }
    assert!(logged[0].number("get_id") < logged[1].number("get_id"));

    // A slow get that succeeds logs its connection.
    thread::sleep(ms(1000));
    thread::scope(|scope| {
        let get = scope.spawn(|| drop(pool.get().unwrap()));
        eventually("it waits", || pool.stats().waiting == 1);
        thread::sleep(ms(15));
        drop(held);
        get.join().unwrap();
    });
    let last = lines("slow", "got a connection after").pop().unwrap();
    assert_eq!(last.number("connection_id"), id);
}

#[test]
fn gets_that_are_not_slow_are_not_logged() {
    for (name, threshold) in [("quick", Some(WATCHDOG)), ("mute", None)] {
        let set = |builder: Builder<Manager>| builder.slow_get_threshold(threshold);
        let pool = named(name, set).build(Server::new().manager()).unwrap();
        let held = pool.get().unwrap();
        pool.get_timeout(ms(20)).unwrap_err();
        drop(held);
        drop(pool.get().unwrap());
        assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
        let shown: Vec<Line> =
            logged(name).into_iter().filter(|line| line.level < Level::Debug).collect();
        assert!(shown.is_empty(), "{shown:#?}");
    }
}

#[test]
fn leaks_are_logged_with_their_holder() {
    let set = |builder: Builder<Manager>| builder.leak_threshold(Some(ms(20)));
    let pool = named("leaks", set).build(Server::new().manager()).unwrap();
    let (held, line) = (pool.get().unwrap(), line!());
    let id = PooledConnection::info(&held).id;
    let leaks = await_lines("leaks", "a connection may be leaked: held by thread", 1);
    drop(held);
    let ends = await_lines("leaks", "not a leak: a connection came back, held by thread", 1);
    for it in [&leaks[0], &ends[0]] {
        assert_eq!((it.level, it.number("connection_id")), (Level::Warn, id));
        assert!(it.fact("location").starts_with(&format!("{}:{line}:", file!())), "{it:?}");
        assert!(thread::current().name().unwrap().starts_with(it.fact("thread")), "{it:?}");
        assert!(it.number("held_ms") >= 20, "{it:?}");
        assert!(it.thread.contains("-worker-"), "on a thread of the pool: {it:?}");
    }
}

#[test]
fn abandoned_driver_calls_are_logged() {
    let (server, gate) = (Server::new(), Gate::new());
    let set = |builder: Builder<Manager>| {
        let limited = builder.open_timeout(ms(20)).close_timeout(ms(20)).validation_timeout(ms(20));
        limited.test_on_check_out(true)
    };
    let pool = named("hung", set).build(server.manager()).unwrap();
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let first = pool.get().unwrap();
    let id = PooledConnection::info(&first).id;
    let connect = await_lines("hung", "the connect was abandoned: it has not returned for", 1);
    assert_eq!((connect[0].fact("call"), connect[0].number("connection_id")), ("connect", 0));
    // The abandoned connect also begins an outage, and the next one ends it.
    await_lines("hung", "connecting fails: the driver's connect does not return", 1);

    drop(first);
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    let second = pool.get().unwrap();
    let text = format!("the check of connection {id} was abandoned");
    let check = await_lines("hung", &text, 1);
    assert_eq!((check[0].fact("call"), check[0].number("connection_id")), ("check", id));

    let id = PooledConnection::info(&second).id;
    server.next(Op::Close, Does::Hang(gate.clone()));
    PooledConnection::discard(second);
    let close = await_lines("hung", &format!("the close of connection {id} was abandoned"), 1);
    assert_eq!((close[0].fact("call"), close[0].number("connection_id")), ("close", id));
    for it in [&connect[0], &check[0], &close[0]] {
        assert!(it.level == Level::Warn && it.number("after_ms") >= 20, "{it:?}");
    }
    gate.open();
}

#[test]
fn doubt_is_logged_with_what_cast_it_and_how_many_are_in_doubt_once_a_second() {
    let server = Server::new();
    let pool = named("doubt", |builder| builder.max_size(4)).build(server.manager()).unwrap();
    let mut all: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    let dead = all.pop().unwrap();
    let id = PooledConnection::info(&dead).id;
    drop(all);
    PooledConnection::discard(dead);
    let text = format!("connection {id} is broken: 3 idle connections are checked before the next");
    let line = await_lines("doubt", &text, 1).remove(0);
    assert_eq!((line.level, line.fact("reason"), line.number("idle")), (Level::Info, "broken", 3));
    assert_eq!(line.number("connection_id"), id);
    // Those that are left are in doubt already.
    PooledConnection::discard(pool.get().unwrap());
    assert_eq!(lines("doubt", "checked before the next use").len(), 1);
}

#[test]
fn changes_of_health_are_logged() {
    let mut thresholds = HealthThresholds::default();
    // The very first get waits as well, for its connection.
    thresholds.waiters_warning = 2;
    thresholds.waiters_critical = 3;
    thresholds.wait_warning = WATCHDOG;
    thresholds.wait_critical = 2 * WATCHDOG;
    thresholds.calm_for = Duration::ZERO;
    let set = |builder: Builder<Manager>| builder.health_thresholds(thresholds);
    let pool = named("health", set).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    thread::scope(|scope| {
        let wait = || drop(pool.get().unwrap());
        (0..2).for_each(|_| drop(scope.spawn(wait)));
        let warning = await_lines("health", "was healthy, is warning: 2 waiting", 1);
        scope.spawn(wait);
        let critical = await_lines("health", "was warning, is critical: 3 waiting", 1);
        for (it, level, name, waiting) in
            [(&warning[0], Level::Warn, "warning", 2), (&critical[0], Level::Error, "critical", 3)]
        {
            assert_eq!((it.level, it.fact("health")), (level, name));
            assert_eq!(it.number("waiting"), waiting);
            assert!(it.number("oldest_wait_ms") >= it.number("mean_wait_ms"), "{it:?}");
        }
        drop(held);
    });
    eventually("it is healthy again", || !lines("health", "is healthy: ").is_empty());
    let healthy = lines("health", "is healthy: ");
    assert_eq!((healthy[0].level, healthy[0].fact("health")), (Level::Info, "healthy"));
}

#[test]
fn a_deadlock_is_logged() {
    let set = |builder: Builder<Manager>| builder.on_self_deadlock(SelfDeadlock::Warn);
    let pool = named("nested", set).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    held.touch();
    pool.get_timeout(ms(20)).unwrap_err();
    let lines = await_lines("nested", "waits for another at", 1);
    assert_eq!(lines[0].level, Level::Warn);
    drop(held);
}

// ---------------------------------------------------------------------------
// Loggers that misbehave

/// A pool in which everything that is logged happens, one after the other.
fn eventful(name: &str) -> (Pool<Manager>, Server) {
    let server = Server::new();
    server.next(Op::Connect, Does::Fail);
    server.next(Op::IsValid, Does::Fail);
    let mut thresholds = HealthThresholds::default();
    thresholds.waiters_warning = 1;
    let pool = named(name, |builder| {
        builder
            .test_on_check_out(true)
            .validation_timeout(ms(100))
            .leak_threshold(Some(ms(20)))
            .slow_get_threshold(Some(Duration::from_micros(1)))
            .health_thresholds(thresholds)
    });
    (pool.build(server.manager()).unwrap(), server)
}

/// Makes everything happen that is logged, with a logger that behaves like this.
fn log_everything(name: &'static str, behaviour: impl FnOnce(&Pool<Manager>) -> Behaviour) {
    let (pool, server) = eventful(name);
    behave(name, behaviour(&pool));
    let there = pool.clone();
    watched("gets whose lines the logger gets", move || {
        drop(there.get().unwrap()); // after a failure: slow
        let held = there.get().unwrap(); // after a check that failed
        there.get_timeout(ms(20)).unwrap_err();
        eventually("the leak is found", || there.stats().leaks >= 1);
        drop(held);
        drop(there.get().unwrap());
    });
    for part in ["connecting fails", "succeeds again", "failed its check", "slow get", "leaked"] {
        eventually(part, || !lines(name, part).is_empty());
    }
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    server.check();
    behave(name, Behaviour::Keep);
}

#[test]
fn a_logger_that_panics_hurts_nobody() {
    log_everything("panics", |_| Behaviour::Panic);
}

#[test]
fn a_logger_may_use_the_pool() {
    log_everything("asks", |pool| Behaviour::Ask(pool.clone()));
}

#[test]
fn a_logger_that_hangs_hurts_nobody_but_who_was_slow() {
    let gate = Gate::new();
    behave("hangs", Behaviour::Hang(gate.clone()));
    let (pool, server) = eventful("hangs");
    let slow = pool.clone();
    // This get waits for a second attempt, and its own thread logs that it was slow.
    let get = move || drop(slow.get().unwrap());
    let slow = thread::Builder::new().name("slow".to_string()).spawn(get).unwrap();
    gate.await_entered(2);
    let there = pool.clone();
    watched("others get what there is", move || {
        there.set_max_size(2).unwrap();
        for _ in 0..3 {
            // The worker logs the failed check and hangs: the check is abandoned.
            drop(there.get().unwrap());
        }
        let held = there.get().unwrap();
        there.stats();
        there.snapshot();
        there.health();
        eventually("the leak is found", || there.stats().leaks >= 1);
        drop(held);
    });
    assert!(!pool.close(Instant::now() + ms(50)).is_complete());
    assert!(pool.get().unwrap_err().is_closed());
    gate.open();
    slow.join().unwrap();
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    server.check();
}

/// Causes all lines about holders. Returns the source line of the get.
fn provoke(name: &'static str) -> u32 {
    let server = Server::new();
    let set = |it: Builder<Manager>| it.leak_threshold(Some(ms(10))).on_self_deadlock(AT_ONCE);
    let pool = named(name, set).build(server.manager()).unwrap();
    let line = watched("gets whose lines the logger gets", move || {
        let (held, line) = (pool.get().unwrap(), line!());
        held.touch();
        assert!(pool.get().unwrap_err().is_self_deadlock());
        eventually("it is reported", || pool.stats().leaks == 1);
        drop(held);
        PooledConnection::discard(pool.get().unwrap());
        drop(pool.get_timeout(WATCHDOG).unwrap());
        let stats = pool.stats();
        assert_eq!((stats.in_use, stats.waiting), (0, 0));
        // Everything is logged when the pool has ended.
        let report = pool.close(Instant::now() + WATCHDOG);
        assert!(report.is_complete(), "{report}");
        line
    });
    assert_eq!(server.live(), 0);
    line
}

#[test]
fn p9_the_log_names_threads_and_lines() {
    let line = provoke("holders");
    let place = format!("{}:{line}:", file!());
    let warnings = |parts: &[&str]| {
        let has_all =
            |it: &&Line| it.level == Level::Warn && parts.iter().all(|part| it.text.contains(part));
        logged("holders").iter().filter(has_all).count()
    };
    assert_eq!(warnings(&["pool 'holders': a connection may be leaked", &place]), 1);
    assert_eq!(warnings(&["pool 'holders': not a leak", &place]), 1);
    let deadlock = "every connection is held by a thread that itself waits";
    let deadlocks = warnings(&[deadlock, &place, "waits for another at"]);
    assert_eq!(deadlocks, 1, "{:#?}", logged("holders"));
}

#[test]
fn p10_a_logger_that_panics_costs_nobody_anything() {
    behave("costs", Behaviour::Panic);
    provoke("costs");
    assert!(!logged("costs").is_empty(), "the logger was not asked");
}

// ---------------------------------------------------------------------------
// Texts from outside

const SPITE: &str = "SPITE";

/// Clears the screen, begins a line of its own, and turns what follows around.
const CONTROLS: &str = "\u{1b}[2J\nEVIL\r\u{202e}\u{2028}\u{200f}\u{9b}";

fn spite(what: &str) -> String {
    format!("{SPITE} {what}{CONTROLS}")
}

/// An error that controls the terminal, and has a megabyte.
#[derive(Debug)]
struct SpiteError(&'static str);

impl fmt::Display for SpiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\0{}", spite(self.0), "y".repeat(1 << 20))
    }
}

impl std::error::Error for SpiteError {}

/// Does in turn what is listed, then succeeds.
#[derive(Default)]
struct Spiteful {
    connects: AtomicUsize,
    checks: AtomicUsize,
}

impl ManageConnection for Spiteful {
    type Connection = ();
    type Error = SpiteError;

    fn check_limits(&self, _: &CallLimits) -> Vec<String> {
        vec![spite("limit")]
    }
    fn connect(&self) -> Result<(), SpiteError> {
        match self.connects.fetch_add(1, Relaxed) {
            0 => Err(SpiteError("connect")),
            1 => resume_unwind(Box::new(SpiteError("panic").to_string())),
            _ => Ok(()),
        }
    }
    fn is_valid(&self, _: &mut ()) -> Result<(), SpiteError> {
        match self.checks.fetch_add(1, Relaxed) {
            0 => Err(SpiteError("check")),
            _ => Ok(()),
        }
    }
    fn has_broken(&self, _: &mut ()) -> bool {
        false
    }
}

/// Everything that a pool of spiteful names, labels, threads and errors can print.
fn print_all(pool: &Pool<Spiteful>, printed: &mut Vec<String>) {
    let events = pool.subscribe(1000).unwrap();
    let label = Label::from(spite("label"));
    let held = pool.request().label(label.clone()).get().unwrap();
    let _: &() = &held; // a use
    let error = pool.request().label(label.clone()).get().unwrap_err();
    assert!(error.is_self_deadlock());
    printed.extend([error.to_string(), format!("{error:?}")]);
    let nested = error.nested_gets();
    printed.extend([nested[0].to_string(), format!("{nested:?}")]);
    let error = thread::scope(|scope| {
        let wait = || pool.request().label(label.clone()).timeout(ms(300)).get().unwrap_err();
        let waiting = scope.spawn(wait);
        eventually("it waits", || !pool.waiters().is_empty());
        printed.extend(pool.waiters().iter().flat_map(|it| [it.to_string(), format!("{it:?}")]));
        let diagnosis = pool.diagnose_over(ms(50)).unwrap();
        printed.extend([diagnosis.to_string(), format!("{diagnosis:?}")]);
        printed.extend([diagnosis.snapshot.to_string(), format!("{:?}", diagnosis.snapshot)]);
        waiting.join().unwrap()
    });
    printed.extend([error.to_string(), format!("{error:?}")]);
    eventually("the leak is found", || pool.stats().leaks >= 1);
    printed.extend(pool.holders().iter().flat_map(|it| [it.to_string(), format!("{it:?}")]));
    printed.extend([format!("{pool:?} {held:?} {:?}", pool.request().label(label.clone()))]);
    printed.extend([format!("{:?}", pool.downgrade()), pool.health().to_string()]);
    let report = pool.close(Instant::now() + ms(20));
    printed.extend([report.to_string(), format!("{report:?}")]);
    drop(held);
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    let closed = pool.get().unwrap_err();
    printed.extend([closed.to_string(), format!("{closed:?}")]);
    while let Ok(event) = events.recv_timeout(WATCHDOG) {
        printed.push(format!("{event:?}"));
        if let EventKind::Outage(text) = event.kind {
            printed.push(text);
        }
    }
}

#[test]
fn texts_from_outside_control_no_terminal_begin_no_line_and_fill_no_log() {
    let _ = named("spite", |builder| builder); // sets the logger
    let mut printed = Vec::new();
    let builder = Pool::builder()
        .name(spite("pool"))
        .max_size(1)
        .test_on_check_out(true)
        .leak_threshold(Some(ms(10)))
        .slow_get_threshold(Some(ms(1)))
        .on_self_deadlock(AT_ONCE)
        .error_handler(Box::new(LoggingErrorHandler));
    printed.push(format!("{builder:?}"));
    let pool = builder.build_unchecked(Spiteful::default());
    let first = pool.get_timeout(WATCHDOG);
    drop(first.unwrap());
    let mine = pool.clone();
    let user = thread::Builder::new().name(format!("{SPITE}{}", &CONTROLS[..10]));
    let user = user.spawn(move || {
        let mut printed = Vec::new();
        print_all(&mine, &mut printed);
        printed
    });
    printed.extend(user.unwrap().join().unwrap());

    // An error that is the reason of a wait that has just ended.
    let failing = Pool::builder().name(spite("failing")).max_size(1);
    let failing = failing.build_unchecked(Spiteful::default());
    let error = failing.get_timeout(ms(1)).err();
    eventually("an attempt has failed", || failing.stats().open_failures > 0);
    printed.extend(error.map(|error| format!("{error} {error:?}")));
    let snapshot = failing.snapshot();
    printed.extend([snapshot.to_string(), format!("{snapshot:?}")]);
    printed.extend(snapshot.last_error.map(|error| error.text));

    let logged = lock(&LOGGER.spiteful).clone();
    for part in ["connect", "panic", "check", "limit", "leaked", "slow get", "SPITE label"] {
        assert!(logged.iter().any(|line| line.contains(part)), "no line about {part}");
    }
    let raw = |c: &char| {
        c.is_control() && *c != '\n' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{200f}')
    };
    let short = |text: &str| text.chars().take(300).collect::<String>();
    for text in printed.iter().chain(&logged) {
        assert_eq!(text.chars().find(raw), None, "{:?}", short(text));
        assert!(text.lines().all(|line| !line.starts_with("EVIL")), "{:?}", short(text));
        assert!(text.len() < 100_000, "{} bytes: {:?}", text.len(), short(text));
    }
    for line in &logged {
        assert_eq!(line.lines().count(), 1, "{:?}", short(line));
    }
    assert!(printed.iter().filter(|text| text.contains(SPITE)).count() > 15);
}
