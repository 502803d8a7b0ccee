//! A driver whose server records misuse of its sessions: used after its close, used by two
//! threads at once, closed twice, never closed.

use std::convert::Infallible;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::ManageConnection;

#[derive(Clone, Default)]
pub struct Server(Arc<Counts>);

#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    closed_twice: AtomicU64,
    used_closed: AtomicU64,
    shared: AtomicU64,
}

/// What the server has recorded so far.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    pub opened: u64,
    /// Sessions that were closed at least once.
    pub closed: u64,
    pub closed_twice: u64,
    /// Uses of a session that was closed before the use ended.
    pub used_closed: u64,
    /// Uses during another use of the same session.
    pub shared: u64,
}

impl Server {
    pub fn open(&self) -> Session {
        let number = self.0.opened.fetch_add(1, Ordering::SeqCst);
        Session {
            counts: Arc::clone(&self.0),
            number,
            opened: Instant::now(),
            used: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    pub fn seen(&self) -> Seen {
        let Counts { opened, closed, closed_twice, used_closed, shared } = &*self.0;
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Seen {
            opened: of(opened),
            closed: of(closed),
            closed_twice: of(closed_twice),
            used_closed: of(used_closed),
            shared: of(shared),
        }
    }
}

impl Seen {
    pub fn never_closed(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }
}

/// A session on the server. Forgetting it does not close it.
pub struct Session {
    counts: Arc<Counts>,
    /// The number of sessions that were opened before it.
    pub number: u64,
    opened: Instant,
    used: AtomicBool,
    closed: AtomicBool,
}

impl Session {
    /// Uses the session for this many turns of an empty loop, and then calls `middle`.
    pub fn work(&self, turns: u64, middle: impl FnOnce()) {
        let record = |count: &AtomicU64, is_misuse: bool| {
            if is_misuse {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        record(&self.counts.shared, self.used.swap(true, Ordering::SeqCst));
        let was_closed = self.closed.load(Ordering::SeqCst);
        (0..turns).for_each(|_| hint::spin_loop());
        middle();
        record(&self.counts.used_closed, was_closed || self.closed.load(Ordering::SeqCst));
        self.used.store(false, Ordering::SeqCst);
    }

    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub fn close(&self) {
        let count = match self.closed.swap(true, Ordering::SeqCst) {
            false => &self.counts.closed,
            true => &self.counts.closed_twice,
        };
        count.fetch_add(1, Ordering::SeqCst);
        // A close takes a moment, in which other threads run.
        thread::yield_now();
    }
}

/// A session that is closed when it is dropped, for fairpool.
pub struct Owned(pub Session);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl ManageConnection for Server {
    type Connection = Owned;
    type Error = Infallible;

    fn connect(&self) -> Result<Owned, Infallible> {
        Ok(Owned(self.open()))
    }

    fn is_valid(&self, _: &mut Owned) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Owned) -> bool {
        false
    }
}
