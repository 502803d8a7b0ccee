//! A transaction stays open, and all callers need the row that it has changed.

mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool_postgres::postgres::{Config, Error as PgError};
use fairpool_postgres::{Blocker, Client, NoTls, blockers};

use crate::flawed::endless::Endless;
use crate::load::Samples;
use crate::orders::Orders;
use crate::report::Report;
use crate::scenario::{Problem, Run, Scenario, spawn};
use crate::server::{Manager, Server, Sessions, chain};

pub const SCENARIO: Scenario = Scenario {
    name: "long-transaction",
    about: "PostgreSQL: one idle transaction has a row locked; 64 threads need that row",
    seconds: Duration::from_secs(6),
    run,
};

/// The name of this file in diagnoses and errors.
const FILE: &str = file!();

const CONNECTIONS: u32 = 8;
const THREADS: usize = 64;
/// The pool's, the probe's, and the one that creates and removes the table.
const SESSIONS: u32 = CONNECTIONS + 2;

/// How often the probe asks the server.
const EVERY: Duration = Duration::from_millis(20);

/// The limit for what a busy machine delays.
const WATCHDOG: Duration = Duration::from_secs(20);

/// The settings of a session that end the wait.
#[derive(Clone, Copy)]
struct Limits {
    lock: Duration,
    statement: Duration,
    idle_in_transaction: Duration,
}

impl Limits {
    /// Parts of the whole time, but long enough for the probe.
    fn of(run: &Run<'_>) -> Limits {
        let lock = (run.seconds / 12).max(Duration::from_millis(100));
        let idle_in_transaction = (run.seconds / 3).max(Duration::from_secs(1));
        Limits { lock, statement: lock * 2, idle_in_transaction }
    }

    /// The statements for a plain session. Without limits they set PostgreSQL's defaults,
    /// because this server's may be different.
    fn sql(limits: Option<Limits>) -> String {
        let ms = |of: fn(Limits) -> Duration| limits.map_or(0, |limits| of(limits).as_millis());
        format!(
            "SET lock_timeout = {}; SET statement_timeout = {};
             SET idle_in_transaction_session_timeout = {}",
            ms(|limits| limits.lock),
            ms(|limits| limits.statement),
            ms(|limits| limits.idle_in_transaction),
        )
    }
}

/// One attempt of a thread to get a connection and to lock the row.
struct Attempt {
    took: Duration,
    result: Result<(), String>,
}

#[derive(Default)]
struct Outcome {
    /// `lock_timeout` and `idle_in_transaction_session_timeout` of a session.
    settings: String,
    attempts: Vec<Attempt>,
    served: usize,
    /// Threads without any answer.
    unanswered: usize,
    lasted: Duration,
    /// When the server ended the session with the open transaction.
    ended_after: Option<Duration>,
    /// The result of that transaction's COMMIT.
    commit: String,
    worst: Worst,
    diagnosis: String,
    /// The line where that session got its connection.
    line: u32,
    for_pool: Vec<(f64, f64)>,
    for_row: Vec<(f64, f64)>,
}

/// The last of the moments at which most callers waited.
#[derive(Default)]
struct Worst {
    behind_row: usize,
    behind_pool: usize,
    /// The backend with the open transaction, as the server describes it.
    blocker: String,
}

impl Worst {
    fn all(&self) -> usize {
        self.behind_row + self.behind_pool
    }
}

impl Outcome {
    fn errors_with(&self, text: &str) -> usize {
        let errors = self.attempts.iter().filter_map(|attempt| attempt.result.as_ref().err());
        errors.filter(|error| error.contains(text)).count()
    }

    fn longest(&self) -> Duration {
        let answered = self.attempts.iter().map(|attempt| attempt.took).max().unwrap_or_default();
        if self.unanswered > 0 { self.lasted } else { answered }
    }
}

/// A session that changes the row and leaves its transaction open until the end.
struct OpenTransaction {
    pid: i32,
    line: u32,
    commit: Sender<()>,
    thread: JoinHandle<String>,
}

