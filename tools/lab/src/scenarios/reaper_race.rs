//! The reaper walks the idle list while connections are taken and put back.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::{Problem, Run, Scenario};
use crate::flawed::unsynchronised::{Driver, Unsynchronised};
use crate::load::{diagnose, of};
use crate::report::{Finding, Report, figure};
use crate::witness::{Seen, Server, Session};

pub const SCENARIO: Scenario = Scenario {
    name: "reaper-race",
    about: "connections grow old fast, and are closed as others are taken and put back",
    // It ends with the last of the operations, before that on all but slow machines.
    seconds: Duration::from_secs(240),
    run,
};

/// An operation is a get, a use, and a put.
const OPERATIONS: u64 = 10_000_000;
/// What has the flaw shows it within a tenth of them.
const OPERATIONS_FLAWED: u64 = OPERATIONS / 10;

const CONNECTIONS: usize = 4;
const CALLERS: usize = 6;

/// Each connection lives for this long, less up to nine tenths of it.
const LIFETIME: Duration = Duration::from_millis(20);
/// Between two walks of the reaper; fairpool's walks are as far apart.
const WALKS: Duration = Duration::from_millis(1);

/// A connection is used, and a caller rests, for up to so many turns of an empty loop.
const TURNS: u64 = 200;
/// Of so many uses, one lets other threads run in the middle; of so many uses, and of so
/// many rests, one takes much longer: then others wait, or connections are idle.
const YIELDS: u64 = 16;
const PAUSES: u64 = 64;
const PAUSE: Duration = Duration::from_micros(50);

/// Connections are held for some microseconds: whoever waits for so long sleeps for
/// nothing. And a session that is used so long after its lifetime was forgotten.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Outcome {
    operations: u64,
    seconds: f64,
    /// Walks of the reaper that found something, or what it closed: as the pool counts.
    reaped: u64,
    /// Callers that waited in vain, and how many of them beside an idle connection.
    asleep: u64,
    beside: u64,
    /// Callers that found no connection at once, as the pool counts.
    waited: u64,
    /// Uses of sessions that should have been closed long ago.
    overdue: u64,
    /// Connections that could not be had when all was over.
    missing: usize,
    /// What the server noted, after the pool has closed what it knew of.
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

/// What both pools can do.
trait Pooled: Sync {
    /// Gets a session, works with it, and puts it back; `false` if there was none within
    /// [`PATIENCE`].
    fn use_one(&self, work: impl FnOnce(&Session)) -> bool;
    fn idle(&self) -> usize;
}

impl Pooled for Unsynchronised<Session> {
    fn use_one(&self, work: impl FnOnce(&Session)) -> bool {
        let Some(conn) = self.get(PATIENCE) else { return false };
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
        let Ok(conn) = self.get_timeout(PATIENCE) else { return false };
        work(&conn.0);
        true
    }

    fn idle(&self) -> usize {
        self.stats().idle as usize
    }
}

/// What the callers count.
#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    operations: AtomicU64,
    asleep: AtomicU64,
    beside: AtomicU64,
    overdue: AtomicU64,
}

