//! What the pool's threads run.

use super::shared::{Shared, Task};
use super::threads::Host;
use crate::sync::Arc;
use crate::types::manage::ManageConnection;

impl<M: ManageConnection> Host for Shared<M> {
    type Task = Task<M>;

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> bool {
        Shared::spawn(self, name, body)
    }

    fn run_worker(self: &Arc<Self>, first: Option<Task<M>>) {
        self.workers.run(self, first);
    }

    fn run_task(self: &Arc<Self>, task: Task<M>) {
        match task {
            Task::Call(job) => self.run_call(job),
            Task::Announce => self.announce_all(),
        }
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

    fn join_finished(&self) {
        self.threads.join_finished();
    }
}
