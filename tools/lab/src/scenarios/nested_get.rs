//! Each thread holds a connection and asks for a second one; together they hold all.

use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::SelfDeadlockEvent;
use fairpool::{Error, HandleEvent, Pool, PooledConnection, SelfDeadlock};
use fairpool::snapshot::NestedGet;
use serde_json::{Value, json};

use super::{Problem, Run, Scenario};
use crate::chart::{Chart, Line};
use crate::flawed::endless::{Endless, Limits};
use crate::load::{Samples, diagnose, of, span};
use crate::report::{Finding, Report, figure};
use crate::stub::Stub;

pub const SCENARIO: Scenario = Scenario {
    name: "nested-get",
    about: "8 threads hold a connection each, which is all there are, and ask for a second",
    seconds: Duration::from_secs(2),
    run,
};

const THREADS: usize = 8;

/// Nobody waits for that long where the pool lets one of them fail, nor past a deadline.
const WATCHDOG: Duration = Duration::from_secs(30);

/// The answer to the second get of one thread.
struct Answer<E> {
    thread: usize,
    at: Instant,
    error: Option<E>,
}

struct Outcome<E> {
    /// When the last thread asked for a second connection: from then on all wait.
    stuck: Instant,
    /// In the order in which they came.
    answers: Vec<Answer<E>>,
    unanswered: Samples,
}

impl<E> Outcome<E> {
    fn count(&self, of: impl Fn(&Option<E>) -> bool) -> usize {
        self.answers.iter().filter(|answer| of(&answer.error)).count()
    }

    fn served(&self) -> usize {
        self.count(Option::is_none)
    }

    fn without_answer(&self) -> usize {
        THREADS - self.answers.len()
    }

    fn after(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.stuck)
    }

    fn line(self, name: &str) -> Line {
        Line { name: name.to_string(), points: self.unanswered.into_points() }
    }
}

/// All threads get a connection, and when all have one, another. Whoever has an answer
/// gives back what it has. Where `all_answer` says that nobody waits for ever, the time
/// is long.
fn nest<G: Send + 'static, E: Send + 'static>(
    run: &Run<'_>,
    all_answer: bool,
    first: impl Fn() -> Result<G, E> + Clone + Send + 'static,
    second: impl Fn() -> Result<G, E> + Clone + Send + 'static,
) -> Outcome<E> {
    let all_hold = Arc::new(Barrier::new(THREADS + 1));
    let (tell, told) = mpsc::channel();
    let (say, said) = mpsc::channel();
    for number in 0..THREADS {
        let (first, second) = (first.clone(), second.clone());
        let (all_hold, tell, say) = (Arc::clone(&all_hold), tell.clone(), say.clone());
        let work = move || {
            let Ok(_held) = first() else { unreachable!("BUG: there is one for each") };
            all_hold.wait();
            // Nobody listens any more when the time is over.
            let _ = say.send(Instant::now());
            let error = second().err();
            let _ = tell.send(Answer { thread: number, at: Instant::now(), error });
        };
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        // Where they wait for ever, the threads end with the process.
        thread.spawn(work).expect("a thread");
    }
    all_hold.wait();
    let begun = Instant::now();
    let stuck = said.iter().take(THREADS).max().unwrap_or(begun);
    let mut answers = Vec::new();
    let mut unanswered = Samples::new();
    let longest = run.seconds + if all_answer { WATCHDOG } else { Duration::ZERO };
    while begun.elapsed() < run.seconds || (answers.len() < THREADS && begun.elapsed() < longest) {
        answers.extend(told.try_iter());
        unanswered.add((THREADS - answers.len()) as f64);
        run.console.state(|| format!("{} of {THREADS} have an answer", answers.len()));
        thread::sleep(Duration::from_millis(2));
    }
    answers.extend(told.try_iter());
    answers.sort_by_key(|answer| answer.at);
    Outcome { stuck, answers, unanswered }
}

/// Notes when the pool said it, and what.
#[derive(Clone, Debug, Default)]
struct Ear(Arc<Mutex<Option<Warning>>>);

