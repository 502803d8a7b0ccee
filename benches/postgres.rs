//! `SELECT 1` on a real PostgreSQL through fairpool and through r2d2: what a
//! pool gives to 32 threads that share 8 connections.
//!
//! `cargo bench --bench postgres`. It starts a server of its own and removes it
//! at the end. Both pools have their own defaults, the sizes apart; r2d2 runs
//! a second time without its ping at each checkout. The three take turns within
//! each round, so that a noisy machine hurts all alike. Every wait is recorded,
//! and "max" is the longest of all.
//!
//! `FAIRPOOL_BENCH_ROUNDS` and `FAIRPOOL_BENCH_MILLIS` (per round and pool)
//! change the length, `FAIRPOOL_BENCH_THREADS` and
//! `FAIRPOOL_BENCH_CONNECTIONS` the load; `FAIRPOOL_BENCH_BOUNDS=500,5000` adds
//! fairpools with these fairness bounds, in microseconds. Under `cargo test` one short round
//! shows that it runs.

#[path = "../tests/support/cluster.rs"]
mod cluster;

use std::env;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster::Cluster;
use comfy_table::{CellAlignment, Table, presets};
use fairpool::postgres::PostgresConnectionManager as Manager;
use hdrhistogram::Histogram;
use postgres::{Client, NoTls};
use r2d2_postgres::PostgresConnectionManager as R2d2Manager;

/// Gets a connection, makes one query, gives it back; returns how long the get
/// took.
trait Contestant: Sync {
    fn name(&self) -> String;
    fn once(&self) -> Duration;
}

struct Fairpool {
    bound: Option<Duration>,
    pool: fairpool::Pool<Manager<NoTls>>,
}

struct R2d2 {
    name: &'static str,
    pool: r2d2::Pool<R2d2Manager<NoTls>>,
}

impl Contestant for Fairpool {
    fn name(&self) -> String {
        self.bound.map_or("fairpool".into(), |bound| format!("fairpool, bound {bound:?}"))
    }

    fn once(&self) -> Duration {
        let start = Instant::now();
        let mut conn = self.pool.get().expect("a connection");
        let waited = start.elapsed();
        query(&mut conn);
        waited
    }
}

impl Contestant for R2d2 {
    fn name(&self) -> String {
        self.name.into()
    }

    fn once(&self) -> Duration {
        let start = Instant::now();
        let mut conn = self.pool.get().expect("a connection");
        let waited = start.elapsed();
        query(&mut conn);
        waited
    }
}

/// One round trip.
fn query(client: &mut Client) {
    client.simple_query("SELECT 1").expect("an answer");
}

/// The place of r2d2 with its defaults, which the others are compared with.
const REFERENCE: usize = 1;

fn contestants(cluster: &Cluster, connections: u32) -> Vec<Box<dyn Contestant>> {
    let fairpool = |bound: Option<Duration>| {
        let builder = fairpool::Pool::builder().max_size(connections);
        let builder = match bound {
            Some(bound) => builder.fairness(fairpool::Fairness::Bounded(bound)),
            None => builder,
        };
        let pool = builder.build(Manager::new(cluster.config(), NoTls));
        Box::new(Fairpool { bound, pool: pool.expect("the server is there") })
    };
    let r2d2 = |name, ping| {
        let pool = r2d2::Pool::builder()
            .max_size(connections)
            .test_on_check_out(ping)
            .build(R2d2Manager::new(cluster.config(), NoTls))
            .expect("the server is there");
        Box::new(R2d2 { name, pool })
    };
    let mut all: Vec<Box<dyn Contestant>> =
        vec![fairpool(None), r2d2("r2d2", true), r2d2("r2d2 without its ping", false)];
    for bound in env::var("FAIRPOOL_BENCH_BOUNDS").iter().flat_map(|list| list.split(',')) {
        let micros = bound.parse().expect("FAIRPOOL_BENCH_BOUNDS must be numbers and commas");
        all.push(fairpool(Some(Duration::from_micros(micros))));
    }
    all
}

/// What one contestant did in one round.
struct Round {
    queries_per_second: f64,
    jain: f64,
    p99: f64,
}

