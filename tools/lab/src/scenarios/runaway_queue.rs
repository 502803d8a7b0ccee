//! A connection leaks, and callers queue up.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use serde_json::json;

use crate::chart::{Chart, Line};
use crate::flawed::endless::{Endless, Limits};
use crate::load::{Answer, Caller, Samples, count, diagnose, of, span};
use crate::report::{Finding, Report, figure};
use crate::scenario::{Problem, Run, Scenario};
use crate::stub::Stub;

pub const SCENARIO: Scenario = Scenario {
    name: "runaway-queue",
    about: "one connection, which its holder never returns; 100 callers",
    seconds: Duration::from_secs(4),
    run,
};

const CALLERS: usize = 100;
const MOST_WAITERS: usize = 20;

/// What a busy machine may add to a deadline.
const TOLERANCE: Duration = Duration::from_millis(500);

/// The callers of one pool, and how many waited over time.
struct Outcome {
    callers: Vec<Caller>,
    waiting: Samples,
}

/// Callers arrive one after the other over the first half of the time, each on a thread.
fn crowd<G>(
    run: &Run<'_>,
    get: impl Fn() -> Result<G, String> + Clone + Send + 'static,
    waiting: impl Fn() -> usize,
) -> Outcome {
    let begun = Instant::now();
    let (sender, answers) = mpsc::channel();
    let mut callers: Vec<(Instant, Option<Caller>)> = Vec::new();
    let mut samples = Samples::new();
    while begun.elapsed() < run.seconds {
        let due = begun.elapsed().as_secs_f64() / run.seconds.as_secs_f64() * 2.0;
        while callers.len() < ((due * CALLERS as f64) as usize).min(CALLERS) {
            let (number, get, sender) = (callers.len(), get.clone(), sender.clone());
            callers.push((Instant::now(), None));
            thread::spawn(move || {
                let start = Instant::now();
                let answer = match get() {
                    Ok(_) => Answer::Served,
                    Err(error) => Answer::Error(error),
                };
                // The receiver is gone when the time is over.
                let _ = sender.send((number, Caller { waited: start.elapsed(), answer }));
            });
        }
        answers.try_iter().for_each(|(number, caller)| callers[number].1 = Some(caller));
        samples.add(waiting() as f64);
        run.console.state(|| {
            let answered = callers.iter().filter(|caller| caller.1.is_some()).count();
            format!("{} waiting, {} of {} answered", waiting(), answered, callers.len())
        });
        thread::sleep(Duration::from_millis(5));
    }
    let unanswered = |begun: Instant| Caller { waited: begun.elapsed(), answer: Answer::None };
    let callers =
        callers.into_iter().map(|(begun, caller)| caller.unwrap_or_else(|| unanswered(begun)));
    Outcome { callers: callers.collect(), waiting: samples }
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let timeout = run.seconds / 5;

    run.console.say("flawed: no limit on waiters, no deadline");
    let limits = run.fixed.then_some(Limits { waiters: MOST_WAITERS, timeout });
    let stub = Stub::new();
    let pool = Endless::new(1, limits, move || stub.open());
    let leaked = pool.get().expect("BUG: it is idle");
    let getter = pool.clone();
    let flawed = crowd(run, move || getter.get().map_err(str::to_string), || pool.waiting());
    // Lets the threads exit that wait forever.
    drop(leaked);

    run.console
        .say(&format!("fairpool: at most {MOST_WAITERS} waiters, at most {timeout:.1?} each"));
    let builder = Pool::builder().name("lab").max_size(1);
    let pool = builder
        .max_waiters(Some(MOST_WAITERS as u32))
        .connection_timeout(timeout)
        .leak_threshold(Some(timeout / 2))
        .build(Stub::new())
        .expect("the stub always connects");
    let (leaked, line) = (pool.get().expect("BUG: it is idle"), line!());
    let getter = pool.clone();
    let get = move || getter.get().map_err(|error| error.to_string());
    let (delay, apart) = (run.seconds.mul_f64(0.35), run.seconds / 10);
    let diagnosed = pool.clone();
    let diagnosing = thread::spawn(move || {
        thread::sleep(delay);
        diagnose(&diagnosed, apart)
    });
    let fairpool = crowd(run, get, || pool.stats().waiting as usize);
    let leaks = pool.stats().leaks;
    let diagnosis = diagnosing.join().unwrap_or_default();
    drop(leaked);
    run.console.clear();

    let line = format!("{}:{line}", file!());
    Ok(report(run, &flawed, &fairpool, &line, leaks, diagnosis, timeout)
        .with_chart(flawed, fairpool))
}

fn report(
    run: &Run<'_>,
    flawed: &Outcome,
    fairpool: &Outcome,
    line: &str,
    leaks: u64,
    diagnosis: String,
    timeout: Duration,
) -> Report {
    let none = |outcome: &Outcome| count(&outcome.callers, |answer| *answer == Answer::None);
    let errors_with = |outcome: &Outcome, text: &str| {
        count(
            &outcome.callers,
            |answer| matches!(answer, Answer::Error(error) if error.contains(text)),
        )
    };
    let longest = |outcome: &Outcome| {
        outcome.callers.iter().map(|caller| caller.waited).max().unwrap_or_default()
    };
    let naming = errors_with(fairpool, line);
    let late = fairpool.callers.iter().filter(|caller| caller.waited > timeout + TOLERANCE).count();
    let figures = vec![
        figure("callers without an answer", of(none(flawed), CALLERS), of(none(fairpool), CALLERS)),
        figure("timed out", errors_with(flawed, "timed out"), errors_with(fairpool, "timed out")),
        figure(
            "refused at once",
            errors_with(flawed, "too many"),
            errors_with(fairpool, "too many"),
        ),
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
        figure("errors with the line of the leak", "none", of(naming, CALLERS)),
        figure("leaks reported", "none", leaks),
    ];
    let reported = naming > 0 && leaks == 1 && diagnosis.contains(line);
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
            because: format!("{} callers got no answer", of(none(flawed), CALLERS)),
        },
        fairpool: Finding {
            shows_the_flaw: none(fairpool) + late > 0 || !reported,
            because: match (none(fairpool) + late, reported) {
                (0, true) => format!("all get an answer in time, and the errors name {line}"),
                (0, false) => format!("nothing names the leak at {line}"),
                (some, _) => format!("{some} callers got their answer late or not at all"),
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
            title: "Callers that wait for a connection that is never returned".to_string(),
            x: "seconds".to_string(),
            y: "waiting".to_string(),
            lines: vec![line("flawed", flawed), line("fairpool", fairpool)],
            log_y: false,
        };
        Report { chart: Some(chart), ..self }
    }
}