impl OpenTransaction {
    fn start(pool: &impl Sessions, sql: String) -> Result<OpenTransaction, Problem> {
        let pool = pool.clone();
        let (sender, begun) = mpsc::channel();
        let (commit, wait) = mpsc::channel();
        let work = move || {
            let (got, line) = (pool.get(), line!());
            let mut session = match got {
                Ok(session) => session,
                Err(refusal) => return refusal.text,
            };
            let result = session
                .query_one("SELECT pg_backend_pid()", &[])
                .and_then(|row| session.batch_execute(&sql).map(|()| row.get::<_, i32>(0)));
            match result {
                Ok(pid) => drop(sender.send((pid, line))),
                Err(error) => return chain(&error),
            }
            // An error means that the scenario has ended.
            let _ = wait.recv();
            match session.batch_execute("COMMIT") {
                Ok(()) => "committed".to_string(),
                Err(error) => format!("error: {}", chain(&error)),
            }
        };
        let thread = spawn("open transaction", work)?;
        match begun.recv() {
            Ok((pid, line)) => Ok(OpenTransaction { pid, line, commit, thread }),
            Err(_) => {
                let why = thread.join().unwrap_or_default();
                Err(Problem(format!("cannot begin the long transaction: {why}")))
            }
        }
    }

    /// Commits, and returns the result.
    fn end(self) -> String {
        drop(self.commit);
        self.thread.join().unwrap_or_else(|_| "the thread panicked".to_string())
    }
}

