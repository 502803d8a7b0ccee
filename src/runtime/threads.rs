//! The executor's threads: what a worker is given, how many there are and which have left, and
//! how fast workers are spawned.

use std::time::{Duration, Instant};

use crate::sync::{self, Arc, JoinHandle, ThreadId, WaitCell};

/// How many workers may be spawned within one [`SPAWN_INTERVAL`]. In a burst, jobs of many pools
/// wait a moment for workers that become free. A single pool with its default settings never
/// waits. (Decision 0031 has the measurements.)
pub(super) const BURST: usize = 16;

/// The time for which [`BURST`] is the limit.
pub(super) const SPAWN_INTERVAL: Duration = Duration::from_millis(2);

/// What a worker does once. The closure holds a reference to its pool.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A job of a pool.
pub(crate) struct Work {
    /// The pool's number.
    pub(crate) pool: u64,
    pub(crate) job: Job,
}

/// What an idle worker is told to do.
pub(crate) enum Command {
    Run(Work),
    /// There is no pool any more: the worker ends.
    Exit,
}

/// The cell at which an idle worker waits for its [`Command`].
pub(crate) type WorkerCell = Arc<WaitCell<Command>>;

/// Which worker gets new work.
pub(crate) enum Placement {
    /// This idle worker.
    ToIdle(WorkerCell, Work),
    /// A new worker.
    ToNew(Work),
    /// None yet: it waits for a worker that becomes free, or that the reaper spawns.
    Queued,
}

/// The threads of the executor, for the [`close`](super::close) that waits for their end.
#[derive(Default)]
pub(crate) struct Threads {
    /// Workers that have not ended.
    pub(crate) workers: usize,
    /// Threads that are being spawned: their handles are not here yet.
    starting: usize,
    /// The handles of threads that have not been joined.
    pub(crate) handles: Vec<JoinHandle<()>>,
    /// Threads that have done their work, and have not been joined.
    left: Vec<ThreadId>,
    /// How many threads are being joined.
    joining: usize,
}

impl Threads {
    /// How many threads have not ended, `reapers` among them. A thread that has done its work
    /// may still run destructors of the driver's thread-local values.
    pub(crate) fn count(&self, reapers: usize) -> usize {
        // In a model most threads have no handles.
        (self.handles.len() + self.joining + self.starting).max(self.workers + reapers)
    }

    /// A thread is about to be spawned.
    pub(crate) fn starts(&mut self) {
        self.starting += 1;
    }

    /// A thread has been spawned, or could not be.
    pub(crate) fn started<E>(&mut self, spawned: Result<JoinHandle<()>, E>) -> Result<(), E> {
        self.starting -= 1;
        spawned.map(|handle| self.handles.push(handle))
    }

    /// The calling thread has done its work. It may be joined: it serves no pool that comes.
    pub(crate) fn leave(&mut self) {
        self.left.push(sync::this_thread());
    }

    /// The same, of a worker.
    pub(crate) fn worker_leaves(&mut self) {
        self.workers -= 1;
        self.leave();
    }

    /// Whether there is a thread to join.
    pub(crate) fn has_left(&self) -> bool {
        self.handles.iter().any(|handle| self.left.contains(&handle.thread().id()))
    }

    /// Takes the handles of threads that have left, to join them. They count until they are
    /// [`joined`](Threads::joined) or [put back](Threads::put_back).
    pub(crate) fn take_left(
        &mut self,
        mut which: impl FnMut(&JoinHandle<()>) -> bool,
    ) -> Vec<JoinHandle<()>> {
        let left = &mut self.left;
        let taken = self.handles.extract_if(.., |handle| {
            let place = left.iter().position(|id| *id == handle.thread().id());
            place.filter(|_| which(handle)).map(|at| left.swap_remove(at)).is_some()
        });
        let taken: Vec<_> = taken.collect();
        self.joining += taken.len();
        taken
    }

    /// A thread was joined.
    pub(crate) fn joined(&mut self) {
        self.joining -= 1;
    }

    /// A thread cannot be joined now: others may try.
    pub(crate) fn put_back(&mut self, handle: JoinHandle<()>) {
        self.joining -= 1;
        self.left.push(handle.thread().id());
        self.handles.push(handle);
    }
}

/// Limits how many workers are spawned at once.
#[derive(Default)]
pub(super) struct SpawnRate {
    /// When the present [`SPAWN_INTERVAL`] began.
    since: Option<Instant>,
    /// How many may be spawned in this interval, and how many of them are left.
    quota: usize,
    left: usize,
    /// How many queued jobs went to workers that became free in this interval.
    pub(super) taken: usize,
}

impl SpawnRate {
    /// Whether a worker may be spawned now. `is_queued`: for a job from the queues.
    pub(super) fn admit(&mut self, now: Instant, is_queued: bool) -> bool {
        if self.since.is_none_or(|since| since + SPAWN_INTERVAL <= now) {
            self.since = Some(now);
            self.quota = match self.taken {
                _ if !is_queued => BURST,
                // All workers are busy, and may hang. The doubling empties a queue of any
                // length in a few intervals.
                0 => BURST.max(2 * self.quota),
                // Workers become free; more of them would only compete for the processors.
                _ => 1,
            };
            (self.left, self.taken) = (self.quota, 0);
        }
        let is_admitted = self.left > 0;
        self.left -= usize::from(is_admitted);
        is_admitted
    }

    /// When the next worker may be spawned.
    pub(super) fn next(&self) -> Option<Instant> {
        self.since.map(|since| if self.left > 0 { since } else { since + SPAWN_INTERVAL })
    }
}
