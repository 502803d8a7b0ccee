//! Promises in unusual conditions: hooks that hang or use the pool, panics within panics,
//! threads that cannot be started, slow checks and connects.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{CheckinEvent, LeakEvent, SelfDeadlockEvent};
use fairpool::{HandleEvent, ManageConnection, Pool, PooledConnection, SelfDeadlock};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, StubError, builder, eventually, lock, silent_panic,
};

use crate::support::ms;

// ---- P5: a hook that hangs on the reaper stops the reaper ----

#[derive(Debug)]
struct HangsInLeak(Gate);

impl HandleEvent for HangsInLeak {
    fn handle_leak(&self, _: LeakEvent) {
        self.0.pass();
    }
}

#[test]
fn p5_a_leak_hook_that_hangs_does_not_stop_the_pool() {
    let (server, hook) = (Server::new(), Gate::new());
    let pool = builder(2)
        .leak_threshold(Some(ms(20)))
        .close_timeout(ms(100))
        .event_handler(Box::new(HangsInLeak(hook.clone())))
        .build(server.manager())
        .unwrap();
    let _leaked = pool.get().unwrap();
    hook.await_entered(1); // the reaper is inside the user's hook from here on
    let close = Gate::new();
    server.next(Op::Close, Does::Hang(close.clone()));
    PooledConnection::discard(pool.get().unwrap());
    close.await_entered(1);
    // Abandoned after 100 ms, so there is room for another.
    let got = pool.get_timeout(Duration::from_secs(2)).map(drop);
    let stats = pool.stats();
    hook.open();
    close.open();
    assert!(got.is_ok(), "{}; {stats}", got.unwrap_err());
}

#[test]
fn p3_a_leak_hook_that_hangs_does_not_stop_the_retries() {
    let (server, hook) = (Server::new(), Gate::new());
    let pool = builder(2)
        .leak_threshold(Some(ms(20)))
        .event_handler(Box::new(HangsInLeak(hook.clone())))
        .build(server.manager())
        .unwrap();
    let _leaked = pool.get().unwrap();
    hook.await_entered(1);
    server.next(Op::Connect, Does::Fail); // one refusal, then connects succeed
    let got = pool.get_timeout(Duration::from_secs(2)).map(drop);
    hook.open();
    assert!(got.is_ok(), "room to open, a healthy server: {}", got.unwrap_err());
}

// ---- P11: several closes ----

#[test]
fn p11_of_several_who_close_each_waits_for_all_work() {
    for _ in 0..200 {
        let pool = builder(2).build(Server::new().manager()).unwrap();
        drop(pool.get().unwrap());
        let close = |_| {
            let pool = pool.clone();
            thread::spawn(move || pool.close(Instant::now() + Duration::from_secs(10)))
        };
        let closers: Vec<_> = (0..4).map(close).collect();
        for closer in closers {
            let report = closer.join().unwrap();
            assert!(report.is_complete(), "{report}");
        }
    }
}

// ---- self-deadlock ----

#[derive(Debug, Default, Clone)]
struct GetsInHook {
    pool: Arc<OnceLock<Pool<Manager>>>,
    seen: Arc<Mutex<Vec<bool>>>,
    at_checkin: bool,
}

impl HandleEvent for GetsInHook {
    fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
        if let Some(pool) = self.pool.get().filter(|_| !self.at_checkin) {
            let _ = pool.get_timeout(ms(10)); // succeeds only if one is idle
        }
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        if let Some(pool) = self.pool.get().filter(|_| self.at_checkin) {
            let got = pool.get_timeout(ms(500));
            lock(&self.seen).push(got.is_err_and(|error| error.is_self_deadlock()));
        }
    }
}

#[test]
fn p9_a_deadlock_is_ended_also_if_its_hook_used_the_pool() {
    let hook = GetsInHook::default();
    let pool = builder(1)
        .on_self_deadlock(SelfDeadlock::Fail(ms(100)))
        .event_handler(Box::new(hook.clone()))
        .build(Server::new().manager())
        .unwrap();
    hook.pool.set(pool.clone()).unwrap();
    let held = pool.get().unwrap();
    held.touch();
    let error = pool.get_timeout(Duration::from_secs(1)).unwrap_err();
    assert!(error.is_self_deadlock(), "{error}");
}

