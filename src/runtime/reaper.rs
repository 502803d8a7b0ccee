//! The one resident thread: it acts on the passing of time.

use std::time::{Duration, Instant};

use crate::core::Time;
use crate::types::manage::ManageConnection;
use crate::runtime::shared::Shared;
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
    /// There are events to deliver; nothing else has changed.
    Events,
    /// One ring serves for all that come before it is heard.
    Rung,
    Stopped,
}

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Stopped,
    /// Something has changed: look now.
    Rung,
    /// Nothing that matters to the core, or it was time.
    Otherwise,
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
        self.ring(Bell::Rung);
    }

    /// Has it deliver events now.
    pub(crate) fn wake_to_deliver(&self) {
        self.ring(Bell::Events);
    }

    fn ring(&self, what: Bell) {
        let silent = {
            let mut bell = self.bell.lock();
            let silent = *bell == Bell::Silent;
            if silent || (*bell == Bell::Events && what == Bell::Rung) {
                *bell = what;
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

    /// Waits until somebody wakes it, or for the time given.
    pub(crate) fn sleep_until(&self, at: Option<Instant>) -> Woken {
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
        match *bell {
            Bell::Stopped => Woken::Stopped,
            Bell::Rung => {
                *bell = Bell::Silent;
                Woken::Rung
            }
            Bell::Silent | Bell::Events => {
                *bell = Bell::Silent;
                Woken::Otherwise
            }
        }
    }

    /// The life of the thread.
    pub(crate) fn run<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        let mut look_at = Time::START;
        loop {
            if look_at <= shared.clock.now() {
                let next = shared.transition(|core, now, fx| core.tick(now, fx));
                let backlog = shared.workers.retry(shared);
                let now = shared.clock.now();
                look_at = next.max(now.after(SHORTEST_SLEEP));
                if backlog {
                    look_at = look_at.min(now.after(BACKLOG_RETRY));
                }
            }
            let others = [shared.probe(), shared.deliver()];
            let sleep_until = others.into_iter().flatten().fold(look_at, Time::min);
            match self.sleep_until(shared.clock.instant_of(sleep_until)) {
                Woken::Stopped => break,
                Woken::Rung => look_at = Time::START,
                Woken::Otherwise => {}
            }
        }
        shared.end_subscriptions();
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
