//! The one resident thread: it acts on the passing of time.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::{self, Arc, JoinHandle, Mutex};

/// The reaper does not look more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// When it could not start a thread for a job, it tries again after this long.
const BACKLOG_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Reaper {
    /// Room for one: a wake-up that is under way serves for all. `None` once
    /// stopped.
    wake: Mutex<Option<Sender<()>>>,
    ticks: Receiver<()>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Reaper {
    pub(crate) fn new() -> Reaper {
        let (wake, ticks) = bounded(1);
        Reaper { wake: Mutex::new(Some(wake)), ticks, handle: Mutex::new(None) }
    }

    /// Starts the thread; if the system has none to give, the next
    /// [`wake`](Reaper::wake) tries again.
    pub(crate) fn start<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        let mut handle = self.handle.lock();
        if handle.is_some() {
            return;
        }
        let body = {
            let shared = Arc::clone(shared);
            move || shared.reaper.run(&shared)
        };
        match sync::spawn(format!("{}-reaper", shared.config.name), body) {
            Ok(started) => *handle = Some(started),
            Err(error) => {
                log::error!("pool '{}': cannot start the reaper: {error}", shared.config.name);
            }
        }
    }

    /// Has it look now and plan anew.
    pub(crate) fn wake<M: ManageConnection>(&self, shared: &Arc<Shared<M>>) {
        self.start(shared);
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
                return;
            }
        }
    }
}
