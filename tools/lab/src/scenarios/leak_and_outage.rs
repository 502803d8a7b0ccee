//! Connections leak one by one, and then the server is unreachable for a while.

mod report;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool::event::{HandleEvent, LeakEvent};
use fairpool_postgres::{Client, NoTls};
use fairpool_servers::proxy::{Flow, Proxy};

use crate::flawed::endless::{Endless, Limits};
use crate::load::{self, Samples};
use crate::report::Report;
use crate::scenario::{Problem, Run, Scenario, spawn};
use crate::server::{Manager, Refusal, Server, Sessions};

pub const SCENARIO: Scenario = Scenario {
    name: "leak-and-outage",
    about: "PostgreSQL: 6 of 10 connections leak, then an outage of the server",
    seconds: Duration::from_secs(8),
    run,
};

/// The name of this file in diagnoses and errors.
const FILE: &str = file!();

const CONNECTIONS: u32 = 10;
const LEAKS: usize = 6;
const MOST_WAITERS: usize = 200;

/// Callers over the whole time, evenly. They are many more than connections, so that the
/// queue shows whether they are served.
const CALLERS: f64 = 1000.0;

/// When the outage begins, how long it lasts, and a caller's timeout, as parts of the
/// whole time.
const OUTAGE_AT: f64 = 0.3;
const OUTAGE: f64 = 0.4;
const TIMEOUT: f64 = 0.25;

/// The limit for what a busy machine delays.
const WATCHDOG: Duration = Duration::from_secs(20);

/// The result of a caller.
enum Answer {
    Served,
    /// It got a connection, which broke while it used it.
    Broke,
    /// It got no connection.
    Refused(Refusal),
}

struct Answered {
    at: Instant,
    waited: Duration,
    answer: Answer,
}

/// The state of a pool at the end of the outage.
#[derive(Clone, Copy, Default)]
struct Picture {
    idle: usize,
    active: usize,
    waiting: usize,
    /// Callers without an answer at that time.
    unanswered: usize,
}

#[derive(Default)]
struct Outcome {
    came: usize,
    answered: Vec<Answered>,
    waiting: Vec<(f64, f64)>,
    most_waiting: usize,
    /// Begin and end of the outage, in seconds.
    outage: (f64, f64),
    /// Callers that waited at half of the outage.
    at_half: usize,
    at_end: Picture,
    /// From the end of the outage until a caller was served, and until none waited.
    served_after: Option<Duration>,
    drained_after: Option<Duration>,
    /// Connections in use when all callers had an answer, and after the leaks were returned.
    in_use: usize,
    in_use_later: usize,
    line: u32,
    diagnosis: String,
}

/// Records the pool's events about leaks.
#[derive(Clone, Default)]
struct Leaks {
    lines: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicUsize>,
}

impl Leaks {
    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl HandleEvent for Leaks {
    fn handle_leak(&self, event: LeakEvent) {
        let line = event.holder().location().to_string();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn handle_leak_end(&self, _: LeakEvent) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaks")
    }
}

/// Callers that arrive at a constant rate.
struct Crowd<'a, P> {
    run: &'a Run<'a>,
    pool: &'a P,
    begun: Instant,
    waiting: Samples,
    sender: Sender<Answered>,
    answers: Receiver<Answered>,
    outcome: Outcome,
}

