//! The resident thread, which acts on the passing of time: when it sleeps and what wakes
//! it. What it does when awake is in `host.rs`.

use std::time::{Duration, Instant};

use super::threads::Host;
use crate::sync::{self, Arc, AtomicBool, Condvar, Mutex, Ordering, wait_until};

/// After a failed spawn, the next attempt follows after this time.
pub(crate) const SPAWN_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Reaper {
    signal: Mutex<Signal>,
    signalled: Condvar,
    running: Arc<AtomicBool>,
    /// How often the thread has woken up.
    #[cfg(test)]
    pub(super) wake_ups: sync::PlainU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    None,
    /// There are events to deliver; nothing else has changed.
    Deliver,
    /// Run `tick`. One signal serves for all that come before it is seen.
    Tick,
    Stop,
}

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    ToStop,
    ToTick,
    /// It is time, or there are events to deliver.
    Otherwise,
}

impl Reaper {
    pub(crate) fn new() -> Reaper {
        Reaper {
            signal: Mutex::new(Signal::None),
            signalled: Condvar::new(),
            running: Arc::new(AtomicBool::new(false)),
            #[cfg(test)]
            wake_ups: sync::PlainU64::new(0),
        }
    }

    /// Spawns the thread if it does not run. If the system has no thread to give, the
    /// next transition of the pool tries again.
    #[inline]
    pub(crate) fn ensure<H: Host>(&self, host: &Arc<H>, pool: &str) {
        if sync::THREADS && !self.running.load(Ordering::Relaxed) {
            self.spawn(host, pool);
        }
    }

    #[cold]
    fn spawn<H: Host>(&self, host: &Arc<H>, pool: &str) {
        let stopped = *self.signal.lock() == Signal::Stop;
        if stopped || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        // Dropped with the thread's body, also if the thread could not be spawned.
        let running = Running(Arc::clone(&self.running));
        let host_of_body = Arc::clone(host);
        let body = move || {
            let _running = running;
            host_of_body.run_reaper();
        };
        host.spawn(format!("{pool}-reaper"), body);
    }

    /// Caps a sleep at `at`. Without a reaper thread, which is so only while the system
    /// has no thread to give, waiters wake every 100 ms to retry the spawn: there may be
    /// no other event.
    pub(crate) fn sleep_limit(&self, at: Option<Instant>) -> Option<Instant> {
        if !sync::THREADS || self.running.load(Ordering::Relaxed) {
            return at;
        }
        let soon = sync::instant() + SPAWN_RETRY;
        Some(at.map_or(soon, |at| at.min(soon)))
    }

    /// Wakes the reaper to run `tick` now.
    pub(crate) fn wake(&self) {
        self.send(Signal::Tick);
    }

    /// Wakes the reaper to deliver events now.
    pub(crate) fn wake_to_deliver(&self) {
        self.send(Signal::Deliver);
    }

    fn send(&self, new: Signal) {
        let was_none = {
            let mut signal = self.signal.lock();
            let was_none = *signal == Signal::None;
            if was_none || (*signal == Signal::Deliver && new == Signal::Tick) {
                *signal = new;
            }
            was_none
        };
        // Not lost: the reaper checks the signal under its lock before it sleeps. If
        // there was a signal already, the reaper has been or will be woken for that.
        if was_none {
            self.signalled.notify_one();
        }
    }

    /// Stops the thread.
    pub(crate) fn stop(&self) {
        *self.signal.lock() = Signal::Stop;
        self.signalled.notify_one();
    }

    /// Sleeps until there is a signal, or until the time given.
    pub(crate) fn sleep_until(&self, at: Option<Instant>) -> Woken {
        let mut signal = self.signal.lock();
        wait_until(&self.signalled, &mut signal, at, |signal| *signal != Signal::None);
        #[cfg(test)]
        self.wake_ups.fetch_add(1, sync::PlainOrdering::Relaxed);
        let woken = match *signal {
            Signal::Stop => return Woken::ToStop,
            Signal::Tick => Woken::ToTick,
            Signal::None | Signal::Deliver => Woken::Otherwise,
        };
        *signal = Signal::None;
        woken
    }
}

struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
