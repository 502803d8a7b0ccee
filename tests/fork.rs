//! A pool whose process forks. These tests need a process for themselves: a child has a copy
//! of all locks, and none of the threads that hold them.
#![cfg(unix)]

use std::convert::Infallible;
use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, ErrorKind, ManageConnection, Pool, PooledConnection};
use fairpool_children::{alone, fork, in_child};
use fairpool_testing::StubManager;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A pool whose workers rest: they wait for a task in a channel.
fn with_resting_workers() -> Pool<StubManager> {
    let pool = Pool::builder().name("parent's").max_size(4).build(StubManager).expect("a stub");
    drop(pool.get().expect("a connection"));
    pool.refresh();
    thread::sleep(ms(300));
    pool
}

/// The call comes back at once.
#[track_caller]
fn at_once<R>(what: &str, call: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = call();
    assert!(began.elapsed() < ms(900), "{what} took {:?}", began.elapsed());
    result
}

/// Also stops the threads of a test that fails.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn wait_for_a_tick() {
    thread::sleep(ms(25));
}

#[test]
fn a_get_in_a_child_is_refused_at_once_and_says_why() {
    let _alone = alone();
    let parent = std::process::id();
    let pool = with_resting_workers();
    in_child(|| {
        let token = CancelToken::new();
        let gets = [
            at_once("get", || pool.get()),
            at_once("get_timeout", || pool.get_timeout(Duration::MAX)),
            at_once("request", || pool.request().label("here").cancel(&token).get()),
            at_once("a deadline", || pool.request().deadline(Instant::now()).get()),
        ];
        for got in gets {
            let error = got.expect_err("a connection of the parent");
            assert!(error.is_forked(), "{error}");
            assert_eq!((error.kind(), error.waited()), (ErrorKind::Forked, Duration::ZERO));
            let text = error.to_string();
            for part in ["parent's", &parent.to_string(), &std::process::id().to_string()] {
                assert!(text.contains(part), "{part} is missing: {text}");
            }
            assert!(text.contains("build the pool after the fork"), "{text}");
        }
        assert!(at_once("try_get", || pool.try_get()).is_none());
    });
    assert!(pool.get().is_ok(), "the parent's pool works on");
}

