//! P18: tasks wait in the same queue as threads, and no thread is blocked for them.
//!
//! The tests poll by hand: no executor is needed.

use std::future::Future;
use std::panic;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use fairpool::event::EventKind;
use fairpool::{CancelToken, Error, GetAsync, PooledConnection};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, silent_panic,
};

use crate::feed::{Feed, check};
use crate::support::{assert_whole, await_waiting, ms, rounds, served, waiter};

/// How long a task has a connection that it does not take.
const TAKE_UP_LIMIT: Duration = ms(50);

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// A task is woken once or twice: for a grant, and if it is late, for the next.
    #[track_caller]
    fn expect(&self, times: usize) {
        eventually(&format!("woken {times} times"), || self.times() >= times);
    }
}

/// A get that is polled by hand.
struct Task<'a> {
    get: GetAsync<'a, Manager>,
    woken: Arc<Woken>,
}

type Got = Result<PooledConnection<Manager>, Error>;

impl<'a> Task<'a> {
    fn of(get: GetAsync<'a, Manager>) -> Task<'a> {
        Task { get, woken: Arc::default() }
    }

    fn poll(&mut self) -> Poll<Got> {
        let waker = Waker::from(Arc::clone(&self.woken));
        pin!(&mut self.get).poll(&mut Context::from_waker(&waker))
    }

    /// In the queue.
    #[track_caller]
    fn waiting(get: GetAsync<'a, Manager>) -> Task<'a> {
        let mut task = Task::of(get);
        assert!(task.poll().is_pending(), "it does not wait");
        task
    }

    #[track_caller]
    fn ready(&mut self) -> Got {
        match self.poll() {
            Poll::Ready(got) => got,
            Poll::Pending => panic!("it waits"),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(WATCHDOG),
        }
    }
}

#[test]
fn p18_a_get_does_nothing_until_it_is_polled() {
    let pool = builder(1).min_idle(Some(0)).build(Server::new().manager()).unwrap();
    drop(pool.get_async());
    assert_eq!((pool.stats().gets, pool.stats().waiting, pool.stats().opening), (0, 0, 0));
    assert_eq!(format!("{:?}", pool.get_async()), r#"GetAsync { state: "not polled", .. }"#);
    drop(block_on(pool.get_async()).unwrap());
    assert_eq!(pool.stats().gets, 1);
}

#[test]
fn p18_tasks_and_threads_are_served_in_one_order() {
    let server = Server::new();
    let pool = builder(1).fairness(fairpool::Fairness::Strict).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let mut first = Task::waiting(pool.get_async());
    let second = waiter(&pool, WATCHDOG);
    let mut third = Task::waiting(pool.get_async());
    let mut urgent = Task::waiting(pool.request().priority(0).get_async());

    drop(held);
    let conn = urgent.ready().unwrap();
    assert_eq!(first.woken.times() + third.woken.times(), 0, "only who is next is woken");
    drop(conn);
    let conn = first.ready().unwrap();
    assert!(third.poll().is_pending());
    drop(conn);
    drop(served(&second));
    third.woken.expect(1);
    drop(third.ready().unwrap());
    assert_whole(&pool, &server);
    let stats = pool.stats();
    assert_eq!((stats.gets_not_taken, stats.waiting), (0, 0));
}

#[test]
fn p1_the_pool_keeps_the_deadline_of_a_task() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let _held = pool.get().unwrap();
    let mut task = Task::waiting(pool.request().timeout(ms(30)).label("orders").get_async());
    // Nobody polls it: its wait ends all the same.
    eventually("it has timed out", || pool.stats().timeouts == 1);
    assert_eq!(pool.stats().waiting, 0);
    task.woken.expect(1);
    let error = task.ready().unwrap_err();
    assert!(error.is_timeout() && error.waited() >= ms(30), "{error}");
    let text = error.to_string();
    assert!(text.contains("(orders)") && text.contains("held longest by thread"), "{text}");
}

#[test]
fn p1_a_task_without_time_does_not_wait() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let mut task = Task::of(pool.request().timeout(Duration::ZERO).get_async());
    assert!(task.ready().unwrap_err().is_timeout());
    drop(held);
    let mut task = Task::of(pool.request().timeout(Duration::ZERO).get_async());
    drop(task.ready().unwrap());
    assert_eq!(pool.stats().timeouts, 1);
}

#[test]
fn p4_a_task_that_is_dropped_loses_nothing() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let waits = Task::waiting(pool.get_async());
    let granted = Task::waiting(pool.get_async());
    let last = waiter(&pool, WATCHDOG);
    drop(waits);
    assert_eq!((pool.stats().waiting, pool.stats().cancelled), (2, 1));

