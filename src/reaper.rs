//! The one resident thread: it acts on the passing of time.

use std::time::{Duration, Instant};

use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::{self, Arc, AtomicBool, Condvar, Mutex, Ordering};

/// The reaper does not look more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// When it could not start a thread for a job, it tries again after this long.
const BACKLOG_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Reaper {
    bell: Mutex<Bell>,
    rung: Condvar,
    running: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bell {
    Silent,
    /// One ring serves for all that come before it is heard.
    Rung,
    Stopped,
}

impl Reaper {
    pub(crate) fn new() -> Reaper {
        Reaper {
            bell: Mutex::new(Bell::Silent),
            rung: Condvar::new(),
            running: AtomicBool::new(false),
        }
    }

    /// Starts the thread if it does not run. If the system has none to give, the
    /// next transition of the pool tries again.
    #[inline]
    pub(crate) fn ensure<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        if sync::THREADS && !self.running.load(Ordering::Relaxed) {
            self.start(shared);
        }
    }

    #[cold]
    fn start<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        let stopped = *self.bell.lock() == Bell::Stopped;
        if stopped || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        // Dropped with the thread's body, also if the thread cannot be started.
        let running = Running(Arc::clone(shared));
        let body = move || running.0.reaper.run(&running.0);
        shared.spawn(format!("{}-reaper", shared.config.name), body);
    }

    /// Until when somebody may sleep who wants to sleep until `at`. Without a
    /// reaper, which is so only while the system has no thread to give, whoever
    /// waits looks up now and then to start one: there may be no other event.
    pub(crate) fn sleep_limit(&self, at: Option<Instant>) -> Option<Instant> {
        if !sync::THREADS || self.running.load(Ordering::Relaxed) {
            return at;
        }
        let soon = sync::instant() + BACKLOG_RETRY;
        Some(at.map_or(soon, |at| at.min(soon)))
    }

    /// Has it look now and plan anew.
    pub(crate) fn wake(&self) {
        let silent = {
            let mut bell = self.bell.lock();
            let silent = *bell == Bell::Silent;
            if silent {
                *bell = Bell::Rung;
            }
            silent
        };
        if silent {
            self.rung.notify_one();
        }
    }

    /// Has it end.
    pub(crate) fn stop(&self) {
        *self.bell.lock() = Bell::Stopped;
        self.rung.notify_one();
    }

    /// Waits until somebody wakes it, or for the time given. `false`: it was
    /// stopped.
    pub(crate) fn sleep_until(&self, at: Option<Instant>) -> bool {
        let mut bell = self.bell.lock();
        while *bell == Bell::Silent {
            match at {
                None => self.rung.wait(&mut bell),
                Some(at) => {
                    if self.rung.wait_until(&mut bell, at).timed_out() {
                        break;
                    }
                }
            }
        }
        if *bell == Bell::Rung {
            *bell = Bell::Silent;
        }
        *bell != Bell::Stopped
    }

    /// The life of the thread.
    pub(crate) fn run<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        loop {
            let next = shared.transition(|core, now, fx| core.tick(now, fx));
            let backlog = shared.workers.retry(shared);
            let now = shared.clock.now();
            let mut sleep_until = next.max(now.after(SHORTEST_SLEEP));
            if backlog {
                sleep_until = sleep_until.min(now.after(BACKLOG_RETRY));
            }
            if !self.sleep_until(shared.clock.instant_of(sleep_until)) {
                break;
            }
        }
        // The pool is gone, but what it left behind has to be cleaned up.
        while shared.workers.retry(shared) {
            sync::sleep(BACKLOG_RETRY);
        }
    }
}

struct Running<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Drop for Running<M> {
    fn drop(&mut self) {
        self.0.reaper.running.store(false, Ordering::Release);
    }
}
