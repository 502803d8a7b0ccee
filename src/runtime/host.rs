//! The pool as the executor knows it: what it does as time passes, and what it submits to workers.

use std::any::Any;
use std::io;
use std::time::{Duration, Instant};

use log::Level;

use super::executor::{Role, role};
use super::scheduler::{ErasedPool, Signal, Timers};
use super::shared::{PoolJob, Shared};
use super::threads::Job;
use crate::core::Time;
use crate::sync::{Arc, PlainOrdering as Ordering};
use crate::types::ManageConnection;

/// The core's `tick` does not run more often than this, whatever the settings.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

impl<M: ManageConnection> ErasedPool for Shared<M> {
    /// Lets the core act on the passing of time, probes the pool's health, and delivers events.
    fn run_due(self: Arc<Self>, timers: Timers) -> (Timers, Option<Instant>) {
        #[cfg(test)]
        self.reaper_runs.fetch_add(1, Ordering::Relaxed);
        let Timers { mut tick_at, mut probe_at } = timers;
        let now = self.clock.now();
        if tick_at <= now {
            tick_at = self.tick();
        }
        // Not at each delivery of events, of which there may be many in this time.
        if probe_at <= now {
            probe_at = self.probe_health().unwrap_or(Time::NEVER);
        }
        let deliver_at = self.deliver_events().unwrap_or(Time::NEVER);
        let plan = self.clock.instant_of(tick_at.min(probe_at).min(deliver_at));
        (Timers { tick_at, probe_at }, plan)
    }

    fn end(&self) {
        self.reaper_ended();
    }

    fn release(self: Arc<Self>) -> Option<Job> {
        Arc::into_inner(self).map(|last| -> Job { Box::new(move || drop(last)) })
    }
}

impl<M: ManageConnection> Shared<M> {
    /// Returns when the next tick is due.
    fn tick(self: &Arc<Self>) -> Time {
        let (began, next) = self.transition(|core, fx| (fx.now, core.tick(fx)));
        next.max(began.after(SHORTEST_SLEEP))
    }

    /// Has a worker run this task, without blocking.
    pub(crate) fn submit(self: &Arc<Self>, task: PoolJob<M>) {
        let pool = Arc::clone(self);
        if let Some(spawned) = self.executor.submit(Box::new(move || pool.run_job(task))) {
            self.note_spawn(spawned);
        }
    }

    fn run_job(self: &Arc<Self>, task: PoolJob<M>) {
        match task {
            PoolJob::Call(job) => self.run_call(job),
            PoolJob::RestOfCheck(lease, begun, rest) => self.finish_check(lease, begun, rest),
            PoolJob::Announce => self.announce_all(),
            PoolJob::Drop(value) => self.drop_error(value),
        }
    }

    /// Drops driver's errors, or values that hold one: on a worker if this is the reaper, which
    /// runs no user code.
    #[inline]
    pub(crate) fn drop_errors<E: Send + 'static>(self: &Arc<Self>, errors: Vec<E>) {
        if !errors.is_empty() {
            self.drop_each(errors);
        }
    }

    #[cold]
    fn drop_each<E: Send + 'static>(self: &Arc<Self>, errors: Vec<E>) {
        for error in errors {
            match role() {
                Role::Reaper => self.submit(PoolJob::Drop(Box::new(error) as Box<dyn Any + Send>)),
                Role::User | Role::Worker => self.drop_error(error),
            }
        }
    }

    /// Registers the pool with the executor, unless it is, and spawns the reaper if there is none.
    #[inline]
    pub(crate) fn ensure_reaper(self: &Arc<Self>) {
        if !self.executor.is_active() {
            self.register();
        }
    }

    #[cold]
    fn register(self: &Arc<Self>) {
        let registered = self.executor.register(|| Arc::clone(self) as Arc<dyn ErasedPool>);
        if registered.is_err() {
            self.note_spawn(registered);
        }
    }

    /// Notes whether a thread could be spawned. A failure is logged once until a spawn succeeds;
    /// not by the reaper, which must not call a logger.
    fn note_spawn(&self, spawned: io::Result<()>) {
        if role() == Role::Reaper {
            return;
        }
        let failed_before = self.spawn_failing.swap(spawned.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (&spawned, failed_before) {
            self.logger.log(Level::Error, &[], format_args!("cannot spawn a thread: {error}"));
        }
    }

    /// Wakes the reaper to run `tick` now.
    pub(crate) fn wake_reaper(&self) {
        self.executor.signal(Signal::Tick);
    }

    /// Wakes the reaper to deliver events now.
    pub(crate) fn wake_to_deliver(&self) {
        self.executor.signal(Signal::Deliver);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::api::builder::Builder;
    use crate::api::pool::Pool;
    use crate::stub::{StubConnection, StubManager};
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
        pool.shared.reaper_runs.load(PlainOrdering::Relaxed)
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
                    let _: &StubConnection = &held;
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
