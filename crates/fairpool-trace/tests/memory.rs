//! What a recording costs before anything happens, and after it has ended. A global allocator
//! counts, for each thread by itself: hence a process of its own.

use std::time::Duration;

use allocation_counter::measure;
use fairpool::{Pool, WeakPool};
use fairpool_testing::StubManager;
use fairpool_testing::stub::{eventually, threads_named};
use fairpool_trace::Recorder;

fn pools(number: usize) -> (Vec<Pool<StubManager>>, Vec<WeakPool>) {
    let build = |_| Pool::builder().max_size(2).build(StubManager).expect("a stub");
    let pools: Vec<_> = (0..number).map(build).collect();
    let weak = pools.iter().map(Pool::downgrade).collect();
    (pools, weak)
}

#[test]
fn a_recording_of_a_hundred_idle_pools_takes_kilobytes() {
    let (_pools, weak) = pools(100);
    let mut recorder = None;
    let started = measure(|| recorder = Recorder::start(&weak).ok());
    assert!(recorder.is_some());
    assert!(started.bytes_max < 100 * 8192, "{started:?}");
}

#[test]
fn finished_recordings_of_an_idle_pool_leave_nothing_behind() {
    let (_pool, weak) = pools(1);
    let record = || drop(fairpool_trace::record(&weak, Duration::from_millis(1)));
    // What the recorder's thread frees is not counted, so a little may seem to be left.
    let all = measure(|| (0..100).for_each(|_| record()));
    assert!(all.bytes_current < 100 * 8192, "{all:?}");
}

#[test]
fn a_dropped_recorder_ends_its_thread() {
    let (_pool, weak) = pools(1);
    (0..100).for_each(|_| drop(Recorder::start(&weak).expect("a pool and a thread")));
    eventually("no recorder runs", || threads_named("fairpool-record") == 0);
}
