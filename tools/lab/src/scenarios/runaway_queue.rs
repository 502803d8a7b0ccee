//! A connection leaks, and those who need it queue up.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use serde_json::json;

use super::{Problem, Run, Scenario};
use crate::chart::{Chart, Line};
use crate::flawed::endless::{Endless, Limits};
use crate::load::{Answer, Caller, Samples, count, diagnose, of, span};
use crate::report::{Finding, Report, figure};
use crate::stub::Stub;

pub const SCENARIO: Scenario = Scenario {
    name: "runaway-queue",
    about: "one connection, which its holder never gives back; 100 callers",
    seconds: Duration::from_secs(4),
    run,
};

const CALLERS: usize = 100;
const MOST_WAITERS: usize = 20;

/// What a busy machine may add to a deadline before this is called a broken promise.
const ROOM: Duration = Duration::from_millis(500);

/// One pool's part: what its callers met, and how many waited when.
struct Outcome {
    callers: Vec<Caller>,
    waiting: Samples,
}

/// Callers come one after the other over the first half of the time. Each is a thread;
/// what has no answer at the end has none.
fn crowd<G>(
    run: &Run<'_>,
    get: impl Fn() -> Result<G, String> + Clone + Send + 'static,
    waiting: impl Fn() -> usize,
) -> Outcome {
    let begun = Instant::now();
    let (tell, told) = mpsc::channel();
    let mut callers: Vec<(Instant, Option<Caller>)> = Vec::new();
    let mut samples = Samples::new();
    while begun.elapsed() < run.seconds {
        let due = begun.elapsed().as_secs_f64() / run.seconds.as_secs_f64() * 2.0;
        while callers.len() < ((due * CALLERS as f64) as usize).min(CALLERS) {
            let (number, get, tell) = (callers.len(), get.clone(), tell.clone());
            callers.push((Instant::now(), None));
            thread::spawn(move || {
                let start = Instant::now();
                let answer = match get() {
                    Ok(_) => Answer::Served,
                    Err(error) => Answer::Error(error),
                };
                // Nobody listens any more when the time is over.
                let _ = tell.send((number, Caller { waited: start.elapsed(), answer }));
            });
        }
        told.try_iter().for_each(|(number, caller)| callers[number].1 = Some(caller));
        samples.add(waiting() as f64);
        run.console.state(|| {
            let answered = callers.iter().filter(|caller| caller.1.is_some()).count();
            format!("{} waiting, {} of {} answered", waiting(), answered, callers.len())
        });
        thread::sleep(Duration::from_millis(5));
    }
    let unanswered = |came: Instant| Caller { waited: came.elapsed(), answer: Answer::None };
    let callers =
        callers.into_iter().map(|(came, caller)| caller.unwrap_or_else(|| unanswered(came)));
    Outcome { callers: callers.collect(), waiting: samples }
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let timeout = run.seconds / 5;

    run.console.say("flawed: no limit on waiters, no deadline");
    let limits = run.fixed.then_some(Limits { waiters: MOST_WAITERS, timeout });
    let stub = Stub::new();
    let pool = Endless::new(1, limits, move || stub.open());
    let leaked = pool.get().expect("the first is free");
    let getter = pool.clone();
    let flawed = crowd(run, move || getter.get().map_err(str::to_string), || pool.waiting());
    // Lets the threads go that wait there for ever.
    drop(leaked);

    run.console.say(&format!("fairpool: at most {MOST_WAITERS} waiters, {timeout:.1?} for each"));
    let builder = Pool::builder().name("lab").max_size(1);
    let pool = builder
        .max_waiters(Some(MOST_WAITERS as u32))
        .connection_timeout(timeout)
        .leak_threshold(Some(timeout / 2))
        .build(Stub::new())
        .expect("the stub always connects");
    let (leaked, line) = (pool.get().expect("the first is free"), line!());
    let getter = pool.clone();
    let get = move || getter.get().map_err(|error| error.to_string());
    let (look_after, look_for) = (run.seconds.mul_f64(0.35), run.seconds / 10);
    let looking = pool.clone();
    let diagnosing = thread::spawn(move || {
        thread::sleep(look_after);
        diagnose(&looking, look_for)
    });
    let fairpool = crowd(run, get, || pool.stats().waiting as usize);
    let leaks = pool.stats().leaks;
    let diagnosis = diagnosing.join().unwrap_or_default();
    drop(leaked);
    run.console.quiet();

    let named = format!("{}:{line}", file!());
    Ok(report(run, &flawed, &fairpool, &named, leaks, diagnosis, timeout)
        .with_chart(flawed, fairpool))
}

fn report(
    run: &Run<'_>,
    flawed: &Outcome,
    fairpool: &Outcome,
    named: &str,
    leaks: u64,
    diagnosis: String,
    timeout: Duration,
) -> Report {
    let none = |outcome: &Outcome| count(&outcome.callers, |answer| *answer == Answer::None);
    let saying = |outcome: &Outcome, text: &str| {
        count(
            &outcome.callers,
            |answer| matches!(answer, Answer::Error(said) if said.contains(text)),
        )
    };
    let longest = |outcome: &Outcome| {
        outcome.callers.iter().map(|caller| caller.waited).max().unwrap_or_default()
    };
    let naming = saying(fairpool, named);
    let late = fairpool.callers.iter().filter(|caller| caller.waited > timeout + ROOM).count();
    let figures = vec![
        figure(
            "callers that have no answer",
            of(none(flawed), CALLERS),
            of(none(fairpool), CALLERS),
        ),
        figure("timed out", saying(flawed, "timed out"), saying(fairpool, "timed out")),
        figure("refused at once", saying(flawed, "too many"), saying(fairpool, "too many")),
        figure("waiting at the end", flawed.waiting.last(), fairpool.waiting.last()),
        figure(
            "longest wait",
            format!(
                "{}{}",
                span(longest(flawed)),
                if none(flawed) > 0 { " and counting" } else { "" }
            ),
            span(longest(fairpool)),
        ),
        figure("errors that name the leak's line", "none", of(naming, CALLERS)),
        figure("leaks reported", "none", leaks),
    ];
    let reported = naming > 0 && leaks == 1 && diagnosis.contains(named);
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "no limit on waiters, no deadline".to_string(),
        load: format!(
            "{CALLERS} callers over {:.1?}, one connection, which leaks",
            run.seconds / 2
        ),
        figures,
        flawed: Finding {
            shows_the_flaw: none(flawed) > 0,
            because: format!("{} callers have no answer", of(none(flawed), CALLERS)),
        },
        fairpool: Finding {
            shows_the_flaw: none(fairpool) + late > 0 || !reported,
            because: match (none(fairpool) + late, reported) {
                (0, true) => format!("all are answered in time, and told of {named}"),
                (0, false) => format!("it does not say that {named} leaks"),
                (some, _) => format!("{some} callers were answered late or not at all"),
            },
        },
        diagnosis,
        data: json!({ "timeout_seconds": timeout.as_secs_f64(), "answered_late": late }),
        chart: None,
    }
}

impl Report {
    fn with_chart(self, flawed: Outcome, fairpool: Outcome) -> Report {
        let line = |name: &str, outcome: Outcome| Line {
            name: name.to_string(),
            points: outcome.waiting.into_points(),
        };
        let chart = Chart {
            title: "Callers that wait for a connection that never comes back".to_string(),
            x: "seconds".to_string(),
            y: "waiting".to_string(),
            lines: vec![line("flawed", flawed), line("fairpool", fairpool)],
            log_y: false,
        };
        Report { chart: Some(chart), ..self }
    }
}