#[test]
fn p9_a_get_in_the_checkin_hook_of_the_only_connection_is_a_deadlock() {
    let hook = GetsInHook { at_checkin: true, ..GetsInHook::default() };
    let pool = builder(1)
        .on_self_deadlock(SelfDeadlock::Fail(Duration::ZERO))
        .event_handler(Box::new(hook.clone()))
        .build(Server::new().manager())
        .unwrap();
    let held = pool.get().unwrap();
    held.touch();
    hook.pool.set(pool.clone()).unwrap();
    drop(held);
    assert_eq!(*lock(&hook.seen), [true]);
}

#[test]
fn p9_a_guard_that_another_thread_uses_in_whatever_way_is_not_at_home() {
    type Guard = PooledConnection<Manager>;
    let ways: [fn(&mut Guard); 4] = [
        |conn| _ = PooledConnection::extensions_mut(conn).insert(1u8),
        |conn| _ = PooledConnection::extensions(conn).get::<u8>(),
        |conn| _ = PooledConnection::info(conn),
        PooledConnection::mark_broken,
    ];
    for use_it in ways {
        let pool = builder(1)
            .on_self_deadlock(SelfDeadlock::Fail(Duration::ZERO))
            .build(Server::new().manager())
            .unwrap();
        let mut conn = pool.get().unwrap();
        conn.touch();
        let (used, is_used) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let user = thread::spawn(move || {
            use_it(&mut conn);
            used.send(()).unwrap();
            let _ = ended.recv_timeout(ms(200));
        });
        is_used.recv().unwrap();
        let got = pool.get_timeout(Duration::from_secs(2)).map(drop);
        drop(end);
        user.join().unwrap();
        assert!(got.is_ok(), "{}", got.unwrap_err());
    }
}

// ---- try_get and zero ----

#[test]
fn try_get_waits_for_a_check_of_400_ms_with_a_limit_of_two_seconds() {
    let server = Server::new();
    let pool = builder(1)
        .test_on_check_out(true)
        .validation_timeout(Duration::from_secs(2))
        .build(server.manager())
        .unwrap();
    drop(pool.get().unwrap());
    server.on(Op::IsValid, Does::Take(ms(400)));
    let start = Instant::now();
    let got = pool.try_get();
    assert!(got.is_some(), "None after {:?}", start.elapsed());
}

#[test]
fn zero_takes_an_idle_connection_that_needs_no_check() {
    // If the machine pauses at the wrong moment, no connection is fresh.
    let got = (0..5).any(|_| {
        let server = Server::new();
        let pool = Pool::builder()
            .max_size(2)
            .keepalive(Some(ms(600)))
            .skip_check_within(ms(300))
            .build(server.manager())
            .unwrap();
        // At 200 ms one is used: the top of the stack. At 600 ms a keepalive checks the other,
        // so at 650 ms the lower one is fresh and the top one is not.
        thread::sleep(ms(200));
        drop(pool.get().unwrap());
        eventually("a keepalive", || server.calls(Op::IsValid) >= 1 && pool.stats().idle == 2);
        thread::sleep(ms(50));
        let one_was_checked = server.calls(Op::IsValid) == 1;
        pool.get_timeout(Duration::ZERO).is_ok() && one_was_checked
    });
    assert!(got, "one of two was fresh, and not to be had");
}

// ---- P10: a panic inside `run`, forgotten ----

#[test]
fn p10_a_use_that_panicked_is_not_forgotten_because_a_later_one_did_not() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let mut conn = pool.get().unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        PooledConnection::run(&mut conn, |_| -> Result<(), StubError> { silent_panic() })
    }));
    assert!(panicked.is_err());
    PooledConnection::run(&mut conn, |_| Ok(())).unwrap();
    drop(conn);
    drop(pool.get().unwrap());
    let checks = (server.calls(Op::Reset), server.calls(Op::IsValid));
    assert_eq!(checks, (1, 1), "resets and checks of a connection whose use panicked");
}

// ---- what the documentation says of the counters ----

