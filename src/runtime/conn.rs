//! One physical connection, its close mutex, and how a driver call on it fails.

use log::Level;

use super::use_sampler::UseSampler;
use crate::core::{Reason, Time};
use crate::sync::{Arc, Mutex};
use crate::types::thread::User;
use crate::types::{Extensions, UseContext};

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
    /// The number of its session at the server, if the manager knows it. Not zero.
    pub(crate) backend_id: Option<u32>,
    pub(crate) opened_at: Time,
    pub(crate) uses: u64,
    pub(crate) sampler: UseSampler,
    /// It must not be used again: `mark_broken` was called, or an error was fatal.
    pub(crate) marked_broken: bool,
    /// The event handler has been notified that it leaves the pool.
    pub(crate) release_notified: bool,
    /// A use of it panicked.
    pub(crate) unfinished: bool,
    /// What the use handler needs to end the use.
    pub(crate) context: Option<Box<UseContext>>,
    /// Which thread uses it, since it was got last.
    pub(crate) user: User,
    pub(crate) close: CloseMutex,
}

const TAKEN: &str = "BUG: a connection without its value is in use";

impl<C, P> Conn<C, P> {
    pub(crate) fn new(
        pool: Arc<P>,
        value: C,
        (id, backend_id): (u64, Option<u32>),
        now: Time,
        seed: u64,
    ) -> Conn<C, P> {
        Conn {
            pool,
            value: Some(value),
            extensions: Extensions::new(),
            id,
            backend_id,
            opened_at: now,
            uses: 0,
            sampler: UseSampler::new(seed),
            marked_broken: false,
            release_notified: false,
            unfinished: false,
            context: None,
            user: User::none(),
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

/// The steps of a close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Not being closed. The core knows whether it is opening, idle or busy.
    #[default]
    Live,
    /// A closer has taken the driver's value and is closing it.
    Closing,
    /// The driver's close has returned.
    Closed,
    /// Its slot has been given to others.
    Dead,
}

/// Decides which of several closers closes a connection.
///
/// It is held for a comparison and a store, never across the driver's close. A lock held
/// across the close would make the second closer wait for a close that may hang, and
/// behind it every thread that returns a connection. Here the second closer finds
/// `Closing` and leaves at once.
///
/// Today a closer owns its connection, so two closers never meet in a running pool. The
/// mutex checks that, in tests and in the field: `docs/decisions/0002-closing.md`.
#[derive(Default)]
pub(crate) struct CloseMutex {
    phase: Mutex<Phase>,
}

impl CloseMutex {
    /// Whether the caller is the one who closes.
    pub(crate) fn begin(&self) -> bool {
        self.step(Phase::Live, Phase::Closing)
    }

    /// The driver's close has returned.
    pub(crate) fn finish(&self) {
        let legal = self.step(Phase::Closing, Phase::Closed);
        debug_assert!(legal, "BUG: closed what was not closing");
    }

    /// The slot is free.
    pub(crate) fn bury(&self) {
        let legal = self.step(Phase::Closed, Phase::Dead);
        debug_assert!(legal, "BUG: buried what was not closed");
    }

    fn step(&self, from: Phase, to: Phase) -> bool {
        let mut phase = self.phase.lock();
        let legal = *phase == from;
        if legal {
            *phase = to;
        }
        legal
    }
}

/// Why a driver call failed.
pub(crate) enum Failure<E> {
    Error(E),
    /// Which call panicked, and the panic's message.
    Panic(&'static str, String),
}

/// What is left to do of a check that a caller has begun.
pub(crate) enum Unfinished<E> {
    /// It could take no more time on the caller's thread, and has failed for that.
    Validation(Failed<E>),
    /// It has failed: log that, and tell the core.
    Failure(Failed<E>),
}

/// A check that failed, and the level at which to log it.
pub(crate) struct Failed<E> {
    pub(super) reason: Reason,
    pub(super) failure: Failure<E>,
    pub(super) level: Level,
}

impl<E> Failed<E> {
    /// The driver has said so; it did not panic.
    pub(super) fn is_error(&self) -> bool {
        matches!(self.failure, Failure::Error(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    #[test]
    fn p7_of_many_closers_one_closes_and_none_waits_for_it() {
        let (mutex, closers) = (CloseMutex::default(), AtomicUsize::new(0));
        let barrier = Barrier::new(8);
        let (release, gate) = mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let (left, leaving) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (mutex, closers, barrier, gate) = (&mutex, &closers, &barrier, &gate);
                let left = left.clone();
                scope.spawn(move || {
                    barrier.wait();
                    if mutex.begin() {
                        closers.fetch_add(1, Ordering::SeqCst);
                        gate.lock().unwrap().recv().unwrap(); // the driver's close hangs
                        mutex.finish();
                    } else {
                        left.send(()).unwrap();
                    }
                });
            }
            for _ in 0..7 {
                leaving.recv().unwrap(); // the others leave while it hangs
            }
            release.send(()).unwrap();
        });
        assert_eq!(closers.load(Ordering::SeqCst), 1);
        assert!(!mutex.begin(), "a closed connection is not closed again");
        mutex.bury();
        assert!(!mutex.begin(), "a dead one neither");
    }
}
