//! P11: what is over when `close` returns, and what ends with the last pool.

use std::cell::RefCell;
use std::convert::Infallible;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::LeakEvent;
use fairpool::{HandleEvent, ManageConnection, Pool, PooledConnection};
use fairpool_children::alone;
use fairpool_testing::StubManager;
use fairpool_testing::stub::{
    Does, Gate, Op, Server, WATCHDOG, builder, eventually, lock, threads_named,
};

use crate::{close_all, ms};

fn in_time() -> Instant {
    Instant::now() + WATCHDOG
}

fn no_thread_is_left() {
    // A thread that was joined may be listed for a moment longer.
    eventually("no thread is left", || threads_named("fairpool-") == 0);
}

/// Without a close, an idle worker ends after two seconds.
#[test]
fn p11_the_close_of_the_last_pool_ends_all_threads_at_once() {
    let _alone = alone();
    let soon = (0..5).any(|_| {
        let server = Server::new();
        server.on(Op::Connect, Does::Take(ms(50)));
        // Six connects at once take six workers; the close needs one of them.
        let unset = builder(6).min_idle(Some(6)).max_opening(6).max_closers(1);
        let pool = unset.build(server.manager()).unwrap();
        let workers = threads_named("fairpool-worker");
        let start = Instant::now();
        let report = pool.close(in_time());
        assert!(report.is_complete(), "{report}");
        let took = start.elapsed();
        no_thread_is_left();
        workers >= 3 && took < ms(1000)
    });
    assert!(soon, "five times a pool with idle workers took a second to close");
}

/// The reaper sleeps, since the other pool is at rest. It must hear of the new pool before the
/// first call of that ends; the end of an idle worker, after two seconds, would wake it too.
#[test]
fn p3_a_pool_that_comes_while_the_reaper_sleeps_is_looked_after() {
    let _alone = alone();
    let soon = (0..5).any(|_| {
        let (server, gate) = (Server::new(), Gate::new());
        let other = builder(1).build(server.manager()).unwrap();
        drop(other.get().unwrap());
        thread::sleep(ms(100));
        server.next(Op::Connect, Does::Hang(gate.clone()));
        let pool = builder(2).connect_patience(ms(20), ms(20)).build(server.manager()).unwrap();
        let got = pool.get_timeout(ms(1000)).map(drop);
        gate.open();
        close_all(vec![pool, other]);
        got.is_ok()
    });
    assert!(soon, "five times nobody tried another connect within a second");
}

#[test]
fn p11_the_drop_of_the_last_pool_ends_all_threads() {
    let _alone = alone();
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    drop(pool);
    no_thread_is_left();
    assert_eq!(server.live(), 0);
    // And the next one has all that it needs.
    let pool = builder(2).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    close_all(vec![pool]);
}

#[test]
fn p11_close_waits_for_no_work_of_other_pools() {
    let _alone = alone();
    let (server, hung, gate) = (Server::new(), Server::new(), Gate::new());
    hung.on(Op::Connect, Does::Hang(gate.clone()));
    let hanging = builder(2).build_unchecked(hung.manager());
    assert!(hanging.get_timeout(ms(10)).is_err());
    gate.await_entered(1);
    let pool = builder(2).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    let report = pool.close(in_time());
    assert!(report.is_complete() && report.elapsed < WATCHDOG / 2, "{report}");
    let report = hanging.close(Instant::now() + ms(50));
    assert!(!report.is_complete() && report.threads == 1, "{report}");
    gate.open();
    close_all(vec![hanging]);
}

/// The threads of the last pool go on for the new one, so its close cannot wait for them; nor
/// does it leave a thread behind that waits for them.
#[test]
fn p11_close_returns_at_its_deadline_though_another_pool_comes() {
    let _alone = alone();
    let build = || Pool::builder().max_size(1).build(StubManager).unwrap();
    let start = Instant::now();
    for round in 0.. {
        let old = build();
        let (ready, (sender, closed)) = (Arc::new(Barrier::new(2)), mpsc::channel());
        let closer = thread::spawn({
            let ready = Arc::clone(&ready);
            move || {
                ready.wait();
                let _ = old.close(Instant::now() + ms(100));
                let _ = sender.send(());
            }
        });
        ready.wait();
        // The new pool comes a little later in each round.
        (0..(round % 400) * 50).for_each(|_| std::hint::spin_loop());
        let new = build();
        let has_returned = closed.recv_timeout(WATCHDOG).is_ok();
        assert!(has_returned, "round {round}: a close waits for the threads of another pool");
        eventually("none waits for another's thread", || threads_named("fairpool-joiner") == 0);
        close_all(vec![new]);
        closer.join().unwrap();
        if start.elapsed() > ms(3000) {
            break;
        }
    }
}