/// What one contestant did in all rounds.
struct Record {
    rounds: Vec<Round>,
    waits: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

fn run(
    contestant: &dyn Contestant,
    threads: usize,
    length: Duration,
    waits: &mut Histogram<u64>,
) -> Round {
    let (barrier, stop) = (Barrier::new(threads + 1), AtomicBool::new(false));
    let work = || {
        let mut waits = histogram();
        barrier.wait();
        while !stop.load(Ordering::Relaxed) {
            let waited = contestant.once().as_nanos() as u64;
            waits.record(waited).expect("it grows as needed");
        }
        waits
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        barrier.wait();
        let start = Instant::now();
        thread::sleep(length);
        stop.store(true, Ordering::Relaxed);
        let done = workers.into_iter().map(|worker| worker.join().expect("a worker panicked"));
        let each: Vec<Histogram<u64>> = done.collect();
        let seconds = start.elapsed().as_secs_f64();
        let mut together = histogram();
        for one in &each {
            together.add(one).expect("histograms of one kind");
        }
        waits.add(&together).expect("histograms of one kind");
        let shares: Vec<f64> = each.iter().map(|one| one.len() as f64).collect();
        Round {
            queries_per_second: together.len() as f64 / seconds,
            jain: jain(&shares),
            p99: together.value_at_quantile(0.99) as f64,
        }
    })
}

/// Jain's index: 1 if all got the same, 1/n if one got everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(
    contestants: &[Box<dyn Contestant>],
    threads: usize,
    rounds: usize,
    length: Duration,
) -> Vec<Record> {
    let new = |_| Record { rounds: Vec::new(), waits: histogram() };
    let mut records: Vec<Record> = contestants.iter().map(new).collect();
    for contestant in contestants {
        run(&**contestant, threads, length / 4, &mut histogram()); // to warm up
    }
    for number in 1..=rounds {
        eprintln!("round {number} of {rounds}");
        for (contestant, record) in contestants.iter().zip(&mut records) {
            let round = run(&**contestant, threads, length, &mut record.waits);
            record.rounds.push(round);
        }
    }
    records
}

/// The median over the rounds of how this compares with the reference in the
/// same round.
fn ratio(own: &[Round], reference: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    median(own.iter().zip(reference).map(|(own, reference)| of(own) / of(reference)))
}

fn table(contestants: &[Box<dyn Contestant>], records: &[Record]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "pool",
        "queries/s",
        "from – to",
        "× r2d2",
        "wait p50",
        "p99",
        "max",
        "p99 × r2d2",
        "Jain",
    ]);
    let reference = &records[REFERENCE].rounds;
    for (contestant, Record { rounds, waits }) in contestants.iter().zip(records) {
        let rates = || rounds.iter().map(|round| round.queries_per_second);
        let wait = |nanos: u64| format!("{:.2} ms", nanos as f64 / 1e6);
        table.add_row([
            contestant.name(),
            format!("{:.0}", median(rates())),
            format!("{:.0} – {:.0}", rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max)),
            format!("{:.2}", ratio(rounds, reference, |round| round.queries_per_second)),
            wait(waits.value_at_quantile(0.5)),
            wait(waits.value_at_quantile(0.99)),
            wait(waits.max()),
            format!("{:.2}", ratio(rounds, reference, |round| round.p99)),
            format!("{:.4}", median(rounds.iter().map(|round| round.jain))),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn setting(name: &str, default: u32) -> u32 {
    let Ok(text) = env::var(name) else { return default };
    let number = text.parse().ok().filter(|&number| number > 0);
    number.unwrap_or_else(|| panic!("{name} must be a positive number, but is {text:?}"))
}

fn main() {
    // `cargo test` runs benches too, without `--bench`.
    let in_earnest = env::args().any(|arg| arg == "--bench");
    let rounds = setting("FAIRPOOL_BENCH_ROUNDS", if in_earnest { 5 } else { 1 });
    let millis = setting("FAIRPOOL_BENCH_MILLIS", if in_earnest { 2000 } else { 50 });
    let threads = setting("FAIRPOOL_BENCH_THREADS", 32) as usize;
    let connections = setting("FAIRPOOL_BENCH_CONNECTIONS", 8);
    let length = Duration::from_millis(u64::from(millis));

    let cluster = Cluster::start_with(&[("max_connections", &(10 * connections + 20).to_string())]);
    println!("{}", cluster.psql("SELECT split_part(version(), ' on ', 1)"));
    let contestants = contestants(&cluster, connections);
    let records = measure(&contestants, threads, rounds as usize, length);
    println!(
        "`SELECT 1`, {threads} threads on {connections} connections, {rounds} rounds of \
         {length:?}; rates, ratios and Jain's index are medians of the rounds, waits are all \
         waits of all rounds:"
    );
    println!("{}", table(&contestants, &records));
}
