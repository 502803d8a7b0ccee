//! The results of the callers under a policy.

use std::time::Duration;

use serde_json::{Value, json};

use super::load::{CLASSES, Class, Load};
use crate::load::quantile;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A FIFO without a timeout.
    Endless,
    /// A FIFO with a timeout.
    Dropping,
    /// fairpool, with priorities and ageing.
    Ageing,
    /// fairpool, with priorities but without ageing, for comparison.
    Rigid,
}

pub const POLICIES: [Policy; 4] =
    [Policy::Endless, Policy::Dropping, Policy::Ageing, Policy::Rigid];

impl Policy {
    pub fn name(self) -> &'static str {
        match self {
            Policy::Endless => "FIFO without a timeout",
            Policy::Dropping => "FIFO with a timeout",
            Policy::Ageing => "fairpool: priorities and ageing",
            Policy::Rigid => "priorities without ageing",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Served,
    TimedOut,
    Refused,
}

/// One caller's result. Its wait counts from when it was due until its answer.
#[derive(Clone, Copy)]
pub struct Answered {
    pub class: Class,
    pub waited: Duration,
    pub end: End,
}

/// The figures of a class, or of all callers.
#[derive(Clone, Debug)]
pub struct Waits {
    pub name: &'static str,
    pub callers: usize,
    pub served: usize,
    pub timed_out: usize,
    pub refused: usize,
    /// Sorted.
    waits: Vec<Duration>,
}

impl Waits {
    fn of(name: &'static str, answers: &[Answered], class: Option<Class>) -> Waits {
        let mine = || answers.iter().filter(|one| class.is_none_or(|class| class == one.class));
        let count = |end| mine().filter(|one| one.end == end).count();
        let mut waits: Vec<Duration> = mine().map(|one| one.waited).collect();
        waits.sort_unstable();
        Waits {
            name,
            callers: waits.len(),
            served: count(End::Served),
            timed_out: count(End::TimedOut),
            refused: count(End::Refused),
            waits,
        }
    }

    pub fn quantile(&self, part: f64) -> Duration {
        quantile(&self.waits, part)
    }

    pub fn longest(&self) -> Duration {
        self.waits.last().copied().unwrap_or_default()
    }

    pub fn share_served(&self) -> f64 {
        self.served as f64 / self.callers.max(1) as f64
    }
}

pub struct Outcome {
    pub policy: Policy,
    /// One for each class, and one for all callers.
    pub waits: Vec<Waits>,
    /// The share of callers that waited longer than their timeout, by more than a busy
    /// machine explains.
    pub too_long: f64,
}

impl Outcome {
    pub fn new(policy: Policy, load: &Load, answers: &[Answered]) -> Outcome {
        let tolerance = load.cycle / 20;
        let is_late = |one: &&Answered| one.waited > one.class.timeout(load.cycle) + tolerance;
        let late = answers.iter().filter(is_late).count();
        let class = |class: Class| Waits::of(class.name(), answers, Some(class));
        let all = Waits::of("all", answers, None);
        Outcome {
            policy,
            waits: CLASSES.into_iter().map(class).chain([all]).collect(),
            too_long: late as f64 / answers.len().max(1) as f64,
        }
    }

    pub fn of(&self, class: Class) -> &Waits {
        &self.waits[class as usize]
    }

    pub fn all(&self) -> &Waits {
        &self.waits[CLASSES.len()]
    }

    pub fn json(&self) -> Value {
        let seconds = |span: Duration| span.as_secs_f64();
        let waits = self.waits.iter().map(|waits| {
            json!({
                "class": waits.name,
                "callers": waits.callers,
                "served": waits.served,
                "timed_out": waits.timed_out,
                "refused": waits.refused,
                "p50_seconds": seconds(waits.quantile(0.5)),
                "p95_seconds": seconds(waits.quantile(0.95)),
                "p99_seconds": seconds(waits.quantile(0.99)),
                "longest_seconds": seconds(waits.longest()),
            })
        });
        json!({
            "policy": self.policy.name(),
            "classes": waits.collect::<Vec<_>>(),
            "share_that_waited_too_long": self.too_long,
        })
    }
}
