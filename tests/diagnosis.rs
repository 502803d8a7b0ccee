//! What a pool says is wrong with it: each trouble made for real, and nothing said
//! when there is none. And the dump of its state.

#[allow(dead_code)]
#[path = "support/stub.rs"]
mod stub;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::{Builder, CancelToken, Error, ErrorKind, Pool, PooledConnection};
use fairpool::diagnosis::{Diagnosis, FindingKind, Severity};
use fairpool::snapshot::Snapshot;
use stub::{Conn, Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, watched};

use FindingKind::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Longer than any test that works takes.
const LONG: Duration = Duration::from_secs(60);

type Guard = PooledConnection<Manager>;

fn pool_of(server: &Server, settings: Builder<Manager>) -> Pool<Manager> {
    settings.connection_timeout(LONG).build(server.manager()).unwrap()
}

fn pool(size: u32) -> Pool<Manager> {
    pool_of(&Server::new(), builder(size))
}

fn kinds(diagnosis: &Diagnosis) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = diagnosis.findings.iter().map(|finding| finding.kind).collect();
    kinds.sort();
    kinds
}

/// Looks again and again until exactly these things are wrong: how long a machine
/// takes to get there is not what is tested.
#[track_caller]
fn found(pool: &Pool<Manager>, expected: &[FindingKind]) -> Diagnosis {
    let start = Instant::now();
    loop {
        let diagnosis = pool.diagnose_over(ms(150)).unwrap();
        if kinds(&diagnosis) == expected {
            return diagnosis;
        }
        assert!(start.elapsed() < WATCHDOG, "not {expected:?}: {diagnosis}");
    }
}

/// All is well again, and the report says so.
#[track_caller]
fn cured(pool: &Pool<Manager>) {
    let diagnosis = found(pool, &[]);
    assert!(diagnosis.is_healthy() && diagnosis.severity().is_none());
    assert!(diagnosis.to_string().contains("nothing found"), "{diagnosis}");
}

fn evidence(diagnosis: &Diagnosis, kind: FindingKind) -> String {
    diagnosis.finding(kind).expect("this finding").evidence.join("\n")
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

/// Gets connections on a thread of that name, which ends. At the line told.
fn leak(pool: &Pool<Manager>, thread: &str, number: usize) -> (Vec<Guard>, u32) {
    let pool = pool.clone();
    let body = move || ((0..number).map(|_| pool.get().unwrap()).collect(), line!());
    thread::Builder::new().name(thread.into()).spawn(body).unwrap().join().unwrap()
}

/// Callers that wait, each on a thread of its own, until they are served.
struct Callers {
    threads: Vec<JoinHandle<Result<(), Error>>>,
    line: u32,
}

impl Callers {
    /// Returns when all of them are in the queue.
    fn wait(pool: &Pool<Manager>, number: u32) -> Callers {
        let before = pool.stats().waiting;
        let mut line = 0;
        let threads = (0..number).map(|caller| {
            let pool = pool.clone();
            let body = move || pool.get_timeout(LONG).map(drop);
            line = line!() - 1;
            thread::Builder::new().name(format!("caller-{caller}")).spawn(body).unwrap()
        });
        let threads = threads.collect();
        eventually("they wait", || pool.stats().waiting == before + number);
        Callers { threads, line }
    }

    fn served(self) {
        let all = self.threads;
        watched("callers", move || all.into_iter().for_each(|t| t.join().unwrap().unwrap()));
    }
}

// ---------------------------------------------------------------------------
// Nothing is wrong

#[test]
fn an_idle_pool_is_healthy() {
    let pool = pool(4);
    let diagnosis = pool.diagnose();
    assert!(diagnosis.is_healthy(), "{diagnosis}");
    assert!(diagnosis.span >= ms(1000), "{:?}", diagnosis.span);
    assert_eq!(diagnosis.pool, "fairpool");
    assert_eq!(diagnosis.snapshot.stats.max_size, 4);
    let text = diagnosis.to_string();
    assert_contains(&text, &["pool 'fairpool': nothing found within 1.0s (healthy: 0 waiting)"]);
    if cfg!(target_os = "linux") {
        let memory = diagnosis.memory.expect("/proc");
        assert!(memory.resident > 100_000 && memory.peak > 100_000, "{memory:?}");
        assert_contains(&text, &["MiB resident"]);
    }
}

#[test]
fn a_pool_that_nobody_waits_for_is_healthy_even_if_all_is_held() {
    let pool = pool(2);
    let held = leak(&pool, "keeper", 2);
    let diagnosis = pool.diagnose();
    assert!(diagnosis.is_healthy(), "{diagnosis}");
    drop(held);
}

fn busy_is_healthy(hold: Duration) {
    let pool = pool(8);
    let stop = AtomicBool::new(false);
    let gets = || pool.stats().gets;
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let conn = pool.get().unwrap();
                    conn.touch();
                    if !hold.is_zero() {
                        thread::sleep(hold);
                    }
                }
            });
        }
        eventually("they are at work", || gets() > 1000);
        // A machine that stands still for a moment makes callers wait, and then that is
        // found; one that does each time does not.
        let mut looks = (0..5).map(|_| pool.diagnose_over(ms(600)).unwrap());
        let healthy = looks.any(|diagnosis| diagnosis.is_healthy());
        stop.store(true, Ordering::Relaxed);
        assert!(healthy, "{}", pool.diagnose_over(ms(50)).unwrap());
    });
    cured(&pool);
}

