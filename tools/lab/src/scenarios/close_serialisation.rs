//! The driver's close hangs while connections are closed, got and returned.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use fairpool::{Pool, PooledConnection};
use serde_json::{Value, json};

use crate::chart::{Chart, Line};
use crate::flawed::serialised::{Blocked, Meter, Serialised, Way};
use crate::load::{diagnose, quantile, span};
use crate::report::{Finding, Report, figure};
use crate::scenario::{Problem, Run, Scenario};
use crate::stub::Stub;

pub const SCENARIO: Scenario = Scenario {
    name: "close-serialisation",
    about: "8 slow closes, while other connections are got and returned",
    seconds: Duration::from_secs(3),
    run,
};

/// The number of connections that are closed, and of those that stay.
const CLOSED: usize = 8;
const KEPT: usize = 8;
const CLOSERS: usize = 4;
/// Threads that get and return, how often each does, and how long it holds a connection.
const USERS: usize = 4;
const EVERY: Duration = Duration::from_millis(1);
const HOLD: Duration = Duration::from_micros(200);
/// How long the load continues after the last close.
const AFTER: Duration = Duration::from_millis(50);

/// A normal close, which hides the flaw, and a close over a bad link. The long close is as
/// long as `--seconds`.
const SHORT: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(50)];

/// The times of a get and its return. A get counts from when it was due, so that a delay
/// of one counts for all that are due meanwhile.
#[derive(Clone, Copy)]
struct Use {
    /// When it was due, from the first close.
    at: Duration,
    get: Duration,
    give: Duration,
}

impl Use {
    /// Gets, holds and returns a connection.
    fn of<G>(get: impl FnOnce() -> G, hold: Duration, give: impl FnOnce(G)) -> Use {
        let (got, get) = timed(get);
        thread::sleep(hold);
        let ((), give) = timed(|| give(got));
        Use { at: Duration::ZERO, get, give }
    }
}

struct Outcome {
    name: &'static str,
    uses: Vec<Use>,
    /// From the first close to the end of the last.
    all_closed: Duration,
    /// `None` for fairpool, which does not measure this.
    meter: Option<Meter>,
}

impl Outcome {
    /// The times of all gets, or of all returns, sorted.
    fn sorted(&self, of: fn(&Use) -> Duration) -> Vec<Duration> {
        let mut all: Vec<Duration> = self.uses.iter().map(of).collect();
        all.sort_unstable();
        all
    }

    fn get(&self, part: f64) -> Duration {
        quantile(&self.sorted(|one| one.get), part)
    }

    fn give(&self, part: f64) -> Duration {
        quantile(&self.sorted(|one| one.give), part)
    }

    /// The p99 of the gets that were due within each tenth of a second.
    fn line(&self) -> Line {
        let mut tenths: BTreeMap<u64, Vec<Duration>> = BTreeMap::new();
        for one in &self.uses {
            tenths.entry((one.at.as_secs_f64() * 10.0) as u64).or_default().push(one.get);
        }
        let point = |(tenth, mut gets): (u64, Vec<Duration>)| {
            gets.sort_unstable();
            (tenth as f64 / 10.0, quantile(&gets, 0.99).as_secs_f64() * 1e3)
        };
        Line { name: self.name.to_string(), points: tenths.into_iter().map(point).collect() }
    }
}