// ---- threads that have done their work, but have not ended ----

struct AtThreadEnd(Box<dyn Fn() + Send>);

impl Drop for AtThreadEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    static AT_END: RefCell<Option<AtThreadEnd>> = const { RefCell::new(None) };
}

/// A driver that has a value in the thread's local storage, with a destructor.
struct Local<F>(F);

impl<F: Fn() + Clone + Send + Sync + 'static> ManageConnection for Local<F> {
    type Connection = ();
    type Error = Infallible;

    fn connect(&self) -> Result<(), Infallible> {
        AT_END.set(Some(AtThreadEnd(Box::new(self.0.clone()))));
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

fn of_one(at_end: impl Fn() + Clone + Send + Sync + 'static) -> Pool<impl ManageConnection> {
    Pool::builder().max_size(1).min_idle(Some(0)).build(Local(at_end)).unwrap()
}

#[test]
fn p11_close_reports_threads_that_do_not_end_and_does_not_wait_past_its_deadline() {
    let _alone = alone();
    let gate = Gate::new();
    let passed = gate.clone();
    let pool = of_one(move || drop(passed.pass()));
    drop(pool.get().unwrap());
    for _ in 0..2 {
        let start = Instant::now();
        let report = pool.close(start + ms(200));
        assert!(start.elapsed() < WATCHDOG / 2, "{report}");
        assert_eq!((report.is_complete(), report.threads), (false, 1), "{report}");
    }
    assert_eq!(gate.entered(), 1, "one thread hangs at its end, through both closes");
    gate.open();
    close_all(vec![pool]);
    no_thread_is_left();
}

/// They are not its own: another pool's close reports them.
#[test]
fn p11_beside_other_pools_close_does_not_wait_for_the_ends_of_threads() {
    let _alone = alone();
    let (server, gate) = (Server::new(), Gate::new());
    let other = builder(1).build(server.manager()).unwrap();
    let passed = gate.clone();
    let pool = of_one(move || drop(passed.pass()));
    drop(pool.get().unwrap());
    close_all(vec![pool]);
    drop(other.get().unwrap());
    let report = other.close(Instant::now() + ms(200));
    assert_eq!((report.is_complete(), report.threads), (false, 1), "{report}");
    gate.open();
    close_all(vec![other]);
    no_thread_is_left();
}

#[test]
fn p11_close_counts_a_thread_whose_destructors_have_run_for_long() {
    let _alone = alone();
    let (first, gate) = (AtomicBool::new(true), Gate::new());
    let (first, passed) = (Arc::new(first), gate.clone());
    let pool = of_one(move || {
        if first.swap(false, Ordering::Relaxed) {
            passed.pass();
        }
    });
    let held = pool.get().unwrap();
    gate.await_entered(1); // Its worker has ended, after two seconds, and is in the destructor.
    PooledConnection::discard(held); // starts another worker
    drop(pool.get().unwrap());
    let report = pool.close(Instant::now() + ms(300));
    assert!(!report.is_complete(), "{report} beside a thread that still runs");
    gate.open();
    close_all(vec![pool]);
}

/// A worker that ends joins those that have ended before.
#[test]
fn p11_close_counts_a_worker_that_joins_a_thread_that_hangs() {
    let _alone = alone();
    let (first, gate) = (AtomicBool::new(true), Gate::new());
    let (first, passed) = (Arc::new(first), gate.clone());
    let pool = of_one(move || {
        if first.swap(false, Ordering::Relaxed) {
            passed.pass();
        }
    });
    let held = pool.get().unwrap();
    gate.await_entered(1); // Its worker has ended, and is in the destructor.
    PooledConnection::discard(held); // starts another worker, which ends after two seconds
    thread::sleep(ms(2500));
    eventually("both are counted, if the second has ended by now", || {
        let report = pool.close(Instant::now() + ms(100));
        !report.is_complete() && report.threads == threads_named("fairpool-worker")
    });
    gate.open();
    close_all(vec![pool]);
}

#[test]
fn p11_of_two_closes_at_once_neither_returns_before_the_threads() {
    let _alone = alone();
    let mut early = 0;
    for _ in 0..50 {
        let done = Arc::new(AtomicUsize::new(0));
        let ended = Arc::clone(&done);
        let pool = of_one(move || {
            thread::sleep(ms(20));
            ended.fetch_add(1, Ordering::SeqCst);
        });
        let held = pool.get().unwrap();
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            let close = || {
                barrier.wait();
                let report = pool.close(Instant::now() + 2 * WATCHDOG);
                assert!(report.elapsed < WATCHDOG, "not woken by the last thread's end");
                report.is_complete() && done.load(Ordering::SeqCst) == 0
            };
            let closers = [(); 2].map(|()| scope.spawn(close));
            barrier.wait();
            thread::sleep(ms(1));
            drop(held);
            early += closers.map(|it| usize::from(it.join().unwrap())).iter().sum::<usize>();
        });
    }
    assert_eq!(early, 0, "closes that returned 'complete' before the thread had ended");
}