type Warning = (Instant, Vec<NestedGet>);

impl Ear {
    fn heard(&self) -> Option<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl HandleEvent for Ear {
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get_or_insert_with(|| (Instant::now(), event.nested_gets().to_vec()));
    }
}

/// fairpool, and whether it says what it should.
struct Real {
    outcome: Outcome<Error>,
    warning: Option<Warning>,
    lines: (u32, u32),
    diagnosis: String,
}

impl Real {
    /// Whether both gets of each thread are named.
    fn names_all(&self, nested: &[NestedGet]) -> bool {
        let names = |nested: &NestedGet| {
            let (first, second) = (nested.holder().location(), nested.waits_at());
            (first.line(), second.line()) == self.lines
                && (first.file(), second.file()) == (file!(), file!())
        };
        nested.len() == THREADS && nested.iter().all(names)
    }

    /// How soon the warning came; `None` if it came after the first answer, or did not
    /// name all.
    fn warned(&self) -> Option<Duration> {
        let (at, nested) = self.warning.as_ref()?;
        let first = self.outcome.answers.first().map(|answer| answer.at);
        let in_time = first.is_none_or(|first| *at <= first);
        (in_time && self.names_all(nested)).then(|| self.outcome.after(*at))
    }

    /// The first error that names all, which is to be of this kind.
    fn told(&self, kind: fn(&Error) -> bool) -> Option<(usize, Duration)> {
        let names = |error: &Error| kind(error) && self.names_all(error.nested_gets());
        let told = |answer: &&Answer<Error>| answer.error.as_ref().is_some_and(names);
        let answer = self.outcome.answers.iter().find(told)?;
        Some((answer.thread, self.outcome.after(answer.at)))
    }
}

fn real(run: &Run<'_>, how: SelfDeadlock, timeout: Duration) -> Real {
    let ear = Ear::default();
    let builder = Pool::builder().name("lab").max_size(THREADS as u32).on_self_deadlock(how);
    let pool = builder
        .connection_timeout(timeout)
        .slow_get_threshold(None)
        .event_handler(Box::new(ear.clone()))
        .build(Stub::new())
        .expect("the stub always connects");
    let (pool_1, pool_2) = (pool.clone(), pool.clone());
    type Got = Result<PooledConnection<Stub>, Error>;
    let (first, first_line) = (move || -> Got { pool_1.get() }, line!());
    let (second, second_line) = (move || -> Got { pool_2.get() }, line!());
    let beside = {
        let (pool, ear, apart) = (pool.clone(), ear.clone(), timeout / 2);
        thread::spawn(move || {
            let begun = Instant::now();
            while ear.heard().is_none() && begun.elapsed() < WATCHDOG {
                thread::sleep(Duration::from_millis(1));
            }
            diagnose(&pool, apart)
        })
    };
    let outcome = nest(run, true, first, second);
    let diagnosis = beside.join().expect("the diagnosis panicked");
    Real { outcome, warning: ear.heard(), lines: (first_line, second_line), diagnosis }
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let timeout = run.seconds / 2;

    run.console.say("flawed: nobody is told, and there is no deadline");
    let limits = run.fixed.then_some(Limits { waiters: THREADS, timeout });
    let stub = Stub::new();
    let pool = Endless::new(THREADS, limits, move || stub.open());
    let get = move || pool.get();
    let flawed = nest(run, run.fixed, get.clone(), get);

    run.console.say(&format!("fairpool that warns; a get waits for {timeout:.1?}"));
    let warns = real(run, SelfDeadlock::Warn, timeout);
    run.console.say("fairpool that lets the last of them fail");
    let fails = real(run, SelfDeadlock::Fail(Duration::ZERO), WATCHDOG);
    run.console.quiet();
    Ok(report(flawed, warns, fails))
}

