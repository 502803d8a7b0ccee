//! A driver without a server, which counts.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fairpool::ManageConnection;

/// Opens connections whose close takes a set time.
#[derive(Clone, Default)]
pub struct Stub {
    counts: Arc<Counts>,
    close: Duration,
}

#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Stub {
    pub fn new() -> Stub {
        Stub::default()
    }

    /// A driver whose closes take this time.
    pub fn closing_in(close: Duration) -> Stub {
        Stub { close, ..Stub::default() }
    }

    pub fn open(&self) -> Conn {
        self.counts.opened.fetch_add(1, Ordering::SeqCst);
        Conn { counts: Arc::clone(&self.counts), close: self.close }
    }

    pub fn opened(&self) -> u64 {
        self.counts.opened.load(Ordering::SeqCst)
    }

    pub fn closed(&self) -> u64 {
        self.counts.closed.load(Ordering::SeqCst)
    }
}

/// A connection; dropping it closes it.
pub struct Conn {
    counts: Arc<Counts>,
    close: Duration,
}

impl Drop for Conn {
    fn drop(&mut self) {
        if !self.close.is_zero() {
            thread::sleep(self.close);
        }
        self.counts.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl ManageConnection for Stub {
    type Connection = Conn;
    type Error = Infallible;

    fn connect(&self) -> Result<Conn, Infallible> {
        Ok(self.open())
    }

    fn is_valid(&self, _: &mut Conn) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Conn) -> bool {
        false
    }
}