#[test]
fn a_pool_under_full_load_with_short_holds_is_healthy() {
    busy_is_healthy(Duration::ZERO);
}

#[test]
fn a_pool_under_full_load_with_holds_of_a_millisecond_is_healthy() {
    busy_is_healthy(ms(1));
}

// ---------------------------------------------------------------------------
// Something is wrong

#[test]
fn a_leak_is_named_by_its_lines_threads_and_ages() {
    let pool = pool(3);
    let (two, line) = leak(&pool, "leaker", 2);
    let one = pool.request().label("a report").get().unwrap();
    let other = line!() - 1;
    let callers = Callers::wait(&pool, 5);

    let diagnosis = found(&pool, &[Leak, Queue]);
    assert!(!evidence(&diagnosis, Leak).contains("99 %"), "no use has ended");
    let leak = diagnosis.finding(Leak).unwrap();
    assert_eq!(leak.severity, Severity::Critical);
    assert_eq!(diagnosis.findings[0].kind, Leak, "the cause comes first");
    assert_contains(&leak.summary, &["nothing comes back: all 3 connections are in use"]);
    let file = file!();
    let lines = evidence(&diagnosis, Leak);
    assert_contains(
        &lines,
        &[
            &format!("2 connections were got at {file}:{line}:"),
            "by leaker, leaker",
            &format!("1 connection was got at {file}:{other}:"),
            "(a report)",
            "5 callers wait, for ",
            ": 0 gets served, 0 timed out",
        ],
    );
    let held: Vec<_> = leak.holders.iter().map(|holder| holder.location().line()).collect();
    assert_eq!(held.len(), 3);
    assert!(held.contains(&line) && held.contains(&other), "{held:?}");
    let waits = format!("5 wait at {file}:{}:", callers.line);
    assert_contains(&evidence(&diagnosis, Queue), &[&waits]);
    let report = diagnosis.to_string();
    assert_contains(&report, &["CRITICAL  nothing comes back", "queue for a connection"]);
    assert!(report.lines().all(|line| line.chars().count() <= 100), "{report}");

    drop((two, one));
    callers.served();
    cured(&pool);
}

#[test]
fn a_leak_is_found_although_callers_leave_at_short_deadlines() {
    let pool = pool(1);
    drop(pool.get().unwrap());
    let held = leak(&pool, "leaker", 1);
    let before = pool.snapshot();
    for _ in 0..8 {
        assert!(pool.get_timeout(ms(10)).unwrap_err().is_timeout());
    }
    let diagnosis = Diagnosis::between(&before, &pool.snapshot()).unwrap();
    assert_eq!(kinds(&diagnosis), [Leak], "{diagnosis}");
    assert_contains(&evidence(&diagnosis, Leak), &["0 gets served, 8 timed out"]);
    if cfg!(feature = "histograms") {
        // What tells long work from a leak.
        let usual = "of 1 use that ended, 99 % took no longer than ";
        assert_contains(&evidence(&diagnosis, Leak), &[usual]);
    }
    drop(held);
    cured(&pool);
}

#[test]
fn a_leak_is_found_before_the_pool_is_dry_if_the_pool_knows_what_is_too_long() {
    let pool = pool_of(&Server::new(), builder(5).leak_threshold(Some(ms(40))));
    let (held, line) = leak(&pool, "leaker", 1);
    let diagnosis = found(&pool, &[Leak]);
    let leak = diagnosis.finding(Leak).unwrap();
    assert_eq!(leak.severity, Severity::Warning);
    assert_contains(&leak.summary, &["1 connection of 1 in use did not come back for 40.0ms"]);
    assert_eq!(leak.holders[0].location().line(), line);
    drop(held);
    cured(&pool);
}

