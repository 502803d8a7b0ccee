//! Each finding: its cause made for real, and no finding without a cause.

use super::*;

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
        // A machine that pauses makes callers wait, which is a finding; it does not pause every
        // time.
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
            &format!("2 connections were got at {HELPERS}:{line}:"),
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
    let waits = format!("5 wait at {HELPERS}:{}:", callers.line);
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
        // This distinguishes long work from a leak.
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
    assert_eq!(diagnosis.severity(), Some(Severity::Warning), "no caller is harmed");
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
            let (first, held_at) = (pool.get().unwrap(), line!());
            first.touch();
            let second = pool.request().cancel(&cancel).get().map(drop);
            (second, held_at, line!() - 1)
        }
    });
    let nested = nested.unwrap();
    eventually("it waits", || pool.stats().waiting == 1);
    let diagnosis = found(&pool, &[SelfDeadlock, Queue]);
    cancel.cancel();
    let (second, held_at, waits_at) = nested.join().unwrap();
    assert!(second.unwrap_err().is_cancelled());
    let file = file!();
    assert_contains(
        &evidence(&diagnosis, SelfDeadlock),
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
    let place = format!("1 connection was got at {HELPERS}:{line}:");
    assert_contains(&evidence(&diagnosis, Closed), &[&place, "by keeper"]);
    drop(held);
    cured(&pool);
}

#[test]
fn a_span_that_says_nothing_is_refused() {
    let pool = pool(1);
    for span in [Duration::ZERO, ms(49), Duration::from_secs(3601), Duration::MAX] {
        let error = pool.diagnose_over(span).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_contains(&error.to_string(), &["the span must be between 50ms and one hour, but"]);
        assert!(pool.downgrade().diagnose_over(span).is_err());
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
    let weak = pool.downgrade();
    assert!(weak.diagnose().unwrap().is_healthy());
    let looks = thread::spawn({
        let weak = weak.clone();
        move || weak.diagnose_over(ms(400)).unwrap().is_none()
    });
    drop(pool);
    assert!(looks.join().unwrap(), "it has ended meanwhile");
    assert!(weak.diagnose_over(ms(100)).unwrap().is_none());
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
