//! The reaper closes idle connections while callers get and return them.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::flawed::unsynchronised::{Driver, Unsynchronised};
use crate::load::{diagnose, of};
use crate::recording::{Seen, Server, Session};
use crate::report::{Finding, Report, figure};
use crate::scenario::{Problem, Run, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "reaper-race",
    about: "connections expire fast, and are closed while others are got and returned",
    // Reached on slow machines only: it ends after the last operation.
    seconds: Duration::from_secs(240),
    run,
};

/// An operation is a get, a use and a return.
const OPERATIONS: u64 = 10_000_000;
/// Enough for the flawed pool to show its flaw.
const OPERATIONS_FLAWED: u64 = OPERATIONS / 10;

const CONNECTIONS: usize = 4;
const CALLERS: usize = 6;

/// The longest lifetime of a connection; the shortest is a tenth of it.
const LIFETIME: Duration = Duration::from_millis(20);
/// The time between two passes of the flawed pool's reaper and of fairpool's.
const PASSES: Duration = Duration::from_millis(1);

/// The most turns of an empty loop in a use, and in the rest after it.
const TURNS: u64 = 200;
/// One in `YIELDS` uses lets other threads run in its middle. One in `PAUSES` uses, and one
/// in as many rests, takes much longer, so that callers wait or connections are idle.
const YIELDS: u64 = 16;
const PAUSES: u64 = 64;
const PAUSE: Duration = Duration::from_micros(50);

/// Connections are held for microseconds. A caller that waits for this long has missed its
/// wake-up, and a session that is used this long after its lifetime was never closed.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Outcome {
    operations: u64,
    seconds: f64,
    /// Connections closed by the reaper, as the pool counts.
    reaped: u64,
    /// Callers that waited until their deadline, and how many of them while a connection
    /// was idle.
    asleep: u64,
    beside: u64,
    /// Gets that had to wait, as the pool counts.
    waited: u64,
    /// Uses of sessions long after their lifetime.
    overdue: u64,
    /// Connections that could not be got at the end.
    missing: usize,
    /// The server's records, after the pool has closed its connections.
    seen: Seen,
}

impl Outcome {
    fn skipped(&self) -> u64 {
        self.seen.never_closed() + self.overdue
    }

    fn shows_the_flaw(&self) -> bool {
        let Seen { closed_twice, used_closed, shared, .. } = self.seen;
        self.asleep + self.skipped() + closed_twice + used_closed + shared > 0 || self.missing > 0
    }
}

/// The operations of both pools.
trait Pooled: Sync {
    /// Gets, uses and returns a session. `false` if there was none within [`LIMIT`].
    fn use_one(&self, work: impl FnOnce(&Session)) -> bool;
    fn idle(&self) -> usize;
}

impl Pooled for Unsynchronised<Session> {
    fn use_one(&self, work: impl FnOnce(&Session)) -> bool {
        let Some(conn) = self.get(LIMIT) else { return false };
        work(&conn);
        self.put(conn);
        true
    }

    fn idle(&self) -> usize {
        self.idle()
    }
}

impl Pooled for Pool<Server> {
    fn use_one(&self, work: impl FnOnce(&Session)) -> bool {
        let Ok(conn) = self.get_timeout(LIMIT) else { return false };
        work(&conn.0);
        true
    }

    fn idle(&self) -> usize {
        self.stats().idle as usize
    }
}

/// The counts of the callers.
#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    operations: AtomicU64,
    asleep: AtomicU64,
    beside: AtomicU64,
    overdue: AtomicU64,
}

impl Counts {
    /// The loop of a caller.
    fn call(&self, pool: &impl Pooled, mut dice: StdRng) {
        let add = |count: &AtomicU64, is_so: bool| {
            count.fetch_add(u64::from(is_so), Ordering::Relaxed);
        };
        while !self.stop.load(Ordering::Relaxed) {
            let (turns, yields, pauses) = (
                dice.random_range(0..TURNS),
                dice.random_range(0..YIELDS) == 0,
                dice.random_range(0..PAUSES) == 0,
            );
            let begun = Instant::now();
            let mut waited = Duration::ZERO;
            let served = pool.use_one(|session| {
                waited = begun.elapsed();
                session.work(turns, || {
                    if yields {
                        thread::yield_now();
                    }
                    if pauses {
                        thread::sleep(PAUSE);
                    }
                });
                if session.age() > LIFETIME + LIMIT {
                    add(&self.overdue, true);
                }
            });
            // A caller may find a connection at its deadline, which was idle before.
            if !served || waited >= LIMIT {
                add(&self.asleep, true);
                add(&self.beside, served || pool.idle() > 0);
            }
            add(&self.operations, served);
            (0..dice.random_range(0..TURNS)).for_each(|_| hint::spin_loop());
            if dice.random_range(0..PAUSES) == 0 {
                thread::sleep(PAUSE);
            }
        }
    }
}

