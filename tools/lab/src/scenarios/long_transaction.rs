//! A transaction that somebody has left open, and everybody needs the row that it has
//! changed.

mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool_postgres::postgres::{Client, Config, Error as PgError};
use fairpool_postgres::{Blocker, NoTls, blockers};

use super::{Problem, Run, Scenario};
use crate::flawed::endless::Endless;
use crate::load::Samples;
use crate::orders::Orders;
use crate::report::Report;
use crate::server::{Manager, Server, Sessions, chain};

pub const SCENARIO: Scenario = Scenario {
    name: "long-transaction",
    about: "PostgreSQL: one session changes a row and sits; 64 threads want that row",
    seconds: Duration::from_secs(6),
    run,
};

/// As diagnoses and errors name it.
const FILE: &str = file!();

const CONNECTIONS: u32 = 8;
const THREADS: usize = 64;
/// The pool's, the watcher, and whoever makes and removes the table.
const SESSIONS: u32 = CONNECTIONS + 2;

/// How often the server is asked who waits.
const EVERY: Duration = Duration::from_millis(20);

/// How long a busy machine may take to end what should have ended long ago.
const WATCHDOG: Duration = Duration::from_secs(20);

/// What ends it: the sessions' settings.
#[derive(Clone, Copy)]
struct Limits {
    lock: Duration,
    statement: Duration,
    idle_in_transaction: Duration,
}

impl Limits {
    /// Parts of the time; not so short that nobody could look at what goes on.
    fn of(run: &Run<'_>) -> Limits {
        let lock = (run.seconds / 12).max(Duration::from_millis(100));
        let idle_in_transaction = (run.seconds / 3).max(Duration::from_secs(1));
        Limits { lock, statement: lock * 2, idle_in_transaction }
    }

    /// Of a plain session. Without limits: PostgreSQL's defaults, whatever this server's
    /// are.
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

/// A thread's attempt to get a connection and to lock the row.
struct Attempt {
    took: Duration,
    result: Result<(), String>,
}

#[derive(Default)]
struct Outcome {
    /// `lock_timeout` and `idle_in_transaction_session_timeout`, as a session says.
    settings: String,
    attempts: Vec<Attempt>,
    served: usize,
    /// Threads that have had no answer at all.
    unanswered: usize,
    lasted: Duration,
    /// When the server had ended the session that sat.
    ended_after: Option<Duration>,
    /// What became of its transaction when it went on.
    commit: String,
    seen: Seen,
    diagnosis: String,
    /// Where the session that sat got its connection.
    line: u32,
    for_pool: Vec<(f64, f64)>,
    for_row: Vec<(f64, f64)>,
}

/// What was seen last of the moments when most callers waited.
#[derive(Default)]
struct Seen {
    behind_row: usize,
    behind_pool: usize,
    /// The backend that sits, as the server describes it.
    blocker: String,
}

impl Seen {
    fn together(&self) -> usize {
        self.behind_row + self.behind_pool
    }
}

impl Outcome {
    fn saying(&self, text: &str) -> usize {
        let errors = self.attempts.iter().filter_map(|attempt| attempt.result.as_ref().err());
        errors.filter(|error| error.contains(text)).count()
    }

    fn longest(&self) -> Duration {
        let answered = self.attempts.iter().map(|attempt| attempt.took).max().unwrap_or_default();
        if self.unanswered > 0 { self.lasted } else { answered }
    }
}

/// Gets a connection, changes the row, and sits until it is told to go on.
struct Sitter {
    pid: i32,
    line: u32,
    go_on: Sender<()>,
    thread: JoinHandle<String>,
}

impl Sitter {
    fn start(pool: &impl Sessions, sql: String) -> Result<Sitter, Problem> {
        let (pool, (tell, told), (go_on, wait)) = (pool.clone(), mpsc::channel(), mpsc::channel());
        let sit = move || {
            let (got, line) = (pool.get(), line!());
            let mut session = match got {
                Ok(session) => session,
                Err(refusal) => return refusal.said,
            };
            let begun = session
                .query_one("SELECT pg_backend_pid()", &[])
                .and_then(|row| session.batch_execute(&sql).map(|()| row.get::<_, i32>(0)));
            match begun {
                Ok(pid) => drop(tell.send((pid, line))),
                Err(error) => return chain(&error),
            }
            // An error is as good: then nobody waits for it any more.
            let _ = wait.recv();
            match session.batch_execute("COMMIT") {
                Ok(()) => "committed".to_string(),
                Err(error) => format!("error: {}", chain(&error)),
            }
        };
        let thread = spawn("sitter", sit)?;
        match told.recv() {
            Ok((pid, line)) => Ok(Sitter { pid, line, go_on, thread }),
            Err(_) => {
                let why = thread.join().unwrap_or_default();
                Err(Problem(format!("cannot begin the long transaction: {why}")))
            }
        }
    }

