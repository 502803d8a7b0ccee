//! Waiting callers are cancelled at the instant at which connections are returned.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Fairness, Pool, PooledConnection};
use serde_json::{Value, json};

use crate::chart::{Chart, Line};
use crate::flawed::forgetful::{self, Cancel, Forgetful};
use crate::load::{diagnose, of};
use crate::report::{Finding, Report, figure};
use crate::scenario::{Problem, Run, Scenario};
use crate::stub::{Conn, Stub};
use stage::{CALLERS, CONNECTIONS, LEAVING, Raced, Script, WATCHDOG, race};

mod stage;

pub const SCENARIO: Scenario = Scenario {
    name: "cancel-race",
    about: "a million callers are cancelled in the queue as connections are returned",
    // Reached on slow machines only: it ends after the last cancel.
    seconds: Duration::from_secs(240),
    run,
};

const CANCELS: u64 = 1_000_000;

/// The results of the callers, and the pool at the end.
#[derive(Default)]
struct Outcome {
    /// Cancelled while they waited; they got no connection.
    left: u64,
    /// Cancelled before their get returned, but after a connection was granted to them.
    met_a_grant: u64,
    /// Served before the cancel.
    too_early: u64,
    /// Not cancelled, and served.
    served: u64,
    /// Not cancelled, and never served.
    stranded: u64,
    /// Connections that the main thread got.
    taken: u64,
    /// Rounds that began with a connection missing or with a caller in the queue.
    bad_rounds: u64,
    rounds: u64,
    /// At the end.
    waiting: usize,
    missing: usize,
    seconds: f64,
    /// The number of cancels, and the waiters in the queue after them.
    queue: Vec<(f64, f64)>,
}

impl Outcome {
    fn cancels(&self) -> u64 {
        self.left + self.met_a_grant
    }

    fn shows_the_flaw(&self) -> bool {
        self.stranded + self.bad_rounds > 0 || self.waiting + self.missing > 0
    }

    fn add(&mut self, other: Outcome) {
        self.left += other.left;
        self.met_a_grant += other.met_a_grant;
        self.too_early += other.too_early;
        self.served += other.served;
        self.stranded += other.stranded;
        self.taken += other.taken;
        self.bad_rounds += other.bad_rounds;
        self.rounds += other.rounds;
        self.waiting += other.waiting;
        self.missing += other.missing;
        self.seconds += other.seconds;
        let done = self.queue.last().map_or(0.0, |last| last.0);
        self.queue.extend(other.queue.into_iter().map(|(x, y)| (done + x, y)));
    }
}

fn run(run: &Run<'_>) -> Result<Report, Problem> {
    run.console.say("flawed: a cancelled caller stays in the queue");
    let stub = Stub::new();
    let pool = Forgetful::new(run.fixed, (0..CONNECTIONS).map(|_| stub.open()));
    let flawed = race(
        &pool,
        run,
        &Script {
            cancels: CANCELS,
            time: run.seconds,
            // A lost connection is dropped, and so closed.
            all_lost: &|| stub.closed() == CONNECTIONS as u64,
        },
    );
    drop(pool);

    let mut fairpool = Outcome::default();
    let mut wrong_counts = Vec::new();
    let mut diagnosis = String::new();
    for (name, fairness) in [
        ("a returned connection goes to the first waiter", Fairness::Strict),
        ("newcomers may be quicker (the default)", Fairness::default()),
    ] {
        run.console.say(&format!("fairpool: {name}"));
        let (outcome, text, wrong) = real(run, fairness);
        fairpool.add(outcome);
        wrong_counts.extend(wrong);
        diagnosis = text;
    }
    run.console.clear();
    Ok(report(flawed, fairpool, &wrong_counts, diagnosis))
}

/// Half of the cancels, with this fairness. The pool's counts must agree with its callers';
/// returns the differences with the outcome and the diagnosis.
fn real(run: &Run<'_>, fairness: Fairness) -> (Outcome, String, Vec<String>) {
    let stub = Stub::new();
    let builder = Pool::builder().name("lab").max_size(CONNECTIONS as u32).fairness(fairness);
    let pool = builder
        .test_on_check_out(false)
        .slow_get_threshold(None)
        .build(stub.clone())
        .expect("the stub always connects");
    let script = Script { cancels: CANCELS / 2, time: run.seconds / 2, all_lost: &|| false };
    let (outcome, diagnosis) = thread::scope(|scope| {
        let diagnosing = scope.spawn(|| {
            let begun = Instant::now();
            let early = || pool.stats().cancelled < script.cancels / 4;
            while early() && begun.elapsed() < script.time / 4 {
                thread::sleep(Duration::from_millis(1));
            }
            diagnose(&pool, script.time / 4)
        });
        let outcome = race(&pool, run, &script);
        (outcome, diagnosing.join().expect("the diagnosis panicked"))
    });
    let stats = pool.stats();
    let seen = outcome.taken + outcome.served + outcome.met_a_grant + outcome.too_early;
    let counts = [
        ("connections handed out", stats.gets, seen),
        ("callers cancelled", stats.cancelled, outcome.left + outcome.stranded),
        ("connections closed", stub.closed(), 0),
        ("connections opened", stub.opened(), CONNECTIONS as u64),
    ];
    let wrong = counts.into_iter().filter(|(_, pool, callers)| pool != callers);
    let wrong =
        wrong.map(|(what, pool, callers)| format!("{what}: {pool}, but should be {callers}"));
    let wrong = wrong.collect();
    (outcome, diagnosis, wrong)
}

