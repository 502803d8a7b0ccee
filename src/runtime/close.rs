//! The end of a pool, and the wait for it.

use std::time::{Duration, Instant};

use super::reaper::SPAWN_RETRY;
use super::shared::{PoolCore, Shared};
use super::threads::{self, Handover};
use crate::sync::{self, Arc, JoinHandle};
use crate::types::ManageConnection;

impl<M: ManageConnection> Shared<M> {
    /// The last handle is dropped: closes the pool, and waits until every connection that
    /// nobody holds is closed, for up to `drop_timeout`. A thread of a pool does not wait: the
    /// close may wait for it.
    pub(crate) fn close_at_last_drop(self: &Arc<Self>) {
        if self.process.is_forked() {
            // In a child the pool is leaked: its thread handles name the parent's threads.
            return std::mem::forget(Arc::clone(self));
        }
        let (start, is_new) = self.transition_here(|core, fx| (fx.now, core.close(fx)));
        let timeout = self.config.drop_timeout;
        if is_new && !timeout.is_zero() && !threads::is_pool_thread() {
            let deadline = self.clock.instant_of(start.after(timeout));
            self.wait_for(deadline, |core| core.has_closed_unheld());
        }
    }

    /// Closes the pool, and waits until everything is closed and all its threads have ended,
    /// or until the deadline. Returns how long that took, and how many threads have done their
    /// work but have not ended.
    pub(crate) fn close(self: &Arc<Self>, deadline: Instant) -> (Duration, usize) {
        let start = self.clock.now();
        self.transition(|core, fx| core.close(fx));
        let is_done = |core: &PoolCore<M>| {
            core.is_drained() && self.workers.are_done() && self.notifications.are_done()
        };
        let joining = if self.wait_for(Some(deadline), is_done) {
            self.join_threads(deadline)
        } else {
            self.threads.joining()
        };
        (self.ago(start), joining)
    }

    /// Waits for the end of threads that have done their work. Returns how many have not
    /// ended by the deadline. They may still run destructors of the driver's thread-local
    /// values, which may hang. So each is joined by a thread of its own, which goes on after
    /// this returns.
    fn join_threads(self: &Arc<Self>, deadline: Instant) -> usize {
        let mut joiners = Vec::new();
        loop {
            let unjoined = self.spawn_joiners(&mut joiners);
            let until = match unjoined {
                0 => deadline,
                _ => deadline.min(sync::instant() + SPAWN_RETRY),
            };
            let all_joined = |_: &_| unjoined == 0 && self.threads.joining() == 0;
            if self.wait_for(Some(until), all_joined) {
                // Does not block: the joiners are at the end of their bodies.
                joiners.into_iter().for_each(|joiner| drop(joiner.join()));
                return 0;
            }
            if until == deadline {
                return self.threads.joining() + unjoined;
            }
        }
    }

    /// Spawns a joiner for each handle. Returns the number of handles for which no joiner
    /// could be spawned.
    fn spawn_joiners(self: &Arc<Self>, joiners: &mut Vec<JoinHandle<()>>) -> usize {
        let mut left = Vec::new();
        for handle in self.threads.take_handles() {
            match self.spawn_joiner(handle) {
                Ok(joiner) => joiners.push(joiner),
                Err(handle) => left.extend(handle),
            }
        }
        let unjoined = left.len();
        self.threads.put_back(left);
        unjoined
    }

    /// `Err`: the system has no thread to give; the handle is still there.
    fn spawn_joiner(
        self: &Arc<Self>,
        handle: JoinHandle<()>,
    ) -> Result<JoinHandle<()>, Option<JoinHandle<()>>> {
        let handover = Handover::new(handle);
        let body = {
            let (joining, handover) = (Joining(Arc::clone(self)), handover.clone());
            move || {
                let _ = handover.take().map(JoinHandle::join);
                drop(joining);
            }
        };
        sync::spawn(format!("{}-joiner", self.config.name), body).map_err(|_| handover.take())
    }
}

/// A thread that is being joined, counted until this is dropped.
struct Joining<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Drop for Joining<M> {
    fn drop(&mut self) {
        self.0.threads.joined();
        self.0.notify_progress();
    }
}
