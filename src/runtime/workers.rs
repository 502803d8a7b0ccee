//! The threads that call the driver.
//!
//! A task goes to an idle worker, or to a new one, so no task waits behind another that
//! hangs. How many calls of each kind may run is the core's decision. A worker that has
//! been idle for a while ends. A worker that hangs in the driver is not needed any more:
//! the core abandons the call, and the worker ends when the driver returns.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::threads::{Handover, Host};
use crate::sync::{self, Arc, AtomicU64, AtomicUsize, Mutex, Ordering};

/// An idle worker ends after this long: long enough that a burst reuses its threads,
/// short enough that a pool at rest has none.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

pub(crate) struct Workers<T> {
    name: Arc<str>,
    /// A rendezvous: a send succeeds only if an idle worker is waiting for it. `None`
    /// once stopped.
    tasks: Mutex<Option<Sender<T>>>,
    idle: Receiver<T>,
    /// Tasks for which no thread could be spawned.
    backlog: Mutex<VecDeque<T>>,
    counts: Arc<Counts>,
    spawned: AtomicU64,
}

#[derive(Default)]
struct Counts {
    /// Workers, plus tasks in the backlog (one that is just being retried included). One
    /// number, so that a task that moves from the one to the other is never missed.
    unfinished: AtomicUsize,
    running: AtomicUsize,
}

impl<T: Send + 'static> Workers<T> {
    pub(crate) fn new(name: Arc<str>) -> Workers<T> {
        let (tasks, idle) = bounded(0);
        Workers {
            name,
            tasks: Mutex::new(Some(tasks)),
            idle,
            backlog: Mutex::new(VecDeque::new()),
            counts: Arc::default(),
            spawned: AtomicU64::new(0),
        }
    }

    /// Queues a task without blocking. If the system has no thread to give, the task
    /// waits in the backlog for a worker that is done with its own task, or for the
    /// reaper's next [`retry`](Workers::retry).
    pub(crate) fn submit<H: Host<Task = T>>(&self, host: &Arc<H>, task: T) {
        if let Err(task) = self.hand_over(host, task) {
            self.counts.unfinished.fetch_add(1, Ordering::AcqRel);
            self.backlog.lock().push_back(task);
            host.wake_reaper();
        }
    }

    /// Tries again to find threads for the backlog. `true`: it is not empty and should
    /// be retried soon.
    pub(crate) fn retry<H: Host<Task = T>>(&self, host: &Arc<H>) -> bool {
        loop {
            let next = self.backlog.lock().pop_front();
            let Some(task) = next else { return false };
            if let Err(task) = self.hand_over(host, task) {
                self.backlog.lock().push_front(task);
                return true;
            }
            self.counts.unfinished.fetch_sub(1, Ordering::AcqRel);
            // Its worker may have ended before this line, and with it the last event
            // that would have woken `close`.
            host.notify_progress();
        }
    }

    /// Gives a task to an idle worker or to a new one, or gives it back.
    fn hand_over<H: Host<Task = T>>(&self, host: &Arc<H>, task: T) -> Result<(), T> {
        if !sync::THREADS {
            return Err(task);
        }
        let sent = match &*self.tasks.lock() {
            Some(tasks) => tasks.try_send(task),
            // Stopped: this is left of a call that was abandoned before the pool ended.
            None => Err(TrySendError::Disconnected(task)),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) => {
                self.spawn(host, task)
            }
        }
    }

    /// Spawns a worker with its first task, or gives the task back.
    fn spawn<H: Host<Task = T>>(&self, host: &Arc<H>, task: T) -> Result<(), T> {
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        let first = Handover::new(task);
        let body = {
            let (running, first) = (self.count(host), first.clone());
            move || running.host.run_worker(first.take())
        };
        if host.spawn(format!("{}-worker-{number}", self.name), body) {
            return Ok(());
        }
        first.take().map_or(Ok(()), Err)
    }

    /// Counts a worker until the guard is dropped.
    pub(crate) fn count<H: Host<Task = T>>(&self, host: &Arc<H>) -> Running<H> {
        self.counts.running.fetch_add(1, Ordering::AcqRel);
        self.counts.unfinished.fetch_add(1, Ordering::AcqRel);
        Running { counts: Arc::clone(&self.counts), host: Arc::clone(host) }
    }

    /// The next task of a worker. `None` when it has been idle for long, or the pool has
    /// ended.
    pub(crate) fn next(&self) -> Option<T> {
        self.take_from_backlog().or_else(|| self.idle.recv_timeout(KEEP_ALIVE).ok())
    }

    /// The task that has waited longest for a thread.
    pub(crate) fn take_from_backlog(&self) -> Option<T> {
        let task = self.backlog.lock().pop_front();
        self.counts.unfinished.fetch_sub(usize::from(task.is_some()), Ordering::AcqRel);
        task
    }

    /// Lets idle workers end.
    pub(crate) fn stop(&self) {
        drop(self.tasks.lock().take());
    }

    /// How many workers there are.
    pub(crate) fn running(&self) -> usize {
        self.counts.running.load(Ordering::Acquire)
    }

    /// Whether there is no worker and no task that waits for one.
    pub(crate) fn are_done(&self) -> bool {
        self.counts.unfinished.load(Ordering::Acquire) == 0
    }
}

/// One worker, counted from before its spawn until its end, whatever ends it.
pub(crate) struct Running<H: Host> {
    counts: Arc<Counts>,
    host: Arc<H>,
}

impl<H: Host> Drop for Running<H> {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::AcqRel);
        self.counts.unfinished.fetch_sub(1, Ordering::AcqRel);
        self.host.notify_progress();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of a system that gives it no thread at first. Its workers end after one task.
    struct Starved {
        workers: Workers<u32>,
        has_threads: std::sync::atomic::AtomicBool,
        ran: Mutex<Vec<u32>>,
        reaper_wakes: AtomicUsize,
    }

    impl Host for Starved {
        type Task = u32;

        fn spawn(&self, _: String, body: impl FnOnce() + Send + 'static) -> bool {
            let has_threads = self.has_threads.load(Ordering::Relaxed);
            if has_threads {
                body();
            }
            has_threads
        }

        fn run_worker(self: &Arc<Self>, first: Option<u32>) {
            self.ran.lock().extend(first);
        }

        fn run_reaper(self: &Arc<Self>) {}
        fn wake_reaper(&self) {
            self.reaper_wakes.fetch_add(1, Ordering::Relaxed);
        }
        fn notify_progress(&self) {}
    }

    #[test]
    fn p3_tasks_wait_in_order_for_a_thread() {
        let host = Arc::new(Starved {
            workers: Workers::new("starved".into()),
            has_threads: false.into(),
            ran: Mutex::default(),
            reaper_wakes: AtomicUsize::default(),
        });
        for task in [1, 2] {
            host.workers.submit(&host, task);
        }
        assert_eq!(host.reaper_wakes.load(Ordering::Relaxed), 2);
        for _ in 0..2 {
            assert!(host.workers.retry(&host), "there is no thread");
        }
        host.has_threads.store(true, Ordering::Relaxed);
        assert!(!host.workers.retry(&host), "the backlog is empty");
        assert_eq!(*host.ran.lock(), [1, 2]);
        assert!(host.workers.are_done());
    }
}
