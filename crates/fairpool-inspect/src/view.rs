//! How the pools are, and how they were in the last minutes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Bytes;
use serde::Serialize;

use crate::diagnosis::{Diagnosis, Finding, Memory};
use crate::snapshot::{Snapshot, WeakPool};
use crate::sync;
use crate::times::Distribution;

pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Five minutes of samples.
const MOST_SAMPLES: usize = 300;

/// Whoever asks within this time of another is shown the same.
const FRESH_FOR: Duration = Duration::from_millis(100);

pub(super) struct View {
    /// Seconds since 1970. It tells this history from that of an earlier server.
    began: f64,
    pools: Vec<Pool>,
    latest: RefCell<Option<Rc<Look>>>,
}

struct Pool {
    watch: WeakPool,
    past: RefCell<Past>,
}

/// All pools at about one moment.
pub(super) struct Look {
    at: Instant,
    json: Bytes,
    text: String,
}

#[derive(Default)]
struct Past {
    samples: VecDeque<Sample>,
    /// How many samples there have been.
    taken: u64,
    last: Option<Last>,
    /// What was wrong between the last two samples.
    findings: Vec<Finding>,
}

/// What the next sample is compared with.
struct Last {
    waits: Distribution,
    snapshot: Snapshot,
}

/// A pool in one second.
#[derive(Clone, Serialize)]
struct Sample {
    number: u64,
    /// Seconds since 1970.
    at: f64,
    max_size: u32,
    idle: u32,
    in_use: u32,
    opening: u32,
    closing: u32,
    waiting: u32,
    /// In this second.
    gets: u64,
    timeouts: u64,
    refused: u64,
    /// Of the gets that ended in this second, in seconds; `None` if there were none.
    p50: Option<f64>,
    p99: Option<f64>,
}

impl View {
    pub(super) fn new(pools: Vec<WeakPool>) -> View {
        let pool = |watch| Pool { watch, past: RefCell::default() };
        let began = unix_time(SystemTime::now());
        View { began, pools: pools.into_iter().map(pool).collect(), latest: RefCell::new(None) }
    }

    pub(super) fn watches(&self) -> Vec<WeakPool> {
        self.pools.iter().map(|pool| pool.watch.clone()).collect()
    }

    /// To be called once a second.
    pub(super) fn sample(&self) {
        self.pools.iter().for_each(Pool::sample);
    }

    /// How the pools are: each is looked at once for all who ask at about this time.
    pub(super) fn look(&self) -> Rc<Look> {
        let mut latest = self.latest.borrow_mut();
        let now = sync::instant();
        match &*latest {
            Some(look) if now.saturating_duration_since(look.at) < FRESH_FOR => Rc::clone(look),
            _ => {
                let look = Rc::new(Look::at(now, SystemTime::now(), &self.pools));
                *latest = Some(Rc::clone(&look));
                look
            }
        }
    }

    /// The samples after those that somebody has.
    pub(super) fn history(&self, after: u64) -> Vec<u8> {
        #[derive(Serialize)]
        struct Answer<'a> {
            began: f64,
            interval: f64,
            pools: Vec<Samples<'a>>,
        }
        #[derive(Serialize)]
        struct Samples<'a> {
            name: &'a str,
            samples: Vec<Sample>,
        }
        let samples = |pool: &Pool| {
            let past = pool.past.borrow();
            past.samples.iter().filter(|sample| sample.number > after).cloned().collect()
        };
        let pools = self.pools.iter();
        let pools = pools.map(|pool| Samples { name: pool.watch.name(), samples: samples(pool) });
        let (began, interval) = (self.began, SAMPLE_EVERY.as_secs_f64());
        json(&Answer { began, interval, pools: pools.collect() })
    }
}

impl Pool {
    fn sample(&self) {
        let mut past = self.past.borrow_mut();
        let Some(pool) = self.watch.pool() else {
            // What is gone is drawn no further.
            (past.last, past.findings) = (None, Vec::new());
            return;
        };
        let (waits, snapshot) = (pool.waits(), pool.snapshot());
        let last = past.last.replace(Last { waits: waits.clone(), snapshot: snapshot.clone() });
        let Some(last) = last else { return };
        // Two samples that are too close together tell nothing new.
        if let Ok(diagnosis) = Diagnosis::between(&last.snapshot, &snapshot) {
            past.findings = diagnosis.findings;
        }
        let (before, stats) = (last.snapshot.stats, snapshot.stats);
        let quantile = |part| Some(waits.quantile_since(&last.waits, part)?.as_secs_f64());
        past.taken += 1;
        let sample = Sample {
            number: past.taken,
            at: unix_time(SystemTime::now()),
            max_size: stats.max_size,
            idle: stats.idle,
            in_use: stats.in_use,
            opening: stats.opening,
            closing: stats.closing,
            waiting: stats.waiting,
            gets: stats.gets.saturating_sub(before.gets),
            timeouts: stats.timeouts.saturating_sub(before.timeouts),
            refused: stats.refused.saturating_sub(before.refused),
            p50: quantile(0.5),
            p99: quantile(0.99),
        };
        past.samples.push_back(sample);
        if past.samples.len() > MOST_SAMPLES {
            past.samples.pop_front();
        }
    }
}

fn unix_time(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("BUG: it has no keys but strings, and no failing parts")
}

impl Look {
    fn at<'a>(at: Instant, taken_at: SystemTime, pools: &'a [Pool]) -> Look {
        #[derive(Serialize)]
        struct Answer<'a> {
            taken_at: f64,
            /// Of the process; `None` where it is not known.
            memory: Option<Memory>,
            pools: Vec<View<'a>>,
        }
        #[derive(Serialize)]
        struct View<'a> {
            name: &'a str,
            /// The pool does not exist any more.
            gone: bool,
            snapshot: Option<Snapshot>,
            findings: Vec<Finding>,
        }
        let view = |pool: &'a Pool| {
            let snapshot = pool.watch.snapshot();
            let findings = pool.past.borrow().findings.clone();
            View { name: pool.watch.name(), gone: snapshot.is_none(), snapshot, findings }
        };
        let pools: Vec<View<'_>> = pools.iter().map(view).collect();
        let mut text = String::new();
        for View { name, snapshot, .. } in &pools {
            let _ = match snapshot {
                Some(snapshot) => writeln!(text, "{snapshot}"),
                None => writeln!(text, "pool '{name}' is gone\n"),
            };
        }
        let (taken_at, memory) = (unix_time(taken_at), Memory::now());
        Look { at, json: json(&Answer { taken_at, memory, pools }).into(), text }
    }

    pub(super) fn json(&self) -> Bytes {
        self.json.clone()
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}
