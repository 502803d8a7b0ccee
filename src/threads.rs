//! The pool's threads, from their start until they have ended.

use std::io;
use std::time::Instant;

use crate::manage::ManageConnection;
use crate::shared::Shared;
use crate::sync::{self, Arc, AtomicUsize, JoinHandle, Mutex, Ordering};

pub(crate) struct Threads {
    /// Of those that may still run.
    handles: Mutex<Vec<JoinHandle<()>>>,
    /// How many have done their work, and are being joined.
    ending: AtomicUsize,
}

impl Threads {
    pub(crate) fn new() -> Threads {
        Threads { handles: Mutex::new(Vec::new()), ending: AtomicUsize::new(0) }
    }

    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// The operating system's, when it has no more threads to give.
    pub(crate) fn start<F>(&self, name: String, body: F) -> io::Result<()>
    where
        F: FnOnce() + Send + 'static,
    {
        // Under the lock, so that nobody looks for the handle before it is there.
        let mut handles = self.handles.lock();
        handles.retain(|handle| !handle.is_finished());
        handles.push(sync::spawn(name, body)?);
        Ok(())
    }

    /// How many are being joined.
    pub(crate) fn ending(&self) -> usize {
        self.ending.load(Ordering::Acquire)
    }
}

impl<M: ManageConnection> Shared<M> {
    /// Waits for the end of threads that have done their work; returns how many
    /// have not ended by the deadline. What they still run is not the pool's:
    /// destructors of thread-local values of the driver's, which may hang. So
    /// each is joined by a thread of its own, and goes on being joined when this
    /// returns.
    pub(crate) fn join_threads(self: &Arc<Self>, deadline: Instant) -> usize {
        let handles = std::mem::take(&mut *self.threads.handles.lock());
        let mut joiners = Vec::new();
        let mut left = Vec::new();
        for handle in handles {
            match self.start_joiner(handle) {
                Ok(joiner) => joiners.push(joiner),
                Err(handle) => left.extend(handle),
            }
        }
        let unjoined = left.len();
        self.threads.handles.lock().extend(left);
        if self.wait_for(Some(deadline), |_| self.threads.ending() == 0) {
            // They run nothing but the body below, and are at its end.
            joiners.into_iter().for_each(|joiner| drop(joiner.join()));
        }
        self.threads.ending() + unjoined
    }

    /// `Err`: the system has no thread to give, and the handle is still there.
    fn start_joiner(
        self: &Arc<Self>,
        handle: JoinHandle<()>,
    ) -> Result<JoinHandle<()>, Option<JoinHandle<()>>> {
        // In a place of its own, so that the handle survives a failed start.
        let place = Arc::new(Mutex::new(Some(handle)));
        let body = {
            let (ending, place) = (Ending::new(self), Arc::clone(&place));
            move || {
                let handle = place.lock().take();
                let _ = handle.map(JoinHandle::join);
                drop(ending);
            }
        };
        sync::spawn(format!("{}-joiner", self.config.name), body).map_err(|_| place.lock().take())
    }
}

/// A thread that is being joined.
struct Ending<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Ending<M> {
    fn new(shared: &Arc<Shared<M>>) -> Ending<M> {
        shared.threads.ending.fetch_add(1, Ordering::AcqRel);
        Ending(Arc::clone(shared))
    }
}

impl<M: ManageConnection> Drop for Ending<M> {
    fn drop(&mut self) {
        self.0.threads.ending.fetch_sub(1, Ordering::AcqRel);
        self.0.notify_progress();
    }
}
