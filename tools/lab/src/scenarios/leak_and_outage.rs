//! Connections leak one by one, and then the server goes away for a while.

mod report;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool::event::{HandleEvent, LeakEvent};
use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::Client;

use super::{Problem, Run, Scenario};
use crate::flawed::endless::{Endless, Limits};
use crate::load::{self, Samples};
use crate::proxy::{Flow, Proxy};
use crate::report::Report;
use crate::server::{Manager, Refusal, Server, Sessions};

pub const SCENARIO: Scenario = Scenario {
    name: "leak-and-outage",
    about: "PostgreSQL: 6 of 10 connections leak, then the server is away for a while",
    seconds: Duration::from_secs(8),
    run,
};

/// As diagnoses and errors name it.
const FILE: &str = file!();

const CONNECTIONS: u32 = 10;
const LEAKS: usize = 6;
const MOST_WAITERS: usize = 200;

/// Callers that come within the time, evenly: so many more than connections that the
/// queue tells whether they are served.
const CALLERS: f64 = 1000.0;

/// When the server goes away, when it is back, and how patient a caller is, as parts of
/// the time.
const AWAY_AT: f64 = 0.3;
const AWAY_FOR: f64 = 0.4;
const PATIENCE: f64 = 0.25;

/// How long a busy machine may take for what should be done at once.
const WATCHDOG: Duration = Duration::from_secs(20);

/// What became of a caller.
enum Answer {
    Served,
    /// It had a connection, which broke in its hands.
    Broke,
    /// It got none.
    Refused(Refusal),
}

struct Answered {
    at: Instant,
    waited: Duration,
    answer: Answer,
}

/// What a pool showed just before the server was back.
#[derive(Clone, Copy, Default)]
struct Picture {
    idle: usize,
    active: usize,
    waiting: usize,
    /// Callers that had come by then, and not had an answer.
    unanswered: usize,
}

#[derive(Default)]
struct Outcome {
    came: usize,
    answered: Vec<Answered>,
    waiting: Vec<(f64, f64)>,
    most_waiting: usize,
    /// When the server was away, in seconds.
    away: (f64, f64),
    /// Waiting when half of the outage was over.
    at_half: usize,
    at_end: Picture,
    /// From the server's return until somebody was served, and until nobody waited.
    served_after: Option<Duration>,
    drained_after: Option<Duration>,
    /// In use when all callers had gone, and after the leaks had been given back.
    in_use: usize,
    in_use_later: usize,
    line: u32,
    diagnosis: String,
}

/// Notes what is told of leaks.
#[derive(Clone, Default)]
struct Leaks {
    places: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicUsize>,
}

