//! The pools that are looked at.

use crate::metrics::Reading;
use crate::snapshot::WeakPool;
use crate::sync::{Arc, PlainMutex};

/// A list of pools; gone ones leave it.
#[derive(Default)]
pub(super) struct Pools(PlainMutex<List>);

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    added: u64,
}

#[derive(Clone)]
struct Entry {
    id: u64,
    name: Arc<str>,
    watch: WeakPool,
}

/// What a look at one of them has brought.
pub(super) struct Seen {
    /// No other has had it, or will.
    #[cfg_attr(not(feature = "opentelemetry"), expect(dead_code))]
    pub(super) id: u64,
    /// No other that lives has it.
    pub(super) name: Arc<str>,
    pub(super) reading: Reading,
}

impl Pools {
    pub(super) fn of(watches: impl IntoIterator<Item = WeakPool>) -> Pools {
        let pools = Pools::default();
        watches.into_iter().for_each(|watch| pools.add(watch));
        pools
    }

    /// A pool that is there already is not added again.
    pub(super) fn add(&self, watch: WeakPool) {
        let mut list = self.0.lock();
        list.entries.retain(|entry| !entry.watch.is_gone());
        if list.entries.iter().any(|entry| entry.watch.is_of_same_pool(&watch)) {
            return;
        }
        list.added += 1;
        let entry = Entry { id: list.added, name: list.free_name(watch.name()), watch };
        list.entries.push(entry);
    }

    pub(super) fn look(&self) -> Vec<Seen> {
        let entries = {
            let mut list = self.0.lock();
            list.entries.retain(|entry| !entry.watch.is_gone());
            list.entries.clone()
        };
        let seen = entries.into_iter().filter_map(|Entry { id, name, watch }| {
            Some(Seen { id, name, reading: watch.pool()?.reading() })
        });
        seen.collect()
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.0.lock().entries.iter().map(|entry| Arc::clone(&entry.name)).collect()
    }
}

impl List {
    fn free_name(&self, name: &str) -> Arc<str> {
        let is_free = |name: &str| self.entries.iter().all(|entry| &*entry.name != name);
        if is_free(name) {
            return name.into();
        }
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        numbered.into_iter().find(|name| is_free(name)).expect("BUG: numbers do not end").into()
    }
}
