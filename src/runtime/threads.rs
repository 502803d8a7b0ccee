//! Handles of the pool's threads, and the pool as its threads know it.

use std::cell::Cell;
use std::io;

use crate::sync::{self, Arc, AtomicUsize, JoinHandle, Mutex, Ordering, per_thread};

per_thread! {
    /// This thread is a worker or the reaper of some pool.
    static IS_OF_A_POOL: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread is one of a pool, from now on.
pub(super) fn mark_as_pool_thread() {
    IS_OF_A_POOL.with(|is_of_a_pool| is_of_a_pool.set(true));
}

/// Whether the calling thread is one of a pool: others may wait for what it is doing.
pub(super) fn is_pool_thread() -> bool {
    // Thread-local values may be gone already: then this is a thread that ends.
    IS_OF_A_POOL.try_with(Cell::get).unwrap_or(false)
}

/// The pool, as workers and the reaper know it. The pool is built from them, so they
/// cannot import it: it implements this instead (`host.rs`).
pub(crate) trait Host: Send + Sync + 'static {
    /// What workers do.
    type Task: Send + 'static;

    /// Spawns a thread of the pool. `false`: the system has no thread to give.
    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> bool;

    /// The whole life of a worker, with its first task.
    fn run_worker(self: &Arc<Self>, first: Option<Self::Task>);

    /// The whole life of the reaper.
    fn run_reaper(self: &Arc<Self>);

    /// Wakes the reaper to retry the backlog.
    fn wake_reaper(&self);

    /// Wakes `build` and `close` to check again.
    fn notify_progress(&self);
}

/// A value in a thread's body that survives a failed spawn: the body takes it out, and
/// if the body never ran, so can the caller.
pub(crate) struct Handover<T>(Arc<Mutex<Option<T>>>);

impl<T> Handover<T> {
    pub(crate) fn new(value: T) -> Handover<T> {
        Handover(Arc::new(Mutex::new(Some(value))))
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

impl<T> Clone for Handover<T> {
    fn clone(&self) -> Handover<T> {
        Handover(Arc::clone(&self.0))
    }
}

/// The pool's threads, from their spawn until they are joined.
#[derive(Default)]
pub(crate) struct Threads {
    /// Of threads that have not been joined.
    handles: Mutex<Vec<JoinHandle<()>>>,
    /// How many are being joined.
    joining: AtomicUsize,
}

impl Threads {
    /// Spawns a thread.
    ///
    /// # Errors
    ///
    /// The operating system's, when it has no more threads to give.
    pub(crate) fn spawn<F>(&self, name: String, body: F) -> io::Result<()>
    where
        F: FnOnce() + Send + 'static,
    {
        // So that a body that never ran is not dropped under the lock.
        let handover = Handover::new(body);
        let run = {
            let handover = handover.clone();
            move || handover.take().into_iter().for_each(|body| body())
        };
        // Under the lock, so that the handle is there before the thread can be joined.
        let mut handles = self.handles.lock();
        let spawned = sync::spawn(name, run).map(|handle| handles.push(handle));
        drop(handles);
        spawned
    }

    /// Joins threads that have ended. A worker does that before it ends: a thread whose
    /// thread-local destructors still run counts until they are done.
    pub(crate) fn join_finished(&self) {
        let finished: Vec<_> = {
            let mut handles = self.handles.lock();
            handles.extract_if(.., |handle| handle.is_finished()).collect()
        };
        finished.into_iter().for_each(|handle| drop(handle.join()));
    }

    /// Takes all handles, to join them; they count as being joined from here on.
    pub(crate) fn take_handles(&self) -> Vec<JoinHandle<()>> {
        let mut handles = self.handles.lock();
        // Under the lock: a second `close` finds them either here or in the count.
        self.joining.fetch_add(handles.len(), Ordering::AcqRel);
        std::mem::take(&mut *handles)
    }

    /// Puts handles back for which no thread could be spawned to join them.
    pub(crate) fn put_back(&self, handles: Vec<JoinHandle<()>>) {
        self.handles.lock().extend(handles);
    }

    /// A thread was joined, or its joiner could not be spawned.
    pub(crate) fn joined(&self) {
        self.joining.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many are being joined.
    pub(crate) fn joining(&self) -> usize {
        self.joining.load(Ordering::Acquire)
    }
}