#[test]
fn a_task_that_waits_is_refused_in_a_child_and_may_be_dropped_there() {
    let _alone = alone();
    let pool = with_resting_workers();
    let held: Vec<_> = (0..4).map(|_| pool.get().expect("a connection")).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut gets = [Box::pin(pool.get_async()), Box::pin(pool.get_async())];
    for get in &mut gets {
        assert!(get.as_mut().poll(&mut context).is_pending());
    }
    let mut copies = Some(gets);
    in_child(|| {
        let [mut polled, dropped] = copies.take().expect("a copy for each child");
        let mut context = Context::from_waker(Waker::noop());
        let got = at_once("a poll", || polled.as_mut().poll(&mut context));
        let Poll::Ready(Err(error)) = got else { panic!("it waits in the child") };
        assert!(error.is_forked(), "{error}");
        at_once("a drop", || drop(dropped));
        let mut new = Box::pin(pool.get_async());
        let got = at_once("a new one", || new.as_mut().poll(&mut context));
        assert!(matches!(got, Poll::Ready(Err(error)) if error.is_forked()));
    });
    assert_eq!(pool.stats().waiting, 2, "they wait in the parent");
    drop(held);
    for mut get in copies.expect("the parent's") {
        assert!(matches!(get.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    }
}

#[test]
fn no_other_call_in_a_child_hangs_or_does_anything() {
    let _alone = alone();
    let pool = with_resting_workers();
    let (weak, events) = (pool.downgrade(), pool.subscribe(100).expect("a capacity"));
    drop(pool.get().expect("a connection"));
    let token = CancelToken::new();
    let mut all = Some((pool, weak, events));
    in_child(|| {
        let (pool, weak, events) = all.take().expect("a copy for each child");
        at_once("refresh", || pool.refresh());
        at_once("pause", || pool.pause());
        at_once("resume", || pool.resume());
        at_once("set_max_size", || pool.set_max_size(9)).expect("a size");
        at_once("set_min_idle", || pool.set_min_idle(Some(0))).expect("a number");
        assert_eq!(at_once("max_size", || pool.max_size()), 4);
        assert_eq!(at_once("stats", || pool.stats()).open, 0);
        assert_eq!(at_once("state", || pool.state()).connections, 0);
        assert!(at_once("snapshot", || pool.snapshot()).holders.is_empty());
        assert!(at_once("holders", || pool.holders()).is_empty());
        assert!(at_once("waiters", || pool.waiters()).is_empty());
        assert!(at_once("health", || pool.health()).is_healthy());
        assert_eq!(at_once("reading", || pool.reading()).stats.open, 0);
        assert!(at_once("diagnose", || pool.diagnose_over(ms(50))).is_ok());
        assert!(at_once("subscribe", || pool.subscribe(10)).unwrap_err().is_forked());
        assert!(at_once("follow", || pool.follow(10)).unwrap_err().is_forked());
        at_once("debug", || format!("{pool:?}"));

        assert!(at_once("recv", || events.recv()).is_err(), "the subscription has ended");
        assert!(at_once("try_recv", || events.try_recv()).is_err());
        assert!(at_once("recv_timeout", || events.recv_timeout(Duration::MAX)).is_err());
        assert_eq!((events.len(), events.iter().count()), (0, 0));
        at_once("flush", || events.flush());
        at_once("the subscription's drop", || drop(events));

        assert!(weak.is_gone() && weak.stats().is_none() && weak.reading().is_none());
        assert!(weak.subscribe(10).unwrap_err().is_forked());
        at_once("cancel", || token.cancel());

        let report = at_once("close", || pool.close(Instant::now() + ms(10_000)));
        assert!(report.is_complete(), "{report}");
        at_once("the drop", || drop(pool));
        assert_eq!(threads().unwrap_or(1), 1, "nothing of all this has spawned a thread");
    });
}

/// How many threads this process has, where the system tells.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

#[test]
fn children_of_a_busy_pool_end_before_their_deadlines() {
    let _alone = alone();
    let pool = Pool::builder().max_size(4).build(StubManager).expect("a stub");
    let (stop, gets) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(pool.get().expect("a connection"));
                    gets.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let live = || {
            // In the tick of the fork a get may be served from what is idle.
            match at_once("the first get", || pool.get_timeout(ms(100))) {
                Ok(conn) => at_once("the return", || drop(conn)),
                Err(error) => assert!(error.is_forked(), "{error}"),
            }
            wait_for_a_tick();
            let got = at_once("the next get", || pool.get_timeout(ms(100)));
            assert!(got.expect_err("another process's").is_forked());
            at_once("stats", || pool.stats());
            at_once("close", || drop(pool.close(Instant::now() + ms(10_000))));
        };
        let hung = (0..40).filter(|_| !fork(live).ends()).count();
        // Not one but by the rarest chance: see decision 0020 on `parking_lot`.
        assert!(hung <= 1, "{hung} of 40 children hang");
    });
    assert!(gets.load(Ordering::Relaxed) > 0);
    assert_eq!(pool.stats().idle, 4, "the parent's connections are all there");
}

/// A driver whose server is a thread that notes every byte. Each call of the driver sends one.
struct Wires(Mutex<mpsc::Sender<UnixStream>>);

struct Wire(UnixStream);

impl Wire {
    fn send(&self, byte: u8) {
        (&self.0).write_all(&[byte]).expect("the server is there");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.send(b'X'); // As PostgreSQL's Terminate.
    }
}

impl ManageConnection for Wires {
    type Connection = Wire;
    type Error = Infallible;

    fn connect(&self) -> Result<Wire, Infallible> {
        let (ours, servers) = UnixStream::pair().expect("a pair");
        self.0.lock().expect("a sender").send(servers).expect("a server");
        Ok(Wire(ours))
    }

    fn is_valid(&self, wire: &mut Wire) -> Result<(), Infallible> {
        wire.send(b'v');
        Ok(())
    }

    fn has_broken(&self, wire: &mut Wire) -> bool {
        wire.send(b'b');
        false
    }

    fn needs_reset(&self, wire: &mut Wire) -> bool {
        wire.send(b'n');
        false
    }
}

