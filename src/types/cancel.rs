//! A token that cancels waits.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe, RefUnwindSafe, UnwindSafe};

use crate::sync::{Arc, AtomicBool, Mutex, MutexGuard, Ordering, Process};
use crate::types::error_text::text_of_panic;

/// Cancels the gets that were started with it, from any thread. For
/// [`Request::cancel`](crate::Request::cancel).
///
/// Clones are the same token. A cancelled token stays cancelled: a get that starts with it
/// fails at once. A get that already has its connection keeps it.
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
    process: Process,
    cancelled: AtomicBool,
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    next: u64,
    /// In the order of registration, in which they are also cancelled.
    cancels: BTreeMap<u64, Cancel>,
}

impl Inner {
    /// `None`: the lock was taken when this process was made by `fork`, and will be for ever.
    /// Waits cannot be registered then, and end at their deadlines.
    fn waits(&self) -> Option<MutexGuard<'_, Waits>> {
        self.waits.try_lock().or_else(|| (!self.process.is_another()).then(|| self.waits.lock()))
    }
}

impl CancelToken {
    /// A new token, which is not cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Cancels every get that was or will be started with this token.
    ///
    /// When it returns, all waiters with this token have left their pools' queues. A get
    /// that was just about to wait leaves at once by itself, unless it is granted a
    /// connection first. A second call does nothing.
    ///
    /// # Blocking
    ///
    /// Only for the lock of each waiter's pool.
    pub fn cancel(&self) {
        // Under the lock: a wait that registers later sees the flag.
        let cancels = {
            let waits = self.inner.waits();
            self.inner.cancelled.store(true, Ordering::Release);
            waits.map(|mut waits| std::mem::take(&mut waits.cancels)).unwrap_or_default()
        };
        for cancel in cancels.into_values() {
            // `cancel` may drop the last reference to a pool, and so a manager, whose
            // destructor may panic. The other waits must end all the same.
            let _ = panic::catch_unwind(AssertUnwindSafe(cancel)).map_err(text_of_panic);
        }
    }

    /// Whether [`cancel`](CancelToken::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Acquire)
    }

    /// Registers a function that is called when the token is cancelled, until the
    /// registration is dropped. `None`: the token is cancelled already.
    pub(crate) fn register(&self, cancel: Cancel) -> Option<Registration> {
        let waits = self.inner.waits();
        if self.is_cancelled() {
            return None;
        }
        let Some(mut waits) = waits else {
            return Some(Registration { token: self.clone(), id: 0 });
        };
        waits.next += 1;
        let id = waits.next;
        waits.cancels.insert(id, cancel);
        Some(Registration { token: self.clone(), id })
    }
}

// A panic while it cancels leaves it cancelled.
impl UnwindSafe for CancelToken {}
impl RefUnwindSafe for CancelToken {}

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
        let cancel = self.token.inner.waits().and_then(|mut waits| waits.cancels.remove(&self.id));
        // Outside the lock: it holds a reference to a pool.
        drop(cancel);
    }
}