#[test]
fn a_queue_that_only_grows_is_told() {
    let pool = pool(1);
    let held = leak(&pool, "leaker", 1);
    let first = Callers::wait(&pool, 2);
    eventually("they have waited", || pool.health().oldest_wait >= ms(150));
    let before = pool.snapshot();
    let then = Callers::wait(&pool, 3);
    thread::sleep(ms(60));
    let diagnosis = Diagnosis::between(&before, &pool.snapshot()).unwrap();
    assert_eq!(kinds(&diagnosis), [Leak, Queue], "{diagnosis}");
    let grown = "the queue grew from 2 to 5, and nobody left at a deadline";
    assert_contains(&evidence(&diagnosis, Queue), &[grown]);
    drop(held);
    first.served();
    then.served();
    cured(&pool);
}

#[test]
fn a_pool_with_more_work_than_it_can_do_is_saturated() {
    let pool = pool(1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _conn = pool.get().unwrap();
                    thread::sleep(ms(30));
                }
            });
        }
        let diagnosis = watched("a finding", {
            let pool = pool.clone();
            move || found(&pool, &[Saturated])
        });
        stop.store(true, Ordering::Relaxed);
        let text = evidence(&diagnosis, Saturated);
        assert_contains(&text, &["callers wait, for ", "1 connection is held from tests/"]);
        assert!(!text.contains(": 0 gets served"), "{text}");
        let saturated = diagnosis.finding(Saturated).unwrap();
        assert_contains(&saturated.summary, &["than its 1 connection can serve"]);
        assert_contains(&saturated.advice, &["max_size (1)"]);
    });
    cured(&pool);
}

#[test]
fn a_close_that_hangs_is_told_with_its_age() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = pool_of(&server, builder(2).max_closers(1));
    server.on(Op::Close, Does::Hang(gate.clone()));
    let (both, _) = leak(&pool, "user", 2);
    both.into_iter().for_each(PooledConnection::discard);
    let callers = Callers::wait(&pool, 3);

    let diagnosis = found(&pool, &[CloseHangs, Queue]);
    assert_eq!(diagnosis.findings[0].kind, CloseHangs);
    assert_eq!(diagnosis.severity(), Some(Severity::Critical));
    assert_contains(
        &evidence(&diagnosis, CloseHangs),
        &[
            "1 call is in the driver, the oldest for ",
            "0 of them abandoned",
            "1 connection waits for a closer",
            "0 of 2 connections open (0 idle, 0 in use), 0 opening, 2 closing",
        ],
    );
    gate.open();
    callers.served();
    cured(&pool);
    server.check();
}

#[test]
fn a_close_that_was_abandoned_is_still_told() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = pool_of(&server, builder(2).close_timeout(ms(20)));
    server.next(Op::Close, Does::Hang(gate.clone()));
    PooledConnection::discard(pool.get().unwrap());
    let diagnosis = found(&pool, &[CloseHangs]);
    assert_eq!(diagnosis.severity(), Some(Severity::Warning), "nobody suffers");
    assert_contains(&evidence(&diagnosis, CloseHangs), &["1 of them abandoned"]);
    gate.open();
    cured(&pool);
}

#[test]
fn a_connect_that_hangs_is_told_with_its_age() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = pool_of(&server, builder(1));
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let callers = Callers::wait(&pool, 2);
    let diagnosis = found(&pool, &[ConnectHangs, Queue]);
    assert_contains(
        &evidence(&diagnosis, ConnectHangs),
        &["1 call is in the driver, the oldest for ", "0 of 1 connections open", "1 opening"],
    );
    assert_contains(&diagnosis.finding(Queue).unwrap().advice, &["connect hangs"]);
    gate.open();
    callers.served();
    cured(&pool);
}

#[test]
fn connects_that_fail_are_told_with_the_last_error() {
    let server = Server::new();
    let pool = pool_of(&server, builder(2));
    server.on(Op::Connect, Does::Fail);
    let callers = Callers::wait(&pool, 2);
    let diagnosis = found(&pool, &[ConnectFails, Queue]);
    assert_eq!(diagnosis.severity(), Some(Severity::Critical));
    let text = evidence(&diagnosis, ConnectFails);
    assert_contains(&text, &["last error, ", "was refused", "0 of 2 connections open"]);
    server.on(Op::Connect, Does::Succeed);
    callers.served();
    cured(&pool);
}

