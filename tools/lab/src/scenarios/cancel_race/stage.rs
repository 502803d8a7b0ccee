//! The threads of the race: callers that are cancelled, callers that stay, one that
//! returns connections, and the main thread, which cancels.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Outcome;
use crate::scenario::Run;

pub const CONNECTIONS: usize = 2;

/// The callers of a round that are cancelled, and those that stay until they are served.
pub const LEAVING: usize = 8;
pub const STAYING: usize = 2;
pub const CALLERS: usize = LEAVING + STAYING;
/// The callers and the thread that returns connections.
const ALL: usize = CALLERS + 1;

/// The returns and the cancels begin within this number of turns of an empty loop.
const SPREAD: u64 = 500;

/// A caller without an answer after this time is stranded.
pub const WATCHDOG: Duration = Duration::from_secs(10);

/// The number of points of the chart.
const POINTS: u64 = 200;

/// A pool whose callers can be cancelled.
pub trait Raced: Sync {
    type Guard<'a>: Send
    where
        Self: 'a;
    type Token: Default + Send + Sync;

    fn get(&self, token: &Self::Token) -> Option<Self::Guard<'_>>;
    fn try_get(&self) -> Option<Self::Guard<'_>>;
    fn cancel(token: &Self::Token);
    fn waiting(&self) -> usize;
}

/// How long to run, and what is special about the pool.
pub struct Script<'a> {
    pub cancels: u64,
    pub time: Duration,
    /// Whether all connections are lost, so that no caller can be served.
    pub all_lost: &'a dyn Fn() -> bool,
}

/// Runs rounds on this pool.
pub fn race<P: Raced>(pool: &P, run: &Run<'_>, script: &Script<'_>) -> Outcome {
    let stage = Stage::new(pool);
    let mut outcome = thread::scope(|scope| {
        for number in 0..CALLERS {
            let leaves = number % (CALLERS / STAYING) != 0;
            let name = format!("{}-{number}", if leaves { "leaving" } else { "staying" });
            let (thread, stage) = (thread::Builder::new().name(name), &stage);
            thread.spawn_scoped(scope, move || stage.call(leaves)).expect("a thread");
        }
        let dice = StdRng::seed_from_u64(!run.seed);
        scope.spawn(|| stage.return_held(dice));
        let outcome = stage.run(run, script);
        *lock(&stage.round) = None;
        *lock(&stage.held) = None;
        stage.start.wait();
        stage.returner.wait();
        outcome
    });
    outcome.waiting = pool.waiting();
    let present: Vec<_> = (0..CONNECTIONS).map_while(|_| pool.try_get()).collect();
    outcome.missing = CONNECTIONS - present.len();
    outcome.taken += present.len() as u64;
    outcome
}

/// The state that the threads share.
struct Stage<'a, P: Raced> {
    pool: &'a P,
    /// `None` at the end.
    round: Mutex<Option<Arc<Round<P::Token>>>>,
    start: Barrier,
    counts: Counts,
    /// The threads that have finished the round.
    done: Mutex<usize>,
    all_done: Condvar,
    /// Connections to return; `None` at the end.
    held: Mutex<Option<Vec<P::Guard<'a>>>>,
    returner: Barrier,
    /// How often a thread has come to [`Stage::meet`].
    met: AtomicUsize,
}

/// The tokens of a round.
#[derive(Default)]
struct Round<T> {
    leaving: T,
    staying: T,
    /// Whether the cancel has begun.
    cancelled: AtomicBool,
}

