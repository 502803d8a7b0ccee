//! The pools of this process: each with its defaults and a driver that does nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use fairpool_bench::stub::Stub;

/// What every contestant can do.
pub trait Lender: Clone + Send + 'static {
    type Lent: Send;

    /// All its connections are open when it returns.
    fn open(connections: u32) -> Self;

    /// `None` if there was none in time.
    fn get(&self, timeout: Duration) -> Option<Self::Lent>;
}

impl Lender for fairpool::Pool<Stub> {
    type Lent = fairpool::PooledConnection<Stub>;

    fn open(connections: u32) -> Self {
        let pool = fairpool::Pool::builder().max_size(connections).build(Stub);
        let pool = pool.expect("the stub never fails");
        assert_eq!(pool.state().idle_connections, connections);
        pool
    }

    fn get(&self, timeout: Duration) -> Option<Self::Lent> {
        self.get_timeout(timeout).ok()
    }
}

impl Lender for r2d2::Pool<Stub> {
    type Lent = r2d2::PooledConnection<Stub>;

    fn open(connections: u32) -> Self {
        let pool = r2d2::Pool::builder().max_size(connections).build(Stub);
        let pool = pool.expect("the stub never fails");
        assert_eq!(pool.state().idle_connections, connections);
        pool
    }

    fn get(&self, timeout: Duration) -> Option<Self::Lent> {
        self.get_timeout(timeout).ok()
    }
}

/// A number behind a lock: the least that a pool could be.
#[derive(Clone)]
pub struct Semaphore(Arc<(Mutex<u32>, Condvar)>);

pub struct Permit(Semaphore);

impl Lender for Semaphore {
    type Lent = Permit;

    fn open(connections: u32) -> Self {
        Semaphore(Arc::new((Mutex::new(connections), Condvar::new())))
    }

    fn get(&self, timeout: Duration) -> Option<Permit> {
        let (lock, condvar) = &*self.0;
        let (end, mut free) = (Instant::now() + timeout, lock.lock());
        while *free == 0 {
            if condvar.wait_until(&mut free, end).timed_out() && *free == 0 {
                return None;
            }
        }
        *free -= 1;
        Some(Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (lock, condvar) = &*self.0.0;
        *lock.lock() += 1;
        condvar.notify_one();
    }
}
