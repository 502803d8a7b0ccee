//! Callers are cancelled while they wait, in the instant in which connections come back.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Fairness, Pool, PooledConnection};
use serde_json::{Value, json};

use super::{Problem, Run, Scenario};
use crate::chart::{Chart, Line};
use crate::flawed::forgetful::{self, Cancel, Forgetful};
use crate::load::{diagnose, of};
use crate::report::{Finding, Report, figure};
use crate::stub::{Conn, Stub};
use stage::{CALLERS, CONNECTIONS, LEAVING, Raced, Script, WATCHDOG, race};

mod stage;

pub const SCENARIO: Scenario = Scenario {
    name: "cancel-race",
    about: "callers are cancelled in the queue, a million times, as connections come back",
    // It ends with the last of the cancels, before that on all but slow machines.
    seconds: Duration::from_secs(240),
    run,
};

const CANCELS: u64 = 1_000_000;

/// What became of the callers, and of the pool.
#[derive(Default)]
struct Outcome {
    /// Cancelled while they waited: they left with nothing.
    left: u64,
    /// Cancelled before their get had returned, but granted a connection: they used it.
    met_a_grant: u64,
    /// Were to be cancelled, but had their connection already.
    too_early: u64,
    /// Stayed, and were served.
    served: u64,
    /// Stayed, and would have stayed for ever.
    stranded: u64,
    /// Connections that the main thread got, one after the other.
    taken: u64,
    /// Rounds at whose beginning a connection was missing, or somebody in the queue.
    bad_rounds: u64,
    rounds: u64,
    /// At the end.
    waiting: usize,
    missing: usize,
    seconds: f64,
    /// How many are in the queue after how many cancels.
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
            // The driver sees those closed that nobody has any more.
            all_lost: &|| stub.closed() == CONNECTIONS as u64,
        },
    );
    drop(pool);

    let mut fairpool = Outcome::default();
    let mut books = Vec::new();
    let mut diagnosis = String::new();
    for (name, fairness) in [
        ("a returned connection is handed to the first waiter", Fairness::Strict),
        ("newcomers may be quicker, the default", Fairness::default()),
    ] {
        run.console.say(&format!("fairpool: {name}"));
        let (outcome, said, wrong) = real(run, fairness);
        fairpool.add(outcome);
        books.extend(wrong);
        diagnosis = said;
    }
    run.console.quiet();
    Ok(report(flawed, fairpool, &books, diagnosis))
}

/// Half of it, with this fairness. What the pool has counted must be what its callers
/// have seen; in what they differ, if they do, is the last of the results.
fn real(run: &Run<'_>, fairness: Fairness) -> (Outcome, String, Vec<String>) {
    let stub = Stub::new();
    let builder = Pool::builder().name("lab").max_size(CONNECTIONS as u32).fairness(fairness);
    let pool = builder
        .test_on_check_out(false)
        .slow_get_threshold(None)
        .build(stub.clone())
        .expect("the stub always connects");
    let script = Script { cancels: CANCELS / 2, time: run.seconds / 2, all_lost: &|| false };
    let (outcome, said) = thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let begun = Instant::now();
            let early = || pool.stats().cancelled < script.cancels / 4;
            while early() && begun.elapsed() < script.time / 4 {
                thread::sleep(Duration::from_millis(1));
            }
            diagnose(&pool, script.time / 4)
        });
        let outcome = race(&pool, run, &script);
        (outcome, beside.join().expect("the diagnosis panicked"))
    });
    let stats = pool.stats();
    let seen = outcome.taken + outcome.served + outcome.met_a_grant + outcome.too_early;
    let books = [
        ("connections handed out", stats.gets, seen),
        ("callers cancelled", stats.cancelled, outcome.left + outcome.stranded),
        ("connections closed", stub.closed(), 0),
        ("connections opened", stub.opened(), CONNECTIONS as u64),
    ];
    let wrong = books.into_iter().filter(|(_, pool, callers)| pool != callers);
    let wrong =
        wrong.map(|(what, pool, callers)| format!("{what}: {pool}, but should be {callers}"));
    let wrong = wrong.collect();
    (outcome, said, wrong)
}

fn report(flawed: Outcome, fairpool: Outcome, books: &[String], diagnosis: String) -> Report {
    let row = |name: &str, figure_of: fn(&Outcome) -> String| {
        figure(name, figure_of(&flawed), figure_of(&fairpool))
    };
    let figures = vec![
        row("callers cancelled", |outcome| outcome.cancels().to_string()),
        row("of them while they waited: left at once", |outcome| outcome.left.to_string()),
        row("of them as they were granted one: used it", |outcome| outcome.met_a_grant.to_string()),
        row("callers that stayed and were served", |outcome| outcome.served.to_string()),
        row("callers that stayed, whose wake-up was lost", |outcome| outcome.stranded.to_string()),
        row("left in the queue at the end", |outcome| outcome.waiting.to_string()),
        row("connections missing at the end", |outcome| {
            of(outcome.missing, CONNECTIONS).to_string()
        }),
        row("took", |outcome| format!("{:.1} s", outcome.seconds)),
    ];
    let because = |outcome: &Outcome| {
        format!(
            "after {} cancels, {} waiters are left in the queue, {} connections are missing, {} callers were never served",
            outcome.cancels(),
            outcome.waiting,
            of(outcome.missing, CONNECTIONS),
            outcome.stranded
        )
    };
    let fine = |outcome: &Outcome| {
        format!(
            "after {} cancels the queue is empty, all connections are there, and whoever stayed was served",
            outcome.cancels()
        )
    };
    let said = |outcome: &Outcome| match outcome.shows_the_flaw() {
        true => because(outcome),
        false => fine(outcome),
    };
    Report {
        scenario: SCENARIO.name,
        flawed_pool: "a cancelled caller stays in the queue".to_string(),
        load: format!(
            "{CONNECTIONS} connections; in each round {CALLERS} callers wait, {LEAVING} of them are cancelled as the connections come back"
        ),
        figures,
        flawed: Finding { shows_the_flaw: flawed.shows_the_flaw(), because: said(&flawed) },
        fairpool: Finding {
            shows_the_flaw: fairpool.shows_the_flaw() || !books.is_empty(),
            because: match books {
                [] => said(&fairpool),
                wrong => format!("the books are wrong: {}", wrong.join(", ")),
            },
        },
        diagnosis,
        data: json!({ "flawed": data(&flawed), "fairpool": data(&fairpool) }),
        chart: Some(Chart {
            title: format!("Waiters in the queue, of which {LEAVING} of {CALLERS} are cancelled"),
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