impl Leaks {
    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl HandleEvent for Leaks {
    fn handle_leak(&self, event: LeakEvent) {
        let place = event.holder().location().to_string();
        self.places.lock().unwrap_or_else(PoisonError::into_inner).push(place);
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

/// Callers come and go, whatever happens.
struct Crowd<'a, P> {
    run: &'a Run<'a>,
    pool: &'a P,
    begun: Instant,
    waiting: Samples,
    tell: Sender<Answered>,
    told: Receiver<Answered>,
    outcome: Outcome,
}

impl<'a, P: Sessions> Crowd<'a, P> {
    fn new(run: &'a Run<'a>, pool: &'a P) -> Crowd<'a, P> {
        let (begun, waiting, (tell, told)) = (Instant::now(), Samples::new(), mpsc::channel());
        Crowd { run, pool, begun, waiting, tell, told, outcome: Outcome::default() }
    }

    /// Lets callers come until this moment.
    fn come_until(&mut self, end: Instant, what: &str) -> Result<(), Problem> {
        while Instant::now() < end {
            let share = self.begun.elapsed().as_secs_f64() / self.run.seconds.as_secs_f64();
            while (self.outcome.came as f64) < share * CALLERS {
                let (pool, tell) = (self.pool.clone(), self.tell.clone());
                spawn("caller".to_string(), move || drop(tell.send(call(&pool))))?;
                self.outcome.came += 1;
            }
            self.look(what);
        }
        Ok(())
    }

    /// Until this is so; gives up after a long while.
    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + WATCHDOG;
        while !is_so(self) && Instant::now() < end {
            self.look(what);
        }
    }

    fn look(&mut self, what: &str) {
        let waiting = self.pool.waiting();
        self.waiting.add(waiting as f64);
        let outcome = &mut self.outcome;
        outcome.most_waiting = outcome.most_waiting.max(waiting);
        outcome.answered.extend(self.told.try_iter());
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

fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, Problem> {
    let started = Builder::new().name(name).spawn(work);
    started.map_err(|error| Problem(format!("cannot start a thread: {error}")))
}

/// Takes a connection on a thread that then ends: nobody will give it back.
fn leak<P: Sessions>(pool: &P, number: usize) -> Result<(P::Session, u32), Problem> {
    let pool = pool.clone();
    let thread = spawn(format!("leaker {number}"), move || (pool.get(), line!()))?;
    match thread.join() {
        Ok((Ok(session), line)) => Ok((session, line)),
        Ok((Err(refusal), _)) => Err(Problem(format!("nothing to leak: {}", refusal.said))),
        Err(_) => Err(Problem("nothing to leak: a thread panicked".to_string())),
    }
}

/// The load on one pool. `diagnose` runs beside it while the server is away.
fn play<P: Sessions>(
    run: &Run<'_>,
    pool: &P,
    proxy: &mut Proxy,
    diagnose: impl Fn(&P) -> String + Send + 'static,
) -> Result<Outcome, Problem> {
    let mut crowd = Crowd::new(run, pool);
    let mut leaked = Vec::new();
    for number in 1..=LEAKS {
        let share = AWAY_AT * number as f64 / (LEAKS + 1) as f64;
        crowd.come_until(crowd.begun + run.seconds.mul_f64(share), "connections leak")?;
        let (session, line) = leak(pool, number)?;
        leaked.push(session);
        crowd.outcome.line = line;
    }
    crowd.come_until(crowd.begun + run.seconds.mul_f64(AWAY_AT), "connections leak")?;

    let away = Instant::now();
    proxy.refuse();
    proxy.set(Flow::Reset);
    let half = away + run.seconds.mul_f64(AWAY_FOR / 2.0);
    crowd.come_until(half, "the server is away")?;
    crowd.outcome.at_half = pool.waiting();
    let looking = pool.clone();
    let diagnosing = spawn("diagnosis".to_string(), move || diagnose(&looking))?;
    crowd.come_until(away + run.seconds.mul_f64(AWAY_FOR), "the server is away")?;
    crowd.outcome.at_end = crowd.picture();

    proxy.set_new(Flow::Pass);
    proxy.accept();
    let back = Instant::now();
    crowd.outcome.away = ((away - crowd.begun).as_secs_f64(), (back - crowd.begun).as_secs_f64());
    let end = back + run.seconds.mul_f64(1.0 - AWAY_AT - AWAY_FOR);
    while crowd.outcome.drained_after.is_none() && Instant::now() < end.max(back + WATCHDOG) {
        // Callers come all the while.
        crowd.come_until(Instant::now() + Duration::from_millis(5), "the server is back")?;
        let is_drained = pool.waiting() == 0;
        crowd.outcome.drained_after = is_drained.then(|| back.elapsed());
    }
    crowd.come_until(end, "the server is back")?;
    crowd.wait_until("the last ones", |crowd| crowd.outcome.answered.len() == crowd.outcome.came);
    let served = |answered: &&Answered| matches!(answered.answer, Answer::Served);
    let after = crowd.outcome.answered.iter().filter(served).map(|answered| answered.at);
    crowd.outcome.served_after = after.filter(|&at| at > back).min().map(|at| at - back);

    // The callers' answers come a little before their connections are back.
    crowd.wait_until("the last ones", |_| pool.idle_and_active().1 <= LEAKS);
    crowd.outcome.in_use = pool.idle_and_active().1;
    drop(leaked);
    crowd.wait_until("leaks are given back", |_| pool.idle_and_active().1 == 0);
    crowd.outcome.in_use_later = pool.idle_and_active().1;
    crowd.outcome.diagnosis = diagnosing.join().unwrap_or_default();
    Ok(Outcome { waiting: crowd.waiting.into_points(), ..crowd.outcome })
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let server = Server::find(CONNECTIONS, run.console)?;
    let mut proxy = Proxy::before(server.address());
    let config = server.config_through(proxy.port());
    let patience = run.seconds.mul_f64(PATIENCE);

    run.console.say(if run.fixed {
        "flaw mended: at most 200 waiters, and a deadline for each"
    } else {
        "flawed: no limit on waiters, no deadline"
    });
    let limits = run.fixed.then_some(Limits { waiters: MOST_WAITERS, timeout: patience });
    let plain = config.clone();
    let connect = move || plain.connect(NoTls).ok();
    let pool = Endless::over(CONNECTIONS as usize, limits, connect, Client::is_closed);
    let flawed = play(run, &pool, &mut proxy, |_| String::new())?;
    drop(pool);

    run.console.say(&format!("fairpool: at most {MOST_WAITERS} waiters, {patience:.1?} for each"));
    let leaks = Leaks::default();
    let pool = Pool::builder()
        .name("lab")
        .max_size(CONNECTIONS)
        .min_idle(Some(0))
        .max_waiters(Some(MOST_WAITERS as u32))
        .connection_timeout(patience)
        .connect_backoff(patience / 40, patience / 4)
        .leak_threshold(Some(run.seconds / 10))
        .event_handler(Box::new(leaks.clone()))
        .build(Manager::new(config, NoTls))
        .map_err(|error| Problem(error.to_string()))?;
    let apart = run.seconds.mul_f64(AWAY_FOR / 4.0);
    let diagnose = move |pool: &Pool<Manager>| load::diagnose(pool, apart);
    let fairpool = play(run, &pool, &mut proxy, diagnose)?;
    // It is told on another thread.
    let end = Instant::now() + WATCHDOG;
    while leaks.ended() < LEAKS && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    run.console.quiet();
    Ok(report::report(flawed, fairpool, &leaks))
}