#[test]
fn callers_that_fail_at_once_for_good_are_told() {
    let server = Server::new();
    let pool = pool_of(&server, builder(2));
    server.on(Op::Connect, Does::FailForGood);
    assert_eq!(pool.get().unwrap_err().kind(), ErrorKind::Connect);
    let before = pool.snapshot();
    let start = Instant::now();
    while start.elapsed() < ms(60) {
        assert_eq!(pool.get().unwrap_err().kind(), ErrorKind::Connect);
    }
    let diagnosis = Diagnosis::between(&before, &pool.snapshot()).unwrap();
    assert_eq!(kinds(&diagnosis), [ConnectFails], "{diagnosis}");
    assert_eq!(diagnosis.severity(), Some(Severity::Critical));
    assert_contains(
        &evidence(&diagnosis, ConnectFails),
        &["wrong password", " gets failed within"],
    );
}

#[test]
fn a_check_that_hangs_is_told_with_its_age() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = pool_of(&server, builder(1).test_on_check_out(true));
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Hang(gate.clone()));
    let callers = Callers::wait(&pool, 2);
    let diagnosis = found(&pool, &[CheckHangs, Queue]);
    assert_contains(&evidence(&diagnosis, CheckHangs), &["the oldest for "]);
    gate.open();
    callers.served();
    cured(&pool);
}

#[test]
fn threads_that_wait_for_themselves_are_told_with_both_lines() {
    let pool = pool(1);
    let cancel = CancelToken::new();
    let nested = thread::Builder::new().name("nester".into());
    let nested = nested.spawn({
        let (pool, cancel) = (pool.clone(), cancel.clone());
        move || {
            let (_first, held_at) = (pool.get().unwrap(), line!());
            let second = pool.request().cancel(&cancel).get().map(drop);
            (second, held_at, line!() - 1)
        }
    });
    let nested = nested.unwrap();
    eventually("it waits", || pool.stats().waiting == 1);
    let diagnosis = found(&pool, &[NestedGets, Queue]);
    cancel.cancel();
    let (second, held_at, waits_at) = nested.join().unwrap();
    assert!(second.unwrap_err().is_cancelled());
    let file = file!();
    assert_contains(
        &evidence(&diagnosis, NestedGets),
        &[
            &format!("thread 'nester' at {file}:{held_at}:"),
            &format!("waits for another at {file}:{waits_at}:"),
        ],
    );
    cured(&pool);
}

#[test]
fn abandoned_calls_at_their_cap_are_told() {
    let (server, gate) = (Server::new(), Gate::new());
    let settings = builder(2).open_timeout(ms(20)).max_abandoned(2);
    let pool = pool_of(&server, settings);
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let callers = Callers::wait(&pool, 2);
    let diagnosis = found(&pool, &[ConnectHangs, AbandonedCalls, Queue]);
    assert_contains(
        &evidence(&diagnosis, AbandonedCalls),
        &["2 of 2 (max_abandoned)", "2 connects, 0 checks, 0 closes", "beyond max_size (2)"],
    );
    gate.open();
    callers.served();
    cured(&pool);
}

#[test]
fn callers_that_are_refused_are_told() {
    let pool = pool_of(&Server::new(), builder(1).max_waiters(Some(1)));
    let held = leak(&pool, "leaker", 1);
    let callers = Callers::wait(&pool, 1);
    eventually("it has waited", || pool.health().oldest_wait >= ms(150));
    let before = pool.snapshot();
    for _ in 0..3 {
        assert!(pool.get().unwrap_err().is_queue_full());
    }
    thread::sleep(ms(60));
    let diagnosis = Diagnosis::between(&before, &pool.snapshot()).unwrap();
    assert_eq!(kinds(&diagnosis), [Leak, Refused, Queue], "{diagnosis}");
    assert_contains(&evidence(&diagnosis, Refused), &["3 within ", "max_waiters is 1"]);
    drop(held);
    callers.served();
    cured(&pool);
}

