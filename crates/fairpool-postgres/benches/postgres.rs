//! A PostgreSQL server through fairpool and through r2d2, with r2d2's ping at each
//! checkout and without.
//!
//! Run it with `scripts/bench postgres`. For the options see
//! `cargo bench -p fairpool-postgres --bench postgres -- --help`. It starts a server of its
//! own and removes it at the end. All pools have their defaults, except for the size.
//! `FAIRPOOL_BENCH_BOUNDS=500,5000` adds pools of fairpool with these fairness bounds, in
//! microseconds, `FAIRPOOL_BENCH_RESET_OFF=1` one with `Reset::Off`. Under `cargo test` one short
//! round of one cell shows that it runs.

use std::env;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fairpool::Fairness;
use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::pass::Source;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::rounds::{self, Contestant, local};
use fairpool_bench::settings::{Defaults, Settings};
use fairpool_bench::table;
use fairpool_postgres::{PostgresConnectionManager as Manager, Reset};
use fairpool_servers::cluster::Cluster;
use postgres::{Error, NoTls};
use r2d2_postgres::PostgresConnectionManager as R2d2Manager;

/// What a thread does with a connection.
#[derive(Clone, Copy)]
enum Work {
    /// One round trip.
    Select,
    /// Three round trips. The second changes a row that no other thread changes, so that
    /// nothing waits for a lock of the server.
    Transaction,
}

const WORKS: [(&str, Work); 2] = [("SELECT 1", Work::Select), ("transaction", Work::Transaction)];
const SIZES: [(usize, u32); 4] = [(1, 1), (8, 8), (32, 8), (64, 8)];

/// More than the threads at any time.
const ROWS: u32 = 1024;
/// Each page has room for new versions of its rows.
const SCHEMA: &str = "
    CREATE TABLE counter (id int PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 25);
    INSERT INTO counter SELECT id, 0 FROM generate_series(0, 1023) id";

/// The tables show ratios to these first.
const REFERENCES: [&str; 2] = ["r2d2", "r2d2 without ping"];

thread_local! {
    /// The row that only this thread changes.
    static ROW: u32 = {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % ROWS
    };
}

impl Work {
    fn update() -> String {
        let row = ROW.with(|&row| row);
        format!("UPDATE counter SET value = value + 1 WHERE id = {row}")
    }
}

/// A client of either kind. The work is the same text for both.
trait Client {
    fn run(&mut self, work: Work) -> Result<(), Error>;
}

macro_rules! client {
    ($client:ty) => {
        impl Client for $client {
            fn run(&mut self, work: Work) -> Result<(), Error> {
                match work {
                    Work::Select => self.simple_query("SELECT 1").map(drop),
                    Work::Transaction => {
                        let mut transaction = self.transaction()?;
                        transaction.batch_execute(&Work::update())?;
                        transaction.commit()
                    }
                }
            }
        }
    };
}

client!(postgres::Client);
client!(fairpool_postgres::Client);

/// A pool, by its `get`.
struct Pooled<F, C> {
    get: F,
    work: Work,
    client: PhantomData<fn() -> C>,
}

impl<C, F> Source for Pooled<F, C>
where
    C: DerefMut<Target: Client> + 'static,
    F: Fn() -> C + Sync,
{
    type Conn<'a>
        = C
    where
        Self: 'a;

    fn get(&self) -> C {
        (self.get)()
    }

    fn work(&self, conn: &mut C, _: Hold) {
        conn.run(self.work).expect("the server answers");
    }
}

fn fairpool(
    cluster: &Cluster,
    connections: u32,
    work: Work,
    fairness: Fairness,
    reset: Reset,
    name: &str,
) -> Box<dyn Contestant> {
    let builder = fairpool::Pool::builder().max_size(connections).fairness(fairness);
    let manager = Manager::new(cluster.config(), NoTls).reset_on_return(reset);
    let pool = builder.build(manager).expect("the server answers");
    let get = move || pool.get().expect("a connection");
    local(name, Pooled { get, work, client: PhantomData })
}

fn r2d2(
    cluster: &Cluster,
    connections: u32,
    work: Work,
    ping: bool,
    name: &str,
) -> Box<dyn Contestant> {
    let builder = r2d2::Pool::builder().max_size(connections).test_on_check_out(ping);
    let manager = R2d2Manager::new(cluster.config(), NoTls);
    let pool = builder.build(manager).expect("the server answers");
    let get = move || pool.get().expect("a connection");
    local(name, Pooled { get, work, client: PhantomData })
}

/// The fairness bounds to measure beside the default.
fn bounds() -> Vec<Duration> {
    let list = env::var("FAIRPOOL_BENCH_BOUNDS").unwrap_or_default();
    let micros = list.split(',').filter(|micros| !micros.is_empty()).map(str::parse);
    let micros = micros.map(|micros| micros.expect("FAIRPOOL_BENCH_BOUNDS: numbers and commas"));
    micros.map(Duration::from_micros).collect()
}

/// Whether to measure a pool that reads no statements and resets nothing, too.
fn with_reset_off() -> bool {
    env::var_os("FAIRPOOL_BENCH_RESET_OFF").is_some()
}

fn contestants(cluster: &Cluster, connections: u32, work: Work) -> Vec<Box<dyn Contestant>> {
    let mut all = vec![
        fairpool(cluster, connections, work, Fairness::default(), Reset::Session, "fairpool"),
        r2d2(cluster, connections, work, true, "r2d2"),
        r2d2(cluster, connections, work, false, "r2d2 without ping"),
    ];
    all.extend(bounds().into_iter().map(|bound| {
        let name = format!("fairpool, bound {bound:?}");
        fairpool(cluster, connections, work, Fairness::Bounded(bound), Reset::Session, &name)
    }));
    if with_reset_off() {
        let (fairness, name) = (Fairness::default(), "fairpool, Reset::Off");
        all.push(fairpool(cluster, connections, work, fairness, Reset::Off, name));
    }
    all
}

/// The cells to measure, with their names.
fn cells(settings: &Settings) -> Vec<(String, Cell, Work)> {
    let mut cells = Vec::new();
    for (label, work) in WORKS {
        for (threads, connections) in SIZES {
            let name = format!("{threads} / {connections} / {label}");
            cells.push((name, Cell { threads, connections, hold: Hold::Driver }, work));
        }
    }
    cells.retain(|(name, ..)| settings.wants(name));
    if !settings.in_earnest {
        cells.retain(|(_, cell, _)| cell.threads == 32);
    }
    cells
}

fn main() {
    let defaults = Defaults { rounds: 5, millis: 500, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let cluster = Cluster::start_with(&[("max_connections", "200")]);
    cluster.psql(SCHEMA);
    let version = cluster.psql("SELECT split_part(version(), ' on ', 1)");
    let cells = cells(&settings);
    let turns = cells.len() * (3 + bounds().len() + usize::from(with_reset_off()));
    let progress = Progress::new(turns * settings.rounds as usize);
    let mut reports = Vec::new();
    for (name, cell, work) in cells {
        let mut contestants = contestants(&cluster, cell.connections, work);
        let report = rounds::measure(name, &cell, &mut contestants, &settings, &progress);
        let table = table::of_cell(&report, &REFERENCES).text();
        progress.say(&format!("{} (threads / connections / work)\n{table}", report.name));
        reports.push(report);
    }
    let notes = vec![version.trim().to_string()];
    let report = Report::new("postgres", Machine::inspect(), &settings, notes, reports);
    fairpool_bench::finish(&report, &settings);
}
