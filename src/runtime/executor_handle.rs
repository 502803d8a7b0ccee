//! A pool's handle of the executor: what the pool asks of it.

use std::io;
use std::time::Instant;

use super::executor::Executor;
use super::scheduler::{ErasedPool, SPAWN_RETRY, Signal};
use super::threads::{Job, Work};
use crate::sync::{self, Arc, Ordering, PlainBool, PlainOrdering, wait_until};

/// A pool's handle of the executor.
pub(crate) struct ExecutorHandle {
    pub(crate) inner: Arc<Executor>,
    number: u64,
    /// The pool has been registered.
    is_registered: PlainBool,
    /// The pool has ended.
    has_ended: PlainBool,
}

impl ExecutorHandle {
    pub(crate) fn new(inner: Arc<Executor>) -> ExecutorHandle {
        let number = inner.scheduler.lock().next_number();
        ExecutorHandle {
            inner,
            number,
            is_registered: PlainBool::new(false),
            has_ended: PlainBool::new(false),
        }
    }

    /// Whether the pool is registered and there is a reaper. If not, call
    /// [`register`](ExecutorHandle::register).
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.is_registered.load(PlainOrdering::Relaxed) && self.has_reaper()
    }

    #[inline]
    fn has_reaper(&self) -> bool {
        !sync::THREADS || self.inner.has_reaper.load(Ordering::Relaxed)
    }

    /// Registers the pool with the executor, and spawns the reaper if there is none.
    ///
    /// # Errors
    ///
    /// The operating system's, when it has no more threads to give. The next transition of a
    /// pool tries again.
    #[cold]
    pub(crate) fn register(&self, pool: impl FnOnce() -> Arc<dyn ErasedPool>) -> io::Result<()> {
        let mut scheduler = self.inner.scheduler.lock();
        if !self.has_ended.load(PlainOrdering::Relaxed) {
            scheduler.register(self.number, pool);
            self.is_registered.store(true, PlainOrdering::Relaxed);
        }
        let has_work = !scheduler.is_empty();
        drop(scheduler);
        // Not lost: both check the scheduler under its lock before they sleep. A `close` that waits
        // for the end of all threads returns, because there is a pool again.
        self.inner.woken.notify_one();
        self.inner.ended.notify_all();
        if has_work { self.inner.ensure_reaper() } else { Ok(()) }
    }

    /// Has the reaper run for the pool now.
    pub(crate) fn signal(&self, signal: Signal) {
        let is_new = self.inner.scheduler.lock().signal(self.number, signal);
        // Not lost: the reaper checks the scheduler under its lock before it sleeps. If there was
        // something for it already, whoever noted that wakes it.
        if is_new {
            self.inner.woken.notify_one();
        }
    }

    /// The pool has ended: the executor releases it.
    pub(crate) fn stop(&self) {
        if self.has_ended.load(PlainOrdering::Relaxed) {
            return;
        }
        let mut scheduler = self.inner.scheduler.lock();
        self.has_ended.store(true, PlainOrdering::Relaxed);
        if self.inner.has_reaper.load(Ordering::Relaxed) {
            drop(scheduler);
            return self.signal(Signal::Stop);
        }
        let pool = scheduler.take_ended(self.number);
        drop(scheduler);
        if let Some(pool) = pool {
            self.inner.end_pool(self.number, pool);
        }
    }

    /// Has a worker run this job, without blocking. If the system has no thread to give, the job
    /// waits for a worker that becomes free. `Some`: a thread was spawned, or could not be.
    pub(crate) fn submit(&self, job: Job) -> Option<io::Result<()>> {
        self.inner.submit(Work { pool: self.number, job })
    }

    /// How many workers run jobs of the pool.
    pub(crate) fn running(&self) -> usize {
        self.inner.scheduler.lock().running(self.number)
    }

    /// Waits until the executor has nothing more to do for the pool, and holds no reference to it;
    /// or until the deadline. Returns whether that is so.
    pub(crate) fn wait_until_done(&self, deadline: Option<Instant>) -> bool {
        let mut scheduler = self.inner.scheduler.lock();
        let number = self.number;
        wait_until(&self.inner.ended, &mut scheduler, deadline, |scheduler| {
            scheduler.is_gone(number)
        });
        scheduler.is_gone(number)
    }

    /// Until when a waiting thread may sleep that has to wake at `at`. While the system has no
    /// thread to give for the reaper, waiting threads wake every [`SPAWN_RETRY`] to spawn it:
    /// there may be no other event.
    pub(crate) fn sleep_limit(&self, at: Option<Instant>) -> Option<Instant> {
        if self.has_reaper() {
            return at;
        }
        let soon = sync::instant() + SPAWN_RETRY;
        Some(at.map_or(soon, |at| at.min(soon)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pool::Pool;
    use crate::stub::StubManager;

    /// A pool whose reaper is being started.
    fn before_its_reaper() -> (Pool<StubManager>, Arc<Executor>) {
        let config = Pool::builder().max_size(1).min_idle(Some(0)).config().expect("legal");
        let executor = Arc::new(Executor::new());
        assert!(executor.claim_reaper());
        (Pool::start_with(config, StubManager, Arc::clone(&executor)), executor)
    }

    #[test]
    fn p3_nobody_counts_on_a_reaper_whose_start_may_fail() {
        let (pool, executor) = before_its_reaper();
        assert!(!executor.claim_reaper(), "it is being started once");
        assert!(pool.shared.executor.sleep_limit(None).is_some());
        executor.reaper_started(false);
        assert!(pool.shared.executor.sleep_limit(None).is_some());
        assert!(executor.claim_reaper(), "it may be tried again");
        executor.reaper_started(true);
        assert_eq!(pool.shared.executor.sleep_limit(None), None);
        executor.reaper_started(false);
    }

    #[test]
    fn p11_a_pool_that_ends_before_its_reaper_has_started_is_let_go() {
        let (pool, executor) = before_its_reaper();
        drop(pool);
        assert!(executor.scheduler.lock().is_empty());
        executor.reaper_started(false);
    }
}
