//! One physical connection, and the mutex that its closers meet at.

use crate::types::caller::Caller;
use crate::core::{PoolTypes, Time};
use crate::types::error::Cause;
use crate::types::extensions::Extensions;
use crate::types::manage::ManageConnection;
use crate::runtime::shared::Shared;
use crate::sync::{Arc, AtomicBool, Mutex};
use crate::runtime::wait::WaitCell;

/// The core's types for pools of a manager.
pub(crate) struct Kind<M>(std::marker::PhantomData<fn() -> M>);

impl<M: ManageConnection> PoolTypes for Kind<M> {
    type Conn = Conn<M>;
    type Caller = Caller;
    type Cell = Arc<WaitCell<M>>;
    type Cause = Cause;

    fn connection_id(conn: &Conn<M>) -> u64 {
        conn.id
    }
}

/// What ties a connection to its pool. Whoever returns a connection needs a
/// reference to the pool that outlives that; this one is the connection's own, so
/// that counting it disturbs nobody else.
pub(crate) struct Tether<M: ManageConnection> {
    pub(crate) shared: Arc<Shared<M>>,
}

/// A driver's connection and what the pool keeps with it.
pub(crate) struct Conn<M: ManageConnection> {
    pub(crate) tether: Arc<Tether<M>>,
    /// `None` once a closer or `detach` has taken it.
    value: Option<M::Connection>,
    pub(crate) extensions: Extensions,
    pub(crate) id: u64,
    pub(crate) born: Time,
    pub(crate) uses: u64,
    /// When the last use that was timed began.
    pub(crate) lent: Time,
    /// From when on the next use is timed.
    pub(crate) time_from: Time,
    /// From when on a return is to be told, or recorded: at once if the use is timed.
    pub(crate) told_from: Time,
    /// Of its uses, those that are recorded.
    pub(crate) recorded: u64,
    /// The holder said that it must not be used again.
    pub(crate) marked_broken: bool,
    /// A use of it was begun and not finished: it panicked.
    pub(crate) unfinished: bool,
    /// The number of the thread that got it last.
    pub(crate) home: u64,
    /// It has been used elsewhere since.
    pub(crate) moved: AtomicBool,
    pub(crate) close: CloseMutex,
}

const TAKEN: &str = "BUG: a connection without its value is in use";

impl<M: ManageConnection> Conn<M> {
    pub(crate) fn new(shared: &Arc<Shared<M>>, value: M::Connection, id: u64) -> Conn<M> {
        let born = shared.clock.now();
        Conn {
            tether: Arc::new(Tether { shared: Arc::clone(shared) }),
            value: Some(value),
            extensions: Extensions::new(),
            id,
            born,
            uses: 0,
            lent: born,
            time_from: Time::START,
            told_from: Time::START,
            recorded: 0,
            marked_broken: false,
            unfinished: false,
            home: 0,
            moved: AtomicBool::new(false),
            close: CloseMutex::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<M>> {
        &self.tether.shared
    }

    pub(crate) fn value(&self) -> &M::Connection {
        self.value.as_ref().expect(TAKEN)
    }

    pub(crate) fn value_mut(&mut self) -> &mut M::Connection {
        self.value.as_mut().expect(TAKEN)
    }

    /// Takes the driver's value out, to close it or to keep it. Only the first
    /// who asks gets it; the others find the connection closing and leave.
    pub(crate) fn take(&mut self) -> Option<M::Connection> {
        if self.close.begin() { self.value.take() } else { None }
    }
}

/// How far a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Opening, idle or busy: which of them is known under the pool's lock.
    Live,
    /// A closer has taken the driver's value and is closing it.
    Closing,
    /// The driver's close has returned.
    Closed,
    /// Its slot has been given to others.
    Dead,
}

/// The close mutex of one connection.
///
/// It is held for a comparison and a store: to move the state, never across the
/// driver's close. A lock held across the close would make the second closer,
/// and behind it everyone who returns a connection, wait for a close that may
/// hang. Here a second closer finds `Closing` and leaves at once.
pub(crate) struct CloseMutex {
    phase: Mutex<Phase>,
}

impl CloseMutex {
    pub(crate) fn new() -> CloseMutex {
        CloseMutex { phase: Mutex::new(Phase::Live) }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    #[test]
    fn p7_of_many_closers_one_closes_and_none_waits_for_it() {
        let (mutex, closers) = (CloseMutex::new(), AtomicUsize::new(0));
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
