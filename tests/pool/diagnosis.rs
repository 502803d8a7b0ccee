//! The diagnosis of a pool: each problem is found, and nothing is found without a problem. And
//! the dump of its state.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::diagnosis::{Diagnosis, FindingKind, Severity};
use fairpool::snapshot::Snapshot;
use fairpool::{Builder, CancelToken, Error, ErrorKind, Pool, PooledConnection};
use fairpool_testing::stub::{
    Conn, Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, watched,
};

use crate::support::ms;

use FindingKind::*;

/// Where [`leak`] and [`Callers`] get connections.
const HELPERS: &str = file!();

/// Longer than any test that passes.
const LONG: Duration = Duration::from_secs(60);

type Guard = PooledConnection<Manager>;

fn pool_of(server: &Server, settings: Builder<Manager>) -> Pool<Manager> {
    settings.connection_timeout(LONG).build(server.manager()).unwrap()
}

fn pool(size: u32) -> Pool<Manager> {
    pool_of(&Server::new(), builder(size))
}

fn kinds(diagnosis: &Diagnosis) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = diagnosis.findings.iter().map(|finding| finding.kind).collect();
    kinds.sort();
    kinds
}

/// Diagnoses until exactly these findings appear; how long that takes is not tested.
#[track_caller]
fn found(pool: &Pool<Manager>, expected: &[FindingKind]) -> Diagnosis {
    let start = Instant::now();
    loop {
        let diagnosis = pool.diagnose_over(ms(150)).unwrap();
        if kinds(&diagnosis) == expected {
            return diagnosis;
        }
        assert!(start.elapsed() < WATCHDOG, "not {expected:?}: {diagnosis}");
    }
}

/// The diagnosis finds nothing any more.
#[track_caller]
fn cured(pool: &Pool<Manager>) {
    let diagnosis = found(pool, &[]);
    assert!(diagnosis.is_healthy() && diagnosis.severity().is_none());
    assert!(diagnosis.to_string().contains("nothing found"), "{diagnosis}");
}

fn evidence(diagnosis: &Diagnosis, kind: FindingKind) -> String {
    diagnosis.finding(kind).expect("this finding").evidence.join("\n")
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

/// Gets connections on a thread with this name, which ends. Returns also the line.
fn leak(pool: &Pool<Manager>, thread: &str, number: usize) -> (Vec<Guard>, u32) {
    let pool = pool.clone();
    let body = move || ((0..number).map(|_| pool.get().unwrap()).collect(), line!());
    thread::Builder::new().name(thread.into()).spawn(body).unwrap().join().unwrap()
}

/// Callers that wait until they are served, each on a thread of its own.
struct Callers {
    threads: Vec<JoinHandle<Result<(), Error>>>,
    line: u32,
}

impl Callers {
    /// Returns when all of them are in the queue.
    fn wait(pool: &Pool<Manager>, number: u32) -> Callers {
        let before = pool.stats().waiting;
        let mut line = 0;
        let threads = (0..number).map(|caller| {
            let pool = pool.clone();
            let body = move || pool.get_timeout(LONG).map(drop);
            line = line!() - 1;
            thread::Builder::new().name(format!("caller-{caller}")).spawn(body).unwrap()
        });
        let threads = threads.collect();
        eventually("they wait", || pool.stats().waiting == before + number);
        Callers { threads, line }
    }

    fn served(self) {
        let all = self.threads;
        watched("callers", move || all.into_iter().for_each(|t| t.join().unwrap().unwrap()));
    }
}

mod dump;
mod findings;