impl<'a, P: Sessions> Crowd<'a, P> {
    fn new(run: &'a Run<'a>, pool: &'a P) -> Crowd<'a, P> {
        let (begun, waiting, outcome) = (Instant::now(), Samples::new(), Outcome::default());
        let (sender, answers) = mpsc::channel();
        Crowd { run, pool, begun, waiting, sender, answers, outcome }
    }

    /// Lets callers arrive until `end`.
    fn arrive_until(&mut self, end: Instant, what: &str) -> Result<(), Problem> {
        while Instant::now() < end {
            let share = self.begun.elapsed().as_secs_f64() / self.run.seconds.as_secs_f64();
            while (self.outcome.came as f64) < share * CALLERS {
                let (pool, sender) = (self.pool.clone(), self.sender.clone());
                spawn("caller", move || drop(sender.send(call(&pool))))?;
                self.outcome.came += 1;
            }
            self.sample(what);
        }
        Ok(())
    }

    /// Waits for a condition, at the most for [`WATCHDOG`].
    fn wait_until(&mut self, what: &str, is_met: impl Fn(&Self) -> bool) {
        let end = Instant::now() + WATCHDOG;
        while !is_met(self) && Instant::now() < end {
            self.sample(what);
        }
    }

    fn sample(&mut self, what: &str) {
        let waiting = self.pool.waiting();
        self.waiting.add(waiting as f64);
        let outcome = &mut self.outcome;
        outcome.most_waiting = outcome.most_waiting.max(waiting);
        outcome.answered.extend(self.answers.try_iter());
        let unanswered = outcome.came - outcome.answered.len();
        self.run.console.state(|| {
            format!("{what}: {waiting} waiting, {unanswered} of {} unanswered", outcome.came)
        });
        thread::sleep(Duration::from_millis(5));
    }

    fn picture(&self) -> Picture {
        let (idle, active) = self.pool.idle_and_active();
        let unanswered = self.outcome.came - self.outcome.answered.len();
        Picture { idle, active, waiting: self.pool.waiting(), unanswered }
    }
}

fn call(pool: &impl Sessions) -> Answered {
    let start = Instant::now();
    let got = pool.get();
    let waited = start.elapsed();
    let answer = match got {
        Ok(mut session) => match session.batch_execute("SELECT 1") {
            Ok(()) => Answer::Served,
            Err(_) => Answer::Broke,
        },
        Err(refusal) => Answer::Refused(refusal),
    };
    Answered { at: Instant::now(), waited, answer }
}

/// Takes a connection on a thread that then exits.
fn leak<P: Sessions>(pool: &P, number: usize) -> Result<(P::Session, u32), Problem> {
    let pool = pool.clone();
    let thread = spawn(&format!("leaker {number}"), move || (pool.get(), line!()))?;
    match thread.join() {
        Ok((Ok(session), line)) => Ok((session, line)),
        Ok((Err(refusal), _)) => Err(Problem(format!("no connection to leak: {}", refusal.text))),
        Err(_) => Err(Problem("no connection to leak: a thread panicked".to_string())),
    }
}

/// Runs the load on one pool. `diagnose` runs beside it during the outage.
fn play<P: Sessions>(
    run: &Run<'_>,
    pool: &P,
    proxy: &mut Proxy,
    diagnose: impl Fn(&P) -> String + Send + 'static,
) -> Result<Outcome, Problem> {
    let mut crowd = Crowd::new(run, pool);
    let mut leaked = Vec::new();
    for number in 1..=LEAKS {
        let share = OUTAGE_AT * number as f64 / (LEAKS + 1) as f64;
        crowd.arrive_until(crowd.begun + run.seconds.mul_f64(share), "connections leak")?;
        let (session, line) = leak(pool, number)?;
        leaked.push(session);
        crowd.outcome.line = line;
    }
    crowd.arrive_until(crowd.begun + run.seconds.mul_f64(OUTAGE_AT), "connections leak")?;

    let outage = Instant::now();
    proxy.refuse();
    proxy.set(Flow::Reset);
    let half = outage + run.seconds.mul_f64(OUTAGE / 2.0);
    crowd.arrive_until(half, "outage")?;
    crowd.outcome.at_half = pool.waiting();
    let diagnosed = pool.clone();
    let diagnosing = spawn("diagnosis", move || diagnose(&diagnosed))?;
    crowd.arrive_until(outage + run.seconds.mul_f64(OUTAGE), "outage")?;
    crowd.outcome.at_end = crowd.picture();

    proxy.set_new(Flow::Pass);
    proxy.accept();
    let back = Instant::now();
    let seconds = |at: Instant| (at - crowd.begun).as_secs_f64();
    crowd.outcome.outage = (seconds(outage), seconds(back));
    let end = back + run.seconds.mul_f64(1.0 - OUTAGE_AT - OUTAGE);
    while crowd.outcome.drained_after.is_none() && Instant::now() < end.max(back + WATCHDOG) {
        // Callers continue to arrive.
        crowd.arrive_until(Instant::now() + Duration::from_millis(5), "after the outage")?;
        let is_drained = pool.waiting() == 0;
        crowd.outcome.drained_after = is_drained.then(|| back.elapsed());
    }
    crowd.arrive_until(end, "after the outage")?;
    crowd
        .wait_until("the last callers", |crowd| crowd.outcome.answered.len() == crowd.outcome.came);
    let served = |answered: &&Answered| matches!(answered.answer, Answer::Served);
    let after = crowd.outcome.answered.iter().filter(served).map(|answered| answered.at);
    crowd.outcome.served_after = after.filter(|&at| at > back).min().map(|at| at - back);

    // A caller has its answer shortly before its connection is returned.
    crowd.wait_until("the last callers", |_| pool.idle_and_active().1 <= LEAKS);
    crowd.outcome.in_use = pool.idle_and_active().1;
    drop(leaked);
    crowd.wait_until("the leaks are returned", |_| pool.idle_and_active().1 == 0);
    crowd.outcome.in_use_later = pool.idle_and_active().1;
    crowd.outcome.diagnosis = diagnosing.join().unwrap_or_default();
    Ok(Outcome { waiting: crowd.waiting.into_points(), ..crowd.outcome })
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let server = Server::find(CONNECTIONS, run.console)?;
    let mut proxy = Proxy::before(server.address());
    let config = server.config_through(proxy.port());
    let timeout = run.seconds.mul_f64(TIMEOUT);

    run.console.say(if run.fixed {
        "flaw fixed: at most 200 waiters, and a deadline for each"
    } else {
        "flawed: no limit on waiters, no deadline"
    });
    let limits = run.fixed.then_some(Limits { waiters: MOST_WAITERS, timeout });
    let plain = config.clone();
    let connect = move || plain.connect(NoTls).ok().map(Client::from);
    let pool = Endless::over(CONNECTIONS as usize, limits, connect, Client::is_closed);
    let flawed = play(run, &pool, &mut proxy, |_| String::new())?;
    drop(pool);

    run.console
        .say(&format!("fairpool: at most {MOST_WAITERS} waiters, at most {timeout:.1?} each"));
    let leaks = Leaks::default();
    let pool = Pool::builder()
        .name("lab")
        .max_size(CONNECTIONS)
        .min_idle(Some(0))
        .max_waiters(Some(MOST_WAITERS as u32))
        .connection_timeout(timeout)
        .connect_backoff(timeout / 40, timeout / 4)
        .leak_threshold(Some(run.seconds / 10))
        .event_handler(Box::new(leaks.clone()))
        .build(Manager::new(config, NoTls))
        .map_err(|error| Problem(error.to_string()))?;
    let apart = run.seconds.mul_f64(OUTAGE / 4.0);
    let diagnose = move |pool: &Pool<Manager>| load::diagnose(pool, apart);
    let fairpool = play(run, &pool, &mut proxy, diagnose)?;
    // Events are delivered on another thread.
    let end = Instant::now() + WATCHDOG;
    while leaks.ended() < LEAKS && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    run.console.clear();
    Ok(report::report(flawed, fairpool, &leaks))
}
