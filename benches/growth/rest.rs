//! A pool at rest: the memory of the pool and of each idle connection, and its
//! threads.

use std::fs;
use std::thread;
use std::time::Duration;

use stats_alloc::Region;

use crate::measure::{Row, Scale, Stub, builder};

/// A worker that has nothing to do ends after two seconds.
const AT_REST: Duration = Duration::from_millis(2300);

pub fn measure(scale: &Scale) -> Vec<Row> {
    let mut rows = Vec::new();
    for &size in scale.pools {
        let threads_before = threads();
        let region = Region::new(crate::ALLOCATOR);
        let pool = builder(size).build(Stub).expect("the stub never fails");
        if scale.rounds > 1 {
            thread::sleep(AT_REST);
        }
        let change = region.change();
        let bytes = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
        let row = |subject, unit, value| Row { subject, size, unit, values: vec![value] };
        rows.push(row("memory of a pool at rest", "B", bytes));
        rows.push(row("the same per connection", "B", bytes / f64::from(size)));
        let threads = threads() as f64 - threads_before as f64;
        rows.push(row("threads of a pool at rest", "", threads));
        drop(pool);
    }
    rows
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("a Linux kernel").count()
}