#[test]
fn what_a_child_drops_is_neither_used_nor_closed() {
    let _alone = alone();
    let (sender, streams) = mpsc::channel();
    let pool = Pool::builder()
        .max_size(2)
        .test_on_check_out(false)
        .build(Wires(Mutex::new(sender)))
        .expect("two streams");
    let (first, second) = (pool.get().expect("one"), pool.get().expect("another"));
    first.send(b'1');
    second.send(b'2');
    wait_for_a_tick();
    // The child owns copies of the guards, and of the only handle.
    let mut copies = Some((pool, first, second));
    let child = fork(|| {
        let (pool, first, second) = copies.take().expect("the copies");
        drop(first);
        PooledConnection::discard(second);
        drop(pool);
    });
    child.join();
    let (pool, first, second) = copies.take().expect("the parent's own");
    first.send(b'3');
    second.send(b'4');
    drop((first, second));
    let report = pool.close(Instant::now() + ms(10_000));
    assert!(report.is_complete(), "{report}");
    let mut heard: Vec<String> = streams
        .try_iter()
        .map(|mut stream| {
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("what the driver sent");
            text
        })
        .collect();
    heard.sort();
    assert_eq!(heard, ["13bnX", "24bnX"]);
}

#[test]
fn a_child_detaches_a_guard_without_a_word_to_the_pool() {
    let _alone = alone();
    let (sender, streams) = mpsc::channel();
    let pool = Pool::builder().max_size(1).build(Wires(Mutex::new(sender))).expect("a stream");
    let mut guard = Some(pool.get().expect("it"));
    let child = fork(|| {
        let wire = PooledConnection::detach(guard.take().expect("a copy"));
        // It is the child's to decide what becomes of it.
        std::mem::forget(wire);
    });
    child.join();
    drop(guard);
    drop(pool);
    let mut stream = streams.recv().expect("the stream");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("what the driver sent");
    assert_eq!(heard, "bnX");
}

#[test]
fn a_child_builds_a_pool_of_its_own() {
    let _alone = alone();
    let pool = with_resting_workers();
    in_child(|| {
        let own = Pool::builder().max_size(2).build(StubManager).expect("a stub");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| drop(own.get().expect("a connection")));
            }
        });
        assert_eq!((own.stats().gets, own.stats().idle), (4, 2));
        let report = own.close(Instant::now() + ms(10_000));
        assert!(report.is_complete(), "{report}");
        assert!(pool.get().unwrap_err().is_forked());
    });
}

/// In a child the memory of a thread that slept in the parent goes to a new thread.
#[test]
fn threads_that_sleep_in_the_parent_take_no_wake_up_from_a_childs_pool() {
    let _alone = alone();
    let pool = Pool::builder().max_size(1).build(StubManager).expect("a stub");
    let held = pool.get().expect("the only one");
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| drop(pool.get()));
        }
        while pool.stats().waiting < 20 {
            thread::sleep(ms(1));
        }
        let live = || {
            let own = Pool::builder().max_size(1).build(StubManager).expect("a stub");
            thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(|| {
                        let _held = own.get_timeout(ms(5_000)).expect("its turn");
                        thread::sleep(ms(1));
                    });
                }
            });
            let report = own.close(Instant::now() + ms(10_000));
            assert!(report.is_complete() && report.elapsed < ms(9_000), "{report}");
        };
        for _ in 0..10 {
            in_child(live);
        }
        drop(held);
    });
}

/// Its `connect` forks when asked to, and the child goes on as if nothing had happened.
struct Forks(Arc<AtomicBool>, Mutex<mpsc::Sender<fairpool_children::Child>>);

impl ManageConnection for Forks {
    type Connection = ();
    type Error = Infallible;

    fn connect(&self) -> Result<(), Infallible> {
        if self.0.swap(false, Ordering::Relaxed)
            && let Some(child) = fairpool_children::fork_and_return()
        {
            self.1.lock().expect("a sender").send(child).expect("the test");
        }
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
fn a_child_that_a_driver_makes_ends_with_its_worker() {
    let _alone = alone();
    // Two connects at once: the other's thread may hold any lock.
    for _ in 0..20 {
        let forks = Arc::new(AtomicBool::new(true));
        let (sender, children) = mpsc::channel();
        let manager = Forks(forks, Mutex::new(sender));
        let pool = Pool::builder().max_size(2).build(manager).expect("a stub");
        children.recv_timeout(ms(10_000)).expect("a child").join();
        assert_eq!(pool.stats().idle, 2);
    }
}
