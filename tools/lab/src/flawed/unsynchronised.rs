//! The flaw: **the reaper and the callers are not synchronised**. The reaper decides and
//! closes outside the lock, by an outdated copy of the idle list; and a return wakes no
//! waiter.
//!
//! The rest is correct, but reduced to what the scenario needs: one mutex over the state,
//! idle connections as a stack, a new one if there are fewer than the maximum, and waits
//! with a deadline. The reaper closes connections that are too old.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The functions of a driver.
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
    /// The fix: the reaper decides under the lock, and a return wakes a waiter.
    fixed: bool,
}

struct State<C> {
    idle: Vec<Arc<C>>,
    open: usize,
}

impl<C> Unsynchronised<C> {
    pub fn new(fixed: bool, max_size: usize, driver: Driver<C>) -> Unsynchronised<C> {
        let state = Mutex::new(State { idle: Vec::new(), open: 0 });
        Unsynchronised { state, changed: Condvar::new(), driver, max_size, fixed }
    }

    /// Waits for a connection until the timeout.
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

    /// One pass of the reaper: closes what is too old, and returns how many it closed.
    pub fn reap(&self) -> usize {
        let Driver { is_old, close, .. } = &self.driver;
        if self.fixed {
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
        // The flaw: a caller may take it meanwhile, and another may be at its position.
        let seen = self.lock().idle.clone();
        let mut reaped = 0;
        for (position, conn) in seen.iter().enumerate().rev().filter(|(_, conn)| is_old(conn)) {
            close(conn);
            reaped += 1;
            let mut state = self.lock();
            if position < state.idle.len() {
                state.idle.remove(position);
                state.open -= 1;
            }
        }
        reaped
    }

    pub fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    /// Closes the idle connections.
    pub fn clear(&self) {
        let idle = std::mem::take(&mut self.lock().idle);
        self.lock().open -= idle.len();
        idle.iter().for_each(|conn| (self.driver.close)(conn));
    }

    /// Wakes this many waiters: a connection is idle, or there is room for a new one.
    fn wake(&self, waiters: usize) {
        if self.fixed {
            (0..waiters).for_each(|_| self.changed.notify_one());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
