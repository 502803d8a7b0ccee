//! The flaw: **no bound and no deadline**. Callers that find no connection join the
//! queue, however long it is, and sleep until they are given one.
//!
//! Otherwise it is what a pool should be: one mutex over the state, free connections as
//! a stack, waiters in a FIFO, each with a channel of its own, and a returned connection
//! handed to the first of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

/// How the flaw is mended.
#[derive(Clone, Copy)]
pub struct Limits {
    pub waiters: usize,
    pub timeout: Duration,
}

pub struct Endless<C>(Arc<Inner<C>>);

struct Inner<C> {
    state: Mutex<State<C>>,
    connect: Box<dyn Fn() -> C + Send + Sync>,
    max_size: usize,
    /// `None` is the flaw.
    limits: Option<Limits>,
}

struct State<C> {
    idle: Vec<C>,
    open: usize,
    waiters: VecDeque<(u64, Sender<C>)>,
    next: u64,
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
        let state = State { idle: Vec::new(), open: 0, waiters: VecDeque::new(), next: 0 };
        let connect = Box::new(connect);
        Endless(Arc::new(Inner { state: Mutex::new(state), connect, max_size, limits }))
    }

    pub fn get(&self) -> Result<Guard<C>, &'static str> {
        self.get_within(self.0.limits.map(|limits| limits.timeout))
    }

    /// `None`: for ever.
    pub fn get_within(&self, timeout: Option<Duration>) -> Result<Guard<C>, &'static str> {
        let pool = &self.0;
        let mut state = pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(conn) = state.idle.pop() {
            return Ok(self.guard(conn));
        }
        if state.open < pool.max_size {
            state.open += 1;
            drop(state);
            return Ok(self.guard((pool.connect)()));
        }
        if pool.limits.is_some_and(|limits| state.waiters.len() >= limits.waiters) {
            return Err("too many callers wait");
        }
        let (give, take) = bounded(1);
        let number = state.next;
        state.next += 1;
        state.waiters.push_back((number, give));
        drop(state);
        let Some(timeout) = timeout else {
            return take.recv().map(|conn| self.guard(conn)).map_err(|_| "the pool is gone");
        };
        if let Ok(conn) = take.recv_timeout(timeout) {
            return Ok(self.guard(conn));
        }
        let mut state = pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiters.retain(|(waiter, _)| *waiter != number);
        drop(state);
        // It may have been given one in the same instant.
        take.try_recv().map(|conn| self.guard(conn)).map_err(|_| "timed out")
    }

    pub fn waiting(&self) -> usize {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).waiters.len()
    }

    fn guard(&self, conn: C) -> Guard<C> {
        Guard { conn: Some(conn), pool: self.clone() }
    }

    fn put(&self, conn: C) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.waiters.pop_front() {
            // It is there until it has been given one, or has left the queue.
            Some((_, waiter)) => drop(waiter.send(conn)),
            None => state.idle.push(conn),
        }
    }
}

/// A connection that goes back when it is dropped.
pub struct Guard<C: Send + 'static> {
    conn: Option<C>,
    pool: Endless<C>,
}

impl<C: Send + 'static> std::ops::DerefMut for Guard<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.conn.as_mut().expect("it is taken out in drop only")
    }
}

impl<C: Send + 'static> std::ops::Deref for Guard<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.conn.as_ref().expect("it is taken out in drop only")
    }
}

impl<C: Send + 'static> Drop for Guard<C> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.put(conn);
        }
    }
}
