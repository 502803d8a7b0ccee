//! The flaw: **the reaper and the callers go by each other**. The reaper decides and
//! closes outside the lock, by a copy of the idle list that is no longer true; and
//! whoever puts a connection back tells nobody who waits.
//!
//! Otherwise it is what a pool should be, without the parts that play no role here: one
//! mutex over the state, free connections as a stack, a new one if there are fewer than
//! the maximum, and waits with a deadline. The reaper closes connections that are too old.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the pool asks of a driver.
pub struct Driver<C> {
    pub connect: Box<dyn Fn() -> C + Send + Sync>,
    pub is_old: fn(&C) -> bool,
    pub close: fn(&C),
}

pub struct Unsynchronised<C> {
    state: Mutex<State<C>>,
    changed: Condvar,
    driver: Driver<C>,
    max_size: usize,
    /// The flaw is mended: the reaper decides under the lock, and waiters are woken.
    mended: bool,
}

struct State<C> {
    idle: Vec<Arc<C>>,
    open: usize,
}

impl<C> Unsynchronised<C> {
    pub fn new(mended: bool, max_size: usize, driver: Driver<C>) -> Unsynchronised<C> {
        let state = Mutex::new(State { idle: Vec::new(), open: 0 });
        Unsynchronised { state, changed: Condvar::new(), driver, max_size, mended }
    }

    /// Waits for a connection for this long.
    pub fn get(&self, timeout: Duration) -> Option<Arc<C>> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(conn) = state.idle.pop() {
                return Some(conn);
            }
            if state.open < self.max_size {
                state.open += 1;
                drop(state);
                return Some(Arc::new((self.driver.connect)()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn put(&self, conn: Arc<C>) {
        self.lock().idle.push(conn);
        self.wake(1);
    }

    /// One walk of the reaper: closes what is too old, and says how many those were.
    pub fn reap(&self) -> usize {
        let Driver { is_old, close, .. } = &self.driver;
        if self.mended {
            let old: Vec<_> = {
                let mut state = self.lock();
                let old: Vec<_> = state.idle.extract_if(.., |conn| is_old(conn)).collect();
                state.open -= old.len();
                old
            };
            self.wake(old.len());
            old.iter().for_each(|conn| close(conn));
            return old.len();
        }
        // The flaw: meanwhile it may be taken, and another stand in its place.
        let seen = self.lock().idle.clone();
        let mut reaped = 0;
        for (place, conn) in seen.iter().enumerate().rev().filter(|(_, conn)| is_old(conn)) {
            close(conn);
            reaped += 1;
            let mut state = self.lock();
            if place < state.idle.len() {
                state.idle.remove(place);
                state.open -= 1;
            }
        }
        reaped
    }

    pub fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    /// Closes what is idle.
    pub fn clear(&self) {
        let idle = std::mem::take(&mut self.lock().idle);
        self.lock().open -= idle.len();
        idle.iter().for_each(|conn| (self.driver.close)(conn));
    }

    /// Tells so many waiters that a connection is idle, or room for a new one.
    fn wake(&self, waiters: usize) {
        if self.mended {
            (0..waiters).for_each(|_| self.changed.notify_one());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
