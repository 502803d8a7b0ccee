//! What the pool's threads run.

use std::time::Duration;

use log::Level;

use super::reaper::{SPAWN_RETRY, Woken};
use super::shared::{Shared, Task};
use super::threads::{self, Host};
use crate::core::Time;
use crate::sync::{self, Arc, Ordering};
use crate::types::ManageConnection;

/// The core's `tick` does not run more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

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
        threads::mark_as_pool_thread();
        let mut next = first;
        while let Some(task) = next {
            self.run_task(task);
            if self.home.is_left() {
                return; // A hook has forked: this is the child, which has no such pool.
            }
            next = self.workers.next();
        }
        self.threads.join_finished();
    }

    fn run_reaper(self: &Arc<Self>) {
        threads::mark_as_pool_thread();
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

    /// The life of the reaper: it lets the core act on the passing of time, retries the
    /// backlog, probes the pool's health, and delivers events.
    pub(crate) fn tick_until_stopped(self: &Arc<Self>) {
        let mut tick_at = Time::START;
        loop {
            if tick_at <= self.clock.now() {
                tick_at = self.tick();
            }
            let others = [self.probe_health(), self.deliver_events()];
            let sleep_until = others.into_iter().flatten().fold(tick_at, Time::min);
            match self.reaper.sleep_until(self.clock.instant_of(sleep_until)) {
                Woken::ToStop => break,
                Woken::ToTick => tick_at = Time::START,
                Woken::Otherwise => {}
            }
        }
        self.reaper_ended();
        // The pool has ended, but abandoned calls may have left tasks behind.
        while self.workers.retry(self) {
            sync::sleep(SPAWN_RETRY);
        }
    }

    /// Returns when the next tick is due.
    fn tick(self: &Arc<Self>) -> Time {
        let next = self.transition(|core, fx| core.tick(fx));
        let has_backlog = self.workers.retry(self);
        let now = self.clock.now();
        let next = next.max(now.after(SHORTEST_SLEEP));
        if has_backlog { next.min(now.after(SPAWN_RETRY)) } else { next }
    }
}
