//! What the pool's threads run.

use log::Level;

use super::shared::{Shared, Task};
use super::threads::Host;
use crate::sync::{Arc, Ordering};
use crate::types::ManageConnection;

impl<M: ManageConnection> Host for Shared<M> {
    type Task = Task<M>;

    /// A failure is logged once until a spawn succeeds.
    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> bool {
        let spawned = self.threads.spawn(name, body);
        let failed_before = self.spawn_failing.swap(spawned.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (&spawned, failed_before) {
            self.logger.log(Level::Error, &[], format_args!("cannot spawn a thread: {error}"));
        }
        spawned.is_ok()
    }

    fn run_worker(self: &Arc<Self>, first: Option<Task<M>>) {
        let mut next = first;
        while let Some(task) = next {
            self.run_task(task);
            next = self.workers.next();
        }
        self.threads.join_finished();
    }

    fn run_reaper(self: &Arc<Self>) {
        self.tick_until_stopped();
    }

    fn wake_reaper(&self) {
        self.reaper.wake();
    }

    fn notify_progress(&self) {
        Shared::notify_progress(self);
    }
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn run_task(self: &Arc<Self>, task: Task<M>) {
        match task {
            Task::Call(job) => self.run_call(job),
            Task::Announce => self.announce_all(),
        }
    }
}
