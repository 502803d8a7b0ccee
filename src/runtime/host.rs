//! What the pool's threads run.

use std::time::Duration;

use super::reaper::{SPAWN_RETRY, Woken};
use super::shared::{Shared, Task};
use super::threads::Host;
use super::{announce, driver_calls, health, publish};
use crate::core::Time;
use crate::sync::{self, Arc};
use crate::types::manage::ManageConnection;

/// The core's `tick` does not run more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

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
            Task::Call(job) => driver_calls::run(self, job),
            Task::Announce => announce::run(self),
        }
    }

    fn run_reaper(self: &Arc<Self>) {
        run_reaper(self);
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

/// The life of the reaper: it lets the core act on the passing of time, retries the
/// backlog, probes the pool's health, and delivers events.
fn run_reaper<M: ManageConnection>(shared: &Arc<Shared<M>>) {
    let mut tick_at = Time::START;
    loop {
        if tick_at <= shared.clock.now() {
            tick_at = tick(shared);
        }
        let others = [health::probe(shared), publish::deliver(shared)];
        let sleep_until = others.into_iter().flatten().fold(tick_at, Time::min);
        match shared.reaper.sleep_until(shared.clock.instant_of(sleep_until)) {
            Woken::ToStop => break,
            Woken::ToTick => tick_at = Time::START,
            Woken::Otherwise => {}
        }
    }
    publish::reaper_ended(shared);
    // The pool has ended, but abandoned calls may have left tasks behind.
    while shared.workers.retry(shared) {
        sync::sleep(SPAWN_RETRY);
    }
}

/// Returns when the next tick is due.
fn tick<M: ManageConnection>(shared: &Arc<Shared<M>>) -> Time {
    let next = shared.transition(|core, now, fx| core.tick(now, fx));
    let has_backlog = shared.workers.retry(shared);
    let now = shared.clock.now();
    let next = next.max(now.after(SHORTEST_SLEEP));
    if has_backlog { next.min(now.after(SPAWN_RETRY)) } else { next }
}
