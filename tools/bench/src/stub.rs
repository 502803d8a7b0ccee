//! A driver that costs nothing, and the pools of this process that use it.

use std::convert::Infallible;
use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::thread;

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::Backoff;
use parking_lot::Mutex;

use crate::cell::Hold;
use crate::pass::Source;

/// A manager for fairpool and for r2d2 whose connections are numbers.
pub struct Stub;

impl fairpool::ManageConnection for Stub {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

impl r2d2::ManageConnection for Stub {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

#[inline]
fn touch(conn: &mut impl DerefMut<Target = u64>, hold: Hold) {
    **conn += 1;
    hold.spend();
}

/// fairpool.
pub struct Fairpool(fairpool::Pool<Stub>);

impl Fairpool {
    /// A pool with the defaults that `configure` does not change. All its connections
    /// are open.
    pub fn new(
        connections: u32,
        configure: impl FnOnce(fairpool::Builder<Stub>) -> fairpool::Builder<Stub>,
    ) -> Fairpool {
        let builder = configure(fairpool::Pool::builder().max_size(connections));
        let pool = builder.build(Stub).expect("the stub never fails");
        assert_eq!(pool.state().idle_connections, connections);
        Fairpool(pool)
    }

    /// A reference that does not keep the pool alive.
    pub fn downgrade(&self) -> fairpool::WeakPool {
        self.0.downgrade()
    }
}

impl Source for Fairpool {
    type Conn<'a> = fairpool::PooledConnection<Stub>;

    #[inline]
    fn get(&self) -> Self::Conn<'_> {
        self.0.get().expect("the stub never fails")
    }

    #[inline]
    fn work(&self, conn: &mut Self::Conn<'_>, hold: Hold) {
        touch(conn, hold);
    }
}

/// r2d2.
pub struct R2d2(r2d2::Pool<Stub>);

impl R2d2 {
    /// A pool with r2d2's defaults, all its connections open. `ping` is the check before
    /// each use, which r2d2 does by default.
    pub fn new(connections: u32, ping: bool) -> R2d2 {
        let builder = r2d2::Pool::builder().max_size(connections).test_on_check_out(ping);
        let pool = builder.build(Stub).expect("the stub never fails");
        assert_eq!(pool.state().idle_connections, connections);
        R2d2(pool)
    }
}

impl Source for R2d2 {
    type Conn<'a> = r2d2::PooledConnection<Stub>;

    #[inline]
    fn get(&self) -> Self::Conn<'_> {
        self.0.get().expect("the stub never fails")
    }

    #[inline]
    fn work(&self, conn: &mut Self::Conn<'_>, hold: Hold) {
        touch(conn, hold);
    }
}

/// A store of connections without a queue. A thread that finds it empty spins.
pub trait Store: Sync {
    /// Takes a connection; spins until there is one.
    fn take(&self) -> u64;
    /// Puts a connection back.
    fn put(&self, conn: u64);
}

/// A connection of a [`Store`], which goes back when it is dropped.
pub struct Taken<'a, S: Store> {
    store: &'a S,
    conn: u64,
}

impl<S: Store> Deref for Taken<'_, S> {
    type Target = u64;

    fn deref(&self) -> &u64 {
        &self.conn
    }
}

impl<S: Store> DerefMut for Taken<'_, S> {
    fn deref_mut(&mut self) -> &mut u64 {
        &mut self.conn
    }
}

impl<S: Store> Drop for Taken<'_, S> {
    #[inline]
    fn drop(&mut self) {
        self.store.put(black_box(self.conn));
    }
}

/// A [`Store`] as a pool.
pub struct Spinning<S: Store>(S);

impl<S: Store> Source for Spinning<S> {
    type Conn<'a>
        = Taken<'a, S>
    where
        S: 'a;

    #[inline]
    fn get(&self) -> Taken<'_, S> {
        Taken { store: &self.0, conn: self.0.take() }
    }

    #[inline]
    fn work(&self, conn: &mut Taken<'_, S>, hold: Hold) {
        touch(conn, hold);
    }
}

/// A `Mutex<Vec>`: the least that a pool could be.
pub struct BareMutex(Mutex<Vec<u64>>);

impl BareMutex {
    /// A store with this number of connections.
    pub fn new(connections: u32) -> Spinning<BareMutex> {
        Spinning(BareMutex(Mutex::new(vec![0; connections as usize])))
    }
}

impl Store for BareMutex {
    #[inline]
    fn take(&self) -> u64 {
        loop {
            match self.0.lock().pop() {
                Some(conn) => return conn,
                None => thread::yield_now(),
            }
        }
    }

    #[inline]
    fn put(&self, conn: u64) {
        self.0.lock().push(conn);
    }
}

/// crossbeam's `ArrayQueue`: the same without a lock.
pub struct Queue(ArrayQueue<u64>);

impl Queue {
    /// A store with this number of connections.
    pub fn new(connections: u32) -> Spinning<Queue> {
        let queue = ArrayQueue::new(connections as usize);
        (0..connections).for_each(|_| queue.push(0).expect("there is room"));
        Spinning(Queue(queue))
    }
}

impl Store for Queue {
    #[inline]
    fn take(&self) -> u64 {
        let backoff = Backoff::new();
        loop {
            match self.0.pop() {
                Some(conn) => return conn,
                None => backoff.snooze(),
            }
        }
    }

    #[inline]
    fn put(&self, conn: u64) {
        self.0.push(conn).expect("there is room");
    }
}