#[test]
fn p12_a_validation_that_overran_counts_as_invalid() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1)
        .test_on_check_out(true)
        .validation_timeout(ms(50))
        .build(server.manager())
        .unwrap();
    drop(pool.get().unwrap());
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    drop(pool.get_timeout(Duration::from_secs(2)).unwrap()); // another one
    assert_eq!(pool.stats().abandoned, 1);
    gate.open(); // its check succeeds, and there is no room for it
    eventually("the end of the late check", || pool.stats().abandoned == 0);
    let closed = pool.stats().closed;
    assert_eq!((closed.invalid, closed.total()), (1, 1), "{closed:?}");
}

#[test]
fn p12_a_reset_that_failed_counts_as_broken() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    server.next(Op::Reset, Does::Fail);
    let conn = pool.get().unwrap();
    let _ = catch_unwind(AssertUnwindSafe(move || {
        let _conn = conn;
        silent_panic();
    }));
    eventually("it is closed", || pool.stats().closed.total() == 1);
    let closed = pool.stats().closed;
    assert_eq!((closed.broken, closed.invalid), (1, 0), "broken, invalid");
}

// ---- min_idle ----

#[test]
fn min_idle_is_not_exceeded_because_connecting_takes_half_a_second() {
    let server = Server::new();
    server.on(Op::Connect, Does::Take(ms(600)));
    let pool = builder(10).min_idle(Some(1)).build(server.manager()).unwrap();
    eventually("one is idle", || pool.stats().idle == 1);
    assert_eq!(server.calls(Op::Connect), 1, "connects");
}

// ---- the text of an error whose driver's text panics ----

#[derive(Debug)]
struct Mute;
impl std::fmt::Display for Mute {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        silent_panic()
    }
}
impl std::error::Error for Mute {}

struct MuteManager;
impl ManageConnection for MuteManager {
    type Connection = ();
    type Error = Mute;
    fn connect(&self) -> Result<(), Mute> {
        Err(Mute)
    }
    fn is_valid(&self, (): &mut ()) -> Result<(), Mute> {
        Ok(())
    }
    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

#[test]
fn p10_an_error_can_be_printed_whose_cause_cannot() {
    let pool = Pool::builder().max_size(1).min_idle(Some(0)).build(MuteManager).unwrap();
    let error = pool.get_timeout(ms(100)).unwrap_err();
    let text = catch_unwind(AssertUnwindSafe(|| error.to_string()));
    assert!(text.is_ok(), "printing the pool's error panicked on the caller's thread");
}

// ---- a pool that is built while the system has no thread to give ----

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_starved_of_threads() {
    let mut fillers = Vec::new();
    // One ends early: its place is the reaper's, which then finds none for a worker.
    let mut nap = ms(300);
    while let Ok(filler) = thread::Builder::new().spawn(move || thread::sleep(nap)) {
        fillers.push(filler);
        nap = ms(1200);
        if fillers.len() == 300 {
            std::process::exit(3); // no limit: proves nothing
        }
    }
    let pool = builder(1).build_unchecked(Server::new().manager());
    let start = Instant::now();
    let got = pool.get_timeout(Duration::from_secs(4)).map(drop);
    if let Err(error) = got {
        println!("after {:?}: {error}", start.elapsed());
        std::process::exit(4);
    }
}

#[test]
fn p3_a_pool_built_without_threads_serves_when_there_are_some() {
    // Limits on threads do not bind root, so root becomes another user. They count all threads
    // of a user.
    let script = r#"
        # That user may not enter each folder that root may.
        exec 9<"$1"
        shift
        set -- /proc/self/fd/9 "$@"
        if [ "$(id -u)" = 0 ]; then
            set -- setpriv --reuid=54321 --clear-groups prlimit --nproc=60:60 "$@"
        else
            there=$(ps -L -u "$(id -u)" | wc -l)
            set -- prlimit --nproc=$((there + 60)) "$@"
        fi
        exec "$@" --exact edges::child_starved_of_threads --ignored --nocapture"#;
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the process ended with {}: {text}{errors}", output.status);
    assert!(text.contains("1 passed"), "the child's test did not run: {text}");
}