/// Runs callers on this pool, for this number of operations or until the time is over.
/// Calls `halfway` on a thread of its own after the first half.
fn race(
    run: &Run<'_>,
    pool: &impl Pooled,
    operations: u64,
    seen: impl Fn() -> Seen,
    halfway: impl FnOnce() + Send,
) -> Outcome {
    let (counts, begun) = (Counts::default(), Instant::now());
    let mut halfway = Some(halfway);
    thread::scope(|scope| {
        for number in 0..CALLERS {
            let (counts, dice) =
                (&counts, StdRng::seed_from_u64(run.seed.wrapping_add(number as u64)));
            let thread = thread::Builder::new().name(format!("caller-{number}"));
            thread.spawn_scoped(scope, move || counts.call(pool, dice)).expect("a thread");
        }
        loop {
            let (done, time) = (counts.operations.load(Ordering::Relaxed), begun.elapsed());
            if done >= operations || time >= run.seconds {
                break;
            }
            if (done >= operations / 2 || time >= run.seconds / 2)
                && let Some(halfway) = halfway.take()
            {
                scope.spawn(halfway);
            }
            run.console.state(|| {
                let (open, closed) = (seen().opened, seen().closed);
                format!("{done} of {operations} operations, {open} opened, {closed} closed")
            });
            thread::sleep(Duration::from_millis(2));
        }
        counts.stop.store(true, Ordering::Relaxed);
    });
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Outcome {
        operations: of(&counts.operations),
        seconds: begun.elapsed().as_secs_f64(),
        asleep: of(&counts.asleep),
        beside: of(&counts.beside),
        overdue: of(&counts.overdue),
        ..Outcome::default()
    }
}

/// Lifetimes are spread evenly between a tenth and the whole, as in fairpool.
fn is_old(session: &Session) -> bool {
    session.age() >= LIFETIME / 10 * (session.number % 10 + 1) as u32
}

/// The flawed pool, with a thread for its reaper.
fn model(run: &Run<'_>) -> Outcome {
    let server = Server::default();
    let opener = server.clone();
    let connect = Box::new(move || opener.open());
    let driver = Driver { connect, is_old, close: Session::close };
    let pool = Unsynchronised::new(run.fixed, CONNECTIONS, driver);
    let (over, reaped) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut outcome = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                reaped.fetch_add(pool.reap() as u64, Ordering::Relaxed);
                thread::sleep(PASSES);
            }
        });
        let outcome = race(run, &pool, OPERATIONS_FLAWED, || server.seen(), || {});
        over.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.reaped = reaped.into_inner();
    let held: Vec<_> = (0..CONNECTIONS).map_while(|_| pool.get(Duration::ZERO)).collect();
    outcome.missing = CONNECTIONS - held.len();
    held.into_iter().for_each(|conn| pool.put(conn));
    pool.clear();
    outcome.seen = server.seen();
    outcome
}

/// fairpool: the outcome, the diagnosis, and differences between the pool's counts and the
/// server's.
fn real(run: &Run<'_>) -> (Outcome, String, Vec<String>) {
    let server = Server::default();
    let pool = Pool::builder()
        .name("lab")
        .max_size(CONNECTIONS as u32)
        .max_lifetime(Some(LIFETIME))
        .lifetime_jitter(0.9)
        .idle_timeout(Some(LIFETIME / 4))
        .slow_get_threshold(None)
        .build(server.clone())
        .expect("the server accepts every session");
    let mut diagnosis = String::new();
    let apart = run.seconds / 4;
    let halfway = || diagnosis = diagnose(&pool, apart);
    let mut outcome = race(run, &pool, OPERATIONS, || server.seen(), halfway);
    let held: Vec<_> = (0..CONNECTIONS).map_while(|_| pool.get_timeout(LIMIT * 2).ok()).collect();
    outcome.missing = CONNECTIONS - held.len();
    let extra = held.len() as u64;
    drop(held);
    let closed = pool.close(Instant::now() + LIMIT * 2);
    let stats = pool.stats();
    outcome.reaped = stats.closed.expired + stats.closed.idle_too_long;
    outcome.waited = stats.gets_waited;
    outcome.seen = server.seen();
    let counts = [
        ("connections handed out", stats.gets, outcome.operations + extra),
        ("connections opened", stats.opened, outcome.seen.opened),
        ("connections closed", stats.closed.total(), outcome.seen.closed),
        ("closed in time at the end", u64::from(closed.is_complete()), 1),
    ];
    let wrong = counts.into_iter().filter(|(_, pool, counted)| pool != counted);
    let wrong = wrong.map(|(what, pool, counted)| format!("{what}: {pool}, not {counted}"));
    let wrong = wrong.collect();
    (outcome, diagnosis, wrong)
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    run.console.say(if run.fixed {
        "flaw fixed: the reaper decides under the lock, and a return wakes a waiter"
    } else {
        "flawed: the reaper uses a copy of the idle list, and a return wakes no waiter"
    });
    let flawed = model(run);
    run.console.say("fairpool");
    let (fairpool, diagnosis, wrong_counts) = real(run);
    run.console.clear();
    Ok(report(&flawed, &fairpool, &wrong_counts, diagnosis))
}

