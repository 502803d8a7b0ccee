//! Callers are cancelled while they wait, in the instant in which connections come back.

use std::hint;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Fairness, Pool, PooledConnection};
use serde_json::{Value, json};

use super::{Problem, Run, Scenario};
use crate::chart::{Chart, Line};
use crate::dice::Dice;
use crate::flawed::forgetful::{self, Cancel, Forgetful};
use crate::load::of;
use crate::report::{Finding, Report, figure};
use crate::stub::{Conn, Stub};

pub const SCENARIO: Scenario = Scenario {
    name: "cancel-race",
    about: "callers are cancelled in the queue, a million times, as connections come back",
    seconds: Duration::from_secs(30),
    run,
};

const CANCELS: u64 = 1_000_000;
const CONNECTIONS: usize = 2;

/// In each round, so many callers join the queue and are cancelled, and so many stay in
/// it until they are served.
const LEAVING: usize = 8;
const STAYING: usize = 2;
const CALLERS: usize = LEAVING + STAYING;

/// The returns and the cancels begin within this many turns of an empty loop.
const SPREAD: u64 = 2000;

/// Whoever stays and is not served by then never is.
const WATCHDOG: Duration = Duration::from_secs(10);

/// A pool whose callers can be cancelled.
trait Raced: Sync {
    type Guard<'a>: Send
    where
        Self: 'a;
    type Token: Default + Send + Sync;

    fn get(&self, token: &Self::Token) -> Option<Self::Guard<'_>>;
    fn try_get(&self) -> Option<Self::Guard<'_>>;
    fn cancel(token: &Self::Token);
    fn waiting(&self) -> usize;
}

impl Raced for Forgetful<Conn> {
    type Guard<'a> = forgetful::Guard<'a, Conn>;
    type Token = Cancel<Conn>;

    fn get(&self, token: &Cancel<Conn>) -> Option<forgetful::Guard<'_, Conn>> {
        self.get(token)
    }

    fn try_get(&self) -> Option<forgetful::Guard<'_, Conn>> {
        self.try_get()
    }

    fn cancel(token: &Cancel<Conn>) {
        token.cancel();
    }

    fn waiting(&self) -> usize {
        self.waiting()
    }
}

impl Raced for Pool<Stub> {
    type Guard<'a> = PooledConnection<Stub>;
    type Token = CancelToken;

    fn get(&self, token: &CancelToken) -> Option<PooledConnection<Stub>> {
        self.request().timeout(Duration::MAX).cancel(token).get().ok()
    }

    fn try_get(&self) -> Option<PooledConnection<Stub>> {
        self.try_get()
    }

    fn cancel(token: &CancelToken) {
        token.cancel();
    }

    fn waiting(&self) -> usize {
        self.stats().waiting as usize
    }
}

/// What became of the callers, and of the pool.
#[derive(Default)]
struct Outcome {
    /// Cancelled while they waited: they left with nothing.
    left: u64,
    /// Cancelled, but granted a connection in the same instant, which they used.
    met_a_grant: u64,
    /// Stayed, and were served.
    served: u64,
    /// Stayed, and would have stayed for ever.
    stranded: u64,
    /// Connections that the main thread got, one after the other.
    taken: u64,
    /// Rounds at whose beginning a connection was missing, or somebody in the queue.
    bad_rounds: u64,
    rounds: u64,
    /// At the end.
    waiting: usize,
    missing: usize,
    seconds: f64,
    /// How many are in the queue after how many cancels.
    queue: Vec<(f64, f64)>,
}

impl Outcome {
    fn cancels(&self) -> u64 {
        self.left + self.met_a_grant
    }

    fn shows_the_flaw(&self) -> bool {
        self.stranded + self.bad_rounds > 0 || self.waiting + self.missing > 0
    }

    fn add(&mut self, other: Outcome) {
        self.left += other.left;
        self.met_a_grant += other.met_a_grant;
        self.served += other.served;
        self.stranded += other.stranded;
        self.taken += other.taken;
        self.bad_rounds += other.bad_rounds;
        self.rounds += other.rounds;
        self.waiting += other.waiting;
        self.missing += other.missing;
        self.seconds += other.seconds;
        let done = self.queue.last().map_or(0.0, |last| last.0);
        self.queue.extend(other.queue.into_iter().map(|(x, y)| (done + x, y)));
    }
}