impl Counts {
    /// The life of a caller.
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
            let came = Instant::now();
            let mut waited = Duration::ZERO;
            let served = pool.use_one(|session| {
                waited = came.elapsed();
                session.work(turns, || {
                    if yields {
                        thread::yield_now();
                    }
                    if pauses {
                        thread::sleep(PAUSE);
                    }
                });
                if session.age() > LIFETIME + PATIENCE {
                    add(&self.overdue, true);
                }
            });
            // Whoever looks again at the deadline may find a connection; it was there
            // all the while.
            if !served || waited >= PATIENCE {
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

/// Callers on this pool, for so many operations or as long as the user wants it; `look`
/// runs on a thread beside when half of that is over.
fn race(
    run: &Run<'_>,
    pool: &impl Pooled,
    operations: u64,
    seen: impl Fn() -> Seen,
    look: impl FnOnce() + Send,
) -> Outcome {
    let (counts, begun) = (Counts::default(), Instant::now());
    let mut look = Some(look);
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
                && let Some(look) = look.take()
            {
                scope.spawn(look);
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

/// As the pool's lifetimes: evenly between a tenth and the whole.
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
                thread::sleep(WALKS);
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

/// fairpool, what its diagnosis says, and in what its books and the server's differ.
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
        .expect("the server always lets one connect");
    let mut said = String::new();
    let apart = run.seconds / 4;
    let look = || said = diagnose(&pool, apart);
    let mut outcome = race(run, &pool, OPERATIONS, || server.seen(), look);
    let held: Vec<_> =
        (0..CONNECTIONS).map_while(|_| pool.get_timeout(PATIENCE * 2).ok()).collect();
    outcome.missing = CONNECTIONS - held.len();
    let had = held.len() as u64;
    drop(held);
    let closed = pool.close(Instant::now() + PATIENCE * 2);
    let stats = pool.stats();
    outcome.reaped = stats.closed.expired + stats.closed.idle_too_long;
    outcome.waited = stats.gets_waited;
    outcome.seen = server.seen();
    let books = [
        ("connections handed out", stats.gets, outcome.operations + had),
        ("connections opened", stats.opened, outcome.seen.opened),
        ("connections closed", stats.closed.total(), outcome.seen.closed),
        ("closed in time at the end", u64::from(closed.is_complete()), 1),
    ];
    let wrong = books.into_iter().filter(|(_, pool, counted)| pool != counted);
    let wrong = wrong.map(|(what, pool, counted)| format!("{what}: {pool}, not {counted}"));
    let wrong = wrong.collect();
    (outcome, said, wrong)
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    run.console.say(if run.fixed {
        "flaw mended: the reaper decides under the lock, and put wakes a waiter"
    } else {
        "flawed: the reaper goes by a copy of the idle list, and put wakes nobody"
    });
    let flawed = model(run);
    run.console.say("fairpool");
    let (fairpool, diagnosis, books) = real(run);
    run.console.quiet();
    Ok(report(&flawed, &fairpool, &books, diagnosis))
}

fn report(flawed: &Outcome, fairpool: &Outcome, books: &[String], diagnosis: String) -> Report {
    let row = |name: &str, figure_of: fn(&Outcome) -> String| {
        figure(name, figure_of(flawed), figure_of(fairpool))
    };
    let figures = vec![
        row("operations: a get, a use and a put", |outcome| outcome.operations.to_string()),
        row("took", |outcome| format!("{:.1} s", outcome.seconds)),
        row("connections opened", |outcome| outcome.seen.opened.to_string()),
        row("closed for being old or idle", |outcome| outcome.reaped.to_string()),
        row("skipped: never closed", |outcome| none(outcome.skipped())),
        row("closed twice", |outcome| none(outcome.seen.closed_twice)),
        row("uses of a closed connection", |outcome| none(outcome.seen.used_closed)),
        row("uses of one by two at once", |outcome| none(outcome.seen.shared)),
        figure("gets that had to wait", "", fairpool.waited),
        row("callers that slept for 5 s", |outcome| none(outcome.asleep)),
        row("of them beside an idle connection", |outcome| none(outcome.beside)),
        row("connections missing at the end", |outcome| {
            of(outcome.missing, CONNECTIONS).to_string()
        }),
    ];
    let said = |outcome: &Outcome| match outcome.shows_the_flaw() {
        true => format!(
            "within {} operations, {} connections skipped, {} closed twice, {} uses of closed ones, {} callers asleep beside an idle connection",
            outcome.operations,
            outcome.skipped(),
            outcome.seen.closed_twice,
            outcome.seen.used_closed,
            outcome.beside
        ),
        false => format!(
            "within {} operations, each of {} connections was closed once, none was used afterwards, and nobody slept in vain",
            outcome.operations, outcome.seen.opened
        ),
    };
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "the reaper goes by a copy of the idle list, and put wakes nobody".to_string(),
        load: format!(
            "{CALLERS} callers, {CONNECTIONS} connections that live for {:.0?} to {LIFETIME:.0?}",
            LIFETIME / 10
        ),
        figures,
        flawed: Finding { shows_the_flaw: flawed.shows_the_flaw(), because: said(flawed) },
        fairpool: Finding {
            shows_the_flaw: fairpool.shows_the_flaw() || !books.is_empty(),
            because: match books {
                [] => said(fairpool),
                wrong => format!("the books are wrong: {}", wrong.join(", ")),
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
        "asleep_beside_an_idle_connection": outcome.beside,
        "missing": outcome.missing,
    })
}