/// As in [`Outcome`].
#[derive(Default)]
struct Counts {
    left: AtomicU64,
    met_a_grant: AtomicU64,
    too_early: AtomicU64,
    served: AtomicU64,
    stranded: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spin(turns: u64) {
    (0..turns).for_each(|_| hint::spin_loop());
}

impl<'a, P: Raced> Stage<'a, P> {
    fn new(pool: &'a P) -> Stage<'a, P> {
        Stage {
            pool,
            round: Mutex::new(None),
            start: Barrier::new(CALLERS + 1),
            counts: Counts::default(),
            done: Mutex::new(0),
            all_done: Condvar::new(),
            held: Mutex::new(None),
            returner: Barrier::new(2),
            met: AtomicUsize::new(0),
        }
    }

    /// The loop of a caller.
    fn call(&self, leaves: bool) {
        loop {
            self.start.wait();
            let Some(round) = lock(&self.round).clone() else { return };
            let begun = Instant::now();
            let got = self.pool.get(if leaves { &round.leaving } else { &round.staying });
            let counts = &self.counts;
            let count = match (leaves, got.is_some()) {
                _ if begun.elapsed() >= WATCHDOG => &counts.stranded,
                (true, false) => &counts.left,
                (true, true) if round.cancelled.load(Ordering::SeqCst) => &counts.met_a_grant,
                (true, true) => &counts.too_early,
                (false, true) => &counts.served,
                (false, false) => &counts.stranded,
            };
            count.fetch_add(1, Ordering::SeqCst);
            drop((got, round));
            self.done();
        }
    }

    /// The loop of the thread that returns connections.
    fn return_held(&self, mut dice: StdRng) {
        for number in 1.. {
            self.returner.wait();
            let Some(held) = lock(&self.held).take() else { return };
            self.meet(number);
            for guard in held {
                spin(dice.random_range(0..SPREAD));
                drop(guard);
            }
            self.done();
        }
    }

    /// Waits, without sleeping, until the returning thread and the main thread are here.
    fn meet(&self, number: usize) {
        self.met.fetch_add(1, Ordering::SeqCst);
        while self.met.load(Ordering::SeqCst) < 2 * number {
            thread::yield_now();
        }
    }

    fn done(&self) {
        let mut done = lock(&self.done);
        *done += 1;
        if *done == ALL {
            self.all_done.notify_one();
        }
    }

    fn run(&self, run: &Run<'_>, script: &Script<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut dice = StdRng::seed_from_u64(run.seed);
        let begun = Instant::now();
        for number in 1.. {
            let held: Vec<_> = (0..CONNECTIONS).map_while(|_| self.pool.try_get()).collect();
            let waiting = self.pool.waiting();
            outcome.taken += held.len() as u64;
            outcome.bad_rounds += u64::from(held.len() < CONNECTIONS || waiting > 0);
            let time = begun.elapsed();
            let points = outcome.queue.len() as u64;
            if outcome.cancels() >= script.cancels / POINTS * points {
                outcome.queue.push((outcome.cancels() as f64, waiting as f64));
            }
            if outcome.cancels() >= script.cancels || time >= script.time {
                break;
            }
            self.round(number, held, &mut dice, script);
            self.count(&mut outcome);
            outcome.rounds += 1;
            run.console.state(|| {
                let (cancels, all) = (outcome.cancels(), script.cancels);
                format!("{cancels} of {all} cancelled, {waiting} in the queue")
            });
        }
        outcome.seconds = begun.elapsed().as_secs_f64();
        outcome
    }

    fn count(&self, outcome: &mut Outcome) {
        let Counts { left, met_a_grant, too_early, served, stranded } = &self.counts;
        outcome.left = left.load(Ordering::SeqCst);
        outcome.met_a_grant = met_a_grant.load(Ordering::SeqCst);
        outcome.too_early = too_early.load(Ordering::SeqCst);
        outcome.served = served.load(Ordering::SeqCst);
        outcome.stranded = stranded.load(Ordering::SeqCst);
    }

    /// One round: all callers join the queue, then the connections are returned and some of
    /// the callers are cancelled. Ends when all have an answer.
    fn round(
        &self,
        number: usize,
        held: Vec<P::Guard<'a>>,
        dice: &mut StdRng,
        script: &Script<'_>,
    ) {
        let queued = self.pool.waiting();
        let round = Arc::new(Round::default());
        *lock(&self.round) = Some(Arc::clone(&round));
        *lock(&self.done) = 0;
        let begun = Instant::now();
        self.start.wait();
        // A caller is served at once only if a flaw has broken the pool.
        let joined = || self.pool.waiting() >= queued + CALLERS || *lock(&self.done) > 0;
        while !joined() && begun.elapsed() < WATCHDOG {
            thread::yield_now();
        }
        *lock(&self.held) = Some(held);
        self.returner.wait();
        self.meet(number);
        spin(dice.random_range(0..SPREAD));
        round.cancelled.store(true, Ordering::SeqCst);
        P::cancel(&round.leaving);
        let mut done = lock(&self.done);
        while *done < ALL {
            if (script.all_lost)() || begun.elapsed() > WATCHDOG {
                // The callers that stay would wait forever, so they are cancelled too.
                drop(done);
                P::cancel(&round.staying);
                done = lock(&self.done);
            }
            let soon = Duration::from_millis(1);
            let wait = self.all_done.wait_timeout_while(done, soon, |done| *done < ALL);
            done = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