/// The tokens of a round.
#[derive(Default)]
struct Tokens<T> {
    leaving: T,
    staying: T,
}

/// What the threads share.
struct Stage<'a, P: Raced> {
    pool: &'a P,
    /// `None`: it is over.
    tokens: Mutex<Option<Arc<Tokens<P::Token>>>>,
    curtain: Barrier,
    answered: Mutex<usize>,
    all_answered: Condvar,
    counts: [AtomicU64; 4],
    /// Connections that are to be returned; `None`: it is over.
    held: Mutex<Option<Vec<P::Guard<'a>>>>,
    returner: Barrier,
    met: AtomicUsize,
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
            tokens: Mutex::new(None),
            curtain: Barrier::new(CALLERS + 1),
            answered: Mutex::new(0),
            all_answered: Condvar::new(),
            counts: Default::default(),
            held: Mutex::new(None),
            returner: Barrier::new(2),
            met: AtomicUsize::new(0),
        }
    }

    /// The life of a caller.
    fn call(&self, leaves: bool) {
        loop {
            self.curtain.wait();
            let Some(tokens) = lock(&self.tokens).clone() else { return };
            let got = self.pool.get(if leaves { &tokens.leaving } else { &tokens.staying });
            drop(tokens);
            let count = &self.counts[usize::from(leaves) * 2 + usize::from(got.is_some())];
            count.fetch_add(1, Ordering::Relaxed);
            drop(got);
            let mut answered = lock(&self.answered);
            *answered += 1;
            if *answered == CALLERS {
                self.all_answered.notify_one();
            }
        }
    }

    /// The life of the thread that returns what was held.
    fn give_back(&self, mut dice: Dice) {
        for round in 1.. {
            self.returner.wait();
            let Some(held) = lock(&self.held).take() else { return };
            self.meet(round);
            for guard in held {
                spin(dice.below(SPREAD));
                drop(guard);
            }
        }
    }

    /// Neither of the two goes on before both run.
    fn meet(&self, round: usize) {
        self.met.fetch_add(1, Ordering::SeqCst);
        while self.met.load(Ordering::SeqCst) < 2 * round {
            thread::yield_now();
        }
    }

    /// All callers join the queue; then connections come back, and some of the callers
    /// are cancelled. Ends when all have an answer.
    fn round(&self, held: Vec<P::Guard<'a>>, dice: &mut Dice, number: usize, script: &Script<'_>) {
        let queued = self.pool.waiting();
        let tokens = Arc::new(Tokens::default());
        *lock(&self.tokens) = Some(Arc::clone(&tokens));
        *lock(&self.answered) = 0;
        self.curtain.wait();
        let begun = Instant::now();
        let joined = || self.pool.waiting() >= queued + CALLERS || *lock(&self.answered) > 0;
        while !joined() && begun.elapsed() < WATCHDOG {
            thread::yield_now();
        }
        (script.all_wait)(number);
        *lock(&self.held) = Some(held);
        self.returner.wait();
        self.meet(number);
        spin(dice.below(SPREAD));
        P::cancel(&tokens.leaving);
        let mut answered = lock(&self.answered);
        while *answered < CALLERS {
            // Nobody can serve those who stay, so they are sent home.
            if (script.all_lost)() || begun.elapsed() > WATCHDOG {
                drop(answered);
                P::cancel(&tokens.staying);
                answered = lock(&self.answered);
            }
            let wait = self.all_answered.wait_timeout_while(
                answered,
                Duration::from_millis(1),
                |answered| *answered < CALLERS,
            );
            answered = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Round after round, until there were enough cancels or the time is over.
    fn play(&self, run: &Run<'_>, script: &Script<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut dice = Dice::new(run.seed, 0);
        let begun = Instant::now();
        for number in 1.. {
            let held: Vec<_> = (0..CONNECTIONS).map_while(|_| self.pool.try_get()).collect();
            let waiting = self.pool.waiting();
            outcome.taken += held.len() as u64;
            outcome.bad_rounds += u64::from(held.len() < CONNECTIONS || waiting > 0);
            let cancels = outcome.cancels() as f64;
            if outcome
                .queue
                .last()
                .is_none_or(|last| cancels >= last.0 + script.cancels as f64 / 200.0)
            {
                outcome.queue.push((cancels, waiting as f64));
            }
            if outcome.cancels() >= script.cancels || begun.elapsed() >= script.time {
                break;
            }
            self.round(held, &mut dice, number, script);
            let [stranded, served, left, met_a_grant] =
                [0, 1, 2, 3].map(|index: usize| self.counts[index].load(Ordering::Relaxed));
            outcome =
                Outcome { stranded, served, left, met_a_grant, rounds: number as u64, ..outcome };
            run.console.state(|| {
                format!(
                    "{} of {} cancelled, {waiting} in the queue",
                    outcome.cancels(),
                    script.cancels
                )
            });
        }
        outcome.seconds = begun.elapsed().as_secs_f64();
        outcome
    }
}

/// What is played, and what is special about the pool.
struct Script<'a> {
    cancels: u64,
    time: Duration,
    /// Called in each round when all callers wait.
    all_wait: &'a dyn Fn(usize),
    /// Whether no connection is left.
    all_lost: &'a dyn Fn() -> bool,
}

