//! How models run under `loom`.

use std::collections::BTreeSet;
use std::sync::Mutex as Plain;

use super::grouped;
use crate::sync::{Arc, AtomicU64, Ordering, checker};

pub(super) use crate::sync::checker::{explore as resume_exploring, stop_exploring};

/// Runs a model in every order of its threads with up to this many preemptions
/// (`LOOM_MAX_PREEMPTIONS` overrides it). It must meet exactly these outcomes.
pub(super) fn explore(
    name: &str,
    preemptions: usize,
    outcomes: &[&str],
    model: impl Fn() -> String + Send + Sync + 'static,
) {
    let executions = Arc::new(AtomicU64::new(0));
    let met: Arc<Plain<BTreeSet<String>>> = Arc::default();
    let mut builder = checker::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check({
        let (executions, met) = (Arc::clone(&executions), Arc::clone(&met));
        move || {
            executions.fetch_add(1, Ordering::Relaxed);
            let outcome = model();
            met.lock().expect("no model panics here").insert(outcome);
        }
    });
    println!("figure: {name}: {} executions", grouped(executions.load(Ordering::Relaxed)));
    let met = met.lock().expect("no model panics here");
    let expected: BTreeSet<String> = outcomes.iter().map(ToString::to_string).collect();
    assert_eq!(*met, expected, "the outcomes of: {name}");
}
