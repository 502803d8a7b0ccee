//! Ending the waits of others.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};

use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::types::error_text::text_of_panic;

/// Ends the waits that were started with it, from any thread.
///
/// Clones are one token. A cancelled token stays cancelled: a get that starts
/// with it fails at once. A get that has its connection already keeps it.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool::{CancelToken, Pool};
///
/// let pool = Pool::builder().max_size(1).build(StubManager)?;
/// let held = pool.get()?;
/// let token = CancelToken::new();
///
/// std::thread::scope(|scope| {
///     let waiter = scope.spawn(|| pool.request().cancel(&token).get().map(drop));
///     token.cancel();
///     assert!(waiter.join().unwrap().unwrap_err().is_cancelled());
/// });
/// # drop(held);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct CancelToken {
    inner: Arc<Inner>,
}

type Cancel = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    next: u64,
    /// In the order in which they registered, which is that of their ends.
    cancels: BTreeMap<u64, Cancel>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Ends every wait that was started with this token, now and in future.
    ///
    /// When it returns, those who waited are out of their pools' queues; one who
    /// was only just joining leaves by itself, at once, unless it was granted a
    /// connection first. Cancelling again does nothing, and waits for nothing.
    ///
    /// # Blocking
    ///
    /// For the moments that it takes to lock each waiter's pool.
    pub fn cancel(&self) {
        // Under the lock, so that no wait can register after it was emptied
        // without seeing the flag.
        let cancels = {
            let mut waits = self.inner.waits.lock();
            self.inner.cancelled.store(true, Ordering::Release);
            std::mem::take(&mut waits.cancels)
        };
        for cancel in cancels.into_values() {
            // It may hold the last reference to a pool, whose manager may panic
            // when it is dropped; the other waits are to end all the same.
            let _ = panic::catch_unwind(AssertUnwindSafe(cancel)).map_err(text_of_panic);
        }
    }

    /// Whether [`cancel`](CancelToken::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Acquire)
    }

    /// Has `cancel` called when the token is cancelled, until the registration
    /// is dropped. `None` if it is cancelled already.
    pub(crate) fn register(&self, cancel: Cancel) -> Option<Registration> {
        let mut waits = self.inner.waits.lock();
        if self.is_cancelled() {
            return None;
        }
        waits.next += 1;
        let id = waits.next;
        waits.cancels.insert(id, cancel);
        Some(Registration { token: self.clone(), id })
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// A wait's entry in its token.
pub(crate) struct Registration {
    token: CancelToken,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let cancel = self.token.inner.waits.lock().cancels.remove(&self.id);
        // Dropped outside the lock: it holds a pool.
        drop(cancel);
    }
}
