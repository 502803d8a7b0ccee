//! Crowds: models with more threads than `loom` can explore, in which each thread does
//! anything that it may. `shuttle` draws what, together with the order of the steps, so
//! that an execution can be repeated.
//!
//! Three threads are the executor: the reaper and two workers. Time passes as long as there are
//! callers. So a waiter that is never woken does not stop the others, and the clock must
//! notice that nobody makes progress.
//!
//! Some gets are those of tasks, which are polled late, or dropped, if their caller is like that.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::run::draw;
use super::surroundings::{below, clock, let_others_run, one_in, pick, start_executor};
use super::tasks::{Alarm, block_on, poll};
use super::{
    Bench, Driver, Guard, Ledger, MAX, Plain, Wire, ended, get_by_name, ms, settings, told_of,
};
use crate::api::builder::Builder;
use crate::api::guard::PooledConnection;
use crate::api::pool::Pool;
use crate::runtime::shared::Shared;
use crate::sync::checker::thread::{self, JoinHandle};
use crate::sync::{Arc, AtomicU64, Ordering, advance, instant};
use crate::types::cancel::CancelToken;
use crate::types::config::{Fairness, SelfDeadlock};
use crate::types::error::Error;

const CALLERS: usize = 8;

/// How many executions each crowd has under each of the two schedulers.
const ITERATIONS: usize = 1_500;

/// Longer than any execution.
const LONG: Duration = ms(3_600_000);

// ---- the callers ----

/// What a caller may do.
#[derive(Clone, Copy)]
struct Habits {
    rounds: u64,
    timeouts: &'static [Duration],
    priorities: &'static [u8],
    ends: &'static [End],
    /// Whether some have a token that may be cancelled.
    cancels: bool,
    tasks: Tasks,
}

/// Which gets are those of tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tasks {
    None,
    /// Some, which are polled in time or too late.
    Some,
    /// As before, but some are dropped before they are ready.
    SomeDropped,
}

/// What becomes of a connection.
#[derive(Clone, Copy)]
enum End {
    Return,
    Break,
    Detach,
    /// Pass it to another thread, which returns it.
    PassOn,
    /// Ask for one more first.
    AskForMore(Duration),
}

const PATIENT: Habits = Habits {
    rounds: 2,
    timeouts: &[MAX],
    priorities: &[5],
    ends: &[End::Return, End::Return, End::Break, End::PassOn],
    cancels: false,
    tasks: Tasks::Some,
};

const IMPATIENT: Habits = Habits {
    rounds: 2,
    timeouts: &[MAX, MAX, Duration::ZERO, ms(2), ms(5), ms(20)],
    priorities: &[5, 5, 1, 9],
    ends: &[End::Return, End::Return, End::Break, End::Detach, End::PassOn],
    cancels: true,
    tasks: Tasks::SomeDropped,
};

/// One pool and its users.
struct Crowd {
    bench: Bench,
    habits: Habits,
    /// For the first two callers and for the next two; the others have none.
    tokens: [CancelToken; 2],
    outcomes: Arc<Plain<Vec<String>>>,
    gone: Arc<AtomicU64>,
    clock: JoinHandle<()>,
    executor: JoinHandle<()>,
    callers: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new(settings: Builder<Driver>, habits: Habits) -> Crowd {
        Crowd::with(settings, Driver::default(), habits)
    }

    fn with(settings: Builder<Driver>, driver: Driver, habits: Habits) -> Crowd {
        let settings = settings.connect_backoff(ms(1), ms(4));
        let mut config = settings.config().expect("legal settings");
        config.policy.take_up_limit = ms(2);
        if one_in(2) {
            // So the reaper has no calls to watch, and no reason of its own to run soon.
            (config.policy.patience_min, config.policy.patience_max) = (LONG, LONG);
        }
        let bench = Bench::of(config, driver);
        let outcomes = Arc::default();
        let gone = Arc::new(AtomicU64::new(0));
        let mut crowd = Crowd {
            executor: start_executor(&bench.shared),
            clock: clock(&bench, &outcomes, &gone, CALLERS as u64),
            tokens: [CancelToken::new(), CancelToken::new()],
            callers: Vec::new(),
            bench,
            habits,
            outcomes,
            gone,
        };
        crowd.callers = (0..CALLERS).map(|number| crowd.caller(number)).collect();
        crowd
    }