/// Gets and returns on several threads while `closing` runs and shortly after. A user's
/// clock advances by the time in the pool and by its own work, so that delays of a busy
/// machine do not count as the pool's.
fn under_load(
    use_one: impl Fn(Duration) -> Use + Sync,
    closing: impl FnOnce(),
) -> (Vec<Use>, Duration) {
    let (ready, end) = (Barrier::new(USERS + 1), OnceLock::new());
    thread::scope(|scope| {
        let user = || {
            // The first get of a thread is slower than the others.
            use_one(Duration::ZERO);
            ready.wait();
            let begun = Instant::now();
            let mut uses = Vec::new();
            let (mut due, mut free) = (Duration::ZERO, Duration::ZERO);
            while end.get().is_none_or(|end| due < *end) {
                thread::sleep(due.saturating_sub(begun.elapsed()));
                let late = free.saturating_sub(due);
                let hold = if late.is_zero() { HOLD } else { Duration::ZERO };
                let Use { get, give, .. } = use_one(hold);
                uses.push(Use { at: due, get: late + get, give });
                free = due + late + get + hold + give;
                due += EVERY;
            }
            uses
        };
        let users: Vec<_> = (0..USERS).map(|_| scope.spawn(user)).collect();
        ready.wait();
        let begun = Instant::now();
        closing();
        let took = begun.elapsed();
        thread::sleep(AFTER);
        end.get_or_init(|| begun.elapsed());
        let uses = users.into_iter().flat_map(|user| user.join().expect("a user panicked"));
        (uses.collect(), took)
    })
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// The flawed pool. All connections to close are in use. In the middle of the close of
/// every second one, its holder returns it and another thread tries to close it too.
fn model(name: &'static str, way: Way, close: Duration) -> Outcome {
    let stub = Stub::closing_in(close);
    let quick = Stub::new();
    let open = |number| if number < KEPT { quick.open() } else { stub.open() };
    let pool = Serialised::new(way, (0..KEPT + CLOSED).map(open));
    // Those with the slow close are on top of the stack.
    let victims: Vec<_> = (0..CLOSED).filter_map(|_| pool.get()).collect();
    let give = |conn: Option<_>| conn.into_iter().for_each(|conn| pool.put(conn));
    let closing = || {
        thread::scope(|scope| {
            let pool = &pool;
            for some in victims.chunks(CLOSED / CLOSERS) {
                scope.spawn(move || some.iter().for_each(|conn| pool.close(conn)));
            }
            thread::sleep(close / 4);
            for conn in victims.iter().step_by(CLOSED / CLOSERS) {
                scope.spawn(move || pool.put(Arc::clone(conn)));
                scope.spawn(move || pool.close(conn));
            }
        });
    };
    let (uses, all_closed) = under_load(|hold| Use::of(|| pool.get(), hold, give), closing);
    Outcome { name, uses, all_closed, meter: Some(pool.meter()) }
}

fn pool(close: Duration) -> (Pool<Stub>, Stub) {
    let stub = Stub::closing_in(close);
    let builder = Pool::builder().name("lab").max_size((CLOSED + KEPT) as u32);
    let pool = builder
        .max_closers(CLOSERS as u32)
        .min_idle(Some(0))
        .close_timeout(close * 20 + Duration::from_secs(5))
        .build(stub.clone())
        .expect("the stub always connects");
    (pool, stub)
}

fn use_one(pool: &Pool<Stub>, hold: Duration) -> Use {
    Use::of(|| pool.get().expect("BUG: too few connections"), hold, drop)
}

/// fairpool: the holders of eight connections discard them.
fn real(run: &Run<'_>, close: Duration) -> (Outcome, String) {
    let name = "fairpool";
    let (pool, stub) = pool(close);
    let victims: Vec<_> = (0..CLOSED).filter_map(|_| pool.get().ok()).collect();
    let closing = || {
        victims.into_iter().for_each(PooledConnection::discard);
        while stub.closed() < CLOSED as u64 {
            run.console.state(|| format!("{name}: {} of {CLOSED} closed", stub.closed()));
            thread::sleep(Duration::from_millis(1).min(close / 20));
        }
    };
    let ((uses, all_closed), diagnosis) = thread::scope(|scope| {
        let diagnosing = || {
            // In the middle of the first closes.
            thread::sleep(close / 4);
            diagnose(&pool, close / 2)
        };
        // Shorter closes end before the second snapshot.
        let diagnosing = (close > SHORT[1]).then(|| scope.spawn(diagnosing));
        let done = under_load(|hold| use_one(&pool, hold), closing);
        let diagnosis = diagnosing.map(|thread| thread.join().expect("the diagnosis panicked"));
        (done, diagnosis.unwrap_or_default())
    });
    (Outcome { name, uses, all_closed, meter: None }, diagnosis)
}

/// fairpool without closes, for comparison.
fn undisturbed(length: Duration) -> Outcome {
    let (pool, _) = pool(Duration::ZERO);
    let (uses, all_closed) = under_load(|hold| use_one(&pool, hold), || thread::sleep(length));
    Outcome { name: "fairpool, no closes", uses, all_closed, meter: None }
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let long = run.seconds;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "close takes",
        "variant",
        "lock held",
        "closers blocked",
        "returns blocked",
        "gets blocked",
        "get p50",
        "get p99",
        "return p99",
        "all closed in",
    ]);
    let mut data = Vec::new();
    let mut of_long = Vec::new();
    let mut diagnosis = String::new();
    for close in [SHORT[0], SHORT[1], long] {
        let ways = [
            ("one lock for all", Way::OneLock),
            ("a lock for each", Way::LockEach),
            ("closed outside", Way::Outside),
        ];
        for (name, way) in ways {
            run.console.say(&format!("closes of {close:.1?}: {name}"));
            let outcome = model(name, way, close);
            table.add_row(row(close, &outcome));
            data.push(json(close, &outcome));
            of_long.extend((close == long).then_some(outcome));
        }
        run.console.say(&format!("closes of {close:.1?}: fairpool"));
        let (outcome, text) = real(run, close);
        diagnosis = text;
        table.add_row(row(close, &outcome));
        data.push(json(close, &outcome));
        of_long.extend((close == long).then_some(outcome));
    }
    let calm = undisturbed(long.min(Duration::from_secs(2)));
    run.console.clear();
    run.console.say(&table.to_string());
    let [one, each, outside, fairpool] = &of_long[..] else { unreachable!("BUG: four of each") };
    let flawed = if run.fixed { outside } else { one };
    Ok(Report {
        chart: Some(chart(&[one, each, outside, fairpool], long)),
        ..report(long, flawed, fairpool, &calm, diagnosis, data)
    })
}

