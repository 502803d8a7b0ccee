//! Each thread holds a connection and gets a second one; together they hold all.

use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::SelfDeadlockEvent;
use fairpool::snapshot::NestedGet;
use fairpool::{Error, HandleEvent, Pool, PooledConnection, SelfDeadlock};
use serde_json::{Value, json};

use crate::chart::{Chart, Line};
use crate::flawed::endless::{Endless, Limits};
use crate::load::{Samples, diagnose, of, span};
use crate::report::{Finding, Report, figure};
use crate::scenario::{Problem, Run, Scenario};
use crate::stub::Stub;

pub const SCENARIO: Scenario = Scenario {
    name: "nested-get",
    about: "8 threads hold all 8 connections, and each gets a second one",
    seconds: Duration::from_secs(2),
    run,
};

const THREADS: usize = 8;

/// The limit for what a busy machine delays.
const WATCHDOG: Duration = Duration::from_secs(30);

/// The result of a thread's second get.
struct Answer<E> {
    thread: usize,
    at: Instant,
    error: Option<E>,
}

struct Outcome<E> {
    /// When the last thread began its second get. From then on all wait.
    stuck: Instant,
    /// In the order of time.
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

/// All threads get a connection, and then another. A thread with an answer returns its
/// connections. `all_answer` says that each thread gets an answer; then the time limit is
/// long.
fn nest<G: Send + 'static, E: Send + 'static>(
    run: &Run<'_>,
    all_answer: bool,
    first: impl Fn() -> Result<G, E> + Clone + Send + 'static,
    second: impl Fn() -> Result<G, E> + Clone + Send + 'static,
) -> Outcome<E> {
    let all_hold = Arc::new(Barrier::new(THREADS + 1));
    let (sender, received) = mpsc::channel();
    let (begin, begins) = mpsc::channel();
    for number in 0..THREADS {
        let (first, second) = (first.clone(), second.clone());
        let (all_hold, sender, begin) = (Arc::clone(&all_hold), sender.clone(), begin.clone());
        let work = move || {
            let Ok(_held) = first() else { unreachable!("BUG: too few connections") };
            all_hold.wait();
            // The receiver is gone when the time is over.
            let _ = begin.send(Instant::now());
            let error = second().err();
            let _ = sender.send(Answer { thread: number, at: Instant::now(), error });
        };
        let thread = thread::Builder::new().name(format!("worker-{number}"));
        // Threads that wait forever end with the process.
        thread.spawn(work).expect("a thread");
    }
    all_hold.wait();
    let begun = Instant::now();
    let stuck = begins.iter().take(THREADS).max().unwrap_or(begun);
    let mut answers = Vec::new();
    let mut unanswered = Samples::new();
    let longest = run.seconds + if all_answer { WATCHDOG } else { Duration::ZERO };
    while begun.elapsed() < run.seconds || (answers.len() < THREADS && begun.elapsed() < longest) {
        answers.extend(received.try_iter());
        unanswered.add((THREADS - answers.len()) as f64);
        run.console.state(|| format!("{} of {THREADS} have an answer", answers.len()));
        thread::sleep(Duration::from_millis(2));
    }
    answers.extend(received.try_iter());
    answers.sort_by_key(|answer| answer.at);
    Outcome { stuck, answers, unanswered }
}

/// Records the pool's warning and its time.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Option<Warning>>>);

type Warning = (Instant, Vec<NestedGet>);

impl Recorder {
    fn warning(&self) -> Option<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl HandleEvent for Recorder {
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        let mut warning = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warning.get_or_insert_with(|| (Instant::now(), event.nested_gets().to_vec()));
    }
}

/// fairpool's run: its warning, its errors and its diagnosis.
struct Real {
    outcome: Outcome<Error>,
    warning: Option<Warning>,
    lines: (u32, u32),
    diagnosis: String,
}

impl Real {
    /// Whether the lines of both gets of each thread are named.
    fn names_all(&self, nested: &[NestedGet]) -> bool {
        let names = |nested: &NestedGet| {
            let (first, second) = (nested.holder().location(), nested.waits_at());
            (first.line(), second.line()) == self.lines
                && (first.file(), second.file()) == (file!(), file!())
        };
        nested.len() == THREADS && nested.iter().all(names)
    }

    /// The time until the warning; `None` if it came after the first answer, or did not
    /// name all.
    fn warned(&self) -> Option<Duration> {
        let (at, nested) = self.warning.as_ref()?;
        let first = self.outcome.answers.first().map(|answer| answer.at);
        let in_time = first.is_none_or(|first| *at <= first);
        (in_time && self.names_all(nested)).then(|| self.outcome.after(*at))
    }

