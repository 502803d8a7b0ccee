//! Models of gets by tasks: no thread sleeps for them in the pool, and they are polled when they
//! are. The reaper is a step of the model where it is not a thread.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use super::*;
use crate::sync::{Condvar, Mutex, wait_until};

/// Longer than a task may take to be polled, after it was granted a connection.
const TOO_LATE: Duration = ms(1000);

// ---- tasks ----

/// Wakes the thread that polls a task.
pub(super) struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Alarm {
    pub(super) fn new() -> Arc<Alarm> {
        Arc::new(Alarm { rung: Mutex::new(false), changed: Condvar::new() })
    }

    /// Sleeps until the task is woken.
    pub(super) fn wait(&self) {
        let mut rung = self.rung.lock();
        wait_until(&self.changed, &mut rung, None, |rung| *rung);
        *rung = false;
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }
}

/// Polls once, with a waker that rings this alarm.
pub(super) fn poll<F: Future + ?Sized>(future: Pin<&mut F>, alarm: &Arc<Alarm>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(alarm))))
}

/// Runs a future on this thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let (mut future, alarm) = (pin!(future), Alarm::new());
    loop {
        match poll(future.as_mut(), &alarm) {
            Poll::Ready(output) => return output,
            Poll::Pending => alarm.wait(),
        }
    }
}

/// A get that any thread may poll or drop.
type Get = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;

fn get(pool: &Pool<Driver>, timeout: Duration) -> Get {
    let pool = pool.clone();
    Box::pin(async move { pool.request().timeout(timeout).get_async().await })
}

fn cancellable(pool: &Pool<Driver>, token: &CancelToken) -> Get {
    let (pool, token) = (pool.clone(), token.clone());
    Box::pin(async move { pool.request().cancel(&token).timeout(MAX).get_async().await })
}

/// Polls the get once: it waits in the queue from then on. Nobody hears its first waker.
fn begun(mut get: Get) -> Get {
    assert!(poll(get.as_mut(), &Alarm::new()).is_pending(), "there is nothing to get");
    get
}

/// Spawns a thread that polls the get to its end; its result is the outcome.
fn polled(get: Get) -> JoinHandle<String> {
    thread::spawn(move || outcome(block_on(get)))
}

/// As [`polled`], and records that the task was served.
fn polled_and_noted(get: Get, served: &Served, name: &'static str) -> JoinHandle<String> {
    let served = Arc::clone(served);
    thread::spawn(move || {
        let got = block_on(get).expect("a connection");
        served.lock().expect("no thread panics here").push(name);
        outcome(Ok(got))
    })
}

/// The reaper runs, so much later.
fn reap_after(bench: &Bench, span: Duration) {
    advance(span);
    bench.shared.transition(|core, fx| core.tick(fx));
}

// ---- a grant, and what may come between ----

/// The connection is returned while the first in the line is dropped: the next, a thread,
/// gets it.
#[test]
fn p4_a_task_that_is_dropped_at_its_grant_loses_nothing_for_a_thread() {
    drop_against_grant("drop against grant, a thread is next", |bench| bench.queued(MAX));
}

/// The same, if the next is a task.
#[test]
fn p4_a_task_that_is_dropped_at_its_grant_loses_nothing_for_a_task() {
    drop_against_grant("drop against grant, a task is next", |bench| {
        bench.until_queued(|| polled(get(&bench.pool, MAX)))
    });
}

fn drop_against_grant(
    name: &str,
    next: impl Fn(&Bench) -> JoinHandle<String> + Send + Sync + 'static,
) {
    explore(name, 8, &["granted"], move || {
        let (bench, held) = Bench::held(settings());
        let first = begun(get(&bench.pool, MAX));
        let next = next(&bench);
        let dropper = thread::spawn(move || drop(first));
        drop(held);
        dropper.join().expect("the dropper");
        let outcome = next.join().expect("the next");
        bench.end(None);
        outcome
    });
}

