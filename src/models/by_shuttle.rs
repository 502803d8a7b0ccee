//! How models run under `shuttle`. In one half of the executions any thread that can run
//! takes the next step. In the other half threads have priorities, which change at a few
//! points (PCT: Burckhardt et al., ASPLOS 2010); that finds defects that need one thread
//! to be very late.
//!
//! The draws are the same in every run. `SHUTTLE_RANDOM_SEED=n` makes others, and
//! `FAIRPOOL_ITERATIONS=n` sets how many each half has.
//!
//! To replay an execution that failed: put the schedule that was printed, the text
//! between the quotes, into a file and run that model alone,
//! `FAIRPOOL_SCHEDULE=/path/of/the/file scripts/models NAME`.

use std::collections::BTreeMap;
use std::env;
use std::sync::Mutex as Plain;

use super::grouped;
use crate::sync::Arc;
use crate::sync::checker::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use crate::sync::checker::{Config, MaxSteps, Runner};

/// How many executions of each half, for models as small as `loom`'s.
const SMALL: usize = 1_000;

/// PCT finds defects that need fewer changes of priority than this.
const DEPTH: usize = 3;

const SEED: u64 = 1;

/// Here every order is worth a draw.
pub(super) fn stop_exploring() {}

pub(super) fn resume_exploring() {}

/// Runs a model in random orders of its threads. It may meet no other outcomes than
/// these, and need not meet all of them.
pub(super) fn explore(
    name: &str,
    _: usize,
    outcomes: &[&str],
    model: impl Fn() -> String + Send + Sync + 'static,
) {
    let met = draw(name, SMALL, &[], move || vec![model()]);
    for outcome in met.keys() {
        assert!(outcomes.contains(&&**outcome), "{outcome:?} is no outcome of: {name}");
    }
}

/// Runs a model `iterations` times under each of the two schedulers. Returns how often it
/// met which outcome. It must meet those of `to_meet`, unless fewer executions were asked
/// for.
pub(super) fn draw(
    name: &str,
    iterations: usize,
    to_meet: &[&str],
    model: impl Fn() -> Vec<String> + Send + Sync + 'static,
) -> BTreeMap<String, u64> {
    let met: Arc<Plain<BTreeMap<String, u64>>> = Arc::default();
    let model = Arc::new({
        let met = Arc::clone(&met);
        move || {
            let outcomes = model();
            let mut met = met.lock().expect("no model panics here");
            outcomes.into_iter().for_each(|outcome| *met.entry(outcome).or_default() += 1);
        }
    });
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let model = Arc::clone(&model);
        Runner::new(scheduler, config()).run(move || model())
    };
    let wanted = env::var("FAIRPOOL_ITERATIONS").ok();
    let wanted = wanted.map_or(iterations, |n| n.parse().expect("a number of iterations"));
    let executions = match env::var("FAIRPOOL_SCHEDULE") {
        Ok(path) => {
            run(Box::new(ReplayScheduler::new_from_file(path).expect("a file with a schedule")))
        }
        Err(_) => {
            run(Box::new(RandomScheduler::new_from_seed(SEED, wanted)))
                + run(Box::new(PctScheduler::new_from_seed(SEED, DEPTH, wanted)))
        }
    };
    println!("figure: {name}: {} executions", grouped(executions as u64));
    let met = std::mem::take(&mut *met.lock().expect("no model panics here"));
    if !to_meet.is_empty() {
        println!("outcomes: {met:?}");
    }
    for outcome in to_meet {
        let few = executions < 2 * iterations;
        assert!(
            few || met.contains_key(*outcome),
            "{outcome:?} happens in no execution of: {name}"
        );
    }
    met
}

fn config() -> Config {
    let mut config = Config::new();
    // An error with its report does not fit the default, which is a sixteenth.
    config.stack_size = 1 << 20;
    // An execution with a livelock.
    config.max_steps = MaxSteps::FailAfter(200_000);
    // shuttle takes all orderings as sequentially consistent; loom checks the others.
    config.silence_warnings = true;
    config
}
