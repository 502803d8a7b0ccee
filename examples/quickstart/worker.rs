//! One thread's work: get a connection, use it, give it back, and count.

use std::collections::BTreeMap;
use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bank::{ACCOUNTS, Bank, Failure, Pools, Transfer};
use crate::problem::chain;

/// A database that is down fails each operation in microseconds: this bounds the retries.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);
/// How many different error messages a worker remembers.
const MESSAGES: usize = 5;
/// How many of its transfers a worker adds up at a time.
const RECENT: i64 = 20;

/// What the workers and the thread that watches them share.
#[derive(Debug, Default)]
pub struct Board {
    pub stop: AtomicBool,
    pub operations: AtomicU64,
}

/// What one worker has done, by its own count.
#[derive(Debug)]
pub struct Tally {
    pub worker: u32,
    pub reads: u64,
    /// Transfers that the database has confirmed, and what they moved.
    pub transfers: i64,
    pub amount: i64,
    /// Transfers that were sent and neither confirmed nor refused.
    pub in_doubt: i64,
    pub retries: u64,
    pub timeouts: u64,
    /// Time in a get in nanoseconds, with or without a connection as the result.
    pub read_wait: Histogram<u64>,
    pub write_wait: Histogram<u64>,
    /// Each unexpected error and how often it happened.
    pub errors: BTreeMap<String, u64>,
}

/// A thread that works until the board says stop.
pub struct Worker<'a, B: Bank> {
    pools: &'a B::Pools,
    bank: &'a B,
    board: &'a Board,
    timeout: Duration,
    random: StdRng,
    next_number: i64,
    tally: Tally,
}

/// What to do next.
enum Operation {
    Balance(i64),
    Turnover,
    Transfer(Transfer),
}

impl<'a, B: Bank> Worker<'a, B> {
    pub fn new(
        id: u32,
        pools: &'a B::Pools,
        bank: &'a B,
        board: &'a Board,
        timeout: Duration,
    ) -> Worker<'a, B> {
        // The same numbers in every run.
        let random = StdRng::seed_from_u64(id.into());
        Worker { pools, bank, board, timeout, random, next_number: 0, tally: Tally::new(id) }
    }

    pub fn work(mut self) -> Tally {
        while !self.stopped() {
            let operation = self.choose();
            // Repeats the operation until it succeeds or must not be repeated.
            while let Err(failure) = self.attempt(&operation) {
                if !self.may_retry(failure) || self.stopped() {
                    break;
                }
            }
        }
        self.tally
    }

    /// Everything that a user of a pool has to do.
    fn attempt(&mut self, operation: &Operation) -> Result<(), Attempt> {
        let start = Instant::now();
        let (result, wait) = match operation {
            Operation::Transfer(_) => (self.pools.write(self.timeout), &mut self.tally.write_wait),
            _ => (self.pools.read(self.timeout), &mut self.tally.read_wait),
        };
        wait.saturating_record(nanoseconds(start.elapsed()));

        let mut conn = result.map_err(Attempt::NoConnection)?;
        match operation {
            Operation::Balance(account) => {
                hint::black_box(self.bank.balance(&mut conn, *account)?);
                self.tally.reads += 1;
            }
            Operation::Turnover => {
                let from = self.next_number - RECENT;
                hint::black_box(self.bank.turnover(&mut conn, self.tally.worker, from)?);
                self.tally.reads += 1;
            }
            Operation::Transfer(transfer) => {
                self.bank.transfer(&mut conn, transfer)?;
                self.tally.transfers += 1;
                self.tally.amount += transfer.amount;
            }
        }
        self.board.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
        // The connection goes back to the pool here.
    }

    /// Counts a failure. Returns whether to try the same again.
    fn may_retry(&mut self, failure: Attempt) -> bool {
        match failure {
            Attempt::NoConnection(e) if e.is_timeout() => self.tally.timeouts += 1,
            Attempt::Failed(Failure::Contention) => self.tally.retries += 1,
            Attempt::NoConnection(e) => self.record(chain(&e)),
            Attempt::Failed(Failure::Driver(text)) => self.record(text),
            Attempt::Failed(Failure::InDoubt(text)) => {
                self.tally.in_doubt += 1;
                self.record(text);
                // Sent again, it might be in the ledger twice.
                return false;
            }
        }
        true
    }

    fn record(&mut self, text: String) {
        let errors = &mut self.tally.errors;
        let known = errors.len() < MESSAGES || errors.contains_key(&text);
        *errors.entry(if known { text } else { "other errors".into() }).or_default() += 1;
        thread::sleep(PAUSE_AFTER_ERROR);
    }

    /// Of ten operations six are point reads, two aggregates and two transfers.
    fn choose(&mut self) -> Operation {
        match self.random.random_range(0..10) {
            0..6 => Operation::Balance(self.random.random_range(1..=ACCOUNTS)),
            6..8 => Operation::Turnover,
            _ => Operation::Transfer(self.invent_transfer()),
        }
    }

    fn invent_transfer(&mut self) -> Transfer {
        let payer = self.random.random_range(0..ACCOUNTS);
        // Any other account.
        let payee = (payer + self.random.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let number = self.next_number;
        self.next_number += 1;
        Transfer {
            worker: self.tally.worker,
            number,
            payer: 1 + payer,
            payee: 1 + payee,
            amount: self.random.random_range(1..=100),
        }
    }

    fn stopped(&self) -> bool {
        self.board.stop.load(Ordering::Relaxed)
    }
}

impl Tally {
    fn new(worker: u32) -> Tally {
        Tally {
            worker,
            reads: 0,
            transfers: 0,
            amount: 0,
            in_doubt: 0,
            retries: 0,
            timeouts: 0,
            read_wait: wait_histogram(),
            write_wait: wait_histogram(),
            errors: BTreeMap::new(),
        }
    }

    pub fn operations(&self) -> u64 {
        self.reads + self.transfers.unsigned_abs()
    }
}

/// From a microsecond to longer than `--timeout-ms` can be, to one part in a hundred.
pub fn wait_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 120_000_000_000, 2).expect("BUG: bounds out of order")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Why an attempt has no result.
enum Attempt {
    NoConnection(fairpool::Error),
    Failed(Failure),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Attempt {
        Attempt::Failed(failure)
    }
}
