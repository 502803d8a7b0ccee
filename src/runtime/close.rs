//! The end of a pool, and the wait for it.

use std::time::{Duration, Instant};

use super::executor::{Executor, Handover, Role, role};
use super::scheduler::SPAWN_RETRY;
use super::shared::{PoolCore, Shared};
use crate::sync::{self, Arc, JoinHandle};
use crate::types::ManageConnection;

impl<M: ManageConnection> Shared<M> {
    /// The last handle is dropped: closes the pool, and waits until every connection that
    /// nobody holds is closed, for up to `drop_timeout`. A thread of the executor does not
    /// wait: the close may wait for it.
    pub(crate) fn close_at_last_drop(self: &Arc<Self>) {
        if self.process.is_forked() {
            // In a child the pool is leaked: its executor's handles name the parent's threads.
            return std::mem::forget(Arc::clone(self));
        }
        let (start, is_new) = self.transition_here(|core, fx| (fx.now, core.close(fx)));
        let timeout = self.config.drop_timeout;
        if is_new && !timeout.is_zero() && role() == Role::User {
            let deadline = self.clock.instant_of(start.after(timeout));
            self.wait_for(deadline, |core| core.has_closed_unheld());
        }
    }

    /// Closes the pool, and waits until everything is closed and the executor is done with it, or
    /// until the deadline. If it was the last pool of the process, also until the threads have
    /// ended. Returns how long that took, and how many of those have not ended.
    pub(crate) fn close(self: &Arc<Self>, deadline: Instant) -> (Duration, usize) {
        let start = self.clock.now();
        self.transition(|core, fx| core.close(fx));
        let is_closed = |core: &PoolCore<M>| core.is_drained() && self.notifications.are_done();
        let is_done = self.wait_for(Some(deadline), is_closed) && self.wait_for_executor(deadline);
        let threads = if is_done { self.executor.inner.wait_for_end(deadline) } else { 0 };
        (self.ago(start), threads)
    }

    /// Waits until no worker has a job of the pool, or until the deadline.
    fn wait_for_executor(self: &Arc<Self>, deadline: Instant) -> bool {
        loop {
            let until = self.executor.sleep_limit(Some(deadline));
            let is_done = self.executor.wait_until_done(until);
            if is_done || until == Some(deadline) {
                return is_done;
            }
            self.ensure_reaper();
        }
    }
}

impl Executor {
    /// If there is no pool any more, waits for the end of all threads, or until the deadline.
    /// Returns how many have not ended; zero if there is a pool again.
    ///
    /// Threads that have done their work may still run destructors of the driver's thread-local
    /// values, which may hang. So each is joined by a thread of its own, which goes on after
    /// this returns. Others are not joined yet: they might go on for a pool that comes.
    fn wait_for_end(self: &Arc<Self>, deadline: Instant) -> usize {
        let mut joiners = Vec::new();
        loop {
            let unjoined = self.start_joiners(&mut joiners);
            let until = match unjoined {
                0 => deadline,
                _ => deadline.min(sync::instant() + SPAWN_RETRY),
            };
            let Some(left) = self.wait_for_threads(until, unjoined == 0) else { return 0 };
            if left == 0 {
                // Does not block: the joiners are at the end of their bodies.
                joiners.into_iter().for_each(|joiner| drop(joiner.join()));
                return 0;
            }
            if sync::instant() >= deadline {
                return left;
            }
        }
    }

    /// Starts a joiner for each thread that has left. Returns the number of those for which none
    /// could be started.
    fn start_joiners(self: &Arc<Self>, joiners: &mut Vec<JoinHandle<()>>) -> usize {
        let left = self.scheduler.lock().threads.take_left(|_| true);
        let mut unjoined = 0;
        for handle in left {
            match self.start_joiner(handle) {
                Ok(joiner) => joiners.push(joiner),
                Err(handle) => {
                    unjoined += 1;
                    let back = |it| self.scheduler.lock().threads.put_back(it);
                    handle.into_iter().for_each(back);
                }
            }
        }
        unjoined
    }

    /// `Err`: the system has no thread to give; the handle is still there.
    fn start_joiner(
        self: &Arc<Self>,
        handle: JoinHandle<()>,
    ) -> Result<JoinHandle<()>, Option<JoinHandle<()>>> {
        let handover = Handover::new(handle);
        let body = {
            let (executor, handover) = (Arc::clone(self), handover.clone());
            move || {
                let _ = handover.take().map(JoinHandle::join);
                executor.joined();
            }
        };
        sync::spawn("fairpool-joiner".to_string(), body).map_err(|_| handover.take())
    }
}
