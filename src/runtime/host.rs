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
            if self.process.is_forked() {
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
            Task::RestOfCheck(lease, begun, rest) => self.finish_check(lease, begun, rest),
            Task::Announce => self.announce_all(),
        }
    }

    /// The life of the reaper: it lets the core act on the passing of time, retries the
    /// backlog, probes the pool's health, and delivers events.
    pub(crate) fn tick_until_stopped(self: &Arc<Self>) {
        let (mut tick_at, mut probe_at) = (Time::START, Time::START);
        loop {
            let now = self.clock.now();
            if tick_at <= now {
                tick_at = self.tick();
            }
            // Not at each delivery of events, of which there may be many in this time.
            if probe_at <= now {
                probe_at = self.probe_health().unwrap_or(Time::NEVER);
            }
            let deliver_at = self.deliver_events().unwrap_or(Time::NEVER);
            let sleep_until = tick_at.min(probe_at).min(deliver_at);
            match self.reaper.sleep_until(self.clock.instant_of(sleep_until)) {
                Woken::ToStop => break,
                Woken::ToTick => (tick_at, probe_at) = (Time::START, Time::START),
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

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::api::builder::Builder;
    use crate::api::pool::Pool;
    use crate::stub::StubManager;
    use crate::sync::PlainOrdering;
    use crate::types::config::SelfDeadlock;

    const MS: Duration = Duration::from_millis(1);

    /// Long enough that a thread that wakes every millisecond is found out, also on a busy
    /// machine.
    const SPAN: Duration = Duration::from_millis(300);

    /// A thread that has nothing to do wakes up a few times at most: for plans that were made
    /// earlier, and for the health of those who wait, every 100 ms.
    const FEW: u64 = 8;

    fn pool(set: impl FnOnce(Builder<StubManager>) -> Builder<StubManager>) -> Pool<StubManager> {
        let unset = Pool::builder().max_size(2).min_idle(Some(0)).idle_timeout(None);
        set(unset.max_lifetime(None)).build(StubManager).expect("a stub")
    }

    fn wake_ups(pool: &Pool<StubManager>) -> u64 {
        pool.shared.reaper.wake_ups.load(PlainOrdering::Relaxed)
    }

    #[track_caller]
    fn assert_rests(pool: &Pool<StubManager>) {
        thread::sleep(20 * MS);
        let before = wake_ups(pool);
        thread::sleep(SPAN);
        let times = wake_ups(pool) - before;
        assert!(times <= FEW, "the reaper has woken {times} times in {SPAN:?}");
    }

    #[test]
    fn a_pool_at_rest_does_not_wake_for_leaks() {
        let pool = pool(|builder| builder.leak_threshold(Some(MS)));
        assert_rests(&pool);
        drop((pool.get().expect("one"), pool.get().expect("another")));
        assert_rests(&pool);
        // While it connected, one may have been held for too long.
        let before = pool.stats().leaks;
        let leaked = pool.get().expect("an idle one");
        assert_rests(&pool);
        assert_eq!(pool.stats().leaks, before + 1, "once");
        // The next is reported too.
        let another = pool.get().expect("an idle one");
        assert_rests(&pool);
        assert_eq!(pool.stats().leaks, before + 2);
        drop((leaked, another));
    }

    #[test]
    fn connections_in_use_do_not_wake_the_reaper_for_their_idle_time_or_keepalive() {
        for keepalive in [false, true] {
            let pool = pool(|builder| match keepalive {
                false => builder.idle_timeout(Some(MS)),
                true => builder.keepalive(Some(MS)),
            });
            assert_rests(&pool);
            let held = pool.get().expect("one");
            assert_rests(&pool);
            drop(held);
            if !keepalive {
                assert_rests(&pool);
                assert_eq!(pool.stats().closed.idle_too_long, 1);
            }
        }
    }

    #[test]
    fn a_deadlock_that_lasts_does_not_wake_the_reaper() {
        let day = Duration::from_secs(24 * 3600);
        for reaction in [SelfDeadlock::Warn, SelfDeadlock::Fail(day)] {
            let pool = pool(|builder| builder.max_size(1).on_self_deadlock(reaction));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let held = pool.get().expect("the only one");
                    pool.get_timeout(3 * SPAN).expect_err("it waits for itself");
                    drop(held);
                });
                while pool.stats().self_deadlocks == 0 {
                    thread::yield_now();
                }
                assert_rests(&pool);
            });
        }
    }

    #[test]
    fn events_do_not_make_the_reaper_look_at_the_health_more_often() {
        let pool = pool(|builder| builder.max_size(1));
        let probes = || pool.shared.probe.probes.load(PlainOrdering::Relaxed);
        let events = pool.subscribe(1 << 16).expect("a capacity");
        let held = pool.get().expect("the only one");
        thread::scope(|scope| {
            scope.spawn(|| pool.get_timeout(2 * SPAN).expect_err("it is held"));
            while pool.stats().waiting == 0 {
                thread::yield_now();
            }
            let (before, start) = (probes(), Instant::now());
            while start.elapsed() < SPAN {
                // An event, every millisecond or so.
                pool.get_timeout(Duration::ZERO).expect_err("it is held");
                thread::sleep(MS);
            }
            let most = FEW + (start.elapsed().as_millis() / 50) as u64;
            let times = probes() - before;
            assert!(times <= most, "{times} probes in {:?}", start.elapsed());
        });
        assert!(events.try_iter().count() > 100);
        drop(held);
    }
}
