//! The cost of the reaper's passes over many connections: its CPU time, by the kernel's
//! count, and how long it delays a get.
//!
//! A short `leak_threshold` makes passes frequent. A sweep of keepalive checks has a figure
//! of its own: the reaper's CPU time for each connection that is checked.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::ManageConnection;

use crate::measure::{Probe, Scale, StubGuard, StubPool, builder, get, median, rounds};
use fairpool_bench::growth::Growth;
use fairpool_bench::stub::Stub;

const PASS: Duration = Duration::from_millis(5);
const KEEPALIVE: Duration = Duration::from_millis(100);

pub fn measure(scale: &Scale) -> Vec<Growth> {
    let mut rows = Vec::new();
    // One pool after another, because all pools of a process share the reaper.
    for &size in scale.pools {
        let pool = Filled::new(size, None);
        rows.extend(rounds(scale, "longest get in 5 ms, no pass", probe(&pool, stall, scale)));
    }
    for &size in scale.pools {
        let pool = Filled::new(size, Some(PASS));
        rows.extend(rounds(scale, "longest get in 5 ms with a pass", probe(&pool, stall, scale)));
        rows.extend(rounds(scale, "CPU of a pass, all idle", probe(&pool, pass, scale)));
        pool.guards.borrow_mut().extend((0..size).map(|_| get(&pool.pool)));
        rows.extend(rounds(scale, "CPU of a pass, all lent", probe(&pool, pass, scale)));
    }
    rows.extend(sweeps(scale));
    rows
}

/// A pool with all its connections.
struct Filled {
    size: u32,
    pool: StubPool,
    guards: RefCell<Vec<StubGuard>>,
}

impl Filled {
    fn new(size: u32, leak_threshold: Option<Duration>) -> Filled {
        let pool = builder(size).leak_threshold(leak_threshold).build(Stub);
        Filled { size, pool: pool.expect("the stub never fails"), guards: RefCell::default() }
    }
}

fn probe<'a>(
    filled: &'a Filled,
    probe: fn(&Filled, Duration) -> f64,
    scale: &'a Scale,
) -> [(u32, Probe<'a>); 1] {
    [(filled.size, Box::new(move || probe(filled, scale.length)))]
}

/// The longest get and return within the time of one pass: the median over many such
/// times, so that one interruption by another process does not count.
fn stall(filled: &Filled, length: Duration) -> f64 {
    let (begin, mut longest) = (Instant::now(), Vec::new());
    while begin.elapsed() < length {
        let window = Instant::now();
        let mut most = Duration::ZERO;
        while window.elapsed() < PASS {
            let start = Instant::now();
            drop(get(&filled.pool));
            most = most.max(start.elapsed());
        }
        longest.push(most.as_nanos() as f64);
    }
    median(longest)
}

/// The reaper's CPU time per turn on a CPU.
fn pass(_: &Filled, length: Duration) -> f64 {
    let before = Spent::by_reaper();
    thread::sleep(length);
    let after = Spent::by_reaper();
    let turns = (after.turns - before.turns).max(1);
    (after.nanos - before.nanos) as f64 / turns as f64
}

/// The CPU time of a thread.
struct Spent {
    nanos: u64,
    turns: u64,
}

impl Spent {
    fn by_reaper() -> Spent {
        let find = || {
            let tasks = fs::read_dir("/proc/self/task").expect("a Linux kernel");
            let mut tasks = tasks.map(|task| task.expect("a thread's folder").path());
            let is_it = |comm: &str| comm.trim_end() == "fairpool-reaper";
            tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|c| is_it(&c)))
        };
        // A thread sets its name when it begins to run, which may be a moment later.
        let folder = (0..1000).find_map(|_| {
            find().or_else(|| {
                thread::sleep(Duration::from_millis(1));
                None
            })
        });
        let folder = folder.expect("a process with pools has a reaper");
        let text = fs::read_to_string(folder.join("schedstat")).expect("schedstat");
        let mut numbers = text.split_whitespace().map(|n| n.parse().expect("a number"));
        let (nanos, turns) = (numbers.next(), numbers.nth(1));
        Spent { nanos: nanos.expect("three numbers"), turns: turns.expect("three numbers") }
    }
}

/// A driver that counts its checks.
#[derive(Clone, Default)]
struct Counting {
    checks: Arc<AtomicU64>,
}

impl ManageConnection for Counting {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

fn sweeps(scale: &Scale) -> Vec<Growth> {
    let mut rows = Vec::new();
    // One after another, because the sweeps of several pools would delay each other.
    for &size in scale.pools {
        let driver = Counting::default();
        let builder = builder(size).keepalive(Some(KEEPALIVE));
        let _pool = builder.build(driver.clone()).expect("the stub never fails");
        let length = (4 * scale.length).max(2 * KEEPALIVE);
        let probe: Probe = Box::new(move || sweep(&driver, length));
        rows.extend(rounds(scale, "reaper's CPU per keepalive", [(size, probe)]));
    }
    rows
}

fn sweep(driver: &Counting, length: Duration) -> f64 {
    let checks = || driver.checks.load(Ordering::Relaxed);
    let (before, checks_before) = (Spent::by_reaper(), checks());
    thread::sleep(length);
    let (after, checks_after) = (Spent::by_reaper(), checks());
    (after.nanos - before.nanos) as f64 / (checks_after - checks_before).max(1) as f64
}