// ---- user code, and the reaper of all pools ----

/// Notes on which threads its destructor and that of its error run.
struct Witness(Arc<Mutex<Vec<String>>>);

impl Witness {
    fn note(&self) {
        lock(&self.0).push(thread::current().name().unwrap_or_default().to_string());
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.note();
    }
}

impl ManageConnection for Witness {
    type Connection = ();
    type Error = Infallible;

    fn connect(&self) -> Result<(), Infallible> {
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

#[test]
fn no_manager_is_dropped_on_the_reaper() {
    let _alone = alone();
    let dropped = Arc::default();
    for _ in 0..200 {
        let pool = Pool::builder().max_size(1).drop_timeout(Duration::ZERO);
        let pool = pool.build(Witness(Arc::clone(&dropped))).unwrap();
        drop(pool.get().unwrap());
    }
    eventually("all are gone", || lock(&dropped).len() == 200);
    let names = std::mem::take(&mut *lock(&dropped));
    assert!(!names.iter().any(|name| name == "fairpool-reaper"), "{names:?}");
    no_thread_is_left();
}

#[derive(Debug)]
struct HangsInLeak(Gate);

impl HandleEvent for HangsInLeak {
    fn handle_leak(&self, _: LeakEvent) {
        self.0.pass();
    }
}

#[test]
fn a_hook_that_hangs_in_one_pool_stops_no_other() {
    let _alone = alone();
    let (server, hook) = (Server::new(), Gate::new());
    let leaky = || builder(2).leak_threshold(Some(ms(20)));
    let handler = Box::new(HangsInLeak(hook.clone()));
    let hung = leaky().event_handler(handler).build(server.manager()).unwrap();
    let _leaked = hung.get().unwrap();
    hook.await_entered(1);
    let other = leaky().build(server.manager()).unwrap();
    let _held = other.get().unwrap();
    eventually("its leak is noticed", || other.stats().leaks == 1);
    server.next(Op::Connect, Does::Fail); // one refusal, then connects succeed
    drop(other.get().expect("the reaper tries again"));
    hook.open();
}

// ---- a system that has no more threads to give ----

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_whose_calls_hang() {
    let (hung, gate) = (Server::new(), Gate::new());
    let server = Server::new();
    let other = builder(1).min_idle(Some(0)).build(server.manager()).unwrap();
    hung.on(Op::Connect, Does::Hang(gate.clone()));
    let hanging = builder(200).max_opening(200).build_unchecked(hung.manager());
    thread::scope(|scope| {
        // Each waits for a connect of its own. They take all threads that there are but one.
        let waiters: Vec<_> = (0..20)
            .map_while(|_| {
                let wait = || drop(hanging.get_timeout(ms(3000)));
                thread::Builder::new().spawn_scoped(scope, wait).ok()
            })
            .collect();
        if waiters.len() < 20 {
            std::process::exit(5); // too few threads: proves nothing
        }
        hanging.set_min_idle(Some(200)).unwrap();
        thread::sleep(ms(500));
        println!("{} connects hang, of {}", gate.entered(), hanging.stats().opening);
        if gate.entered() >= 200 {
            std::process::exit(3); // no limit: proves nothing
        }
        for _ in 0..20 {
            match other.get_timeout(ms(1000)) {
                Ok(conn) => PooledConnection::discard(conn),
                Err(error) => {
                    println!("{error}");
                    std::process::exit(4);
                }
            }
        }
        gate.open();
    });
}

#[test]
fn calls_that_hang_leave_a_worker_to_other_pools_if_the_system_has_no_more_threads() {
    let _alone = alone();
    // Limits on threads do not bind root, so root becomes another user. They count all threads
    // of a user.
    let script = r#"
        # That user may not enter each folder that root may.
        exec 9<"$1"
        shift
        set -- /proc/self/fd/9 "$@"
        if [ "$(id -u)" = 0 ]; then
            set -- setpriv --reuid=54322 --clear-groups prlimit --nproc=60:60 "$@"
        else
            there=$(ps -L -u "$(id -u)" | wc -l)
            set -- prlimit --nproc=$((there + 60)) "$@"
        fi
        exec "$@" --exact ends::child_whose_calls_hang --ignored --nocapture"#;
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
