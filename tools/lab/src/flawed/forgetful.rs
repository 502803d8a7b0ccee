//! The flaw: **a cancelled caller stays in the queue**. A connection that is granted to it
//! later is lost, with its wake-up.
//!
//! The rest is correct, but reduced to what the scenario needs: one mutex over the state,
//! all connections open from the start, waiters in a FIFO, each with a cell of its own. A
//! returned connection goes to the first waiter.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub struct Forgetful<C> {
    state: Mutex<State<C>>,
    /// The fix: a cancelled caller leaves the queue.
    fixed: bool,
}

struct State<C> {
    idle: Vec<C>,
    waiters: VecDeque<Arc<Cell<C>>>,
}

/// The cell in which a waiter finds its answer.
struct Cell<C> {
    answer: Mutex<Option<Answer<C>>>,
    filled: Condvar,
}

enum Answer<C> {
    Granted(C),
    Cancelled,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C> Cell<C> {
    fn grant(&self, conn: C) {
        *lock(&self.answer) = Some(Answer::Granted(conn));
        self.filled.notify_one();
    }

    /// Does nothing if a connection was granted before.
    fn cancel(&self) {
        lock(&self.answer).get_or_insert(Answer::Cancelled);
        self.filled.notify_one();
    }

    fn wait(&self) -> Answer<C> {
        let mut answer = lock(&self.answer);
        loop {
            match answer.take() {
                Some(answer) => return answer,
                None => answer = self.filled.wait(answer).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Cancels the waits that began with it.
pub struct Cancel<C>(Mutex<Waits<C>>);

struct Waits<C> {
    cancelled: bool,
    cells: Vec<Arc<Cell<C>>>,
}

impl<C> Default for Cancel<C> {
    fn default() -> Cancel<C> {
        Cancel(Mutex::new(Waits { cancelled: false, cells: Vec::new() }))
    }
}

impl<C> Cancel<C> {
    pub fn cancel(&self) {
        let mut waits = lock(&self.0);
        waits.cancelled = true;
        waits.cells.drain(..).for_each(|cell| cell.cancel());
    }

    fn register(&self, cell: &Arc<Cell<C>>) {
        let mut waits = lock(&self.0);
        match waits.cancelled {
            true => cell.cancel(),
            false => waits.cells.push(Arc::clone(cell)),
        }
    }
}

impl<C> Forgetful<C> {
    pub fn new(fixed: bool, conns: impl IntoIterator<Item = C>) -> Forgetful<C> {
        let state = State { idle: conns.into_iter().collect(), waiters: VecDeque::new() };
        Forgetful { state: Mutex::new(state), fixed }
    }

    /// Does not wait.
    pub fn try_get(&self) -> Option<Guard<'_, C>> {
        lock(&self.state).idle.pop().map(|conn| self.guard(conn))
    }

    /// Waits until a connection is granted or `cancel` is called.
    pub fn get(&self, cancel: &Cancel<C>) -> Option<Guard<'_, C>> {
        let cell = Arc::new(Cell { answer: Mutex::new(None), filled: Condvar::new() });
        {
            let mut state = lock(&self.state);
            if let Some(conn) = state.idle.pop() {
                return Some(self.guard(conn));
            }
            state.waiters.push_back(Arc::clone(&cell));
        }
        cancel.register(&cell);
        match cell.wait() {
            Answer::Granted(conn) => Some(self.guard(conn)),
            Answer::Cancelled if self.fixed => {
                lock(&self.state).waiters.retain(|waiter| !Arc::ptr_eq(waiter, &cell));
                // A connection may have been granted in the same instant.
                match lock(&cell.answer).take() {
                    Some(Answer::Granted(conn)) => Some(self.guard(conn)),
                    _ => None,
                }
            }
            Answer::Cancelled => None, // The flaw: it is still in the queue.
        }
    }

    pub fn waiting(&self) -> usize {
        lock(&self.state).waiters.len()
    }

    fn guard(&self, conn: C) -> Guard<'_, C> {
        Guard { conn: Some(conn), pool: self }
    }
}

/// A connection that is returned when it is dropped.
pub struct Guard<'a, C> {
    conn: Option<C>,
    pool: &'a Forgetful<C>,
}

impl<C> Drop for Guard<'_, C> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let mut state = lock(&self.pool.state);
        match state.waiters.pop_front() {
            Some(first) => first.grant(conn),
            None => state.idle.push(conn),
        }
    }
}