    /// The first error of this kind that names all.
    fn first_error(&self, kind: fn(&Error) -> bool) -> Option<(usize, Duration)> {
        let names = |error: &Error| kind(error) && self.names_all(error.nested_gets());
        let answer =
            self.outcome.answers.iter().find(|answer| answer.error.as_ref().is_some_and(names))?;
        Some((answer.thread, self.outcome.after(answer.at)))
    }
}

fn real(run: &Run<'_>, how: SelfDeadlock, timeout: Duration) -> Real {
    let recorder = Recorder::default();
    let builder = Pool::builder().name("lab").max_size(THREADS as u32).on_self_deadlock(how);
    let pool = builder
        .connection_timeout(timeout)
        .slow_get_threshold(None)
        .event_handler(Box::new(recorder.clone()))
        .build(Stub::new())
        .expect("the stub always connects");
    let (pool_1, pool_2) = (pool.clone(), pool.clone());
    type Got = Result<PooledConnection<Stub>, Error>;
    let query = |conn: &PooledConnection<Stub>| _ = &**conn;
    let (first, first_line) = (move || -> Got { pool_1.get().inspect(query) }, line!());
    let (second, second_line) = (move || -> Got { pool_2.get() }, line!());
    let beside = {
        let (pool, recorder, apart) = (pool.clone(), recorder.clone(), timeout / 2);
        thread::spawn(move || {
            let begun = Instant::now();
            while recorder.warning().is_none() && begun.elapsed() < WATCHDOG {
                thread::sleep(Duration::from_millis(1));
            }
            diagnose(&pool, apart)
        })
    };
    let outcome = nest(run, true, first, second);
    let diagnosis = beside.join().expect("the diagnosis panicked");
    Real { outcome, warning: recorder.warning(), lines: (first_line, second_line), diagnosis }
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    let timeout = run.seconds / 2;

    run.console.say("flawed: no warning and no deadline");
    let limits = run.fixed.then_some(Limits { waiters: THREADS, timeout });
    let stub = Stub::new();
    let pool = Endless::new(THREADS, limits, move || stub.open());
    let get = move || pool.get();
    let flawed = nest(run, run.fixed, get.clone(), get);

    run.console.say(&format!("fairpool with a warning; timeout of a get: {timeout:.1?}"));
    let warns = real(run, SelfDeadlock::Warn, timeout);
    run.console.say("fairpool that fails the last get");
    let fails = real(run, SelfDeadlock::Fail(Duration::ZERO), WATCHDOG);
    run.console.clear();
    Ok(report(flawed, warns, fails))
}

fn report(flawed: Outcome<&'static str>, warns: Real, fails: Real) -> Report {
    let unanswered = flawed.without_answer();
    let real_unanswered = warns.outcome.without_answer() + fails.outcome.without_answer();
    let warning = warns.warned();
    let timed_out = warns.first_error(Error::is_timeout);
    let failed = fails.first_error(Error::is_self_deadlock);
    let others_continue = fails.outcome.served() == THREADS - 1;
    let within = |after: Option<Duration>| match after {
        Some(after) => format!("after {}", span(after)),
        None => "never".to_string(),
    };
    let number = |count: usize| of(count, THREADS).to_string();
    let figures = vec![
        figure(
            "threads without an answer to the second get",
            of(unanswered, THREADS),
            of(real_unanswered, THREADS),
        ),
        figure("warning: the event handler gets all threads", "never", within(warning)),
        figure(
            "warning: a timeout error names all threads",
            "never",
            within(timed_out.map(|error| error.1)),
        ),
        figure(
            "warning: timed out, the others served",
            number(flawed.count(|error| *error == Some("timed out"))),
            number(warns.outcome.count(|error| error.as_ref().is_some_and(Error::is_timeout))),
        ),
        figure(
            "failing: the error names all threads",
            "never",
            within(failed.map(|failed| failed.1)),
        ),
        figure("failing: served", "", of(fails.outcome.served(), THREADS)),
    ];
    let (first, second) = fails.lines;
    let problem = if real_unanswered > 0 {
        Some(format!("{real_unanswered} threads have no answer"))
    } else if warning.is_none() {
        Some("there was no warning before the first timeout".to_string())
    } else if timed_out.is_none() {
        Some("no timeout error names the deadlock".to_string())
    } else if failed.is_none() {
        Some("no get failed with the deadlock".to_string())
    } else if !others_continue {
        Some(format!("only {} were served after one failed", fails.outcome.served()))
    } else {
        None
    };
    let fine = format!(
        "the event handler is called {}, or worker-{} gets an error {} and the {} others continue; \
         each names all {THREADS} threads and both lines ({}:{first} and {second})",
        within(warning),
        failed.map_or(0, |failed| failed.0),
        within(failed.map(|failed| failed.1)),
        THREADS - 1,
        file!(),
    );
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "no detection of a self-deadlock, and no deadline".to_string(),
        load: format!(
            "{THREADS} threads, {THREADS} connections; each thread holds one and gets another"
        ),
        figures,
        flawed: Finding {
            shows_the_flaw: unanswered > 0,
            because: match unanswered {
                0 => "all get an answer at the deadline, but no error names the reason".to_string(),
                some => format!("{some} threads wait forever, and nothing reports it"),
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
                warns.outcome.line("fairpool, warning"),
                fails.outcome.line("fairpool, failing"),
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
        "timed_out_after_seconds": seconds(warns.first_error(Error::is_timeout).map(|error| error.1)),
        "failed_after_seconds": seconds(fails.first_error(Error::is_self_deadlock).map(|error| error.1)),
        "served_after_one_failed": fails.outcome.served(),
        "lines": [fails.lines.0, fails.lines.1],
        "errors_with_warning": texts(warns),
        "errors_with_failing": texts(fails),
    })
}