/// The connection is returned while the task's deadline comes: it has one answer, and is woken
/// for it. It comes by itself, so its first poll may be any time, too.
#[test]
fn p4_a_task_gets_its_grant_or_a_timeout() {
    explore("a task's deadline against its grant", 3, &["granted", "Timeout"], || {
        let (bench, held) = Bench::held(settings());
        let task = polled(get(&bench.pool, ms(10)));
        let returner = thread::spawn(move || drop(held));
        reap_after(&bench, ms(10));
        returner.join().expect("the returner");
        // It may have come only now, and the connection be there.
        let outcome = task.join().expect("the task");
        bench.end(None);
        outcome
    });
}

/// Nothing is returned: the reaper sleeps without a plan when the task comes, and ends its
/// wait in time.
#[test]
fn p1_the_reaper_keeps_the_deadline_of_a_task() {
    explore("a task's deadline against the reaper's sleep", 3, &["Timeout"], || {
        let (bench, held) = Bench::held(settings());
        let reaper = bench.executor_with_reaper();
        let task = begun(get(&bench.pool, ms(10)));
        let task = polled(task);
        advance(ms(10));
        let outcome = task.join().expect("the task");
        drop(held);
        bench.end(Some(reaper));
        outcome
    });
}

/// A task is polled on one thread, moves, and is polled on another with another waker, while
/// it is granted: that waker is called, or the poll finds the grant.
#[test]
fn p3_a_task_that_moves_is_woken_where_it_is() {
    let outcomes = ["served at once", "served when it had moved", "woken where it was"];
    explore("a task that moves against its grant", 8, &outcomes, || {
        let (bench, held) = Bench::held(settings());
        let mut task = get(&bench.pool, MAX);
        let first = thread::spawn(move || {
            if let Poll::Ready(got) = poll(task.as_mut(), &Alarm::new()) {
                drop(got.expect("a connection"));
                return None;
            }
            Some(thread::spawn(move || {
                let alarm = Alarm::new();
                let mut how = "served when it had moved";
                loop {
                    if let Poll::Ready(got) = poll(task.as_mut(), &alarm) {
                        drop(got.expect("a connection"));
                        return how;
                    }
                    alarm.wait();
                    how = "woken where it was";
                }
            }))
        });
        drop(held);
        let second = first.join().expect("the first thread");
        let how = second.map_or("served at once", |second| second.join().expect("the second"));
        bench.end(None);
        how.to_string()
    });
}

/// A task was granted a connection. Its time to take it up ends just when it is polled: it has
/// it, or the next does. Then the task is before one who came later, unless that is served
/// before the task is polled at all.
#[test]
fn p4_a_grant_that_is_not_taken_up_goes_to_the_next() {
    let outcomes = ["task, next, late", "next, task, late", "next, late, task"];
    explore("the end of a grant against a poll", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings());
        let served = Served::default();
        let task = begun(get(&bench.pool, MAX));
        let next = noted_queued(&bench, &served, "next");
        let late = noted_queued(&bench, &served, "late");
        drop(held);
        assert_eq!(bench.gauges().waiting, 2, "the task has it");
        let task = polled_and_noted(task, &served, "task");
        reap_after(&bench, TOO_LATE);
        for thread in [task, next, late] {
            thread.join().expect("a caller");
        }
        bench.end(None);
        send(&served)
    });
}

/// The same at the task's deadline, when it waits again: it is served, or told so.
#[test]
fn p4_a_task_that_was_polled_too_late_has_its_deadline() {
    let outcomes = ["granted, granted", "Timeout, granted"];
    explore("the end of a grant at a deadline against a poll", 4, &outcomes, || {
        let (bench, held) = Bench::held(settings());
        let task = begun(get(&bench.pool, TOO_LATE));
        let next = bench.queued(MAX);
        drop(held);
        let task = polled(task);
        reap_after(&bench, TOO_LATE);
        let task = task.join().expect("the task");
        let next = next.join().expect("the next");
        bench.end(None);
        format!("{task}, {next}")
    });
}

// ---- cancelling and closing ----

/// A connection is returned while its task enqueues, waits, is polled, or is cancelled.
#[test]
fn p4_a_task_is_cancelled_or_granted() {
    explore("a task's cancel against its grant", 4, &["granted", "Cancelled"], || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let task = polled(cancellable(&bench.pool, &token));
        let canceller = thread::spawn(move || token.cancel());
        drop(held);
        canceller.join().expect("the canceller");
        let outcome = task.join().expect("the task");
        bench.end(None);
        outcome
    });
}