#[test]
fn a_paused_pool_is_told_and_is_worse_when_callers_wait() {
    let pool = pool(2);
    pool.pause();
    assert_eq!(found(&pool, &[Paused]).severity(), Some(Severity::Info));
    let callers = Callers::wait(&pool, 2);
    let diagnosis = found(&pool, &[Paused, Queue]);
    assert!(diagnosis.severity() > Some(Severity::Info), "{diagnosis}");
    assert_contains(&evidence(&diagnosis, Paused), &["2 callers wait, for "]);
    pool.resume();
    callers.served();
    cured(&pool);
}

#[test]
fn a_closed_pool_names_those_who_still_hold() {
    let pool = pool(2);
    let (held, line) = leak(&pool, "keeper", 1);
    assert!(!pool.close(Instant::now()).is_complete());
    let diagnosis = found(&pool, &[Closed]);
    let place = format!("1 connection was got at {}:{line}:", file!());
    assert_contains(&evidence(&diagnosis, Closed), &[&place, "by keeper"]);
    drop(held);
    cured(&pool);
}

// ---------------------------------------------------------------------------
// How it is asked for

#[test]
fn a_span_that_says_nothing_is_refused() {
    let pool = pool(1);
    for span in [Duration::ZERO, ms(49), Duration::from_secs(3601), Duration::MAX] {
        let error = pool.diagnose_over(span).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_contains(&error.to_string(), &["the span must be between 50ms and one hour, but"]);
        assert!(pool.downgrade().diagnose_over(span).unwrap().is_err());
    }
    let look = pool.snapshot();
    let error = Diagnosis::between(&look, &look).unwrap_err().to_string();
    assert_contains(&error, &["at least 50ms younger than the first, but is 0ns"]);
    let other = pool_of(&Server::new(), builder(1).name("other")).snapshot();
    let error = Diagnosis::between(&look, &other).unwrap_err().to_string();
    assert_contains(&error, &["must be of one pool, but are of 'fairpool' and 'other'"]);
}

#[test]
fn a_watch_diagnoses_without_keeping_the_pool_alive() {
    let pool = pool(1);
    let watch = pool.downgrade();
    assert!(watch.diagnose().unwrap().is_healthy());
    let looks = thread::spawn({
        let watch = watch.clone();
        move || watch.diagnose_over(ms(400)).is_none()
    });
    drop(pool);
    assert!(looks.join().unwrap(), "it has ended meanwhile");
    assert!(watch.diagnose_over(ms(100)).is_none());
}

#[test]
fn a_look_holds_nobody_up() {
    let pool = pool(1);
    let looks = thread::spawn({
        let pool = pool.clone();
        move || pool.diagnose()
    });
    let mut served = 0;
    while !looks.is_finished() {
        drop(pool.get().unwrap());
        served += 1;
    }
    assert!(looks.join().unwrap().is_healthy());
    assert!(served > 1000, "{served} gets in a second");
}

// ---------------------------------------------------------------------------
// The dump

#[test]
fn the_dump_of_an_exhausted_pool_says_who_holds_and_who_waits() {
    let server = Server::new();
    let pool = pool_of(&server, builder(3).name("orders"));
    let (held, line) = leak(&pool, "importer", 3);
    let callers = Callers::wait(&pool, 2);
    let snapshot = pool.snapshot();
    let dump = snapshot.to_string();
    let (file, wait_line) = (file!(), callers.line);
    let id = snapshot.holders[0].connection_id();
    assert_contains(
        &dump,
        &[
            "pool 'orders' is healthy: 2 waiting, for ",
            "  connections: 3 of 3: 0 idle, 3 in use (0 in a check), 0 opening, 0 closing; 0 aband",
            "  gets: 3 served, 3 of them after a wait; 0 timed out, 0 refused, 0 cancelled",
            "  held (3), longest first:",
            &format!("connection {id}  importer  {file}:{line}:"),
            "  waiting (2), next first:",
            &format!("  priority 5  caller-0  {file}:{wait_line}:"),
            &format!("  priority 5  caller-1  {file}:{wait_line}:"),
        ],
    );
    assert_fits(&dump);
    // Those of a list are one below the other.
    let start = |row: &str| Some(row.split_once("importer")?.0.chars().count());
    let starts: HashSet<usize> = dump.lines().filter_map(start).collect();
    assert_eq!(starts.len(), 1, "{dump}");

    drop(held);
    callers.served();
    let dump = pool.snapshot().to_string();
    assert!(!dump.contains("held (") && !dump.contains("waiting ("), "{dump}");
}

fn assert_fits(dump: &str) {
    assert!(dump.lines().all(|line| line.chars().count() <= 100), "{dump}");
    assert!(dump.lines().count() <= 100, "{dump}");
}