    drop(held);
    granted.woken.expect(1);
    assert!(pool.holders()[0].is_granted_not_polled(), "{:?}", pool.holders());
    drop(granted);
    drop(served(&last));
    let stats = pool.stats();
    assert_eq!((stats.cancelled, stats.gets_not_taken), (1, 1));
    assert_whole(&pool, &server);
}

#[test]
fn p3_what_a_task_does_not_take_up_goes_to_the_next_and_it_keeps_its_place() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let mut late = Task::waiting(pool.request().label("late").get_async());
    let next = waiter(&pool, WATCHDOG);
    let mut after = Task::waiting(pool.get_async());
    drop(held);
    late.woken.expect(1);
    let shown = pool.holders();
    let text = shown[0].to_string();
    assert!(text.starts_with("task at ") && text.ends_with(" (granted, not polled)"), "{text}");
    let dump = pool.snapshot().to_string();
    let is_shown = dump.contains(", not polled") || pool.stats().gets_not_taken == 1;
    assert!(is_shown, "{dump}");

    // Nobody polls it, and the next has the connection.
    let conn = served(&next);
    assert_eq!(pool.stats().gets_not_taken, 1);
    let snapshot = pool.snapshot();
    let labels: Vec<_> = snapshot.waiters.iter().map(|waiter| waiter.label()).collect();
    assert_eq!(labels, [Some("late"), None], "it waits, first in the queue");
    assert!(late.poll().is_pending());
    drop(conn);
    assert!(after.poll().is_pending(), "it is behind");
    drop(late.ready().unwrap());
    drop(after.ready().unwrap());
    assert_whole(&pool, &server);
}

#[test]
fn p1_a_thread_that_times_out_is_told_of_a_grant_that_was_not_polled() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let task = Task::waiting(pool.get_async());
    drop(held);
    task.woken.expect(1);
    // Within the limit, so that the task still has it; a busy machine may be too late.
    let got = pool.get_timeout(Duration::ZERO).map(drop);
    if let Err(error) = got {
        assert!(error.to_string().contains("(granted, not polled)"), "{error}");
    } else {
        assert_eq!(pool.stats().gets_not_taken, 1);
    }
}

#[test]
fn p1_a_late_task_past_its_deadline_times_out_when_it_loses_its_connection() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let mut task = Task::waiting(pool.request().timeout(TAKE_UP_LIMIT / 5).get_async());
    drop(held);
    eventually("the wait ends", || {
        let stats = pool.stats();
        (stats.timeouts, stats.waiting, stats.in_use) == (1, 0, 0)
    });
    assert!(task.ready().unwrap_err().is_timeout());
    drop(pool.get().unwrap());
}

#[test]
fn p13_a_task_is_not_given_what_is_in_doubt_since_it_was_granted() {
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    let (held, mut other) = (pool.get().unwrap(), pool.get().unwrap());
    let mut task = Task::waiting(pool.get_async());
    drop(held);
    task.woken.expect(1);
    PooledConnection::mark_broken(&mut other);
    let checks = server.calls(Op::IsValid);
    let conn = match task.poll() {
        Poll::Ready(got) => got.unwrap(),
        Poll::Pending => {
            task.woken.expect(2);
            task.ready().unwrap()
        }
    };
    conn.touch();
    assert_eq!(server.calls(Op::IsValid), checks + 1, "lent without a check");
    server.check();
}

#[test]
fn p4_a_token_cancels_a_task() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let token = CancelToken::new();
    let mut task = Task::waiting(pool.request().cancel(&token).get_async());
    token.cancel();
    assert_eq!((pool.stats().waiting, task.woken.times()), (0, 1));
    assert!(task.ready().unwrap_err().is_cancelled());
    assert!(
        Task::of(pool.request().cancel(&token).get_async()).ready().unwrap_err().is_cancelled()
    );

    // Too late: it has a connection.
    let token = CancelToken::new();
    let mut task = Task::waiting(pool.request().cancel(&token).get_async());
    drop(held);
    token.cancel();
    drop(task.ready().unwrap());
    assert_eq!(pool.stats().cancelled, 2);
}

