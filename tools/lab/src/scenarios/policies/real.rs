//! The policies on threads: one pool for each, all under the same load at the same time,
//! so that noise on the machine affects them alike.
//!
//! Callers arrive when they are due, even if those before them still wait, and their waits
//! count from when they were due. So a slow pool does not get less load.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, Fairness, Pool};

use super::load::{CONNECTIONS, Caller, Load, ageing};
use super::outcome::{Answered, End, Outcome, POLICIES};
use crate::flawed::endless::Endless;
use crate::scenario::{Problem, Run};
use crate::stub::Stub;

/// Small, because callers sleep most of the time.
const STACK: usize = 64 * 1024;

/// High enough that no caller of this load is refused.
pub const MOST_WAITERS: u32 = 1000;

/// Gets a connection for a caller and holds it.
type Use = Box<dyn Fn(Caller, Instant) -> Answered + Send + Sync>;

fn answered(caller: Caller, due: Instant, end: End) -> Answered {
    Answered { class: caller.class, waited: due.elapsed(), end }
}

fn fifo(cycle: Duration, has_timeout: bool) -> Use {
    let stub = Stub::new();
    let pool = Endless::new(CONNECTIONS, None, move || stub.open());
    Box::new(move |caller, due| {
        let timeout = has_timeout.then(|| caller.class.timeout(cycle));
        let conn = pool.get_within(timeout);
        let end = if conn.is_ok() { End::Served } else { End::TimedOut };
        let answer = answered(caller, due, end);
        if conn.is_ok() {
            thread::sleep(caller.hold);
        }
        answer
    })
}

pub fn builder(ageing: Duration) -> fairpool::Builder<Stub> {
    let builder = Pool::builder().name("lab").max_size(CONNECTIONS as u32);
    builder.max_waiters(Some(MOST_WAITERS)).fairness(Fairness::Strict).priority_ageing(ageing)
}

fn fairpool(cycle: Duration, ageing: Duration) -> (Use, Pool<Stub>) {
    let pool = builder(ageing).build(Stub::new()).expect("the stub always connects");
    let mine = pool.clone();
    let one = move |caller: Caller, due| {
        let request = pool.request().priority(caller.class.priority());
        let conn = request.timeout(caller.class.timeout(cycle)).get();
        let end = match &conn {
            Ok(_) => End::Served,
            Err(error) if error.kind() == ErrorKind::QueueFull => End::Refused,
            Err(_) => End::TimedOut,
        };
        let answer = answered(caller, due, end);
        if conn.is_ok() {
            thread::sleep(caller.hold);
        }
        answer
    };
    (Box::new(one), mine)
}

pub fn run(run: &Run<'_>, load: &Load) -> Result<(Vec<Outcome>, String), Problem> {
    let cycle = load.cycle;
    let (ours, pool) = fairpool(cycle, ageing(cycle));
    let (rigid, _) = fairpool(cycle, super::NO_AGEING);
    let uses = [fifo(cycle, false), fifo(cycle, true), ours, rigid];
    let (sender, results) = mpsc::channel();
    let begun = Instant::now() + Duration::from_millis(50);
    let diagnosis = thread::scope(|scope| {
        // Two snapshots within the first overload.
        let diagnosis = scope.spawn(|| {
            thread::sleep((begun + cycle.mul_f64(0.3)).saturating_duration_since(Instant::now()));
            let span = cycle.mul_f64(0.15).max(Duration::from_millis(50));
            pool.diagnose_over(span).expect("BUG: a cycle is short").to_string()
        });
        for (number, caller) in load.callers.iter().copied().enumerate() {
            let due = begun + caller.at;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            for (policy, one) in uses.iter().enumerate() {
                let sender = sender.clone();
                let body = move || {
                    // The receiver lives longer than the callers.
                    let _ = sender.send((policy, one(caller, due)));
                };
                let thread = thread::Builder::new().stack_size(STACK);
                let thread = thread.name(format!("{}-{number}", caller.class.name()));
                thread.spawn_scoped(scope, body).map_err(|error| {
                    Problem(format!("cannot start a thread for a caller: {error}"))
                })?;
            }
            run.console.state(|| {
                let stats = pool.stats();
                format!(
                    "{number} of {} callers; fairpool: {} wait, {} timed out",
                    load.callers.len(),
                    stats.waiting,
                    stats.timeouts
                )
            });
        }
        Ok(diagnosis.join().expect("a diagnosis panicked"))
    })?;
    drop(sender);
    let mut answers: [Vec<Answered>; 4] = Default::default();
    results.iter().for_each(|(policy, answer)| answers[policy].push(answer));
    let outcomes = POLICIES.iter().zip(&answers);
    let outcomes = outcomes.map(|(policy, answers)| Outcome::new(*policy, load, answers));
    Ok((outcomes.collect(), diagnosis))
}
