//! Measurements. In a process of their own, and one after another: tests beside them would
//! change what they measure, and one of them takes all the threads that the machine gives.
//!
//! ```sh
//! FAIRPOOL_ROUNDS=5 cargo test --release -p fairpool --no-default-features --test timing -- --nocapture | grep figure
//! ```
//!
//! `FAIRPOOL_OVERSHOOT_MS` sets which overshoot fails a test.

mod closes;
mod crowd;
mod overshoot;

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use fairpool_testing::stub::{WATCHDOG, from_env, lock};

/// Runs one measurement at a time, each on a thread of its own, so that a pool that hangs
/// does not hang the test. `expected` is how long it may take on an idle machine.
fn alone(expected: Duration, measure: impl FnOnce() + Send + 'static) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = lock(&ALONE);
    let (running, ended) = mpsc::channel::<()>();
    let runner = thread::spawn(move || {
        let _running = running; // dropped at the end, also by a panic
        measure();
    });
    let ended = ended.recv_timeout(2 * WATCHDOG + expected);
    assert_ne!(ended, Err(RecvTimeoutError::Timeout), "the pool hangs");
    runner.join().unwrap_or_else(|payload| resume_unwind(payload));
}

/// The promise is 10 ms on an idle machine; a busy one only gets a watchdog.
fn allowed_overshoot() -> Duration {
    Duration::from_millis(from_env("FAIRPOOL_OVERSHOOT_MS").unwrap_or(2000))
}