fn race<P: Raced>(pool: &P, run: &Run<'_>, script: &Script<'_>) -> Outcome {
    let stage = Stage::new(pool);
    let mut outcome = thread::scope(|scope| {
        for number in 0..CALLERS {
            let leaves = number % (CALLERS / STAYING) != 0;
            let name = format!("{}-{number}", if leaves { "leaving" } else { "staying" });
            let stage = &stage;
            let thread = thread::Builder::new().name(name);
            thread.spawn_scoped(scope, move || stage.call(leaves)).expect("a thread");
        }
        let dice = Dice::new(run.seed, 1);
        scope.spawn(|| stage.give_back(dice));
        let outcome = stage.play(run, script);
        *lock(&stage.tokens) = None;
        *lock(&stage.held) = None;
        stage.curtain.wait();
        stage.returner.wait();
        outcome
    });
    outcome.waiting = pool.waiting();
    let left: Vec<_> = (0..CONNECTIONS).map_while(|_| pool.try_get()).collect();
    outcome.missing = CONNECTIONS - left.len();
    outcome.taken += left.len() as u64;
    outcome
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    run.console.say("flawed: a cancelled caller stays in the queue");
    let stub = Stub::new();
    let pool = Forgetful::new(run.fixed, (0..CONNECTIONS).map(|_| stub.open()));
    let flawed = race(
        &pool,
        run,
        &Script {
            cancels: CANCELS,
            time: run.seconds,
            all_wait: &|_| {},
            // The driver sees those closed that nobody has any more.
            all_lost: &|| stub.closed() == CONNECTIONS as u64,
        },
    );
    drop(pool);

    let mut fairpool = Outcome::default();
    let mut books = Vec::new();
    let mut diagnosis = String::new();
    for (name, fairness) in [
        ("a returned connection is handed to the first waiter", Fairness::Strict),
        ("newcomers may be quicker, the default", Fairness::default()),
    ] {
        run.console.say(&format!("fairpool: {name}"));
        let (outcome, said, wrong) = real(run, fairness);
        fairpool.add(outcome);
        books.extend(wrong);
        diagnosis = said;
    }
    run.console.quiet();
    Ok(report(flawed, fairpool, &books, diagnosis))
}