    fn caller(&self, number: usize) -> JoinHandle<()> {
        let (pool, habits) = (self.bench.pool.clone(), self.habits);
        let token = self.tokens.get(number / 2).filter(|_| habits.cancels).cloned();
        let (outcomes, gone) = (Arc::clone(&self.outcomes), Arc::clone(&self.gone));
        thread::spawn(move || {
            // Only once: a token stays cancelled.
            let mut token = token;
            for _ in 0..habits.rounds {
                let outcome = call(&pool, habits, token.take());
                outcomes.lock().expect("no caller panics here").push(outcome);
            }
            drop(pool);
            gone.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Waits until all callers have ended.
    fn leave(&mut self) {
        self.callers.drain(..).for_each(|caller| caller.join().expect("a caller"));
    }

    /// All callers are served or refused: nothing is left of the pool, whether it is closed
    /// or its last handle is dropped.
    fn end(mut self) -> Vec<String> {
        self.leave();
        let gauges = self.bench.gauges();
        assert_eq!((gauges.waiting, gauges.busy), (0, 0), "{gauges:?}");
        let Bench { pool, shared, ledger } = self.bench;
        if one_in(2) {
            let report = pool.close(instant() + LONG);
            assert!(report.is_complete(), "{report}");
        }
        drop(pool);
        all_ended(shared, &ledger, self.clock, self.executor);
        std::mem::take(&mut *self.outcomes.lock().expect("no caller panics here"))
    }
}

/// The callers and their handles are gone; the pool's threads end too.
fn all_ended(
    shared: Arc<Shared<Driver>>,
    ledger: &Ledger,
    clock: JoinHandle<()>,
    executor: JoinHandle<()>,
) {
    clock.join().expect("the clock");
    executor.join().expect("the executor");
    ended(shared, ledger);
}

/// One get, and its outcome.
fn call(pool: &Pool<Driver>, habits: Habits, token: Option<CancelToken>) -> String {
    let_others_run();
    let mut request =
        pool.request().timeout(pick(habits.timeouts)).priority(pick(habits.priorities));
    if let Some(token) = &token {
        request = request.cancel(token);
    }
    let is_task = habits.tasks != Tasks::None && one_in(3);
    let got = match is_task {
        true => polled_by_chance(request.get_async(), habits.tasks == Tasks::SomeDropped),
        false => Some(request.get()),
    };
    let guard = match got {
        Some(Ok(guard)) => guard,
        Some(Err(error)) => return kind_of(&error),
        None => return "dropped".to_string(),
    };
    let_others_run();
    use_up(pool, guard, pick(habits.ends))
}

/// Polls a task, at once or too late, whether it was woken or not. `None`: it was dropped before
/// it was ready, if it is one that `may_drop`.
fn polled_by_chance<F: Future>(future: F, may_drop: bool) -> Option<F::Output> {
    let (mut future, mut alarm) = (pin!(future), Alarm::new());
    loop {
        if let Poll::Ready(output) = poll(future.as_mut(), &alarm) {
            return Some(output);
        }
        if may_drop && one_in(6) {
            let_others_run();
            return None;
        }
        if !one_in(6) {
            alarm.wait();
        }
        if one_in(3) {
            // For some milliseconds.
            (0..below(60)).for_each(|_| thread::yield_now());
        }
        if one_in(2) {
            alarm = Alarm::new();
        }
    }
}

fn kind_of(error: &Error) -> String {
    format!("{:?}", error.kind())
}

fn use_up(pool: &Pool<Driver>, mut guard: Guard, end: End) -> String {
    match end {
        End::Return => drop(guard),
        End::Break => {
            PooledConnection::mark_broken(&mut guard);
            drop(guard);
            return "broken".to_string();
        }
        End::Detach => {
            drop(PooledConnection::detach(guard));
            return "detached".to_string();
        }
        End::PassOn => {
            let other = thread::spawn(move || {
                let_others_run();
                drop(guard);
            });
            other.join().expect("the other");
            return "passed on".to_string();
        }
        End::AskForMore(timeout) => {
            let _: &Wire = &guard;
            let more = pool.get_timeout(timeout).map(drop);
            drop(guard);
            return more.map_or_else(|error| kind_of(&error), |()| "two granted".to_string());
        }
    }
    "granted".to_string()
}

fn fairness() -> Fairness {
    if one_in(2) { Fairness::Strict } else { Fairness::Bounded(ms(5)) }
}

fn crowded() -> Builder<Driver> {
    let size = 2 + below(2) as u32;
    settings().max_size(size).min_idle(Some(below(2) as u32)).fairness(fairness())
}

// ---- the models ----

/// Callers without deadlines, tasks that are polled too late, and connections that break: all
/// are served. No timeout helps.
#[test]
fn p3_a_crowd_without_deadlines_is_served() {
    let to_meet = ["granted", "broken", "passed on", "a grant was not taken up"];
    draw("a crowd without deadlines", ITERATIONS, &to_meet, || {
        let mut crowd = Crowd::new(crowded(), PATIENT);
        crowd.leave();
        let untaken = crowd.bench.shared.with_core(|core| core.counters().untaken);
        let mut outcomes = crowd.end();
        assert_eq!(outcomes.len(), 2 * CALLERS);
        let served = ["granted", "broken", "passed on"];
        assert!(outcomes.iter().all(|outcome| served.contains(&&**outcome)), "{outcomes:?}");
        outcomes.extend((untaken > 0).then(|| "a grant was not taken up".to_string()));
        outcomes
    });
}

/// Deadlines and cancels, priorities, connections that break or are detached.
#[test]
fn p4_a_crowd_with_deadlines_and_cancels() {
    let to_meet = ["granted", "broken", "detached", "dropped", "Timeout", "Cancelled"];
    draw("a crowd with deadlines and cancels", ITERATIONS, &to_meet, || {
        let crowd = Crowd::new(crowded(), IMPATIENT);
        for token in &crowd.tokens {
            let_others_run();
            token.cancel();
        }
        crowd.end()
    });
}

/// Connects and checks fail, several in a row.
#[test]
fn p3_a_crowd_meets_a_driver_that_fails() {
    let to_meet = ["granted", "broken", "Timeout"];
    draw("a crowd and a driver that fails", ITERATIONS, &to_meet, || {
        let settings = crowded().test_on_check_out(one_in(2));
        let settings = settings.idle_timeout(one_in(2).then_some(ms(3)));
        // If all callers are patient, only the reaper retries.
        let habits = if one_in(2) { PATIENT } else { Habits { cancels: false, ..IMPATIENT } };
        let driver = Driver::default();
        driver.ledger.failures_left.store(below(4), Ordering::Relaxed);
        let crowd = Crowd::with(settings, driver, habits);
        for _ in 0..4 {
            let_others_run();
            let ledger = &crowd.bench.ledger;
            let failing = if one_in(2) { &ledger.failures_left } else { &ledger.invalid_left };
            failing.store(below(4), Ordering::Relaxed);
        }
        crowd.end()
    });
}

/// The owner replaces connections, resizes the pool, and pauses it.
#[test]
fn p3_a_crowd_and_a_busy_owner() {
    let to_meet = ["granted", "broken", "detached", "Timeout", "Cancelled"];
    draw("a crowd and a busy owner", ITERATIONS, &to_meet, || {
        let crowd = Crowd::new(crowded(), IMPATIENT);
        let pool = &crowd.bench.pool;
        for _ in 0..6 {
            let_others_run();
            match below(6) {
                0 => pool.refresh(),
                1 => pool.pause(),
                2 => pool.resume(),
                3 => drop(pool.set_min_idle(Some(below(3) as u32))),
                4 => drop(pool.set_max_size(1 + below(3) as u32)),
                _ => crowd.tokens[0].cancel(),
            }
        }
        pool.resume();
        crowd.end()
    });
}

/// Two threads close the pool meanwhile: the waiters are refused, and both closes return
/// at the end.
#[test]
fn p11_a_crowd_is_sent_away() {
    let to_meet = ["granted", "broken", "Timeout", "Closed"];
    draw("a crowd and two closers", ITERATIONS, &to_meet, || {
        let crowd = Crowd::new(crowded(), IMPATIENT);
        let closers = [(); 2].map(|()| {
            let pool = crowd.bench.pool.clone();
            thread::spawn(move || {
                (0..4).for_each(|_| let_others_run());
                let report = pool.close(instant() + LONG);
                assert!(report.is_complete(), "{report}");
            })
        });
        closers.into_iter().for_each(|closer| closer.join().expect("a closer"));
        crowd.end()
    });
}

/// The last caller drops the last handle.
#[test]
fn p11_the_last_of_a_crowd_drops_the_last_handle() {
    draw("the last of a crowd", ITERATIONS, &["granted", "broken", "Timeout"], || {
        let crowd = Crowd::new(crowded(), IMPATIENT);
        let_others_run();
        let Crowd { bench, outcomes, clock, executor, callers, .. } = crowd;
        let Bench { pool, shared, ledger } = bench;
        drop(pool);
        callers.into_iter().for_each(|caller| caller.join().expect("a caller"));
        all_ended(shared, &ledger, clock, executor);
        std::mem::take(&mut *outcomes.lock().expect("no caller panics here"))
    });
}

/// Some subscribe, and stop, meanwhile: all are served as before, and each step of their own
/// gets is delivered once.
#[test]
fn p3_a_crowd_is_listened_to() {
    let to_meet = ["granted", "broken", "Timeout", "checked out", "enqueued, checked out"];
    draw("a crowd and subscribers", ITERATIONS, &to_meet, || {
        let crowd = Crowd::new(crowded(), IMPATIENT);
        let listeners = [["first", "second"], ["third", "fourth"]].map(|names| {
            let (pool, shared) = (crowd.bench.pool.clone(), Arc::clone(&crowd.bench.shared));
            thread::spawn(move || {
                names.map(|name| {
                    let_others_run();
                    let events = pool.subscribe(1_000).expect("a legal capacity");
                    let_others_run();
                    get_by_name(&pool, name);
                    let_others_run();
                    shared.deliver_events();
                    told_of(&events, name)
                })
            })
        });
        let told = listeners.map(|listener| listener.join().expect("a listener"));
        let mut outcomes = crowd.end();
        let told = told.into_iter().flatten();
        outcomes.extend(told.inspect(|told| {
            assert!(["checked out", "enqueued, checked out"].contains(&&**told), "{told}");
        }));
        outcomes
    });
}

/// Callers ask for one more while they hold one: some get it, those in a deadlock get an
/// error, and all end.
#[test]
fn p9_a_crowd_of_holders_that_ask_for_more() {
    let to_meet = ["two granted", "SelfDeadlock", "Timeout"];
    draw("a crowd of holders that ask for more", ITERATIONS, &to_meet, || {
        const ENDS: &[End] = &[End::AskForMore(MAX), End::AskForMore(ms(5))];
        let settings = crowded().on_self_deadlock(SelfDeadlock::Fail(Duration::ZERO));
        Crowd::new(settings, Habits { ends: ENDS, tasks: Tasks::None, ..PATIENT }).end()
    });
}

/// A queue of eight, threads and tasks, some of which leave it, before newcomers: under strict fairness they
/// are served in order of arrival. Cancelled waiters have left when `cancel` returns.
#[test]
fn p2_a_crowd_is_served_in_order() {
    let to_meet = ["granted", "Timeout", "Cancelled"];
    draw("a crowd in a queue", ITERATIONS, &to_meet, || {
        let (bench, held) = Bench::held(settings());
        let token = CancelToken::new();
        let served: Arc<Plain<Vec<usize>>> = Arc::default();
        let waiter = |number, cancel: bool| {
            let (pool, served) = (bench.pool.clone(), Arc::clone(&served));
            let (timeout, token) = (pick(&[MAX, MAX, ms(3)]), token.clone());
            let is_task = one_in(3);
            thread::spawn(move || {
                let request = pool.request().timeout(timeout);
                let request = if cancel { request.cancel(&token) } else { request };
                let got = if is_task { block_on(request.get_async()) } else { request.get() };
                if got.is_ok() {
                    served.lock().expect("no caller panics here").push(number);
                }
                got.map_or_else(|error| kind_of(&error), |_| "granted".to_string())
            })
        };
        let cancels = [(); CALLERS].map(|()| one_in(3));
        let queue = cancels.iter().enumerate();
        let mut threads: Vec<_> =
            queue.map(|(number, cancel)| bench.until_queued(|| waiter(number, *cancel))).collect();
        threads.extend([CALLERS; 2].map(|number| waiter(number, false)));
        let most = threads.len() - cancels.iter().filter(|cancel| **cancel).count();
        let clock = thread::spawn(|| (0..4).for_each(|_| advance(ms(1))));
        let pool = bench.pool.clone();
        let canceller = thread::spawn(move || {
            token.cancel();
            pool.stats().waiting
        });
        drop(held);
        assert!(canceller.join().expect("the canceller") as usize <= most);
        let outcomes = threads.into_iter().map(|thread| thread.join().expect("a waiter")).collect();
        clock.join().expect("the clock");
        let served = served.lock().expect("no caller panics here");
        assert!(served.is_sorted(), "{served:?}");
        bench.end(None);
        outcomes
    });
}
