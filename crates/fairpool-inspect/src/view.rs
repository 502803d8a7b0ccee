//! The pools now and in the last minutes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use fairpool::WeakPool;
use fairpool::diagnosis::{Diagnosis, Finding, Memory};
use fairpool::snapshot::Snapshot;
use fairpool::stats::Distribution;
use hyper::body::Bytes;
use serde::Serialize;

use crate::question::{Ask, Question};

pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Five minutes of samples.
const MOST_SAMPLES: usize = 300;

/// An overview is served for this long before a new one is made.
const FRESH_FOR: Duration = Duration::from_millis(100);

pub(crate) struct View {
    /// Seconds since 1970: tells this server's history from that of an earlier one.
    began: f64,
    pools: Vec<Pool>,
    latest: RefCell<Option<Rc<Overview>>>,
}

struct Pool {
    pool: WeakPool,
    ask: Option<Ask>,
    past: RefCell<Past>,
}

/// All pools at about one instant.
pub(crate) struct Overview {
    at: Instant,
    json: Bytes,
    text: String,
}

#[derive(Default)]
struct Past {
    samples: VecDeque<Sample>,
    /// The number of the last sample.
    taken: u64,
    last: Option<Last>,
    /// What was wrong between the last two samples.
    findings: Vec<Finding>,
}

/// The state at the last sample, to compare the next one with.
struct Last {
    waits: Distribution,
    snapshot: Snapshot,
}

/// A pool during one second.
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
    /// Waits of the gets that ended in this second, in seconds; `None` if there were none.
    p50: Option<f64>,
    p99: Option<f64>,
}

impl View {
    pub(crate) fn new(pools: Vec<WeakPool>, questions: Vec<Question>) -> View {
        let pool = |pool: WeakPool| {
            let question = questions.iter().find(|question| question.pool.ptr_eq(&pool));
            let ask = question.map(|question| question.ask.clone());
            Pool { pool, ask, past: RefCell::default() }
        };
        let began = unix_time(SystemTime::now());
        View { began, pools: pools.into_iter().map(pool).collect(), latest: RefCell::new(None) }
    }

    pub(crate) fn pools(&self) -> Vec<WeakPool> {
        self.pools.iter().map(|pool| pool.pool.clone()).collect()
    }

    /// The question about the pool at this place, if there is one.
    pub(crate) fn question(&self, at: u64) -> Option<Ask> {
        self.pools.get(usize::try_from(at).ok()?)?.ask.clone()
    }

    /// Samples all pools. Called once a second.
    pub(crate) fn sample(&self) {
        // Nobody is given an old overview, and one of a large pool is large.
        self.latest.borrow_mut().take_if(|overview| !overview.is_fresh(Instant::now()));
        self.pools.iter().for_each(Pool::sample);
    }

    /// All pools now. Requests at about the same time share one overview.
    pub(crate) fn overview(&self) -> Rc<Overview> {
        let mut latest = self.latest.borrow_mut();
        let now = Instant::now();
        match &*latest {
            Some(overview) if overview.is_fresh(now) => Rc::clone(overview),
            _ => {
                let overview = Rc::new(Overview::of(&self.pools, now));
                *latest = Some(Rc::clone(&overview));
                overview
            }
        }
    }

    /// The samples after number `after`.
    pub(crate) fn history(&self, after: u64) -> Vec<u8> {
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
        let pools = pools.map(|pool| Samples { name: pool.pool.name(), samples: samples(pool) });
        let (began, interval) = (self.began, SAMPLE_EVERY.as_secs_f64());
        json(&Answer { began, interval, pools: pools.collect() })
    }
}

impl Pool {
    fn sample(&self) {
        let mut past = self.past.borrow_mut();
        let (Some(reading), Some(snapshot)) = (self.pool.reading(), self.pool.snapshot()) else {
            // The pool is gone: its curves end here, and grow old.
            (past.last, past.findings) = (None, Vec::new());
            past.samples.pop_front();
            let least = past.samples.len() * 2;
            past.samples.shrink_to(least);
            return;
        };
        let waits = reading.times.wait;
        let last = past.last.replace(Last { waits: waits.clone(), snapshot: snapshot.clone() });
        let Some(last) = last else { return };
        // It fails if the two snapshots are too close together.
        if let Ok(diagnosis) = Diagnosis::between(&last.snapshot, &snapshot) {
            past.findings = diagnosis.findings;
        }
        let (before, stats) = (last.snapshot.stats, snapshot.stats);
        let waits = waits.since(&last.waits);
        let quantile = |part| Some(waits.quantile(part)?.as_secs_f64());
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
    serde_json::to_vec(value).expect("BUG: all keys are strings, and no part fails")
}

impl Overview {
    fn of(pools: &[Pool], at: Instant) -> Overview {
        let taken_at = unix_time(SystemTime::now());
        #[derive(Serialize)]
        struct Answer<'a> {
            taken_at: f64,
            /// The process's memory; `None` where the system does not tell.
            memory: Option<Memory>,
            pools: Vec<One<'a>>,
        }
        #[derive(Serialize)]
        struct One<'a> {
            name: &'a str,
            /// The pool does not exist any more.
            gone: bool,
            /// There is a question about it.
            asks: bool,
            snapshot: Option<Snapshot>,
            findings: Vec<Finding>,
        }
        let pools = pools.iter().map(|pool| {
            let snapshot = pool.pool.snapshot();
            let (gone, asks) = (snapshot.is_none(), pool.ask.is_some());
            let findings = pool.past.borrow().findings.clone();
            One { name: pool.pool.name(), gone, asks, snapshot, findings }
        });
        let pools: Vec<One<'_>> = pools.collect();
        let mut text = String::new();
        for One { name, snapshot, .. } in &pools {
            let _ = match snapshot {
                Some(snapshot) => writeln!(text, "{snapshot}"),
                None => writeln!(text, "pool '{name}' is gone\n"),
            };
        }
        let json = json(&Answer { taken_at, memory: Memory::now(), pools }).into();
        Overview { at, json, text }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < FRESH_FOR
    }

    pub(crate) fn json(&self) -> Bytes {
        self.json.clone()
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use fairpool::Pool;
    use fairpool_testing::StubManager;
    use fairpool_testing::stub::eventually;

    use super::*;

    #[test]
    fn nothing_is_kept_of_a_pool_that_went_five_minutes_ago() {
        let pool = Pool::builder().max_size(1).build(StubManager).expect("a stub");
        let view = View::new(vec![pool.downgrade()], Vec::new());
        (0..3).for_each(|_| view.sample());
        let kept = || view.pools[0].past.borrow().samples.len();
        assert_eq!(kept(), 2, "the first is what the second is compared with");
        drop(view.overview());
        drop(pool);
        eventually("it is gone", || view.pools[0].pool.is_gone());
        view.sample();
        assert_eq!(kept(), 1, "its history grows old");
        assert!(view.pools[0].past.borrow().last.is_none());
        (0..MOST_SAMPLES).for_each(|_| view.sample());
        assert_eq!(view.pools[0].past.borrow().samples.capacity(), 0);
        std::thread::sleep(FRESH_FOR);
        view.sample();
        assert!(view.latest.borrow().is_none(), "nobody is given an old overview");
    }
}
