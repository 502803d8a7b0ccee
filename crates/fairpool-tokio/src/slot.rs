//! Where the connection and the closure are between the grant and the closure's start.

use std::sync::{Arc, Mutex, PoisonError};

/// Something that either of two owners may take. Whoever is dropped first drops it: a caller that
/// loses interest while the closure is queued does not wait for a free thread, nor does a runtime
/// that is shut down wait for the caller.
pub(crate) struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Slot<T> {
    pub(crate) fn pair(value: T) -> (Slot<T>, Slot<T>) {
        let value = Arc::new(Mutex::new(Some(value)));
        (Slot(Arc::clone(&value)), Slot(value))
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // Outside the lock: it may be foreign code.
        drop(self.take());
    }
}
