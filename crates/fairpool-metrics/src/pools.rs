//! The pools that an exporter reads.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairpool::WeakPool;
use fairpool::stats::Reading;

/// A list of pools, each with a name that no other living pool in the list has.
///
/// It keeps no pool alive; a pool that is gone leaves the list, at the latest when the next one
/// is added, so the list does not grow with pools that come and go. Clones share the list.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool_metrics::Pools;
///
/// let build = || fairpool::Pool::builder().name("orders").build(StubManager);
/// let (first, second) = (build()?, build()?);
/// let pools = Pools::new([first.downgrade(), second.downgrade()]);
/// let names: Vec<_> = pools.read().into_iter().map(|pool| pool.name).collect();
/// assert_eq!(names, ["orders".into(), "orders-2".into()]);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Pools(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    added: u64,
}

#[derive(Clone)]
struct Entry {
    id: u64,
    name: Arc<str>,
    pool: WeakPool,
}

/// All metrics of one pool at one instant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolReading {
    /// The pool's number in its list. Unlike a name, a number is never used again.
    pub id: u64,
    /// The pool's unique name: the value of the attribute
    /// [`POOL_NAME`](crate::POOL_NAME).
    pub name: Arc<str>,
    /// What the pool counted and timed.
    pub reading: Reading,
}

impl Pools {
    /// A list of these pools.
    pub fn new(pools: impl IntoIterator<Item = WeakPool>) -> Pools {
        let list = Pools::default();
        pools.into_iter().for_each(|pool| list.add(pool));
        list
    }

    /// Adds a pool, unless it is already in the list.
    pub fn add(&self, pool: WeakPool) {
        let mut list = self.lock();
        if list.entries.iter().any(|entry| entry.pool.ptr_eq(&pool)) {
            return;
        }
        list.added += 1;
        let entry = Entry { id: list.added, name: list.free_name(pool.name()), pool };
        list.entries.push(entry);
    }

    /// Reads each pool, in the order in which they were added.
    ///
    /// # Blocking
    ///
    /// On each pool's lock, as long as it takes to copy its counters. If the last handle of
    /// a pool is dropped while the pool is read, its manager is dropped here.
    pub fn read(&self) -> Vec<PoolReading> {
        // The list is not locked while a pool is read: dropping a manager runs user code.
        let entries = self.lock().entries.clone();
        let read = |Entry { id, name, pool }: Entry| {
            pool.reading().map(|reading| PoolReading { id, name, reading })
        };
        entries.into_iter().filter_map(read).collect()
    }

    /// The list, without the pools that are gone.
    fn lock(&self) -> MutexGuard<'_, List> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.entries.retain(|entry| !entry.pool.is_gone());
        list
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().entries.iter().map(|entry| &entry.name)).finish()
    }
}

impl List {
    fn free_name(&self, name: &str) -> Arc<str> {
        // A set: a process may have hundreds of pools, all with the default name.
        let taken: HashSet<&str> = self.entries.iter().map(|entry| &*entry.name).collect();
        if !taken.contains(name) {
            return name.into();
        }
        let mut numbered = (2_u64..).map(|number| format!("{name}-{number}"));
        numbered.find(|name| !taken.contains(&**name)).expect("BUG: numbers do not end").into()
    }
}

#[cfg(test)]
mod tests {
    use fairpool::Pool;
    use fairpool_testing::StubManager;

    use super::*;

    #[test]
    fn a_list_that_nobody_reads_does_not_grow_with_pools_that_come_and_go() {
        let pools = Pools::default();
        for _ in 0..100 {
            let pool = Pool::builder().max_size(1).build(StubManager).expect("a stub");
            let watch = pool.downgrade();
            pools.add(watch.clone());
            drop(pool);
            while !watch.is_gone() {
                std::thread::yield_now();
            }
        }
        let entries = pools.0.lock().expect("nobody panicked").entries.len();
        assert_eq!(entries, 1, "the last has gone since it was added");
    }
}
