//! A pool's place with the staff: what the pool asks of it.

use std::io;
use std::time::Instant;

use super::roster::{Employer, Job, SPAWN_RETRY, Signal, Work};
use super::staff::Staff;
use crate::sync::{self, Arc, Ordering, PlainBool, PlainOrdering, wait_until};

/// A pool's place with the staff.
pub(crate) struct Post {
    pub(crate) staff: Arc<Staff>,
    number: u64,
    /// The staff knows the pool.
    is_hired: PlainBool,
    /// The pool has ended.
    has_ended: PlainBool,
}

impl Post {
    pub(crate) fn new(staff: Arc<Staff>) -> Post {
        let number = staff.roster.lock().number();
        Post { staff, number, is_hired: PlainBool::new(false), has_ended: PlainBool::new(false) }
    }

    /// Whether the staff tends the pool. If not, it should be [`hire`](Post::hire)d.
    #[inline]
    pub(crate) fn is_served(&self) -> bool {
        self.is_hired.load(PlainOrdering::Relaxed) && self.has_reaper()
    }

    #[inline]
    fn has_reaper(&self) -> bool {
        !sync::THREADS || self.staff.has_reaper.load(Ordering::Relaxed)
    }

    /// Makes the pool known to the staff, and starts the reaper if there is none.
    ///
    /// # Errors
    ///
    /// The operating system's, when it has no more threads to give. The next transition of a
    /// pool tries again.
    #[cold]
    pub(crate) fn hire(&self, pool: impl FnOnce() -> Arc<dyn Employer>) -> io::Result<()> {
        let mut roster = self.staff.roster.lock();
        if !self.has_ended.load(PlainOrdering::Relaxed) {
            roster.hire(self.number, pool);
            self.is_hired.store(true, PlainOrdering::Relaxed);
        }
        let has_work = !roster.is_empty();
        drop(roster);
        // Not lost: both check the roster under its lock before they sleep. Who waits for the end
        // of all threads does so no more.
        self.staff.woken.notify_one();
        self.staff.ended.notify_all();
        if has_work { self.staff.ensure_reaper() } else { Ok(()) }
    }

    /// Has the reaper look at the pool now.
    pub(crate) fn signal(&self, signal: Signal) {
        let is_new = self.staff.roster.lock().signal(self.number, signal);
        // Not lost: the reaper checks the roster under its lock before it sleeps. If it has
        // been called already, it has been or will be woken for that.
        if is_new {
            self.staff.woken.notify_one();
        }
    }

    /// The pool has ended.
    pub(crate) fn stop(&self) {
        if self.has_ended.load(PlainOrdering::Relaxed) {
            return;
        }
        let mut roster = self.staff.roster.lock();
        self.has_ended.store(true, PlainOrdering::Relaxed);
        if self.staff.has_reaper.load(Ordering::Relaxed) {
            drop(roster);
            return self.signal(Signal::Stop);
        }
        let pool = roster.take_ended(self.number);
        drop(roster);
        if let Some(pool) = pool {
            self.staff.end_pool(self.number, pool);
        }
    }

    /// Has a worker do this, without blocking. If the system has no thread to give, the job
    /// waits for a worker that comes free. `Some`: a thread had to be started, or could not be.
    pub(crate) fn submit(&self, job: Job) -> Option<io::Result<()>> {
        self.staff.submit(Work { pool: self.number, job })
    }

    /// How many workers run jobs of the pool.
    pub(crate) fn running(&self) -> usize {
        self.staff.roster.lock().running(self.number)
    }

    /// Waits until the staff has nothing more to do for the pool, and holds no reference to it;
    /// or until the deadline.
    pub(crate) fn wait_until_done(&self, deadline: Option<Instant>) -> bool {
        let mut roster = self.staff.roster.lock();
        let number = self.number;
        wait_until(&self.staff.ended, &mut roster, deadline, |roster| roster.is_gone(number));
        roster.is_gone(number)
    }

    /// Caps a sleep at `at`. Without a reaper thread, which is so only while the system
    /// has no thread to give, waiters wake every 100 ms to retry the spawn: there may be
    /// no other event.
    pub(crate) fn sleep_limit(&self, at: Option<Instant>) -> Option<Instant> {
        if self.has_reaper() {
            return at;
        }
        let soon = sync::instant() + SPAWN_RETRY;
        Some(at.map_or(soon, |at| at.min(soon)))
    }
}
