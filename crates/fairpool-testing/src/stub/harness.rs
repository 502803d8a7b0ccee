//! Waiting with a limit, silent panics, and counts of threads.

use std::panic::resume_unwind;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The limit of every wait for something that should happen at once.
pub const WATCHDOG: Duration = Duration::from_secs(10);

/// Polls until `is_so` returns `true`.
///
/// # Panics
///
/// If it does not within [`WATCHDOG`]; the message contains `what`.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < WATCHDOG, "did not happen within {WATCHDOG:?}: {what}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Runs on a thread of its own what must not block for ever, and returns its result.
///
/// # Panics
///
/// If it does not return within [`WATCHDOG`] (the message contains `what`), or if it panics
/// itself.
#[track_caller]
pub fn watched<R: Send + 'static>(what: &str, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let runner = thread::spawn(move || {
        let _ = done.send(run());
    });
    match result.recv_timeout(WATCHDOG) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still blocked after {WATCHDOG:?}: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match runner.join() {
            Err(payload) => resume_unwind(payload),
            Ok(()) => unreachable!("it ended without a result: {what}"),
        },
    }
}

/// Locks a mutex even if a scripted panic poisoned it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panics without a message on the terminal: no panic hook runs.
///
/// # Panics
///
/// Always.
pub fn silent_panic() -> ! {
    resume_unwind(Box::new("a scripted panic"))
}

/// How many threads of this process have a name that starts with `prefix`. Those of the pools
/// start with `fairpool-`; the system keeps the first 15 bytes. Always 0 on systems without
/// `/proc`.
pub fn threads_named(prefix: &str) -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

/// A setting of a test run from an environment variable, if that is set.
///
/// # Panics
///
/// If it is set to something that cannot be parsed.
pub fn from_env<T: FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} cannot be {text:?}")))
}
