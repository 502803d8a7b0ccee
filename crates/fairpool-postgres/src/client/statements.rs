//! The statements that a connection keeps prepared, by their texts.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lru::LruCache;

use super::backend::Backends;
use super::rules::Rules;
use super::statement::Statement;

/// How many statements a connection keeps unless the manager says otherwise.
pub(super) const DEFAULT_SIZE: usize = 256;

/// Longer texts are not kept. They are mostly built for one call, such as an INSERT of many rows.
const LONGEST_TEXT: usize = 16 * 1024;

/// What the connections of one manager did with statements that they keep prepared, since it was
/// made. From
/// [`PostgresConnectionManager::statements`](crate::PostgresConnectionManager::statements).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StatementCounts {
    /// Calls whose statement was prepared already: each spared a round trip.
    pub hits: u64,
    /// Statements that were prepared, and kept.
    pub prepared: u64,
    /// Statements that gave way to others because the connection had as many as it may keep.
    pub evicted: u64,
    /// How often a change of the schema, or the loss of a statement, made all connections prepare
    /// theirs anew.
    pub invalidated: u64,
}

/// What all connections of a manager share.
#[derive(Debug, Default)]
pub(crate) struct SharedStatements {
    /// Statements of earlier epochs are not used any more.
    epoch: AtomicU64,
    hits: AtomicU64,
    prepared: AtomicU64,
    evicted: AtomicU64,
    /// The sessions change under the connections, so that nothing can be kept on them.
    is_off: AtomicBool,
}

impl SharedStatements {
    pub(crate) fn counts(&self) -> StatementCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatementCounts {
            hits: read(&self.hits),
            prepared: read(&self.prepared),
            evicted: read(&self.evicted),
            invalidated: read(&self.epoch),
        }
    }

    /// From now on no connection keeps statements.
    pub(super) fn switch_off(&self) {
        self.is_off.store(true, Ordering::Relaxed);
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The statements that one connection keeps, the last used ones if there are too many.
pub(super) struct Statements {
    shared: Arc<SharedStatements>,
    backends: Arc<Backends>,
    /// Of the statements in here.
    epoch: u64,
    /// `None`: it keeps none.
    entries: Option<LruCache<Arc<str>, Statement>>,
}

impl Statements {
    pub(super) fn new(rules: &Rules) -> Self {
        let (shared, backends) = (Arc::clone(&rules.statements), Arc::clone(&rules.backends));
        let epoch = shared.epoch.load(Ordering::Relaxed);
        let entries = NonZeroUsize::new(rules.statement_cache).map(LruCache::new);
        Self { shared, backends, epoch, entries }
    }

    /// Whether a statement of this text may be kept, now.
    pub(super) fn takes(&self, sql: &str) -> bool {
        self.entries.is_some()
            && sql.len() <= LONGEST_TEXT
            && !self.shared.is_off.load(Ordering::Relaxed)
            && !self.backends.are_shared()
    }

    /// The epoch of what is prepared now.
    pub(super) fn epoch(&mut self) -> u64 {
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        if self.epoch != epoch {
            self.epoch = epoch;
            self.clear();
        }
        epoch
    }

    /// Whether a statement that its user has kept is one of those that are prepared now.
    pub(super) fn is_current(&mut self, statement: &Statement) -> bool {
        statement.epoch() == Some(self.epoch()) && self.takes(statement.sql())
    }

    pub(super) fn get(&mut self, sql: &str) -> Option<Statement> {
        if !self.takes(sql) {
            return None;
        }
        self.epoch();
        let found = self.entries.as_mut()?.get(sql).cloned();
        if found.is_some() {
            SharedStatements::count(&self.shared.hits);
        }
        found
    }

    /// Keeps a statement. The server closes the one that gives way with the next message that it
    /// gets: no round trip.
    pub(super) fn keep(&mut self, statement: &Statement) {
        let Some(entries) = &mut self.entries else { return };
        SharedStatements::count(&self.shared.prepared);
        let sql = statement.sql();
        if entries.push(Arc::clone(sql), statement.clone()).is_some_and(|(old, _)| old != *sql) {
            SharedStatements::count(&self.shared.evicted);
        }
    }

    pub(super) fn forget(&mut self, sql: &str) {
        if let Some(entries) = &mut self.entries {
            entries.pop(sql);
        }
    }

    /// Forgets all of this connection's.
    pub(super) fn clear(&mut self) {
        if let Some(entries) = &mut self.entries {
            entries.clear();
        }
    }

    /// Ends the epoch of this statement, for all connections; once, if several come at the same
    /// time.
    pub(super) fn end_epoch_of(&mut self, statement: &Statement) {
        if let Some(epoch) = statement.epoch() {
            let relaxed = Ordering::Relaxed;
            let _ = self.shared.epoch.compare_exchange(epoch, epoch + 1, relaxed, relaxed);
        }
        self.epoch();
    }
}