/// A task was granted a connection, which is taken back, and its token is cancelled. Whichever
/// comes first, it does not go on waiting: the connection that others use meanwhile is never
/// returned.
#[test]
fn p4_a_task_whose_grant_ends_is_cancelled() {
    explore("a task's cancel against the end of its grant", 8, &["Cancelled"], || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let mut task = begun(cancellable(&bench.pool, &token));
        let mut next = begun(get(&bench.pool, MAX));
        drop(held);
        let canceller = thread::spawn(move || token.cancel());
        reap_after(&bench, TOO_LATE);
        canceller.join().expect("the canceller");
        let Poll::Ready(got) = poll(next.as_mut(), &Alarm::new()) else {
            panic!("the next has the connection")
        };
        let Poll::Ready(cancelled) = poll(task.as_mut(), &Alarm::new()) else {
            panic!("the task has its answer")
        };
        assert_eq!(bench.gauges().waiting, 0, "the task has left the queue");
        let outcome = outcome(cancelled);
        drop(got.expect("a connection"));
        bench.end(None);
        outcome
    });
}

/// A connection is returned while its task enqueues, waits or is polled, and the pool is closed.
#[test]
fn p11_a_task_is_told_of_the_close_or_granted() {
    explore("a task's grant against close", 4, &["granted", "Closed"], || {
        let (bench, held) = Bench::held(settings());
        let task = polled(get(&bench.pool, MAX));
        let closer = closer(&bench);
        drop(held);
        closer.join().expect("the closer");
        let outcome = task.join().expect("the task");
        bench.end(None);
        outcome
    });
}

/// A task was granted a connection, and the pool is closed, when its time to take it up ends
/// or it is polled.
#[test]
fn p11_a_task_that_is_polled_late_is_told_of_the_close() {
    explore("the end of a task's grant against close", 2, &["granted", "Closed"], || {
        let (bench, held) = Bench::held(settings());
        let task = begun(get(&bench.pool, MAX));
        drop(held);
        let closer = closer(&bench);
        let task = polled(task);
        reap_after(&bench, TOO_LATE);
        closer.join().expect("the closer");
        // If it was taken back before the close, it is served or refused by that.
        let outcome = task.join().expect("the task");
        bench.end(None);
        outcome
    });
}

fn closer(bench: &Bench) -> JoinHandle<()> {
    let pool = bench.pool.clone();
    thread::spawn(move || drop(pool.close(instant())))
}

// ---- one line ----

/// Tasks and a thread wait for one connection: all are served, in order of arrival.
#[test]
fn p2_tasks_and_threads_stand_in_one_line() {
    explore("two tasks and a thread in one line", 3, &["task, thread, another"], || {
        let (bench, held) = Bench::held(settings());
        let served = Served::default();
        let task = begun(get(&bench.pool, MAX));
        let thread = noted_queued(&bench, &served, "thread");
        let another = begun(get(&bench.pool, MAX));
        let task = polled_and_noted(task, &served, "task");
        let another = polled_and_noted(another, &served, "another");
        drop(held);
        for caller in [task, thread, another] {
            caller.join().expect("a caller");
        }
        bench.end(None);
        send(&served)
    });
}

/// A task waits, and may be overtaken up to the bound. A connection that comes back is its own
/// nevertheless: it is handed over, since a task may be slow to claim.
#[test]
fn p3_a_task_and_a_newcomer_are_served() {
    let outcomes = ["task, newcomer", "newcomer, task"];
    explore("a task against a newcomer, boundedly fair", 3, &outcomes, || {
        let (bench, held) = Bench::held(settings().fairness(Fairness::Bounded(ms(5))));
        let served = Served::default();
        let task = polled_and_noted(get(&bench.pool, MAX), &served, "task");
        let newcomer = noted(&bench, &served, "newcomer");
        drop(held);
        for caller in [task, newcomer] {
            caller.join().expect("a caller");
        }
        bench.end(None);
        send(&served)
    });
}
