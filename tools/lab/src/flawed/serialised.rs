//! The flaw: **a lock held across the driver's close**. Each connection has a state that
//! changes under a close mutex: idle, busy, closing, closed. The variants differ in how
//! many connections share a mutex, and in whether the driver's close runs under it.
//!
//! The rest is correct, but reduced to what the scenario needs: all connections are open
//! from the start, and no caller waits for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Where the driver's close runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Under one close mutex for all connections.
    OneLock,
    /// Under the connection's own close mutex.
    LockEach,
    /// After the connection's own close mutex is released, as in fairpool.
    Outside,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Busy,
    Closing,
    Closed,
}

pub struct Conn<C> {
    state: Mutex<State>,
    value: Mutex<Option<C>>,
}

/// Waits for a close mutex of 10 µs or longer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocked {
    pub times: u32,
    pub longest: Duration,
    pub total: Duration,
}

type Caller = fn(&mut Meter) -> &mut Blocked;

#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// The total time for which close mutexes were held.
    pub held: Duration,
    pub getters: Blocked,
    pub returners: Blocked,
    pub closers: Blocked,
}

pub struct Serialised<C> {
    way: Way,
    all: Mutex<()>,
    idle: Mutex<Vec<Arc<Conn<C>>>>,
    meter: Mutex<Meter>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C> Serialised<C> {
    pub fn new(way: Way, values: impl IntoIterator<Item = C>) -> Serialised<C> {
        let conn = |value| {
            let (state, value) = (Mutex::new(State::Idle), Mutex::new(Some(value)));
            Arc::new(Conn { state, value })
        };
        let idle = Mutex::new(values.into_iter().map(conn).collect());
        Serialised { way, all: Mutex::new(()), idle, meter: Mutex::new(Meter::default()) }
    }

    pub fn get(&self) -> Option<Arc<Conn<C>>> {
        let conn = lock(&self.idle).pop()?;
        self.step(&conn, |meter| &mut meter.getters, |state| *state = State::Busy);
        Some(conn)
    }

    pub fn put(&self, conn: Arc<Conn<C>>) {
        let kept = self.step(
            &conn,
            |meter| &mut meter.returners,
            |state| {
                let kept = *state == State::Busy;
                *state = if kept { State::Idle } else { *state };
                kept
            },
        );
        // Otherwise it is closed or being closed.
        if kept {
            lock(&self.idle).push(conn);
        }
    }

    /// Closes a connection, even if it is in use, unless another thread does.
    pub fn close(&self, conn: &Conn<C>) {
        let value = self.step(
            conn,
            |meter| &mut meter.closers,
            |state| {
                if matches!(*state, State::Closing | State::Closed) {
                    return None;
                }
                *state = State::Closing;
                let value = lock(&conn.value).take();
                if self.way == Way::Outside {
                    return value;
                }
                drop(value); // The flaw: the driver closes under the lock.
                *state = State::Closed;
                None
            },
        );
        if value.is_some() {
            drop(value);
            self.step(conn, |meter| &mut meter.closers, |state| *state = State::Closed);
        }
    }

    pub fn meter(&self) -> Meter {
        *lock(&self.meter)
    }

    /// Changes the state under the close mutex, and records the wait for it.
    fn step<R>(&self, conn: &Conn<C>, caller: Caller, step: impl FnOnce(&mut State) -> R) -> R {
        let (begun, mut waited) = (Instant::now(), false);
        let mut enter = |free: bool| waited |= !free;
        let shared = (self.way == Way::OneLock).then(|| {
            enter(!matches!(self.all.try_lock(), Err(TryLockError::WouldBlock)));
            lock(&self.all)
        });
        enter(!matches!(conn.state.try_lock(), Err(TryLockError::WouldBlock)));
        let mut state = lock(&conn.state);
        let (entered, blocked_for) = (Instant::now(), begun.elapsed());
        let result = step(&mut state);
        let held = entered.elapsed();
        drop((state, shared));
        let mut meter = lock(&self.meter);
        meter.held += held;
        if waited && blocked_for >= Duration::from_micros(10) {
            let blocked = caller(&mut meter);
            blocked.times += 1;
            blocked.total += blocked_for;
            blocked.longest = blocked.longest.max(blocked_for);
        }
        result
    }
}