#[test]
fn many_at_one_line_share_a_row_of_the_dump() {
    let pool = pool(40);
    let (held, line) = leak(&pool, "importer", 40);
    let callers = Callers::wait(&pool, 25);
    let dump = pool.snapshot().to_string();
    let (file, wait_line) = (file!(), callers.line);
    assert_contains(
        &dump,
        &[
            "  held (40), longest first:",
            &format!("    × 40 at {file}:{line}:"),
            "importer, importer and 3",
            "  waiting (25), next first:",
            &format!("    × 25 at {file}:{wait_line}:"),
            "longest ",
        ],
    );
    assert_fits(&dump);
    drop(held);
    callers.served();
}

#[test]
fn a_long_label_is_cut_where_many_share_a_row() {
    const LABEL: &str = "the nightly report on everything that was ordered, paid, packed, sent, \
                         returned and refunded since the last one was made";
    let pool = pool(20);
    let held: Vec<Guard> = (0..20).map(|_| pool.request().label(LABEL).get().unwrap()).collect();
    let dump = pool.snapshot().to_string();
    assert_contains(&dump, &["    × 20 at ", " (the nightly report on ", "…), longest "]);
    assert_fits(&dump);
    drop(held);
}

#[test]
fn a_dump_of_very_many_lines_is_still_short() {
    let pool = pool(60);
    let label = |number: u32| -> &'static str { Box::leak(format!("job {number}").into()) };
    let one = |number: u32| pool.request().label(label(number)).get().unwrap();
    // The first thirty twice.
    let held: Vec<Guard> = (0..60).map(|number| one(number % 30)).collect();
    let dump = pool.snapshot().to_string();
    let row = format!("    × 2 at {}:", file!());
    assert_eq!(dump.matches(&row).count(), 20, "{dump}");
    assert_contains(&dump, &["    … and 20 more at 10 other lines"]);
    assert_fits(&dump);
    drop(held);
}

#[test]
fn the_dump_tells_of_driver_calls_and_errors() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = pool_of(&server, builder(3).max_closers(1).close_timeout(LONG));
    server.on(Op::Close, Does::Hang(gate.clone()));
    let (held, _) = leak(&pool, "user", 2);
    held.into_iter().for_each(PooledConnection::discard);
    gate.await_entered(1);
    server.on(Op::Connect, Does::Fail);
    let callers = Callers::wait(&pool, 1);
    eventually("connecting fails", || pool.snapshot().failing_for.is_some());
    let dump = pool.snapshot().to_string();
    assert_contains(
        &dump,
        &[
            "  last error, ",
            "was refused",
            "  connecting has failed for ",
            "driver calls (",
            "  close of connection ",
            ", waits for a closer",
        ],
    );
    assert_fits(&dump);
    gate.open();
    server.on(Op::Connect, Does::Succeed);
    callers.served();
}

/// Names, labels and errors come from anywhere.
const HOSTILE: &str = "\u{1b}[2J\"quoted\"\n\\ <b>ü\u{202e}";

#[test]
fn the_dump_and_the_report_send_nothing_to_the_terminal_that_it_acts_on() {
    let pool = pool_of(&Server::new(), builder(1).name(HOSTILE));
    let held = thread::Builder::new().name("\u{1b}]0;x\u{7}".into());
    let held = held.spawn({
        let pool = pool.clone();
        move || pool.request().label(HOSTILE).get().unwrap()
    });
    let held = held.unwrap().join().unwrap();
    let callers = Callers::wait(&pool, 1);
    let dump = pool.snapshot().to_string();
    let report = found(&pool, &[Leak, Queue]).to_string();
    for text in [&dump, &report] {
        let acts = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(acts), "{text:?}");
        assert_contains(text, &[r"\u{1b}[2J", r"\u{1b}]0;x\u{7}"]);
    }
    drop(held);
    callers.served();
}

#[cfg(feature = "serde")]
mod json {
    use super::*;
    use serde_json::Value;

    fn json_of(snapshot: &Snapshot) -> Value {
        // As text and back: what a reader gets.
        serde_json::from_str(&serde_json::to_string(snapshot).unwrap()).unwrap()
    }