/// Half of it, with this fairness. What the pool has counted must be what its callers
/// have seen; in what they differ, if they do, is the last of the results.
fn real(run: &Run<'_>, fairness: Fairness) -> (Outcome, String, Vec<String>) {
    let stub = Stub::new();
    let builder = Pool::builder().name("lab").max_size(CONNECTIONS as u32).fairness(fairness);
    let pool = builder
        .test_on_check_out(false)
        .slow_get_threshold(None)
        .build(stub.clone())
        .expect("the stub always connects");
    let said = Mutex::new(String::new());
    let outcome = race(
        &pool,
        run,
        &Script {
            cancels: CANCELS / 2,
            time: run.seconds / 2,
            all_wait: &|round| {
                if round == 1 {
                    *lock(&said) = pool.snapshot().to_string();
                }
            },
            all_lost: &|| false,
        },
    );
    let stats = pool.stats();
    let seen = outcome.taken + outcome.served + outcome.met_a_grant;
    let books = [
        ("connections handed out", stats.gets, seen),
        ("callers cancelled", stats.cancelled, outcome.left + outcome.stranded),
        ("connections closed", stub.closed(), 0),
        ("connections opened", stub.opened(), CONNECTIONS as u64),
    ];
    let wrong = books.into_iter().filter(|(_, pool, callers)| pool != callers);
    let wrong =
        wrong.map(|(what, pool, callers)| format!("{what}: {pool}, but should be {callers}"));
    let wrong = wrong.collect();
    (outcome, said.into_inner().unwrap_or_else(PoisonError::into_inner), wrong)
}

fn report(flawed: Outcome, fairpool: Outcome, books: &[String], diagnosis: String) -> Report {
    let row = |name: &str, figure_of: fn(&Outcome) -> String| {
        figure(name, figure_of(&flawed), figure_of(&fairpool))
    };
    let figures = vec![
        row("callers cancelled", |outcome| outcome.cancels().to_string()),
        row("of them while they waited: left at once", |outcome| outcome.left.to_string()),
        row("of them as they were granted one: used it", |outcome| outcome.met_a_grant.to_string()),
        row("callers that stayed and were served", |outcome| outcome.served.to_string()),
        row("callers that stayed, whose wake-up was lost", |outcome| outcome.stranded.to_string()),
        row("left in the queue at the end", |outcome| outcome.waiting.to_string()),
        row("connections missing at the end", |outcome| {
            of(outcome.missing, CONNECTIONS).to_string()
        }),
        row("took", |outcome| format!("{:.1} s", outcome.seconds)),
    ];
    let because = |outcome: &Outcome| {
        format!(
            "after {} cancels, {} waiters are left in the queue, {} connections are missing, {} callers were never served",
            outcome.cancels(),
            outcome.waiting,
            of(outcome.missing, CONNECTIONS),
            outcome.stranded
        )
    };
    let fine = |outcome: &Outcome| {
        format!(
            "after {} cancels the queue is empty, all connections are there, and whoever stayed was served",
            outcome.cancels()
        )
    };
    let said = |outcome: &Outcome| match outcome.shows_the_flaw() {
        true => because(outcome),
        false => fine(outcome),
    };
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "a cancelled caller stays in the queue".to_string(),
        load: format!(
            "{CONNECTIONS} connections; in each round {CALLERS} callers wait, {LEAVING} of them are cancelled as the connections come back"
        ),
        figures,
        flawed: Finding { shows_the_flaw: flawed.shows_the_flaw(), because: said(&flawed) },
        fairpool: Finding {
            shows_the_flaw: fairpool.shows_the_flaw() || !books.is_empty(),
            because: match books {
                [] => said(&fairpool),
                wrong => format!("the books are wrong: {}", wrong.join(", ")),
            },
        },
        diagnosis,
        data: json!({ "flawed": data(&flawed), "fairpool": data(&fairpool) }),
        chart: Some(Chart {
            title: format!("Waiters in the queue, of which {LEAVING} of {CALLERS} are cancelled"),
            x: "cancels".to_string(),
            y: "in the queue".to_string(),
            lines: vec![
                Line { name: "flawed".to_string(), points: flawed.queue },
                Line { name: "fairpool".to_string(), points: fairpool.queue },
            ],
            log_y: false,
        }),
    }
}

fn data(outcome: &Outcome) -> Value {
    json!({
        "cancelled": outcome.cancels(),
        "left": outcome.left,
        "met_a_grant": outcome.met_a_grant,
        "served": outcome.served,
        "stranded": outcome.stranded,
        "rounds": outcome.rounds,
        "bad_rounds": outcome.bad_rounds,
        "waiting": outcome.waiting,
        "missing": outcome.missing,
        "seconds": outcome.seconds,
    })
}
