//! What the reaper does when it is awake: it lets the core act on the passing of time,
//! retries the backlog, probes the pool's health, and delivers events.

use std::time::Duration;

use super::reaper::{SPAWN_RETRY, Woken};
use super::shared::Shared;
use crate::core::Time;
use crate::sync::{self, Arc};
use crate::types::ManageConnection;

/// The core's `tick` does not run more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

impl<M: ManageConnection> Shared<M> {
    /// The life of the reaper.
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