/// Tries to lock the row until it succeeds once.
fn caller(
    pool: impl Sessions,
    sql: &str,
    number: usize,
    sender: &Sender<(usize, Attempt)>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let result = match pool.get() {
            Ok(mut session) => session.batch_execute(sql).map_err(|error| chain(&error)),
            Err(refusal) => Err(refusal.text),
        };
        let served = result.is_ok();
        // The receiver is gone when the time is over.
        let _ = sender.send((number, Attempt { took: start.elapsed(), result }));
        if served {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asks the server who waits, on a session outside the pool.
struct Probe {
    client: Client,
    pid: i32,
}

impl Probe {
    /// The backend with the open transaction and how many sessions it blocks; `None` if it
    /// blocks none.
    fn blocker(&mut self) -> Result<Option<Blocker>, Problem> {
        let found = blockers(&mut self.client).map_err(|error| self.problem(&error))?;
        Ok(found.into_iter().find(|blocker| blocker.session.pid == self.pid))
    }

    /// Whether the session with the open transaction still exists.
    fn exists(&mut self) -> Result<bool, Problem> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        let row = self.client.query_one(sql, &[&self.pid]).map_err(|error| self.problem(&error))?;
        Ok(row.get::<_, i64>(0) > 0)
    }

    fn problem(&self, error: &PgError) -> Problem {
        Problem(format!("cannot ask the server who waits: {}", chain(error)))
    }
}

/// Runs the load on one pool. `diagnose` runs beside it as soon as callers wait for both.
fn load<P: Sessions>(
    run: &Run<'_>,
    orders: &Orders,
    pool: &P,
    limit: Duration,
    diagnose: impl Fn(&P) -> String + Send + 'static,
) -> Result<Outcome, Problem> {
    let settings = settings(pool)?;
    let client = orders.connect().map_err(|error| Problem(chain(&error)))?;
    let open = OpenTransaction::start(pool, orders.begin_sql())?;
    let mut probe = Probe { client, pid: open.pid };
    let mut outcome = Outcome { settings, line: open.line, ..Outcome::default() };

    let (sender, attempts) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for number in 0..THREADS {
        let (pool, sql, sender, stop) =
            (pool.clone(), orders.lock_sql(), sender.clone(), Arc::clone(&stop));
        let work = move || caller(pool, &sql, number, &sender, &stop);
        threads.push(spawn(&format!("caller {number}"), work)?);
    }
    let begun = Instant::now();
    let (mut for_pool, mut for_row) = (Samples::new(), Samples::new());
    let (mut answered, mut diagnose, mut diagnosing) = ([false; THREADS], Some(diagnose), None);
    while begun.elapsed() < limit && outcome.served < THREADS {
        receive(&attempts, &mut outcome, &mut answered);
        let (blocker, waiting) = (probe.blocker()?, pool.waiting());
        let behind_row = blocker.as_ref().map_or(0, |blocker| blocker.blocked as usize);
        for_pool.add(waiting as f64);
        for_row.add(behind_row as f64);
        if let Some(blocker) = blocker.filter(|_| behind_row + waiting >= outcome.worst.all()) {
            outcome.worst =
                Worst { behind_row, behind_pool: waiting, blocker: blocker.to_string() };
        }
        if outcome.ended_after.is_none() && !probe.exists()? {
            outcome.ended_after = Some(begun.elapsed());
        }
        if behind_row > 0
            && waiting > 0
            && let Some(diagnose) = diagnose.take()
        {
            let pool = pool.clone();
            diagnosing = Some(spawn("diagnosis", move || diagnose(&pool))?);
        }
        run.console.state(|| {
            format!(
                "{waiting} wait for the pool, {behind_row} for the row; {} served",
                outcome.served
            )
        });
        thread::sleep(EVERY);
    }
    outcome.lasted = begun.elapsed();
    receive(&attempts, &mut outcome, &mut answered);
    outcome.unanswered = answered.iter().filter(|answered| !**answered).count();
    outcome.diagnosis = diagnosing.and_then(|thread| thread.join().ok()).unwrap_or_default();
    (outcome.for_pool, outcome.for_row) = (for_pool.into_points(), for_row.into_points());

    // Callers that still wait now get the row.
    outcome.commit = open.end();
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(outcome)
}

fn receive(
    attempts: &Receiver<(usize, Attempt)>,
    outcome: &mut Outcome,
    answered: &mut [bool; THREADS],
) {
    for (number, attempt) in attempts.try_iter() {
        answered[number] = true;
        outcome.served += usize::from(attempt.result.is_ok());
        outcome.attempts.push(attempt);
    }
}

/// The limits of a session.
fn settings(pool: &impl Sessions) -> Result<String, Problem> {
    let mut session = pool.get().map_err(|refusal| Problem(refusal.text))?;
    let sql = "SELECT current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout')";
    let row = session.query_one(sql, &[]).map_err(|error| Problem(chain(&error)))?;
    Ok(format!("{} and {}", row.get::<_, String>(0), row.get::<_, String>(1)))
}

/// A pool of plain sessions.
fn plain(config: Config, limits: Option<Limits>) -> Endless<Client> {
    let sql = Limits::sql(limits);
    let connect = move || {
        let mut client = config.connect(NoTls).ok()?;
        client.batch_execute(&sql).ok()?;
        Some(Client::from(client))
    };
    Endless::over(CONNECTIONS as usize, None, connect, Client::is_closed)
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let server = Server::find(SESSIONS, run.console)?;
    let orders = Orders::create(server.config())?;
    let limits = Limits::of(run);

    run.console.say(if run.fixed {
        "flaw fixed: plain sessions with limits"
    } else {
        "flawed: plain sessions without limits"
    });
    let fixed = run.fixed.then_some(limits);
    let pool = plain(orders.config(), fixed);
    // Opens all connections before a caller waits.
    let all: Vec<_> = (0..CONNECTIONS).map(|_| Sessions::get(&pool)).collect();
    drop(all);
    // With the flaw, nothing ends the waits.
    let with_limits = run.seconds + WATCHDOG;
    let limit = if run.fixed { with_limits } else { run.seconds };
    let flawed = load(run, &orders, &pool, limit, |_| String::new())?;
    drop(pool);

    run.console.say(&format!(
        "fairpool: sessions wait {:.1?} for a lock, and end after {:.1?} in an idle transaction",
        limits.lock, limits.idle_in_transaction
    ));
    let manager = Manager::new(orders.config(), NoTls)
        .lock_timeout(limits.lock)
        .statement_timeout(limits.statement)
        .idle_in_transaction_session_timeout(limits.idle_in_transaction);
    let pool = Pool::builder()
        .name("lab")
        .max_size(CONNECTIONS)
        .connection_timeout((run.seconds / 6).max(Duration::from_millis(250)))
        .build(manager)
        .map_err(|error| Problem(error.to_string()))?;
    let apart = limits.idle_in_transaction / 4;
    let diagnose = move |pool: &Pool<Manager>| match pool.diagnose_over(apart) {
        Ok(diagnosis) => format!("{diagnosis}{}", diagnosis.snapshot),
        Err(error) => error.to_string(),
    };
    let fairpool = load(run, &orders, &pool, with_limits, diagnose)?;
    run.console.clear();
    Ok(report::report(flawed, fairpool))
}
