//! One physical connection.

use super::close_mutex::CloseMutex;
use super::use_sampler::UseSampler;
use crate::core::Time;
use crate::sync::{Arc, AtomicBool};
use crate::types::Extensions;

/// A driver's connection `C` and what the pool keeps with it. `P` is the reference to
/// its pool.
pub(crate) struct Conn<C, P> {
    /// A thread that returns a connection needs a reference to the pool that outlives
    /// the return. This one belongs to the connection, so that counting it contends
    /// with no other.
    pub(crate) pool: Arc<P>,
    /// `None` once a closer or `detach` has taken it.
    value: Option<C>,
    pub(crate) extensions: Extensions,
    pub(crate) id: u64,
    pub(crate) opened_at: Time,
    pub(crate) uses: u64,
    pub(crate) sampler: UseSampler,
    /// Its holder said that it must not be used again.
    pub(crate) marked_broken: bool,
    /// A use was begun and not finished: it panicked.
    pub(crate) unfinished: bool,
    /// The number of the thread that got it last.
    pub(crate) home: u64,
    /// Another thread has used it since.
    pub(crate) moved: AtomicBool,
    pub(crate) close: CloseMutex,
}

const TAKEN: &str = "BUG: a connection without its value is in use";

impl<C, P> Conn<C, P> {
    pub(crate) fn new(pool: Arc<P>, value: C, id: u64, now: Time) -> Conn<C, P> {
        Conn {
            pool,
            value: Some(value),
            extensions: Extensions::new(),
            id,
            opened_at: now,
            uses: 0,
            sampler: UseSampler::default(),
            marked_broken: false,
            unfinished: false,
            home: 0,
            moved: AtomicBool::new(false),
            close: CloseMutex::default(),
        }
    }

    pub(crate) fn value(&self) -> &C {
        self.value.as_ref().expect(TAKEN)
    }

    pub(crate) fn value_mut(&mut self) -> &mut C {
        self.value.as_mut().expect(TAKEN)
    }

    /// Takes the driver's value, to close it or to keep it. Only the first caller gets
    /// it; the others find the connection closing.
    pub(crate) fn take(&mut self) -> Option<C> {
        if self.close.begin() { self.value.take() } else { None }
    }
}
