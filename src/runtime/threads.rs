//! The pool's threads, from their start until they have ended.

use std::io;
use std::time::{Duration, Instant};

use crate::types::manage::ManageConnection;
use crate::runtime::shared::Shared;
use crate::sync::{self, Arc, AtomicUsize, JoinHandle, Mutex, Ordering};

/// When there is no thread to join another, it is tried again after this long.
const STARVED_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct Threads {
    /// Of those that have not been joined.
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
        // In a place of its own, so that it is not dropped under the lock.
        let place = Arc::new(Mutex::new(Some(body)));
        let run = {
            let place = Arc::clone(&place);
            move || {
                let body = place.lock().take();
                body.into_iter().for_each(|body| body());
            }
        };
        // Under the lock, so that nobody looks for the handle before it is there.
        let mut handles = self.handles.lock();
        let started = sync::spawn(name, run).map(|handle| handles.push(handle));
        drop(handles);
        started
    }

    /// Joins those that have done their work. A worker does that before it ends: one
    /// that is kept by what those still run is counted as long as they are.
    pub(crate) fn join_finished(&self) {
        let finished: Vec<_> = {
            let mut handles = self.handles.lock();
            handles.extract_if(.., |handle| handle.is_finished()).collect()
        };
        finished.into_iter().for_each(|handle| drop(handle.join()));
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
        let mut joiners = Vec::new();
        loop {
            let unjoined = self.start_joiners(&mut joiners);
            let until = match unjoined {
                0 => deadline,
                _ => deadline.min(sync::instant() + STARVED_RETRY),
            };
            let hope = |_: &_| unjoined == 0 && self.threads.ending() == 0;
            if self.wait_for(Some(until), hope) {
                // They run nothing but the body below, and are at its end.
                joiners.into_iter().for_each(|joiner| drop(joiner.join()));
                return 0;
            }
            if until == deadline {
                return self.threads.ending() + unjoined;
            }
        }
    }

    /// Has all threads joined of which there are handles. Returns for how many
    /// there was no thread to join them.
    fn start_joiners(self: &Arc<Self>, joiners: &mut Vec<JoinHandle<()>>) -> usize {
        let handles = {
            let mut handles = self.threads.handles.lock();
            // Under the lock: another `close` finds them here or counted there.
            self.threads.ending.fetch_add(handles.len(), Ordering::AcqRel);
            std::mem::take(&mut *handles)
        };
        let mut left = Vec::new();
        for handle in handles {
            match self.start_joiner(handle) {
                Ok(joiner) => joiners.push(joiner),
                Err(handle) => left.extend(handle),
            }
        }
        let unjoined = left.len();
        self.threads.handles.lock().extend(left);
        unjoined
    }

    /// `Err`: the system has no thread to give, and the handle is still there.
    fn start_joiner(
        self: &Arc<Self>,
        handle: JoinHandle<()>,
    ) -> Result<JoinHandle<()>, Option<JoinHandle<()>>> {
        // In a place of its own, so that the handle survives a failed start.
        let place = Arc::new(Mutex::new(Some(handle)));
        let body = {
            let (ending, place) = (Ending(Arc::clone(self)), Arc::clone(&place));
            move || {
                let handle = place.lock().take();
                let _ = handle.map(JoinHandle::join);
                drop(ending);
            }
        };
        sync::spawn(format!("{}-joiner", self.config.name), body).map_err(|_| place.lock().take())
    }
}

/// A thread that is being joined, and counted.
struct Ending<M: ManageConnection>(Arc<Shared<M>>);

impl<M: ManageConnection> Drop for Ending<M> {
    fn drop(&mut self) {
        self.0.threads.ending.fetch_sub(1, Ordering::AcqRel);
        self.0.notify_progress();
    }
}
