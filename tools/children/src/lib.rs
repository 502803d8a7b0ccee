//! Child processes made by `fork`, for tests of what a pool does in one.
//!
//! A child has a copy of the memory, and only the thread that called `fork`. So tests that
//! fork should not run beside others in one process: [`alone`].
#![cfg(unix)]

use std::io::{Read, Write, pipe};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, exit};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fork::Fork;

/// A child that has not ended after this time hangs.
const WATCHDOG: Duration = Duration::from_secs(30);

/// A child that does one thing and ends.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    words: std::io::PipeReader,
    began: Instant,
}

/// The tests of a program that hold this run one after another.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a child, which calls `live` and ends without returning.
///
/// # Panics
///
/// If the system makes no child.
pub fn fork(live: impl FnOnce()) -> Child {
    let (words, mut last_words) = pipe().expect("a pipe");
    let began = Instant::now();
    match fork::fork().expect("a child") {
        Fork::Parent(pid) => Child { pid, words, began },
        Fork::Child => {
            panic::set_hook(Box::new(|_| {}));
            let lived = panic::catch_unwind(AssertUnwindSafe(live));
            let Err(payload) = lived else { exit(0) };
            let text = match payload.downcast::<String>() {
                Ok(text) => *text,
                Err(payload) => payload
                    .downcast::<&str>()
                    .map_or_else(|_| String::new(), |text| text.to_string()),
            };
            let _ = last_words.write_all(text.as_bytes());
            exit(1)
        }
    }
}

impl Child {
    /// Waits until the child has ended.
    ///
    /// # Panics
    ///
    /// If it panicked, was killed by a signal, or hangs.
    #[track_caller]
    pub fn join(self) {
        assert!(self.ends(), "the child hangs");
    }

    /// Waits until the child has ended. Returns `false` if it hangs; then it is killed.
    ///
    /// # Panics
    ///
    /// If it panicked, or was killed by a signal.
    #[track_caller]
    #[must_use]
    pub fn ends(mut self) -> bool {
        let status = loop {
            if let Some(status) = fork::waitpid_nohang(self.pid).expect("the child's status") {
                break status;
            }
            if self.began.elapsed() > WATCHDOG {
                let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
                let _ = fork::waitpid(self.pid);
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        };
        let mut text = String::new();
        if status != 0 {
            let _ = self.words.read_to_string(&mut text);
        }
        assert_eq!(status, 0, "the child ended with this status: {text}");
        true
    }
}

/// Makes a child that goes on with what the caller does, and ends when the calling thread does.
/// `None` in the child.
///
/// # Panics
///
/// As [`fork()`].
pub fn fork_and_return() -> Option<Child> {
    let (words, _) = pipe().expect("a pipe");
    match fork::fork().expect("a child") {
        Fork::Parent(pid) => Some(Child { pid, words, began: Instant::now() }),
        Fork::Child => None,
    }
}

/// Calls `live` in a child, and waits until that has ended.
///
/// # Panics
///
/// As [`Child::join`].
#[track_caller]
pub fn in_child(live: impl FnOnce()) {
    fork(live).join();
}
