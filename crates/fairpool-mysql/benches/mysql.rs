//! A MariaDB server through fairpool and through the driver's own pool, with its ping at each
//! checkout and its reset at each return, and without both.
//!
//! Run it with `scripts/bench mysql`. For the options see
//! `cargo bench -p fairpool-mysql --bench mysql -- --help`. It starts a server of its own and
//! removes it at the end. The pools have their defaults, except for the size. Under `cargo test`
//! one short round of one cell shows that it runs.

use std::marker::PhantomData;
use std::ops::DerefMut;
use std::sync::atomic::{AtomicU32, Ordering};

use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::pass::Source;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::rounds::{self, Contestant, local};
use fairpool_bench::settings::{Defaults, Settings};
use fairpool_bench::table;
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{
    self, Error, OptsBuilder, PoolConstraints, PoolOpts, PooledConn, TxOpts,
};
use fairpool_mysql::{Connection, MysqlConnectionManager as Manager};
use fairpool_servers::mariadb::MariaDb;

/// What a thread does with a connection.
#[derive(Clone, Copy)]
enum Work {
    /// One round trip.
    Text,
    /// One round trip, and one more where it is not prepared yet.
    Prepared,
    /// Three round trips. The second changes a row that no other thread changes, so that
    /// nothing waits for a lock of the server.
    Transaction,
}

const WORKS: [(&str, Work); 3] =
    [("SELECT 1", Work::Text), ("prepared", Work::Prepared), ("transaction", Work::Transaction)];
const SIZES: [(usize, u32); 3] = [(1, 1), (8, 8), (32, 8)];

/// More than the threads at any time.
const ROWS: u32 = 1024;
const SCHEMA: &str = "
    USE shop;
    CREATE TABLE counter (id int PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO counter SELECT seq, 0 FROM seq_0_to_1023";

/// The tables show ratios to these first.
const REFERENCES: [&str; 2] = ["mysql::Pool", "mysql::Pool without ping and reset"];

thread_local! {
    /// The row that only this thread changes.
    static ROW: u32 = {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % ROWS
    };
}

/// A connection of either kind. The work is the same text for both.
trait Client {
    fn run(&mut self, work: Work) -> Result<(), Error>;
}

macro_rules! client {
    ($client:ty) => {
        impl Client for $client {
            fn run(&mut self, work: Work) -> Result<(), Error> {
                let row = ROW.with(|&row| row);
                match work {
                    Work::Text => self.query_drop("SELECT 1"),
                    Work::Prepared => {
                        self.exec_drop("SELECT value FROM counter WHERE id = ?", (row,))
                    }
                    Work::Transaction => {
                        let mut transaction = self.start_transaction(TxOpts::default())?;
                        let sql = format!("UPDATE counter SET value = value + 1 WHERE id = {row}");
                        transaction.query_drop(sql)?;
                        transaction.commit()
                    }
                }
            }
        }
    };
}

client!(mysql::Conn);
client!(Connection);

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

fn fairpool(server: &MariaDb, connections: u32, work: Work) -> Box<dyn Contestant> {
    let manager = Manager::from_url(&server.url()).expect("a URL");
    let builder = fairpool::Pool::builder().max_size(connections);
    let pool = builder.build(manager).expect("the server answers");
    let get = move || pool.get().expect("a connection");
    local("fairpool", Pooled { get, work, client: PhantomData })
}

/// Over TCP, as fairpool.
fn own(
    server: &MariaDb,
    connections: u32,
    work: Work,
    safe: bool,
    name: &str,
) -> Box<dyn Contestant> {
    let size = connections as usize;
    let pool = PoolOpts::new()
        .with_constraints(PoolConstraints::new(size, size).expect("a size"))
        .with_reset_connection(safe)
        .with_check_health(safe);
    let options = mysql::Opts::from_url(&server.url()).expect("a URL");
    let options = OptsBuilder::from_opts(options).prefer_socket(false).pool_opts(pool);
    let pool = mysql::Pool::new(options).expect("the server answers");
    let get = move || -> PooledConn { pool.get_conn().expect("a connection") };
    local(name, Pooled { get: move || Own(get()), work, client: PhantomData })
}

/// The driver's pooled connection, which gives its connection by a method only.
struct Own(PooledConn);

impl std::ops::Deref for Own {
    type Target = mysql::Conn;

    fn deref(&self) -> &mysql::Conn {
        self.0.as_ref()
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut mysql::Conn {
        self.0.as_mut()
    }
}

fn contestants(server: &MariaDb, connections: u32, work: Work) -> Vec<Box<dyn Contestant>> {
    vec![
        fairpool(server, connections, work),
        own(server, connections, work, true, REFERENCES[0]),
        own(server, connections, work, false, REFERENCES[1]),
    ]
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
    let server = MariaDb::start();
    server.sql(SCHEMA);
    let version = server.sql("SELECT version()");
    let cells = cells(&settings);
    let progress = Progress::new(cells.len() * 3 * settings.rounds as usize);
    let mut reports = Vec::new();
    for (name, cell, work) in cells {
        let mut contestants = contestants(&server, cell.connections, work);
        let report = rounds::measure(name, &cell, &mut contestants, &settings, &progress);
        let table = table::of_cell(&report, &REFERENCES).text();
        progress.say(&format!("{} (threads / connections / work)\n{table}", report.name));
        reports.push(report);
    }
    let notes = vec![version];
    let report = Report::new("mysql", Machine::inspect(), &settings, notes, reports);
    fairpool_bench::finish(&report, &settings);
}
