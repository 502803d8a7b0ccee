//! A day of a large service: a pool of 1,024 connections at rest, under a steady load, and
//! with 10,000 threads that wait for its connections.
//!
//! Run it with `scripts/bench day`. Every contestant is a process of its own: a child of this
//! program, or a peer (`benches/peers/`). All get the same commands, and the kernel says what
//! each process uses. A semaphore in each language shows what the threads cost without a pool.
//! A round takes a minute and a half, and by default there is one; with
//! `FAIRPOOL_BENCH_ROUNDS=3` the table has a spread. Under `cargo test` small sizes show that it
//! runs.

#[path = "day/child.rs"]
mod child;
#[path = "day/parts.rs"]
mod parts;
#[path = "day/pools.rs"]
mod pools;
#[path = "day/process.rs"]
mod process;

use std::env;
use std::mem;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use fairpool_bench::machine::Machine;
use fairpool_bench::peers::Java;
use fairpool_bench::report::Report;
use fairpool_bench::settings::{Defaults, Settings};
use fairpool_bench::stub::Stub;
use fairpool_bench::table;

use parts::Day;
use pools::Semaphore;

/// Tells a child process what it is.
const CHILD: &str = "FAIRPOOL_BENCH_DAY";
/// Sixty-four of them make 6,400 gets in each second.
const HOLD: Duration = Duration::from_millis(10);

/// Sizes and durations.
struct Scale {
    connections: u32,
    threads: u32,
    waiters: u32,
    /// From the opening of a pool until it is at rest: fairpool's worker threads stay for two
    /// seconds.
    settling: Duration,
    /// Pools have jobs to do every 30 seconds.
    rest: Duration,
    /// A virtual machine compiles what runs often.
    warm_up: Duration,
    load: Duration,
    waiting: Duration,
    gathering: Duration,
}

impl Scale {
    fn new(settings: &Settings) -> Scale {
        let (length, millis) = (settings.length, Duration::from_millis);
        // Without `--quick` a pass takes a second.
        let brief = length < millis(500);
        let (connections, threads, waiters) = match (settings.in_earnest, brief) {
            (true, false) => (1_024, 64, 10_000),
            (true, true) => (1_024, 64, 1_000),
            (false, _) => (8, 4, 16),
        };
        let settling = if settings.in_earnest { millis(2_500) } else { length };
        let gathering = if settings.in_earnest { millis(500) + length } else { millis(100) };
        Scale {
            connections,
            threads,
            waiters,
            settling,
            rest: 31 * length,
            warm_up: 3 * length,
            load: 3 * length,
            waiting: 2 * length,
            gathering,
        }
    }
}

struct Contestant {
    name: &'static str,
    command: Box<dyn Fn() -> Command>,
}

fn main() {
    if let Ok(name) = env::var(CHILD) {
        return be(&name);
    }
    let defaults = Defaults { rounds: 1, millis: 1000, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let (contestants, mut notes) = contestants(&settings);
    let mut machine = Machine::inspect();
    let mut day = Day::new(Scale::new(&settings), contestants.len() * settings.rounds as usize);
    for _ in 0..settings.rounds {
        for one in day.at_rest(&contestants, &settings) {
            let version = one.process.version().to_string();
            if !version.is_empty() {
                machine.versions.insert(one.name.to_string(), version);
            }
            day.at_work(one);
        }
    }
    let failed = mem::take(&mut day.failed);
    assert!(settings.in_earnest || failed.is_empty(), "{failed:?}");
    notes.extend(failed);
    day.progress.say(&table::side_by_side(&day.figures).text());
    let mut report = Report::new("day", machine, &settings, notes, Vec::new());
    report.growth = day.figures;
    fairpool_bench::finish(&report, &settings);
}

fn be(name: &str) {
    match name {
        "fairpool" => child::be::<fairpool::Pool<Stub>>(),
        "r2d2" => child::be::<r2d2::Pool<Stub>>(),
        "semaphore" => child::be::<Semaphore>(),
        _ => panic!("no such contestant: {name}"),
    }
}

/// The contestants, and a line for each that cannot be measured.
fn contestants(settings: &Settings) -> (Vec<Contestant>, Vec<String>) {
    let program = env::current_exe().expect("the program's own path");
    let own = |name, kind: &'static str| {
        let program = program.clone();
        let command = move || {
            let mut command = Command::new(&program);
            command.env(CHILD, kind);
            command
        };
        Contestant { name, command: Box::new(command) }
    };
    let mut all = vec![
        own("fairpool", "fairpool"),
        own("r2d2", "r2d2"),
        own("semaphore of Rust", "semaphore"),
    ];
    let java = match Java::compile(settings.temp()) {
        Ok(java) => Rc::new(java),
        Err(why) => return (all, vec![format!("not measured: HikariCP: {why}")]),
    };
    for (name, kind) in [("HikariCP", "pool"), ("semaphore of Java", "semaphore")] {
        let java = Rc::clone(&java);
        let command = move || {
            let mut command = java.command("Day");
            command.arg(kind);
            command
        };
        all.push(Contestant { name, command: Box::new(command) });
    }
    (all, Vec::new())
}