fn report(
    flawed: &Outcome,
    fairpool: &Outcome,
    wrong_counts: &[String],
    diagnosis: String,
) -> Report {
    let row = |name: &str, figure_of: fn(&Outcome) -> String| {
        figure(name, figure_of(flawed), figure_of(fairpool))
    };
    let figures = vec![
        row("operations (get, use, return)", |outcome| outcome.operations.to_string()),
        row("duration", |outcome| format!("{:.1} s", outcome.seconds)),
        row("connections opened", |outcome| outcome.seen.opened.to_string()),
        row("closed as too old or too long idle", |outcome| outcome.reaped.to_string()),
        row("never closed", |outcome| none(outcome.skipped())),
        row("closed twice", |outcome| none(outcome.seen.closed_twice)),
        row("uses of a closed connection", |outcome| none(outcome.seen.used_closed)),
        row("uses by two threads at once", |outcome| none(outcome.seen.shared)),
        figure("gets that had to wait", "", fairpool.waited),
        row("callers that slept until their deadline", |outcome| none(outcome.asleep)),
        row("of them while a connection was idle", |outcome| none(outcome.beside)),
        row("connections missing at the end", |outcome| {
            of(outcome.missing, CONNECTIONS).to_string()
        }),
    ];
    let because = |outcome: &Outcome| match outcome.shows_the_flaw() {
        true => format!(
            "within {} operations, {} connections were never closed, {} were closed twice, {} uses were of closed ones, and {} callers slept while a connection was idle",
            outcome.operations,
            outcome.skipped(),
            outcome.seen.closed_twice,
            outcome.seen.used_closed,
            outcome.beside
        ),
        false => format!(
            "within {} operations, each of {} connections was closed once, none was used afterwards, and no caller missed its wake-up",
            outcome.operations, outcome.seen.opened
        ),
    };
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "the reaper uses a copy of the idle list, and a return wakes no waiter"
            .to_string(),
        load: format!(
            "{CALLERS} callers, {CONNECTIONS} connections with lifetimes of {:.0?} to {LIFETIME:.0?}",
            LIFETIME / 10
        ),
        figures,
        flawed: Finding { shows_the_flaw: flawed.shows_the_flaw(), because: because(flawed) },
        fairpool: Finding {
            shows_the_flaw: fairpool.shows_the_flaw() || !wrong_counts.is_empty(),
            because: match wrong_counts {
                [] => because(fairpool),
                wrong => format!("the pool's counts are wrong: {}", wrong.join(", ")),
            },
        },
        diagnosis,
        data: json!({ "flawed": data(flawed), "fairpool": data(fairpool) }),
        chart: None,
    }
}

fn none(count: u64) -> String {
    if count == 0 { "none".to_string() } else { count.to_string() }
}

fn data(outcome: &Outcome) -> Value {
    json!({
        "operations": outcome.operations,
        "seconds": outcome.seconds,
        "opened": outcome.seen.opened,
        "closed": outcome.seen.closed,
        "reaped": outcome.reaped,
        "skipped": outcome.skipped(),
        "closed_twice": outcome.seen.closed_twice,
        "used_closed": outcome.seen.used_closed,
        "shared": outcome.seen.shared,
        "waited": outcome.waited,
        "asleep": outcome.asleep,
        "asleep_while_a_connection_was_idle": outcome.beside,
        "missing": outcome.missing,
    })
}
