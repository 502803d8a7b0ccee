//! The one resident thread: it acts on the passing of time.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::{self, Arc, AtomicBool, JoinHandle, Mutex, Ordering};

/// The reaper does not look more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// When it could not start a thread for a job, it tries again after this long.
const BACKLOG_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Reaper {
    /// Room for one: a wake-up that is under way serves for all. `None` once
    /// stopped.
    wake: Mutex<Option<Sender<()>>>,
    ticks: Receiver<()>,
    running: AtomicBool,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Reaper {
    pub(crate) fn new() -> Reaper {
        let (wake, ticks) = bounded(1);
        Reaper {
            wake: Mutex::new(Some(wake)),
            ticks,
            running: AtomicBool::new(false),
            handle: Mutex::new(None),
        }
    }

    /// Starts the thread if it does not run. If the system has none to give, the
    /// next transition of the pool tries again.
    #[inline]
    pub(crate) fn ensure<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        if !self.running.load(Ordering::Relaxed) {
            self.start(shared);
        }
    }

    #[cold]
    fn start<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        let stopped = self.wake.lock().is_none();
        if stopped || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        // Dropped with the thread's body, also if the thread cannot be started.
        let running = Running(Arc::clone(shared));
        let body = move || running.0.reaper.run(&running.0);
        if let Some(started) = shared.spawn(format!("{}-reaper", shared.config.name), body) {
            *self.handle.lock() = Some(started);
        }
    }

    /// Has it look now and plan anew.
    pub(crate) fn wake(&self) {
        if let Some(wake) = &*self.wake.lock() {
            let _ = wake.try_send(());
        }
    }

    /// Has it end.
    pub(crate) fn stop(&self) {
        drop(self.wake.lock().take());
    }

    pub(crate) fn take_handle(&self) -> Option<JoinHandle<()>> {
        self.handle.lock().take()
    }

    fn run<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        loop {
            let next = shared.transition(|core, now, fx| core.tick(now, fx));
            let backlog = shared.workers.retry(shared);
            let now = shared.clock.now();
            let mut sleep_until = next.max(now.after(SHORTEST_SLEEP));
            if backlog {
                sleep_until = sleep_until.min(now.after(BACKLOG_RETRY));
            }
            let woken = match shared.clock.instant_of(sleep_until) {
                None => self.ticks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.ticks.recv_deadline(at),
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
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