fn report(
    close: Duration,
    flawed: &Outcome,
    fairpool: &Outcome,
    calm: &Outcome,
    diagnosis: String,
    data: Vec<Value>,
) -> Report {
    let figures = vec![
        figure("get p50", span(flawed.get(0.5)), span(fairpool.get(0.5))),
        figure("get p99", span(flawed.get(0.99)), span(fairpool.get(0.99))),
        figure("return p99", span(flawed.give(0.99)), span(fairpool.give(0.99))),
        figure("longest get or return", span(longest(flawed)), span(longest(fairpool))),
        figure("all closed in", span(flawed.all_closed), span(fairpool.all_closed)),
        figure("fairpool's get p99 without closes", "", span(calm.get(0.99))),
    ];
    let best = close * CLOSED.div_ceil(CLOSERS) as u32;
    // A busy machine adds more than the get takes, but much less than a close.
    let tolerance = close / 10 + Duration::from_millis(5);
    let slow = fairpool.get(0.99) > calm.get(0.99) * 2 + tolerance
        || fairpool.give(0.99) > calm.give(0.99) * 2 + tolerance;
    let late = fairpool.all_closed > best.mul_f64(1.5) + Duration::from_millis(500);
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "one lock, held across the driver's close".to_string(),
        load: format!("{CLOSED} closes of {close:.1?}, {USERS} threads that get and return"),
        figures,
        flawed: Finding {
            shows_the_flaw: longest(flawed) > close / 2,
            because: format!("a get or a return waited for up to {}", span(longest(flawed))),
        },
        fairpool: Finding {
            shows_the_flaw: slow || late,
            because: format!(
                "gets and returns are as fast as without closes, and the closes end after {} ({CLOSED} × {close:.1?} / {CLOSERS} closers is {})",
                span(fairpool.all_closed),
                span(best)
            ),
        },
        diagnosis,
        data: json!({ "ways": data, "calm_get_p99_seconds": calm.get(0.99).as_secs_f64() }),
        chart: None,
    }
}

fn longest(outcome: &Outcome) -> Duration {
    outcome.uses.iter().map(|one| one.get.max(one.give)).max().unwrap_or_default()
}

fn blocked(blocked: Blocked) -> impl fmt::Display {
    match blocked.times {
        0 => "none".to_string(),
        times => format!("{times}, up to {}", span(blocked.longest)),
    }
}

fn row(close: Duration, outcome: &Outcome) -> Vec<String> {
    let meter = outcome.meter;
    let of = |of: fn(Meter) -> Blocked| {
        meter.map_or("–".to_string(), |meter| blocked(of(meter)).to_string())
    };
    vec![
        span(close),
        outcome.name.to_string(),
        meter.map_or("–".to_string(), |meter| span(meter.held)),
        of(|meter| meter.closers),
        of(|meter| meter.returners),
        of(|meter| meter.getters),
        span(outcome.get(0.5)),
        span(outcome.get(0.99)),
        span(outcome.give(0.99)),
        span(outcome.all_closed),
    ]
}

fn json(close: Duration, outcome: &Outcome) -> Value {
    let blocked = |blocked: Blocked| json!({ "times": blocked.times, "total_seconds": blocked.total.as_secs_f64(), "longest_seconds": blocked.longest.as_secs_f64() });
    json!({
        "close_seconds": close.as_secs_f64(),
        "way": outcome.name,
        "lock_held_seconds": outcome.meter.map(|meter| meter.held.as_secs_f64()),
        "closers_blocked": outcome.meter.map(|meter| blocked(meter.closers)),
        "returns_blocked": outcome.meter.map(|meter| blocked(meter.returners)),
        "gets_blocked": outcome.meter.map(|meter| blocked(meter.getters)),
        "get_p50_seconds": outcome.get(0.5).as_secs_f64(),
        "get_p99_seconds": outcome.get(0.99).as_secs_f64(),
        "return_p99_seconds": outcome.give(0.99).as_secs_f64(),
        "all_closed_seconds": outcome.all_closed.as_secs_f64(),
    })
}

fn chart(outcomes: &[&Outcome], close: Duration) -> Chart {
    Chart {
        title: format!("p99 of gets by due time, while {CLOSED} closes of {close:.1?} hang"),
        x: "seconds".to_string(),
        y: "milliseconds".to_string(),
        lines: outcomes.iter().map(|outcome| outcome.line()).collect(),
        log_y: true,
    }
}
