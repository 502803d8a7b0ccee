//! A pool at rest: the memory of the pool and of each idle connection, and its threads.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use stats_alloc::Region;

use crate::measure::{Scale, builder};
use fairpool_bench::growth::{Growth, Unit};
use fairpool_bench::stub::Stub;

/// An idle worker exits after two seconds.
const AT_REST: Duration = Duration::from_millis(2300);

pub fn measure(scale: &Scale) -> Vec<Growth> {
    let mut rows = Vec::new();
    for &size in scale.pools {
        let (empty, _) = at_rest(scale, size, 0);
        let (full, threads) = at_rest(scale, size, size);
        let row = |subject: &str, unit, figure| Growth {
            subject: subject.to_string(),
            size,
            unit,
            rounds: vec![figure],
        };
        rows.push(row("memory of a pool without connections", Unit::Bytes, empty));
        rows.push(row("memory per idle connection", Unit::Bytes, (full - empty) / f64::from(size)));
        rows.push(row("threads of a pool at rest", Unit::Threads, threads));
    }
    rows
}

/// The bytes and threads of a pool with this number of connections.
fn at_rest(scale: &Scale, size: u32, connections: u32) -> (f64, f64) {
    let threads_before = threads();
    let region = Region::new(crate::ALLOCATOR);
    let builder = builder(size).min_idle(Some(connections));
    let pool = builder.build(Stub).expect("the stub never fails");
    if scale.rounds > 1 {
        thread::sleep(AT_REST);
    }
    let change = region.change();
    let bytes = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    let threads = threads() as f64 - threads_before as f64;
    // Frees the memory before the next pool is measured.
    let _ = pool.close(Instant::now() + AT_REST);
    (bytes, threads)
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("a Linux kernel").count()
}