fn report(
    flawed: Outcome,
    fairpool: Outcome,
    wrong_counts: &[String],
    diagnosis: String,
) -> Report {
    let row = |name: &str, figure_of: fn(&Outcome) -> String| {
        figure(name, figure_of(&flawed), figure_of(&fairpool))
    };
    let figures = vec![
        row("callers cancelled", |outcome| outcome.cancels().to_string()),
        row("cancelled while they waited", |outcome| outcome.left.to_string()),
        row("cancelled after a grant: served", |outcome| outcome.met_a_grant.to_string()),
        row("not cancelled: served", |outcome| outcome.served.to_string()),
        row("not cancelled: never served", |outcome| outcome.stranded.to_string()),
        row("in the queue at the end", |outcome| outcome.waiting.to_string()),
        row("connections missing at the end", |outcome| {
            of(outcome.missing, CONNECTIONS).to_string()
        }),
        row("duration", |outcome| format!("{:.1} s", outcome.seconds)),
    ];
    let because = |outcome: &Outcome| {
        format!(
            "after {} cancels, {} waiters are in the queue, {} connections are missing, and {} callers were never served",
            outcome.cancels(),
            outcome.waiting,
            of(outcome.missing, CONNECTIONS),
            outcome.stranded
        )
    };
    let fine = |outcome: &Outcome| {
        format!(
            "after {} cancels the queue is empty, no connection is missing, and all other callers were served",
            outcome.cancels()
        )
    };
    let finding = |outcome: &Outcome| match outcome.shows_the_flaw() {
        true => because(outcome),
        false => fine(outcome),
    };
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "a cancelled caller stays in the queue".to_string(),
        load: format!(
            "{CONNECTIONS} connections; in each round {CALLERS} callers wait, and {LEAVING} of them are cancelled as the connections are returned"
        ),
        figures,
        flawed: Finding { shows_the_flaw: flawed.shows_the_flaw(), because: finding(&flawed) },
        fairpool: Finding {
            shows_the_flaw: fairpool.shows_the_flaw() || !wrong_counts.is_empty(),
            because: match wrong_counts {
                [] => finding(&fairpool),
                wrong => format!("the pool's counts are wrong: {}", wrong.join(", ")),
            },
        },
        diagnosis,
        data: json!({ "flawed": data(&flawed), "fairpool": data(&fairpool) }),
        chart: Some(Chart {
            title: format!("Waiters in the queue; {LEAVING} of {CALLERS} callers are cancelled"),
            x: "cancels".to_string(),
            y: "in the queue".to_string(),
            lines: vec![
                Line { name: "flawed".to_string(), points: flawed.queue },
                Line { name: "fairpool".to_string(), points: fairpool.queue },
            ],
            log_y: false,
        }),
    }
}

fn data(outcome: &Outcome) -> Value {
    json!({
        "cancelled": outcome.cancels(),
        "left": outcome.left,
        "met_a_grant": outcome.met_a_grant,
        "too_early": outcome.too_early,
        "served": outcome.served,
        "stranded": outcome.stranded,
        "rounds": outcome.rounds,
        "bad_rounds": outcome.bad_rounds,
        "waiting": outcome.waiting,
        "missing": outcome.missing,
        "seconds": outcome.seconds,
    })
}

impl Raced for Forgetful<Conn> {
    type Guard<'a> = forgetful::Guard<'a, Conn>;
    type Token = Cancel<Conn>;

    fn get(&self, token: &Cancel<Conn>) -> Option<forgetful::Guard<'_, Conn>> {
        self.get(token)
    }

    fn try_get(&self) -> Option<forgetful::Guard<'_, Conn>> {
        self.try_get()
    }

    fn cancel(token: &Cancel<Conn>) {
        token.cancel();
    }

    fn waiting(&self) -> usize {
        self.waiting()
    }
}

impl Raced for Pool<Stub> {
    type Guard<'a> = PooledConnection<Stub>;
    type Token = CancelToken;

    fn get(&self, token: &CancelToken) -> Option<PooledConnection<Stub>> {
        self.request().timeout(WATCHDOG).cancel(token).get().ok()
    }

    fn try_get(&self) -> Option<PooledConnection<Stub>> {
        self.try_get()
    }

    fn cancel(token: &CancelToken) {
        token.cancel();
    }

    fn waiting(&self) -> usize {
        self.stats().waiting as usize
    }
}