    /// Lets it go on, and tells what became of its COMMIT.
    fn end(self) -> String {
        drop(self.go_on);
        self.thread.join().unwrap_or_else(|_| "it panicked".to_string())
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Problem> {
    let started = Builder::new().name(name.to_string()).spawn(work);
    started.map_err(|error| Problem(format!("cannot start a thread: {error}")))
}

/// Wants the row until it has had it once.
fn caller(
    pool: impl Sessions,
    sql: &str,
    number: usize,
    tell: &Sender<(usize, Attempt)>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let result = match pool.get() {
            Ok(mut session) => session.batch_execute(sql).map_err(|error| chain(&error)),
            Err(refusal) => Err(refusal.said),
        };
        let served = result.is_ok();
        // Nobody listens any more when the time is over.
        let _ = tell.send((number, Attempt { took: start.elapsed(), result }));
        if served {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the server says, on a session beside the pool.
struct HealthProbe {
    client: Client,
    pid: i32,
}

impl HealthProbe {
    /// How many sessions stand behind the backend that sits, and what else is said of
    /// it; `None` if it stands in nobody's way.
    fn blocker(&mut self) -> Result<Option<Blocker>, Problem> {
        let found = blockers(&mut self.client).map_err(|error| self.problem(&error))?;
        Ok(found.into_iter().find(|blocker| blocker.pid == self.pid))
    }

    /// Whether the session that sits is still there.
    fn is_there(&mut self) -> Result<bool, Problem> {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        let row = self.client.query_one(sql, &[&self.pid]).map_err(|error| self.problem(&error))?;
        Ok(row.get::<_, i64>(0) > 0)
    }

    fn problem(&self, error: &PgError) -> Problem {
        Problem(format!("cannot ask the server who waits: {}", chain(error)))
    }
}

/// The load on one pool. `diagnose` runs beside it as soon as everybody waits.
fn play<P: Sessions>(
    run: &Run<'_>,
    orders: &Orders,
    pool: &P,
    patience: Duration,
    diagnose: impl Fn(&P) -> String + Send + 'static,
) -> Result<Outcome, Problem> {
    let settings = settings(pool)?;
    let client = orders.connect().map_err(|error| Problem(chain(&error)))?;
    let sitter = Sitter::start(pool, orders.begin_sql())?;
    let mut watcher = HealthProbe { client, pid: sitter.pid };
    let mut outcome = Outcome { settings, line: sitter.line, ..Outcome::default() };

    let (tell, told) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for number in 0..THREADS {
        let (pool, sql, tell, stop) =
            (pool.clone(), orders.lock_sql(), tell.clone(), Arc::clone(&stop));
        let work = move || caller(pool, &sql, number, &tell, &stop);
        threads.push(spawn(&format!("caller {number}"), work)?);
    }
    let begun = Instant::now();
    let (mut for_pool, mut for_row) = (Samples::new(), Samples::new());
    let (mut answered, mut diagnose, mut diagnosing) = ([false; THREADS], Some(diagnose), None);
    while begun.elapsed() < patience && outcome.served < THREADS {
        take(&told, &mut outcome, &mut answered);
        let (blocker, waiting) = (watcher.blocker()?, pool.waiting());
        let behind_row = blocker.as_ref().map_or(0, |blocker| blocker.blocked as usize);
        for_pool.add(waiting as f64);
        for_row.add(behind_row as f64);
        if let Some(blocker) = blocker.filter(|_| behind_row + waiting >= outcome.seen.together()) {
            outcome.seen = Seen { behind_row, behind_pool: waiting, blocker: blocker.to_string() };
        }
        if outcome.ended_after.is_none() && !watcher.is_there()? {
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
    take(&told, &mut outcome, &mut answered);
    outcome.unanswered = answered.iter().filter(|answered| !**answered).count();
    outcome.diagnosis = diagnosing.and_then(|thread| thread.join().ok()).unwrap_or_default();
    (outcome.for_pool, outcome.for_row) = (for_pool.into_points(), for_row.into_points());

    // Those that still wait now get the row, and end.
    outcome.commit = sitter.end();
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(outcome)
}

fn take(told: &Receiver<(usize, Attempt)>, outcome: &mut Outcome, answered: &mut [bool; THREADS]) {
    for (number, attempt) in told.try_iter() {
        answered[number] = true;
        outcome.served += usize::from(attempt.result.is_ok());
        outcome.attempts.push(attempt);
    }
}

/// What a session says of its limits.
fn settings(pool: &impl Sessions) -> Result<String, Problem> {
    let mut session = pool.get().map_err(|refusal| Problem(refusal.said))?;
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
        Some(client)
    };
    Endless::over(CONNECTIONS as usize, None, connect, Client::is_closed)
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let server = Server::find(SESSIONS, run.console)?;
    let orders = Orders::create(server.config())?;
    let limits = Limits::of(run);

    run.console.say(if run.fixed {
        "flaw mended: plain sessions with limits"
    } else {
        "flawed: plain sessions, which have no limits"
    });
    let mended = run.fixed.then_some(limits);
    let pool = plain(orders.config(), mended);
    // Opened before anybody waits for them.
    let all: Vec<_> = (0..CONNECTIONS).map(|_| Sessions::get(&pool)).collect();
    drop(all);
    // Nothing ends it if it is flawed.
    let ends = run.seconds + WATCHDOG;
    let patience = if run.fixed { ends } else { run.seconds };
    let flawed = play(run, &orders, &pool, patience, |_| String::new())?;
    drop(pool);

    run.console.say(&format!("fairpool: sessions that wait {:.1?} for a lock, and end after {:.1?} of sitting in a transaction", limits.lock, limits.idle_in_transaction));
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
    let looks = limits.idle_in_transaction / 4;
    let diagnose = move |pool: &Pool<Manager>| match pool.diagnose_over(looks) {
        Ok(diagnosis) => format!("{diagnosis}{}", diagnosis.snapshot),
        Err(error) => error.to_string(),
    };
    let fairpool = play(run, &orders, &pool, ends, diagnose)?;
    run.console.quiet();
    Ok(report::report(flawed, fairpool))
}
