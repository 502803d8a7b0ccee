//! What the reaper does when it is awake: it lets the core act on the passing of time,
//! retries the backlog, probes the pool's health, and delivers events.

use std::time::Duration;

use super::reaper::{SPAWN_RETRY, Woken};
use super::shared::Shared;
use super::{health, publish};
use crate::core::Time;
use crate::sync::{self, Arc};
use crate::types::manage::ManageConnection;

/// The core's `tick` does not run more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// The life of the reaper.
pub(crate) fn run<M: ManageConnection>(shared: &Arc<Shared<M>>) {
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
    let next = shared.transition(|core, fx| core.tick(fx));
    let has_backlog = shared.workers.retry(shared);
    let now = shared.clock.now();
    let next = next.max(now.after(SHORTEST_SLEEP));
    if has_backlog { next.min(now.after(SPAWN_RETRY)) } else { next }
}
