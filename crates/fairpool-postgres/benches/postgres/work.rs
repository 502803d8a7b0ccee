//! What a contestant does with a connection: the texts, keys and rows that all of them use.

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The work of one operation. Queries and updates are by primary key, with parameters, unless
/// they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// One query.
    ByKey,
    /// Begin, read a row, change it, commit. No other thread changes that row, so that nothing
    /// waits for a lock of the server.
    Transaction,
    /// Three queries, with computing between them, and a transaction of one update.
    Request,
    /// One round trip, with nothing to prepare.
    Select,
    /// Three round trips, with nothing to prepare.
    Text,
}

pub const WORKS: [(&str, Work); 5] = [
    ("by key", Work::ByKey),
    ("transaction", Work::Transaction),
    ("whole request", Work::Request),
    ("SELECT 1", Work::Select),
    ("BEGIN, UPDATE, COMMIT", Work::Text),
];

pub const ITEM: &str = "SELECT name, price FROM item WHERE id = $1";
pub const READ: &str = "SELECT value FROM counter WHERE id = $1";
pub const WRITE: &str = "UPDATE counter SET value = $2 WHERE id = $1";
pub const ADD: &str = "UPDATE counter SET value = value + $2 WHERE id = $1";

/// The queries of [`Work::Request`].
pub const QUERIES: usize = 3;
/// The computing of [`Work::Request`] in total, half of it between two queries each.
const COMPUTING: Duration = Duration::from_micros(50);

const ITEMS: i32 = 100_000;
/// More than the threads at any time.
const ROWS: u32 = 1024;
/// Each page of `counter` has room for new versions of its rows.
pub const SCHEMA: &str = "
    CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, price bigint NOT NULL);
    INSERT INTO item SELECT id, 'item ' || id, id * 7 % 1000 FROM generate_series(1, 100000) id;
    CREATE TABLE counter (id int PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 25);
    INSERT INTO counter SELECT id, 0 FROM generate_series(0, 1023) id;
    ANALYZE item, counter";

/// Of one thread or one task.
pub struct Own {
    /// The row that only it changes.
    pub row: i32,
    keys: StdRng,
}

impl Own {
    pub fn new() -> Own {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Own { row: (number % ROWS) as i32, keys: StdRng::seed_from_u64(number.into()) }
    }

    /// The key of any item.
    pub fn key(&mut self) -> i32 {
        self.keys.random_range(1..=ITEMS)
    }

    pub fn update(&self) -> String {
        format!("UPDATE counter SET value = value + 1 WHERE id = {}", self.row)
    }
}

/// Computes for half of the time of a request's computing: always the same steps, so that they
/// cost each contestant the same CPU time, whatever else runs.
pub fn compute() {
    static STEPS: OnceLock<u32> = OnceLock::new();
    mix(*STEPS.get_or_init(steps));
}

/// The steps that take this long on a core of their own: of some tries the fastest counts.
fn steps() -> u32 {
    const TRY: u32 = 100_000;
    let time = || {
        let start = Instant::now();
        mix(TRY);
        start.elapsed()
    };
    let fastest = (0..50).map(|_| time()).min().expect("some tries");
    (f64::from(TRY) * (COMPUTING / 2).as_secs_f64() / fastest.as_secs_f64()) as u32
}

fn mix(steps: u32) {
    let mut value = 1_u64;
    for _ in 0..steps {
        value = black_box(value).wrapping_mul(6_364_136_223_846_793_005).rotate_left(17);
    }
    black_box(value);
}
