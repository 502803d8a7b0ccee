//! Child processes made by `fork`, for tests of what a pool does in one.
//!
//! A child has a copy of the memory, and only the thread that called `fork`. So tests that
//! fork should not run beside others in one process: [`alone`].
//!
//! The standard library has locks of the whole process, which it takes where a thread begins or
//! ends, and in `exit`. If another thread of the parent holds one at the fork, the child waits
//! for it for ever. So a child says that it has lived before it exits, and [`in_child`] makes
//! another child after one that hangs.
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

/// The last words of a child that has done all that it should.
const LIVED: &str = "lived";

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
            let Err(payload) = lived else {
                let _ = last_words.write_all(LIVED.as_bytes());
                exit(0)
            };
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

    /// Waits until the child has ended, and kills it if it hangs. Returns `false` if it hung in
    /// what it should do.
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
                return self.last_words() == LIVED;
            }
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(status, 0, "the child ended with this status: {}", self.last_words());
        true
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let _ = self.words.read_to_string(&mut text);
        text
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

/// Calls `live` in a child, and waits until that has ended. If it hangs, another child may do
/// it.
///
/// # Panics
///
/// As [`Child::join`], if both hang.
#[track_caller]
pub fn in_child(mut live: impl FnMut()) {
    if !fork(&mut live).ends() {
        fork(&mut live).join();
    }
}
