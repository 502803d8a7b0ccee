//! The cost of observers, with a driver that does nothing: a pool without one, a pool with
//! a subscriber that reads every event, and a pool whose inspector a program reads each
//! second, all but the traces. Run it with `scripts/bench watching`. Under `cargo test` one
//! short round shows that it runs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::machine::Machine;
use fairpool_bench::progress::Progress;
use fairpool_bench::report::Report;
use fairpool_bench::rounds::{self, Contestant, local};
use fairpool_bench::settings::Defaults;
use fairpool_bench::stub::Fairpool;
use fairpool_bench::table;

/// The tables show ratios to this.
const REFERENCE: &str = "not observed";

const fn cell(threads: usize, connections: u32, hold: Hold) -> Cell {
    Cell { threads, connections, hold }
}

const CELLS: [Cell; 5] = [
    cell(1, 1, Hold::None),
    cell(8, 4, Hold::None),
    cell(1, 1, Hold::Busy(Duration::from_micros(10))),
    cell(8, 4, Hold::Busy(Duration::from_micros(10))),
    cell(32, 8, Hold::Sleeping(Duration::from_millis(1))),
];

/// The subscriber's capacity. Under the heaviest load events are lost.
const CAPACITY: usize = 4096;

fn pool(connections: u32) -> Fairpool {
    Fairpool::new(connections, |defaults| defaults)
}

/// A pool with a subscriber that reads every event until the pool is gone.
fn subscribed(connections: u32) -> Fairpool {
    let pool = pool(connections);
    let events = pool.downgrade().subscribe(CAPACITY).expect("the pool");
    thread::spawn(move || events.iter().for_each(drop));
    pool
}

/// A pool with an inspector, which is read each second until the pool is gone.
fn inspected(connections: u32) -> Fairpool {
    let pool = pool(connections);
    let weak = pool.downgrade();
    let server =
        fairpool_inspect::serve("127.0.0.1:0", std::slice::from_ref(&weak)).expect("loopback");
    thread::spawn(move || {
        while weak.snapshot().is_some() {
            for path in ["metrics", "snapshot.json", "history.json", "dump"] {
                let text = read(server.addr(), path).expect("the inspector answers");
                assert!(text.starts_with("HTTP/1.1 200"), "/{path}: {text}");
            }
            thread::sleep(Duration::from_secs(1));
        }
    });
    pool
}

fn read(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn contestants(cell: &Cell) -> Vec<Box<dyn Contestant>> {
    let connections = cell.connections;
    vec![
        local(REFERENCE, pool(connections)),
        local("a subscriber", subscribed(connections)),
        local("inspector", inspected(connections)),
    ]
}

fn main() {
    let defaults = Defaults { rounds: 9, millis: 400, temp: env!("CARGO_TARGET_TMPDIR") };
    let Some(settings) = fairpool_bench::begin(defaults) else { return };
    let mut cells = CELLS.to_vec();
    cells.retain(|cell| settings.wants(&cell.to_string()));
    let progress = Progress::new(cells.len() * 3 * settings.rounds as usize);
    let mut reports = Vec::new();
    for cell in &cells {
        let mut pools = contestants(cell);
        let name = cell.to_string();
        let report = rounds::measure(name, cell, &mut pools, &settings, &progress);
        let table = table::of_cell(&report, &[REFERENCE]).text();
        progress.say(&format!("{} (threads / connections / hold)\n{table}", report.name));
        reports.push(report);
    }
    let report = Report::new("watching", Machine::inspect(), &settings, Vec::new(), reports);
    fairpool_bench::finish(&report, &settings);
}