fn report(flawed: Outcome<&'static str>, warns: Real, fails: Real) -> Report {
    let unanswered = flawed.without_answer();
    let real_unanswered = warns.outcome.without_answer() + fails.outcome.without_answer();
    let warning = warns.warned();
    let (told, failed) = (warns.told(Error::is_timeout), fails.told(Error::is_self_deadlock));
    let others_go_on = fails.outcome.served() == THREADS - 1;
    let within = |after: Option<Duration>| match after {
        Some(after) => format!("after {}", span(after)),
        None => "never".to_string(),
    };
    let timed_out = |count: usize| of(count, THREADS).to_string();
    let figures = vec![
        figure(
            "threads whose second get has no answer",
            of(unanswered, THREADS),
            of(real_unanswered, THREADS),
        ),
        figure("it warns: the owner is told of all", "never", within(warning)),
        figure(
            "it warns: a caller is told of all, at its deadline",
            "never",
            within(told.map(|told| told.1)),
        ),
        figure(
            "it warns: timed out, the others served",
            timed_out(flawed.count(|error| *error == Some("timed out"))),
            timed_out(warns.outcome.count(|error| error.as_ref().is_some_and(Error::is_timeout))),
        ),
        figure(
            "it lets one fail: that one is told of all",
            "never",
            within(failed.map(|failed| failed.1)),
        ),
        figure("it lets one fail: served", "", of(fails.outcome.served(), THREADS)),
    ];
    let (first, second) = fails.lines;
    let problem = if real_unanswered > 0 {
        Some(format!("{real_unanswered} threads have no answer"))
    } else if warning.is_none() {
        Some("it did not warn before somebody timed out".to_string())
    } else if told.is_none() {
        Some("no timeout said that all wait for themselves".to_string())
    } else if failed.is_none() {
        Some("nobody was told that all wait for themselves".to_string())
    } else if !others_go_on {
        Some(format!("only {} were served after one failed", fails.outcome.served()))
    } else {
        None
    };
    let fine = format!(
        "the owner is warned {}, or worker-{} gets an error {} and the {} others go on; each names all \
         {THREADS} threads and both lines ({}:{first} and {second})",
        within(warning),
        failed.map_or(0, |failed| failed.0),
        within(failed.map(|failed| failed.1)),
        THREADS - 1,
        file!(),
    );
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "nobody is told that all wait for themselves, and there is no deadline"
            .to_string(),
        load: format!(
            "{THREADS} threads, {THREADS} connections; each thread holds one and asks for another"
        ),
        figures,
        flawed: Finding {
            shows_the_flaw: unanswered > 0,
            because: match unanswered {
                0 => "all are answered by the deadline, but none is told why".to_string(),
                some => format!("{some} threads wait for themselves for ever, and nobody is told"),
            },
        },
        fairpool: Finding { shows_the_flaw: problem.is_some(), because: problem.unwrap_or(fine) },
        diagnosis: warns.diagnosis.clone(),
        data: data(&warns, &fails),
        chart: Some(Chart {
            title: "Threads that hold a connection and wait for another".to_string(),
            x: "seconds".to_string(),
            y: "waiting".to_string(),
            lines: vec![
                flawed.line("flawed"),
                warns.outcome.line("fairpool, warns"),
                fails.outcome.line("fairpool, lets one fail"),
            ],
            log_y: false,
        }),
    }
}

fn data(warns: &Real, fails: &Real) -> Value {
    let seconds = |after: Option<Duration>| after.map(|after| after.as_secs_f64());
    let texts = |real: &Real| -> Vec<String> {
        real.outcome
            .answers
            .iter()
            .filter_map(|answer| Some(answer.error.as_ref()?.to_string()))
            .collect()
    };
    json!({
        "warned_after_seconds": seconds(warns.warned()),
        "told_after_seconds": seconds(warns.told(Error::is_timeout).map(|told| told.1)),
        "failed_after_seconds": seconds(fails.told(Error::is_self_deadlock).map(|told| told.1)),
        "served_after_one_failed": fails.outcome.served(),
        "lines": [fails.lines.0, fails.lines.1],
        "errors_when_it_warns": texts(warns),
        "errors_when_it_lets_one_fail": texts(fails),
    })
}