#[test]
fn p11_close_ends_the_waits_of_tasks() {
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let mut granted = Task::waiting(pool.get_async());
    let mut waits = Task::waiting(pool.get_async());
    drop(held);
    granted.woken.expect(1);
    thread::scope(|scope| {
        let close = scope.spawn(|| pool.close(std::time::Instant::now() + WATCHDOG));
        waits.woken.expect(1);
        assert!(waits.ready().unwrap_err().is_closed());
        // It is closed when the connection comes back: from the task, or because that is late.
        if let Ok(conn) = granted.ready() {
            drop(conn);
        }
        assert!(close.join().unwrap().is_complete());
    });
    assert!(Task::of(pool.get_async()).ready().unwrap_err().is_closed());
    assert_eq!(server.live(), 0);
}

#[test]
fn p10_a_waker_that_panics_harms_nobody_else() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            silent_panic();
        }
    }
    let server = Server::new();
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    let mut first = Box::pin(pool.get_async());
    let waker = Waker::from(Arc::new(Panics));
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let next = waiter(&pool, WATCHDOG);
    drop(held); // Wakes the first.
    drop(first);
    drop(served(&next));
    assert_whole(&pool, &server);
}

#[test]
fn a_task_that_is_polled_again_after_it_was_ready_panics() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    let mut task = Task::of(pool.get_async());
    drop(task.ready().unwrap());
    let again = panic::catch_unwind(panic::AssertUnwindSafe(|| drop(task.poll())));
    let text = *again.unwrap_err().downcast::<&str>().unwrap();
    assert_eq!(text, "a GetAsync was polled after it was ready");
}

#[test]
fn p3_a_task_waits_for_a_connect_as_a_thread_does() {
    let server = Server::new();
    let gate = Gate::new();
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).min_idle(Some(0)).build_unchecked(server.manager());
    let mut task = Task::waiting(pool.get_async());
    gate.await_entered(1);
    assert!(task.poll().is_pending());
    gate.open();
    task.woken.expect(1);
    drop(task.ready().unwrap());
}

/// The same pool, from the threads of a blocking service and from tasks.
#[test]
fn p4_tasks_that_are_dropped_late_or_cancelled_lose_no_connection() {
    const SIZE: u32 = 3;
    let server = Server::new();
    server.limit(SIZE);
    let pool = builder(SIZE).build(server.manager()).unwrap();
    let mut feed = Feed::with_room_for(&pool, 1 << 20);
    let steps = 60 * rounds(8).min(100);
    thread::scope(|scope| {
        for number in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = number + 1;
                for _ in 0..steps {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let timeout = Duration::from_micros(random % 3000);
                    if number % 2 == 0 {
                        drop(pool.get_timeout(timeout));
                        continue;
                    }
                    let mut task = Task::of(pool.request().timeout(timeout).get_async());
                    // Some are polled until they are ready, and others dropped at any time.
                    for _ in 0..random % 8 {
                        if let Poll::Ready(got) = task.poll() {
                            if let Ok(mut conn) = got {
                                conn.touch();
                                if random & 0xf000 == 0 {
                                    PooledConnection::mark_broken(&mut conn);
                                }
                            }
                            break;
                        }
                        thread::sleep(Duration::from_micros(random % 200));
                    }
                }
            });
        }
    });
    await_waiting(&pool, 0);
    assert_whole(&pool, &server);
    let stats = pool.stats();
    println!("{stats}");
    assert!(stats.gets > 0 && stats.cancelled > 0, "{stats:?}");
    assert!(pool.close(std::time::Instant::now() + WATCHDOG).is_complete());
    feed.read_to_end();
    let sums = check(&feed.seen, false);
    assert_eq!(sums.timed_out, stats.timeouts);
}

#[test]
fn a_task_that_was_late_is_enqueued_again() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let mut feed = Feed::of(&pool);
    let mut task = Task::waiting(pool.get_async());
    drop(held);
    eventually("it was late", || pool.stats().gets_not_taken == 1);
    drop(task.ready().unwrap());
    feed.until_moved(fairpool::event::ConnectionState::Idle, None);
    feed.until_moved(fairpool::event::ConnectionState::Idle, None);
    feed.until_moved(fairpool::event::ConnectionState::Idle, None);
    check(&feed.seen, false);
    let of_get = feed.kinds().into_iter().filter_map(|kind| match kind {
        EventKind::Enqueued { get_id, .. } => Some(("enqueued", *get_id)),
        EventKind::CheckedOut { get_id, .. } => Some(("checked out", *get_id)),
        _ => None,
    });
    let of_get = of_get.collect::<Vec<_>>();
    let id = of_get[0].1;
    let twice = [("enqueued", id), ("checked out", id), ("enqueued", id), ("checked out", id)];
    assert_eq!(of_get, twice);
}