    fn assert_seconds(value: &Value, range: std::ops::Range<f64>) {
        let seconds = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
        assert!(range.contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_snapshot_is_json_with_seconds_as_numbers() {
        let server = Server::new();
        let settings = builder(2).name(HOSTILE).leak_threshold(Some(ms(5500)));
        let pool = pool_of(&server, settings);
        let conn = pool.request().label(HOSTILE).priority(3).get().unwrap();
        let line = line!() - 1;
        let other = pool.get().unwrap();
        let callers = Callers::wait(&pool, 1);
        let json = json_of(&pool.snapshot());

        assert_eq!(json["pool"], HOSTILE);
        assert_seconds(&json["taken_at"], 1.7e9..1e11);
        assert_seconds(&json["uptime"], 0.0..60.0);
        assert_eq!((&json["paused"], &json["closed"]), (&false.into(), &false.into()));
        assert_eq!(json["limits"]["leak_threshold"], 5.5);
        assert_eq!(json["limits"]["connection_timeout"], 60.0);
        assert_eq!(json["limits"]["max_waiters"], Value::Null);
        assert_eq!(json["limits"]["health_thresholds"]["wait_warning"], 0.1);
        assert_eq!(json["stats"]["in_use"], 2);
        assert_seconds(&json["stats"]["time_waited"], 0.0..60.0);
        assert_eq!(json["stats"]["closed"]["broken"], 0);
        assert_eq!(json["health"]["level"], "healthy");
        assert_seconds(&json["health"]["mean_wait"], 0.0..60.0);
        let holders = json["holders"].as_array().unwrap();
        let mine = holders.iter().find(|holder| holder["label"] == HOSTILE).unwrap();
        assert_eq!(mine["priority"], 3);
        assert_seconds(&mine["held_for"], 0.0..60.0);
        assert!(mine["connection_id"].as_u64().unwrap() > 0);
        let location = mine["location"].as_str().unwrap();
        assert!(location.starts_with(&format!("{}:{line}:", file!())), "{location}");
        assert_eq!(json["waiters"][0]["thread"], "caller-0");
        assert_seconds(&json["waiters"][0]["waited"], 0.0..60.0);
        assert_eq!(json["nested_gets"], Value::Array(Vec::new()));
        assert_eq!((&json["last_error"], &json["failing_for"]), (&Value::Null, &Value::Null));
        drop((conn, other));
        callers.served();
    }

    #[test]
    fn a_diagnosis_is_json_with_its_findings() {
        let pool = pool_of(&Server::new(), builder(1).name(HOSTILE));
        let held = pool.request().label(HOSTILE).get().unwrap();
        let line = line!() - 1;
        let callers = Callers::wait(&pool, 1);
        let diagnosis = found(&pool, &[Leak, Queue]);
        let text = serde_json::to_string(&diagnosis).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["pool"], HOSTILE);
        assert_seconds(&json["span"], 0.15..60.0);
        assert_seconds(&json["taken_at"], 1.7e9..1e11);
        let leak = &json["findings"][0];
        assert_eq!((&leak["kind"], &leak["severity"]), (&"leak".into(), &"critical".into()));
        assert!(leak["summary"].as_str().unwrap().contains("nothing comes back"));
        assert!(leak["advice"].as_str().is_some());
        let place = format!("1 connection was got at {}:{line}:", file!());
        assert!(leak["evidence"][0].as_str().unwrap().starts_with(&place), "{leak}");
        assert_eq!(leak["holders"][0]["label"], HOSTILE);
        assert_eq!(json["findings"][1]["kind"], "queue");
        assert_eq!(json["snapshot"]["stats"]["in_use"], 1);
        if cfg!(target_os = "linux") {
            assert!(json["memory"]["resident"].as_u64().unwrap() > 0);
            assert!(json["memory"]["peak"].as_u64().unwrap() > 0);
        }
        drop(held);
        callers.served();
    }

    #[test]
    fn errors_and_driver_calls_are_json_too() {
        let (server, gate) = (Server::new(), Gate::new());
        let pool = pool_of(&server, builder(2).max_closers(1));
        server.on(Op::Close, Does::Hang(gate.clone()));
        PooledConnection::discard(pool.get().unwrap());
        gate.await_entered(1);
        server.on(Op::Connect, Does::Fail);
        let callers = Callers::wait(&pool, 1);
        eventually("connecting fails", || pool.snapshot().last_error.is_some());
        let json = json_of(&pool.snapshot());
        let calls = json["calls"].as_array().unwrap();
        let close = calls.iter().find(|call| call["kind"] == "close").unwrap();
        assert_seconds(&close["running_for"], 0.0..60.0);
        assert_eq!((&close["queued"], &close["abandoned"]), (&false.into(), &false.into()));
        assert!(json["last_error"]["text"].as_str().unwrap().contains("was refused"));
        assert_seconds(&json["last_error"]["age"], 0.0..60.0);
        assert_seconds(&json["failing_for"], 0.0..60.0);
        gate.open();
        server.on(Op::Connect, Does::Succeed);
        callers.served();
    }
}

// ---------------------------------------------------------------------------
// A snapshot is of one instant

/// The lists are those that the numbers count, in the order that they promise.
fn assert_consistent(snapshot: &Snapshot) {
    let stats = &snapshot.stats;
    assert_eq!(snapshot.holders.len() as u32 + stats.checking, stats.in_use, "{snapshot:?}");
    assert_eq!(snapshot.waiters.len() as u32, stats.waiting, "{snapshot:?}");
    assert_eq!(stats.open, stats.idle + stats.in_use, "{snapshot:?}");
    assert_eq!(snapshot.health.waiting, stats.waiting, "{snapshot:?}");
    assert!(stats.open + stats.opening + stats.closing <= stats.max_size, "{snapshot:?}");
    let calls = stats.opening + stats.checking + stats.closing + stats.abandoned;
    assert_eq!(snapshot.calls.len() as u32, calls, "{snapshot:?}");

    let waiting: HashSet<u64> = snapshot.waiters.iter().map(|waiter| waiter.id()).collect();
    assert_eq!(waiting.len(), snapshot.waiters.len(), "{snapshot:?}");
    let held: HashSet<u64> = snapshot.holders.iter().map(|holder| holder.connection_id()).collect();
    assert_eq!(held.len(), snapshot.holders.len(), "{snapshot:?}");
    let sorted = snapshot.holders.is_sorted_by(|a, b| a.held_for() >= b.held_for());
    assert!(sorted, "{snapshot:?}");
    // By priority and age: each level counts as a second, here far more than any wait.
    let in_order = snapshot.waiters.is_sorted_by_key(|waiter| (waiter.priority(), waiter.id()));
    assert!(in_order, "{snapshot:?}");
    // Callers read the clock before they join the queue, so that the first of a priority
    // may be some microseconds younger than the next.
    let oldest = snapshot.health.oldest_wait;
    let is_one_of_them = snapshot.waiters.iter().any(|waiter| waiter.waited() == oldest);
    assert!(is_one_of_them || snapshot.waiters.is_empty() && oldest.is_zero(), "{snapshot:?}");
}

/// What a thread does with the pool: a number picks.
fn use_pool(pool: &Pool<Manager>, number: u64) {
    let request = pool.request().priority([4, 5, 6][(number % 3) as usize]).label("hammer");
    let got = request.timeout(Duration::from_micros(number % 3000)).get();
    let Ok(conn) = got else { return };
    let _: &Conn = &conn;
    match number % 11 {
        0 => PooledConnection::discard(conn),
        1 => thread::sleep(Duration::from_micros(300)),
        2 => drop(pool.try_get()),
        _ => {}
    }
}

#[test]
fn each_of_many_snapshots_of_a_busy_pool_is_consistent() {
    let server = Server::new();
    let settings = builder(4).test_on_check_out(true).priority_ageing(Duration::from_secs(30));
    let pool = pool_of(&server, settings);
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..12_u64 {
            let (pool, stop) = (&pool, &stop);
            scope.spawn(move || {
                let mut number = thread + 1;
                while !stop.load(Ordering::Relaxed) {
                    // Numerical Recipes' generator; the upper bits are the better ones.
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    use_pool(pool, number >> 33);
                }
            });
        }
        let looks = scope.spawn(|| {
            let enough = |seen: usize| seen >= 300;
            let start = Instant::now();
            let (mut with_waiters, mut with_holders) = (0, 0);
            while !(enough(with_waiters) && enough(with_holders)) {
                assert!(start.elapsed() < WATCHDOG, "{with_waiters} and {with_holders} seen");
                let snapshot = pool.snapshot();
                assert_consistent(&snapshot);
                with_waiters += usize::from(snapshot.waiters.len() > 1);
                with_holders += usize::from(snapshot.holders.len() > 1);
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        let result = looks.join();
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    assert!(seen.load(Ordering::Relaxed) >= 300);
    eventually("all is back", || pool.snapshot().holders.is_empty());
    assert_consistent(&pool.snapshot());
    server.check();
}
