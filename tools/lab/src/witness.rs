//! A driver whose server notes what is done to each of its sessions: used after it was
//! closed, used by two at once, closed twice, never closed.

use std::convert::Infallible;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::ManageConnection;

#[derive(Clone, Default)]
pub struct Server(Arc<Notes>);

#[derive(Default)]
struct Notes {
    opened: AtomicU64,
    closed: AtomicU64,
    closed_twice: AtomicU64,
    used_closed: AtomicU64,
    shared: AtomicU64,
}

/// What the server has noted so far.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    pub opened: u64,
    /// Sessions, however often each was closed.
    pub closed: u64,
    pub closed_twice: u64,
    /// Uses that met a closed session, or one that was closed meanwhile.
    pub used_closed: u64,
    /// Uses that met another use of the same session.
    pub shared: u64,
}

impl Server {
    pub fn open(&self) -> Session {
        let number = self.0.opened.fetch_add(1, Ordering::SeqCst);
        Session {
            notes: Arc::clone(&self.0),
            number,
            opened: Instant::now(),
            used: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    pub fn seen(&self) -> Seen {
        let Notes { opened, closed, closed_twice, used_closed, shared } = &*self.0;
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
    notes: Arc<Notes>,
    /// How many were opened before it.
    pub number: u64,
    opened: Instant,
    used: AtomicBool,
    closed: AtomicBool,
}

impl Session {
    /// Uses it for so many turns of an empty loop, with something done in the middle.
    pub fn work(&self, turns: u64, middle: impl FnOnce()) {
        let note = |count: &AtomicU64, wrong: bool| {
            if wrong {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        note(&self.notes.shared, self.used.swap(true, Ordering::SeqCst));
        let was_closed = self.closed.load(Ordering::SeqCst);
        (0..turns).for_each(|_| hint::spin_loop());
        middle();
        note(&self.notes.used_closed, was_closed || self.closed.load(Ordering::SeqCst));
        self.used.store(false, Ordering::SeqCst);
    }

    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub fn close(&self) {
        let count = match self.closed.swap(true, Ordering::SeqCst) {
            false => &self.notes.closed,
            true => &self.notes.closed_twice,
        };
        count.fetch_add(1, Ordering::SeqCst);
        // The server takes a moment, in which others run.
        thread::yield_now();
    }
}

/// A session that is closed when it is dropped, as a driver for fairpool has it.
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
