//! The flaw: **no bound and no deadline**. Callers that find no connection join the queue,
//! however long it is, and sleep until they get one.
//!
//! The rest is correct: one mutex over the state, idle connections as a stack, waiters in
//! a FIFO, each with a channel of its own. A returned connection goes to the first waiter,
//! a broken one is replaced, and a failed connect is tried again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use scopeguard::ScopeGuard;

/// The fix of the flaw.
#[derive(Clone, Copy)]
pub struct Limits {
    pub waiters: usize,
    pub timeout: Duration,
}

/// A connection that is returned when it is dropped.
pub type Guard<C> = ScopeGuard<C, Box<dyn FnOnce(C) + Send>>;

pub struct Endless<C>(Arc<Inner<C>>);

struct Inner<C> {
    state: Mutex<State<C>>,
    connect: Box<dyn Fn() -> Option<C> + Send + Sync>,
    is_broken: fn(&C) -> bool,
    max_size: usize,
    /// `None` is the flaw.
    limits: Option<Limits>,
}

struct State<C> {
    idle: Vec<C>,
    open: usize,
    waiters: VecDeque<Sender<C>>,
}

impl<C> Clone for Endless<C> {
    fn clone(&self) -> Endless<C> {
        Endless(Arc::clone(&self.0))
    }
}

impl<C: Send + 'static> Endless<C> {
    pub fn new(
        max_size: usize,
        limits: Option<Limits>,
        connect: impl Fn() -> C + Send + Sync + 'static,
    ) -> Endless<C> {
        Endless::over(max_size, limits, move || Some(connect()), |_| false)
    }

    /// A pool with a driver that may fail.
    pub fn over(
        max_size: usize,
        limits: Option<Limits>,
        connect: impl Fn() -> Option<C> + Send + Sync + 'static,
        is_broken: fn(&C) -> bool,
    ) -> Endless<C> {
        let state = Mutex::new(State { idle: Vec::new(), open: 0, waiters: VecDeque::new() });
        let connect = Box::new(connect);
        Endless(Arc::new(Inner { state, connect, is_broken, max_size, limits }))
    }

    pub fn get(&self) -> Result<Guard<C>, &'static str> {
        self.get_within(self.0.limits.map(|limits| limits.timeout))
    }

    /// `None` means no deadline.
    pub fn get_within(&self, timeout: Option<Duration>) -> Result<Guard<C>, &'static str> {
        let mut state = self.lock();
        if let Some(conn) = state.idle.pop() {
            return Ok(self.guard(conn));
        }
        if state.open < self.0.max_size {
            state.open += 1;
            drop(state);
            if let Some(conn) = (self.0.connect)() {
                return Ok(self.guard(conn));
            }
            self.keep_trying();
            state = self.lock();
        }
        if self.0.limits.is_some_and(|limits| state.waiters.len() >= limits.waiters) {
            return Err("too many callers wait");
        }
        let (give, take) = bounded(1);
        state.waiters.push_back(give.clone());
        drop(state);
        // `MAX` means no deadline.
        if let Ok(conn) = take.recv_timeout(timeout.unwrap_or(Duration::MAX)) {
            return Ok(self.guard(conn));
        }
        self.lock().waiters.retain(|waiter| !waiter.same_channel(&give));
        // A connection may have been granted in the same instant.
        take.try_recv().map(|conn| self.guard(conn)).map_err(|_| "timed out")
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiters.len()
    }

    pub fn idle_and_active(&self) -> (usize, usize) {
        let state = self.lock();
        (state.idle.len(), state.open - state.idle.len())
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard(&self, conn: C) -> Guard<C> {
        let pool = self.clone();
        scopeguard::guard(conn, Box::new(move |conn| pool.put(conn)))
    }

    /// Replaces a connection that is still counted as open.
    fn keep_trying(&self) {
        let pool = self.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            match (pool.0.connect)() {
                Some(conn) => pool.put(conn),
                None => pool.keep_trying(),
            }
        });
    }

    fn put(&self, conn: C) {
        let mut state = self.lock();
        if (self.0.is_broken)(&conn) {
            // Replaced only if a caller waits.
            match state.waiters.is_empty() {
                true => state.open -= 1,
                false => self.keep_trying(),
            }
            return drop((state, conn)); // In this order, because a close may be slow.
        }
        match state.waiters.pop_front() {
            // Its receiver exists as long as it is in the queue.
            Some(waiter) => drop(waiter.send(conn)),
            None => state.idle.push(conn),
        }
    }
}
