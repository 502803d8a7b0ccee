//! The cost of a get and its return, against r2d2 and against a bare
//! `Mutex<Vec>` that does nothing else, in one run.
//!
//! `cargo bench --bench checkout`. The three take turns within each round, so
//! that a noisy machine hurts all alike; what counts is the ratio of medians.
//! `FAIRPOOL_BENCH_ROUNDS` and `FAIRPOOL_BENCH_MILLIS` (per round) change the
//! length. Under `cargo test` one short round shows that it runs.

use std::convert::Infallible;
use std::env;
use std::hint::black_box;
use std::ops::DerefMut;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// A driver that costs nothing.
struct Stub;

impl fairpool::ManageConnection for Stub {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

impl r2d2::ManageConnection for Stub {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// Gets a connection, holds it, gives it back; returns how long the get took.
struct Contestant {
    name: &'static str,
    once: Box<dyn Fn(Duration) -> Duration + Sync>,
}

/// A pool, by its way of getting a connection.
fn pool<C: DerefMut<Target = u64>>(
    name: &'static str,
    get: impl Fn() -> C + Sync + 'static,
) -> Contestant {
    let once = move |hold: Duration| {
        let start = timed(hold);
        let mut conn = get();
        let waited = start.map_or(Duration::ZERO, |start| start.elapsed());
        *conn += 1;
        hold_for(hold);
        waited
    };
    Contestant { name, once: Box::new(once) }
}

fn bare(connections: u32) -> Contestant {
    let idle = Mutex::new(vec![0u64; connections as usize]);
    let once = move |hold: Duration| {
        let mut conn = loop {
            // It cannot wait: it spins, politely.
            match idle.lock().pop() {
                Some(conn) => break conn,
                None => thread::yield_now(),
            }
        };
        conn += 1;
        hold_for(hold);
        idle.lock().push(black_box(conn));
        Duration::ZERO
    };
    Contestant { name: "Mutex<Vec>", once: Box::new(once) }
}

/// Waits are measured where somebody waits long enough to be measured; without
/// a hold, reading the clock would cost more than the pool.
fn timed(hold: Duration) -> Option<Instant> {
    (!hold.is_zero()).then(Instant::now)
}

fn hold_for(hold: Duration) {
    if !hold.is_zero() {
        thread::sleep(hold);
    }
}

#[derive(Clone, Copy)]
struct Cell {
    threads: usize,
    connections: u32,
    hold: Duration,
}

const CELLS: [Cell; 6] = [
    Cell { threads: 1, connections: 1, hold: Duration::ZERO },
    Cell { threads: 2, connections: 2, hold: Duration::ZERO },
    Cell { threads: 2, connections: 1, hold: Duration::ZERO },
    Cell { threads: 8, connections: 4, hold: Duration::ZERO },
    Cell { threads: 32, connections: 4, hold: Duration::ZERO },
    Cell { threads: 32, connections: 8, hold: Duration::from_millis(1) },
];

impl Cell {
    fn contestants(self) -> Vec<Contestant> {
        let fairpool = fairpool::Pool::builder().max_size(self.connections).build(Stub);
        let fairpool = fairpool.expect("the stub never fails");
        let r2d2 = r2d2::Pool::builder().max_size(self.connections).build(Stub);
        let r2d2 = r2d2.expect("the stub never fails");
        let mut contestants = vec![
            pool("fairpool", move || fairpool.get().expect("the stub never fails")),
            pool("r2d2", move || r2d2.get().expect("the stub never fails")),
        ];
        if self.hold.is_zero() {
            contestants.push(bare(self.connections));
        }
        contestants
    }
}

struct Round {
    /// Of all threads together.
    nanos_per_operation: f64,
    p99: Duration,
    max: Duration,
}

fn run(contestant: &Contestant, cell: Cell, length: Duration) -> Round {
    let (barrier, stop) = (Barrier::new(cell.threads + 1), AtomicBool::new(false));
    let work = || {
        let mut waits = Histogram::<u64>::new(3).expect("three digits");
        let mut operations = 0u64;
        barrier.wait();
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..if cell.hold.is_zero() { 64 } else { 1 } {
                let waited = (contestant.once)(cell.hold);
                if !cell.hold.is_zero() {
                    waits.record(waited.as_nanos() as u64).expect("it resizes itself");
                }
                operations += 1;
            }
        }
        (operations, waits)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cell.threads).map(|_| scope.spawn(work)).collect();
        barrier.wait();
        let start = Instant::now();
        thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        let mut total = 0;
        let mut waits = Histogram::<u64>::new(3).expect("three digits");
        for worker in workers {
            let (operations, more) = worker.join().expect("a worker panicked");
            total += operations;
            waits.add(more).expect("histograms of one kind");
        }
        Round {
            nanos_per_operation: start.elapsed().as_nanos() as f64 / total as f64,
            p99: Duration::from_nanos(waits.value_at_quantile(0.99)),
            max: Duration::from_nanos(waits.max()),
        }
    })
}

fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[values.len() / 2]
}

fn measure(cell: Cell, rounds: u32, length: Duration) -> Vec<(&'static str, Vec<Round>)> {
    let contestants = cell.contestants();
    let mut results: Vec<_> = contestants.iter().map(|c| (c.name, Vec::new())).collect();
    for contestant in &contestants {
        run(contestant, cell, length / 4); // to warm up
    }
    for _ in 0..rounds {
        for (contestant, (_, rounds)) in contestants.iter().zip(&mut results) {
            rounds.push(run(contestant, cell, length));
        }
    }
    results
}

fn setting(name: &str, default: u32) -> u32 {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number: {text:?}")),
        Err(_) => default,
    }
}

fn main() {
    // `cargo test` runs benches too, without `--bench`.
    let in_earnest = env::args().any(|arg| arg == "--bench");
    let rounds = setting("FAIRPOOL_BENCH_ROUNDS", if in_earnest { 7 } else { 1 });
    let millis = setting("FAIRPOOL_BENCH_MILLIS", if in_earnest { 300 } else { 10 });
    let length = Duration::from_millis(u64::from(millis));

    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "threads / connections / hold",
        "pool",
        "times r2d2",
        "times Mutex<Vec>",
        "ns/op",
        "spread",
        "wait p99",
        "wait max",
    ]);
    for cell in CELLS {
        eprintln!("{} threads, {} connections, {:?}", cell.threads, cell.connections, cell.hold);
        let results = measure(cell, rounds, length);
        let nanos = |rounds: &[Round]| median(rounds.iter().map(|r| r.nanos_per_operation));
        let of = |name| results.iter().find(|(n, _)| *n == name).map(|(_, rounds)| nanos(rounds));
        for (name, rounds) in &results {
            let own = nanos(rounds);
            let lowest = rounds.iter().map(|r| r.nanos_per_operation).fold(f64::MAX, f64::min);
            let highest = rounds.iter().map(|r| r.nanos_per_operation).fold(0.0, f64::max);
            let ratio =
                |other: Option<f64>| other.map_or(String::new(), |o| format!("{:.2}", o / own));
            let wait = |span: Duration| match cell.hold.is_zero() {
                true => String::new(),
                false => format!("{span:.1?}"),
            };
            table.add_row([
                format!("{} / {} / {:?}", cell.threads, cell.connections, cell.hold),
                (*name).to_string(),
                ratio(of("r2d2")),
                ratio(of("Mutex<Vec>")),
                format!("{own:.0}"),
                format!("{lowest:.0}–{highest:.0}"),
                wait(median(rounds.iter().map(|r| r.p99))),
                wait(median(rounds.iter().map(|r| r.max))),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("How many times as fast as the peers (more is better), medians of {rounds} rounds:");
    println!("{table}");
}
